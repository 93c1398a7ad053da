"""``rank-lab fold``."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["fold"]


def fold(
    adapter: Annotated[str, typer.Argument(help="A SoRA adapter: folder or hub id.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the plain LoRA adapter.")],
    model: Annotated[
        str | None, typer.Option("--model", help="Its base: also compare the outputs of the whole model.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Write a SoRA adapter as an ordinary LoRA adapter, which loads where rank_lab is not installed.

    Example: rank-lab fold sora-adapter/ -o lora-adapter/ --model base/
    """
    from rank_lab.sora.fold_command import fold_and_print

    fold_and_print(adapter, out, model, as_json=as_json)
