"""A plot in the form that a page draws once: plotly in a page is asked again and again to draw the same."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

__all__ = ["drawn_once"]

_CLICKED = {"clickmode": "event+select", "hovermode": "closest", "dragmode": "pan"}  # as Streamlit sets them


def drawn_once(plot: go.Figure, *, clickable: bool = False) -> go.Figure:
    """The same picture, of which plotly.js sees that nothing has changed when it is given it again.

    Streamlit gives plotly.js each plot twice, each time read anew from its text: as it arrives, and once the page knows
    its width. plotly.js compares the two (https://plotly.com/javascript/plotlyjs-function-reference/#plotlyreact), and
    draws all of it again where it finds an object in place of another: a template, a ``meta``, numbers as bytes.
    Numbers are therefore lists here, with a ``datarevision`` that their content gives, and template and ``meta``, which
    no reader sees, are left out.

    Parameters
    ----------
    plot
        With the template "none", and without ``%{meta}`` in its texts; it is not changed.
    clickable
        Whether Streamlit listens to clicks: what it would set in the plot afterwards is there at once.

    Examples
    --------
    >>> plot = go.Figure(go.Scatter(x=np.arange(3), y=[1, 2, 4], meta={"state": "value"}), {"template": "none"})
    >>> sent = drawn_once(plot).to_dict()
    >>> sent["data"], list(sent["layout"])
    ([{'x': [0, 1, 2], 'y': [1, 2, 4], 'type': 'scatter'}], ['datarevision'])
    """
    traces = [
        _with_lists({name: value for name, value in trace.to_plotly_json().items() if name != "meta"})
        for trace in plot.data
    ]
    layout = plot.layout.to_plotly_json() | (_CLICKED if clickable else {})
    sent = go.Figure({"data": traces, "layout": _with_lists(layout)})
    sent.layout.template = None
    sent.layout.datarevision = hashlib.blake2b(sent.to_json().encode(), digest_size=16).hexdigest()
    return sent


def _with_lists(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _listed(value) for name, value in values.items()}


def _listed(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    return _with_lists(value) if isinstance(value, Mapping) else value
