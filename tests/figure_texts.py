"""Texts that a plot shows, to see that names from files are no markup in them."""

from collections.abc import Iterator
from typing import Any

import plotly.graph_objects as go

HOSTILE = "<b>x</b>$\\alpha$\x1b[2J"
"""A name with HTML, LaTeX and a terminal's control in it."""


def texts(plot: go.Figure) -> Iterator[str]:
    """All that is drawn or shown where a pointer stands; not the data behind it."""
    layout = plot.layout
    for each in plot.data:
        for value in (
            each.name,
            each.hovertext if "hovertext" in each else None,
            each.text if "text" in each else None,
        ):
            yield from _flat(value)
    yield from _flat([layout.title.text, *(each.text for each in layout.annotations)])
    for axis in (layout.xaxis, layout.yaxis):
        yield from _flat([axis.title.text, axis.ticktext])


def is_safe(plot: go.Figure) -> bool:
    """Whether every text shows a hostile name as what it is."""
    return not any("<b>" in text or "$" in text or "\x1b" in text for text in texts(plot))


def _flat(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple) or hasattr(value, "tolist"):
        for part in value:
            yield from _flat(part)
