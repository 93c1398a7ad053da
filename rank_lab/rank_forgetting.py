"""Which layers' rank goes with forgetting: rank correlations over runs, and how many of them chance would give.

The unit is a run: checkpoints of one run are no independent observations, so
each run enters once. More training moves rank and forgetting alike; the partial
correlation given what was learned takes that out.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from rank_lab.errors import RankLabError, ShapeMismatchError
from rank_lab.uncertainty import percentile_interval

__all__ = ["MIN_RUNS", "Association", "Correlation", "Sampling", "associations", "holm", "rank_correlation"]

Values = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]

MIN_RUNS = 8
"""Independent runs below which no correlation is given: of seven, one correlation in thirty of unrelated numbers is
0.8 or more."""

_SAME = 1e-9


@dataclass(frozen=True)
class Sampling:
    """How p values and intervals are made.

    Parameters
    ----------
    permutations
        Exchanges of runs; the smallest p value is one in as many, and one.
    resamples
        Of the runs, for the interval.
    seed
        Where their randomness starts.
    level
        Nominal coverage of the interval.
    """

    permutations: int = 9999
    resamples: int = 1000
    seed: int = 0
    level: float = 0.95


@dataclass(frozen=True)
class Correlation:
    """A rank correlation over runs.

    Parameters
    ----------
    value
        Spearman's; NaN where there is none.
    low, high
        Ends of its bootstrap interval over runs; None where there is none.
    p
        Two-sided, by permutation of runs.
    runs
        How many have all values.
    reason
        Why there is no value or no interval; empty where there are both.
    """

    value: float
    low: float | None
    high: float | None
    p: float
    runs: int
    reason: str = ""


@dataclass(frozen=True)
class Association:
    """How the rank of one matrix, or kind of matrices, goes with forgetting.

    Parameters
    ----------
    item
        Which.
    correlation
        Of its rank and forgetting.
    p_bh, p_holm
        Its p value, corrected over all items tested: Benjamini and Hochberg's bounds the share of false ones among
        those called, Holm's the chance of any. NaN where there is no p value.
    partial, partial_p_bh, partial_p_holm
        The same given what was learned; None and NaN where learning was not given.
    """

    item: str
    correlation: Correlation
    p_bh: float
    p_holm: float
    partial: Correlation | None = None
    partial_p_bh: float = math.nan
    partial_p_holm: float = math.nan


def rank_correlation(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    given: npt.ArrayLike | None = None,
    *,
    sampling: Sampling | None = None,
) -> Correlation:
    r"""Spearman's correlation over runs, or the partial one given a third quantity.

    Partial is the correlation of what is left of the ranks after a straight
    line in the ranks of the third; its p value is Freedman and Lane's.

    Parameters
    ----------
    first, second
        Shape (runs,), one entry an independent run. Runs without a value are left out.
    given
        Shape (runs,); None for the plain correlation.
    sampling
        Of p value and interval.

    Returns
    -------
    Correlation
        Without a value below :data:`MIN_RUNS` runs, or where a quantity is the same in all runs.

    Raises
    ------
    ShapeMismatchError
        If they are not arrays of one length.

    References
    ----------
    .. [1] Freedman & Lane (1983), A Nonstochastic Interpretation of Reported Significance Levels,
       doi:10.2307/1391660.

    Examples
    --------
    >>> found = rank_correlation(range(10), [1, 0, 2, 3, 5, 4, 6, 7, 9, 8])
    >>> round(found.value, 3), found.p < 0.001, found.runs
    (0.964, True, 10)
    >>> rank_correlation([1, 2, 3], [1, 2, 3]).reason
    '3 independent runs, of which 8 at least are needed'
    """
    sampling = sampling or Sampling()
    rows = _known(first, second, given)
    runs = rows.shape[1]
    if runs < MIN_RUNS:
        return _none(runs, f"{runs} independent runs, of which {MIN_RUNS} at least are needed")
    if (np.ptp(rows, axis=1) == 0).any():
        return _none(runs, "a quantity is the same in all runs")
    left = _left(_ranks(rows))
    if (np.linalg.norm(left, axis=-1) < _SAME * runs).any():
        return _none(runs, "what was learned tells the order of all runs, so that nothing is left to correlate")
    value = float(_cosine(left[0], left[1]))
    orders, chosen = _drawn(sampling.seed, sampling.permutations, sampling.resamples, runs)
    p = _permutation_p(rows, left, value, orders)
    draws = _resampled(rows, chosen)
    interval = percentile_interval(value, draws, level=sampling.level)
    return Correlation(value, interval.low, interval.high, p, runs, interval.reason)


def associations(
    ranks: Mapping[str, npt.ArrayLike],
    forgetting: npt.ArrayLike,
    learning: npt.ArrayLike | None = None,
    *,
    sampling: Sampling | None = None,
) -> tuple[Association, ...]:
    """How the rank of each item goes with forgetting, corrected for how many were looked at.

    Parameters
    ----------
    ranks
        Item to the ranks of all runs, shape (runs,).
    forgetting, learning
        Shape (runs,); learning None for no partial correlation.
    sampling
        Of p values and intervals.

    Raises
    ------
    ShapeMismatchError
        If they are not of one length.

    References
    ----------
    .. [1] Benjamini & Hochberg (1995), doi:10.1111/j.2517-6161.1995.tb02031.x; Holm (1979), A simple sequentially
       rejective multiple test procedure.

    Examples
    --------
    >>> found = associations({"q": range(10), "v": [3, 1, 4, 1, 5, 9, 2, 6, 5, 3]}, range(10))
    >>> [each.item for each in found if each.p_holm < 0.05]
    ['q']
    """
    plain = [rank_correlation(values, forgetting, sampling=sampling) for values in ranks.values()]
    given = [] if learning is None else [
        rank_correlation(values, forgetting, learning, sampling=sampling) for values in ranks.values()
    ]  # fmt: skip
    found = []
    corrected, partial = _corrected(plain), _corrected(given)
    for index, item in enumerate(ranks):
        rest = (given[index], *partial[index]) if given else ()
        found.append(Association(item, plain[index], *corrected[index], *rest))
    return tuple(found)


def holm(p_values: npt.ArrayLike) -> Values:
    """Holm's corrected p values, in the order given.

    Parameters
    ----------
    p_values
        Shape (tests,), in [0, 1].

    Raises
    ------
    RankLabError
        If one is not in [0, 1].

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03]).round(12).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise RankLabError("a p value is not in [0, 1].")
    order = np.argsort(p, kind="stable")
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return corrected


def _corrected(found: Sequence[Correlation]) -> list[tuple[float, float]]:
    from scipy.stats import false_discovery_control

    p = np.array([each.p for each in found])
    tested = np.isfinite(p)
    both = np.full((len(p), 2), math.nan)
    if tested.any():
        both[tested, 0] = false_discovery_control(p[tested], method="bh")
        both[tested, 1] = holm(p[tested])
    return [(float(first), float(second)) for first, second in both]


def _known(first: npt.ArrayLike, second: npt.ArrayLike, given: npt.ArrayLike | None) -> Values:
    arrays = [np.asarray(each, np.float64) for each in (first, second, *([] if given is None else [given]))]
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1 or arrays[0].ndim != 1:
        raise ShapeMismatchError(f"values of shapes {', '.join(map(str, shapes))}; expected one entry a run in each.")
    rows = np.stack(arrays)
    return rows[:, np.isfinite(rows).all(axis=0)]


def _ranks(rows: Values) -> Values:
    """Ranks along the last axis, around their mean; ties have their mean rank."""
    from scipy.stats import rankdata

    ranks: Values = rankdata(rows, axis=-1) - (rows.shape[-1] + 1) / 2
    return ranks


def _left(ranks: Values) -> Values:
    """The first two of (..., quantities, runs), less a straight line in the third where there is one."""
    if ranks.shape[-2] == 2:
        return ranks
    line = ranks[..., 2:, :]
    size = (line**2).sum(axis=-1, keepdims=True)
    slope = (ranks[..., :2, :] * line).sum(axis=-1, keepdims=True) / np.where(size > 0, size, 1.0)
    left: Values = ranks[..., :2, :] - slope * line
    return left


def _cosine(first: Values, second: Values) -> Values:
    size = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    return np.where(size > _SAME, (first * second).sum(axis=-1) / np.where(size > _SAME, size, 1.0), np.nan)


@lru_cache(maxsize=4)
def _drawn(seed: int, permutations: int, resamples: int, runs: int) -> tuple[Places, Places]:
    """Exchanges and resamples of runs, the same for every item: of hundreds of matrices they are drawn once."""
    generator = np.random.default_rng(seed)
    unmoved = np.broadcast_to(np.arange(runs, dtype=np.intp), (permutations, runs))
    orders, chosen = generator.permuted(unmoved, axis=1), generator.integers(0, runs, (resamples, runs))
    for each in (orders, chosen):
        each.flags.writeable = False
    return orders, chosen


def _permutation_p(rows: Values, left: Values, value: float, orders: Places) -> float:
    """Share of exchanges of what is left of the second that correlate as much; the observed one counts."""
    shuffled = left[1][orders]
    if len(rows) == 3:  # Freedman and Lane: the line is taken out of each exchange again
        line = _ranks(rows[2])
        shuffled = shuffled - (shuffled @ line)[:, None] * line / (line @ line)
    reached = np.abs(_cosine(left[0], shuffled)) >= abs(value) - 1e-12
    return float((1 + reached.sum()) / (1 + len(orders)))


def _resampled(rows: Values, chosen: Places) -> Values:
    left = _left(_ranks(np.moveaxis(rows[:, chosen], 0, 1)))
    return _cosine(left[:, 0], left[:, 1])


def _none(runs: int, reason: str) -> Correlation:
    return Correlation(math.nan, None, None, math.nan, runs, reason)
