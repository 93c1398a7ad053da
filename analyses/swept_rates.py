"""Equal tuning effort: as many learning rates for everything that is compared, chosen by what validation says."""

import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analyses.study_cells import Cell, Work, work_off

__all__ = ["at_an_end", "chosen_rates", "finish"]

_WAIT = 2.0  # seconds between two looks at what another process holds


def finish(folder: Path, cells: Sequence[Cell], work: Work) -> None:
    """Work off cells, and wait for those that other processes hold: what follows needs all of them.

    Parameters
    ----------
    folder, cells, work
        As of :func:`analyses.study_cells.work_off`.
    """
    while True:
        work_off(folder, cells, work)
        if all((folder / "cells" / f"{cell.name}.json").is_file() for cell in cells):
            return
        time.sleep(_WAIT)


def chosen_rates(swept: pd.DataFrame, arm: Sequence[str]) -> pd.DataFrame:
    """For each arm the rate with the lowest mean validation loss.

    Parameters
    ----------
    swept
        A row a run: the columns of ``arm``, ``learning_rate`` and ``validation_loss``; a run that diverged has none.
    arm
        Columns that say what is compared.

    Returns
    -------
    pandas.DataFrame
        A row an arm, in the order of ``swept``: its columns, ``learning_rate``, ``validation_loss``, and ``at_an_end``,
        whether the rate is the smallest or largest of several that were tried, beyond which a better one may lie.

    Examples
    --------
    >>> swept = pd.DataFrame({"arm": ["a", "a", "a"], "learning_rate": [1.0, 2.0, 4.0],
    ...     "validation_loss": [3.0, 2.5, 2.4]})
    >>> chosen_rates(swept, ["arm"])[["learning_rate", "at_an_end"]].values.tolist()
    [[4.0, True]]
    """
    means = swept.groupby([*arm, "learning_rate"], sort=False)["validation_loss"].mean().reset_index()
    rows = []
    for _, rates in means.groupby(list(arm), sort=False):
        best = rates.sort_values("validation_loss", kind="stable").iloc[0]
        rows.append(best.to_dict() | {"at_an_end": at_an_end(best["learning_rate"], list(rates["learning_rate"]))})
    return pd.DataFrame(rows)


def at_an_end(rate: float, tried: Sequence[float]) -> bool:
    """Whether a rate is the smallest or the largest of several."""
    return len(tried) > 1 and rate in {min(tried), max(tried)}
