"""Scores of classifiers and of models that give a number, on GLUE's tasks and on those of the user's own."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rank_lab.errors import RankLabError
from rank_lab.evaluation.standard_error import standard_error
from rank_lab.evaluation.tuned_models import EvaluatedModel
from rank_lab.score_table import ScoreRow
from rank_lab.scores import SCORES
from rank_lab.sora.predictions import Predictions, predictions_of
from rank_lab.tasks import Subset, Task, TaskData, encoded, task_named
from rank_lab.uncertainty import bootstrap_draws

__all__ = ["GlueOptions", "glue_rows"]

_RESAMPLES = 1000
_MEANS = ("accuracy", "exact_match")  # scores that are the mean of a score of each example


@dataclass(frozen=True)
class GlueOptions:
    """How a classifier is asked.

    Parameters
    ----------
    data
        Folder that holds ``TASK/train.jsonl`` and ``TASK/validation.jsonl``; None for the hub.
    limit
        Only so many examples, a seeded choice; None for all.
    batch_size
        Examples at a time.
    max_length
        Tokens of the longest example; None for the tokenizer's limit.
    """

    data: Path | None = None
    limit: int | None = None
    batch_size: int = 32
    max_length: int | None = None


def glue_rows(
    model: EvaluatedModel, task: Task | str, options: GlueOptions, *, role: str = "target"
) -> tuple[ScoreRow, ...]:
    """All scores that the authors of a task report, on its validation set.

    Standard errors are those of the examples' scores where the score is their
    mean, else of 1000 seeded resamples.

    Parameters
    ----------
    model
        Of the kind of the task.
    task
        A task, or the name of one of GLUE's.
    options
        How.
    role
        What the task is for.

    Raises
    ------
    RankLabError
        If model and task are of different kinds, or the data cannot be read.
    """
    chosen = task_named(task) if isinstance(task, str) else task
    if chosen.kind != model.kind:
        raise RankLabError(
            f"{model.tuned.source}: of kind {model.kind}, and the task {chosen.name!r} is of {chosen.kind}; give a"
            " model that was trained for it, or say with --kind what this one predicts."
        )
    folder = options.data / chosen.name if options.data is not None else None
    # Classes are told from the labels of all training rows; their texts, which nobody asks, are not tokenised.
    asked = Subset(train=1, validation=options.limit)
    data = encoded(chosen, folder, model.tokenizer, max_length=options.max_length, subset=asked)
    _refuse_other_classes(model, data)
    found = predictions_of(
        model.model, data.validation, data.collator, chosen.kind, options.batch_size, show_labels=False
    )
    record = data.source["validation"]
    source = f"{data.source['from']}, validation, {len(found.labels)} of {record['rows']} examples"
    return tuple(_row(model, chosen, name, found, data, source, role) for name in (chosen.score, *chosen.other_scores))


def _refuse_other_classes(model: EvaluatedModel, data: TaskData) -> None:
    classes = getattr(model.model.config, "num_labels", None)
    if data.classes is not None and classes != data.classes:
        raise RankLabError(
            f"{model.tuned.source}: tells {classes} classes apart, and the task {data.task.name!r} has {data.classes};"
            " it was trained for another task."
        )


def _row(
    model: EvaluatedModel, task: Task, name: str, found: Predictions, data: TaskData, source: str, role: str
) -> ScoreRow:
    score = SCORES[name]
    value = score.of(found.labels, found.predictions)
    examples = tuple((found.labels == found.predictions).astype(float).tolist()) if name in _MEANS else None
    return ScoreRow(
        **model.named, task=task.name, metric=name, value=value, stderr=_stderr(name, found, examples),
        n=len(found.labels), role=role, few_shot=0, chance=score.constant(found.labels) if score.constant else None,
        **model.harness, source=source, set_sha256=_set_hash(data), examples=examples,
    )  # fmt: skip


def _stderr(name: str, found: Predictions, examples: tuple[float, ...] | None) -> float | None:
    if len(found.labels) < 2:
        return None
    if examples is not None:
        return standard_error(examples)
    draws = bootstrap_draws(SCORES[name], found.labels, found.predictions, resamples=_RESAMPLES)
    known = draws[~np.isnan(draws)]
    return float(np.std(known, ddof=1)) if len(known) > 0.95 * len(draws) else None


def _set_hash(data: TaskData) -> str:
    """Of the file's rows and which of them were asked."""
    record = data.source["validation"]
    told = json.dumps([record["sha256"], record["indices"]])
    return hashlib.sha256(told.encode()).hexdigest()
