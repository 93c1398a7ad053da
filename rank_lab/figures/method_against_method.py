"""One quantity of each matrix in one run against the same in another."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from rank_lab.errors import RankLabError
from rank_lab.figures.captions import caption, definition, place
from rank_lab.figures.figure import Figure
from rank_lab.figures.legends import legend
from rank_lab.figures.over_text import DIVIDED, counted
from rank_lab.figures.style import Style, kind_marks, label, log_axis, new_plot, palette
from rank_lab.names import KINDS
from rank_lab.run_comparison import RunComparison
from rank_lab.shown_values import quantity_label

__all__ = ["method_against_method"]


def method_against_method(
    comparison: RunComparison, style: Style = "light", *, other: int = 2, log: bool = False
) -> Figure:
    """A quantity of the same modules in two runs.

    Parameters
    ----------
    comparison
        From :func:`rank_lab.run_comparison.run_comparison`.
    style
        Of the plot.
    other
        Number of the run on the vertical axis, from 2; the first is on the horizontal one.
    log
        Logarithmic axes, on which zero has no place.

    Returns
    -------
    Figure
        A symbol a module in the colour of its kind, the diagonal, and the nulls of both as grey crosses. What has a
        value in one of the two alone, or no partner, is counted in the caption and named in the data.

    Raises
    ------
    RankLabError
        If there is no run of that number.
    """
    if not 2 <= other <= len(comparison.places):
        raise RankLabError(f"run number {other}; this comparison has 2 to {len(comparison.places)} beside the first.")
    table, across, down = comparison.table, "value_1", f"value_{other}"
    known = table[table[across].notna() & table[down].notna()]
    drawn = known[(known[across] > 0) & (known[down] > 0)] if log else known
    quantity = quantity_label(comparison.metric, comparison.over)
    names = [place(*comparison.places[number - 1], comparison.delta) for number in (1, other)]
    axes = [f"{quantity}, {label(_short(comparison, number))}" for number in (1, other)]
    plot = new_plot(
        style, title=f"{quantity}: {label(names[1])} against {label(names[0])}", x=axes[0], y=axes[1],
        height=360 if style == "paper" else 560, legend=legend(style),
    )  # fmt: skip
    nulls = drawn[["null_1", f"null_{other}"]].dropna().round(9).drop_duplicates()
    _add_diagonal(plot, _ends(drawn, nulls, [across, down], log=log), style)
    _add_nulls(plot, nulls, style)
    looks = kind_marks([kind for kind in KINDS if (drawn["kind"] == kind).any()], style)
    for kind, look in looks.items():
        own = drawn[drawn["kind"] == kind]
        plot.add_trace(
            go.Scatter(
                x=own[across],
                y=own[down],
                mode="markers",
                name=kind,
                cliponaxis=False,
                marker={"color": look.color, "symbol": look.symbol, "size": 8, "line": {"width": 0}},
                hovertext=[_hover(row, other) for row in own.to_dict("records")],
                hoverinfo="text",
            )
        )
    if log:
        low, high = _ends(drawn, nulls, [across, down], log=log)
        plot.update_layout(xaxis=log_axis(low, high), yaxis=log_axis(low, high))
    else:
        plot.update_layout(xaxis={"rangemode": "tozero"}, yaxis={"rangemode": "tozero"})
    text = _caption(comparison, other, names, drawn)
    return Figure(
        "method_against_method", f"{quantity}: one run against another", plot, _data(comparison, other), text,
        (comparison.metric,),
    )  # fmt: skip


def _short(comparison: RunComparison, number: int) -> str:
    """Of an axis: the run, with its step where the run is there twice."""
    run, step = comparison.places[number - 1]
    twice = sum(other == run for other, _ in comparison.places) > 1
    return f"{run}, step {step}" if twice and step is not None else run


def _ends(drawn: pd.DataFrame, nulls: pd.DataFrame, columns: list[str], *, log: bool) -> tuple[float, float]:
    """Of the diagonal: the smallest and the largest that is drawn on either axis."""
    values = pd.concat([*(drawn[column] for column in columns), *(nulls[column] for column in nulls)])
    if values.empty:
        return (1.0, 10.0) if log else (0.0, 1.0)
    low, high = float(values.min()), float(values.max())
    return (low, high) if log else (min(low, 0.0), high)


def _add_diagonal(plot: go.Figure, ends: tuple[float, float], style: Style) -> None:
    plot.add_trace(
        go.Scatter(
            x=list(ends),
            y=list(ends),
            mode="lines",
            name="equal",
            hoverinfo="skip",
            line={"color": palette(style).text, "width": 1, "dash": "dot"},
        )
    )


def _add_nulls(plot: go.Figure, nulls: pd.DataFrame, style: Style) -> None:
    if nulls.empty:
        return
    plot.add_trace(
        go.Scatter(
            x=nulls.iloc[:, 0],
            y=nulls.iloc[:, 1],
            mode="markers",
            name="null",
            cliponaxis=False,
            marker={"symbol": "cross-thin-open", "size": 11, "color": palette(style).null, "line": {"width": 1.5}},
            hovertemplate="null: %{x:.4g}, %{y:.4g}<extra></extra>",
        )
    )


def _hover(row: dict[Any, Any], other: int) -> str:
    values = f"{row['value_1']:.4g} and {row[f'value_{other}']:.4g}"
    return f"{label(str(row['module']))}<br>{values}"


def _data(comparison: RunComparison, other: int) -> pd.DataFrame:
    """The pairs, then what has no partner."""
    table, only = comparison.table, comparison.only
    about = {f"{what}_{number}": comparison.places[number - 1][index]
             for number in (1, other) for index, what in enumerate(("run", "step"))}  # fmt: skip
    kept = [name for name in table.columns if not name[-1].isdigit() or name.endswith(("_1", f"_{other}"))]
    pairs = table[kept].assign(
        **about, delta=comparison.delta, metric=comparison.metric, over=comparison.over, runs=f"1 {other}"
    )
    own = only[[bool({"1", str(other)} & set(runs.split())) for runs in only["runs"]]]
    return pd.concat([pairs, own.astype(object)], ignore_index=True) if len(own) else pairs


def _caption(comparison: RunComparison, other: int, names: list[str], drawn: pd.DataFrame) -> str:
    table = comparison.table
    gone = table.drop(index=drawn.index)
    states = [
        f"{counted(len(rows), 'module', 'modules')} not drawn: {first} and {second}"
        for (first, second), rows in gone.groupby(["state_1", f"state_{other}"], sort=False)
    ]
    alone = comparison.only["runs"].astype("string").str.split()  # none at all have no type
    unpaired = {number: int(alone.map(lambda runs, number=number: str(number) in runs).sum()) for number in (1, other)}
    text = [f"{counted(count, 'module', 'modules')} of {names[index]}"
            for index, count in enumerate(unpaired.values()) if count]  # fmt: skip
    return caption(
        f"{quantity_label(comparison.metric, comparison.over)} of each module in two runs{DIVIDED[comparison.over]}",
        [definition(comparison.metric)],
        f"Data: {names[0]} (across) and {names[1]} (up); n = {counted(len(drawn), 'module', 'modules')} that both have",
        [
            "Dotted: equal in both",
            "Grey crosses: what white noise of the same shape (of factors: random factors) shows"
            if drawn["null_1"].notna().any()
            else "",
            *states,
            f"Not in all of the compared runs: {', '.join(text)}" if text else "",
        ],
    )
