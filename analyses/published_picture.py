"""Pictures of :mod:`analyses.published_points`, from its kept tables."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

__all__ = ["draw"]

_OF_METHOD = {
    ("lora", 16.0): ("LoRA, r = 16", "#E69F00", "circle"), ("lora", 64.0): ("LoRA, r = 64", "#D55E00", "square"),
    ("lora", 256.0): ("LoRA, r = 256", "#CC79A7", "diamond"), ("full", None): ("full fine-tuning", "#0072B2", "star"),
}  # fmt: skip
_OF_TYPE = {
    "prefix": ("prefix", "#7F7F7F", "x"), "series": ("series", "#0072B2", "square"),
    "parallel": ("parallel", "#009E73", "diamond"), "lora": ("LoRA", "#D55E00", "circle"),
    "adalora": ("AdaLoRA", "#009E73", "triangle-up"),
}  # fmt: skip
_SCORES = {"humaneval pass@1": "HumanEval pass@1", "gsm8k exact_match": "GSM8K, 5-shot"}


def draw(tables: Mapping[str, pd.DataFrame]) -> dict[str, go.Figure]:
    """A picture a table.

    Parameters
    ----------
    tables
        Kept ones, by name.
    """
    found = {
        "learning_forgetting": _learning_forgetting(tables["learning_forgetting"]),
        "adapters": _adapters(tables["adapters"]),
        "budgets": _budgets(tables["budgets"]),
    }
    return found | ({"peft": _peft(tables["peft"])} if "peft" in tables else {})


def _learning_forgetting(points: pd.DataFrame) -> go.Figure:
    trainings = list(dict.fromkeys(points["training"]))
    figure = make_subplots(
        rows=2, cols=2, subplot_titles=trainings, horizontal_spacing=0.1, vertical_spacing=0.2, shared_yaxes="rows"
    )
    for place, training in enumerate(trainings):
        where = {"row": place // 2 + 1, "col": place % 2 + 1}
        own = points[points["training"] == training]
        for (method, rank), look in _OF_METHOD.items():
            rows = own[(own["method"] == method) & (own["rank"].isna() if rank is None else own["rank"] == rank)]
            figure.add_trace(_way(rows.sort_values("amount"), look, shown=place == 0), **where)
        front = own[own["on_front"]].sort_values("x")
        line = go.Scatter(
            x=front["x"], y=front["y"], mode="lines", line={"color": "#000000", "width": 1.2, "shape": "vh"},
            name="no other point beats", showlegend=place == 0,
        )  # fmt: skip
        figure.add_trace(line, **where)
        figure.update_xaxes(title=_SCORES[own["learning"].iloc[0]], **where)
    figure.update_yaxes(title="source accuracy", col=1)
    return figure.update_layout(_layout(720, 580, -0.14))


def _way(rows: pd.DataFrame, look: tuple[str, str, str], *, shown: bool) -> go.Scatter:
    """Along a training, its last point the largest."""
    name, color, symbol = look
    sizes = [6] * (len(rows) - 1) + [11]
    hovers = [f"{row['amount']:g} {row['amount_unit']} ({row['table']})" for row in rows.to_dict("records")]
    return go.Scatter(
        x=rows["x"], y=rows["y"], mode="lines+markers", name=name, legendgroup=name, showlegend=shown, hovertext=hovers,
        line={"color": color, "width": 1}, marker={"color": color, "symbol": symbol, "size": sizes},
    )  # fmt: skip


def _adapters(points: pd.DataFrame) -> go.Figure:
    tasks = list(dict.fromkeys(points["task"]))
    figure = make_subplots(cols=len(tasks), subplot_titles=tasks, shared_yaxes=True, horizontal_spacing=0.05)
    for column, task in enumerate(tasks, start=1):
        for method, (name, color, symbol) in _OF_TYPE.items():
            rows = points[(points["task"] == task) & (points["method"] == method)]
            if len(rows):
                marks = go.Scatter(
                    x=rows["value"], y=rows["model"], mode="markers", name=name, legendgroup=name,
                    showlegend=column == 1, marker={"color": color, "symbol": symbol, "size": 10},
                )  # fmt: skip
                figure.add_trace(marks, row=1, col=column)
        figure.update_xaxes(title="accuracy (%)", row=1, col=column)
    return figure.update_layout(_layout(720, 320, -0.42))


def _budgets(points: pd.DataFrame) -> go.Figure:
    tasks = list(dict.fromkeys(points["task"]))
    titles = [{"sst2": "SST-2", "mnli": "MNLI"}.get(task, task) for task in tasks]
    figure = make_subplots(cols=len(tasks), subplot_titles=titles, horizontal_spacing=0.1)
    for column, task in enumerate(tasks, start=1):
        for method in ("lora", "adalora"):
            name, color, symbol = _OF_TYPE[method]
            rows = points[(points["task"] == task) & (points["method"] == method)].sort_values("x")
            marks = go.Scatter(
                x=rows["x"], y=rows["y"], mode="lines+markers", name=name, legendgroup=name, showlegend=column == 1,
                line={"color": color, "width": 1}, marker={"color": color, "symbol": symbol, "size": 9},
            )  # fmt: skip
            figure.add_trace(marks, row=1, col=column)
        ticks = sorted(set(points["x"]))
        figure.update_xaxes(
            title="trained parameters (% of the model's)", type="log", tickvals=ticks, row=1, col=column
        )
        figure.update_yaxes(title="accuracy (%)" if column == 1 else None, row=1, col=column)
    return figure.update_layout(_layout(640, 320, -0.42))


def _peft(points: pd.DataFrame) -> go.Figure:
    figure = make_subplots(cols=2, shared_yaxes=True, horizontal_spacing=0.04)
    for column, (name, title) in enumerate(
        (("parameters", "trained parameters"), ("loss_increase", "rise of a loss on Wikipedia (nats)")), start=1
    ):
        marks = go.Scatter(
            x=points[name], y=points["accuracy"], mode="markers", hovertext=points["training"], showlegend=False,
            marker={"color": "#7F7F7F", "symbol": "circle-open", "size": 8},
        )  # fmt: skip
        figure.add_trace(marks, row=1, col=column)
        figure.update_xaxes(title=title, type="log" if name == "parameters" else "linear", row=1, col=column)
    figure.update_yaxes(title="GSM8K accuracy", row=1, col=1)
    return figure.update_layout(_layout(840, 380, -0.35))


def _layout(width: int, height: int, legend: float) -> dict[str, Any]:
    return {
        "template": "simple_white", "width": width, "height": height, "font_size": 11,
        "margin": {"l": 80, "r": 20, "t": 50, "b": 100},
        "legend": {"orientation": "h", "y": legend, "x": 0.5, "xanchor": "center"},
    }  # fmt: skip
