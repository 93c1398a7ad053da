"""Scores against their formulas written out, where nothing is defined, and by the wrong name."""

import math

import numpy as np
import pytest

from rank_lab.errors import RankLabError, ShapeMismatchError
from rank_lab.score_rows import score_rows
from rank_lab.scores import SCORES, Score, score_named

LABELS = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
PREDICTED = np.array([1.0, 1.0, 0.0, 1.0, 0.0, 1.0])  # 3 found, 1 missed, 1 too many, 1 rightly left


def test_classes_by_hand() -> None:
    assert SCORES["accuracy"].of(LABELS, PREDICTED) == pytest.approx(4 / 6)
    assert SCORES["f1"].of(LABELS, PREDICTED) == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    assert SCORES["matthews_correlation"].of(LABELS, PREDICTED) == pytest.approx((3 * 1 - 1 * 1) / 8)


def test_values_by_hand() -> None:
    x, y = np.array([0.0, 1.0, 2.0, 5.0]), np.array([0.0, 2.0, 1.0, 100.0])
    assert SCORES["pearson"].of(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert SCORES["spearman"].of(x, y) == pytest.approx(0.8)  # 1 - 6 (0 + 1 + 1 + 0) / (4 * 15)


def test_tokens_by_hand() -> None:
    tokens, right = [4, 2, 10], [4, 1, 5]
    assert SCORES["token_accuracy"].of(tokens, right) == pytest.approx(10 / 16)
    assert SCORES["exact_match"].of(tokens, right) == pytest.approx(1 / 3)


ONES, ZEROS, MIXED = np.ones(4), np.zeros(4), np.array([0.0, 1.0, 1.0, 0.0])
UNDEFINED: list[tuple[str, np.ndarray, np.ndarray, float]] = [
    ("matthews_correlation", ONES, ONES, 0.0),
    ("matthews_correlation", MIXED, ONES, 0.0),
    ("f1", ZEROS, ZEROS, 0.0),
    ("f1", MIXED, ZEROS, 0.0),
    ("pearson", MIXED, ONES, math.nan),
    ("pearson", ONES, MIXED, math.nan),
    ("pearson", MIXED, np.array([0.0, math.nan, 1.0, 2.0]), math.nan),
    ("spearman", MIXED, ONES, math.nan),
    ("spearman", MIXED, np.array([0.0, math.inf, 1.0, 2.0]), math.nan),
    ("pearson", np.ones(1), np.ones(1), math.nan),
    ("token_accuracy", ZEROS, ZEROS, math.nan),
    *((name, np.empty(0), np.empty(0), math.nan) for name in SCORES),
]


@pytest.mark.parametrize(("name", "labels", "predictions", "value"), UNDEFINED)
def test_where_nothing_is_defined(name: str, labels: np.ndarray, predictions: np.ndarray, value: float) -> None:
    assert SCORES[name].of(labels, predictions) == pytest.approx(value, nan_ok=True)


def drawn(name: str, rows: int, examples: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of labels and predictions of the score's kind, the first of them constant."""
    generator = np.random.default_rng(5)
    kind = SCORES[name].kind
    if kind == "regression":
        labels = generator.normal(size=(rows, examples)).round(1)  # with ties
        predictions = labels + generator.normal(size=labels.shape)
    elif kind == "causal":
        labels = generator.integers(0, 9, size=(rows, examples)).astype(float)
        predictions = np.floor(labels * generator.random(labels.shape) * 1.3).clip(max=labels)
    else:
        classes = 2 if name == "f1" else 4
        labels = generator.integers(0, classes, size=(rows, examples)).astype(float)
        predictions = np.where(generator.random(labels.shape) < 0.5, labels, 1.0)
    labels[0], predictions[1], labels[2], predictions[2] = 1.0, 1.0, 0.0, 0.0
    return labels, predictions


@pytest.mark.parametrize("name", SCORES)
def test_many_rows_at_once_are_the_same_one_by_one(name: str) -> None:
    labels, predictions = drawn(name, 40, 25)
    alone = [SCORES[name].of(*row) for row in zip(labels, predictions, strict=True)]
    np.testing.assert_allclose(score_rows(SCORES[name], labels, predictions), alone, rtol=1e-12, atol=1e-14)
    assert len(set(np.round(alone, 6))) > 10


def test_an_own_score_is_computed_row_by_row() -> None:
    own = Score("accuracy", "classification", lambda labels, predictions: float(labels[0]), "made up")
    assert score_rows(own, np.array([[3.0, 1.0]]), np.array([[1.0, 1.0]])).tolist() == [3.0]


def test_bad_scores() -> None:
    with pytest.raises(RankLabError, match=r"'acuracy' is not known. Nearest: accuracy"):
        score_named("acuracy")
    with pytest.raises(RankLabError, match=r"'pearson' is of regression.*'classification'; choose one of accuracy"):
        score_named("pearson", kind="classification")
    with pytest.raises(RankLabError, match="f1: class 2"):
        SCORES["f1"].of([0, 1, 2], [0, 1, 1])
    with pytest.raises(ShapeMismatchError, match=r"labels of shape \(2,\) and predictions of shape \(3,\)"):
        SCORES["accuracy"].of([0, 1], [0, 1, 1])
