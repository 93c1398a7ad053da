"""Where a legend stands, and entries that look alike whatever the first point of a trace looks like."""

from typing import Any

import plotly.graph_objects as go

from rank_lab.figures.style import Mark, Style

__all__ = ["key", "legend", "room_below"]


def legend(style: Style) -> dict[str, Any]:
    """Of plotly's layout: below the plot on a screen, above it in a narrow column of a paper; a plot keeps its width.

    Parameters
    ----------
    style
        Of the plot.
    """
    across: dict[str, Any] = {
        "orientation": "h", "x": 0.0, "xanchor": "left", "bgcolor": "rgba(0,0,0,0)", "traceorder": "normal",
    }  # fmt: skip
    if style == "paper":
        return across | {"y": 1.02, "yanchor": "bottom", "font": {"size": 10}, "tracegroupgap": 0}
    return across | {"yref": "container", "y": 0.0, "yanchor": "bottom"}


def room_below(style: Style, *, rows: int) -> dict[str, int]:
    """Margin of a plot with a legend below it on a screen.

    Parameters
    ----------
    style
        Of the plot; in print a legend stands above it.
    rows
        For which there is room. Of more, plotly moves the axis up, and draws the plot twice to do so.

    Examples
    --------
    >>> room_below("dark", rows=2), room_below("paper", rows=2)
    ({'b': 110}, {})
    """
    return {} if style == "paper" else {"b": 70 + 20 * rows}


def key(name: str, look: Mark, *, group: str, line: bool = False) -> go.Scatter:
    """An entry of the legend without a point: a trace's own entry would show its first mark, which may be hollow.

    Parameters
    ----------
    name
        Text, already a label.
    look
        Of its marks.
    group
        That a click hides and shows: the ``legendgroup`` of the traces themselves.
    line
        Whether their points are joined.
    """
    return go.Scatter(
        x=[None], y=[None], mode="lines+markers" if line else "markers", name=name, legendgroup=group,
        line={"color": look.color, "width": 2, "dash": look.dash}, hoverinfo="skip",
        marker={"symbol": look.symbol, "size": 8, "color": look.color},
    )  # fmt: skip
