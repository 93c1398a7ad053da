"""Principal angles between the updates of two runs, beside those of random subspaces."""

from typing import Literal

import pandas as pd
import plotly.graph_objects as go

from rank_lab.figures.captions import caption
from rank_lab.figures.error_bars import floats
from rank_lab.figures.figure import Figure
from rank_lab.figures.legends import legend
from rank_lab.figures.style import Mark, Style, label, marks, new_plot, palette
from rank_lab.subspace_views import AnglesView

__all__ = ["principal_angles"]

_MOST_MODULES = 8  # that are told apart by themselves; of more, their kinds are
_AXES = {"cosine": "cos θ", "angle": "θ (radians)"}


def principal_angles(
    view: AnglesView, style: Style = "light", *, quantity: Literal["cosine", "angle"] = "cosine"
) -> Figure:
    """Cosines or angles by index, the smallest angle first.

    Parameters
    ----------
    view
        From :func:`rank_lab.subspace_views.angles_view`.
    style
        Of the plot.
    quantity
        ``cosine``, or ``angle``, which tells small angles apart.

    Returns
    -------
    Figure
        A trace a module, or a kind where there are more than eight modules; dashed: the mean of random subspaces of the
        same dimensions.
    """
    plot = new_plot(
        style, title=f"Principal angles, {label(view.side)} singular vectors", x="index i", y=_AXES[quantity],
        legend=legend(style), height=300 if style == "paper" else 420,
    )  # fmt: skip
    by = "module" if len(view.modules) <= _MOST_MODULES else "kind"
    plot.add_trace(_null(view, quantity, style))
    looks = marks(list(dict.fromkeys(str(each) for each in view.table[by])), style)
    for name, look in looks.items():
        plot.add_trace(_lines(view.table[view.table[by] == name], name, look, quantity))
    if quantity == "cosine":
        plot.update_yaxes(range=[-0.02, 1.02])
    notes = [
        "Dashed: mean cosine of random subspaces of the same dimensions"
        + (", as an angle" if quantity == "angle" else "")
    ]
    notes += [f"{len(view.modules)} modules, coloured by kind"] if by == "kind" else []
    gone = int(view.table[quantity].isna().sum())
    notes += [f"{gone} angles have no value"] if gone else []
    return Figure(
        f"principal_angles_{view.side}", "Principal angles", plot, view.table,
        caption(
            f"{'Cosines of the p' if quantity == 'cosine' else 'P'}rincipal angles between the spans of the leading"
            f" {view.side} singular vectors of two updates",
            ["cos θi: singular values of the product of the two bases; 1 where a direction is in both spans"],
            f"Data: {view.pair.words}; n = {len(view.modules)} modules", notes,
        ),
        ("principal_angles",),
    )  # fmt: skip


def _joined(rows: pd.DataFrame, quantity: str) -> tuple[list[float | None], list[float | None], list[str]]:
    """Modules one after the other, a gap between them."""
    x: list[float | None] = []
    y: list[float | None] = []
    hovers: list[str] = []
    for module, own in rows.groupby("module", sort=False):
        x += [*floats(own["index"]), None]
        y += [*floats(own[quantity]), None]
        hovers += [
            f"{label(str(module))}, i = {row['index']}<br>cos θ = {row['cosine']:.6g}, θ = {row['angle']:.4g}"
            f"<br>null: cos θ = {row['null_cosine']:.4g}"
            for row in own.to_dict("records")
        ] + [""]
    return x, y, hovers


def _lines(rows: pd.DataFrame, name: str, look: Mark, quantity: str) -> go.Scatter:
    x, y, hovers = _joined(rows, quantity)
    return go.Scatter(
        x=x, y=y, mode="lines+markers", name=label(name), hovertext=hovers, hoverinfo="text",
        line={"color": look.color, "width": 1.2, "dash": look.dash},
        marker={"symbol": look.symbol, "size": 5, "color": look.color},
    )  # fmt: skip


def _null(view: AnglesView, quantity: str, style: Style) -> go.Scatter:
    """One line for each different null."""
    name = "null_cosine" if quantity == "cosine" else "null_angle"
    lines = {tuple(own[name]): own for _, own in view.table.groupby("module", sort=False) if own[name].notna().any()}
    x, y, _ = _joined(pd.concat(lines.values()), name) if lines else ([], [], [])
    return go.Scatter(
        x=x, y=y, mode="lines", name="random", line={"color": palette(style).null, "width": 1.5, "dash": "dash"},
        hoverinfo="skip",
    )  # fmt: skip
