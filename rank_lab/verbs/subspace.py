"""``rank-lab subspace``."""

from pathlib import Path
from typing import Annotated

import typer

from rank_lab.verbs.options import Alpha, BaseRounded, InitialAdapter, SplitFused

__all__ = ["subspace"]


def subspace(
    first: Annotated[str, typer.Argument(help="Full checkpoint, adapter, hub id, or a checkpoint-N of a run.")],
    second: Annotated[str, typer.Argument(help="Another one, of the same base.")],
    study: Annotated[Path, typer.Option("--study", "-o", help="Folder for the report, NAME.subspace.")],
    base: Annotated[
        str | None,
        typer.Option(help="What both were tuned from; adapters need one only for amplification and intruders."),
    ] = None,
    name: Annotated[str, typer.Option(help="Of the comparison; default both runs'.")] = "",
    k: Annotated[int, typer.Option(min=1, max=128, help="Leading directions of each update.")] = 16,
    intruder_k: Annotated[
        int, typer.Option(min=1, max=256, help="Leading directions of the tuned weight looked at for intruders.")
    ] = 64,
    no_intruders: Annotated[bool, typer.Option("--no-intruders", help="Leave them out: they cost the most.")] = False,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 for as many as cores where that pays.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    lora_alpha: Alpha = None,
    second_lora_alpha: Annotated[float | None, typer.Option(help="The same of the second.")] = None,
    split_fused: SplitFused = False,
    initial_adapter: InitialAdapter = None,
    second_initial_adapter: Annotated[str | None, typer.Option(help="The same of the second.")] = None,
    base_rounded: BaseRounded = False,
    modules: Annotated[bool, typer.Option("--modules", help="One line per module.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
) -> None:
    """Compare the directions of two updates: angles, LoRA's phi, amplification, intruder dimensions.

    Example: rank-lab subspace lora/ full/ --base base/ -o study/

    Every number stands beside what random subspaces or white noise of the same size would show.
    """
    from rank_lab.subspace_command import SubspaceChoices, subspace_and_print

    choices = SubspaceChoices(
        name=name, k=k, intruder_k=intruder_k, intruders=not no_intruders, workers=workers, device=device,
        modules=modules, lora_alpha=(lora_alpha, second_lora_alpha), split_fused=split_fused,
        initial_adapter=(initial_adapter, second_initial_adapter), base_rounded=base_rounded,
    )  # fmt: skip
    failed = subspace_and_print(first, second, base, study, choices, as_json=as_json)
    raise typer.Exit(1 if failed else 0)
