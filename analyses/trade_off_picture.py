"""Pictures of :mod:`analyses.learning_vs_forgetting`, from its kept tables alone."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analyses.trade_off_report import titles
from analyses.trade_off_texts import TARGETS

__all__ = ["drawn"]

# Okabe and Ito's colours by family; the dash tells the place, the symbol the rank.
_LOOKS: Mapping[str, tuple[str, str, str]] = {
    "full": ("#000000", "solid", "circle"),
    "lora-r16-all": ("#E69F00", "solid", "diamond"),
    "lora-r16-attention": ("#E69F00", "dot", "diamond"),
    "lora-r16-mlp": ("#E69F00", "dash", "diamond"),
    "lora-r256-all": ("#D55E00", "solid", "square"),
    "lora-r256-attention": ("#D55E00", "dot", "square"),
    "lora-r256-mlp": ("#D55E00", "dash", "square"),
    "sora-r64": ("#009E73", "solid", "triangle-up"),
    "adalora-r16": ("#0072B2", "solid", "triangle-down"),
    "pissa-r16": ("#56B4E9", "solid", "cross"),
    "series-64": ("#CC79A7", "solid", "x"),
}


def drawn(tables: Mapping[str, pd.DataFrame]) -> dict[str, go.Figure]:
    """All pictures by name.

    Parameters
    ----------
    tables
        Kept.
    """
    return {"trade_off": _trade_off(tables["curves"]), "rates": _rates(tables["settings"]), "ranks": _ranks(tables)}


def _figure(rows: int, height: int) -> go.Figure:
    figure = make_subplots(
        rows=rows, cols=2, horizontal_spacing=0.1, vertical_spacing=0.08, subplot_titles=list(TARGETS.values())
    )
    figure.update_layout(
        template="simple_white", width=1100, height=height, font_size=13, margin={"l": 70, "r": 20, "t": 30, "b": 130},
        legend={"orientation": "h", "y": -0.16 * 480 / height, "x": 0.5, "xanchor": "center"},
    )  # fmt: skip
    return figure


def _look(arm: str, shown: bool) -> dict[str, Any]:
    color, dash, symbol = _LOOKS[arm]
    return {
        "name": titles()[arm], "legendgroup": arm, "showlegend": shown, "mode": "lines+markers",
        "line": {"color": color, "dash": dash, "width": 1.5}, "marker": {"symbol": symbol, "size": 7, "color": color},
    }  # fmt: skip


def _trade_off(curves: pd.DataFrame) -> go.Figure:
    figure = _figure(1, 520)
    for column, target in enumerate(TARGETS, start=1):
        for arm, own in curves[curves["target"] == target].groupby("arm", sort=False):
            line = own.sort_values("step")
            bars = {
                axis: {
                    "type": "data", "symmetric": False, "thickness": 1, "width": 3,
                    "array": [0.0, *_at_end(line[f"{name}_high"] - line[name])],
                    "arrayminus": [0.0, *_at_end(line[name] - line[f"{name}_low"])],
                }
                for axis, name in (("error_x", "learned"), ("error_y", "forgotten"))
            }  # fmt: skip
            figure.add_trace(
                go.Scatter(
                    x=[0.0, *line["learned"]], y=[0.0, *line["forgotten"]], **bars, **_look(str(arm), column == 1)
                ),
                row=1,
                col=column,
            )
    figure.update_xaxes(title="learned, nats a token")
    figure.update_yaxes(title="forgotten, nats a token", row=1, col=1)
    return figure


def _at_end(values: "pd.Series[float]") -> list[float]:
    """A bar at the last point alone."""
    found = values.fillna(0.0).tolist()
    return [*(0.0 for _ in found[:-1]), found[-1]]


def _rates(settings: pd.DataFrame) -> go.Figure:
    figure = _figure(2, 820)
    for column, target in enumerate(TARGETS, start=1):
        for arm, own in settings[settings["target"] == target].groupby("arm", sort=False):
            line = own.sort_values("rate")
            symbol = _LOOKS[str(arm)][2]
            symbols = [symbol if chosen else f"{symbol}-open" for chosen in line["chosen"]]
            for row, name in enumerate(("learned", "forgotten"), start=1):
                look = _look(str(arm), column == 1 and row == 1)
                look["marker"] = look["marker"] | {"symbol": symbols}
                figure.add_trace(go.Scatter(x=line["rate"], y=line[name], **look), row=row, col=column)
    figure.update_xaxes(type="log", dtick=1, exponentformat="power")
    figure.update_xaxes(title="learning rate", row=2)
    for row, name in enumerate(("learned", "forgotten"), start=1):
        figure.update_yaxes(title=f"{name}, nats a token", row=row, col=1)
    return figure


def _ranks(tables: Mapping[str, pd.DataFrame]) -> go.Figure:
    """A point a run at its last step, all rates and seeds."""
    runs = tables["runs"]
    last = runs[(runs["step"] == runs["step"].max()) & runs.get("energy_rank_90", pd.Series(dtype=float)).notna()]
    figure = _figure(1, 520)
    for column, target in enumerate(TARGETS, start=1):
        for arm, own in last[last["target"] == target].groupby("arm", sort=False):
            look = _look(str(arm), column == 1) | {"mode": "markers"}
            figure.add_trace(go.Scatter(x=own["energy_rank_90"], y=own["forgotten"], **look), row=1, col=column)
    figure.update_xaxes(title="k<sub>90</sub> of the change, mean weighted by change", type="log", dtick="D2")
    figure.update_yaxes(title="forgotten, nats a token", row=1, col=1)
    return figure
