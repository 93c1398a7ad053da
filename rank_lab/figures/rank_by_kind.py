"""One quantity by kind of module, one or more runs beside each other."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from rank_lab.figures.captions import caption, definition, place
from rank_lab.figures.figure import Figure
from rank_lab.figures.legends import legend
from rank_lab.figures.over_text import DIVIDED, counted, counted_states
from rank_lab.figures.style import Mark, Style, faint, label, marks, new_plot, palette
from rank_lab.kind_table import KindTable
from rank_lab.shown_values import quantity_label

__all__ = ["rank_by_kind"]

_MOST_POINTS = 3000  # matrices that are drawn one by one
_GROUP = 0.8  # width of a kind's runs, of the distance between kinds


def rank_by_kind(table: KindTable, style: Style = "light") -> Figure:
    """A quantity of every matrix, grouped by kind and run.

    Parameters
    ----------
    table
        From :func:`rank_lab.kind_table.kind_table`.
    style
        Of the plot.

    Returns
    -------
    Figure
        A symbol a matrix (up to 3,000 of them; of more the box and its whiskers alone), a box from the lower to the
        upper quartile with the median as a bar, whiskers to the extremes, and the median null as a grey bar.
    """
    quantity = quantity_label(table.metric, table.over)
    places = "; ".join(place(run, step, table.delta) for run, step in table.places)
    plot = new_plot(
        style, title=f"{quantity} by kind of module: {label(places)}", x="kind of module", y=quantity,
        height=320 if style == "paper" else 460, legend=legend(style),
    )  # fmt: skip
    looks = marks(table.names, style)
    width = _GROUP / len(table.names)
    for place_of, name in enumerate(table.names):
        shift = (place_of - (len(table.names) - 1) / 2) * width
        _add_run(plot, table, name, looks[name], shift, width)
    _add_nulls(plot, table, width, style)
    plot.update_xaxes(
        tickvals=list(range(len(table.kinds))), ticktext=list(table.kinds), showgrid=False,
        range=[-0.6, len(table.kinds) - 0.4],
    )  # fmt: skip
    plot.update_yaxes(rangemode="tozero")
    text = _caption(table, places)
    return Figure("rank_by_kind", f"{quantity} by kind of module", plot, _data(table), text, (table.metric,))


def _add_run(plot: go.Figure, table: KindTable, name: str, look: Mark, shift: float, width: float) -> None:
    summary = table.summary[(table.summary["name"] == name) & (table.summary["known"] > 0)]
    shown = label(name)
    common = {"legendgroup": shown, "hoverinfo": "skip", "showlegend": False, "mode": "lines", "name": shown}
    boxes = summary[summary["known"] > 1].to_dict("records")
    for part, lines in (("box", _boxes(table, boxes, shift, width)), ("whiskers", _whiskers(table, boxes, shift))):
        if boxes:
            fill = {"fill": "toself", "fillcolor": faint(look.color, 0.2)} if part == "box" else {}
            plot.add_trace(
                go.Scatter(
                    x=lines[0],
                    y=lines[1],
                    line={"color": look.color, "width": 1},
                    meta={"part": part},
                    **common | fill,
                )
            )
    centers = [table.kinds.index(kind) + shift for kind in summary["kind"]]
    plot.add_trace(
        go.Scatter(
            x=centers,
            y=summary["median"],
            mode="markers",
            name=shown,
            legendgroup=shown,
            meta={"part": "median"},
            marker={
                "symbol": "line-ew-open",
                "size": 60 * width / len(table.kinds) + 8,
                "color": look.color,
                "line": {"width": 2.5},
            },
            hovertext=[_hover(row, shown) for row in summary.to_dict("records")],
            hoverinfo="text",
            showlegend=False,
        )
    )
    _add_matrices(plot, table, name, look, shift, width)


def _add_matrices(plot: go.Figure, table: KindTable, name: str, look: Mark, shift: float, width: float) -> None:
    """Each matrix, spread over the width of its box in the order of the report."""
    points = table.points[(table.points["name"] == name) & table.points["value"].notna()]
    drawn = points if len(table.points) <= _MOST_POINTS else points.iloc[:0]
    order = drawn.groupby("kind", sort=False).cumcount() + 1
    room = drawn.groupby("kind", sort=False)["value"].transform("size") + 1
    x = drawn["kind"].map(table.kinds.index).astype("float64") + shift + (order / room - 0.5) * 0.8 * width
    symbols = [f"{look.symbol}-open" if state == "zero" else look.symbol for state in drawn["state"]]
    plot.add_trace(
        go.Scatter(
            x=list(x) or [None],
            y=list(drawn["value"]) or [None],
            mode="markers",
            name=label(name),
            legendgroup=label(name),
            cliponaxis=False,
            meta={"part": "matrices"},
            marker={"color": look.color, "size": 5, "symbol": symbols or look.symbol},
            hovertext=[
                f"{label(module)}<br>{value:.4g}" for module, value in zip(drawn["module"], drawn["value"], strict=True)
            ],
            hoverinfo="text",
        )
    )


def _boxes(
    table: KindTable, rows: list[dict[Any, Any]], shift: float, width: float
) -> tuple[list[float | None], list[float | None]]:
    x: list[float | None] = []
    y: list[float | None] = []
    for row in rows:
        middle, half = table.kinds.index(str(row["kind"])) + shift, 0.4 * width
        x += [middle - half, middle + half, middle + half, middle - half, middle - half, None]
        y += [row["lower"], row["lower"], row["upper"], row["upper"], row["lower"], None]
    return x, y


def _whiskers(
    table: KindTable, rows: list[dict[Any, Any]], shift: float
) -> tuple[list[float | None], list[float | None]]:
    x: list[float | None] = []
    y: list[float | None] = []
    for row in rows:
        middle = table.kinds.index(str(row["kind"])) + shift
        x += [middle, middle, None, middle, middle, None]
        y += [row["minimum"], row["lower"], None, row["upper"], row["maximum"], None]
    return x, y


def _add_nulls(plot: go.Figure, table: KindTable, width: float, style: Style) -> None:
    x: list[float | None] = []
    y: list[float | None] = []
    for row in table.summary[table.summary["null"].notna()].to_dict("records"):
        shift = (table.names.index(row["name"]) - (len(table.names) - 1) / 2) * width
        middle = table.kinds.index(row["kind"]) + shift
        x += [middle - 0.45 * width, middle + 0.45 * width, None]
        y += [row["null"], row["null"], None]
    if x:
        plot.add_trace(
            go.Scatter(
                x=x,
                y=y,
                mode="lines",
                name="null",
                line={"color": palette(style).null, "width": 2},
                hovertemplate="null: %{y:.4g}<extra></extra>",
                meta={"part": "null"},
            )
        )


def _hover(row: dict[Any, Any], name: str) -> str:
    null = f"<br>null: {row['null']:.4g}" if pd.notna(row["null"]) else ""
    return (
        f"{name}, {row['kind']}: {row['known']} of {row['matrices']} matrices<br>median {row['median']:.4g}"
        f" (quartiles {row['lower']:.4g}, {row['upper']:.4g}){null}"
    )


def _data(table: KindTable) -> pd.DataFrame:
    return table.points.assign(delta=table.delta, metric=table.metric, over=table.over)


def _caption(table: KindTable, places: str) -> str:
    summary = table.summary
    each = "symbols: matrices; " if len(table.points) <= _MOST_POINTS else ""
    return caption(
        f"{quantity_label(table.metric, table.over)} by kind of module{DIVIDED[table.over]}",
        [definition(table.metric)],
        f"Data: {places}; n = {counted(int(summary['known'].sum()), 'matrix', 'matrices')} with a value",
        [
            f"Here {each}bars: medians; boxes: quartiles; lines: extremes",
            "Grey: median of what white noise of the same shape (of factors: random factors) shows"
            if summary["null"].notna().any()
            else "",
            *counted_states({state: int(summary[state].sum()) for state in ("zero", "unresolved", "missing")}),
        ],
    )
