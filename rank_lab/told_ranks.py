"""Ranks as far as a report's files tell them."""

import pandas as pd

__all__ = ["told"]


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
    raw = rows[name].astype("float64")
    if name == "frobenius_norm":
        return raw
    clean = rows["rank_above_rounding" if name == "numerical_rank" else f"{name}_denoised"].astype("float64")
    blurred = rows["noise_regime"].isin(["partial", "unresolved"]) & (rows["frobenius_norm"] > 0)
    tested = rows["rank_above_rounding"].notna()
    return clean.where(tested | blurred, raw)
