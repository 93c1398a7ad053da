"""The demonstration: all of rank_lab, end to end, on a real model and real text of every machine."""

import shlex
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoTokenizer
from transformers.utils import logging

from rank_lab.console import console, progress_bar
from rank_lab.curve import Curve, CurveRow
from rank_lab.dashboard_command import dashboard_and_wait
from rank_lab.demo import BASE
from rank_lab.demo.demo_plan import DemoPlan, DemoRun, begin_folder
from rank_lab.demo.findings import ranks_found, scores_found, subspaces_found, sweep_found, training_found
from rank_lab.demo.one_run import BATCH, CONTEXT, compare, score, track, train
from rank_lab.demo.summary import summary_of
from rank_lab.demo.sweep import run_sweep
from rank_lab.demo.task_files import Texts, texts_sha256, write_texts
from rank_lab.durable import write_whole
from rank_lab.export_command import write_export
from rank_lab.pictures import no_pictures
from rank_lab.score_table import SCORES_FILE, ScoreTable
from rank_lab.study_outcomes import study_outcomes
from rank_lab.tasks import Task, TaskData, encoded

__all__ = ["EXPORT", "SUMMARY_FILE", "run_demo"]

EXPORT = "export"
"""Folder of what is exported."""

SUMMARY_FILE = "summary.md"
"""What a demo's runs show and what they do not."""

_EXPORTED = ("csv", "parquet", "latex", "html")
_CODE = Task("code", "causal", ("text",), "", "token_accuracy")


def run_demo(study: Path, plan: DemoPlan | None = None, *, browser: bool = False) -> None:
    """Fine-tune the shipped base on code in six ways, and look at them with all that rank_lab has.

    Stopped at whatever moment and called again, it goes on.

    Parameters
    ----------
    study
        Receives the text, a folder and a report of each run, scores, the curve of the sweep, the files of an export
        (``export/``) and :data:`SUMMARY_FILE`.
    plan
        Sizes.
    browser
        Whether to open the dashboard in the end, where there is a terminal and a screen; then it returns when the user
        ends it.

    Raises
    ------
    RankLabError
        If the folder holds something else, or a demo with other settings.
    """
    plan = plan or DemoPlan()
    begin_folder(study, plan, texts_sha256())
    _print(_opening(study, plan))
    began = time.monotonic()
    _print(f"\n{_made(study, plan)}\n\n{time.monotonic() - began:.0f} s. Look closer: {_program()} show {study}")
    if browser and sys.stdout.isatty():
        dashboard_and_wait(study)
    else:
        _print(f"See it: {_program()} dashboard {study}")


def _program() -> str:
    """What starts rank_lab from here: ``make demo`` leaves the path as it was."""
    return "rank-lab" if shutil.which("rank-lab") else shlex.join([sys.executable, "-m", "rank_lab"])


def _made(study: Path, plan: DemoPlan) -> str:
    """All of it, and its summary."""
    told = _Told(3 * len(plan.runs) + 3)
    with _quiet_libraries():
        with _advancing("text"):
            texts = write_texts(study / "text", pieces=plan.pieces, documents=plan.documents)
            data = encoded(_CODE, texts.folder, AutoTokenizer.from_pretrained(BASE), max_length=CONTEXT, packed=True)
        for run in plan.runs:
            _one_run(run, plan, data, texts, study, told)
        with _advancing("subspaces") as advance:
            subspaces = compare(*plan.compared, study, advance)
        told.line("subspaces", subspaces_found(subspaces))
        curve = _sweep(plan, data, study, told)
    files = write_export(study, study / EXPORT, (*_EXPORTED, *(() if no_pictures() else ("svg",))))
    told.line("export", f"{len(files)} files in {study / EXPORT}, what each is in its README.md")
    summary = summary_of(study_outcomes(study), curve, plan).text()
    write_whole(study / SUMMARY_FILE, summary + "\n")
    return summary


def _print(text: str) -> None:
    console().print(text, highlight=False, markup=False)


def _opening(study: Path, plan: DemoPlan) -> str:
    return (
        "\nA Llama of 0.9 M parameters that has read English prose only is taught Python code: three methods, two\n"
        f"learning rates each, {plan.steps} steps of {BATCH} x {CONTEXT} tokens. All of it goes to {study}; once\n"
        "stopped, the same command goes on.\n"
    )


def _one_run(run: DemoRun, plan: DemoPlan, data: TaskData, texts: Texts, study: Path, told: "_Told") -> None:
    with _advancing(f"{run.name}: training") as advance:
        done = train(run, plan, data, study, advance)
    told.line(run.name, f"training: {training_found(done)}")
    with _advancing(f"{run.name}: ranks") as advance:
        report = track(run, study, advance)
    told.line(run.name, f"ranks: {ranks_found(report.updates)}")
    score(run, study, texts)
    told.line(run.name, f"scores: {scores_found(ScoreTable.load(study / SCORES_FILE), run.name)}")


def _sweep(plan: DemoPlan, data: TaskData, study: Path, told: "_Told") -> Curve:
    rows: list[CurveRow] = []
    with _advancing("sweep of thresholds") as advance:

        def row_done(row: CurveRow) -> None:
            rows.append(row)
            advance(len({each.stage for each in rows}), len(plan.sweep.thresholds))

        curve = run_sweep(plan.sweep, data, study, row_done)
    told.line("thresholds", sweep_found(curve))
    return curve


@dataclass
class _Told:
    """Lines that say what was found, with how far the demo is."""

    total: int
    count: int = 0

    def line(self, what: str, found: str) -> None:
        self.count += 1
        _print(f"[{self.count:2}/{self.total}] {what:<10} {found}")


@contextmanager
def _advancing(what: str) -> Iterator[Callable[[float, float], None]]:
    """A bar while something is done."""
    with progress_bar() as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """No load reports and bars of other libraries between the lines."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # PEFT asks by the older name
        yield
