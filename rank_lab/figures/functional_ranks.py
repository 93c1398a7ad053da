"""Rank of what updates do to real inputs: along depth, all methods on one axis; and beside the weight's own rank."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from rank_lab.figures.captions import caption, definition
from rank_lab.figures.error_bars import floats, interval_words, plain_rows
from rank_lab.figures.figure import Figure
from rank_lab.figures.legends import legend
from rank_lab.figures.null_line import null_lines
from rank_lab.figures.over_text import counted
from rank_lab.figures.style import Mark, Style, label, marks, new_plot, palette
from rank_lab.functional_views import FunctionalDepth, FunctionalWeights
from rank_lab.shown_values import quantity_label

__all__ = ["functional_depth_plot", "functional_weight_plot"]

_OF = {
    "layer": "the hidden state after each layer, same tokens through both models",
    "module": "each module's output, same input through both modules",
    "weighted": "ΔW C^½, the weight's change on the base's inputs",
}
_SHORT = {"layer": "hidden states", "module": "outputs", "weighted": "ΔW C^½"}
_OPEN = "↑: too few texts to tell an upper end"
_NULL = "a random linear change of the same shape and rank on the same inputs"


def functional_depth_plot(view: FunctionalDepth, style: Style = "light") -> Figure:
    """A functional rank along depth, a line a run.

    Parameters
    ----------
    view
        From :func:`rank_lab.functional_views.functional_depth`.
    style
        Of the plot.

    Returns
    -------
    Figure
        Bars are 95 % intervals over texts, an arrow stands where the upper end cannot be told; grey: the nulls.
    """
    quantity = quantity_label(view.metric)
    kind = "" if view.scope == "layer" else f", {view.kind}"
    plot = new_plot(
        style, title=f"{quantity} of the change of {_SHORT[view.scope]}{label(kind)} along depth", x="layer",
        y=f"{quantity} of Δ{'W C^½' if view.scope == 'weighted' else 'H'}", legend=legend(style),
        height=320 if style == "paper" else 460,
    )  # fmt: skip
    looks = marks(list(view.runs), style)
    lines = {run: view.points[view.points["run"] == run] for run in view.runs}
    plot.add_traces(null_lines({run: _nulls(rows) for run, rows in lines.items()}, style))
    for run, rows in lines.items():
        plot.add_trace(_line(rows, run, looks[run]))
        plot.add_traces(_arrows(rows, "layer", looks[run]))
    most = int(view.points["layer"].max(skipna=True) or 0)
    plot.update_xaxes(tickformat="d", dtick=max(most // 12, 1))
    plot.update_yaxes(rangemode="tozero")
    return Figure(
        f"functional_ranks_{view.scope}", f"{quantity} of what updates do, along depth", plot, view.points,
        _caption(view), (view.metric, "linear_share"),
    )  # fmt: skip


def functional_weight_plot(view: FunctionalWeights, style: Style = "light") -> Figure:
    """Functional rank of each module against the rank of its weight's change, a colour a run.

    Parameters
    ----------
    view
        From :func:`rank_lab.functional_views.functional_weights`.
    style
        Of the plot.

    Returns
    -------
    Figure
        Dotted: where both are equal, as on white inputs; grey crosses: the nulls.
    """
    quantity = quantity_label(view.metric)
    plot = new_plot(
        style, title=f"{quantity}: what updates do against what they are", x=f"{quantity} of ΔW",
        y=f"{quantity} of ΔW C^½", legend=legend(style), height=360 if style == "paper" else 520,
    )  # fmt: skip
    points, most = view.points, float(view.points[["weight", "value", "null"]].max().max())
    plot.add_trace(
        go.Scatter(
            x=[0.0, most], y=[0.0, most], mode="lines", name="equal", hoverinfo="skip",
            line={"color": palette(style).text, "width": 1, "dash": "dot"},
        )
    )  # fmt: skip
    plot.add_trace(
        go.Scatter(
            x=floats(points["weight"]), y=floats(points["null"]), mode="markers", name="null", hoverinfo="skip",
            marker={"symbol": "x-thin-open", "size": 6, "color": palette(style).null}, cliponaxis=False,
        )
    )  # fmt: skip
    looks = marks(list(view.runs), style)
    for run in view.runs:
        rows = points[points["run"] == run]
        plot.add_trace(_dots(rows, run, looks[run]))
        plot.add_traces(_arrows(rows, "weight", looks[run]))
    plot.update_layout(xaxis={"rangemode": "tozero"}, yaxis={"rangemode": "tozero"})
    notes = ["Dotted: equal, as on white inputs", f"Grey: {_NULL}", *_notes(points)]
    if view.without:
        notes.append(f"Not shown: {counted(view.without, 'module', 'modules')} whose change is no weight update")
    notes += view.warnings
    data = f"Data: {', '.join(view.runs)}; {view.probes}; n = {counted(len(points), 'module', 'modules')}"
    what = f"{quantity} of each weight's change ΔW and of ΔW C^½, with C the second moment of the base's inputs"
    return Figure(
        "functional_against_weight", f"{quantity}: what updates do against what they are", plot, points,
        caption(what, [definition(view.metric)], data, notes), (view.metric,),
    )  # fmt: skip


def _line(rows: pd.DataFrame, run: str, look: Mark) -> go.Scatter:
    return go.Scatter(
        x=rows["layer"], y=floats(rows["value"]), mode="lines+markers", name=label(run), cliponaxis=False,
        legendgroup=run, line={"color": look.color, "width": 1.5, "dash": look.dash}, error_y=_bars(rows, look),
        marker={"color": look.color, "size": 7, "symbol": look.symbol}, hovertext=_hovers(rows), hoverinfo="text",
        customdata=plain_rows(rows, "run", "module"),
    )  # fmt: skip


def _dots(rows: pd.DataFrame, run: str, look: Mark) -> go.Scatter:
    return go.Scatter(
        x=floats(rows["weight"]), y=floats(rows["value"]), mode="markers", name=label(run), cliponaxis=False,
        legendgroup=run, error_y=_bars(rows, look), hovertext=_hovers(rows), hoverinfo="text",
        marker={"color": look.color, "size": 7, "symbol": look.symbol}, customdata=plain_rows(rows, "run", "module"),
    )  # fmt: skip


def _bars(rows: pd.DataFrame, look: Mark) -> dict[str, Any]:
    above = (rows["high"] - rows["value"]).mask(rows["open_above"])
    return {
        "type": "data", "symmetric": False, "array": [each or 0.0 for each in floats(above)],
        "arrayminus": [each or 0.0 for each in floats(rows["value"] - rows["low"])], "color": look.color,
        "thickness": 1, "width": 3,
    }  # fmt: skip


def _arrows(rows: pd.DataFrame, across: str, look: Mark) -> list[go.Scatter]:
    """Where the upper end of an interval cannot be told."""
    own = rows[rows["open_above"]]
    if own.empty:
        return []
    arrow = go.Scatter(
        x=floats(own[across]), y=floats(own["value"]), mode="text", text=["↑"] * len(own), textposition="top center",
        textfont={"color": look.color, "size": 15}, hoverinfo="skip", showlegend=False, cliponaxis=False,
        legendgroup=str(own["run"].iloc[0]),
    )  # fmt: skip
    return [arrow]


def _nulls(rows: pd.DataFrame) -> list[tuple[float, float]]:
    known = rows[rows["null"].notna()]
    return list(zip(known["layer"], known["null"], strict=True))


def _hovers(rows: pd.DataFrame) -> list[str]:
    return [_hover(row) for row in rows.to_dict("records")]


def _hover(row: dict[Any, Any]) -> str:
    lines = [
        f"{label(str(row['run']))}, {label(str(row['module']))}",
        interval_words(row, "value", low="low", high="high") + (", open above" if row["open_above"] else ""),
        f"null {row['null']:.4g}, bound {row['bound']}",
    ]
    if pd.notna(row["weight"]):
        lines.append(f"of the weight {row['weight']:.4g}")
    if pd.notna(row["linear_share"]):
        lines.append(f"a linear map explains {row['linear_share']:.2f}")
    lines.append(f"change {row['relative_change']:.2g} of what is there, {row['mean_share']:.2f} of it one vector")
    return "<br>".join(lines)


def _caption(view: FunctionalDepth) -> str:
    quantity = quantity_label(view.metric)
    kind = "" if view.scope == "layer" else f" (modules {view.kind})"
    data = f"Data: {', '.join(view.runs)}{kind}; {view.probes}; n = {counted(len(view.points), 'point', 'points')}"
    shares = view.points.groupby("run", sort=False)["linear_share"].median().dropna()
    told = ", ".join(f"{run} {value:.2f}" for run, value in shares.items())
    notes = [f"Grey: {_NULL}", *_notes(view.points)]
    notes += view.warnings
    if told:
        notes.append(f"Median share of the change that a linear map of the input explains, on other texts: {told}")
    return caption(
        f"{quantity} of the change of {_OF[view.scope]}", [definition(view.metric).replace("of the update", "of it")],
        data, notes,
    )  # fmt: skip


def _notes(points: pd.DataFrame) -> list[str]:
    notes = ["Bars: 95 % intervals over texts"] if points["low"].notna().any() else ["Too few texts for intervals"]
    return notes + ([_OPEN] if points["open_above"].any() else [])
