"""Memorization and generalization as SoRA's threshold rises: Figure 3 of arXiv 2311.11696, with its controls.

``python -m analyses.sparsity_curves --data ../shared/data`` adapts the MiniLM encoder that the development
environment carries to RTE by SoRA, raises the threshold stage by stage (Algorithm 1), and sets beside the curve
what one-shot pruning, SVD truncation and the published script's loop reach with as many parameters. Other tasks,
models, seeds and sizes by flags; a run that was stopped goes on. The curve, its configuration and its pictures are
kept in ``results/sparsity_curves/``.
"""

from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

__all__ = ["draw", "main"]

_RESULTS = Path(__file__).parent / "results" / "sparsity_curves"
_COLORS = {"memorization": "#0072B2", "generalization": "#D55E00"}  # Okabe-Ito
_CONTROLS = {
    "sora": ("SoRA, trained on", "circle", "solid"),
    "as_shipped": ("as published (learning rate 0)", "x", "dot"),
    "one_shot": ("dense gates, pruned once by size", "triangle-up", "dash"),
    "one_shot_importance": ("dense gates, pruned once by importance", "triangle-down", "dash"),
    "svd": ("dense update, truncated SVD", "square", "dashdot"),
}


def draw(rows: pd.DataFrame) -> go.Figure:
    """Both measures, against the number of non-zero parameters; hollow where a stage did not converge.

    Parameters
    ----------
    rows
        Of one task's curve.
    """
    figure = make_subplots(rows=1, cols=2, subplot_titles=[name.capitalize() for name in _COLORS], shared_yaxes=True)
    for column, name in enumerate(_COLORS, start=1):
        for control in [known for known in _CONTROLS if known in set(rows["control"])]:
            for seed, part in rows[rows["control"] == control].groupby("seed"):
                figure.add_trace(_line(part, name, control, first=seed == rows["seed"].min()), row=1, col=column)
        figure.update_xaxes(title="non-zero parameters (exact)", row=1, col=column)
    first = rows.iloc[0]
    figure.update_yaxes(title=f"100 × {first['score']} / that of {first['reference'].replace('_', ' ')}", row=1, col=1)
    figure.update_layout(
        template="simple_white", width=1000, height=430, font_size=13, margin={"l": 70, "r": 20, "t": 40, "b": 120},
        legend={"orientation": "h", "y": -0.25, "x": 0.5, "xanchor": "center"},
    )  # fmt: skip
    return figure


def _line(rows: pd.DataFrame, name: str, control: str, *, first: bool) -> go.Scatter:
    label, symbol, dash = _CONTROLS[control]
    ours = control == "sora"
    rows = rows.sort_values("nonzero_parameters")
    open_symbols = [f"{symbol}-open" if ours and converged is False else symbol for converged in rows["converged"]]
    errors = {
        "array": rows[f"{name}_high"] - rows[name],
        "arrayminus": rows[name] - rows[f"{name}_low"],
        "visible": ours,
        "thickness": 1,
    }
    return go.Scatter(
        x=rows["nonzero_parameters"], y=rows[name], mode="lines+markers", name=label, legendgroup=control,
        showlegend=first and name == "memorization", error_y=errors,
        marker={"symbol": open_symbols, "size": 9 if ours else 7},
        line={"color": _COLORS[name] if ours else "#7F7F7F", "dash": dash, "width": 2.5 if ours else 1.2},
    )  # fmt: skip
