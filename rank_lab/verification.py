"""Numbers that were kept against the same numbers computed again: what holds, and what differs in which column.

Floating-point numbers hold where they agree to one part in a million, norms also where they agree to the floor below
which the singular values mean nothing. Counts must be equal, but for a tie: the value or the sum that decides lies on
its threshold to the same precision.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from rank_lab.metrics import ENERGY_SHARES, METRICS
from rank_lab.schema import UPDATES

__all__ = [
    "COMPARED",
    "RESULTS",
    "TOLERANCE",
    "Check",
    "Difference",
    "Result",
    "numbers_differ",
    "row_difference",
    "stratified_sample",
    "values_difference",
]

Result = Literal["holds", "differs", "input changed", "input missing", "not recomputable"]

RESULTS: tuple[Result, ...] = ("holds", "differs", "input changed", "input missing", "not recomputable")
"""What may be said of a row, the best first."""

TOLERANCE = 1e-6
"""Relative difference up to which floating-point numbers are the same: other processors and libraries sum in another
order, which moves the last digits."""

_NOT_COMPARED = frozenset(
    {"run", "method", "optimizer", "learning_rate", "step", "delta", "module", "change_share", "content", "warning"}
)
COMPARED = tuple(name for name in UPDATES.names if name not in _NOT_COMPARED)
"""Columns of ``updates`` that are computed again from the two matrices of the row. The others name the row, are of
the whole model (``change_share``, warnings), or are told by the training."""

_IN_UNITS_OF_WEIGHTS = frozenset({"frobenius_norm", "spectral_norm", "nuclear_norm", "numerical_rank_tolerance"})


@dataclass(frozen=True)
class Difference:
    """One number that is not what it was.

    Parameters
    ----------
    column
        Its name.
    stored, found
        As text: what the study holds, and what comes out now.
    """

    column: str
    stored: str
    found: str


@dataclass(frozen=True)
class Check:
    """What became of one row.

    Parameters
    ----------
    table
        ``"updates"``, ``"subspaces"``, ``"behavioural"``, ``"functional"``, ``"scores"`` or ``"curve"``.
    run
        Of the row; of a curve its seed; of subspaces the comparison, of functional ranks the report.
    row
        Which, in words.
    result
        One of :data:`RESULTS`.
    difference
        The first column that differs.
    reason
        In words, where it does not hold.
    """

    table: str
    run: str
    row: str
    result: Result
    difference: Difference | None = None
    reason: str = ""


def numbers_differ(stored: Any, found: Any, *, floor: float = 0.0) -> bool:
    """Whether two entries of a table are more than rounding apart; missing ones are equal to each other alone.

    Parameters
    ----------
    stored, found
        Numbers, texts or None.
    floor
        Absolute difference that means nothing.

    Examples
    --------
    >>> numbers_differ(1.0, 1.0 + 1e-9), numbers_differ(1.0, 1.001), numbers_differ(None, float("nan"))
    (False, True, False)
    >>> numbers_differ(3, 4), numbers_differ("exact", "partial"), numbers_differ(1.0, None)
    (True, True, True)
    """
    if _missing(stored) or _missing(found):
        return _missing(stored) != _missing(found)
    if isinstance(stored, str) or isinstance(found, str):
        return str(stored) != str(found)
    if _whole(stored) and _whole(found):
        return int(stored) != int(found)
    return not math.isclose(float(stored), float(found), rel_tol=TOLERANCE, abs_tol=floor)


def row_difference(
    stored: Mapping[str, Any], found: Mapping[str, Any], values: npt.NDArray[np.float64]
) -> Difference | None:
    """The first column of :data:`COMPARED` in which a row of ``updates`` differs; None where it holds.

    Parameters
    ----------
    stored, found
        Column to entry, as kept and as computed again.
    values
        Singular values, computed again: they tell a tie of a count from a difference.
    """
    floor = _number(found.get("spectrum_floor"))
    for name in COMPARED:
        slack = floor if name in _IN_UNITS_OF_WEIGHTS else 0.0
        if name == "spectrum_floor":  # itself a bound on rounding, and in units of the weights
            slack = floor * 1e-3
        if numbers_differ(stored[name], found[name], floor=slack) and not _is_tie(name, stored, found, values):
            return Difference(name, _text(stored[name]), _text(found[name]))
    return None


def values_difference(stored: Sequence[float], found: Sequence[float], floor: float) -> Difference | None:
    """The first singular value that differs; None where all hold.

    Parameters
    ----------
    stored, found
        Descending.
    floor
        Below which they mean nothing; NaN for none.

    Examples
    --------
    >>> values_difference([2.0, 1.0], [2.0, 1.5], 0.0)
    Difference(column='singular value 2', stored='1', found='1.5')
    >>> values_difference([2.0, 1e-17], [2.0, 3e-17], 1e-15) is None
    True
    """
    if len(stored) != len(found):
        return Difference("number of singular values", str(len(stored)), str(len(found)))
    one, other = np.asarray(stored, np.float64), np.asarray(found, np.float64)
    apart = ~np.isclose(one, other, rtol=TOLERANCE, atol=_number(floor))
    if not apart.any():
        return None
    first = int(np.argmax(apart))
    return Difference(f"singular value {first + 1}", _text(one[first]), _text(other[first]))


def stratified_sample(strata: Sequence[Any], count: int, seed: int) -> list[int]:
    """Positions of a sample that takes from all strata in turn.

    Parameters
    ----------
    strata
        What the sample shall spread over, an entry a row.
    count
        How many; 0 for all.
    seed
        The same seed and rows give the same sample.

    Examples
    --------
    >>> chosen = stratified_sample(["q"] * 90 + ["up"] * 10, 4, seed=0)
    >>> sorted(["q", "up"][at >= 90] for at in chosen), chosen == stratified_sample(["q"] * 90 + ["up"] * 10, 4, 0)
    (['q', 'q', 'up', 'up'], True)
    """
    if count == 0 or count >= len(strata):
        return list(range(len(strata)))
    random = np.random.default_rng(seed)
    by_stratum: dict[Any, list[int]] = {}
    for position in random.permutation(len(strata)):
        by_stratum.setdefault(strata[position], []).append(int(position))
    turns = [(turn, order, at) for order, own in enumerate(by_stratum.values()) for turn, at in enumerate(own)]
    return sorted(at for _, _, at in sorted(turns)[:count])


def _is_tie(name: str, stored: Mapping[str, Any], found: Mapping[str, Any], values: npt.NDArray[np.float64]) -> bool:
    """Whether a count is one apart because what decides lies on its threshold."""
    if name not in METRICS or _missing(stored[name]) or _missing(found[name]):
        return False
    low, high = sorted((int(stored[name]), int(found[name])))
    if high - low != 1 or not 0 < high <= len(values):
        return False
    for percent in ENERGY_SHARES:
        if name == f"energy_rank_{percent}" and low > 0:
            energy = float((values[:low] ** 2).sum()) / _number(found["frobenius_norm"]) ** 2
            return math.isclose(energy, percent / 100, rel_tol=TOLERANCE)
    if name == "numerical_rank":
        tolerance = _number(found["numerical_rank_tolerance"])
        slack = max(TOLERANCE * tolerance, _number(found.get("spectrum_floor")))
        return abs(float(values[high - 1]) - tolerance) <= slack
    return False


def _missing(value: Any) -> bool:
    return value is None or value is pd.NA or value != value


def _whole(value: Any) -> bool:
    return isinstance(value, int | np.integer)


def _number(value: Any) -> float:
    return 0.0 if _missing(value) else float(value)


def _text(value: Any) -> str:
    if _missing(value):
        return "missing"
    return f"{float(value):.9g}" if isinstance(value, float | np.floating) else str(value)
