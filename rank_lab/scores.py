"""Scores of predictions: GLUE's own metrics, from scikit-learn and scipy, and two of next tokens.

All take two arrays with an entry an example, so that any of them can be
resampled over examples. What is not defined is NaN, but where scikit-learn
has a convention it is followed: a correlation of Matthews with classes or
predictions all the same is 0, and so is F1 without a true or predicted
positive.
"""

import difflib
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rank_lab.errors import RankLabError, ShapeMismatchError

__all__ = ["KINDS", "SCORES", "Score", "nearest", "score_named"]

Values = npt.NDArray[np.float64]

KINDS = ("classification", "regression", "causal", "masked")
"""What may be predicted: a class, a number, the next tokens, or hidden ones."""


@dataclass(frozen=True)
class Score:
    """How well predictions agree with labels.

    Parameters
    ----------
    name
        What tables call it.
    kind
        One of :data:`KINDS`: what labels and predictions are. ``classification``:
        numbers of classes; ``regression``: values; ``causal``, ``masked``: how many target
        tokens an example has, and how many of them were predicted.
    function
        Of labels and predictions, both of shape (examples,); a fraction or
        coefficient, larger is better, NaN where it is not defined.
    reference
        Where it is defined.
    constant
        Of labels: the best score of one answer for all examples, which has
        learned nothing of them; None where there is no such score.
    """

    name: str
    kind: str
    function: Callable[[Values, Values], float]
    reference: str
    constant: Callable[[Values], float] | None = None

    def of(self, labels: npt.ArrayLike, predictions: npt.ArrayLike) -> float:
        """The score of predictions, after a look at their shapes.

        Raises
        ------
        ShapeMismatchError
            If they are not two arrays of one length.

        Examples
        --------
        >>> score_named("accuracy").of([0, 1, 1, 0], [0, 1, 0, 0])
        0.75
        """
        true, predicted = np.asarray(labels, np.float64), np.asarray(predictions, np.float64)
        if true.ndim != 1 or true.shape != predicted.shape:
            raise ShapeMismatchError(
                f"{self.name}: labels of shape {true.shape} and predictions of shape {predicted.shape}; expected one"
                " entry an example in both."
            )
        return float(self.function(true, predicted))


def _accuracy(labels: Values, predictions: Values) -> float:
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(labels, predictions)) if len(labels) else float("nan")


def _matthews(labels: Values, predictions: Values) -> float:
    from sklearn.metrics import matthews_corrcoef

    if not len(labels):
        return float("nan")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "A single label was found", UserWarning)  # its 0 is the convention here
        return float(matthews_corrcoef(labels, predictions))


def _f1(labels: Values, predictions: Values) -> float:
    from sklearn.metrics import f1_score

    if not len(labels):
        return float("nan")
    other = sorted({*labels, *predictions} - {0.0, 1.0})
    if other:
        raise RankLabError(
            f"f1: class {other[0]:g} among labels or predictions; it is of class 1 against class 0, choose accuracy or"
            " matthews_correlation for more classes."
        )
    return float(f1_score(labels, predictions, zero_division=0.0))


def _no_correlation(labels: Values, predictions: Values) -> bool:
    return len(labels) < 2 or bool(np.ptp(labels) == 0 or np.ptp(predictions) == 0)


def _pearson(labels: Values, predictions: Values) -> float:
    from scipy.stats import pearsonr

    if _no_correlation(labels, predictions) or not np.isfinite([labels, predictions]).all():
        return float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # values that are nearly constant
        return float(pearsonr(labels, predictions).statistic)


def _spearman(labels: Values, predictions: Values) -> float:
    from scipy.stats import spearmanr

    if _no_correlation(labels, predictions) or not np.isfinite([labels, predictions]).all():
        return float("nan")
    return float(spearmanr(labels, predictions).statistic)


def _majority(labels: Values) -> float:
    return float(np.unique(labels, return_counts=True)[1].max() / len(labels)) if len(labels) else float("nan")


def _all_positive(labels: Values) -> float:
    return _f1(labels, np.ones_like(labels))


def _zero(_labels: Values) -> float:
    return 0.0


def _token_accuracy(labels: Values, predictions: Values) -> float:
    return float(predictions.sum() / labels.sum()) if labels.sum() > 0 else float("nan")


def _exact_match(labels: Values, predictions: Values) -> float:
    return float((labels == predictions).mean()) if len(labels) else float("nan")


SCORES: Mapping[str, Score] = {
    score.name: score
    for score in (
        Score("accuracy", "classification", _accuracy, "scikit-learn, accuracy_score", _majority),
        Score("matthews_correlation", "classification", _matthews, "scikit-learn, matthews_corrcoef", _zero),
        Score("f1", "classification", _f1, "scikit-learn, f1_score of class 1", _all_positive),
        Score("pearson", "regression", _pearson, "scipy.stats.pearsonr", _zero),
        Score("spearman", "regression", _spearman, "scipy.stats.spearmanr", _zero),
        Score("token_accuracy", "causal", _token_accuracy, "share of target tokens that the argmax predicts"),
        Score("exact_match", "causal", _exact_match, "share of examples with all target tokens predicted"),
        Score("masked_accuracy", "masked", _token_accuracy, "share of hidden tokens that the argmax predicts"),
    )
}
"""All scores by name."""


def score_named(name: str, *, kind: str | None = None) -> Score:
    """The score of that name.

    Parameters
    ----------
    name
        One of :data:`SCORES`.
    kind
        What is predicted, where that is known; a score of another kind is then refused.

    Raises
    ------
    RankLabError
        If there is none of that name, or it is of another kind.

    Examples
    --------
    >>> score_named("pearson").kind
    'regression'
    """
    if name not in SCORES:
        raise RankLabError(f"score {name!r} is not known. Nearest: {nearest(name, SCORES)}.")
    score = SCORES[name]
    if kind is not None and score.kind != kind:
        fitting = ", ".join(each.name for each in SCORES.values() if each.kind == kind)
        raise RankLabError(
            f"score {name!r} is of {score.kind}, and what is predicted here is of kind {kind!r}; choose one of"
            f" {fitting or 'another kind: ' + ', '.join(KINDS)}."
        )
    return score


def nearest(name: str, known: Iterable[str]) -> str:
    """Up to three known names that look like this one, else all of them, to be shown.

    Examples
    --------
    >>> nearest("acuracy", ["accuracy", "f1"]), nearest("xyz", ["accuracy", "f1"])
    ('accuracy', 'accuracy, f1')
    """
    names = list(known)
    return ", ".join(difflib.get_close_matches(name, names, n=3, cutoff=0.5) or names)
