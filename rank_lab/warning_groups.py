"""Warnings of many matrices as few lines: those that differ in a number only stand together."""

import re
from collections.abc import Hashable

import pandas as pd

from rank_lab.schema import WARNING_SEPARATOR

__all__ = ["warning_groups"]

_NUMBER = re.compile(r"[\d.]+")


def warning_groups(updates: pd.DataFrame) -> pd.DataFrame:
    """Warnings of rows of a report, the most frequent first.

    Parameters
    ----------
    updates
        With the columns ``run``, ``module`` and ``warning``.

    Returns
    -------
    pandas.DataFrame
        A row a run and kind of warning: ``run``, ``warning`` (the first of its kind), ``module`` (its matrix) and
        ``matrices``, how many of the rows have one of the kind.

    Examples
    --------
    >>> said = ["12 rows equal", "7 rows equal", ""]
    >>> rows = pd.DataFrame({"run": "lora", "module": ["a", "b", "c"], "warning": said})
    >>> warning_groups(rows).values.tolist()
    [['lora', '12 rows equal', 'a', 2]]
    """
    said = updates.loc[updates["warning"].fillna("") != "", ["run", "module", "warning"]]
    groups: dict[Hashable, list[tuple[str, str, str]]] = {}
    for run, module, warnings in said.itertuples(index=False):
        for text in str(warnings).split(WARNING_SEPARATOR):
            groups.setdefault((run, _NUMBER.sub("#", text)), []).append((str(run), text, str(module)))
    largest = sorted(groups.values(), key=len, reverse=True)
    return pd.DataFrame(
        [(*found[0], len(found)) for found in largest], columns=["run", "warning", "module", "matrices"]
    )
