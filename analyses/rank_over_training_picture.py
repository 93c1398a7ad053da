"""The pictures of :mod:`analyses.rank_over_training`, from its kept tables alone."""

from collections.abc import Iterator

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analyses.kept_results import Kept, write_picture
from analyses.paired_seeds import difference
from analyses.rank_over_training_claims import TITLES, place_values
from rank_lab.figures.rank_along_training import rank_along_training
from rank_lab.figures.style import faint
from rank_lab.schema import UPDATES
from rank_lab.training_table import training_table

__all__ = ["draw"]

_COLORS = {"sgd": "#0072B2", "adamw": "#E69F00", "lion": "#D55E00"}  # Okabe-Ito
_PLACES = ("attention", "MLP")


def draw(found: Kept) -> None:
    """Write all of them.

    Parameters
    ----------
    found
        What was kept.
    """
    write_picture(_optimizers(found.tables["places"]), found.folder, "optimizers", scale=1.5)
    for form in ("float32", "bfloat16"):
        write_picture(_kinds(found.tables["matrices"], form), found.folder, f"kinds-{form}", scale=1.5)


def _kinds(matrices: pd.DataFrame, form: str) -> go.Figure:
    """The tool's own figure, of the rows that it needs."""
    rows = matrices[matrices["format"] == form].assign(run="Lion", delta="cumulative").reindex(columns=UPDATES.names)
    plot = rank_along_training(training_table(rows, "energy_rank_90", by="kind"), "paper", log_steps=True).plot
    return plot.update_layout(width=600, height=340)


def _optimizers(places: pd.DataFrame) -> go.Figure:
    figure = make_subplots(cols=2, subplot_titles=_PLACES, horizontal_spacing=0.08, shared_yaxes=True)
    for delta, dash in (("cumulative", "solid"), ("step", "dot")):
        values = place_values(places, "raw_over_null", delta=delta)
        for column, place in enumerate(_PLACES, start=1):
            for optimizer, own in values[values["place"] == place].groupby("optimizer", sort=False):
                for trace in _traces(own, str(optimizer), dash, column):
                    figure.add_trace(trace, row=1, col=column)
    figure.add_hline(y=1.0, line={"color": "#888888", "width": 1})
    figure.update_xaxes(title="optimizer step", type="log", dtick="D2")
    figure.update_yaxes(title="k<sub>90</sub> / null", rangemode="tozero", col=1)
    return figure.update_layout(
        template="simple_white", width=760, height=360, font_size=13, margin={"l": 60, "r": 10, "t": 30, "b": 90},
        legend={"orientation": "h", "y": -0.25, "x": 0.5, "xanchor": "center"},
    )  # fmt: skip


def _traces(own: pd.DataFrame, optimizer: str, dash: str, column: int) -> Iterator[go.Scatter]:
    """A line with its band over seeds."""
    points = {int(step): difference(list(own.loc[own["step"] == step, "value"])) for step in own["step"].unique()}
    steps, color = list(points), _COLORS[optimizer]
    known = [step for step in steps if points[step].low == points[step].low]  # of one seed there is no band
    if known and dash == "solid":
        yield go.Scatter(
            x=[*known, *reversed(known)],
            y=[*(points[step].high for step in known), *(points[step].low for step in reversed(known))],
            fill="toself", fillcolor=faint(color, 0.18), line={"width": 0}, mode="lines", showlegend=False,
            hoverinfo="skip",
        )  # fmt: skip
    yield go.Scatter(
        x=steps, y=[points[step].value for step in steps], mode="lines+markers", name=TITLES[optimizer],
        line={"color": color, "dash": dash, "width": 2}, marker={"size": 6}, showlegend=column == 1 and dash == "solid",
        legendgroup=f"{optimizer}{dash}",
    )  # fmt: skip
