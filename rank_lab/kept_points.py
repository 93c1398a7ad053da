"""Which values of a spectrum a plot needs: few, and those where something happens among them."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

__all__ = ["MAX_POINTS", "kept_points"]

MAX_POINTS = 240
"""Of one drawn spectrum: one more would not be seen."""

_CLIFFS = 8  # steepest falls whose both sides are kept

Values = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]


def kept_points(values: Values, places: Iterable[float] = (), points: int = MAX_POINTS) -> Indices:
    """Places of a descending spectrum to draw: even on a logarithmic axis, and nothing lost that is looked for.

    Parameters
    ----------
    values
        Descending, not negative.
    places
        1-based and perhaps fractional: the values on both sides of each are kept.
    points
        The most that are kept; more only where ``places`` alone ask for more.

    Returns
    -------
    ndarray
        0-based, ascending: the first and the last value, the last that is not zero, both sides of ``places`` and of the
        8 steepest falls, and from the rest as many as there is room for, evenly on a logarithmic axis. Everything,
        where that is no more than ``points``.

    Notes
    -----
    O(n log n) for n values.

    Examples
    --------
    >>> kept_points(np.array([4.0, 3.0, 2.0, 1.0]), points=3).tolist()
    [0, 2, 3]
    >>> found = kept_points(1.0 / np.arange(1, 4097), [1000.5], points=64)
    >>> len(found), {0, 999, 1000, 4095} <= set(found.tolist())
    (64, True)
    """
    count = len(values)
    if count <= points:
        return np.arange(count, dtype=np.intp)
    positive = int(np.count_nonzero(values > 0))
    sides = [side for place in places for side in (int(np.floor(place)) - 1, int(np.ceil(place)) - 1)]
    needed = np.array([0, count - 1, max(positive - 1, 0), *sides], dtype=np.intp)
    kept = np.unique(needed[(needed >= 0) & (needed < count)])
    for fall in _cliffs(values[:positive]):
        with_fall = np.union1d(kept, [fall, fall + 1])
        if len(with_fall) > points:
            break
        kept = with_fall
    return np.asarray(_filled(kept, count, points), dtype=np.intp)


def _cliffs(positive: Values) -> list[int]:
    """Where the steepest falls begin, the steepest first."""
    if len(positive) < 2:
        return []
    falls = np.diff(np.log(positive))
    steepest = np.argsort(falls, kind="stable")[:_CLIFFS]
    return [int(place) for place in steepest if falls[place] < 0]


def _filled(kept: Indices, count: int, points: int) -> Indices:
    """With as fine an even grid as there is room for."""
    low, high, best = 1, count, kept
    while low <= high:
        middle = (low + high) // 2
        grid = np.rint(np.geomspace(1, count, middle)).astype(np.intp) - 1
        joined = np.union1d(kept, grid)
        if len(joined) <= points:
            low, best = middle + 1, joined
        else:
            high = middle - 1
    rest = np.setdiff1d(np.arange(count), best)  # the grid grows in steps: what is left goes to the far end
    return np.union1d(best, rest[len(rest) - max(points - len(best), 0) :])
