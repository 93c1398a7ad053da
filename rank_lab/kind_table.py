"""One quantity by kind of module in one or more runs: every matrix, and the middle of each kind."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import pandas as pd

from rank_lab.errors import RankLabError
from rank_lab.names import KINDS
from rank_lab.row_choices import rows_of
from rank_lab.run_comparison import Place
from rank_lab.shown_values import STATES, Over, shown_values

__all__ = ["KindTable", "kind_table"]


@dataclass(frozen=True, eq=False)
class KindTable:
    """One quantity over kinds of module and runs.

    Parameters
    ----------
    places
        Run and step of each.
    names
        What they are called: the run, with its step where a run is there more than once.
    delta, metric, over
        See :func:`rank_lab.shown_values.shown_values`.
    points
        A row a matrix: ``name``, ``run``, ``step``, ``kind``, ``module``, ``value``, ``low``, ``high``, ``null``,
        ``state``, ``noise_regime``.
    summary
        A row a kind and run, kinds in order and in each of them runs: ``name``, ``kind``, ``matrices``, ``known``, of
        the known values ``minimum``, ``lower`` quartile, ``median``, ``upper`` quartile, ``maximum``, the median of
        their nulls ``null``, and the counts ``zero``, ``unresolved``, ``missing``.
    kinds
        In the order in which they are shown.
    """

    places: tuple[Place, ...]
    names: tuple[str, ...]
    delta: str
    metric: str
    over: Over
    points: pd.DataFrame
    summary: pd.DataFrame
    kinds: tuple[str, ...]


def kind_table(
    updates: pd.DataFrame, places: Sequence[Place], metric: str, *, over: Over = "", delta: str = "cumulative"
) -> KindTable:
    """One quantity of every matrix of some runs, by kind.

    Parameters
    ----------
    updates
        Rows of at least these runs.
    places
        Run and step of each, all different.
    metric, over
        See :func:`rank_lab.shown_values.shown_values`.
    delta
        ``cumulative`` or ``step``.

    Raises
    ------
    RankLabError
        If there is no place, one is there twice, or has no rows.
    """
    if not places or len(set(places)) < len(places):
        raise RankLabError(f"{len(places)} runs and steps, {len(set(places))} of them different; expected each once.")
    runs = [run for run, _ in places]
    names = [f"{run}, step {step}" if runs.count(run) > 1 and step is not None else run for run, step in places]
    parts = [_points(updates, place, name, delta) for place, name in zip(places, names, strict=True)]
    own = pd.concat(parts)
    shown = shown_values(own, metric, over)[["value", "low", "high", "null", "state"]]
    about = own[["name", "run", "step", "kind", "module", "noise_regime"]]
    points = pd.concat([about.reset_index(drop=True), shown.reset_index(drop=True)], axis=1)
    kinds = sorted(map(str, points["kind"].unique()), key=KINDS.index)
    summaries = pd.DataFrame([_summary(key, rows) for key, rows in points.groupby(["name", "kind"], sort=False)])
    order = {"name": names.index, "kind": kinds.index}
    summary = summaries.sort_values(
        ["kind", "name"], key=lambda each: each.map(order[str(each.name)]), ignore_index=True
    )
    return KindTable(tuple(places), tuple(names), delta, metric, over, points, summary, tuple(kinds))


def _points(updates: pd.DataFrame, place: Place, name: str, delta: str) -> pd.DataFrame:
    return rows_of(updates, *place, delta).assign(name=name)


def _summary(key: Hashable, rows: pd.DataFrame) -> dict[str, object]:
    name, kind = key if isinstance(key, tuple) else (key, "")
    known = rows["value"].dropna()
    counts = {state: int((rows["state"] == state).sum()) for state in STATES if state != "value"}
    return {
        "name": name, "kind": kind, "matrices": len(rows), "known": len(known), "minimum": known.min(),
        "lower": known.quantile(0.25), "median": known.median(), "upper": known.quantile(0.75),
        "maximum": known.max(), "null": rows.loc[known.index, "null"].median(), **counts,
    }  # fmt: skip
