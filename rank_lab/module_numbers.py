"""All quantities of one matrix, each with its interval, null and bound."""

import pandas as pd

from rank_lab.errors import RankLabError
from rank_lab.shown_values import SHOWN, quantity_label, shown_arrays

__all__ = ["module_numbers"]


def module_numbers(rows: pd.DataFrame, module: str) -> pd.DataFrame:
    """A row for every quantity of one matrix.

    Parameters
    ----------
    rows
        Of one run, step and delta; see :func:`rank_lab.row_choices.rows_of`.
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
