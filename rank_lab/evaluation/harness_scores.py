"""Scores of a model in memory on tasks of lm-eval, example by example."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rank_lab.errors import DataError, RankLabError
from rank_lab.evaluation.harness_tasks import LOCAL_TASKS, chance_of, lm_eval_version, quiet, tasks_folder
from rank_lab.evaluation.tuned_models import EvaluatedModel, context_of
from rank_lab.plain_text import first_line, plain
from rank_lab.score_table import ScoreRow

__all__ = ["HarnessOptions", "harness_rows"]

from dataclasses import dataclass


@dataclass(frozen=True)
class HarnessOptions:
    """How lm-eval asks.

    Parameters
    ----------
    data
        Folder of local files; None for the hub. See :func:`rank_lab.evaluation.harness_tasks.tasks_folder`.
    few_shot
        Solved examples in the prompt; None for the task's own number, which is recorded.
    limit
        Only so many examples, from the first; None for all.
    batch_size
        Requests at a time.
    context
        Tokens of the longest request; None for as many as the model allows.
    seconds
        For one batch of generations; what is written until then is scored.
    """

    data: Path | None = None
    few_shot: int | None = None
    limit: int | None = None
    batch_size: int = 8
    context: int | None = None
    seconds: float = 600.0


def harness_rows(model: EvaluatedModel, task: str, options: HarnessOptions, *, role: str = "") -> tuple[ScoreRow, ...]:
    """All scores of one task.

    Parameters
    ----------
    model
        A causal one.
    task
        lm-eval's name of it.
    options
        How.
    role
        ``"source"``, ``"target"`` or ``""``.

    Returns
    -------
    tuple of ScoreRow
        One for each metric, and filter where lm-eval has several; with the score of each example, and the standard
        error from these, where the score is their mean.

    Raises
    ------
    RankLabError
        If lm-eval is not installed, the model is not causal, or the task cannot be read.
    """
    version = lm_eval_version()
    if model.kind != "causal":
        raise RankLabError(f"{model.tuned.source}: of kind {model.kind}; tasks of lm-eval need a causal model.")
    with tasks_folder(task, options.data, few_shot=options.few_shot) as folder, quiet():
        found = _evaluated(model, task, folder, options)
    samples = found["samples"][task]
    if not samples:
        raise DataError(f"task {task!r}: holds no example.")
    shots = int(found["n-shot"][task])
    common: dict[str, Any] = {
        **model.named,
        "task": task,
        "role": role,
        "few_shot": shots,
        "harness": "lm-eval",
        "harness_version": version,
        "source": _source(task, options, found["versions"].get(task)),
        "set_sha256": _set_hash(samples),
    }
    better = found["higher_is_better"][task]
    return tuple(
        ScoreRow(
            **common, metric=metric if kept == "none" else f"{metric},{kept}", value=value, stderr=stderr, n=count,
            chance=chance_of(task), higher_is_better=bool(better.get(metric, True)), examples=examples,
        )
        for metric, kept, value, stderr, count, examples in _scores(found["results"][task], samples)
    )  # fmt: skip


def _evaluated(model: EvaluatedModel, task: str, folder: Path | None, options: HarnessOptions) -> Mapping[str, Any]:
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder) if folder else None, include_defaults=folder is None)
    language_model = HFLM(
        pretrained=model.model,
        tokenizer=model.tokenizer,
        batch_size=options.batch_size,
        max_length=context_of(model, options.context),
    )
    with _limited(model.model, options.seconds):
        try:
            found: Mapping[str, Any] | None = simple_evaluate(
                model=language_model, tasks=[task], num_fewshot=options.few_shot, limit=options.limit,
                task_manager=manager, bootstrap_iters=0, log_samples=True,
            )  # fmt: skip
        except (OSError, ConnectionError, ValueError, KeyError) as error:
            raise RankLabError(
                plain(
                    f"task {task!r}: lm-eval could not carry it out ({first_line(error)}); where its data cannot be"
                    f" fetched, give --data (of {', '.join(LOCAL_TASKS)}).",
                    limit=600,
                )
            ) from error
    if found is None:
        raise RankLabError(f"task {task!r}: lm-eval gives results in the first process only; run it in one process.")
    return found


@contextmanager
def _limited(model: Any, seconds: float) -> Iterator[None]:
    """lm-eval has no limit of time for what is generated; transformers looks for one in the model's own settings."""
    settings = model.generation_config
    before, settings.max_time = settings.max_time, seconds
    try:
        yield
    finally:
        settings.max_time = before


_Scored = tuple[str, str, float, float | None, int, tuple[float, ...] | None]


def _scores(results: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> list[_Scored]:
    found: list[_Scored] = []
    for name, value in results.items():
        metric, comma, kept = name.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        own = [sample[metric] for sample in samples if sample["filter"] == kept]
        examples = _mean_of(own, float(value))
        stderr = None
        if examples is not None and len(examples) > 1:
            stderr = float(np.std(examples, ddof=1) / math.sqrt(len(examples)))
        found.append((metric, kept, float(value), stderr, len(own), examples))
    return found


def _mean_of(values: Sequence[Any], mean: float) -> tuple[float, ...] | None:
    """The scores of examples, if they are numbers and the score is their mean: not all of lm-eval's are."""
    if not all(isinstance(value, int | float | np.number) for value in values):
        return None
    numbers = tuple(float(value) for value in values)
    return numbers if math.isclose(float(np.mean(numbers)), mean, rel_tol=1e-9, abs_tol=1e-12) else None


def _source(task: str, options: HarnessOptions, version: Any) -> str:
    parts = [f"{task} version {version}", str(options.data / task) if options.data else "hub"]
    if options.data is not None and LOCAL_TASKS[task].note:
        parts.append(LOCAL_TASKS[task].note)
    if options.limit is not None:
        parts.append(f"the first {options.limit} examples")
    return ", ".join(parts)


def _set_hash(samples: Sequence[Mapping[str, Any]]) -> str:
    first = samples[0]["filter"]
    digest = hashlib.sha256()
    for sample in samples:
        if sample["filter"] == first:
            digest.update(f"{sample['doc_id']} {sample['doc_hash']} {sample['target_hash']}\n".encode())
    return digest.hexdigest()
