"""Scores of many resamples at once: the same values as :mod:`rank_lab.scores` gives one by one.

Each function takes labels and predictions of shape (resamples, examples) and
gives (resamples,).
"""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from rank_lab.scores import SCORES, Score

__all__ = ["score_rows"]

Values = npt.NDArray[np.float64]


def score_rows(score: Score, labels: Values, predictions: Values) -> Values:
    """The score of every row.

    Parameters
    ----------
    score
        One of :data:`rank_lab.scores.SCORES`, computed for all rows at once, or your own, computed row by row.
    labels, predictions
        Shape (resamples, examples), at least one example.

    Returns
    -------
    numpy.ndarray
        Shape (resamples,); NaN where a row has no value.

    Examples
    --------
    >>> rows = np.array([[0.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    >>> score_rows(SCORES["accuracy"], rows, np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0]])).round(3).tolist()
    [1.0, 0.667]
    """
    if SCORES.get(score.name) == score:
        return _OF_ROWS[score.name](labels, predictions)
    return np.array([score.of(*row) for row in zip(labels, predictions, strict=True)])


def _same(labels: Values, predictions: Values) -> Values:
    return np.asarray((labels == predictions).mean(axis=1), np.float64)


def _matthews(labels: Values, predictions: Values) -> Values:
    table = _confusion(labels, predictions)
    true, predicted = table.sum(axis=2), table.sum(axis=1)
    right, total = np.trace(table, axis1=1, axis2=2), table.sum(axis=(1, 2))
    covariance = right * total - (true * predicted).sum(axis=1)
    spread = (total**2 - (true**2).sum(axis=1)) * (total**2 - (predicted**2).sum(axis=1))
    return np.where(spread > 0, covariance / np.sqrt(np.where(spread > 0, spread, 1.0)), 0.0)


def _confusion(labels: Values, predictions: Values) -> Values:
    """How often each class (second axis) was taken for each other (third), a table a row."""
    classes, codes = np.unique(np.stack([labels, predictions]), return_inverse=True)
    true, predicted = codes.reshape(2, *labels.shape)
    cells = len(classes) ** 2
    index = np.arange(len(labels))[:, None] * cells + true * len(classes) + predicted
    counts = np.bincount(index.ravel(), minlength=len(labels) * cells)
    return counts.reshape(len(labels), len(classes), len(classes)).astype(np.float64)


def _f1(labels: Values, predictions: Values) -> Values:
    found = ((labels == 1) & (predictions == 1)).sum(axis=1)
    asked = (labels == 1).sum(axis=1) + (predictions == 1).sum(axis=1)
    return np.where(asked > 0, 2 * found / np.maximum(asked, 1), 0.0)


def _pearson(labels: Values, predictions: Values) -> Values:
    constant = (np.ptp(labels, axis=1) == 0) | (np.ptp(predictions, axis=1) == 0)
    left = labels - labels.mean(axis=1, keepdims=True)
    right = predictions - predictions.mean(axis=1, keepdims=True)
    size = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    valid = ~constant & (size > 0)
    return np.where(valid, (left * right).sum(axis=1) / np.where(valid, size, 1.0), np.nan)


def _spearman(labels: Values, predictions: Values) -> Values:
    from scipy.stats import rankdata

    return _pearson(rankdata(labels, axis=1), rankdata(predictions, axis=1))


def _token_accuracy(labels: Values, predictions: Values) -> Values:
    tokens = labels.sum(axis=1)
    return np.where(tokens > 0, predictions.sum(axis=1) / np.where(tokens > 0, tokens, 1.0), np.nan)


_OF_ROWS: Mapping[str, Callable[[Values, Values], Values]] = {
    "accuracy": _same,
    "matthews_correlation": _matthews,
    "f1": _f1,
    "pearson": _pearson,
    "spearman": _spearman,
    "token_accuracy": _token_accuracy,
    "masked_accuracy": _token_accuracy,
    "exact_match": _same,
}
