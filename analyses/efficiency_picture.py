"""The picture of :mod:`analyses.parameter_efficiency`, from its table of scores."""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analyses.efficiency_arms import titles
from rank_lab.glue import GLUE

__all__ = ["draw"]

_LOOKS = {
    "full": ("#000000", "star"),
    "lora": ("#0072B2", "circle"),
    "sora": ("#D55E00", "diamond"),
    "sora-fixed": ("#E69F00", "diamond-open"),
    "adalora": ("#009E73", "square"),
    "bitfit": ("#CC79A7", "triangle-up"),
    "series": ("#56B4E9", "triangle-down"),
}  # Okabe-Ito
_NAMES = {
    "full": "full fine-tuning", "lora": "LoRA", "sora": "SoRA, 70 % kept", "sora-fixed": "SoRA, fixed λ",
    "adalora": "AdaLoRA", "bitfit": "BitFit", "series": "series adapter",
}  # fmt: skip


def draw(scores: pd.DataFrame) -> go.Figure:
    """Score over parameters that are not zero in the end, a panel a task; a thin line comes from those trained.

    Parameters
    ----------
    scores
        Of :func:`analyses.efficiency_tables.scores_of`.
    """
    tasks = list(scores["task"].unique())
    figure = make_subplots(cols=len(tasks), subplot_titles=[_title(task) for task in tasks], horizontal_spacing=0.06)
    for column, task in enumerate(tasks, start=1):
        rows = scores[scores["task"] == task]
        for family, (color, symbol) in _LOOKS.items():
            part = rows[rows["arm"].map(_family) == family].sort_values("nonzero")
            if len(part):
                for trace in (_points(part, family, color, symbol, shown=column == 1), _closed(part, family, color)):
                    figure.add_trace(trace, row=1, col=column)
        lowest = rows["one_answer"].max()
        if pd.notna(lowest) and lowest > rows["low"].min() - 10:
            figure.add_trace(_floor(rows, lowest, shown=column == 1), row=1, col=column)
        figure.update_xaxes(type="log", title="parameters, not zero, without head", dtick=1, row=1, col=column)
    figure.update_yaxes(title="score × 100 on the half that did not choose", row=1, col=1)
    figure.update_layout(
        template="simple_white", width=max(640, 420 * len(tasks)), height=460, font_size=13,
        margin={"l": 70, "r": 20, "t": 40, "b": 110},
        legend={"orientation": "h", "y": -0.22, "x": 0.5, "xanchor": "center"},
    )  # fmt: skip
    return figure


def _points(part: pd.DataFrame, family: str, color: str, symbol: str, *, shown: bool) -> go.Scatter:
    errors = {"array": part["high"] - part["value"], "arrayminus": part["value"] - part["low"], "thickness": 1}
    return go.Scatter(
        x=part["nonzero"], y=part["value"], error_y=errors, mode="lines+markers", name=_NAMES[family],
        legendgroup=family, showlegend=shown, marker={"symbol": symbol, "size": 10, "color": color},
        line={"color": color, "width": 1.5}, hovertext=[titles()[arm] for arm in part["arm"]],
    )  # fmt: skip


def _closed(part: pd.DataFrame, family: str, color: str) -> go.Scatter:
    """From what was trained to what is left."""
    x: list[float | None] = []
    y: list[float | None] = []
    for row in part.to_dict("records"):
        if row["nonzero"] < row["trained"]:
            x += [row["trained"], row["nonzero"], None]
            y += [row["value"], row["value"], None]
    line = {"color": color, "width": 1, "dash": "dot"}
    return go.Scatter(x=x, y=y, mode="lines", line=line, legendgroup=family, showlegend=False, hoverinfo="skip")


def _floor(rows: pd.DataFrame, score: float, *, shown: bool) -> go.Scatter:
    ends = [rows["nonzero"].min(), rows[["nonzero", "trained"]].max().max()]
    return go.Scatter(
        x=ends, y=[score, score], mode="lines", name="one answer for all", showlegend=shown, legendgroup="one answer",
        line={"color": "#7F7F7F", "width": 1, "dash": "dash"},
    )  # fmt: skip


def _family(arm: str) -> str:
    return arm.rpartition("-")[0] or arm


def _title(task: str) -> str:
    return f"{task}: {GLUE[task].score.replace('_', ' ')}" if task in GLUE else f"{task} over tasks"
