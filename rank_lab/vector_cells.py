"""Heat maps as rectangles: plotly draws a heat map as a bitmap, also where everything else is a vector."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

__all__ = ["MOST_CELLS", "vector_cells"]

MOST_CELLS = 10_000
"""Of one map; one with more stays a bitmap, as its file would be larger than its picture."""


def vector_cells(plot: go.Figure) -> go.Figure:
    """The same plot with each heat map drawn as rectangles, for print.

    Parameters
    ----------
    plot
        Not changed. Maps lie on axes of categories that are listed, or of numbers one apart.

    Examples
    --------
    >>> found = vector_cells(go.Figure(go.Heatmap(z=[[0.0, 1.0], [None, 0.5]], x=[1, 2], y=[1, 2])))
    >>> [trace.type for trace in found.data], len(found.layout.shapes)
    (['scatter'], 3)
    """
    drawn = [_is_small(trace) for trace in plot.data]
    if not any(drawn):
        return plot
    found = go.Figure(plot)
    traces, shapes = [], []
    for trace, small in zip(found.data, drawn, strict=True):
        if not small:
            traces.append(trace)
            continue
        axes = [found.layout[name.replace(letter, f"{letter}axis", 1)] for letter, name in _axes(trace)]
        low, high = _range(trace)
        shapes += list(_rectangles(trace, axes, (low, high), found.layout.plot_bgcolor or "#ffffff"))
        traces.append(_colour_bar(trace, low, high))
        for axis, labels in zip(axes, (trace.x, trace.y), strict=True):
            places = _places(axis, labels)
            if axis.range is None:
                axis.range = [min(places) - 0.5, max(places) + 0.5]
    return go.Figure(traces, found.layout).update_layout(shapes=[*shapes, *found.layout.shapes])


def _is_small(trace: Any) -> bool:
    return trace.type == "heatmap" and len(trace.x) * len(trace.y) <= MOST_CELLS


def _axes(trace: Any) -> tuple[tuple[str, str], tuple[str, str]]:
    return ("x", trace.xaxis or "x"), ("y", trace.yaxis or "y")


def _range(trace: Any) -> tuple[float, float]:
    if trace.zmin is not None and trace.zmax is not None:
        return float(trace.zmin), float(trace.zmax)
    values = np.asarray([[np.nan if each is None else each for each in row] for row in trace.z], np.float64)
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def _places(axis: Any, labels: Sequence[Any]) -> list[float]:
    """Where cells lie: a category by its number, a number by itself."""
    if axis.type != "category":
        return [float(each) for each in labels]
    order = [str(each) for each in (axis.categoryarray if axis.categoryarray is not None else labels)]
    return [float(order.index(str(each))) for each in labels]


def _rectangles(
    trace: Any, axes: Sequence[Any], ends: tuple[float, float], background: str
) -> Iterator[dict[str, Any]]:
    (_, across), (_, along) = _axes(trace)
    columns, rows = _places(axes[0], trace.x), _places(axes[1], trace.y)
    line = {"color": background, "width": float(trace.xgap or 0)}
    scale = [list(each) for each in trace.colorscale] if trace.colorscale else "Plasma"
    for y, values in zip(rows, trace.z, strict=True):
        for x, value in zip(columns, values, strict=True):
            if value is None or not np.isfinite(value):
                continue
            share = min(max((float(value) - ends[0]) / (ends[1] - ends[0]), 0.0), 1.0)
            yield {
                "type": "rect", "xref": across, "yref": along, "layer": "below", "line": line,
                "x0": x - 0.5, "x1": x + 0.5, "y0": y - 0.5, "y1": y + 0.5,
                "fillcolor": sample_colorscale(scale, [share])[0],
            }  # fmt: skip


def _colour_bar(trace: Any, low: float, high: float) -> go.Scatter:
    """A trace without a mark that has the map's colour bar."""
    marker = {
        "color": [low], "cmin": low, "cmax": high, "colorscale": trace.colorscale,
        "showscale": trace.showscale is not False, "colorbar": trace.colorbar.to_plotly_json(),
    }  # fmt: skip
    return go.Scatter(
        x=[None], y=[None], mode="markers", marker=marker, xaxis=trace.xaxis, yaxis=trace.yaxis, name=trace.name,
        showlegend=False, hoverinfo="skip",
    )  # fmt: skip
