"""A plot in the form that a page draws once: plotly in a page is asked again and again to draw the same."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.io.json import to_json_plotly

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
    layout = {name: value for name, value in plot.layout.to_plotly_json().items() if name != "template"}
    sent: dict[str, Any] = {"data": traces, "layout": _with_lists(layout | (_CLICKED if clickable else {}))}
    sent["layout"]["datarevision"] = hashlib.blake2b(to_json_plotly(sent).encode(), digest_size=16).hexdigest()
    return _Sent(sent)


class _Sent(go.Figure):  # type: ignore[misc]  # plotly has no types
    """Has the form in which it is sent, and is not copied and searched each time that it is: a map, with each click."""

    def __init__(self, sent: dict[str, Any]) -> None:
        super().__init__()
        self._sent = sent

    def to_dict(self) -> dict[str, Any]:
        return dict(self._sent)


def _with_lists(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _listed(value) for name, value in values.items()}


def _listed(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    return _with_lists(value) if isinstance(value, Mapping) else value
