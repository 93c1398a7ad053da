"""What of learning and forgetting the leading directions of an update keep, and the least number that keeps enough."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from rank_lab.behavioural_summaries import rank_words
from rank_lab.behavioural_view import CURVES, BehaviouralView
from rank_lab.figures.captions import caption, place
from rank_lab.figures.error_bars import bars, floats, interval_words
from rank_lab.figures.figure import Figure
from rank_lab.figures.legends import legend
from rank_lab.figures.style import Mark, Style, faint, label, marks, new_plot, palette

__all__ = ["behavioural_curve"]

_NAMES = {
    "learned": "learned, kept", "forgotten": "forgotten, kept", "random": "learned: random directions",
    "shrunk": "learned: shrunk update", "tail": "learned: all other directions",
}  # fmt: skip
_ABOUT = {
    "forgotten": "Forgotten: the increase of the loss on source texts, as a share of the tuned model's",
    "random": "Random directions: k random ones of the update's own, nested, one draw",
    "shrunk": "Shrunk update: all directions, made as small as the k leading ones are together; where it keeps no less,"
    " a share is kept by size and not by direction",
    "tail": "All other directions: the update without its k leading ones",
}
_MOST_TICKS = 10
_CONTROLS = ("random", "shrunk", "tail")


def behavioural_curve(view: BehaviouralView, style: Style = "light") -> Figure:
    """Shares of learning and forgetting over the number of directions, with the rank and k90.

    Parameters
    ----------
    view
        From :func:`rank_lab.behavioural_view.behavioural_view`.
    style
        Of the plot.

    Returns
    -------
    Figure
        Bars are intervals over texts; the rank is a line with its interval as a band, k90 a dotted line.
    """
    name = label(view.task) or "all targets"
    plot = new_plot(
        style, title=f"What k directions keep: {label(view.run)}, {name}", x="directions k of each matrix",
        y="share kept", legend=legend(style), height=330 if style == "paper" else 470,
    )  # fmt: skip
    drawn = view.points[view.points["k"] > 0]
    top = max(1.0, float(drawn["share_high"].max()) if drawn["share_high"].notna().any() else 1.0) * 1.05
    for trace in _lines(view, style, top):
        plot.add_trace(trace)
    looks = marks(list(CURVES), style)
    for curve in (*_CONTROLS, "forgotten", "learned"):
        rows = drawn[drawn["curve"] == curve]
        if rows["share"].notna().any():  # else the caption says why there is no share
            plot.add_trace(_curve(rows, curve, looks[curve]))
    plot.update_xaxes(**_ranks_axis(int(drawn["k"].max())))
    plot.update_yaxes(range=[min(-0.05, float(drawn["share"].min()) - 0.05), top])
    data = view.points.assign(run=view.run, step=view.step, target=view.task, source=view.source)
    return Figure(
        "behavioural_curve", "Behavioural rank", plot, data, _caption(view), ("behavioural_rank", "kept_energy")
    )  # fmt: skip


def _ranks_axis(largest: int) -> dict[str, Any]:
    """Logarithmic, with the powers of two at which ranks are tried, and the largest, as labels."""
    powers = [2**power for power in range(largest.bit_length())]
    ticks = [each for each in powers if each * 1.4 < largest] + [largest]
    shown = ticks if len(ticks) <= _MOST_TICKS else [*ticks[:-1:2], largest]
    return {"type": "log", "tickmode": "array", "tickvals": shown, "ticktext": [str(each) for each in shown]}


def _curve(rows: pd.DataFrame, curve: str, look: Mark) -> go.Scatter:
    control = curve in _CONTROLS
    return go.Scatter(
        x=floats(rows["k"]), y=floats(rows["share"]), mode="lines+markers", name=_NAMES[curve], meta=curve,
        line={"color": look.color, "width": 1 if control else 2, "dash": "dot" if control else "solid"},
        marker={"symbol": look.symbol, "size": 5 if control else 7, "color": look.color},
        error_y=bars(rows, "share", color=look.color, thickness=0.7 if control else 1),
        hovertext=[_hover(row, curve) for row in rows.to_dict("records")], hoverinfo="text",
    )  # fmt: skip


def _hover(row: dict[Any, Any], curve: str) -> str:
    why = f"<br>{label(row['reason'])}" if row["reason"] else ""
    return (
        f"{_NAMES[curve]}<br>k = {row['k']}, energy {row['energy']:.4f}<br>share: {interval_words(row, 'share')}{why}"
    )


def _lines(view: BehaviouralView, style: Style, top: float) -> list[go.Scatter]:
    """The share that was asked for, the rank with its interval, and k90."""
    colors, row = palette(style), view.rank
    found = []
    if pd.notna(row["rank"]) and row["rank"] > 0:
        if pd.notna(row["rank_low"]) and pd.notna(row["rank_high"]):
            low, high = max(float(row["rank_low"]), 0.5), float(row["rank_high"])
            found.append(
                go.Scatter(
                    x=[low, high, high, low], y=[-0.05, -0.05, top, top], fill="toself", mode="lines", hoverinfo="skip",
                    fillcolor=faint(colors.null, 0.2), line={"width": 0}, showlegend=False, meta="rank interval",
                )
            )  # fmt: skip
        found.append(_line(float(row["rank"]), top, f"behavioural rank {rank_words(row)}", colors.text, "dash"))
    found.append(_line(float(row["energy_rank_90"]), top, f"k90 {row['energy_rank_90']}", colors.edge, "dot"))
    last = float(view.points["k"].max())
    found.append(
        go.Scatter(
            x=[1.0, last], y=[row["share"]] * 2, mode="lines", name=f"share asked for {row['share']:g}",
            line={"color": colors.null, "width": 1}, hovertemplate="%{fullData.name}<extra></extra>", meta="share",
        )
    )  # fmt: skip
    return found


def _line(x: float, top: float, name: str, color: str, dash: str) -> go.Scatter:
    return go.Scatter(
        x=[x, x], y=[-0.05, top], mode="lines", name=name, line={"color": color, "width": 1.5, "dash": dash},
        hovertemplate=f"{name}<extra></extra>", meta=name.split(" ", maxsplit=1)[0],
    )  # fmt: skip


def _caption(view: BehaviouralView) -> str:
    row = view.rank
    target = f"{view.texts[0]} texts of {view.task or 'all targets'} (sha256 {view.hashes[0]})"
    of_source = f"{view.texts[1]} texts of {view.source or 'all sources'} (sha256 {view.hashes[1]})"
    source = f" and {of_source}" if view.texts[1] else ""
    shown = set(view.points["curve"])
    return caption(
        "Share of what was learned and of what was forgotten that the k leading singular directions of each matrix's"
        " update keep",
        [
            "Learned: the decrease of the loss on target texts, as a share of the tuned model's",
            *[text for curve, text in _ABOUT.items() if curve in shown],
            f"Behavioural rank: the least k that keeps {row['share']:g} of what was learned",
            "k90: the least k whose directions hold 90 % of the squared norm of all updates together",
        ],
        f"Data: {place(view.run, view.step)}; {target}{source}; learned {interval_words(row, 'learned')} nats a token",
        _notes(view),
    )


def _notes(view: BehaviouralView) -> list[str]:
    row = view.rank
    notes = ["Bars, and the band of the rank: 95 % interval of a paired bootstrap over texts"]
    if pd.isna(row["rank"]):
        notes.append(f"No rank: {row['reason']}")
    else:
        ratio = "" if pd.isna(view.energy.ratio) else f": {view.energy.ratio:.2g} times as many"
        notes.append(f"Rank {rank_words(row)}, of {row['rank_bound']} at most, beside k90 {view.energy.value}{ratio}")
        notes.append(f"The directions of the rank hold {row['energy_at_rank']:.2g} of the squared norm")
        if pd.notna(row["random_rank"]):
            notes.append(f"For as much, {rank_words(row, 'random_rank')} random directions are needed")
        elif "random" in set(view.points["curve"]):
            notes.append(f"No rank of random directions: {row['random_reason']}")
        if row["lasting_rank"] != row["rank"]:
            notes.append("Of the ranks that were tried, a larger one keeps less than that again")
    if view.energy.kept is not None:
        notes.append(f"k90 leading directions keep {interval_words(view.energy.kept, 'share')} of what was learned")
    if view.vectors:
        notes.append(f"Norms and biases that changed are {view.vectors}")
        none = view.points[(view.points["k"] == 0) & (view.points["curve"] == "learned")].to_dict("records")
        if none:
            notes.append(
                f"Without any direction the share is {interval_words(none[0], 'share')}, which has no place here"
            )
    without = view.points[view.points["share"].isna()]
    if len(without):
        notes.append(f"Without a share: {', '.join(sorted(set(without['reason'])))}")
    return notes
