"""Options that several verbs have in common, and the panels of the help that they stand in."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "DATA", "RANKS", "STEPS", "Allocation", "Alpha", "AsJson", "BaseRounded", "Budget", "Energy", "InitialAdapter",
    "Modules", "Most", "SplitFused", "Study", "WithRounding",
]  # fmt: skip

RANKS, STEPS, DATA = "How ranks are chosen", "Training", "The task"

Study = Annotated[Path, typer.Argument(help="A study (folder of reports) or one report, NAME.rank.")]

Alpha = Annotated[float | None, typer.Option(help="Alpha of LoRA files that do not record it (loralib, torchtune).")]
SplitFused = Annotated[
    bool, typer.Option("--split-fused", help="Take fused weights (qkv, gate and up) of full checkpoints apart.")
]
InitialAdapter = Annotated[
    str | None, typer.Option(help="The adapter as it was saved before training (PiSSA, CorDA, LoRA-GA ...).")
]
BaseRounded = Annotated[
    bool, typer.Option("--base-rounded", help="The base file is a rounded copy of what training started from.")
]

Budget = Annotated[int | None, typer.Option(help="Parameters of all factors together.", rich_help_panel=RANKS)]
Energy = Annotated[
    float | None, typer.Option(help="Share of the squared norm to keep, e.g. 0.9.", rich_help_panel=RANKS)
]
Allocation = Annotated[
    str,
    typer.Option(
        help="greedy (most kept for the parameters), uniform or per_layer (one share each).", rich_help_panel=RANKS
    ),
]
Most = Annotated[int | None, typer.Option(help="Largest rank of a module.", rich_help_panel=RANKS)]
WithRounding = Annotated[
    bool,
    typer.Option(
        "--with-rounding", help="Also directions that the rounding of the files explains.", rich_help_panel=RANKS
    ),
]
Modules = Annotated[bool, typer.Option("--modules", help="One line per matrix.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print as JSON.")]
