"""The thin grey line of what noise would show."""

from collections.abc import Sequence

import plotly.graph_objects as go

from rank_lab.figures.style import Style, palette

__all__ = ["null_line"]


def null_line(values: Sequence[tuple[float, float]], of: Sequence[str], style: Style, *, named: bool) -> go.Scatter:
    """A null over layers or steps.

    Parameters
    ----------
    values
        Place and null.
    of
        Lines that have this null, as text in a plot.
    style
        Of the plot.
    named
        Whether the legend names it: of several one is enough.
    """
    text = f"null of {', '.join(of)}"
    return go.Scatter(
        x=[place for place, _ in values], y=[null for _, null in values], mode="lines", name="null",
        line={"color": palette(style).null, "width": 1}, legendgroup="null", showlegend=named,
        hovertemplate=text + ": %{y:.4g}<extra></extra>", meta={"null_of": list(of)},
    )  # fmt: skip
