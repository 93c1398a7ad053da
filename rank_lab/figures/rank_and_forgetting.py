"""The rank of whole models beside what they forgot."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from rank_lab.figures.captions import caption, definition
from rank_lab.figures.error_bars import bars, floats, interval_words
from rank_lab.figures.figure import Figure
from rank_lab.figures.legends import key, legend
from rank_lab.figures.outcome_words import forgetting_axis, measure_words
from rank_lab.figures.style import Mark, Style, label, marks, new_plot
from rank_lab.rank_points import RankPoints
from rank_lab.shown_values import quantity_label

__all__ = ["rank_and_forgetting"]

_MOST_BARS = 60


def rank_and_forgetting(found: RankPoints, style: Style = "light") -> Figure:
    """Forgetting over rank, a point a checkpoint.

    Parameters
    ----------
    found
        From :func:`rank_lab.rank_points.rank_points`.
    style
        Of the plot.

    Returns
    -------
    Figure
        Filled: the last checkpoint of its run, which correlations are of; hollow: those before.
    """
    quantity = quantity_label(found.rank, "null" if found.over_null else "")
    plot = new_plot(
        style, title=f"Rank and forgetting: {quantity}", x=f"{quantity}, mean over matrices",
        y=forgetting_axis(found.measure), legend=legend(style), height=320 if style == "paper" else 450,
    )  # fmt: skip
    looks = marks(list(dict.fromkeys(str(each) for each in found.points["method"])), style)
    for method, look in looks.items():
        rows = found.points[found.points["method"] == method]
        plot.add_trace(_marks(rows, method, look, quantity, visible=len(found.points) <= _MOST_BARS))
        plot.add_trace(key(label(method), look, group=label(method)))
    data = found.points.assign(rank_metric=found.rank, over="null" if found.over_null else "", measure=found.measure)
    return Figure(
        "rank_and_forgetting", "Rank and forgetting", plot, data, _caption(found, quantity),
        (found.rank, found.measure, "spearman"),
    )  # fmt: skip


def _marks(rows: pd.DataFrame, method: str, look: Mark, quantity: str, *, visible: bool) -> go.Scatter:
    return go.Scatter(
        x=floats(rows["rank"]), y=floats(rows["forgetting"]), mode="markers", name=label(method),
        legendgroup=label(method), showlegend=False,
        marker={
            "symbol": [look.symbol if last else f"{look.symbol}-open" for last in rows["last"]], "color": look.color,
            "size": [8 if last else 5 for last in rows["last"]], "line": {"color": look.color, "width": 1},
        },
        error_y=bars(rows, "forgetting", color=look.color, thickness=0.7, width=0, visible=visible),
        hovertext=[_hover(row, quantity) for row in rows.to_dict("records")], hoverinfo="text",
    )  # fmt: skip


def _hover(row: dict[Any, Any], quantity: str) -> str:
    step = "" if pd.isna(row["step"]) else f", step {row['step']}"
    null = "" if pd.isna(row["null"]) else f" (null {row['null']:.4g})"
    return (
        f"{label(row['run'])}{step}<br>{quantity}: {row['rank']:.4g}{null}, {row['matrices']} matrices"
        f"<br>forgetting: {interval_words(row, 'forgetting')}"
    )


def _caption(found: RankPoints, quantity: str) -> str:
    points = found.points
    bars_are = "Bars: 95 % interval over examples" + (
        "" if len(points) <= _MOST_BARS else f"; of more than {_MOST_BARS} points they are not drawn, but in the data"
    )
    ends = int(points["forgetting_low"].isna().sum())
    notes = [bars_are, "Filled: the last checkpoint of its run"]
    notes += [f"{ends} points have no interval"] if ends else []
    notes += (
        [f"{found.without_value} checkpoints without rank or forgetting are left out"] if found.without_value else []
    )
    null = "divided by its null" if found.over_null else "its null is in the data"
    return caption(
        f"Forgetting over {quantity} of the whole model, the mean over matrices by their share of the change; {null}:"
        " white noise of that shape (of factors: random factors)",
        [definition(found.rank), measure_words(found.measure)],
        f"Data: n = {len(points)} checkpoints of {points['run'].nunique()} runs",
        [*notes, *_correlations(found)],
    )


def _correlations(found: RankPoints) -> list[str]:
    if found.correlations.empty:
        return [f"The study's correlations are of another rank than {found.rank}, or there are none"]
    told = []
    for row in found.correlations.to_dict("records"):
        if pd.isna(row["correlation"]):
            told.append(f"{row['methods']}: none ({row['reason']})")
        else:
            words = interval_words(row, "correlation", low="low", high="high")
            told.append(f"{row['methods']}: {words}, p = {row['p']:.2g}, {row['runs']} runs")
    return [
        (
            f"Spearman's correlation of rank and forgetting over last checkpoints, with its bootstrap interval over"
            f" runs: {'; '.join(told)}"
        ),
        *(["Between methods rank differs by construction"] if found.points["method"].nunique() > 1 else []),
    ]
