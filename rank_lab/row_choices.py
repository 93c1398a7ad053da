"""What can be chosen of a study's ranks: runs, a run at a step, and the matrices that changed most."""

from collections.abc import Sequence

import pandas as pd

from rank_lab.errors import RankLabError

__all__ = ["largest_changes", "rows_of", "rows_of_runs", "runs_of"]


def runs_of(updates: pd.DataFrame) -> list[str]:
    """Runs that have ranks, in the order of the table."""
    return [str(run) for run in dict.fromkeys(updates["run"])]


def rows_of(updates: pd.DataFrame, run: str, step: int | None, delta: str = "cumulative") -> pd.DataFrame:
    """Rows of one run, step and delta.

    Parameters
    ----------
    updates
        Of one or more reports.
    run, step, delta
        Which; a step of None is that of a checkpoint that tells none.

    Raises
    ------
    RankLabError
        If there are none.
    """
    at = updates["step"].isna() if step is None else (updates["step"] == step).fillna(False).astype(bool)
    found = updates[(updates["run"] == run) & at & (updates["delta"] == delta)]
    if found.empty:
        where = "" if step is None else f" at step {step}"
        steps = sorted({int(one) for one in updates.loc[updates["run"] == run, "step"].dropna()})
        raise RankLabError(
            f"run {run!r} has no matrices{where} with delta {delta!r}; it has steps"
            f" {', '.join(map(str, steps)) or 'none'}, and its coverage says what became of every tensor."
        )
    return found


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
