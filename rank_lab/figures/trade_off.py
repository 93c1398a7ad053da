"""Learning against forgetting: checkpoints or means over seeds, the front, the way of each run, equal learning."""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from rank_lab.figures.background_points import add_background, background_rows, background_words
from rank_lab.figures.captions import caption
from rank_lab.figures.error_bars import bars, floats, interval_words, plain_rows
from rank_lab.figures.figure import Figure
from rank_lab.figures.legends import key, legend
from rank_lab.figures.outcome_words import forgetting_axis, learning_axis, learning_words, measure_words, target_words
from rank_lab.figures.style import Mark, Style, label, marks, new_plot, palette
from rank_lab.trade_off_points import TradeOffPoints

__all__ = ["FRONT", "trade_off"]

FRONT = "front"
"""Name of the trace of the front."""

_SMALL, _LARGE = 5.0, 6.0  # size of a mark, and what a share of one adds
_MOST_BARS = 60  # points beyond which bars would hide them


def trade_off(found: TradeOffPoints, style: Style = "light") -> Figure:
    """Forgetting over learning, a point a checkpoint or a group of seeds.

    Parameters
    ----------
    found
        From :func:`rank_lab.trade_off_points.trade_off_points`.
    style
        Of the plot.

    Returns
    -------
    Figure
        Colour and symbol for the method; of checkpoints, filled on the front and the larger the more resamples have it
        there; a thin line along each run from the base on; upright lines where learning is equal; grey and hollow what
        was published.
    """
    title = f"Learning and forgetting: {label(target_words(found.target))}"
    plot = new_plot(
        style, title=title, x=learning_axis(found.target), y=forgetting_axis(found.measure), legend=legend(style),
        height=360 if style == "paper" else 480,
    )  # fmt: skip
    looks = marks(list(dict.fromkeys(str(each) for each in found.points["method"])), style)
    add_background(plot, found.background, style, beside=list(looks))
    _equal(plot, found, looks, style)
    for method, look in looks.items():
        rows = found.points[found.points["method"] == method]
        plot.add_trace(_ways(rows, method, look))
        plot.add_trace(_marks(rows, method, look, bars_too=_has_bars(found)))
        plot.add_trace(key(label(method), look, group=label(method)))
    if found.of == "checkpoints" and found.points["on_front"].fillna(False).any():
        plot.add_trace(_front(found.points, style))
    plot.add_trace(_base(style))
    name = "trade_off" if found.of == "checkpoints" else "trade_off_seeds"
    return Figure(name, "Learning and forgetting", plot, _data(found), _caption(found), (found.measure, "hypervolume"))


def _has_bars(found: TradeOffPoints) -> bool:
    return len(found.points) <= _MOST_BARS


def _ways(rows: pd.DataFrame, method: str, look: Mark) -> go.Scatter:
    """From the base through the checkpoints of each run; a gap between runs."""
    x: list[float | None] = []
    y: list[float | None] = []
    for _, own in rows.groupby("curve", sort=False):
        x += [0.0, *floats(own["learning"]), None]
        y += [0.0, *floats(own["forgetting"]), None]
    return go.Scatter(
        x=x, y=y, mode="lines", line={"color": look.color, "width": 0.8, "dash": look.dash}, opacity=0.5,
        name=f"{label(method)}, along training", legendgroup=label(method), showlegend=False, hoverinfo="skip",
    )  # fmt: skip


def _marks(rows: pd.DataFrame, method: str, look: Mark, *, bars_too: bool) -> go.Scatter:
    if "on_front" in rows:
        on_front = rows["on_front"].fillna(False).astype(bool)
        symbols: str | list[str] = [look.symbol if on else f"{look.symbol}-open" for on in on_front]
        sizes: float | list[float] = [_SMALL + _LARGE * (share or 0.0) for share in floats(rows["front_share"])]
    else:
        symbols, sizes = look.symbol, _SMALL + 2
    ends = {
        axis: bars(rows, name, color=look.color, thickness=0.7, width=0, visible=bars_too)
        for axis, name in (("error_x", "learning"), ("error_y", "forgetting"))
    }
    return go.Scatter(
        x=floats(rows["learning"]), y=floats(rows["forgetting"]), mode="markers", name=label(method),
        legendgroup=label(method), showlegend=False,
        marker={"symbol": symbols, "size": sizes, "color": look.color, "line": {"color": look.color, "width": 1}},
        hovertext=_hovers(rows), hoverinfo="text", customdata=plain_rows(rows, "curve", "step"),
        **ends,
    )  # fmt: skip


def _hovers(rows: pd.DataFrame) -> list[str]:
    texts = []
    for row in rows.to_dict("records"):
        step = "" if pd.isna(row["step"]) else f", step {row['step']}"
        lines = [f"{label(row['curve'])}{step}", f"learning: {interval_words(row, 'learning')}"]
        lines.append(f"forgetting: {interval_words(row, 'forgetting')}")
        if "front_share" in row and pd.notna(row["front_share"]):
            lines.append(f"on the front in {row['front_share']:.0%} of the resamples")
        if row["seeds"] > 1:
            lines.append(f"seeds: {row['seeds']}")
        if pd.notna(row["reason"]) and row["reason"]:
            lines.append(label(row["reason"]))
        texts.append("<br>".join(lines))
    return texts


def _front(points: pd.DataFrame, style: Style) -> go.Scatter:
    rows = points[points["on_front"].fillna(False).astype(bool)].sort_values("learning", kind="stable")
    return go.Scatter(
        x=floats(rows["learning"]), y=floats(rows["forgetting"]), mode="lines", name=FRONT, hoverinfo="skip",
        line={"color": palette(style).text, "width": 1.5, "shape": "vh"},
    )  # fmt: skip


def _base(style: Style) -> go.Scatter:
    return go.Scatter(
        x=[0.0], y=[0.0], mode="markers", name="base", hovertext=["base"], hoverinfo="text",
        marker={"symbol": "cross-thin", "size": 10, "line": {"color": palette(style).text, "width": 2}},
    )  # fmt: skip


def _equal(plot: go.Figure, found: TradeOffPoints, looks: dict[str, Mark], style: Style) -> None:
    """Upright lines, and on them what each group forgot there."""
    rows = found.equal_learning[found.equal_learning["forgetting"].notna()]
    for at in sorted(found.equal_learning["at_learning"].unique()):
        plot.add_vline(x=at, line={"color": palette(style).null, "width": 1, "dash": "dot"}, name="equal learning")
    for method, look in looks.items():
        own = rows[rows["method"] == method]
        if len(own):
            plot.add_trace(_on_line(own, method, look))


def _on_line(rows: pd.DataFrame, method: str, look: Mark) -> go.Scatter:
    hovers = [
        f"{label(method)} {label(_text(row['setting']))}<br>learning rate {row['learning_rate']:.3g}"
        f"<br>forgetting at learning {row['at_learning']:.4g}:"
        f" {interval_words(row, 'forgetting', low='low', high='high')}<br>seeds: {row['seeds']}"
        for row in rows.to_dict("records")
    ]
    return go.Scatter(
        x=floats(rows["at_learning"]), y=floats(rows["forgetting"]), mode="markers", legendgroup=label(method),
        name=f"{label(method)}, at equal learning", showlegend=False, hovertext=hovers, hoverinfo="text",
        marker={"symbol": "line-ew", "size": 10, "line": {"color": look.color, "width": 2}},
        error_y=bars(rows, "forgetting", low="low", high="high", color=look.color, width=0),
    )  # fmt: skip


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _data(found: TradeOffPoints) -> pd.DataFrame:
    """Points and, beneath, forgetting at equal learning and published points; ``what`` tells them apart."""
    points = found.points.assign(what="checkpoint" if found.of == "checkpoints" else "mean over seeds")
    equal = found.equal_learning.rename(
        columns={"at_learning": "learning", "low": "forgetting_low", "high": "forgetting_high"}
    ).drop(columns=["target", "measure"])
    published = background_rows(found.background, "learning", "forgetting")
    parts = [part for part in (points, equal.assign(what="at equal learning"), published) if len(part)]
    data = pd.concat([part.astype(object) for part in parts], ignore_index=True).convert_dtypes()
    data.insert(0, "target", found.target)
    data.insert(1, "measure", found.measure)
    return data


def _caption(found: TradeOffPoints) -> str:
    runs = found.points["curve"].nunique()
    if found.of == "checkpoints":
        what, n = "a point a checkpoint", f"n = {len(found.points)} checkpoints of {runs} runs"
        are = "Bars: 95 % interval over examples; they say nothing of other seeds"
        notes = [
            (
                "Filled: on the front, no other checkpoint learned as much and forgot as little; the larger a mark, the"
                " more resamples of the examples have it there"
            )
        ]
    else:
        what, n = "a point the mean over seeds at a step", f"n = {len(found.points)} steps of {runs} groups of runs"
        are, notes = "Bars: Student's 95 % interval over seeds", []
    shown = are if _has_bars(found) else f"{are}; of more than {_MOST_BARS} points they are not drawn, but in the data"
    return caption(
        f"Forgetting over learning, {what}; thin lines: along training, from the base (+) on",
        [learning_words(found.target), measure_words(found.measure)],
        f"Data: {n}",
        [shown, *notes, *_missing(found), *_equal_notes(found), *_areas(found), background_words(found.background)],
    )


def _missing(found: TradeOffPoints) -> Sequence[str]:
    ends = found.points[["learning_low", "forgetting_low"]].isna().any(axis=1)
    reasons = "; ".join(dict.fromkeys(str(each) for each in found.points.loc[ends, "reason"].dropna() if each))
    notes = [f"{int(ends.sum())} points lack an interval{f' ({reasons})' if reasons else ''}"] if ends.any() else []
    if found.without_value:
        notes.append(f"{found.without_value} points without learning or forgetting are left out")
    return notes


def _equal_notes(found: TradeOffPoints) -> Sequence[str]:
    equal = found.equal_learning
    if equal.empty:
        return ()
    levels = ", ".join(f"{at:.4g}" for at in sorted(equal["at_learning"].unique()))
    gone = int(equal["forgetting"].isna().sum())
    left = f"; {gone} of {len(equal)} groups do not reach theirs" if gone else ""
    return (
        (
            f"Upright lines: equal learning ({levels}); dashes on them: forgetting there, mean over the seeds of a"
            f" method, setting and learning rate, with Student's interval{left}"
        ),
    )


def _areas(found: TradeOffPoints) -> Sequence[str]:
    told = [
        f"{row['method']} {interval_words(row, 'hypervolume', low='low', high='high')}"
        for row in found.areas.to_dict("records")
        if pd.notna(row["hypervolume"])
    ]
    if not told:
        return ()
    first = found.areas.iloc[0]
    corner = f"{first['reference_learning']:.4g}, {first['reference_forgetting']:.4g}"
    return (f"Hypervolume down to learning, forgetting = {corner}: {'; '.join(told)}",)
