"""Memorization and generalization as a model is made sparser: Figure 3 of SoRA, with controls and knees."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from rank_lab.curve import SORA
from rank_lab.curve_points import MEASURED, CurvePoints
from rank_lab.figures.captions import caption
from rank_lab.figures.error_bars import bars, floats, interval_words
from rank_lab.figures.figure import Figure
from rank_lab.figures.legends import key, legend
from rank_lab.figures.style import Mark, Style, label, marks, new_plot, palette
from rank_lab.figures.threshold_axis import ThresholdAxis, threshold_axis

__all__ = ["CONTROLS", "memorization_curve"]

CONTROLS = {
    "as_shipped": "as published",
    "one_shot": "pruned by size",
    "one_shot_importance": "pruned by importance",
    "svd": "truncated SVD",
}
"""Names of a curve's controls, in words."""

_ABOUT = {
    "as_shipped": "as published: the published script's loop, whose learning rate is 0",
    "one_shot": "pruned by size: the dense stage, its gates pruned once by their size to as many parameters",
    "one_shot_importance": "pruned by importance: the same by the gates' importance",
    "svd": "truncated SVD: the dense stage's update, truncated to as many parameters",
}
_AXES = {"nonzero_parameters": "non-zero parameters", "threshold": "threshold λ"}
_PANELS = {"memorization": ("y", (0.54, 1.0)), "generalization": ("y2", (0.0, 0.46))}
_MOST_WARNINGS = 5


def memorization_curve(points: CurvePoints, style: Style = "light") -> Figure:
    """Both curves one above the other, on one axis.

    Parameters
    ----------
    points
        From :func:`rank_lab.curve_points.curve_points`.
    style
        Of the plot.

    Returns
    -------
    Figure
        Stages with their intervals, hollow where training did not converge; controls as other marks; the knee as a line
        with its interval as a band.
    """
    axis = threshold_axis(points.points["threshold"]) if points.axis == "threshold" else ThresholdAxis(None)
    title = f"Memorization and generalization: {label(points.about['model'])} on {label(points.about['task'])}"
    plot = new_plot(
        style, title=title, x=_AXES[points.axis], y="", height=470 if style == "paper" else 560, legend=legend(style)
    )
    _panels(plot, points, axis)
    present = set(points.points["control"])
    controls = [name for name in (*CONTROLS, *sorted(present - {SORA, *CONTROLS})) if name in present]
    looks = marks([SORA, *controls], style)
    for name in MEASURED:
        _knee(plot, points, name, axis, style)
        if points.seeds > 1 and points.seed is None:
            plot.add_trace(_each_seed(points, name, axis, looks[SORA]))
        for control in controls:
            plot.add_trace(_control(points, name, axis, control, looks[control]))
        plot.add_trace(_stages(points, name, axis, looks[SORA]))
    plot.add_trace(key("SoRA stages", looks[SORA], group=SORA, line=True))
    over = "threshold" if points.axis == "threshold" else "parameters"
    data = points.points.assign(measured_over=points.axis, seed=points.seed)
    return Figure(f"memorization_over_{over}", "Memorization and generalization", plot, data, _caption(points, axis),
                  MEASURED)  # fmt: skip


def _panels(plot: go.Figure, points: CurvePoints, axis: ThresholdAxis) -> None:
    below = plot.layout.yaxis.to_plotly_json()
    plot.update_layout(yaxis=below | {"automargin": True}, yaxis2=below | {"automargin": True})
    unit = f"% of {str(points.about['reference']).replace('_', ' ')}"
    for name, (anchor, domain) in _PANELS.items():
        own = plot.layout["yaxis" if anchor == "y" else "yaxis2"]
        own.update(domain=domain, title={"text": f"{name}<br>({unit})", "standoff": 12}, anchor="x")
    plot.update_xaxes(anchor="y2", **axis.settings())


def _rows(points: CurvePoints, control: str) -> pd.DataFrame:
    rows = points.points
    return rows[rows["control"] == control].sort_values([points.axis, "stage"], kind="stable")


def _x(rows: pd.DataFrame, points: CurvePoints, axis: ThresholdAxis) -> list[float]:
    return [axis.place(float(each)) for each in rows[points.axis]]


def _stages(points: CurvePoints, name: str, axis: ThresholdAxis, mark: Mark) -> go.Scatter:
    rows = _rows(points, SORA)
    symbols = [mark.symbol if done is True or done is pd.NA or pd.isna(done) or bool(done) else f"{mark.symbol}-open"
               for done in rows["converged"]]  # fmt: skip
    ends = {"error_y": bars(rows, name, color=mark.color)}
    if points.axis == "nonzero_parameters" and "nonzero_parameters_low" in rows:
        ends["error_x"] = bars(rows, points.axis, color=mark.color)
    return go.Scatter(
        x=_x(rows, points, axis), y=floats(rows[name]), mode="lines+markers", name="SoRA stages",
        legendgroup=SORA, showlegend=False, yaxis=_PANELS[name][0], line={"color": mark.color, "width": 2},
        marker={"symbol": symbols, "size": 8, "color": mark.color, "line": {"width": 1.5, "color": mark.color}},
        hovertext=_hovers(rows, name), hoverinfo="text", meta=name, **ends,
    )  # fmt: skip


def _control(points: CurvePoints, name: str, axis: ThresholdAxis, control: str, mark: Mark) -> go.Scatter:
    rows = _rows(points, control)
    return go.Scatter(
        x=_x(rows, points, axis), y=floats(rows[name]), mode="lines+markers",
        name=CONTROLS.get(control, label(control)),
        legendgroup=label(control), showlegend=name == MEASURED[0], yaxis=_PANELS[name][0],
        line={"color": mark.color, "width": 1, "dash": "dot"},
        marker={"symbol": mark.symbol, "size": 7, "color": mark.color},
        hovertext=_hovers(rows, name), hoverinfo="text", meta=name,
    )  # fmt: skip


def _each_seed(points: CurvePoints, name: str, axis: ThresholdAxis, mark: Mark) -> go.Scatter:
    """Every seed's own line, all in one trace."""
    x: list[float | None] = []
    y: list[float | None] = []
    for _, own in points.of_seeds[points.of_seeds["control"] == SORA].groupby("seed", sort=True):
        line = own.sort_values([points.axis, "stage"], kind="stable")
        x += [*_x(line, points, axis), None]
        y += [*floats(line[name]), None]
    return go.Scatter(
        x=x, y=y, mode="lines", name="each seed", legendgroup="seeds", showlegend=name == MEASURED[0], opacity=0.4,
        yaxis=_PANELS[name][0], line={"color": mark.color, "width": 1}, hoverinfo="skip", meta=name,
    )  # fmt: skip


def _hovers(rows: pd.DataFrame, name: str) -> list[str]:
    return [
        f"{label(row['control'])}, stage {row['stage']}<br>{name}: {interval_words(row, name)} %"
        f"<br>λ: {_told(row['threshold'])}<br>non-zero parameters: {row['nonzero_parameters']:,.0f}"
        f"<br>seeds: {row['seeds']}"
        for row in rows.to_dict("records")
    ]


def _told(value: Any) -> str:
    return "none" if pd.isna(value) else f"{value:.4g}"


def _knee(plot: go.Figure, points: CurvePoints, name: str, axis: ThresholdAxis, style: Style) -> None:
    colors = palette(style)
    for knee in points.knees[(points.knees["curve"] == name) & points.knees["value"].notna()].to_dict("records"):
        where, across = axis.place(knee["value"]), {"yref": f"{_PANELS[name][0]} domain", "y0": 0, "y1": 1}
        if pd.notna(knee["low"]) and pd.notna(knee["high"]):
            plot.add_shape(
                type="rect", x0=axis.place(knee["low"]), x1=axis.place(knee["high"]), fillcolor=colors.null,
                opacity=0.18, line_width=0, layer="below", name=f"knee interval {name}", **across,
            )  # fmt: skip
        plot.add_shape(
            type="line", x0=where, x1=where, line={"color": colors.null, "width": 1.5, "dash": "dash"},
            layer="below", name=f"knee {name}", **across,
        )  # fmt: skip
        plot.add_annotation(
            x=where, y=0, yref=across["yref"], text="knee", showarrow=False, xanchor="left", yanchor="bottom",
            font={"color": colors.text}, xshift=2,
        )  # fmt: skip


def _caption(points: CurvePoints, axis: ThresholdAxis) -> str:
    about, reference = points.about, str(points.about["reference"]).replace("_", " ")
    sets = f"{about['train_examples']} training and {about['validation_examples']} validation examples"
    several = points.seed is None
    shown = f"mean of {points.seeds} seeds" if several else f"seed {points.seed}"
    bars_are = (
        "Bars: Student's 95 % interval over seeds, also of the number of parameters; thin lines: each seed"
        if several
        else "Bars: 95 % interval of a paired bootstrap over examples; they say nothing of other seeds"
    )
    return caption(
        f"Memorization and generalization over {_AXES[points.axis]}: 100 × {about['score']} on training and on"
        f" validation examples over that of {reference}",
        ["Non-zero parameters: exact, of the factors whose gates are not zero"],
        f"Data: {about['model']} on {about['task']}, {shown}; n = {sets}, {len(_rows(points, SORA))} stages",
        [bars_are, *_knee_notes(points), *_notes(points, axis)],
    )


def _notes(points: CurvePoints, axis: ThresholdAxis) -> list[str]:
    rows = points.points
    notes = [axis.note]
    stages = rows[rows["control"] == SORA]
    if (stages["converged"].dropna() == False).any():  # noqa: E712  (missing is neither)
        notes.append("Hollow: training did not converge in its steps")
    ends = [f"{name}{end}" for name in MEASURED for end in ("_low", "_high")]
    if stages[ends].isna().any(axis=None):
        notes.append("A point without a bar has no interval")
    if (rows["control"] != SORA).any():
        notes += [text for name, text in _ABOUT.items() if (rows["control"] == name).any()]
        notes.append("Controls are drawn without their intervals, which are in the data")
    if points.without_axis:
        notes.append(f"{points.without_axis} rows have no {_AXES[points.axis]} and are left out")
    told = list(points.warnings[:_MOST_WARNINGS])
    more = len(points.warnings) - len(told)
    notes += [f"Warning: {warning}" for warning in told] + (
        [f"{more} more warnings are in the curve"] if more > 0 else []
    )
    return notes


def _knee_notes(points: CurvePoints) -> list[str]:
    if points.knees.empty:
        return ["No knee is known: they are looked for once the schedule is done"]
    notes = []
    for knee in points.knees.to_dict("records"):
        if pd.isna(knee["value"]):
            notes.append(f"Knee of {knee['curve']}: none ({knee['reason']})")
        else:
            form = "{:,.0f}" if points.axis == "nonzero_parameters" else "{:.4g}"
            value, low, high = (form.format(knee[end]) for end in ("value", "low", "high"))
            ends = "no interval" if pd.isna(knee["low"]) else f"{low} to {high}"
            notes.append(f"Knee of {knee['curve']}, dashed with its interval as a band: {value} ({ends})")
    return notes
