"""Singular values on logarithmic axes, with their noise, their null and their ranks, above the energy they hold."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from rank_lab.errors import RankLabError
from rank_lab.figures.captions import caption, definition
from rank_lab.figures.figure import Figure
from rank_lab.figures.legends import legend, room_below
from rank_lab.figures.style import (
    Mark,
    Style,
    axis,
    fixed_margins,
    label,
    log_axis,
    marks,
    merged,
    new_plot,
    palette,
)
from rank_lab.spectrum_curve import MARKED, RankMark, SpectrumCurve, short_names

__all__ = ["spectrum"]

_RANK_SYMBOLS: dict[str, str] = dict(
    zip(MARKED, ("circle-open", "triangle-up-open", "diamond-open", "x-thin-open"), strict=True)
)
_FEW = 24  # points of a line whose values are marked one by one
_BELOW = 10**-1.5  # of the smallest value: what lies below is named and not drawn
_ROOM = 0.05  # of the height of the axis, below and above


def spectrum(curves: Sequence[SpectrumCurve], style: Style = "light") -> Figure:
    """Spectra of one or several matrices or runs.

    Parameters
    ----------
    curves
        From :func:`rank_lab.spectrum_curve.spectrum_curve`.
    style
        Of the plot.

    Returns
    -------
    Figure
        Upper panel: singular values, null (grey), edge of the rounding (dashed) and arithmetic floor (dotted) where
        there are such, ranks as symbols on the line. Lower panel: share of the squared norm up to each index. Values
        below the floor are drawn dotted, zeros are not drawn, and the caption counts both.

    Raises
    ------
    RankLabError
        If there is no curve.
    """
    if not curves:
        raise RankLabError("no spectrum to draw; choose a matrix.")
    names, common = short_names(curves)
    title = "Singular values" + (f": {label(common)}" if common else "")
    indices = log_axis(1, max(curve.bound for curve in curves))
    plot = new_plot(
        style,
        title=title,
        x="",
        y="σᵢ",
        height=420 if style == "paper" else 620,
        legend=legend(style),
        **merged(
            {
                "xaxis": {"domain": [0, 1], "showticklabels": False, "matches": "x2"} | indices,
                "yaxis": {"domain": [0.4, 1]} | _heights(curves),
                "xaxis2": axis(style, "index i", anchor="y2", domain=[0, 1], **indices),
                "yaxis2": axis(style, "energy up to i", domain=[0, 0.33], range=[0, 1.1], anchor="x2", dtick=0.5),
                "margin": room_below(style, rows=4),
            },
            fixed_margins(style, "yaxis2"),
        ),
    )
    looks = marks(names, style)
    smallest = _smallest(curves)
    _add_nulls(plot, curves, style)
    for curve, name in zip(curves, names, strict=True):
        _add_curve(plot, curve, label(name), looks[name])
        _add_levels(plot, curve, smallest, style)
    for curve, name in zip(curves, names, strict=True):
        _add_ranks(plot, curve, looks[name], keyed=len(curves) == 1)
    if len(curves) > 1:
        _add_rank_keys(plot, curves, style)
    metrics = tuple(metric for metric in MARKED if any(_marked(curve, metric) for curve in curves))
    return Figure("spectrum", "Singular values", plot, _data(curves), _caption(curves, common, metrics), metrics)


def _heights(curves: Sequence[SpectrumCurve]) -> dict[str, Any]:
    """The axis of the singular values: from the smallest to the largest that is drawn, levels beside them too."""
    smallest = _smallest(curves)
    if math.isnan(smallest):
        return log_axis(math.nan, math.nan)
    levels = [level for curve in curves for level in _levels(curve).values() if level > smallest * _BELOW]
    tops = [
        float(table["singular_value"].max()) for curve in curves for table in (curve.points, curve.null) if len(table)
    ]
    low, high = min([smallest, *levels]), max([*tops, *levels])
    room = max(_ROOM * math.log10(high / low), _ROOM)
    return log_axis(low, high) | {"range": [math.log10(low) - room, math.log10(high) + room]}


def _smallest(curves: Sequence[SpectrumCurve]) -> float:
    """The smallest value that is drawn, of a spectrum or a null; NaN where none is."""
    drawn = pd.concat([table["singular_value"] for curve in curves for table in (curve.points, curve.null)])
    return float(drawn[drawn > 0].min())


def _levels(curve: SpectrumCurve) -> dict[str, float]:
    """The edge of the rounding, and the floor where something lies below it."""
    levels = {"rounding edge": curve.edge} | ({"floor": curve.floor} if curve.below_floor else {})
    return {name: level for name, level in levels.items() if level > 0}


def _add_curve(plot: go.Figure, curve: SpectrumCurve, name: str, look: Mark) -> None:
    points = curve.points
    for state, dash in (("value", look.dash), ("below_floor", "dot")):
        own = points[points["state"] == state]
        if own.empty:
            continue
        few = len(own) <= _FEW
        line = {"color": look.color, "width": 2 if state == "value" else 1, "dash": dash}
        marker = {"color": look.color, "size": 5, "symbol": "circle" if state == "value" else "circle-open"}
        first = state == points["state"].iloc[0]
        for number, column in (("", "singular_value"), ("2", "energy")):
            plot.add_trace(
                _scatter(
                    x=own["index"],
                    y=own[column],
                    mode="lines+markers" if few else "lines",
                    line=line,
                    marker=marker,
                    name=name,
                    legendgroup=name,
                    showlegend=first and not number,
                    xaxis=f"x{number}",
                    yaxis=f"y{number}",
                    hovertemplate="i = %{x}<br>%{y:.4g}<extra>" + name + "</extra>",
                    meta={"state": state},
                )
            )


def _add_nulls(plot: go.Figure, curves: Sequence[SpectrumCurve], style: Style) -> None:
    named: set[str] = set()
    for curve in curves:
        kind = curve.null_kind
        line = {"color": palette(style).null, "width": 1, "dash": "solid" if kind == "white noise" else "dash"}
        for number, column in (("", "singular_value"), ("2", "energy")):
            plot.add_trace(
                _scatter(
                    x=curve.null["index"],
                    y=curve.null[column],
                    mode="lines",
                    line=line,
                    name=kind,
                    legendgroup=kind,
                    showlegend=not number and kind not in named,
                    xaxis=f"x{number}",
                    yaxis=f"y{number}",
                    hoverinfo="skip",
                    meta={"state": "null"},
                )
            )
        named.add(kind)


def _add_levels(plot: go.Figure, curve: SpectrumCurve, smallest: float, style: Style) -> None:
    """The levels of a curve; one that lies decades below all values would squeeze them and is named alone."""
    colors = palette(style)
    looks = {"rounding edge": ("dash", colors.edge), "floor": ("dot", colors.text)}
    for level_name, level in _levels(curve).items():
        dash, color = looks[level_name]
        beside = level > smallest * _BELOW
        name = level_name if beside else f"{level_name}: {level:.1e}, below the axis"
        there = any(trace.name == name for trace in plot.data)
        plot.add_trace(
            _scatter(
                x=[1, curve.bound] if beside else [None],
                y=[level, level] if beside else [None],
                mode="lines",
                line={"color": color, "width": 1.2, "dash": dash},
                name=name,
                legendgroup=name,
                showlegend=not there,
                hovertemplate=name + ": %{y:.4g}<extra></extra>",
            )
        )


def _scatter(**settings: Any) -> dict[str, Any]:
    """A trace; as a dictionary, as plotly reads an object once more when it is added."""
    return {"type": "scatter"} | settings


def _marked(curve: SpectrumCurve, metric: str) -> bool:
    return any(mark.metric == metric and pd.notna(mark.singular_value) for mark in curve.ranks)


def _add_ranks(plot: go.Figure, curve: SpectrumCurve, look: Mark, *, keyed: bool) -> None:
    """On both panels; keyed: the legend says which symbol is which, and the rank itself."""
    for mark in curve.ranks:
        if math.isnan(mark.singular_value):
            continue
        marker = {"symbol": _RANK_SYMBOLS[mark.metric], "size": 11, "color": look.color, "line": {"width": 2}}
        for number, height in (("", mark.singular_value), ("2", mark.energy)):
            plot.add_trace(
                _scatter(
                    x=[mark.index],
                    y=[height],
                    mode="markers",
                    marker=marker,
                    name=f"{_key(mark)} = {_rank(mark, 3)}",
                    legendgroup=mark.metric,
                    showlegend=keyed and not number,
                    xaxis=f"x{number}",
                    yaxis=f"y{number}",
                    hovertemplate=f"{mark.symbol} = {_rank(mark, 4)}<extra></extra>",
                    meta={"rank": mark.metric},
                )
            )


def _add_rank_keys(plot: go.Figure, curves: Sequence[SpectrumCurve], style: Style) -> None:
    """What the symbols mean, whichever the spectrum."""
    for metric, symbol in _RANK_SYMBOLS.items():
        found = [mark for curve in curves for mark in curve.ranks if mark.metric == metric]
        if not any(pd.notna(mark.singular_value) for mark in found):
            continue
        plot.add_trace(
            _scatter(
                x=[None],
                y=[None],
                mode="markers",
                name=_key(found[0]),
                legendgroup=metric,
                marker={"symbol": symbol, "size": 10, "color": palette(style).text, "line": {"width": 2}},
            )
        )


def _key(mark: RankMark) -> str:
    return mark.symbol.removeprefix("directions ")


def _rank(mark: RankMark, digits: int) -> str:
    """Whole from a thousand on, where digits alone would give it an exponent."""
    return f"{mark.index:,.0f}" if round(mark.index) >= 1000 else f"{mark.index:.{digits}g}"


_COLUMNS = (
    "run", "step", "delta", "module", "shown", "metric", "index", "singular_value", "energy", "state", "noise_edge",
    "spectrum_floor",
)  # fmt: skip


def _data(curves: Sequence[SpectrumCurve]) -> pd.DataFrame:
    """Built as one table: joining one for each line takes ten times as long."""
    rows: list[tuple[Any, ...]] = []
    for curve in curves:
        about, levels = (curve.run, curve.step, curve.delta, curve.module), (curve.edge, curve.floor)
        for shown, table in (("spectrum", curve.points), (f"null: {curve.null_kind}", curve.null)):
            states = table["state"].tolist() if "state" in table.columns else [None] * len(table)
            places = zip(*(table[name].tolist() for name in ("index", "singular_value", "energy")), strict=True)
            rows += [(*about, shown, None, *place, state, *levels) for place, state in zip(places, states, strict=True)]
        rows += [
            (*about, "rank", mark.metric, mark.index, mark.singular_value, mark.energy, mark.state, *levels)
            for mark in curve.ranks
        ]
    return pd.DataFrame(rows, columns=list(_COLUMNS)).astype({"index": "float64"})


def _caption(curves: Sequence[SpectrumCurve], common: str, metrics: Sequence[str]) -> str:
    known, bound = sum(curve.known for curve in curves), sum(curve.bound for curve in curves)
    zeros, below = sum(curve.zeros for curve in curves), sum(curve.below_floor for curve in curves)
    regimes = dict.fromkeys(curve.noise_regime for curve in curves if curve.noise_regime)
    kinds = dict.fromkeys(curve.null_kind for curve in curves)
    edges = [curve.edge for curve in curves if pd.notna(curve.edge)]
    hidden = [mark for curve in curves for mark in curve.ranks if mark.state == "unresolved"]
    off = [mark for curve in curves for mark in curve.ranks if mark.index < 1]
    notes = [
        f"Grey: {' or '.join(kinds)} of the same norm",
        f"Dashed: largest singular value that the rounding of the files explains, {edges[0]:.3g}"
        if len(edges) == 1
        else "Dashed: largest singular value that the rounding of the files explains"
        if edges
        else "",
        "It lies decades below all values and off the axis"
        if edges and not any(edge > _smallest(curves) * _BELOW for edge in edges)
        else "",
        f"{zeros} values that are exactly zero have no place on a logarithmic axis" if zeros else "",
        f"Dotted: {below} values below what the arithmetic can tell from zero" if below else "",
        f"Rounding: {', '.join(regimes)}" if regimes else "",
        f"{', '.join(dict.fromkeys(mark.symbol for mark in hidden))}: hidden by the rounding of the files, not marked"
        if hidden
        else "",
        f"{', '.join(dict.fromkeys(mark.symbol for mark in off))} is below 1 and has no place on the axis"
        if off
        else "",
    ]
    count = f"n = {known} singular values" + (f" of {bound}" if known < bound else "")
    return caption(
        "Singular values of the update (above) and the share of its squared norm that the leading ones hold (below)",
        [definition(metric) for metric in metrics],
        f"Data: {common + '; ' if common else ''}{len(curves)} {'matrix' if len(curves) == 1 else 'spectra'}, {count}",
        notes,
    )
