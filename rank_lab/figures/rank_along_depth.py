"""One quantity along the depth of a model."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from rank_lab.depth_table import DepthTable
from rank_lab.figures.captions import caption, definition, place
from rank_lab.figures.figure import Figure
from rank_lab.figures.legends import legend
from rank_lab.figures.null_line import null_lines
from rank_lab.figures.over_text import DIVIDED, counted
from rank_lab.figures.signs import add_signs
from rank_lab.figures.style import Mark, Style, kind_marks, label, marks, new_plot
from rank_lab.shown_values import quantity_label

__all__ = ["rank_along_depth"]


def rank_along_depth(table: DepthTable, style: Style = "light") -> Figure:
    """A quantity over layers: a line a kind of one run, or a run.

    Parameters
    ----------
    table
        From :func:`rank_lab.depth_table.depth_table`.
    style
        Of the plot.

    Returns
    -------
    Figure
        The nulls are thin grey lines. An update that is exactly zero is an open symbol at zero; a point without a value
        is a gap in its line, with a sign in the strip below.
    """
    quantity = quantity_label(table.metric, table.over)
    places = "; ".join(place(run, step, table.delta) for run, step in table.places)
    plot = new_plot(
        style, title=f"{quantity} along depth: {label(places)}", x="layer", y=quantity,
        height=320 if style == "paper" else 460, legend=legend(style),
    )  # fmt: skip
    by_kind = len(table.places) == 1
    looks = kind_marks(table.lines, style) if by_kind else marks(table.lines, style)
    lines = {line: table.points[table.points["line"] == line] for line in table.lines}
    plot.add_traces(null_lines({line: _nulls(points) for line, points in lines.items()}, style))
    for line, points in lines.items():
        _add_line(plot, points, looks[line], label(line))
    meanings = add_signs(plot, table.points, "layer", looks, style)
    plot.update_xaxes(tickformat="d", dtick=max(int(table.points["layer"].max(skipna=True) or 0) // 12, 1))
    plot.update_yaxes(rangemode="tozero", selector={"overlaying": None})
    return Figure(
        "rank_along_depth", f"{quantity} along depth", plot, _data(table), _caption(table, places, meanings),
        (table.metric,),
    )  # fmt: skip


def _nulls(points: pd.DataFrame) -> list[tuple[float, float]]:
    known = points[points["null"].notna()]
    return list(zip(known["layer"], known["null"], strict=True))


def _add_line(plot: go.Figure, points: pd.DataFrame, look: Mark, name: str) -> None:
    symbols = [f"{look.symbol}-open" if state == "zero" else look.symbol for state in points["state"]]
    plot.add_trace(
        go.Scatter(
            x=points["layer"],
            y=points["value"],
            mode="lines+markers",
            connectgaps=False,
            name=name,
            cliponaxis=False,
            line={"color": look.color, "width": 1.5, "dash": look.dash},
            error_y=_error(points, look),
            marker={"color": look.color, "size": 7, "symbol": symbols},
            hovertext=[_hover(point, name) for point in points.to_dict("records")],
            hoverinfo="text",
        )
    )


def _error(points: pd.DataFrame, look: Mark) -> dict[str, object] | None:
    if not (points["low"].notna() & points["high"].notna() & points["value"].notna()).any():
        return None
    return {
        "type": "data", "symmetric": False, "array": points["high"] - points["value"],
        "arrayminus": points["value"] - points["low"], "color": look.color, "thickness": 1, "width": 3,
    }  # fmt: skip


def _hover(point: dict[Any, Any], name: str) -> str:
    ends = f" ({point['low']:.4g} to {point['high']:.4g})" if pd.notna(point["low"]) else ""
    null = f"<br>null: {point['null']:.4g}" if pd.notna(point["null"]) else ""
    return f"{name}, layer {point['layer']}<br>{point['value']:.4g}{ends}{null}"


def _data(table: DepthTable) -> pd.DataFrame:
    data = table.points.assign(
        modules=[" ".join(names) for names in table.points["modules"]],
        delta=table.delta, metric=table.metric, over=table.over,
    )  # fmt: skip
    first = ["line", "run", "step", "delta", "metric", "over", "layer"]
    return data[[*first, *(name for name in data.columns if name not in first)]]


def _caption(table: DepthTable, places: str, meanings: list[str]) -> str:
    points = table.points
    one_line = len(table.lines) == 1
    return caption(
        f"{quantity_label(table.metric, table.over)} of each layer{DIVIDED[table.over]}",
        [definition(table.metric)],
        f"Data: {places}; n = {counted(int(points['matrices'].sum()), 'matrix', 'matrices')}",
        [
            "Grey: what white noise of the same shape (of factors: random factors) shows"
            if points["null"].notna().any()
            else "",
            "Bars: 95 % intervals" if points["low"].notna().any() else "",
            "Open symbol: the update is exactly zero"
            if ((points["state"] == "zero") & points["value"].notna()).any()
            else "",
            *meanings,
            "A point of several experts is the median of those that have a value"
            if (points["matrices"] > 1).any()
            else "",
            f"Not shown: {counted(table.outside, 'matrix', 'matrices')} outside of the layers" if table.outside else "",
            f"All of {table.lines[0]}" if one_line else "",
        ],
    )
