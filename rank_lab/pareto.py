"""Learning against forgetting: which models no other beats in both, and how sure that is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rank_lab.errors import RankLabError, ShapeMismatchError
from rank_lab.forgetting import Change
from rank_lab.uncertainty import Interval, percentile_interval

__all__ = ["Front", "TradeOff", "area_of", "forgetting_at", "front_of", "front_shares", "hypervolume", "nondominated"]

Values = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class TradeOff:
    """One model: what it learned, and what it forgot for it.

    Parameters
    ----------
    learning, forgetting
        Each with its draws, where it has any.
    """

    learning: Change
    forgetting: Change


@dataclass(frozen=True)
class Front:
    """Which of some models no other beats.

    Parameters
    ----------
    on_front
        Of each model; a model without both values is on no front.
    share
        Of the resamples in which each is on it; NaN where it is not known.
    hypervolume
        The area that the front dominates, with its interval.
    reference
        Learning and forgetting of the point down to which the area is counted.
    reason
        Why there are no shares; empty where there are.
    """

    on_front: tuple[bool, ...]
    share: tuple[float, ...]
    hypervolume: Interval
    reference: tuple[float, float]
    reason: str = ""


def nondominated(learning: npt.ArrayLike, forgetting: npt.ArrayLike) -> Mask:
    """Which points no other beats: none that learned as much or more and forgot as little or less, but for its equals.

    Parameters
    ----------
    learning, forgetting
        Shape (points,). Equal points are all on the front or all off it; a point without a value is off it.

    Returns
    -------
    numpy.ndarray
        Shape (points,), of bool.

    Raises
    ------
    ShapeMismatchError
        If they are not two arrays of one length.

    Examples
    --------
    >>> nondominated([1.0, 2.0, 1.5], [0.1, 0.3, 0.4]).tolist()
    [True, True, False]
    """
    gained, lost = _both(learning, forgetting)
    front = np.zeros(len(gained), np.bool_)
    places = np.flatnonzero(np.isfinite(gained) & np.isfinite(lost))
    places = places[np.lexsort((lost[places], -gained[places]))]  # most learned first; of equals, least forgotten first
    high, low = gained[places], lost[places]
    first = np.searchsorted(-high, -high)  # of those that learned as much
    least = np.minimum.accumulate(np.concatenate([[np.inf], low]))[first]  # forgotten by those that learned more
    front[places] = (low < least) & (low == low[first])
    return front


def hypervolume(learning: npt.ArrayLike, forgetting: npt.ArrayLike, reference: tuple[float, float]) -> float:
    """Area of all trade-offs that some point is at least as good as, down to a reference.

    Parameters
    ----------
    learning, forgetting
        Shape (points,).
    reference
        Learning and forgetting of the worst trade-off that counts; a point that is worse in either adds nothing. Areas
        with different references cannot be compared.

    Returns
    -------
    float
        In units of learning times those of forgetting; NaN if no point has both values.

    Notes
    -----
    Noise in the points makes it larger, as it counts the luckiest of those that are close; so do resamples of them.

    Raises
    ------
    ShapeMismatchError
        If they are not two arrays of one length.
    RankLabError
        If the reference is not finite.

    References
    ----------
    .. [1] Zitzler & Thiele (1998), Multiobjective Optimization Using Evolutionary Algorithms, doi:10.1007/BFb0056872.

    Examples
    --------
    >>> hypervolume([1.0, 2.0], [1.0, 2.0], (0.0, 3.0))
    3.0
    """
    gained, lost = _both(learning, forgetting)
    if not all(map(math.isfinite, reference)):
        raise RankLabError(f"reference {reference}: expected finite learning and forgetting.")
    known = np.isfinite(gained) & np.isfinite(lost)
    if not known.any():
        return math.nan
    counted = known & (gained > reference[0]) & (lost < reference[1])
    order = np.argsort(lost[counted], kind="stable")
    widths = np.diff(lost[counted][order], append=reference[1])
    heights = np.maximum.accumulate(gained[counted][order]) - reference[0]
    return float(widths @ heights)


def forgetting_at(learning: npt.ArrayLike, forgetting: npt.ArrayLike, level: float) -> float | None:
    """Least forgetting at which a curve reaches a level of learning, on straight lines between neighbours.

    Parameters
    ----------
    learning, forgetting
        Shape (points,), in the curve's order, such as that of its checkpoints. A point without a value breaks the
        curve.
    level
        Of learning.

    Returns
    -------
    float or None
        None where the curve does not reach the level, or passes it only in a gap: nothing is extrapolated.

    Raises
    ------
    ShapeMismatchError
        If they are not two arrays of one length.

    Examples
    --------
    >>> forgetting_at([0.0, 1.0, 2.0], [0.0, 0.2, 0.6], 1.5), forgetting_at([0.0, 1.0, 2.0], [0.0, 0.2, 0.6], 2.5)
    (0.4, None)
    """
    gained, lost = _both(learning, forgetting)
    known = np.isfinite(gained) & np.isfinite(lost)
    found = [float(value) for value in lost[known & (gained == level)]]
    for start in range(len(gained) - 1):
        low, high = sorted((gained[start], gained[start + 1]))
        if known[start] and known[start + 1] and low < level < high:
            share = (level - gained[start]) / (gained[start + 1] - gained[start])
            found.append(float(lost[start] + share * (lost[start + 1] - lost[start])))
    return min(found, default=None)


def front_shares(learning: npt.ArrayLike, forgetting: npt.ArrayLike) -> Values:
    """Share of resamples in which each point is on the front.

    Parameters
    ----------
    learning, forgetting
        Shape (points, resamples).

    Returns
    -------
    numpy.ndarray
        Shape (points,).

    Raises
    ------
    ShapeMismatchError
        If their shapes differ.

    Examples
    --------
    >>> front_shares([[1.0, 1.0], [2.0, 2.0]], [[0.1, 0.1], [0.2, 0.0]]).tolist()
    [0.5, 1.0]
    """
    gained, lost = np.asarray(learning, np.float64), np.asarray(forgetting, np.float64)
    if gained.ndim != 2 or gained.shape != lost.shape:
        raise ShapeMismatchError(
            f"draws of shapes {gained.shape} and {lost.shape}; expected (points, resamples) of both."
        )
    share: Values = np.mean([nondominated(*pair) for pair in zip(gained.T, lost.T, strict=True)], axis=0)
    return share


def front_of(models: Sequence[TradeOff], *, reference: tuple[float, float] | None = None, level: float = 0.95) -> Front:
    """The front of some models, with the share of resamples in which each is on it and its hypervolume's interval.

    Parameters
    ----------
    models
        Scored on the same sets, so that their draws are of the same resamples.
    reference
        As of :func:`hypervolume`; by default no learning, and the most that any of these models forgot.
    level
        Nominal coverage of the interval.

    Raises
    ------
    RankLabError
        If there are no models.

    Examples
    --------
    >>> from rank_lab.forgetting import Change
    >>> models = [TradeOff(Change(1.0), Change(0.1)), TradeOff(Change(0.5), Change(0.2))]
    >>> front = front_of(models)
    >>> front.on_front, front.reference, front.hypervolume.value, front.reason
    ((True, False), (0.0, 0.2), 0.1, '2 of 2 models have no resamples')
    """
    if not models:
        raise RankLabError("a front of no models; expected one at least.")
    gained = np.array([model.learning.value for model in models])
    lost = np.array([model.forgetting.value for model in models])
    known = np.isfinite(gained) & np.isfinite(lost)
    if reference is None:
        reference = (0.0, float(lost[known].max()) if known.any() else 0.0)
    on_front = tuple(nondominated(gained, lost).tolist())
    area = area_of(models, reference, level=level)
    drawn, reason = _draws(models, known)
    share = np.full(len(models), math.nan)
    if drawn is not None:
        share[known] = front_shares(*drawn)
    return Front(on_front, tuple(share.tolist()), area, reference, reason)


def area_of(models: Sequence[TradeOff], reference: tuple[float, float], *, level: float = 0.95) -> Interval:
    """The hypervolume of some models with its interval over resamples.

    Parameters
    ----------
    models
        Scored on the same sets, so that their draws are of the same resamples.
    reference
        As of :func:`hypervolume`.
    level
        Nominal coverage of the interval.

    Raises
    ------
    RankLabError
        If the reference is not finite.

    Examples
    --------
    >>> from rank_lab.forgetting import Change
    >>> area_of([TradeOff(Change(1.0), Change(0.1))], (0.0, 0.2)).value
    0.1
    """
    gained = np.array([model.learning.value for model in models])
    lost = np.array([model.forgetting.value for model in models])
    area = hypervolume(gained, lost, reference)
    drawn, reason = _draws(models, np.isfinite(gained) & np.isfinite(lost))
    if drawn is None:
        return Interval(area, None, None, reason=reason)
    areas = np.array([hypervolume(*pair, reference) for pair in zip(drawn[0].T, drawn[1].T, strict=True)])
    return percentile_interval(area, areas, level=level)


def _draws(models: Sequence[TradeOff], known: Mask) -> tuple[tuple[Values, Values] | None, str]:
    """Learning and forgetting in each resample, of the models that have both values, or why there are none."""
    both = [(m.learning.draws, m.forgetting.draws) for m, has in zip(models, known, strict=True) if has]
    pairs = [(first, second) for first, second in both if first is not None and second is not None]
    if not both:
        return None, "no model has both values"
    if len(pairs) < len(both):
        return None, f"{len(both) - len(pairs)} of {len(both)} models have no resamples"
    return (np.stack([pair[0] for pair in pairs]), np.stack([pair[1] for pair in pairs])), ""


def _both(learning: npt.ArrayLike, forgetting: npt.ArrayLike) -> tuple[Values, Values]:
    gained, lost = np.asarray(learning, np.float64), np.asarray(forgetting, np.float64)
    if gained.ndim != 1 or gained.shape != lost.shape:
        raise ShapeMismatchError(
            f"learning of shape {gained.shape} and forgetting of shape {lost.shape}; expected one entry a point."
        )
    return gained, lost
