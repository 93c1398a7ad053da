"""Which kinds' or matrices' rank goes with forgetting: a dot with its interval each."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from rank_lab.figures.captions import caption, definition
from rank_lab.figures.error_bars import bars, floats, interval_words
from rank_lab.figures.figure import Figure
from rank_lab.figures.legends import legend
from rank_lab.figures.outcome_words import measure_words
from rank_lab.figures.style import Style, label, new_plot, palette
from rank_lab.rank_points import AssociationPoints

__all__ = ["association_plot"]

_MOST = 40  # items that have a line of their own
_CALLED = 0.05


def association_plot(found: AssociationPoints, style: Style = "light") -> Figure:
    """Correlations, largest first.

    Parameters
    ----------
    found
        From :func:`rank_lab.rank_points.association_points`.
    style
        Of the plot.

    Returns
    -------
    Figure
        Filled: called at a false discovery rate of 5 %. Of more than 40 items those whose correlation is farthest from
        zero are drawn, and the caption says so.
    """
    points = found.points
    kept = points["correlation"].abs().sort_values(ascending=False, kind="stable").index[:_MOST]
    shown = points.loc[points.index.isin(kept)]
    x = "partial correlation given learning" if found.given_learning else "Spearman's correlation"
    plot = new_plot(
        style, title=f"Whose rank goes with forgetting: {label(found.methods)}", x=x, y=found.level,
        height=110 + 20 * max(len(shown), 5), legend=legend(style),
    )  # fmt: skip
    plot.add_vline(x=0.0, line={"color": palette(style).null, "width": 1, "dash": "dash"})
    for called, rows in ((True, shown[shown["p_bh"] <= _CALLED]), (False, shown[~(shown["p_bh"] <= _CALLED)])):
        if len(rows):
            plot.add_trace(_dots(rows, style, called=called))
    items = [str(each) for each in shown["item"]]
    plot.update_xaxes(range=[-1.05, 1.05])
    plot.update_yaxes(
        type="category", categoryorder="array", categoryarray=items[::-1], automargin=True, tickvals=items,
        ticktext=[label(item) for item in items],
    )  # fmt: skip
    keys = {"target": found.target, "measure": found.measure, "methods": found.methods, "rank": found.rank}
    data = points.assign(**keys, level=found.level, given_learning=found.given_learning)
    return Figure(
        f"rank_forgetting_by_{found.level}", "Whose rank goes with forgetting", plot, data,
        _caption(found, len(shown)), (found.rank, found.measure, "spearman", "benjamini_hochberg"),
    )  # fmt: skip


def _dots(rows: pd.DataFrame, style: Style, *, called: bool) -> go.Scatter:
    color = palette(style).cycle[0] if called else palette(style).null
    return go.Scatter(
        x=floats(rows["correlation"]), y=[str(each) for each in rows["item"]], mode="markers",
        name="p (BH) ≤ 0.05" if called else "not called",
        error_x=bars(rows, "correlation", low="low", high="high", color=color),
        marker={"symbol": "circle" if called else "circle-open", "size": 8, "color": color},
        hovertext=[_hover(row) for row in rows.to_dict("records")], hoverinfo="text",
    )  # fmt: skip


def _hover(row: dict[Any, Any]) -> str:
    words = interval_words(row, "correlation", low="low", high="high")
    return (
        f"{label(row['item'])}: {words}<br>p (BH) {row['p_bh']:.3g}, p (Holm) {row['p_holm']:.3g}, {row['runs']} runs"
    )


def _caption(found: AssociationPoints, shown: int) -> str:
    points = found.points
    called = int((points["p_bh"] <= _CALLED).sum())
    kind = "partial correlation, given what was learned," if found.given_learning else "correlation"
    notes = [
        "Bars: 95 % bootstrap interval over runs",
        f"Filled: {called} of {len(points)} are called at a false discovery rate of 5 % (Benjamini and Hochberg)",
    ]
    without = int(points["low"].isna().sum())
    notes += [f"{without} have no interval"] if without else []
    notes += [f"Drawn are the {shown} farthest from zero; all are in the data"] if shown < len(points) else []
    notes += [f"{count} have no correlation: {reason}" for reason, count in found.refused.items()]
    runs = (
        f"{points['runs'].min()} to {points['runs'].max()}"
        if points["runs"].nunique() > 1
        else f"{points['runs'].min()}"
    )
    return caption(
        f"Spearman's {kind} of rank and forgetting over the last checkpoints of runs, by {found.level}",
        [definition(found.rank), measure_words(found.measure)],
        f"Data: {found.methods}, learning on {found.target}; n = {runs} runs",
        notes,
    )
