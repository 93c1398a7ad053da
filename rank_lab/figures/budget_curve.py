"""What of an update is kept for how many parameters, by how ranks are allotted."""

from typing import Literal

import plotly.graph_objects as go

from rank_lab.budget_views import BudgetView
from rank_lab.figures.captions import caption
from rank_lab.figures.error_bars import floats
from rank_lab.figures.figure import Figure
from rank_lab.figures.legends import legend
from rank_lab.figures.style import Style, label, log_axis, marks, new_plot, palette

__all__ = ["CHOSEN_POINT", "budget_curve"]

CHOSEN_POINT = "chosen plan"
"""Name of the trace of the plan that was chosen."""

_AXES = {"kept_energy": "kept energy", "relative_error": "relative error"}
_WORDS = {
    "kept_energy": "Kept energy: share of the squared Frobenius norm of all updates together that their best"
    " approximations of these ranks hold",
    "relative_error": "Relative error: Frobenius norm of what the best approximations of these ranks leave, over that"
    " of all updates together",
}
_NAMES = {"per_layer": "per layer"}
_METHODS = {
    "greedy": "greedy: direction by direction, by energy per parameter",
    "per_layer": "per layer: the same share of its own energy in each module",
    "uniform": "uniform: one rank for all",
}


def budget_curve(
    view: BudgetView, style: Style = "light", *, quantity: Literal["kept_energy", "relative_error"] = "kept_energy"
) -> Figure:
    """Kept energy or relative error against parameters, a line a method.

    Parameters
    ----------
    view
        From :func:`rank_lab.budget_views.budget_view`.
    style
        Of the plot.
    quantity
        ``kept_energy`` or ``relative_error``.
    """
    plot = new_plot(
        style, title=f"{_AXES[quantity].capitalize()} against parameters", x="parameters of the adapter",
        y=_AXES[quantity], legend=legend(style), height=300 if style == "paper" else 420,
    )  # fmt: skip
    for method, look in marks(list(view.methods), style).items():
        rows = view.table[(view.table["method"] == method) & (view.table["parameters"] > 0)]
        name = label(_NAMES.get(method, method))
        plot.add_trace(
            go.Scatter(
                x=floats(rows["parameters"]), y=floats(rows[quantity]), mode="lines+markers", name=name,
                line={"color": look.color, "width": 1.5, "dash": look.dash},
                marker={"symbol": look.symbol, "size": 4, "color": look.color}, hoverinfo="text",
                hovertext=[
                    f"{name}<br>{row['parameters']:,.0f} parameters<br>kept energy {row['kept_energy']:.4f}"
                    f"<br>relative error {row['relative_error']:.4f}"
                    for row in rows.to_dict("records")
                ],
            )
        )  # fmt: skip
    notes = [_METHODS[method] for method in view.methods if method in _METHODS]
    if nothing := int((view.table["parameters"] <= 0).sum()):
        notes.append(f"{nothing} plans of no parameter keep nothing and have no place on a logarithmic axis")
    if view.chosen is not None and view.chosen["parameters"] > 0:
        plot.add_trace(
            go.Scatter(
                x=[view.chosen["parameters"]], y=[view.chosen[quantity]], mode="markers", name=CHOSEN_POINT,
                marker={"symbol": "circle-open", "size": 14, "color": palette(style).text, "line": {"width": 2}},
                hovertext=[f"chosen plan<br>{view.chosen['parameters']:,.0f} parameters"], hoverinfo="text",
            )
        )  # fmt: skip
        notes.append(
            f"Circle: the chosen plan, {view.chosen['parameters']:,.0f} parameters, kept energy"
            f" {view.chosen['kept_energy']:.4f}, relative error {view.chosen['relative_error']:.4f}"
        )
    shown = view.table.loc[view.table["parameters"] > 0, "parameters"]
    plot.update_xaxes(**log_axis(shown.min(), shown.max()))
    data = view.table.assign(about=view.about)
    about = view.about or "one report"
    return Figure(
        f"budget_{quantity}", "Rank budget", plot, data,
        caption(f"{_AXES[quantity].capitalize()} against the parameters of a low-rank adapter", [_WORDS[quantity]],
                f"Data: {about}; n = {len(view.table)} plans", notes),
        ("kept_energy", "eckart_young"),
    )  # fmt: skip
