"""Cells of a map: colours for numbers, grey and a sign for what is no number, the number itself where there is room."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from rank_lab.figures.style import Style, label, palette
from rank_lab.module_grid import NO_LAYER

__all__ = ["CELLS", "TEXTS", "add_cells", "name_axes"]

CELLS = "cells"
"""Name of the trace of squares that a click selects: plotly tells of no click on a heat map itself."""

TEXTS = "texts"
"""Name of the trace of what stands in the cells."""

_LIGHT_FROM = {
    "light": 0.47,
    "paper": 0.47,
    "dark": 0.2,
}  # of the colours: beyond, black is read more easily than white
_MOST_NUMBERS = 12  # columns beside which a number is still read on a paper's column


def add_cells(
    plot: go.Figure,
    cells: pd.DataFrame,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    quantity: str,
    style: Style,
    **colours: Any,
) -> None:
    """Draw a map.

    Parameters
    ----------
    plot
        To draw in.
    cells
        A row a cell: ``row``, ``column``, ``value``, ``sign`` (text that stands in a cell without a colour; empty: the
        value is drawn), ``number`` (text of the value), ``hover`` and ``module`` (a click's).
    rows, columns
        In order; what has no cell stays blank.
    quantity
        Title of the colours.
    style
        Of the plot.
    colours
        Further settings of plotly's heat map, such as ``zmin``.
    """
    gap = 1 if len(columns) <= _MOST_NUMBERS else 0  # narrow cells would be mostly gaps
    drawn, signed = cells[cells["sign"] == ""], cells[cells["sign"] != ""]
    plot.add_trace(
        go.Heatmap(
            z=_grid(drawn, "value", rows, columns), x=list(columns), y=list(rows), hoverinfo="skip", xgap=gap, ygap=1,
            name=quantity,
            colorbar={"title": {"text": quantity, "side": "right"}, "thickness": 12},
            **({"colorscale": palette(style).scale} | colours),
        )
    )  # fmt: skip
    if len(signed):
        colors = palette(style)
        grey = signed.assign(grey=1.0)
        plot.add_trace(
            go.Heatmap(
                z=_grid(grey, "grey", rows, columns), x=list(columns), y=list(rows), hoverinfo="skip", xgap=gap, ygap=1,
                showscale=False, colorscale=[[0, colors.empty], [1, colors.empty]], name="no colour",
            )
        )  # fmt: skip
    plot.add_trace(_texts(cells, style, colours, numbers=len(columns) <= _MOST_NUMBERS))
    plot.add_trace(
        go.Scatter(
            x=cells["column"], y=cells["row"], mode="markers", name=CELLS, showlegend=False,
            marker={"symbol": "square", "size": 22, "color": "rgba(0,0,0,0)"},
            unselected={"marker": {"opacity": 1}},
            customdata=cells[["row", "column", "module"]].to_numpy().tolist(), hovertext=list(cells["hover"]),
            hoverinfo="text",
        )
    )  # fmt: skip


def name_axes(
    plot: go.Figure,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    texts: Sequence[str] = (),
) -> None:
    """Categories in order, not more ticks than can be read.

    Parameters
    ----------
    plot
        With the cells.
    rows, columns
        In order.
    texts
        Of the columns; default their names.
    """
    every = max(-(-len(columns) // _MOST_NUMBERS), 1)
    shown = [label(text) for text in texts] or ["no<br>layer" if each == NO_LAYER else label(each) for each in columns]
    plot.update_xaxes(
        type="category", tickangle=None if texts else 0, categoryorder="array", categoryarray=list(columns),
        showgrid=False,
        tickvals=list(columns[::every]), ticktext=shown[::every],
    )  # fmt: skip
    plot.update_yaxes(
        type="category", categoryorder="array", categoryarray=list(reversed(rows)), showgrid=False, automargin=True,
        tickvals=list(rows), ticktext=["no layer" if row == NO_LAYER else label(row) for row in rows],
    )  # fmt: skip


def _texts(cells: pd.DataFrame, style: Style, colours: dict[str, Any], *, numbers: bool) -> go.Scatter:
    """Signs, and numbers where there is room: dark on the light half of the colours, light on the dark half."""
    values = cells["value"].where(cells["sign"] == "")
    low, high = colours.get("zmin", values.min()), colours.get("zmax", values.max())
    middle = low + _LIGHT_FROM[style] * (high - low)
    told = cells if numbers else cells[cells["sign"] != ""]
    ink = [
        palette(style).text if row["sign"] else "#000000" if row["value"] > middle or high == low else "#ffffff"
        for row in told.to_dict("records")
    ]
    return go.Scatter(
        x=told["column"], y=told["row"], mode="text", text=told["sign"].where(told["sign"] != "", told["number"]),
        textfont={"color": ink, "size": 10}, hoverinfo="skip", showlegend=False, name=TEXTS,
        selected={"textfont": {"color": palette(style).text}},  # without it a click makes all other texts faint
    )  # fmt: skip


def _grid(cells: pd.DataFrame, name: str, rows: Sequence[str], columns: Sequence[str]) -> list[list[Any]]:
    values = {
        (row, column): value for row, column, value in zip(cells["row"], cells["column"], cells[name], strict=True)
    }
    return [[_plain(values.get((row, column))) for column in columns] for row in rows]


def _plain(value: Any) -> Any:
    return None if not isinstance(value, str) and pd.isna(value) else value
