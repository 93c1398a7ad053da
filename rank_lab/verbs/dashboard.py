"""``rank-lab dashboard``."""

from typing import Annotated

import typer

from rank_lab.verbs.options import Study

__all__ = ["dashboard"]


def dashboard(
    study: Study,
    host: Annotated[str, typer.Option(help="Address to listen on; others than localhost are seen by others.")] = (
        "localhost"
    ),
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Default the first that is free from 8501.")
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only serve; open the address yourself.")] = False,
) -> None:
    """Look at a study in the browser: what was changed where, spectra, comparisons, curves.

    Example: rank-lab dashboard study/

    The study may still be being written: what is new shows by itself.
    """
    from rank_lab.dashboard_command import dashboard_and_wait

    raise typer.Exit(dashboard_and_wait(study, host=host, port=port, browser=not no_browser))
