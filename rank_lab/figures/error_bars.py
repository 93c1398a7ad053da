"""Intervals as bars around points; a point without an interval has none."""

from typing import Any

import numpy as np
import pandas as pd

__all__ = ["bars", "floats", "interval_words", "plain_rows"]


def floats(values: "pd.Series[Any]") -> list[float | None]:
    """Numbers for plotly; missing ones as None, which leaves a gap.

    Examples
    --------
    >>> floats(pd.Series([1, None], dtype="Int64"))
    [1.0, None]
    """
    numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    return [float(each) if np.isfinite(each) else None for each in numbers]


def plain_rows(rows: pd.DataFrame, *names: str) -> list[list[Any]]:
    """What a click on a point gives: these columns of each row, missing ones as None.

    Examples
    --------
    >>> plain_rows(pd.DataFrame({"run": ["a"], "step": pd.array([None], "Int64")}), "run", "step")
    [['a', None]]
    """
    return [[None if pd.isna(row[name]) else row[name] for name in names] for row in rows.to_dict("records")]


def bars(rows: pd.DataFrame, name: str, *, low: str = "", high: str = "", **look: Any) -> dict[str, Any]:
    """Plotly's error bars from the ends of an interval.

    Parameters
    ----------
    rows
        With ``name`` and its ends.
    name
        Column of the value.
    low, high
        Columns of the ends; default ``NAME_low`` and ``NAME_high``.
    look
        Further settings, such as the colour.

    Examples
    --------
    >>> rows = pd.DataFrame({"y": [1.0, 2.0], "y_low": [0.5, None], "y_high": [2.5, None]})
    >>> found = bars(rows, "y")
    >>> found["array"], found["arrayminus"]
    ([1.5, None], [0.5, None])
    """
    value, below, above = (rows[each] for each in (name, low or f"{name}_low", high or f"{name}_high"))
    return {
        "type": "data", "symmetric": False, "array": floats(above - value), "arrayminus": floats(value - below),
        "thickness": 1, "width": 2,
    } | look  # fmt: skip


def interval_words(row: dict[Any, Any], name: str, *, low: str = "", high: str = "") -> str:
    """A value of a row with its interval, as text of a hover.

    Examples
    --------
    >>> interval_words({"y": 1.23456, "y_low": 1.0, "y_high": 1.5}, "y")
    '1.235 (1 to 1.5)'
    >>> interval_words({"y": 2.0, "y_low": None, "y_high": None}, "y")
    '2, no interval'
    >>> interval_words({"y": None}, "y")
    'no value'
    """
    value = row[name]
    if pd.isna(value):
        return "no value"
    below, above = row.get(low or f"{name}_low"), row.get(high or f"{name}_high")
    if pd.isna(below) or pd.isna(above):
        return f"{value:.4g}, no interval"
    return f"{value:.4g} ({below:.4g} to {above:.4g})"
