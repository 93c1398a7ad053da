"""Ranks as far as a report's files tell them."""

import numpy as np
import numpy.typing as npt
import pandas as pd

__all__ = ["blurred", "floats", "told"]

_ROUNDED = ("partial", "unresolved")


def floats(rows: pd.DataFrame, name: str) -> npt.NDArray[np.float64]:
    """A column as numbers, NaN where it is missing.

    Examples
    --------
    >>> floats(pd.DataFrame({"step": pd.array([1, None], dtype="Int64")}), "step").tolist()
    [1.0, nan]
    """
    return np.asarray(rows[name].to_numpy(dtype="float64", na_value=np.nan))


def blurred(rows: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Whether rounding hides ranks of a matrix: its noise regime is partial or unresolved."""
    return np.asarray(rows["noise_regime"].isin(_ROUNDED).to_numpy(dtype="bool", na_value=False))


def told(rows: pd.DataFrame, name: str) -> "pd.Series[float]":
    """A rank without the rounding where that was measured, and not at all where rounding rules.

    Parameters
    ----------
    rows
        Of a report's ``updates``.
    name
        A rank that has a value without rounding beside it (``NAME_denoised``, of the numerical rank what stands above
        rounding), or ``frobenius_norm``.

    Returns
    -------
    pandas.Series
        Missing where nothing can be told.
    """
    raw = floats(rows, name)
    if name == "frobenius_norm":
        return pd.Series(raw, rows.index)
    clean = floats(rows, "rank_above_rounding" if name == "numerical_rank" else f"{name}_denoised")
    hidden = blurred(rows) & (floats(rows, "frobenius_norm") > 0)
    tested = ~np.isnan(floats(rows, "rank_above_rounding"))
    return pd.Series(np.where(tested | hidden, clean, raw), rows.index)
