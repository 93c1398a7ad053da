"""Pictures of :mod:`analyses.adapter_placement`, from its kept tables."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analyses.adapter_placement_report import NAMES, PLACE_NAMES

__all__ = ["draw"]

_OF_PLACE = {"attention": "#0072B2", "mlp": "#D55E00", "both": "#009E73"}  # Okabe-Ito
_OF_TYPE = {"lora": "#D55E00", "series": "#0072B2", "parallel": "#009E73", "parallel_linear": "#CC79A7"}
_SYMBOLS = {"attention": "circle", "mlp": "square", "both": "diamond"}
_LEGEND = {"orientation": "h", "y": -0.22, "x": 0.5, "xanchor": "center"}


def draw(points: pd.DataFrame, base: pd.DataFrame) -> dict[str, go.Figure]:
    """Loss over width, a panel a type; and over trained parameters, all in one.

    Parameters
    ----------
    points, base
        Kept tables.
    """
    return {"placement": _placement(points, float(base["report_loss"].iloc[0])), "parameters": _parameters(points)}


def _placement(points: pd.DataFrame, base: float) -> go.Figure:
    methods = [method for method in NAMES if method in set(points["method"])]
    titles = [NAMES[method] for method in methods]
    figure = make_subplots(cols=len(methods), shared_yaxes=True, horizontal_spacing=0.02, subplot_titles=titles)
    for column, method in enumerate(methods, start=1):
        for place, color in _OF_PLACE.items():
            own = points[(points["method"] == method) & (points["place"] == place)].sort_values("size")
            if len(own):
                look = {"color": color, "symbol": _SYMBOLS[place], "size": 8}
                line = go.Scatter(
                    x=own["size"], y=own["loss"], mode="lines+markers", name=PLACE_NAMES[place], legendgroup=place,
                    showlegend=column == 1, marker=look, line={"color": color}, error_y=_bars(own),
                )  # fmt: skip
                figure.add_trace(line, row=1, col=column)
        sizes = sorted(set(points["size"]))
        figure.update_xaxes(
            title="rank" if method == "lora" else "bottleneck", type="log", tickvals=sizes, row=1, col=column
        )
    figure.update_yaxes(title="held-out loss (nats a token)", row=1, col=1)
    figure.add_hline(
        y=base,
        line={"color": "#7F7F7F", "dash": "dot", "width": 1},
        annotation_text="base",
        annotation_position="bottom",
    )
    return figure.update_layout(_layout(1100, 440))


def _parameters(points: pd.DataFrame) -> go.Figure:
    figure = go.Figure()
    for method in [method for method in NAMES if method in set(points["method"])]:
        for place, symbol in _SYMBOLS.items():
            own = points[(points["method"] == method) & (points["place"] == place)].sort_values("parameters")
            figure.add_trace(
                go.Scatter(
                    x=own["parameters"], y=own["loss"], mode="markers", name=f"{NAMES[method]}, {PLACE_NAMES[place]}",
                    marker={"color": _OF_TYPE[method], "symbol": symbol, "size": 8}, error_y=_bars(own),
                )
            )  # fmt: skip
    figure.update_xaxes(title="trained parameters", type="log", exponentformat="power", dtick=1)
    figure.update_yaxes(title="held-out loss (nats a token)")
    return figure.update_layout(_layout(900, 540))


def _bars(own: pd.DataFrame) -> dict[str, Any]:
    return {
        "type": "data", "symmetric": False, "array": own["high"] - own["loss"], "arrayminus": own["loss"] - own["low"],
        "thickness": 1, "width": 3,
    }  # fmt: skip


def _layout(width: int, height: int) -> dict[str, Any]:
    return {
        "template": "simple_white", "width": width, "height": height, "font_size": 13, "legend": _LEGEND,
        "margin": {"l": 70, "r": 20, "t": 50, "b": 120},
    }  # fmt: skip
