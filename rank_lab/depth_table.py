"""One quantity along the depth of a model: a line a kind of module, or a run."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from rank_lab.errors import RankLabError
from rank_lab.layer_table import NO_LAYER, LayerTable, layer_table
from rank_lab.shown_values import Over

__all__ = ["DepthTable", "depth_table"]


@dataclass(frozen=True, eq=False)
class DepthTable:
    """One quantity over layers.

    Parameters
    ----------
    places
        Run and step of what is shown.
    delta, metric, over
        See :func:`rank_lab.shown_values.shown_values`.
    points
        A row a point: ``line``, ``run``, ``step``, ``row`` (kind, with stack or name where a layer has several),
        ``layer``, and the other columns of :attr:`rank_lab.layer_table.LayerTable.cells`.
    lines
        Names of the lines in the order in which they are shown.
    outside
        Matrices outside of the layers, which have no place here.
    """

    places: tuple[tuple[str, int | None], ...]
    delta: str
    metric: str
    over: Over
    points: pd.DataFrame
    lines: tuple[str, ...]
    outside: int


def depth_table(
    updates: pd.DataFrame,
    metric: str,
    *,
    over: Over = "",
    delta: str = "cumulative",
    kinds: Sequence[str] | None = None,
) -> DepthTable:
    """One quantity of each layer, of one run by kind, or of several runs.

    Parameters
    ----------
    updates
        Rows of one or more runs and steps.
    metric, over
        See :func:`rank_lab.shown_values.shown_values`.
    delta
        ``cumulative`` or ``step``.
    kinds
        Only these; of several runs one is what a plot can hold.

    Raises
    ------
    RankLabError
        If there are no such rows.
    """
    own = updates[updates["delta"] == delta]
    if kinds is not None:
        own = own[own["kind"].isin(list(kinds))]
    if own.empty:
        what = "" if kinds is None else f" of kind {', '.join(map(repr, kinds))}"
        raise RankLabError(f"no matrices{what} with delta {delta!r}; choose another kind, or 'cumulative'.")
    tables = [
        layer_table(rows, metric, over=over, delta=delta)
        for _, rows in own.groupby(["run", "step"], sort=False, dropna=False)
    ]
    names = _names(tables)
    frames = [_points(table, name, rows=len(tables) == 1) for table, name in zip(tables, names, strict=True)]
    points = pd.concat(frames, ignore_index=True)
    inside = points["column"] != NO_LAYER
    outside = int(points.loc[~inside, "matrices"].sum())
    points = points[inside].assign(layer=points.loc[inside, "column"].astype(int)).drop(columns="column")
    lines = tuple(dict.fromkeys(map(str, points["line"])))
    points = points.sort_values(["line", "layer"], key=lambda column: _order(column, lines), kind="stable")
    places = tuple((table.run, table.step) for table in tables)
    return DepthTable(places, delta, metric, over, points.reset_index(drop=True), lines, outside)


def _order(column: "pd.Series[int]", lines: Sequence[str]) -> "pd.Series[int]":
    return column.map(lines.index) if column.name == "line" else column


def _names(tables: Sequence[LayerTable]) -> list[str]:
    """Runs, with their steps where a run is there more than once, and with the row where they have several."""
    runs = [table.run for table in tables]
    return [
        f"{table.run}, step {table.step}" if runs.count(table.run) > 1 and table.step is not None else table.run
        for table in tables
    ]


def _points(table: LayerTable, name: str, *, rows: bool) -> pd.DataFrame:
    several = len(table.rows) > 1
    ordered = table.cells.sort_values("row", key=lambda column: column.map(table.rows.index), kind="stable")
    lines = [row if rows else f"{name}: {row}" if several else name for row in ordered["row"]]
    return ordered.assign(line=lines, run=table.run, step=table.step)
