"""Least-squares fits of curves that hold and then fall: a grid of knots, many curves at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["SHAPES", "Fits", "Shape", "fit", "shapes_over"]

Values = npt.NDArray[np.float64]

SHAPES = ("plateau", "two_lines", "plateau_fall_floor")
"""Constant, then a falling line; a line, then a steeper falling one; constant, a falling line, constant again."""

_PER_GAP = 16  # knots between two points
_PER_GAP_OF_PAIRS = 6
_MOST_ENTRIES = 4_000_000
_TIE = 1e-9  # of the total sum of squares: knots that fit equally well


@dataclass(frozen=True)
class Shape:
    """One shape with all its knots, made ready for any curve over the same points.

    Parameters
    ----------
    name
        One of :data:`SHAPES`.
    parameters
        How many the shape has, its knots among them.
    knots
        Where it begins to fall, shape (knots,).
    bases
        Orthonormal columns, shape (knots, points, coefficients).
    solve
        From values to coefficients, shape (knots, coefficients, points).
    """

    name: str
    parameters: int
    knots: Values
    bases: Values
    solve: Values


@dataclass(frozen=True)
class Fits:
    """The best shape of each of many curves.

    Parameters
    ----------
    shape
        Its number in the sequence of shapes, -1 where none falls.
    knee, low, high
        Its knot: the middle, first and last of those that fit equally well.
    gain
        BIC of the straight line less BIC of the shape; -inf where none falls.
    fitted
        Its values, shape (curves, points).
    squares
        Its residual sum of squares.
    """

    shape: npt.NDArray[np.intp]
    knee: Values
    low: Values
    high: Values
    gain: Values
    fitted: Values
    squares: Values


def shapes_over(x: Values) -> list[Shape]:
    """All shapes that leave two points or more to judge them by.

    Parameters
    ----------
    x
        Increasing, shape (points,), at least 5.

    Examples
    --------
    >>> [shape.name for shape in shapes_over(np.arange(5.0))]
    ['plateau']
    >>> [shape.name for shape in shapes_over(np.arange(7.0))]
    ['plateau', 'two_lines', 'plateau_fall_floor']
    """
    knots = _grid(x, _PER_GAP, 0, len(x) - 2)
    found = [_shape("plateau", 3, knots, [_columns(x, -np.maximum(x - k, 0)) for k in knots])]
    if len(x) >= 6:
        inner = knots[knots >= x[1]]
        found.append(_shape("two_lines", 4, inner, [_columns(x, -x, -np.maximum(x - k, 0)) for k in inner]))
        coarse = _grid(x, _PER_GAP_OF_PAIRS, 0, len(x) - 2)
        pairs = [(first, last) for i, first in enumerate(coarse) for last in coarse[i + 1 :]]
        falls = [_columns(x, -np.clip((x - first) / (last - first), 0, 1)) for first, last in pairs]
        found.append(_shape("plateau_fall_floor", 4, np.array([first for first, _ in pairs]), falls))
    return found


def fit(x: Values, curves: Values, shapes: Sequence[Shape]) -> Fits:
    """Choose for every curve the shape and knot by BIC.

    Harder on the larger shapes (BIC corrected for few points) it would name
    planted plateaus rightly more often, but then takes gentle slopes for
    plateaus, and the intervals of their knees held 5 in 6 rather than 19 in 20.

    Parameters
    ----------
    x
        Increasing, shape (points,).
    curves
        Shape (curves, points).
    shapes
        Of :func:`shapes_over` the same points.

    Examples
    --------
    >>> x = np.arange(8.0)
    >>> found = fit(x, np.array([[5.0, 5.0, 5.0, 5.0, 4.0, 3.0, 2.0, 1.0]]), shapes_over(x))
    >>> float(found.knee[0]), int(found.shape[0])
    (3.0, 0)
    """
    most = max(len(shape.knots) for shape in shapes)
    step = max(1, _MOST_ENTRIES // most)
    parts = [_fit(x, curves[first : first + step], shapes) for first in range(0, len(curves), step)]
    return Fits(*(np.concatenate([getattr(part, name) for part in parts]) for name in Fits.__dataclass_fields__))


def _grid(x: Values, per_gap: int, first: int, last: int) -> Values:
    parts = [np.linspace(x[i], x[i + 1], per_gap, endpoint=False) for i in range(first, last)]
    return np.concatenate([*parts, x[last : last + 1]])


def _columns(x: Values, *others: Values) -> Values:
    return np.stack([np.ones_like(x), *others], axis=1)


def _shape(name: str, parameters: int, knots: Values, designs: Sequence[Values]) -> Shape:
    stacked = np.stack(designs)
    bases, solve = np.linalg.qr(stacked).Q, np.linalg.pinv(stacked)
    return Shape(name, parameters, knots, np.asarray(bases, np.float64), np.asarray(solve, np.float64))


def _bic(squares: Values, total: Values, points: int, parameters: int) -> Values:
    floor = np.maximum(1e-14 * total, np.finfo(np.float64).tiny)  # an exact fit has no logarithm
    fitted = points * np.log(np.maximum(squares, floor) / points)
    return np.asarray(fitted + parameters * np.log(points), np.float64)


def _fit(x: Values, curves: Values, shapes: Sequence[Shape]) -> Fits:
    centred = curves - curves.mean(axis=1, keepdims=True)
    total = (centred**2).sum(axis=1)
    line = np.linalg.qr(_columns(x, x)).Q
    straight = _bic(total - ((centred @ line) ** 2).sum(axis=1), total, len(x), 2)
    tried = [_best_knot(shape, centred, total) for shape in shapes]
    bics = np.stack([_bic(each[4], total, len(x), shape.parameters) for each, shape in zip(tried, shapes, strict=True)])
    bics = np.where(np.stack([np.isfinite(each[0]) for each in tried]), bics, np.inf)
    best, rows = bics.argmin(axis=0), np.arange(len(curves))
    knee, low, high, fitted, squares = (np.stack([each[i] for each in tried])[best, rows] for i in range(5))
    lowest = bics[best, rows]
    gain = np.where(np.isfinite(lowest), straight - lowest, -np.inf)
    shape = np.where(np.isfinite(lowest), best, -1)
    return Fits(shape, knee, low, high, gain, fitted + curves.mean(axis=1, keepdims=True), squares)


def _best_knot(shape: Shape, centred: Values, total: Values) -> tuple[Values, Values, Values, Values, Values]:
    """Knot, first and last knot that fit as well, fitted values and squares of every curve; NaN where none falls."""
    explained = np.einsum("kpc,bp->bkc", shape.bases, centred, optimize=True)
    squares = np.maximum(total[:, None] - (explained**2).sum(axis=2), 0.0)
    slopes = np.einsum("kcp,bp->bkc", shape.solve[:, 1:], centred, optimize=True)
    falls = slopes[:, :, -1] > 0  # the last column falls from the knot on
    if shape.name == "two_lines":
        falls &= slopes.sum(axis=2) > 0
    squares = np.where(falls, squares, np.inf)
    best = squares.argmin(axis=1)
    rows = np.arange(len(centred))
    least = squares[rows, best]
    ties = squares <= (least + _TIE * total)[:, None]
    low = np.where(ties, shape.knots, np.inf).min(axis=1)
    high = np.where(ties, shape.knots, -np.inf).max(axis=1)
    fitted = np.einsum("bpc,bc->bp", shape.bases[best], explained[rows, best])
    none = ~np.isfinite(least)
    knee = np.where(none, np.nan, (low + high) / 2)
    return knee, np.where(none, np.nan, low), np.where(none, np.nan, high), fitted, least
