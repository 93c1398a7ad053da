"""LoRA's amplification factor along depth, beside random directions and the weight's own."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from rank_lab.figures.captions import caption
from rank_lab.figures.error_bars import floats
from rank_lab.figures.figure import Figure
from rank_lab.figures.legends import legend
from rank_lab.figures.style import Style, label, log_axis, marks, new_plot, palette
from rank_lab.module_grid import NO_LAYER
from rank_lab.subspace_views import AmplificationView

__all__ = ["amplification_plot"]


def amplification_plot(view: AmplificationView, style: Style = "light") -> Figure:
    """Amplification of every module, on a logarithmic axis.

    Parameters
    ----------
    view
        From :func:`rank_lab.subspace_views.amplification_view`.
    style
        Of the plot.
    """
    table = view.table
    plot = new_plot(
        style, title=f"Amplification: {label(view.pair.words)}", x="layer", y="amplification", legend=legend(style),
        height=320 if style == "paper" else 440,
    )  # fmt: skip
    colors = palette(style)
    for name, column, symbol in (("random directions", "random_amplification", "line-ew"), ("own of W", "own_amplification", "line-ew-open")):  # fmt: skip  # noqa: E501
        plot.add_trace(
            go.Scatter(
                x=table["column"], y=_positive(table[column]), mode="markers", name=name, hoverinfo="skip",
                marker={"symbol": symbol, "size": 9, "line": {"color": colors.null if "own" not in name else colors.edge, "width": 1.5}},  # noqa: E501
            )
        )  # fmt: skip
    for row, look in marks(list(view.rows), style).items():
        own = table[table["row"] == row]
        plot.add_trace(
            go.Scatter(
                x=own["column"], y=_positive(own["amplification"]), mode="markers", name=label(row), hoverinfo="text",
                marker={"symbol": look.symbol, "size": 7, "color": look.color},
                hovertext=[_hover(each) for each in own.to_dict("records")],
                customdata=own[["row", "column", "module"]].to_numpy().tolist(),
            )
        )  # fmt: skip
    columns = list(view.columns)
    every = max(-(-len(columns) // 12), 1)
    plot.update_xaxes(
        type="category", tickangle=0, categoryorder="array", categoryarray=columns, tickvals=columns[::every],
        ticktext=["no<br>layer" if each == NO_LAYER else each for each in columns[::every]],
    )  # fmt: skip
    drawn = table[["amplification", "random_amplification", "own_amplification"]].astype("float64")
    positive = drawn.where(drawn > 0)
    plot.update_yaxes(**log_axis(float(positive.min().min()), float(positive.max().max())))
    return Figure("amplification", "Amplification", plot, table, _caption(view), ("amplification",))


def _positive(values: "pd.Series[Any]") -> list[float | None]:
    """A logarithmic axis has no place for zero."""
    return floats(values.astype("float64").where(lambda each: each > 0))


def _hover(row: dict[Any, Any]) -> str:
    told = [f"{name}: {row[column]:.4g}" for name, column in (
        ("amplification", "amplification"), ("random directions", "random_amplification"),
        ("own directions of W", "own_amplification"), ("‖ΔW‖", "update_norm"), ("‖UᵀWV‖", "projected_norm"),
    ) if pd.notna(row[column])]  # fmt: skip
    return "<br>".join([label(str(row["module"])), *told])


def _caption(view: AmplificationView) -> str:
    table = view.table
    gone = int((~(table["amplification"].astype("float64") > 0)).sum())
    return caption(
        f"Amplification by layer, of the first r = {view.r} directions",
        [
            (
                "Amplification: ‖ΔW‖ / ‖UᵀWV‖ in Frobenius norms, U and V the first r singular vectors of the update:"
                " how much an update enlarges what the weight holds in its directions"
            )
        ],
        f"Data: {view.pair.words}; n = {len(table)} modules",
        [
            (
                "Dashes: the same with random directions, and with the weight's own leading ones, the least that any"
                " directions can give"
            ),
            *([f"{gone} modules have no value and are left out"] if gone else []),
        ],
    )
