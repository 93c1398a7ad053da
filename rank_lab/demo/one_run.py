"""The fine-tunings of the demonstration: trained, their ranks measured, learning and forgetting scored, compared."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from rank_lab.analysis import analyze
from rank_lab.demo import BASE
from rank_lab.demo.demo_plan import DemoPlan, DemoRun
from rank_lab.demo.task_files import Texts
from rank_lab.errors import RankLabError
from rank_lab.evaluation.evaluate_choices import Choices
from rank_lab.evaluation.evaluate_command import evaluate_models
from rank_lab.evaluation.tuned_models import LoadOptions
from rank_lab.measurement import MeasurementOptions
from rank_lab.report import RankReport
from rank_lab.subspace_analysis import compare_runs
from rank_lab.subspace_report import SubspaceReport
from rank_lab.tasks import TaskData
from rank_lab.training.finetune import Finetuned, TrainingRun, Watching, finetune
from rank_lab.training.methods import METHODS

__all__ = ["BATCH", "CONTEXT", "compare", "score", "track", "train", "training_arguments"]

CONTEXT, BATCH = 128, 8

Advance = Callable[[float, float], None]


def training_arguments(folder: Path, learning_rate: float) -> Any:
    """What all trainings of the demo share.

    Parameters
    ----------
    folder
        Receives checkpoints.
    learning_rate
        After the warm-up.
    """
    return TrainingArguments(
        str(folder),
        learning_rate=learning_rate,
        lr_scheduler_type="constant_with_warmup",  # a checkpoint is then what a shorter run would have come to
        warmup_steps=0.06,
        weight_decay=0.0,  # it would add a multiple of the base to the update, at full rank
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=4 * BATCH,
        seed=0,
        use_cpu=True,
        dataloader_pin_memory=False,
        report_to=[],
    )


def train(run: DemoRun, plan: DemoPlan, data: TaskData, study: Path, advance: Advance) -> Finetuned:
    """Train a run, or what is left of it.

    Parameters
    ----------
    run, plan
        What, and how long.
    data
        Code.
    study
        Receives the folder of the run.
    advance
        Told steps taken, and steps in all.
    """
    arguments = training_arguments(study / run.name, run.learning_rate)
    arguments.max_steps = plan.steps
    what = TrainingRun(BASE, METHODS[run.method], run.choices, arguments, min(plan.checkpoints, plan.steps))
    return finetune(what, data, study / run.name, watching=Watching(progress=advance))


def track(run: DemoRun, study: Path, advance: Advance) -> RankReport:
    """Ranks of every checkpoint beside their nulls and both tests, kept in ``NAME.rank``.

    Parameters
    ----------
    run, study
        As trained.
    advance
        Told work done, and work in all.
    """
    options = MeasurementOptions(noise="full", cache=study / ".spectra")
    report = analyze(
        study / run.name, BASE, options=options, progress=lambda done, total, _module: advance(done, total)
    )
    report.save(study / f"{run.name}.rank")
    return report


def score(run: DemoRun, study: Path, texts: Texts) -> None:
    """Losses of every checkpoint, and of the base, on held-out code and prose, kept in the study's table of scores.

    Parameters
    ----------
    run, study
        As trained.
    texts
        What learning and forgetting are measured on.

    Raises
    ------
    RankLabError
        If anything could not be measured.
    """
    choices = Choices(
        source_texts=(f"prose={texts.source}",),
        target_texts=(f"code={texts.target}",),
        kl=True,
        batch_size=4 * BATCH,
        max_length=CONTEXT,
    )
    found = evaluate_models([str(study / run.name)], study, LoadOptions(base=str(BASE)), choices)
    if found.failures:
        raise RankLabError(f"{run.name}: not all could be measured: {'; '.join(found.failures)}.")


def compare(first: DemoRun, second: DemoRun, study: Path, advance: Advance) -> SubspaceReport:
    """Subspaces of the last checkpoints of two runs, kept in ``FIRST-SECOND.subspace``.

    Parameters
    ----------
    first, second, study
        As trained.
    advance
        Told work done, and work in all.
    """
    report = compare_runs(
        study / first.name, study / second.name, BASE, progress=lambda done, total, _module: advance(done, total)
    )
    report.save(study / f"{first.name}-{second.name}.subspace")
    return report
