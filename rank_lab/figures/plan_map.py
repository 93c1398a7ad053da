"""Ranks of a plan by layer and kind of module."""

from typing import Any

import pandas as pd

from rank_lab.budget_views import PlanView
from rank_lab.figures.captions import caption
from rank_lab.figures.cell_map import add_cells, name_axes
from rank_lab.figures.figure import Figure
from rank_lab.figures.style import Style, label, new_plot

__all__ = ["plan_map"]


def plan_map(view: PlanView, style: Style = "light") -> Figure:
    """The rank that each module gets.

    Parameters
    ----------
    view
        From :func:`rank_lab.budget_views.plan_view`.
    style
        Of the plot.

    Returns
    -------
    Figure
        Rank 0, a module without an adapter, is grey with a 0; a module without a rank is grey with a dash.
    """
    title = f"Planned ranks: {label(view.about)}"
    plot = new_plot(style, title=title, x="layer", y="kind of module", height=120 + 28 * max(len(view.rows), 5))
    ranks = view.cells["rank"]
    cells = pd.DataFrame(
        {
            "row": view.cells["row"], "column": view.cells["column"], "value": ranks,
            "sign": ["–" if pd.isna(rank) else "0" if rank == 0 else "" for rank in ranks],
            "number": ["" if pd.isna(rank) else f"{rank:.3g}" for rank in ranks],
            "module": [names[0] for names in view.cells["modules"]],
            "hover": [_hover(cell) for cell in view.cells.to_dict("records")],
        }
    )  # fmt: skip
    add_cells(plot, cells, view.rows, view.columns, quantity="rank", style=style, zmin=0)
    name_axes(plot, view.rows, view.columns)
    return Figure("planned_ranks", "Planned ranks", plot, view.table, _caption(view), ("kept_energy",))


def _hover(cell: dict[Any, Any]) -> str:
    names = cell["modules"]
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    rank = "no rank" if pd.isna(cell["rank"]) else f"rank {cell['rank']:.4g}"
    spread = f" ({cell['low']:.0f} to {cell['high']:.0f})" if cell["low"] < cell["high"] else ""
    bound = "" if pd.isna(cell["bound"]) else f" of {cell['bound']:.4g}"
    why = f"<br>{label(cell['reason'])}" if cell["reason"] else ""
    return f"{label(names[0])}{more}<br>{rank}{spread}{bound}{why}"


def _caption(view: PlanView) -> str:
    table = view.table
    notes = []
    if (view.cells["rank"] == 0).any():
        notes.append("0 on grey: no adapter, the budget buys more elsewhere or its update is zero")
    if view.cells["rank"].isna().any():
        notes.append("–: no rank, for the reason in the data")
    if any(len(names) > 1 for names in view.cells["modules"]):
        notes.append("A cell of several matrices is their mean")
    parameters = table["parameters"].astype("float64").sum()
    return caption(
        "Rank of a low-rank adapter by layer and kind of module, as planned under a budget",
        ["Rank: of the best approximation of the module's update that is kept"],
        f"Data: {view.about}; n = {len(table)} modules, {parameters:,.0f} parameters",
        notes,
    )
