"""All quantities of one matrix, each with its interval, null and bound."""

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import pandas as pd

from rank_lab.errors import RankLabError
from rank_lab.shown_values import SHOWN, quantity_label, shown_arrays

__all__ = ["Numbers", "module_numbers", "numbers_of"]

Numbers = Mapping[str, Mapping[str, npt.NDArray[Any]]]
"""Of every quantity its columns, an entry a row."""

_COLUMNS = ("value", "low", "high", "null", "bound", "state")


def numbers_of(rows: pd.DataFrame) -> Numbers:
    """All quantities of all rows at once: of one row they take as long as of a thousand.

    Parameters
    ----------
    rows
        Of a report's ``updates``.
    """
    return {name: shown_arrays(rows, name) for name in SHOWN}


def module_numbers(rows: pd.DataFrame, module: str, numbers: Numbers | None = None) -> pd.DataFrame:
    """A row for every quantity of one matrix.

    Parameters
    ----------
    rows
        Of one run, step and delta; see :func:`rank_lab.row_choices.rows_of`.
    module
        Name of the matrix.
    numbers
        Of :func:`numbers_of` for these rows, where they are asked for again and again.

    Returns
    -------
    pandas.DataFrame
        ``quantity``, ``symbol``, ``value``, ``low``, ``high``, ``null``, ``bound``, ``state``.

    Raises
    ------
    RankLabError
        If there is no such matrix.
    """
    places = (rows["module"] == module).to_numpy().nonzero()[0]
    if len(places) != 1:
        raise RankLabError(
            f"matrix {module!r} is there {len(places)} times; expected once: choose run, step and delta."
        )
    every, place = (numbers, places[0]) if numbers is not None else (numbers_of(rows.iloc[places]), 0)
    found = [
        {"quantity": name, "symbol": quantity_label(name)} | {column: shown[column][place] for column in _COLUMNS}
        for name, shown in every.items()
    ]
    return pd.DataFrame(found)
