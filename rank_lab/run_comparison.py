"""The same modules of two or more runs, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import pandas as pd

from rank_lab.errors import RankLabError, SchemaError
from rank_lab.row_choices import rows_of
from rank_lab.shown_values import Over, shown_values

__all__ = ["Place", "RunComparison", "run_comparison"]

Place: TypeAlias = tuple[str, int | None]
"""Run and step."""

_SHOWN = ("value", "low", "high", "null", "state")
_ABOUT = ["module", "stack", "layer", "kind", "expert"]


@dataclass(frozen=True, eq=False)
class RunComparison:
    """One quantity of the same modules in several runs.

    Parameters
    ----------
    places
        Run and step of each, numbered from 1; the first is what the others are compared with.
    delta, metric, over
        See :func:`rank_lab.shown_values.shown_values`.
    table
        A row a module that all of them have, in the order of the first: ``module``, ``stack``, ``layer``, ``kind``,
        ``expert``, of run N ``value_N``, ``low_N``, ``high_N``, ``null_N``, ``state_N``, ``noise_regime_N``, and from
        the second on ``difference_N`` (value N minus value 1) and ``ratio_N`` (value N over value 1; missing where that
        is 0).
    only
        A row a module that not all of them have: ``module`` and ``runs``, the numbers of those that do.
    """

    places: tuple[Place, ...]
    delta: str
    metric: str
    over: Over
    table: pd.DataFrame
    only: pd.DataFrame


def run_comparison(
    updates: pd.DataFrame, places: Sequence[Place], metric: str, *, over: Over = "", delta: str = "cumulative"
) -> RunComparison:
    """One quantity of the modules that two or more runs have in common.

    Parameters
    ----------
    updates
        Rows of at least these runs.
    places
        Run and step of each, two or more, all different; two steps of one run can be compared, too.
    metric, over
        See :func:`rank_lab.shown_values.shown_values`.
    delta
        ``cumulative`` or ``step``.

    Raises
    ------
    RankLabError
        If there are fewer than two places, one is there twice, or has no rows.
    SchemaError
        If a run has a module twice.

    Notes
    -----
    Modules are paired by their names alone, never by their order. None in common gives an empty table.
    """
    if len(places) < 2 or len(set(places)) < len(places):
        raise RankLabError(f"{len(set(places))} different runs and steps; a comparison needs two or more.")
    parts = [_part(updates, place, metric, over, delta) for place in places]
    common = [module for module in parts[0].index if all(module in part.index for part in parts[1:])]
    columns = [parts[0].loc[common].reset_index()[_ABOUT]]
    first = parts[0].loc[common, "value"]
    for number, part in enumerate(parts, 1):
        own = part.loc[common, [*_SHOWN, "noise_regime"]]
        if number > 1:
            own = own.assign(difference=own["value"] - first, ratio=own["value"] / first.where(first != 0))
        columns.append(own.add_suffix(f"_{number}").reset_index(drop=True))
    table = pd.concat(columns, axis=1)
    everything = dict.fromkeys(module for part in parts for module in part.index)
    paired = set(common)
    alone = [module for module in everything if module not in paired]
    holders = [
        " ".join(str(number) for number, part in enumerate(parts, 1) if module in part.index) for module in alone
    ]
    only = pd.DataFrame({"module": alone, "runs": holders}, dtype="string")
    return RunComparison(tuple(places), delta, metric, over, table, only)


def _part(updates: pd.DataFrame, place: Place, metric: str, over: Over, delta: str) -> pd.DataFrame:
    """What is shown of each module of a run and step, by module."""
    own = rows_of(updates, *place, delta)
    twice = own[own["module"].duplicated()]
    if len(twice):
        raise SchemaError(
            f"run {place[0]!r} is in two reports ({twice.iloc[0]['module']!r} is there twice); rename one."
        )
    values = shown_values(own, metric, over)[list(_SHOWN)]
    found = pd.concat([own[[*_ABOUT, "noise_regime"]], values], axis=1)
    found["module"] = found["module"].astype(str)
    return found.set_index("module")
