"""The command line: one function per verb; each parses, calls and prints."""

import os
import sys
from pathlib import Path
from typing import Annotated

# Read by OpenMP when torch is loaded: spinning threads cost a factor of five on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import typer

from rank_lab.errors import RankLabError
from rank_lab.plain_text import plain

__all__ = ["app", "main"]

app = typer.Typer(
    name="rank-lab",
    help="What fine-tuning changed: spectra and effective ranks of weight updates, each beside its null.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_INTERRUPTED = 130  # typer leaves with it on Ctrl-C, after which nothing of its own is printed

Study = Annotated[Path, typer.Argument(help="A study (folder of reports) or one report, NAME.rank.")]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False) -> None:
    if version:
        from rank_lab import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.command()
def analyze(
    tuned: Annotated[
        list[str],
        typer.Argument(
            help="Full checkpoint, adapter of any known format, hub id, or a trainer's folder of checkpoint-*."
        ),
    ],
    study: Annotated[Path, typer.Option("--study", "-o", help="Folder for the reports.")],
    base: Annotated[str | None, typer.Option(help="What it was tuned from; LoRA factors need none.")] = None,
    name: Annotated[str, typer.Option(help="Name of the run; default the folder's.")] = "",
    method: Annotated[str, typer.Option(help="auto, gram, svd or randomized.")] = "auto",
    k: Annotated[int | None, typer.Option(min=1, help="Number of values for --method randomized.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    noise: Annotated[
        str, typer.Option(help="off, rounding (a test where it matters) or full (also against i.i.d. noise).")
    ] = "rounding",
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 for as many as cores where that pays.")] = 0,
    lora_alpha: Annotated[
        float | None, typer.Option(help="Alpha of LoRA files that do not record it (loralib, torchtune).")
    ] = None,
    split_fused: Annotated[
        bool, typer.Option("--split-fused", help="Take fused weights (qkv, gate and up) of full checkpoints apart.")
    ] = False,
    initial_adapter: Annotated[
        str | None, typer.Option(help="The adapter as it was saved before training (PiSSA, CorDA, LoRA-GA ...).")
    ] = None,
    base_rounded: Annotated[
        bool, typer.Option("--base-rounded", help="The base file is a rounded copy of what training started from.")
    ] = False,
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


@app.command()
def show(
    study: Study,
    modules: Annotated[bool, typer.Option("--modules", help="One line per matrix.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Print coverage and ranks, worst coverage first.

    Example: rank-lab show study/ --modules
    """
    from rank_lab.commands import show_study

    show_study(study, modules=modules, as_json=as_json)


@app.command()
def export(
    study: Study,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the files.")],
    formats: Annotated[
        list[str] | None, typer.Option("--format", "-f", help="csv, json or parquet; may be repeated; default all.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the paths as JSON.")] = False,
) -> None:
    """Write updates, spectra and coverage as CSV, JSON and Parquet.

    Example: rank-lab export study/ -o tables/ -f csv
    """
    from rank_lab.commands import export_study

    export_study(study, out, formats, as_json=as_json)


@app.command()
def demo(
    study: Annotated[Path, typer.Option("--study", "-o", help="Folder for everything that the demo makes.")] = Path(
        "demo-study"
    ),
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of each fine-tuning.")] = 200,
) -> None:
    """Fine-tune a small real model in two ways, then analyse and show both; about a minute.

    Example: rank-lab demo -o demo-study/
    """
    from rank_lab.demo.run import run_demo

    run_demo(study, steps=steps)


@app.command()
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


def main() -> None:
    """Entry point: what rank_lab or the system refuses becomes one line and exit code 2."""
    try:
        app()
    except (RankLabError, OSError) as error:
        sys.stderr.write(f"error: {plain(' '.join(_text(error).split()))}\n")
        raise SystemExit(2) from None
    except SystemExit as leaving:
        if leaving.code == _INTERRUPTED:
            sys.stderr.write("stopped; finished updates are kept: run the same command to go on.\n")
        raise


def _text(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}; check the path, its permissions and the free disk space."
    return str(error) or type(error).__name__
