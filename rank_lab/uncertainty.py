"""How far a score may be trusted: bootstrap intervals over examples, and paired tests.

All resampling is over examples with a seeded generator: the same seed and
number of examples give the same resamples, whichever predictions they are
used on. That makes scores of one data set paired.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rank_lab.errors import RankLabError, ShapeMismatchError
from rank_lab.score_rows import score_rows
from rank_lab.scores import Score

__all__ = [
    "MAX_UNDEFINED",
    "Interval",
    "bootstrap_draws",
    "bootstrap_interval",
    "paired_test",
    "per_cent",
    "percentile_interval",
    "ratio_draws",
    "ratio_interval",
    "student_interval",
]

Values = npt.NDArray[np.float64]

MAX_UNDEFINED = 0.05
"""Share of resamples without a value, above which no interval is given."""

_MOST_ENTRIES = 2_000_000  # drawn at a time: 16 MB an array


@dataclass(frozen=True)
class Interval:
    """A value, and the interval in which the examples place it.

    Parameters
    ----------
    value
        Of all examples; NaN where it is not defined.
    low, high
        Ends of the interval; None where none can be given.
    undefined
        How many resamples had no value and were left out.
    reason
        Why there is no interval; empty where there is one.
    """

    value: float
    low: float | None
    high: float | None
    undefined: int = 0
    reason: str = ""


def bootstrap_draws(
    score: Score, labels: npt.ArrayLike, predictions: npt.ArrayLike, *, resamples: int = 1000, seed: int = 0
) -> Values:
    """The score of every resample.

    Parameters
    ----------
    score
        Which.
    labels, predictions
        Shape (examples,).
    resamples, seed
        How many, and where their randomness starts: the same seed gives the same resamples of as many examples, and
        the first of a larger number.

    Returns
    -------
    numpy.ndarray
        Shape (resamples,); NaN where a resample has no value.

    Raises
    ------
    ShapeMismatchError
        If labels and predictions are not of one length.
    RankLabError
        If there are no examples, or no resample.

    Examples
    --------
    >>> from rank_lab.scores import SCORES
    >>> bootstrap_draws(SCORES["accuracy"], [0, 1], [0, 1], resamples=3).tolist()
    [1.0, 1.0, 1.0]
    """
    true, predicted = _checked(labels, predictions)
    if resamples < 1 or not len(true):
        raise RankLabError(f"{resamples} resamples of {len(true)} examples: expected at least 1 of each.")
    generator = np.random.default_rng(seed)
    step = max(1, _MOST_ENTRIES // len(true))
    parts = []
    for first in range(0, resamples, step):  # the same numbers as drawn at once, in less memory
        size = (min(step, resamples - first), len(true))
        rows = generator.integers(0, len(true), size=size, dtype=np.intp)
        parts.append(score_rows(score, true[rows], predicted[rows]))
    return np.concatenate(parts)


def bootstrap_interval(
    score: Score,
    labels: npt.ArrayLike,
    predictions: npt.ArrayLike,
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap interval of a score over examples.

    Parameters
    ----------
    score, labels, predictions, resamples, seed
        As of :func:`bootstrap_draws`.
    level
        Nominal coverage.

    Returns
    -------
    Interval
        Without ends where all resamples agree (all examples right, say: the
        bootstrap then cannot tell) or more than :data:`MAX_UNDEFINED` of them
        have no value.

    References
    ----------
    .. [1] Efron & Tibshirani (1993), An Introduction to the Bootstrap, chapter 13.

    Examples
    --------
    >>> from rank_lab.scores import SCORES
    >>> interval = bootstrap_interval(SCORES["accuracy"], [1] * 100, [1] * 80 + [0] * 20)
    >>> interval.value, 0.7 < interval.low < 0.75, 0.85 < interval.high < 0.9
    (0.8, True, True)
    """
    draws = bootstrap_draws(score, labels, predictions, resamples=resamples, seed=seed)
    return percentile_interval(score.of(labels, predictions), draws, level=level)


def ratio_draws(
    score: Score,
    labels: npt.ArrayLike,
    predictions: npt.ArrayLike,
    reference: npt.ArrayLike,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Values:
    """Per cent of the reference's score, on the same examples above and below the line.

    Parameters
    ----------
    score, labels, predictions, resamples, seed
        As of :func:`bootstrap_draws`.
    reference
        The predictions whose score is 100 per cent, of the same examples.

    Returns
    -------
    numpy.ndarray
        Shape (resamples,); NaN where the reference's score is 0, negative or not defined.

    Examples
    --------
    >>> from rank_lab.scores import SCORES
    >>> ratio_draws(SCORES["accuracy"], [0, 1], [0, 1], [0, 1], resamples=2).tolist()
    [100.0, 100.0]
    """
    above = bootstrap_draws(score, labels, predictions, resamples=resamples, seed=seed)
    return per_cent(above, bootstrap_draws(score, labels, reference, resamples=resamples, seed=seed))


def ratio_interval(
    score: Score,
    labels: npt.ArrayLike,
    predictions: npt.ArrayLike,
    reference: npt.ArrayLike,
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    r"""Memorization or generalization, :math:`100\, s(\mathrm{stage}) / s(\mathrm{reference})`, with a paired interval.

    Parameters
    ----------
    score, labels, predictions, reference, resamples, seed
        As of :func:`ratio_draws`.
    level
        Nominal coverage.

    Returns
    -------
    Interval
        NaN, without ends, where the reference's score is 0, negative or not
        defined. The reference against itself is 100 from 100 to 100. Otherwise
        as of :func:`bootstrap_interval`.

    Examples
    --------
    >>> from rank_lab.scores import SCORES
    >>> labels, stage, reference = [1] * 100, [1] * 72 + [0] * 28, [1] * 80 + [0] * 20
    >>> interval = ratio_interval(SCORES["accuracy"], labels, stage, reference)
    >>> round(interval.value, 6), 80 < interval.low < 86, 93 < interval.high < 97
    (90.0, True, True)
    """
    base = score.of(labels, reference)
    value = float(per_cent(score.of(labels, predictions), base))
    if not base > 0:
        return Interval(value, None, None, reason=f"the reference's {score.name} is {base:g}, not above 0")
    if np.array_equal(np.asarray(predictions), np.asarray(reference)):
        return Interval(100.0, 100.0, 100.0)
    draws = ratio_draws(score, labels, predictions, reference, resamples=resamples, seed=seed)
    return percentile_interval(value, draws, level=level)


def percentile_interval(value: float, draws: Values, *, level: float = 0.95) -> Interval:
    """An interval from draws, or the reason why there is none.

    Parameters
    ----------
    value
        Of all examples.
    draws
        Shape (resamples,), NaN where there is no value.
    level
        Nominal coverage, in (0, 1).

    Raises
    ------
    RankLabError
        If the level is not in (0, 1).

    Examples
    --------
    >>> percentile_interval(1.0, np.array([1.0, 1.0])).reason
    'all 2 resamples agree, which says nothing of the spread'
    """
    if not 0 < level < 1:
        raise RankLabError(f"level {level!r}: expected a coverage between 0 and 1, such as 0.95.")
    undefined = int(np.isnan(draws).sum())
    if not np.isfinite(value):
        return Interval(value, None, None, undefined, "the score is not defined on all examples")
    if undefined > MAX_UNDEFINED * len(draws):
        return Interval(value, None, None, undefined, f"{undefined} of {len(draws)} resamples have no value")
    kept = draws[~np.isnan(draws)]
    if np.ptp(kept) == 0:
        return Interval(
            value, None, None, undefined, f"all {len(kept)} resamples agree, which says nothing of the spread"
        )
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), undefined)


def paired_test(
    score: Score,
    labels: npt.ArrayLike,
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    *,
    permutations: int = 9999,
    seed: int = 0,
) -> float:
    """Two-sided p value that two sets of predictions of the same examples score alike.

    The two predictions of every example change places at random; the p value is
    the share of such exchanges, the observed one among them, that differ at
    least as much. Of accuracies it tends to McNemar's exact test.

    Parameters
    ----------
    score
        Which.
    labels, first, second
        Shape (examples,).
    permutations, seed
        How many exchanges, and where their randomness starts.

    Returns
    -------
    float
        In [1 / (permutations + 1), 1]; NaN where a score is not defined.

    References
    ----------
    .. [1] Noreen (1989), Computer-Intensive Methods for Testing Hypotheses, chapter 2.

    Examples
    --------
    >>> from rank_lab.scores import SCORES
    >>> paired_test(SCORES["accuracy"], [1] * 20, [1] * 20, [1] * 10 + [0] * 10) < 0.01
    True
    """
    true, left = _checked(labels, first)
    right = _checked(labels, second)[1]
    observed = abs(score.of(true, left) - score.of(true, right))
    generator = np.random.default_rng(seed)
    as_large = 0
    step = max(1, _MOST_ENTRIES // max(1, len(true)))
    for start in range(0, permutations, step):
        swap = generator.random((min(step, permutations - start), len(true))) < 0.5
        rows = np.broadcast_to(true, swap.shape)
        changed = score_rows(score, rows, np.where(swap, right, left))
        differences = np.abs(changed - score_rows(score, rows, np.where(swap, left, right)))
        as_large += int((~(differences < observed * (1 - 1e-12))).sum())  # ties, and no value, count against
    return (1 + as_large) / (1 + permutations) if np.isfinite(observed) else float("nan")


def student_interval(values: npt.ArrayLike, level: float = 0.95) -> tuple[float, float, float]:
    r"""Mean and Student's interval, :math:`\bar y \pm t_{n-1} s / \sqrt n`, of values that are independent.

    Parameters
    ----------
    values
        Shape (n,), finite.
    level
        Nominal coverage.

    Returns
    -------
    tuple of float
        Mean and ends; one value has no interval, whose ends are then NaN, and none has no mean.

    Examples
    --------
    >>> [round(value, 2) for value in student_interval([90.0, 91.0, 92.0])]
    [91.0, 88.52, 93.48]
    """
    from scipy.stats import t

    known = np.asarray(values, np.float64)
    mean = float(known.mean()) if len(known) else float("nan")
    half = float("nan")
    if len(known) > 1:
        half = float(t.ppf((1 + level) / 2, len(known) - 1) * known.std(ddof=1) / np.sqrt(len(known)))
    return mean, mean - half, mean + half


def per_cent(scores: npt.ArrayLike, reference: npt.ArrayLike) -> Values:
    """Scores in per cent of their reference's, NaN where that is 0, negative or not defined.

    Examples
    --------
    >>> per_cent([0.4, 0.4], [0.8, 0.0]).tolist()
    [50.0, nan]
    """
    above, below = np.asarray(scores, np.float64), np.asarray(reference, np.float64)
    valid = below > 0
    return np.where(valid, 100 * above / np.where(valid, below, 1.0), np.nan)


def _checked(labels: npt.ArrayLike, predictions: npt.ArrayLike) -> tuple[Values, Values]:
    true, predicted = np.asarray(labels, np.float64), np.asarray(predictions, np.float64)
    if true.ndim != 1 or true.shape != predicted.shape:
        raise ShapeMismatchError(
            f"labels of shape {true.shape} and predictions of shape {predicted.shape}; expected one entry an example"
            " in both, of the same examples."
        )
    return true, predicted
