"""Thin grey lines of what noise would show."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from rank_lab.figures.style import Style, label, palette

__all__ = ["null_lines"]

Values = Sequence[tuple[float, float]]


def null_lines(nulls: Mapping[str, Values], style: Style) -> list[go.Scatter]:
    """Nulls over layers or steps, each drawn once however many lines have it.

    Parameters
    ----------
    nulls
        Name of a line to its places and their nulls; perhaps none.
    style
        Of the plot.

    Returns
    -------
    list of Scatter
        Named once in the legend; each says in ``meta["null_of"]`` and on hovering whose null it is.
    """
    owners: dict[tuple[tuple[float, float], ...], list[str]] = {}
    rounded = {name: tuple((place, round(null, 9)) for place, null in values) for name, values in nulls.items()}
    for name, values in sorted(rounded.items(), key=lambda one: -len(one[1])):
        longer = next((other for other in owners if set(values) <= set(other)), values)
        if values:
            owners.setdefault(longer, []).append(label(name))
    return [_line(values, names, style, named=not place) for place, (values, names) in enumerate(owners.items())]


def _line(values: Values, of: Sequence[str], style: Style, *, named: bool) -> go.Scatter:
    text = f"null of {', '.join(of)}"
    return go.Scatter(
        x=[place for place, _ in values], y=[null for _, null in values], mode="lines", name="null",
        line={"color": palette(style).null, "width": 1}, legendgroup="null", showlegend=named,
        hovertemplate=text + ": %{y:.4g}<extra></extra>", meta={"null_of": list(of)},
    )  # fmt: skip
