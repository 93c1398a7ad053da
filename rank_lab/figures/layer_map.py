"""Heat map: layers across, kinds of module down."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from rank_lab.figures.captions import caption, definition, place
from rank_lab.figures.figure import Figure
from rank_lab.figures.style import Style, beside_names, label, merged, new_plot, palette
from rank_lab.layer_table import NO_LAYER, LayerTable
from rank_lab.shown_values import quantity_label

__all__ = ["CLICKED", "layer_map"]

_LARGEST, _WIDTH = 24, 500  # pixels: of a square; of all columns on a narrow screen
_TICKS = 14  # the most that stand beside each other on a narrow screen, with three digits

CLICKED = "cells"
"""Name of the trace of squares that a click selects: plotly tells of no click on a heat map itself."""

_SIGNS = {"zero": "0", "unresolved": "?", "missing": "–"}
_MEANINGS = {
    "zero": "0: the update is exactly zero",
    "unresolved": "?: the rounding of the files hides it",
    "missing": "–: no value, as it does not apply or was not measured",
    "absent": "blank: no such matrix in the report",
}

_DIVIDED = {
    "": "",
    "bound": ", divided by the largest rank that shape and factors allow",
    "null": ", divided by what white noise of that shape (of factors: random factors) shows",
}


def layer_map(table: LayerTable, style: Style = "light") -> Figure:
    """One quantity of every matrix of a run and step.

    Parameters
    ----------
    table
        From :func:`rank_lab.layer_table.layer_table`.
    style
        Of the plot.

    Returns
    -------
    Figure
        Colours for values; a cell that is zero, unresolved or without a value is grey and bears a sign. Each cell has a
        square of the trace :data:`CLICKED` whose customdata is ``(row, column, first module)``.
    """
    quantity = quantity_label(table.metric, table.over)
    title = f"{quantity} by layer and kind: {label(place(table.run, table.step, table.delta))}"
    plot = new_plot(
        style, title=title, x="layer", y="kind of module", height=130 + 28 * max(len(table.rows), 5),
        **merged({"margin": {"b": 60}}, beside_names([label(row) for row in table.rows], style)),
    )  # fmt: skip
    by_place = {(cell["row"], cell["column"]): cell for cell in table.cells.to_dict("records")}
    plot.add_trace(_colours(table, by_place, quantity, style))
    for state, sign in _SIGNS.items():
        cells = table.cells[table.cells["state"] == state]
        if len(cells):
            plot.add_trace(_sign(cells, sign, style))
    plot.add_trace(_squares(table, quantity))
    ticks = list(table.columns[:: math.ceil(len(table.columns) / _TICKS) or 1])
    plot.update_xaxes(
        type="category", categoryorder="array", categoryarray=list(table.columns), showgrid=False, tickvals=ticks,
        tickangle=0, ticktext=["no<br>layer" if column == NO_LAYER else column for column in ticks],
    )  # fmt: skip
    plot.update_yaxes(
        type="category", categoryorder="array", categoryarray=list(reversed(table.rows)), showgrid=False,
        tickvals=list(table.rows), ticktext=[label(row) for row in table.rows],
    )  # fmt: skip
    return Figure("layer_map", f"{quantity} by layer and kind", plot, _data(table), _caption(table), (table.metric,))


def _colours(
    table: LayerTable, by_place: dict[tuple[Any, Any], dict[Any, Any]], quantity: str, style: Style
) -> go.Heatmap:
    values = [[_value(by_place.get((row, column))) for column in table.columns] for row in table.rows]
    return go.Heatmap(
        z=values, x=list(table.columns), y=list(table.rows), xgap=1, ygap=1, hoverinfo="skip",
        colorscale=palette(style).scale,
        colorbar={"title": {"text": quantity, "side": "right"}, "thickness": 14},
    )  # fmt: skip


def _value(cell: dict[Any, Any] | None) -> float | None:
    return float(cell["value"]) if cell is not None and cell["state"] == "value" else None


def _sign(cells: pd.DataFrame, sign: str, style: Style) -> go.Scatter:
    colors = palette(style)
    return go.Scatter(
        x=cells["column"], y=cells["row"], mode="markers+text", text=[sign] * len(cells), hoverinfo="skip",
        textfont={"color": colors.text}, marker={"symbol": "square", "size": 20, "color": colors.empty},
        showlegend=False, name=sign,
        selected={"textfont": {"color": colors.text}}, unselected={"marker": {"opacity": 1}},  # else a click fades it
    )  # fmt: skip


def _squares(table: LayerTable, quantity: str) -> go.Scatter:
    cells = table.cells
    size = max(
        min(_LARGEST, _WIDTH // len(table.columns)), 1
    )  # of squares that overlap plotly takes any for the nearest
    return go.Scatter(
        x=cells["column"], y=cells["row"], mode="markers", name=CLICKED, showlegend=False,
        marker={"symbol": "square", "size": size, "color": "rgba(0,0,0,0)"},
        unselected={"marker": {"opacity": 1}},  # else a browser blends in, at each frame, a thousand that nobody sees
        customdata=[[row, column, modules[0]] for row, column, modules in _triples(cells)],
        hovertext=[_hover(cell, quantity) for cell in cells.to_dict("records")], hoverinfo="text",
    )  # fmt: skip


def _triples(cells: pd.DataFrame) -> Sequence[tuple[Any, Any, Any]]:
    return list(zip(cells["row"], cells["column"], cells["modules"], strict=True))


def _hover(cell: dict[Any, Any], quantity: str) -> str:
    names = label(cell["modules"][0]) + (f" and {cell['matrices'] - 1} more" if cell["matrices"] > 1 else "")
    value = f"{cell['value']:.4g}" if pd.notna(cell["value"]) else cell["state"]
    ends = f" ({cell['low']:.4g} to {cell['high']:.4g})" if pd.notna(cell["low"]) and pd.notna(cell["high"]) else ""
    lines = [names, f"{quantity}: {value}{ends}"]
    lines += [f"{name}: {cell[name]:.4g}" for name in ("null", "bound") if pd.notna(cell[name])]
    return "<br>".join([*lines, *([f"rounding: {cell['noise_regime']}"] if cell["noise_regime"] else [])])


def _data(table: LayerTable) -> pd.DataFrame:
    data = table.cells.assign(modules=[" ".join(names) for names in table.cells["modules"]])
    first = {"run": table.run, "step": table.step, "delta": table.delta, "metric": table.metric, "over": table.over}
    return pd.concat([pd.DataFrame([first] * len(data), index=data.index), data], axis=1)


def _caption(table: LayerTable) -> str:
    states = [state for state in _SIGNS if (table.cells["state"] == state).any()]
    if len(table.cells) < len(table.rows) * len(table.columns):
        states.append("absent")
    count = int(table.cells["matrices"].sum())
    return caption(
        f"{quantity_label(table.metric, table.over)} of every matrix{_DIVIDED[table.over]}",
        [definition(table.metric)],
        f"Data: {place(table.run, table.step, table.delta)}; n = {count} matrices",
        [_MEANINGS[state] for state in states]
        + (
            ["A cell of several experts shows the median of those that have a value"]
            if (table.cells["matrices"] > 1).any()
            else []
        ),
    )
