"""``rank-lab plan``."""

from pathlib import Path
from typing import Annotated

import typer

from rank_lab.verbs.options import Allocation, AsJson, Budget, Energy, Modules, Most, Study, WithRounding

__all__ = ["plan"]


def plan(
    study: Study,
    budget: Budget = None,
    energy: Energy = None,
    run: Annotated[str | None, typer.Option(help="Which, where the study has several.")] = None,
    step: Annotated[int | None, typer.Option(help="Of its checkpoint; default the last.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File .json, or folder; default beside the report.")
    ] = None,
    method: Allocation = "greedy",
    most: Most = None,
    with_rounding: WithRounding = False,
    modules: Modules = False,
    as_json: AsJson = False,
) -> None:
    """Ranks per module under a budget of parameters or for a share of the energy, and the PEFT config of them.

    Example: rank-lab plan study/ --run tuned --budget 2000000
    """
    from rank_lab.budget_command import RankOptions, plan_and_print

    options = RankOptions(budget, energy, method=method, most=most, with_rounding=with_rounding)
    missed = plan_and_print(study, options, run=run, step=step, out=out, modules=modules, as_json=as_json)
    raise typer.Exit(1 if missed else 0)
