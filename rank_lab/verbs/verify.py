"""``rank-lab verify``."""

from typing import Annotated

import typer

from rank_lab.verbs.options import Study

__all__ = ["verify"]


def verify(
    study: Study,
    sample: Annotated[
        int, typer.Option(min=0, help="Rows of each report, of the scores and of the curve; 0 for all.")
    ] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Which rows: the same seed takes the same ones.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON, an entry a row.")] = False,
) -> None:
    """Compute a sample of the numbers again from the recorded inputs; exit code 1 if one differs or an input is gone.

    Example: rank-lab verify study/ --sample 20
    """
    from rank_lab.verify_command import verify_and_print

    if verify_and_print(study, sample=sample, seed=seed, as_json=as_json):
        raise typer.Exit(1)
