"""``rank-lab show``."""

from typing import Annotated

import typer

from rank_lab.verbs.options import Study

__all__ = ["show"]


def show(
    study: Study,
    modules: Annotated[bool, typer.Option("--modules", help="One line per matrix.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Print coverage and ranks, worst coverage first, and the curve of a schedule.

    Example: rank-lab show study/ --modules
    """
    from rank_lab.commands import show_study

    show_study(study, modules=modules, as_json=as_json)
