"""The demonstration: the main job, end to end, on a real model and real text of every machine."""

import json
import shlex
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from rich.progress import Progress

from rank_lab.commands import Choices, analyze_runs, console, progress_bar
from rank_lab.demo.adapt import BASE, SAVE_AT, Adaptation, adapt_full, adapt_lora
from rank_lab.errors import RankLabError
from rank_lab.plain_table import PlainTable
from rank_lab.plain_text import plain

__all__ = ["run_demo"]

_MARK = "demo.json"


def run_demo(study: Path, *, steps: int = 200) -> None:
    """Fine-tune the shipped base on code by full fine-tuning and by LoRA, then analyse and show both.

    Parameters
    ----------
    study
        Receives the checkpoints (``full/``, ``lora/``), the reports (``full.rank``,
        ``lora.rank``) and ``demo.json`` with losses and seeds.
    steps
        Optimizer steps of each.

    Raises
    ------
    RankLabError
        If the folder holds something else than an earlier demo.
    """
    _clear(study)
    screen = console()
    screen.print(
        f"\nA Llama of 0.9 M parameters that has read English prose only ({BASE}) is taught Python code,\n"
        f"{steps} steps of full fine-tuning and {steps} of LoRA (r = 8, all linear layers), on the same batches.\n"
    )
    save_at = sorted({step for step in SAVE_AT if step < steps} | {steps})
    with progress_bar() as bar:
        runs = [
            adapt(BASE, study / name, steps=steps, save_at=save_at, progress=_advance(bar, name, steps))
            for name, adapt in (("full", adapt_full), ("lora", adapt_lora))
        ]
    _record(study, runs)
    screen.print(_learned(runs))
    for name in ("full", "lora"):
        analyze_runs([str(study / name)], str(BASE), study, Choices())
    shown = plain(shlex.quote(str(study)))
    screen.print(
        "\nOne learning rate and one seed each: this shows the tool, not which method is better.\n"
        f"Look closer:  rank-lab show {shown} --modules      Take it along:  rank-lab export {shown} -o tables/"
    )


def _advance(bar: Progress, name: str, steps: int) -> Callable[[int, int], None]:
    task = bar.add_task(f"training {name}", total=steps)
    return lambda done, _: bar.update(task, completed=done)


def _clear(study: Path) -> None:
    if not study.exists():
        study.mkdir(parents=True)
    elif any(study.iterdir()) and not (study / _MARK).is_file():
        raise RankLabError(f"{study}: holds something else than an earlier demo; give an empty folder with -o.")
    (study / _MARK).write_text("{}\n", encoding="utf-8")
    for name in ("full", "lora", "full.rank", "lora.rank"):
        shutil.rmtree(study / name, ignore_errors=True)


def _record(study: Path, runs: list[Adaptation]) -> None:
    content = {run.method: asdict(run) | {"folder": run.folder.name} for run in runs}
    (study / _MARK).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _learned(runs: list[Adaptation]) -> PlainTable:
    table = PlainTable(title="loss on held-out text, nats per token", title_justify="left")
    for name in ("run", "step", "code (learned)", "prose (forgotten)"):
        table.add_column(name, justify="left" if name == "run" else "right")
    table.add_row("base", "0", f"{runs[0].before.code:.3f}", f"{runs[0].before.prose:.3f}")
    for run in runs:
        for losses in run.losses[1:]:
            changes = (losses.code - run.before.code, losses.prose - run.before.prose)
            table.add_row(
                run.method,
                str(losses.step),
                f"{losses.code:.3f} ({changes[0]:+.3f})",
                f"{losses.prose:.3f} ({changes[1]:+.3f})",
            )
    return table
