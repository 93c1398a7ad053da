"""Sequences of tasks from a table of scores: by hand, with their intervals, and gaps by name."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from rank_lab.errors import SchemaError
from rank_lab.score_draws import Resampling
from rank_lab.score_table import ScoreRow, ScoreTable
from rank_lab.sequences import average_forgetting, backward_transfer, sequence_interval
from rank_lab.task_sequences import sequence_of

R = np.array([[0.9, 0.2, 0.1], [0.7, 0.8, 0.3], [0.5, 0.85, 0.7]])
ERRORS = np.array([[0.01, 0.02, 0.03], [0.04, 0.05, 0.06], [0.07, 0.08, 0.09]])
STAGES = [("one", 10), ("two", 20), ("three", 30)]
TASKS = [("cola", "acc"), ("code", "acc"), ("sums", "exact_match,strict-match")]


def rows() -> list[ScoreRow]:
    """Of all stages on all tasks, and others that are not asked for; in no order."""
    wanted = [
        ScoreRow(run, "lora", step, task, metric, R[i, j], ERRORS[i, j], n=50, few_shot=0)
        for j, (task, metric) in enumerate(TASKS)
        for i, (run, step) in enumerate(STAGES)
    ]
    others = [ScoreRow("base", "base", 0, "cola", "acc", 0.1), ScoreRow("one", "lora", 5, "cola", "acc", 0.99),
              ScoreRow("one", "lora", 10, "cola", "f1", 0.98)]  # fmt: skip
    return [*others[:1], *reversed(wanted), *others[1:]]


def changed(run: str, task: str, **values: object) -> ScoreTable:
    return ScoreTable.of(
        replace(row, **values) if (row.run, row.task, row.metric) == (run, task, "acc") and row.step != 5 else row
        for row in rows()
    )


def test_scores_and_errors_stand_where_they_belong() -> None:
    found = sequence_of(ScoreTable.of(rows()), STAGES, TASKS)
    np.testing.assert_array_equal(found.scores, R)
    np.testing.assert_array_equal(found.errors, ERRORS)
    assert found.backward_transfer.value == pytest.approx(((0.5 - 0.9) + (0.85 - 0.8)) / 2)
    assert found.average_forgetting.value == pytest.approx(((0.9 - 0.5) + (0.8 - 0.85)) / 2)


def test_intervals_are_those_of_the_matrix() -> None:
    found = sequence_of(ScoreTable.of(rows()), STAGES, TASKS, Resampling(300, seed=4, level=0.8))
    for measured, measure in (
        (found.backward_transfer, backward_transfer),
        (found.average_forgetting, average_forgetting),
    ):
        assert measured == sequence_interval(measure, R, ERRORS, resamples=300, seed=4, level=0.8)
        assert measured.low is not None
        assert measured.high is not None
        assert measured.low < measured.high


def test_the_order_of_the_trainings_is_that_which_is_given() -> None:
    turned = sequence_of(ScoreTable.of(rows()), STAGES[::-1], TASKS[::-1])
    assert turned.backward_transfer.value == pytest.approx(((0.1 - 0.7) + (0.2 - 0.8)) / 2)
    assert turned.average_forgetting.value == pytest.approx(((0.7 - 0.1) + (0.85 - 0.2)) / 2)


def test_of_a_loss_smaller_is_better() -> None:
    losses = ScoreTable.of(replace(row, higher_is_better=False) for row in rows())
    found = sequence_of(losses, STAGES, TASKS)
    assert found.backward_transfer.value == pytest.approx(-((0.5 - 0.9) + (0.85 - 0.8)) / 2)
    assert found.average_forgetting.value == pytest.approx(((0.5 - 0.7) + (0.85 - 0.2)) / 2)  # from its least loss


def test_an_error_is_found_from_the_examples_or_there_is_no_interval() -> None:
    examples = tuple(float(number < 45) for number in range(50))
    known = sequence_of(changed("one", "cola", stderr=None, examples=examples), STAGES, TASKS)
    assert known.errors[0, 0] == pytest.approx(np.std(examples, ddof=1) / math.sqrt(50))
    unknown = sequence_of(changed("two", "code", stderr=None), STAGES, TASKS).backward_transfer
    assert unknown.value == pytest.approx(-0.175)
    assert (unknown.low, unknown.high) == (None, None)
    assert unknown.reason.startswith("run 'two' at step 20 on task 'code' (acc): neither a standard error")


def test_lm_evals_name_of_no_filter_is_none() -> None:
    found = sequence_of(changed("two", "code", metric="acc,none"), STAGES, TASKS)
    np.testing.assert_array_equal(found.scores, R)


def test_gaps_are_named() -> None:
    whole = rows()
    without = ScoreTable.of(row for row in whole if (row.run, row.task) != ("three", "code"))
    with pytest.raises(SchemaError, match=r"^no score of run 'three' at step 30 on task 'code' \(acc\): a sequence"):
        sequence_of(without, STAGES, TASKS)
    other_step = [("one", 10), ("two", 21), ("three", 30)]
    with pytest.raises(SchemaError, match=r"run 'two' at step 21 on task 'cola' \(acc\); .*'code' \(acc\); .*'sums'"):
        sequence_of(ScoreTable.of(whole), other_step, TASKS)
    with pytest.raises(SchemaError, match=r"\(acc\), and 6 more: "):
        sequence_of(ScoreTable(), STAGES, [(task, "acc") for task, _ in TASKS])


@pytest.mark.parametrize(
    ("stages", "tasks", "told"),
    [
        (STAGES, TASKS[:2], "3 stages and 2 tasks: expected as many of both, two or more"),
        (STAGES[:1], TASKS[:1], "1 stages and 1 tasks"),
        ([STAGES[0], STAGES[1], STAGES[0]], TASKS, r"stage \('one', 10\) is there twice"),
        (STAGES, [TASKS[0], TASKS[1], TASKS[1]], r"task \('code', 'acc'\) is there twice"),
    ],
)
def test_what_is_no_sequence(stages: Sequence[tuple[str, int]], tasks: Sequence[tuple[str, str]], told: str) -> None:
    with pytest.raises(SchemaError, match=told):
        sequence_of(ScoreTable.of(rows()), stages, tasks)


def test_what_cannot_be_compared() -> None:
    with pytest.raises(SchemaError, match=r"code acc, 5-shot of run 'two' at step 20: differs .* 0 and 5 solved"):
        sequence_of(changed("two", "code", few_shot=5), STAGES, TASKS)
    with pytest.raises(SchemaError, match=r"run 'two' at step 20 on task 'code' \(acc\): is nan, expected a finite"):
        sequence_of(changed("two", "code", value=math.nan), STAGES, TASKS)
    twice = ScoreTable.of([*rows(), ScoreRow("two", "lora", 20, "code", "acc", 0.5, few_shot=5)])
    with pytest.raises(SchemaError, match=r"'code' \(acc\): 2 scores \(acc 0-shot, acc 5-shot\); keep one"):
        sequence_of(twice, STAGES, TASKS)
