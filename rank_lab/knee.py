r"""Where a curve begins to fall, with an interval, or the reason why nothing can be said.

A knee is the knot of the best of three continuous shapes
(:data:`rank_lab.segments.SHAPES`) that fit the curve better than a straight
line, by a margin in BIC that straight lines with the same noise reach in 5 %
of cases. It depends on the axis: the same curve over a threshold and over its
logarithm bends elsewhere or not at all, so that the axis is named in the result.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rank_lab.errors import RankLabError
from rank_lab.scores import Score
from rank_lab.segments import Fits, Shape, fit, shapes_over
from rank_lab.uncertainty import MAX_UNDEFINED, bootstrap_draws, per_cent, student_interval

__all__ = ["LEAST_POINTS", "Knee", "find_knee", "knee_of_predictions", "knee_over_seeds"]

Values = npt.NDArray[np.float64]

LEAST_POINTS = 5
"""Points of a curve below which no shape can be told from a line."""

SIGNIFICANCE = 0.05
"""How often a straight or flat curve may pass for one with a knee."""

_TWO_SIDED = 1.96  # standard deviations that 5 % of normal noise exceeds
_WIDEST = 0.75  # of the range: an interval that says nothing
_LEAST_SHARE = 0.8  # of the resamples must have a knee at all


@dataclass(frozen=True)
class Knee:
    """Where a curve begins to fall.

    Parameters
    ----------
    value, low, high
        On the axis; None where there is no knee.
    axis
        What the curve was drawn over, as the caller named it.
    shape
        Which of :data:`rank_lab.segments.SHAPES` fits best, which few points
        cannot tell for sure: a plateau may be a gentle slope; empty without a knee.
    reason
        Why there is none; empty with a knee.
    p_value
        How often a straight line with such noise bends as much; None where that was not asked.
    points
        Different places of the curve; over seeds: how many seeds had a knee.
    """

    value: float | None
    low: float | None
    high: float | None
    axis: str
    shape: str = ""
    reason: str = ""
    p_value: float | None = None
    points: int = 0


def find_knee(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    draws: npt.ArrayLike | None = None,
    *,
    axis: str,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Knee:
    r"""The knee of one curve.

    The straight line is rejected twice: against independent noise, and, where
    draws are given, against noise as they spread around the curve, examples
    being shared by all points. The interval is that of curves made of the fitted
    shape and such noise, with more independent noise where the curve lies
    farther from the shape than the draws explain; each chooses its shape anew.

    Parameters
    ----------
    x
        Shape (points,): a threshold, the logarithm of a parameter count with its
        sign changed, the share of gates that are zero. Sparsity grows with it.
        Points are put in its order, and those at the same place averaged.
    y
        Memorization, generalization or a score, shape (points,).
    draws
        The same of resampled examples, shape (resamples, points); see :func:`knee_of_predictions`.
    axis
        Name of ``x``, kept in the result.
    level
        Nominal coverage of the interval.
    resamples, seed
        Curves made for the test and for the interval, and their randomness.

    Returns
    -------
    Knee
        Without value where the curve is flat within its noise, no better than a
        straight line, bends without a fall beyond its noise, falls from the first point on, falls at its last point
        only, has fewer than :data:`LEAST_POINTS` points, or its knee may lie
        almost anywhere.

    Raises
    ------
    RankLabError
        If the arrays do not fit, or a place is no number.

    Notes
    -----
    Measured on planted curves of 8 points that fall by 20 of 100 with a noise of
    1 (tests/test_knee.py): straight, flat and rising curves and those that fall at once
    are refused in at least 93 of 100, and 95 % intervals hold the planted knee in at least 90
    of 100 where the draws tell of all noise, or of none and it is independent;
    where they tell of half of a noise that neighbours share, in at least 80.

    Examples
    --------
    >>> x = np.linspace(0.0, 1.0, 9)
    >>> noise = np.random.default_rng(1).normal(0, 0.3, 9)
    >>> knee = find_knee(x, 100 - 60 * np.maximum(x - 0.5, 0) + noise, axis="zero gates")
    >>> knee.shape, knee.low < 0.5 < knee.high, round(knee.value, 1)
    ('plateau', True, 0.5)
    >>> find_knee(x, 100 - 60 * x + noise, axis="zero gates").reason
    'a straight line fits as well'
    """
    points, values, merge = _places(x, y)
    spread = _deviations(draws, merge)
    refused = _refused_at_once(points, values, spread)
    if refused:
        return Knee(None, None, None, axis, reason=refused, points=len(points))
    unit = (points - points[0]) / (points[-1] - points[0])
    shapes, generator = shapes_over(unit), np.random.default_rng(seed)
    best = fit(unit, values[None], shapes)
    p_value = _p_value(unit, float(best.gain[0]), shapes, spread, generator, resamples)
    reason = _no_knee(unit, best, shapes, p_value) or _small_fall(unit, best, spread)
    if not reason:
        noise = _noise(unit, best, shapes, spread, generator, resamples)
        low, high, reason = _interval(unit, fit(unit, best.fitted + noise, shapes), level)
    if reason:
        return Knee(None, None, None, axis, reason=reason, p_value=p_value, points=len(points))
    value, low, high = (float(points[0] + at * (points[-1] - points[0])) for at in (best.knee[0], low, high))
    return Knee(value, low, high, axis, shapes[int(best.shape[0])].name, "", p_value, len(points))


def knee_of_predictions(
    score: Score,
    labels: npt.ArrayLike,
    stages: Sequence[npt.ArrayLike],
    reference: npt.ArrayLike,
    x: npt.ArrayLike,
    *,
    axis: str,
    seed: int = 0,
) -> Knee:
    """The knee of memorization or generalization, with examples resampled jointly over stages and reference.

    Parameters
    ----------
    score
        Which.
    labels
        Shape (examples,).
    stages
        Predictions of the same examples, in the order of ``x``.
    reference
        The predictions that are 100 per cent.
    x, axis, seed
        As of :func:`find_knee`; 1000 resamples.

    Examples
    --------
    >>> from rank_lab.scores import SCORES
    >>> labels, right = np.ones(400), [380, 381, 379, 380, 380, 340, 300, 260, 220]
    >>> stages = [(np.arange(400) < count) * 1.0 for count in right]
    >>> knee = knee_of_predictions(SCORES["accuracy"], labels, stages, stages[0], range(9), axis="threshold")
    >>> knee.low <= 4 <= knee.high
    True
    """
    base = bootstrap_draws(score, labels, reference, seed=seed)
    draws = [per_cent(bootstrap_draws(score, labels, stage, seed=seed), base) for stage in stages]
    values = per_cent([score.of(labels, stage) for stage in stages], score.of(labels, reference))
    return find_knee(x, values, np.stack(draws, axis=1), axis=axis, seed=seed)


def knee_over_seeds(knees: Sequence[Knee], *, level: float = 0.95) -> Knee:
    """The mean of the knees of several seeds, with the interval of Student's t over them.

    Parameters
    ----------
    knees
        One a seed, on the same axis.
    level
        Nominal coverage.

    Returns
    -------
    Knee
        Without value where fewer than two, or fewer than three quarters of the
        seeds have a knee: those that have would not speak for the others.

    Raises
    ------
    RankLabError
        If they are on different axes.

    Examples
    --------
    >>> seeds = [Knee(value, None, None, "threshold") for value in (1.0, 1.2, 1.4)]
    >>> found = knee_over_seeds(seeds)
    >>> round(found.value, 3), round(found.low, 3), round(found.high, 3), found.points
    (1.2, 0.703, 1.697, 3)
    """
    axes = sorted({knee.axis for knee in knees})
    if len(axes) > 1:
        raise RankLabError(f"knees on the axes {', '.join(axes)}: expected one axis, for a mean of two has no meaning.")
    axis = axes[0] if axes else ""
    found = np.array([knee.value for knee in knees if knee.value is not None])
    if len(found) < 2 or len(found) < 0.75 * len(knees):
        reason = f"{len(found)} of {len(knees)} seeds have a knee"
        return Knee(None, None, None, axis, reason=reason, points=len(found))
    mean, low, high = student_interval(found, level)
    shapes = sorted({knee.shape for knee in knees if knee.value is not None})
    return Knee(mean, low, high, axis, ", ".join(shapes), points=len(found))


def _places(x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Values, Values, Values]:
    """Different places in order, the mean value at each, and the matrix (points, places) that takes these means."""
    given, values = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if given.ndim != 1 or given.shape != values.shape:
        raise RankLabError(f"a curve of {given.shape} places and {values.shape} values: expected one value a place.")
    if not np.isfinite(given).all():
        raise RankLabError(f"places {given.tolist()} of a curve: expected finite numbers.")
    places, where = np.unique(given, return_inverse=True)
    merge = (where[:, None] == np.arange(len(places))).astype(np.float64)
    merge /= np.maximum(merge.sum(axis=0), 1)
    return places, values @ merge, merge


def _deviations(draws: npt.ArrayLike | None, merge: Values) -> Values | None:
    """Rows of the draws less their mean, those without a value left out; None where they do not spread."""
    if draws is None:
        return None
    rows = np.asarray(draws, np.float64)
    if rows.ndim != 2 or rows.shape[1] != len(merge) or not len(rows):
        raise RankLabError(f"draws of shape {rows.shape}: expected a column for each of {len(merge)} points, and rows.")
    kept = rows[np.isfinite(rows).all(axis=1)] @ merge
    if len(kept) < (1 - MAX_UNDEFINED) * len(rows):
        return np.empty((0, merge.shape[1]))
    deviations = kept - kept.mean(axis=0)
    return deviations if np.abs(deviations).max() > 0 else None


def _refused_at_once(points: Values, values: Values, spread: Values | None) -> str:
    if len(points) < LEAST_POINTS:
        return f"{len(points)} points, at least {LEAST_POINTS} are needed"
    if not np.isfinite(values).all():
        return "a point has no value"
    if np.ptp(values) == 0:
        return "all points are equal"
    if spread is None:
        return ""
    if not len(spread):
        return f"more than {MAX_UNDEFINED:.0%} of the resamples have no value"
    moved = ((values - values.mean()) ** 2).sum()
    by_chance = ((spread - spread.mean(axis=1, keepdims=True)) ** 2).sum(axis=1) >= moved
    return "flat within its noise" if (1 + by_chance.sum()) / (1 + len(spread)) > SIGNIFICANCE else ""


def _p_value(
    x: Values, gain: float, shapes: list[Shape], spread: Values | None, generator: np.random.Generator, resamples: int
) -> float:
    """The larger of two: against independent noise, and against noise as the draws have it."""
    nulls = [generator.standard_normal((resamples, len(x)))]
    if spread is not None:
        nulls.append(spread)
    return max(float((1 + (fit(x, null, shapes).gain >= gain).sum()) / (1 + len(null))) for null in nulls)


def _no_knee(x: Values, best: Fits, shapes: list[Shape], p_value: float) -> str:
    if best.shape[0] < 0:
        return "it does not fall after a plateau or a gentler slope"
    if p_value > SIGNIFICANCE:
        return "a straight line fits as well"
    if best.high[0] >= x[-2]:
        return "it falls at the last point only; add points beyond"
    at_edge = best.low[0] <= x[1] if shapes[int(best.shape[0])].name == "two_lines" else best.knee[0] < x[1]
    return "it falls from the first point on; add points before" if at_edge else ""


def _small_fall(x: Values, best: Fits, spread: Values | None) -> str:
    """A bend alone is no knee: from there to the end a curve must lose more than its examples can explain."""
    if spread is None:
        return ""
    knee = int(np.searchsorted(x, best.knee[0], side="right")) - 1
    fall = best.fitted[0, knee] - best.fitted[0, -1]
    noise = float((spread[:, knee] - spread[:, -1]).std())
    return "it bends, but does not fall beyond its noise" if fall <= _TWO_SIDED * noise else ""


def _noise(
    x: Values, best: Fits, shapes: list[Shape], spread: Values | None, generator: np.random.Generator, resamples: int
) -> Values:
    """What is added to the fitted shape: draws around it, and independent noise for what they do not explain."""
    freedom = len(x) - shapes[int(best.shape[0])].parameters
    rows = np.zeros((resamples, len(x)))
    explained = 0.0
    if spread is not None:
        rows = spread[generator.integers(0, len(spread), resamples)]
        explained = float(fit(x, best.fitted + rows, shapes).squares.mean()) / freedom
    rest = max(0.0, float(best.squares[0]) / freedom - explained)
    scale = np.sqrt(rest * freedom / generator.chisquare(freedom, (resamples, 1)))  # the variance is itself estimated
    return np.asarray(rows + scale * generator.standard_normal(rows.shape), np.float64)


def _interval(x: Values, fits: Fits, level: float) -> tuple[float, float, str]:
    found = np.isfinite(fits.knee)
    if found.mean() < _LEAST_SHARE:
        return 0.0, 0.0, f"only {found.mean():.0%} of the resamples have a knee"
    last = fits.high[found] >= x[-2]  # between the last two points no place is better than another
    low = float(np.quantile(fits.low[found], (1 - level) / 2))
    high = float(np.quantile(np.where(last, x[-1], fits.high[found]), (1 + level) / 2))
    if high - low > _WIDEST * (x[-1] - x[0]):
        return low, high, "its place is uncertain over most of the range"
    return low, high, ""
