"""``rank-lab analyze``."""

from pathlib import Path
from typing import Annotated

import typer

from rank_lab.verbs.options import Alpha, BaseRounded, InitialAdapter, SplitFused

__all__ = ["analyze"]


def analyze(
    tuned: Annotated[
        list[str],
        typer.Argument(
            help="Full checkpoint, adapter of any known format, hub id, or a trainer's folder of checkpoint-*."
        ),
    ],
    study: Annotated[Path, typer.Option("--study", "-o", help="Folder for the reports.")],
    base: Annotated[
        str | None,
        typer.Option(help="What it was tuned from; default what its training.json names. LoRA needs none."),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the run; default the folder's.")] = "",
    method: Annotated[str, typer.Option(help="auto, gram, svd or randomized.")] = "auto",
    k: Annotated[int | None, typer.Option(min=1, help="Number of values for --method randomized.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    noise: Annotated[
        str, typer.Option(help="off, rounding (a test where it matters) or full (also against i.i.d. noise).")
    ] = "rounding",
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 for as many as cores where that pays.")] = 0,
    lora_alpha: Alpha = None,
    split_fused: SplitFused = False,
    initial_adapter: InitialAdapter = None,
    base_rounded: BaseRounded = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
) -> None:
    """Measure the spectra of every update and write a report.

    Example: rank-lab analyze tuned/ --base base/ -o study/

    A run that was stopped goes on where it was: measured updates are kept in
    STUDY/.spectra by content, and a changed input is measured afresh.
    """
    from rank_lab.commands import Choices, analyze_runs

    choices = Choices(
        name=name, method=method, k=k, device=device, noise=noise, workers=workers,
        lora_alpha=lora_alpha, initial_adapter=initial_adapter, split_fused=split_fused,
        base_rounded=base_rounded,
    )  # fmt: skip
    failed = analyze_runs(tuned, base, study, choices, as_json=as_json)
    raise typer.Exit(1 if failed else 0)
