"""Memorization and generalization of several tasks side by side, a panel each: all of SoRA's Figure 3 at a glance."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from rank_lab.curve import SORA
from rank_lab.curve_points import MEASURED, CurvePoints
from rank_lab.errors import RankLabError
from rank_lab.figures.captions import caption
from rank_lab.figures.error_bars import bars, floats
from rank_lab.figures.figure import Figure
from rank_lab.figures.legends import key, legend
from rank_lab.figures.memorization_curve import CONTROLS
from rank_lab.figures.style import Mark, Style, axis, label, marks, new_plot, palette
from rank_lab.figures.threshold_axis import ThresholdAxis, threshold_axis

__all__ = ["curves_by_task"]

_COLUMNS = 3
_GAPS = (0.06, 0.17)  # between panels, as shares of the plot: across and down
_ON_TOP: Mapping[Style, dict[str, Any]] = {
    "light": {}, "dark": {}, "paper": {"yref": "container", "y": 1.0, "yanchor": "top"},  # above the panels' names
}  # fmt: skip
_AXES = {"nonzero_parameters": "non-zero parameters", "threshold": "threshold λ"}


def curves_by_task(
    curves: Sequence[CurvePoints],
    style: Style = "light",
    *,
    quantity: str | None = None,
    remarks: Mapping[str, str] | None = None,
) -> Figure:
    """A panel a task, three in a row.

    Parameters
    ----------
    curves
        Of different tasks, over one axis.
    style
        Of the plot.
    quantity
        None for both curves of SoRA's stages with their knees; or one of them, beside its controls.
    remarks
        By task: what its panel says beside its name.

    Raises
    ------
    RankLabError
        If there is no curve, or they are over different axes.
    """
    if len({each.axis for each in curves}) != 1:
        raise RankLabError(f"{len(curves)} curves to draw side by side: expected one or more, all over one axis.")
    over, rows = curves[0].axis, -(-len(curves) // _COLUMNS)
    words = "Memorization and generalization" if quantity is None else quantity.capitalize()
    plot = new_plot(
        style,
        title=f"{words} by task",
        x="",
        y="",
        width=760,
        height=90 + 230 * rows,
        legend=legend(style) | _ON_TOP[style],
    )
    plot.update_layout(margin={"t": 64 if style != "paper" else 44})
    looks = _looks(curves, style, quantity)
    for place, points in enumerate(curves):
        _panel(plot, place, rows, points, style)
        remark = (remarks or {}).get(str(points.about["task"]), "")
        _title(plot, place, points, remark, style)
        for name, look in looks.items():
            _line(plot, place, points, name, look, quantity)
        if quantity is None:
            _knees(plot, place, points, looks)
    plot.update_layout({f"yaxis{_suffix(place)}": {"range": _range(plot, place)} for place in range(len(curves))})
    for name, look in looks.items():
        plot.add_trace(key(_words(name), look, group=label(name), line=True))
    data = pd.concat([each.points.assign(task=each.about["task"], measured_over=over) for each in curves])
    return Figure(
        f"curves_by_task_{quantity or 'both'}", f"{words} by task", plot, data, _caption(curves, quantity, words),
        MEASURED,
    )  # fmt: skip


def _looks(curves: Sequence[CurvePoints], style: Style, quantity: str | None) -> dict[str, Mark]:
    if quantity is None:
        return marks(list(MEASURED), style)
    present = {name for each in curves for name in each.points["control"]}
    return marks(
        [SORA, *(name for name in (*CONTROLS, *sorted(present - {SORA, *CONTROLS})) if name in present)], style
    )


def _words(name: str) -> str:
    return "SoRA stages" if name == SORA else CONTROLS.get(name, label(name))


def _suffix(place: int) -> str:
    return "" if place == 0 else str(place + 1)


def _panel(plot: go.Figure, place: int, rows: int, points: CurvePoints, style: Style) -> None:
    """Axes of a panel, at its place."""
    across, down = _GAPS
    row, column = divmod(place, _COLUMNS)
    wide, high = (1 - across * (_COLUMNS - 1)) / _COLUMNS, (1 - down * (rows - 1)) / rows
    left, top = column * (wide + across), 1 - row * (high + down)
    unit = f"% of {str(points.about['reference']).replace('_', ' ')}"
    settings = _threshold_axis(points).settings() | {"domain": [left, min(left + wide, 1)], "nticks": 5}
    own = {
        f"xaxis{_suffix(place)}": axis(style, _AXES[points.axis], anchor=f"y{_suffix(place)}", **settings),
        f"yaxis{_suffix(place)}": axis(
            style, unit if column == 0 else "", anchor=f"x{_suffix(place)}", domain=[max(top - high, 0), top]
        ),
    }
    plot.update_layout(own)


def _title(plot: go.Figure, place: int, points: CurvePoints, remark: str, style: Style) -> None:
    text = f"<b>{label(points.about['task'])}</b> ({label(points.about['score'])})"
    if remark:
        text += f", {label(remark)}"
    plot.add_annotation(
        text=text, showarrow=False, xref=f"x{_suffix(place)} domain", yref=f"y{_suffix(place)} domain", x=0.0, y=1.0,
        xanchor="left", yanchor="bottom", align="left", font={"color": palette(style).text, "size": 11},
    )  # fmt: skip


def _threshold_axis(points: CurvePoints) -> ThresholdAxis:
    return threshold_axis(points.points["threshold"]) if points.axis == "threshold" else ThresholdAxis(None)


def _line(plot: go.Figure, place: int, points: CurvePoints, name: str, look: Mark, quantity: str | None) -> None:
    """One line of a panel: a quantity of SoRA's stages, or a control's."""
    measured, control = (name, SORA) if quantity is None else (quantity, name)
    own = points.points[points.points["control"] == control].sort_values([points.axis, "stage"], kind="stable")
    x = [_threshold_axis(points).place(float(each)) for each in own[points.axis]]
    ends = {"error_y": bars(own, measured, color=look.color)} if control == SORA else {}
    plot.add_trace(
        go.Scatter(
            x=x, y=floats(own[measured]), mode="lines+markers", name=_words(name), legendgroup=label(name),
            showlegend=False, xaxis=f"x{_suffix(place)}", yaxis=f"y{_suffix(place)}",
            line={"color": look.color, "width": 2 if control == SORA else 1, "dash": look.dash},
            marker={"symbol": look.symbol, "size": 6, "color": look.color}, meta=measured, **ends,
        )
    )  # fmt: skip


def _range(plot: go.Figure, place: int) -> list[float] | None:
    """Of a panel: all its points, and bars as far as half their span beyond, for that of two seeds may be very long."""
    drawn = [trace for trace in plot.data if trace.yaxis == f"y{_suffix(place)}"]
    points = [value for trace in drawn for value in trace.y if value is not None]
    if not points:
        return None
    room = max(max(points) - min(points), 1.0)
    ends = list(points)
    for trace in drawn:
        for side, sign in (("array", 1), ("arrayminus", -1)):
            lengths = trace.error_y[side] or ()
            ends += [
                value + sign * min(length, room / 2)
                for value, length in zip(trace.y, lengths, strict=False)
                if value is not None and length is not None
            ]
    low, high = max(min(ends), min(points) - room / 2), min(max(ends), max(points) + room / 2)
    return [low - 0.04 * room, high + 0.04 * room]


def _knees(plot: go.Figure, place: int, points: CurvePoints, looks: Mapping[str, Mark]) -> None:
    for knee in points.knees[points.knees["value"].notna()].to_dict("records"):
        where = _threshold_axis(points).place(knee["value"])
        plot.add_shape(
            type="line", x0=where, x1=where, y0=0, y1=1, xref=f"x{_suffix(place)}",
            yref=f"y{_suffix(place)} domain", layer="below", name=f"knee {knee['curve']}",
            line={"color": looks[knee["curve"]].color, "width": 1.5, "dash": "dot"},
        )  # fmt: skip


def _caption(curves: Sequence[CurvePoints], quantity: str | None, words: str) -> str:
    first = curves[0].about
    seeds = sorted({each.seeds for each in curves})
    shown = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    tasks = ", ".join(str(each.about["task"]) for each in curves)
    reference = str(first["reference"]).replace("_", " ")
    notes = [
        "Bars: Student's 95 % interval over seeds, where there are several; of one seed, that of a paired bootstrap",
        "Bars are cut where they reach farther than half the span of a panel's points; their ends are in the data",
    ]
    if quantity is None:
        notes.append("Dotted: the knee of the curve of that colour, where it has one")
    elif any((each.points["control"] != SORA).any() for each in curves):
        notes.append("Controls start from the dense stage, are not trained and are drawn without their intervals")
    return caption(
        f"{words} of SoRA over {_AXES[curves[0].axis]}, a panel a task: 100 × score over that of {reference}",
        ["Non-zero parameters: exact, of the factors whose gates are not zero"],
        f"Data: {first['model']} on {tasks}, mean of {shown} seeds",
        notes,
    )
