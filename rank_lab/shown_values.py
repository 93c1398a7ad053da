"""Values of one quantity as every table and figure shows them: with interval, null, bound, and why one is not there."""

from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from rank_lab.errors import RankLabError
from rank_lab.metrics import METRICS
from rank_lab.schema import DENOISED, RANKS
from rank_lab.scores import nearest
from rank_lab.told_ranks import blurred, floats, told

__all__ = ["OVER", "PLAIN_QUANTITIES", "SHOWN", "STATES", "Over", "quantity_label", "shown_arrays", "shown_values"]

Over: TypeAlias = Literal["", "bound", "null"]
OVER: tuple[Over, ...] = ("", "bound", "null")
"""What a rank may be divided by: nothing, the largest rank its shape and factors allow, what noise would show."""

PLAIN_QUANTITIES = {
    "relative_frobenius": "‖ΔW‖F / ‖W‖F",
    "relative_spectral": "‖ΔW‖₂ / ‖W‖₂",
    "change_share": "share of the squared change",
    "rank_above_rounding": "directions above rounding",
    "rank_above_iid": "directions above i.i.d. noise",
    "identical_fraction": "share of identical entries",
    "rounding_energy_fraction": "share of ‖ΔW‖² that is rounding",
}
"""Columns of a report that are no quantity of a spectrum, with what axes call them."""

SHOWN = (*METRICS, *PLAIN_QUANTITIES)
"""What can be shown of a matrix."""

STATES = ("value", "zero", "unresolved", "missing")
"""A number; an update that is exactly zero; one whose rank the rounding of the files hides; a quantity that has no
value, as it does not apply or was not measured."""

Values = npt.NDArray[np.float64]


def shown_values(rows: pd.DataFrame, metric: str, over: Over = "") -> pd.DataFrame:
    r"""One quantity of every row, as far as the files tell it.

    Parameters
    ----------
    rows
        Of a report's ``updates``.
    metric
        One of :data:`SHOWN`. A rank is the one without rounding where that was measured.
    over
        Divide a rank by its bound or by its null (of factors, that of random factors).

    Returns
    -------
    pandas.DataFrame
        With the index of ``rows``: ``value``, ``low`` and ``high`` (95 % interval, where one was measured), ``null``,
        ``bound`` and ``state``, one of :data:`STATES`. All of them divided alike; ``value`` is there in the
        states ``value`` and ``zero`` alone, of the latter only for what has a value without any direction.

    Raises
    ------
    RankLabError
        If the metric is not known, or ``over`` is asked of something that counts no directions.

    Examples
    --------
    >>> rows = pd.DataFrame({"effective_rank": [6.0, 5.0], "effective_rank_denoised": [None, None],
    ...     "effective_rank_denoised_low": [None, None], "effective_rank_denoised_high": [None, None],
    ...     "null_effective_rank": [8.0, 8.0], "factor_null_effective_rank": [None, None], "rank_bound": [12, 12],
    ...     "noise_regime": ["exact", "unresolved"], "frobenius_norm": [1.0, 1.0], "rank_above_rounding": [None, None]})
    >>> shown_values(rows, "effective_rank", "null")[["value", "state"]].to_dict("list")
    {'value': [0.75, nan], 'state': ['value', 'unresolved']}
    """
    return pd.DataFrame(shown_arrays(rows, metric, over), index=rows.index)


def shown_arrays(rows: pd.DataFrame, metric: str, over: Over = "") -> dict[str, npt.NDArray[Any]]:
    """The same columns as arrays: of one row and all quantities, tables take ten times as long as their numbers.

    Parameters
    ----------
    rows, metric, over
        See :func:`shown_values`.

    Raises
    ------
    RankLabError
        As :func:`shown_values`.
    """
    _check(metric, over)
    is_rank = metric in RANKS
    low, high = _interval(rows, metric)
    nothing = np.full(len(rows), np.nan)
    numbers = {
        "value": _told(rows, metric), "low": low, "high": high, "null": _null(rows, metric) if is_rank else nothing,
        "bound": floats(rows, "rank_bound") if is_rank else nothing,
    }  # fmt: skip
    if over:
        divisor = np.where(numbers[over] > 0, numbers[over], np.nan)
        numbers = {name: values / divisor for name, values in numbers.items()}
    zero = floats(rows, "frobenius_norm") == 0
    gone = np.isnan(numbers["value"])
    state = np.select([zero, gone & blurred(rows), gone], ["zero", "unresolved", "missing"], "value")
    return numbers | {"state": state}


def quantity_label(metric: str, over: Over = "") -> str:
    """Name of a quantity on an axis, with what it is divided by.

    Examples
    --------
    >>> quantity_label("energy_rank_90", "null"), quantity_label("spectral_norm")
    ('k90 / null', 'σ₁')
    """
    _check(metric, over)
    symbol = METRICS[metric].symbol if metric in METRICS else PLAIN_QUANTITIES[metric]
    return f"{symbol} / {over}" if over else symbol


def _check(metric: str, over: str) -> None:
    if metric not in SHOWN:
        raise RankLabError(f"quantity {metric!r} is not known. Nearest: {nearest(metric, SHOWN)}.")
    if over not in OVER:
        raise RankLabError(f"divided by {over!r}; expected one of 'bound', 'null' or nothing.")
    if over and metric not in RANKS:
        raise RankLabError(f"{metric} counts no directions, so that it has neither bound nor null; show it as it is.")


def _told(rows: pd.DataFrame, metric: str) -> Values:
    if metric not in RANKS:
        return floats(rows, metric)
    if f"{metric}_denoised" in DENOISED or metric == "numerical_rank":
        return np.asarray(told(rows, metric))
    hidden = blurred(rows) & (floats(rows, "frobenius_norm") > 0)
    return np.where(hidden, np.nan, floats(rows, metric))  # of these ranks none without rounding was measured


def _interval(rows: pd.DataFrame, metric: str) -> tuple[Values, Values]:
    column = "rank_above_rounding" if metric == "numerical_rank" else f"{metric}_denoised"
    column = metric if metric.startswith("rank_above_") else column
    if f"{column}_low" not in rows.columns:
        nothing = np.full(len(rows), np.nan)
        return nothing, nothing
    return floats(rows, f"{column}_low"), floats(rows, f"{column}_high")


def _null(rows: pd.DataFrame, metric: str) -> Values:
    factors = floats(rows, f"factor_null_{metric}")
    return np.where(np.isnan(factors), floats(rows, f"null_{metric}"), factors)
