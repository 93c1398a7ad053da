"""What several seeds say together: the mean of a quantity, and Student's interval over the seeds."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from rank_lab.errors import SchemaError
from rank_lab.scores import nearest
from rank_lab.uncertainty import student_interval

__all__ = ["GROUPS", "QUANTITIES", "bands"]

GROUPS = ("model", "task", "control", "stage")
"""Columns whose rows are one point of a curve, but for the seed."""

QUANTITIES = ("memorization", "generalization")
"""What bands are usually drawn of."""


def bands(rows: pd.DataFrame, quantities: Sequence[str] = QUANTITIES, *, level: float = 0.95) -> pd.DataFrame:
    r"""Mean and interval over seeds, :math:`\bar y \pm t_{n-1} s / \sqrt n`, of each point of a curve.

    Parameters
    ----------
    rows
        A row a stage and seed, with the columns of :data:`GROUPS`, ``seed`` and the quantities.
    quantities
        Columns to take the mean of: what is drawn, and what it is drawn over.
    level
        Nominal coverage of the interval.

    Returns
    -------
    pandas.DataFrame
        A row a point and quantity: the groups, ``quantity``, ``seeds`` (how many
        have a value), ``mean``, ``low``, ``high``. One seed has no interval: its ends are
        missing, and so is the mean of none.

    Raises
    ------
    SchemaError
        If a column is missing, or a seed is there twice in a point.

    Examples
    --------
    >>> point = {"model": "m", "task": "rte", "control": "sora", "stage": 1}
    >>> rows = pd.DataFrame([point | {"seed": seed, "memorization": 90.0 + seed} for seed in range(3)])
    >>> bands(rows, ["memorization"])[["seeds", "mean", "low", "high"]].round(2).to_dict("records")
    [{'seeds': 3, 'mean': 91.0, 'low': 88.52, 'high': 93.48}]
    """
    needed = [*GROUPS, "seed", *quantities]
    missing = [name for name in needed if name not in rows.columns]
    if missing:
        raise SchemaError(
            f"rows of a curve have no column {missing[0]!r}. Nearest: {nearest(missing[0], map(str, rows.columns))}."
        )
    twice = rows[rows.duplicated([*GROUPS, "seed"])]
    if len(twice):
        first = ", ".join(f"{name} {twice.iloc[0][name]}" for name in (*GROUPS, "seed"))
        raise SchemaError(f"rows of a curve hold {first} twice; expected each seed once: draw one study at a time.")
    found = [
        dict(zip(GROUPS, key, strict=True)) | {"quantity": name} | _band(group[name], level)
        for key, group in rows.groupby(list(GROUPS), sort=False)
        for name in quantities
    ]
    return pd.DataFrame(found, columns=[*GROUPS, "quantity", "seeds", "mean", "low", "high"])


def _band(values: "pd.Series[float]", level: float) -> dict[str, float | int]:
    kept = pd.to_numeric(values).dropna().to_numpy(np.float64)
    mean, low, high = student_interval(kept, level)
    return {"seeds": len(kept), "mean": mean, "low": low, "high": high}
