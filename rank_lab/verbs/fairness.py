"""``rank-lab fairness``."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["fairness"]


def fairness(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs that finetune made.")],
    train_text: Annotated[
        Path | None, typer.Option(help="JSON lines that were learned, to be looked through for test questions.")
    ] = None,
    test_text: Annotated[Path | None, typer.Option(help="JSON lines of test questions.")] = None,
    train_column: Annotated[str, typer.Option(help="Column of the learned text.")] = "text",
    test_column: Annotated[str, typer.Option(help="Column of the question.")] = "text",
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """What would make a comparison of these runs unfair, with where that was seen.

    Example: rank-lab fairness study/full-1e-5 study/lora-1e-4
    """
    from rank_lab.fairness_command import fairness_and_print

    fairness_and_print(runs, train_text, test_text, train_column=train_column, test_column=test_column, as_json=as_json)
