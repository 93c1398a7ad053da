"""What was analysed of each run and step, and what rounding leaves of it."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from rank_lab.coverage_overview import NOT_MEASURED, STATUSES, CoverageOverview
from rank_lab.figures.captions import caption
from rank_lab.figures.figure import Figure
from rank_lab.figures.legends import legend, room_below
from rank_lab.figures.over_text import counted
from rank_lab.figures.style import Style, axis, beside_names, fixed_margins, label, merged, new_plot, palette
from rank_lab.rank_summaries import REGIMES

__all__ = ["noise_and_coverage"]

_MEANINGS = (
    "exact: no rounding in the change; resolved: its energy is the update's",
    "partial: directions can be counted, raw ranks mislead; unresolved: nothing can be told",
    "vector: no matrix, has a norm only; new: only in the tuned checkpoint",
    "skipped and failed: the reasons are in the data",
)
_GAP = 70  # pixels between the panels, for the title of the upper axis
_SHAPES = ("", "/", ".", "x", "-", "+")
_CYCLE = {"analysed": 0, "vector": 3, "new": 4, "skipped": 1, "exact": 5, "resolved": 2, "partial": 4}


def noise_and_coverage(overview: CoverageOverview, style: Style = "light") -> Figure:
    """Shares of tensors by what became of them, and of matrices by their noise regime.

    Parameters
    ----------
    overview
        From :func:`rank_lab.coverage_overview.coverage_overview`.
    style
        Of the plot.

    Returns
    -------
    Figure
        A bar a run and step in each of two panels: coverage above, regimes below; told apart by colour and pattern. Why
        tensors were skipped is in the data.
    """
    names = _names(overview.places)
    bars = max(22 * len(names), 50)  # pixels of a panel
    share_of_panel = bars / (2 * bars + _GAP)
    height = 2 * bars + _GAP + (110 if style == "paper" else 170)
    rows = {"categoryorder": "array", "categoryarray": list(reversed(names)), "type": "category", "showgrid": False}
    share = {"range": [0, 1], "tickformat": ".0%", "tickvals": [0, 0.25, 0.5, 0.75, 1]}
    plot = new_plot(
        style,
        title="Coverage and noise",
        x="",
        y="",
        height=height,
        legend=legend(style),
        barmode="stack",
        bargap=0.25,
        **merged(
            {
                "xaxis": {"title": {"text": "share of tensors"}} | share,
                "yaxis": {"domain": [1 - share_of_panel, 1]} | rows,
                "xaxis2": axis(style, "share of matrices", anchor="y2", **share),
                "yaxis2": axis(style, "", domain=[0, share_of_panel], anchor="x2", **rows),
                "margin": {"r": 30} | room_below(style, rows=2),
            },
            beside_names(names, style) and fixed_margins(style, "yaxis2") | beside_names(names, style),
        ),
    )
    _add_bars(plot, overview.statuses, ("status", "tensors", ""), STATUSES, style)
    _add_bars(plot, overview.regimes, ("noise_regime", "matrices", "2"), (*REGIMES, NOT_MEASURED), style)
    return Figure("noise_and_coverage", "Coverage and noise", plot, _data(overview), _caption(overview))


def _names(places: pd.DataFrame) -> list[str]:
    """Of the bar of each row."""
    pairs = zip(places["run"].astype(str), places["step"], strict=True)
    return [label(run if pd.isna(step) else f"{run}, step {step}") for run, step in pairs]


def _add_bars(
    plot: go.Figure, table: pd.DataFrame, what: tuple[str, str, str], order: Sequence[str], style: Style
) -> None:
    by, count, panel = what
    colors = palette(style)
    rows = table.assign(name=_names(table))
    for index, value in enumerate(order):
        own = rows[rows[by] == value]
        if own.empty:
            continue
        color = colors.cycle[_CYCLE[value]] if value in _CYCLE else _other(value, style)
        plot.add_trace(
            go.Bar(
                y=own["name"],
                x=own["share"],
                orientation="h",
                name=value,
                xaxis=f"x{panel}",
                yaxis=f"y{panel}",
                legendgroup=by,
                marker={
                    "color": color,
                    "line": {"color": colors.background, "width": 1},
                    "pattern": {
                        "shape": _SHAPES[index % len(_SHAPES)],
                        "fgcolor": colors.background,
                        "fillmode": "overlay",
                    },
                },
                hovertext=[_hover(row, value, count) for row in own.to_dict("records")],
                hoverinfo="text",
                meta={"panel": count},
            )
        )


def _other(value: str, style: Style) -> str:
    """Grey for what has no change or no number, the warning colour for what is lost."""
    return palette(style).edge if value in ("failed", "unresolved") else palette(style).null


def _hover(row: dict[Any, Any], value: str, count: str) -> str:
    share = f"<br>{row['change_share']:.3g} of the squared change" if pd.notna(row["change_share"]) else ""
    return f"{row['name']}<br>{value}: {row[count]} {count}{share}"


def _data(overview: CoverageOverview) -> pd.DataFrame:
    """All counts in one table; reasons below them."""
    frames = [
        overview.statuses.rename(columns={"tensors": "count"}).assign(shown="coverage"),
        overview.regimes.rename(columns={"matrices": "count"}).assign(shown="noise regime"),
        overview.reasons.rename(columns={"tensors": "count"}).assign(shown="reason"),
    ]
    columns = ["shown", "run", "step", "status", "noise_regime", "count", "share", "change_share", "reason", "example"]
    kept = [frame.reindex(columns=columns).astype(object) for frame in frames if len(frame)]
    return pd.concat(kept, ignore_index=True) if kept else pd.DataFrame(columns=columns)


def _caption(overview: CoverageOverview) -> str:
    places = overview.places
    failed = int(overview.statuses.loc[overview.statuses["status"] == "failed", "tensors"].sum())
    count = counted(int(places["tensors"].sum()), "tensor", "tensors")
    matrices = counted(int(places["matrices"].sum()), "matrix", "matrices")
    return caption(
        "What became of the tensors of either checkpoint (above), and what rounding leaves of the matrices (below)",
        _MEANINGS,
        f"Data: {counted(len(places), 'run and step', 'runs and steps')}; n = {count} and {matrices}",
        [f"To be mended: {counted(failed, 'tensor', 'tensors')}" if failed else ""],
    )
