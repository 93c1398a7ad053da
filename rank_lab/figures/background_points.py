"""Published values behind a figure's own: grey and hollow, with a legend of their own, joined to nothing."""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from rank_lab.background import Background
from rank_lab.figures.style import Mark, Style, label, marks, palette
from rank_lab.published import MARKS, source_words

__all__ = ["BACKGROUND", "add_background", "background_rows", "background_words"]

BACKGROUND = "published"
"""Start of the names of these traces, and what tells their rows in a figure's data."""

_LAST = 1100  # of the legend's entries: plotly's own are 1000


def add_background(plot: go.Figure, found: Background | None, style: Style, *, beside: Sequence[str] = ()) -> None:
    """Draw published values, each method of each source a trace.

    Parameters
    ----------
    plot
        Receives them; what is drawn later lies above them.
    found
        None for nothing.
    style
        Of the plot.
    beside
        Methods that the figure draws itself, in its order: a method has the symbol that it has there.
    """
    if found is None:
        return
    looks = marks(list(dict.fromkeys([*beside, *found.methods])), style)
    for (source, method), rows in found.points.groupby(["source", "method"], sort=False):
        name = f"{BACKGROUND}: {label(str(method))} ({label(source_words(str(source)))})"
        plot.add_trace(_points(rows, name, looks[str(method)], style))


def _points(rows: pd.DataFrame, name: str, look: Mark, style: Style) -> go.Scatter:
    return go.Scatter(
        x=rows["x"].tolist(), y=rows["y"].tolist(), mode="markers", name=name, legendgroup=name, opacity=0.75,
        legendrank=_LAST,
        marker={"symbol": f"{look.symbol}-open", "size": 6, "color": palette(style).null, "line": {"width": 1}},
        hovertext=[_hover(row) for row in rows.to_dict("records")], hoverinfo="text", meta={"published": True},
    )  # fmt: skip


def _hover(row: dict[object, object]) -> str:
    place = f"{source_words(str(row['source']))}, {row['table']}"
    lines = [f"published: {row['method']}, {row['name']}", str(row["model"]), place]
    if row["mark"] != "S":
        lines.append(MARKS[str(row["mark"])])
    return "<br>".join(label(line) for line in lines if line)


def background_rows(found: Background | None, x: str, y: str) -> pd.DataFrame:
    """The points as rows of a figure's data.

    Parameters
    ----------
    found
        None for no row.
    x, y
        Columns of that data which have their values.
    """
    if found is None:
        return pd.DataFrame()
    rows = found.points[["source", "table", "model", "method", "name", "mark", "x", "y"]].assign(what=BACKGROUND)
    return rows.rename(columns={"name": "setting", "x": x, "y": y})


def background_words(found: Background | None) -> str:
    """For a caption: whose values they are, and what they are not.

    Examples
    --------
    >>> background_words(None)
    ''
    """
    if found is None:
        return ""
    places = []
    for source, rows in found.points.groupby("source", sort=False):
        tables = ", ".join(dict.fromkeys(part for text in rows["table"] for part in str(text).split(", ")))
        models = ", ".join(filter(None, dict.fromkeys(rows["model"])))
        places.append(f"{source_words(str(source))} ({'; '.join(filter(None, (tables, models)))})")
    unsure = [MARKS[mark] for mark in MARKS if mark != "S" and mark in set(found.points["mark"])]
    words = f"Grey, hollow: published, {', '.join(places)}, other model and task: for orientation only"
    return f"{words}; some {', '.join(unsure)}" if unsure else words
