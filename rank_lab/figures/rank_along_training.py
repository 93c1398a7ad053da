"""One quantity along training."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from rank_lab.figures.background_points import add_background, background_rows, background_words
from rank_lab.figures.captions import caption, definition
from rank_lab.figures.figure import Figure
from rank_lab.figures.legends import legend
from rank_lab.figures.null_line import null_lines
from rank_lab.figures.over_text import DIVIDED, counted, counted_states
from rank_lab.figures.signs import add_signs
from rank_lab.figures.style import Mark, Style, faint, kind_marks, label, log_axis, marks, new_plot
from rank_lab.shown_values import quantity_label
from rank_lab.training_table import TrainingTable

__all__ = ["rank_along_training"]

_BANDED = 3  # lines whose quartiles can be told apart
_OF = {"run": "run", "kind": "kind of module", "module": "matrix"}


def rank_along_training(table: TrainingTable, style: Style = "light", *, log_steps: bool = False) -> Figure:
    """A quantity over optimizer steps.

    Parameters
    ----------
    table
        From :func:`rank_lab.training_table.training_table`.
    style
        Of the plot.
    log_steps
        Logarithmic axis of steps, on which step 0 has no place.

    Returns
    -------
    Figure
        Medians over matrices with their quartiles as bands, up to three lines (of more the quartiles are in the data
        alone); the median of the nulls in thin grey. A symbol is open where rounding hides some of the matrices or is
        part of what is shown (regimes ``partial`` and ``unresolved``). Grey and hollow what was published.
    """
    quantity = quantity_label(table.metric, table.over)
    since = "since the checkpoint before" if table.delta == "step" else "since the base"
    plot = new_plot(
        style, title=f"{quantity} along training, {since}: {label(', '.join(table.runs))}", x="optimizer step",
        y=quantity, height=320 if style == "paper" else 460, legend=legend(style),
    )  # fmt: skip
    shown = table.points[table.points["step"] > 0] if log_steps else table.points
    looks = kind_marks(table.lines, style) if table.by == "kind" else marks(table.lines, style)
    lines = {line: shown[shown["line"] == line] for line in table.lines}
    add_background(plot, table.background, style)
    plot.add_traces(null_lines({line: _nulls(points) for line, points in lines.items()}, style))
    if len(lines) <= _BANDED:
        for line, points in lines.items():
            _add_band(plot, points, looks[line], label(line))
    for line, points in lines.items():
        _add_line(plot, points, looks[line], label(line))
    signed = shown.assign(state=[_state(point) for point in shown.to_dict("records")])
    meanings = add_signs(plot, signed, "step", looks, style)
    if log_steps:
        plot.update_xaxes(**log_axis(shown["step"].min(), shown["step"].max()))
    plot.update_yaxes(rangemode="tozero", selector={"overlaying": None})
    left_out = len(table.points) - len(shown) + (_before_first(table) if log_steps else 0)
    text = _caption(table, since, meanings, left_out)
    return Figure("rank_along_training", f"{quantity} along training", plot, _data(table), text, (table.metric,))


def _before_first(table: TrainingTable) -> int:
    return 0 if table.background is None else int((table.background.points["x"] <= 0).sum())


def _state(point: dict[Any, Any]) -> str:
    """Of a point: why none of its matrices has a value."""
    if point["known"]:
        return "value"
    return next((state for state in ("unresolved", "missing") if point[state]), "zero")


def _blurred(points: pd.DataFrame) -> "pd.Series[bool]":
    return points["noise_regime"].str.contains("partial|unresolved", regex=True) | (points["unresolved"] > 0)


def _nulls(points: pd.DataFrame) -> list[tuple[float, float]]:
    known = points[points["null"].notna()]
    return list(zip(known["step"], known["null"], strict=True))


def _add_band(plot: go.Figure, points: pd.DataFrame, look: Mark, name: str) -> None:
    known = points[points["lower"].notna() & points["upper"].notna()]
    if known.empty:
        return
    around = [*known["step"], *reversed(list(known["step"]))]
    plot.add_trace(
        go.Scatter(
            x=around,
            y=[*known["upper"], *reversed(list(known["lower"]))],
            mode="lines",
            fill="toself",
            fillcolor=faint(look.color, 0.18),
            line={"width": 0, "color": look.color},
            legendgroup=name,
            showlegend=False,
            hoverinfo="skip",
            name=name,
            meta={"quartiles": True},
        )
    )


def _add_line(plot: go.Figure, points: pd.DataFrame, look: Mark, name: str) -> None:
    symbols = [f"{look.symbol}-open" if blurred else look.symbol for blurred in _blurred(points)]
    error = None
    if (points["low"].notna() & points["high"].notna() & points["value"].notna()).any():
        error = {
            "type": "data", "symmetric": False, "array": points["high"] - points["value"],
            "arrayminus": points["value"] - points["low"], "color": look.color, "thickness": 1, "width": 3,
        }  # fmt: skip
    plot.add_trace(
        go.Scatter(
            x=points["step"],
            y=points["value"],
            mode="lines+markers",
            connectgaps=False,
            cliponaxis=False,
            name=name,
            legendgroup=name,
            line={"color": look.color, "width": 1.8, "dash": look.dash},
            error_y=error,
            marker={"color": look.color, "size": 8, "symbol": symbols},
            hovertext=[_hover(point, name) for point in points.to_dict("records")],
            hoverinfo="text",
        )
    )


def _hover(point: dict[Any, Any], name: str) -> str:
    quartiles = f" (quartiles {point['lower']:.4g}, {point['upper']:.4g})" if pd.notna(point["lower"]) else ""
    null = f"<br>null: {point['null']:.4g}" if pd.notna(point["null"]) else ""
    return (
        f"{name}, step {point['step']}<br>{point['value']:.4g}{quartiles}{null}"
        f"<br>{point['known']} of {point['matrices']} matrices<br>{point['noise_regime']}"
    )


def _data(table: TrainingTable) -> pd.DataFrame:
    data = table.points.assign(delta=table.delta, metric=table.metric, over=table.over)
    first = ["line", "run", "step", "delta", "metric", "over"]
    own = data[[*first, *(name for name in data.columns if name not in first)]]
    published = background_rows(table.background, "step", "value")
    return pd.concat([own.astype(object), published.astype(object)]).convert_dtypes() if len(published) else own


def _caption(table: TrainingTable, since: str, meanings: list[str], left_out: int) -> str:
    points = table.points
    many = bool((points["matrices"] > 1).any())
    quartiles = "bands: their quartiles" if len(table.lines) <= _BANDED else "quartiles are in the data"
    n = points["matrices"]
    count = f"{n.min()}" if n.min() == n.max() else f"{n.min()} to {n.max()}"
    return caption(
        f"{quantity_label(table.metric, table.over)} of the change {since}{DIVIDED[table.over]}",
        [definition(table.metric)],
        f"Data: {'run' if len(table.runs) == 1 else 'runs'} {', '.join(table.runs)}; n = {count} matrices a point,"
        f" a line a {_OF[table.by]}",
        [
            f"Lines: medians over matrices; {quartiles}" if many else "",
            "Grey: what white noise of the same shape (of factors: random factors) shows"
            if points["null"].notna().any()
            else "",
            "Bars: 95 % intervals" if points["low"].notna().any() else "",
            "Open symbol: rounding hides some matrices or is part of what is shown" if _blurred(points).any() else "",
            *meanings,
            *counted_states(
                {state: int(points[state].sum()) for state in ("zero", "unresolved", "missing")}, "value", "values"
            ),
            f"Not shown, as step 0 has no place on a logarithmic axis: {counted(left_out, 'point', 'points')}"
            if left_out
            else "",
            f"Not shown: {counted(table.without_step, 'matrix', 'matrices')} without a step"
            if table.without_step
            else "",
            background_words(table.background),
        ],
    )
