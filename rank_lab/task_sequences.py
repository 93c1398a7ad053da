"""A model that was trained on one task after the other, from a table of scores: what it kept of the earlier ones."""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from rank_lab.errors import SchemaError
from rank_lab.plain_text import plain
from rank_lab.score_draws import Resampling, difference_in_kind, plain_metric, standard_error
from rank_lab.score_row import ScoreRow
from rank_lab.score_table import ScoreTable
from rank_lab.sequences import average_forgetting, backward_transfer, sequence_interval
from rank_lab.uncertainty import Interval

__all__ = ["TaskSequence", "sequence_of"]

Values: TypeAlias = npt.NDArray[np.float64]
Stage: TypeAlias = tuple[str, int | None]
SequenceTask: TypeAlias = tuple[str, str]

_NAMED = 3  # gaps, of what may be many


@dataclass(frozen=True, eq=False)
class TaskSequence:
    """The scores on every task after training on each.

    Parameters
    ----------
    stages
        Run and step of the model after each training, in the order of the trainings.
    tasks
        Task and metric that each training was for, in the same order.
    scores
        Shape (T, T): row i after training on task i, column j on task j. Larger is better: a metric of which smaller
        is better stands here with the other sign.
    errors
        Their standard errors; NaN where one is not known.
    resampling
        Of the intervals.
    """

    stages: tuple[Stage, ...]
    tasks: tuple[SequenceTask, ...]
    scores: Values
    errors: Values
    resampling: Resampling

    @property
    def backward_transfer(self) -> Interval:
        """How later tasks changed the scores on earlier ones; see :func:`rank_lab.sequences.backward_transfer`."""
        return self._measured(backward_transfer)

    @property
    def average_forgetting(self) -> Interval:
        """How far the scores fell from their best; see :func:`rank_lab.sequences.average_forgetting`."""
        return self._measured(average_forgetting)

    def _measured(self, measure: Callable[[npt.ArrayLike], Values]) -> Interval:
        unknown = np.argwhere(np.isnan(self.errors))
        if len(unknown):
            stage, task = unknown[0]
            reason = f"{_cell(self.stages[stage], self.tasks[task])}: neither a standard error nor scores of examples"
            return Interval(float(measure(self.scores)), None, None, reason=reason)
        made = self.resampling
        return sequence_interval(
            measure, self.scores, self.errors, resamples=made.resamples, seed=made.seed, level=made.level
        )


def sequence_of(
    table: ScoreTable,
    stages: Sequence[Stage],
    tasks: Sequence[SequenceTask],
    resampling: Resampling | None = None,
) -> TaskSequence:
    r"""Backward transfer and average forgetting of a sequence of tasks, from the rows of a table of scores.

    With :math:`R_{i,j}` the score on task j after training on task i, of T in all: backward transfer is
    :math:`\frac{1}{T-1} \sum_{i<T} (R_{T,i} - R_{i,i})` [1]_, average forgetting
    :math:`\frac{1}{T-1} \sum_{j<T} (\max_{l<T} R_{l,j} - R_{T,j})`, the maximum over all stages before the last [2]_,
    those before task j was trained on among them.

    Parameters
    ----------
    table
        Scores of every stage on every task.
    stages
        Run and step of the model after training on each task, in the order of the trainings; the untuned model is none.
    tasks
        The task that each of them was trained on, and the metric that counts, in the same order.
    resampling
        Of the intervals, which take the scores as independent: where all were measured on the same examples, they are
        wider than they need be.

    Raises
    ------
    SchemaError
        If scores are missing, there more than once, not finite, or cannot be compared from stage to stage: run, step
        and task are named.

    References
    ----------
    .. [1] Lopez-Paz & Ranzato (2017), Gradient Episodic Memory for Continual Learning, arXiv:1706.08840, equation 3.
    .. [2] Chaudhry et al. (2018), Riemannian Walk for Incremental Learning, arXiv:1801.10112, equations 3 and 4.

    Examples
    --------
    Prose was learned first, then code, which took a third of it away:

    >>> rows = [("first", 9, "prose", 0.9), ("first", 9, "code", 0.1), ("then", 9, "prose", 0.6),
    ...         ("then", 9, "code", 0.8)]
    >>> table = ScoreTable.of(ScoreRow(run, "lora", step, task, "acc", value, 0.01) for run, step, task, value in rows)
    >>> found = sequence_of(table, [("first", 9), ("then", 9)], [("prose", "acc"), ("code", "acc")])
    >>> found.scores.tolist()
    [[0.9, 0.1], [0.6, 0.8]]
    >>> round(found.backward_transfer.value, 6), round(found.average_forgetting.value, 6)
    (-0.3, 0.3)
    >>> -0.34 < found.backward_transfer.low < -0.32, -0.28 < found.backward_transfer.high < -0.26
    (True, True)
    """
    _refuse_order(stages, tasks)
    cells = [[_rows_of(table, stage, task) for task in tasks] for stage in stages]
    _refuse_gaps(cells, stages, tasks)
    rows = [[found[0] for found in line] for line in cells]
    _refuse_unlike(rows)
    scores = np.array([[row.value if row.higher_is_better else -row.value for row in line] for line in rows])
    errors = np.array([[_error(row) for row in line] for line in rows])
    return TaskSequence(tuple(stages), tuple(tasks), scores, errors, resampling or Resampling())


def _error(row: ScoreRow) -> float:
    error = standard_error(row)
    return math.nan if error is None else error


def _rows_of(table: ScoreTable, stage: Stage, task: SequenceTask) -> list[ScoreRow]:
    wanted = (*stage, task[0], plain_metric(task[1]))
    return [row for row in table.rows if (row.run, row.step, row.task, plain_metric(row.metric)) == wanted]


def _refuse_order(stages: Sequence[Stage], tasks: Sequence[SequenceTask]) -> None:
    if len(stages) != len(tasks) or len(tasks) < 2:
        raise SchemaError(
            f"{len(stages)} stages and {len(tasks)} tasks: expected as many of both, two or more: the stage after the"
            " training on each task."
        )
    for what, given in (("stage", stages), ("task", tasks)):
        twice = _twice(given)
        if twice is not None:
            raise SchemaError(plain(f"{what} {twice} is there twice; name every {what} of a sequence once.", limit=300))


def _twice(given: Sequence[Hashable]) -> Hashable | None:
    return next((each for place, each in enumerate(given) if each in given[:place]), None)


def _refuse_gaps(
    cells: Sequence[Sequence[Sequence[ScoreRow]]], stages: Sequence[Stage], tasks: Sequence[SequenceTask]
) -> None:
    each = [
        (_cell(stage, task), found)
        for stage, line in zip(stages, cells, strict=True)
        for task, found in zip(tasks, line, strict=True)
    ]
    missing = [name for name, found in each if not found]
    if missing:
        more = f", and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        raise SchemaError(
            f"no score of {'; '.join(missing[:_NAMED])}{more}: a sequence needs every stage on every task; evaluate"
            " what is missing."
        )
    for name, found in each:
        if len(found) > 1:
            ways = ", ".join(f"{row.metric} {row.few_shot}-shot" for row in found)
            raise SchemaError(f"{name}: {len(found)} scores ({plain(ways, limit=200)}); keep one in the table.")
        if not math.isfinite(found[0].value):
            raise SchemaError(
                f"{name}: is {found[0].value}, expected a finite score; evaluate it again, or leave the task out."
            )


def _refuse_unlike(rows: Sequence[Sequence[ScoreRow]]) -> None:
    for line in rows[1:]:
        for first, row in zip(rows[0], line, strict=True):
            different = difference_in_kind(first, row)
            if different:
                raise SchemaError(
                    f"{row.named}: differs from that of run {plain(first.run, limit=80)!r} at step {first.step}:"
                    f" {different}; measure all stages in one way."
                )


def _cell(stage: Stage, task: SequenceTask) -> str:
    return plain(f"run {stage[0]!r} at step {stage[1]} on task {task[0]!r} ({task[1]})", limit=300)
