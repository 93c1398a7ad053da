"""All quantities of one matrix, each with its interval, null and bound."""

import pandas as pd

from rank_lab.errors import RankLabError
from rank_lab.shown_values import SHOWN, quantity_label, shown_arrays

__all__ = ["module_numbers", "rows_of"]


def rows_of(updates: pd.DataFrame, run: str, step: int | None, delta: str = "cumulative") -> pd.DataFrame:
    """Rows of one run, step and delta.

    Raises
    ------
    RankLabError
        If there are none.
    """
    at = updates["step"].isna() if step is None else updates["step"] == step
    found = updates[(updates["run"] == run) & at.fillna(False).astype(bool) & (updates["delta"] == delta)]
    if found.empty:
        raise RankLabError(f"no ranks of run {run!r} at step {step} with delta {delta!r}; its coverage says why.")
    return found


def module_numbers(rows: pd.DataFrame, module: str) -> pd.DataFrame:
    """A row for every quantity of one matrix.

    Parameters
    ----------
    rows
        Of one run, step and delta; see :func:`rows_of`.
    module
        Name of the matrix.

    Returns
    -------
    pandas.DataFrame
        ``quantity``, ``symbol``, ``value``, ``low``, ``high``, ``null``, ``bound``, ``state``.

    Raises
    ------
    RankLabError
        If there is no such matrix.
    """
    own = rows[rows["module"] == module]
    if len(own) != 1:
        raise RankLabError(f"matrix {module!r} is there {len(own)} times; expected once: choose run, step and delta.")
    found = []
    for name in SHOWN:
        shown = shown_arrays(own, name)
        numbers = {column: shown[column][0] for column in ("value", "low", "high", "null", "bound", "state")}
        found.append({"quantity": name, "symbol": quantity_label(name)} | numbers)
    return pd.DataFrame(found)
