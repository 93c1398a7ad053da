"""What can be chosen of a study's ranks: runs, and the matrices that changed most."""

from collections.abc import Sequence

import pandas as pd

__all__ = ["largest_changes", "rows_of_runs", "runs_of"]


def runs_of(updates: pd.DataFrame) -> list[str]:
    """Runs that have ranks, in the order of the table."""
    return [str(run) for run in dict.fromkeys(updates["run"])]


def rows_of_runs(updates: pd.DataFrame, runs: Sequence[str]) -> pd.DataFrame:
    """Rows of some runs, of all steps."""
    return updates[updates["run"].isin(list(runs))]


def largest_changes(updates: pd.DataFrame, count: int) -> list[str]:
    """Matrices with the largest relative change since the base, at any step of any of the runs, the largest first.

    Parameters
    ----------
    updates
        Rows of one or more runs.
    count
        How many.

    Examples
    --------
    >>> rows = pd.DataFrame({"delta": "cumulative", "module": ["a", "b", "b", "c"],
    ...     "relative_frobenius": [0.2, 0.1, 0.3, None], "frobenius_norm": [1.0, 1.0, 1.0, 9.0]})
    >>> largest_changes(rows, 2)
    ['b', 'a']
    """
    own = updates[updates["delta"] == "cumulative"]
    size = own["relative_frobenius"].astype("float64")
    if size.isna().all():  # adapters that were analysed without their base
        size = own["frobenius_norm"].astype("float64")
    largest = size.groupby(own["module"], sort=False).max().sort_values(ascending=False, kind="stable")
    return [str(module) for module in largest.index[:count]]
