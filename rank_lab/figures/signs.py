"""Values that are no numbers, shown in a strip below a plot: a curve that ends says why."""

from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go

from rank_lab.figures.style import Mark, Style, axis, palette

__all__ = ["SIGNS", "SIGN_MEANINGS", "add_signs"]

SIGNS = {"zero": "0", "unresolved": "?", "missing": "–"}
"""Sign of a state that has no number."""

SIGN_MEANINGS = {
    "zero": "0: the update is exactly zero and has no direction",
    "unresolved": "?: hidden by the rounding of the files",
    "missing": "–: no value, as it does not apply or was not measured",
}

_SHARE = 0.045  # of the height, a line


def add_signs(plot: go.Figure, points: pd.DataFrame, x: str, looks: Mapping[str, Mark], style: Style) -> list[str]:
    """A strip with a sign for each point without a value; nothing where all have one.

    Parameters
    ----------
    plot
        With one pair of axes, which makes room.
    points
        ``line``, ``value``, ``state`` and the column ``x``.
    x
        Column of the horizontal axis.
    looks
        Mark of each line; those with signs are stacked in this order.
    style
        Of the plot.

    Returns
    -------
    list of str
        What the signs that occur mean.
    """
    gone = points[points["state"].isin(list(SIGNS)) & points["value"].isna()]
    lines = [line for line in looks if (gone["line"] == line).any()]
    if not lines:
        return []
    height = min(_SHARE * len(lines), 0.4)
    plot.update_layout(
        yaxis={"domain": [height + 0.03, 1]},
        yaxis2=axis(
            style, "", domain=[0, height], range=[len(lines) - 0.5, -0.5], showticklabels=False, ticks="",
            showgrid=False, showline=False, anchor="x",
        ),
        xaxis={"anchor": "y2"},
    )  # fmt: skip
    for place, line in enumerate(lines):
        own = gone[gone["line"] == line]
        plot.add_trace(_strip(own[x], place, list(own["state"]), looks[line], palette(style).text))
    return [meaning for state, meaning in SIGN_MEANINGS.items() if (gone["state"] == state).any()]


def _strip(x: "pd.Series[float]", place: int, states: Sequence[str], look: Mark, text: str) -> go.Scatter:
    return go.Scatter(
        x=x, y=[place] * len(x), mode="markers+text", text=[f" {SIGNS[state]}" for state in states], yaxis="y2",
        marker={"symbol": f"{look.symbol}-open", "size": 6, "color": look.color}, textposition="middle right",
        textfont={"color": text}, cliponaxis=False, showlegend=False, hovertext=states, hoverinfo="x+text",
        meta={"signs": True},
    )  # fmt: skip
