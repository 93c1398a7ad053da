"""``rank-lab extract``."""

from pathlib import Path
from typing import Annotated

import typer

from rank_lab.verbs.options import (
    RANKS,
    Allocation,
    Alpha,
    AsJson,
    BaseRounded,
    Budget,
    Energy,
    InitialAdapter,
    Modules,
    Most,
    WithRounding,
)

__all__ = ["extract"]

_FACTORS = "The adapter"


def extract(
    tuned: Annotated[str, typer.Argument(help="Full checkpoint, or adapter of any known format; folder or hub id.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the LoRA.")],
    base: Annotated[
        str | None, typer.Option(help="What it was tuned from; default what its training.json names.")
    ] = None,
    budget: Budget = None,
    energy: Energy = None,
    rank: Annotated[int | None, typer.Option(help="One rank for all modules.", rich_help_panel=RANKS)] = None,
    plan_file: Annotated[
        Path | None, typer.Option("--plan", help="File that 'rank-lab plan' wrote.", rich_help_panel=RANKS)
    ] = None,
    method: Allocation = "greedy",
    most: Most = None,
    with_rounding: WithRounding = False,
    dtype: Annotated[
        str, typer.Option(help="Of the factors: float32, bfloat16 or float16.", rich_help_panel=_FACTORS)
    ] = "float32",
    device: Annotated[str, typer.Option(help="cpu or cuda.", rich_help_panel=_FACTORS)] = "cpu",
    lora_alpha: Alpha = None,
    initial_adapter: InitialAdapter = None,
    base_rounded: BaseRounded = False,
    modules: Modules = False,
    as_json: AsJson = False,
) -> None:
    """Write the LoRA that keeps most of a change, read it again, and say what it misses.

    Example: rank-lab extract tuned/ --base base/ --energy 0.9 -o lora/
    """
    from rank_lab.budget_command import RankOptions, extract_and_print
    from rank_lab.planned import Settings

    options = RankOptions(
        budget, energy, rank, plan_file, method=method, most=most, with_rounding=with_rounding, dtype=dtype,
        device=device, read=Settings(lora_alpha=lora_alpha, initial=initial_adapter, base_rounded=base_rounded),
    )  # fmt: skip
    extract_and_print(tuned, base, out, options, modules=modules, as_json=as_json)
