"""Intruder dimensions by layer and kind of module."""

from typing import Any

import pandas as pd

from rank_lab.figures.captions import caption
from rank_lab.figures.cell_map import add_cells, name_axes
from rank_lab.figures.figure import Figure
from rank_lab.figures.style import Style, label, new_plot
from rank_lab.subspace_views import IntruderView

__all__ = ["intruder_map"]


def intruder_map(view: IntruderView, style: Style = "light") -> Figure:
    """How many leading singular vectors of the tuned weights the base does not have.

    Parameters
    ----------
    view
        From :func:`rank_lab.subspace_views.intruder_view`.
    style
        Of the plot.
    """
    title = f"Intruder dimensions: {label(view.pair.words)}"
    plot = new_plot(style, title=title, x="layer", y="kind of module", height=120 + 28 * max(len(view.rows), 5))
    counts = view.cells["intruders"]
    cells = pd.DataFrame(
        {
            "row": view.cells["row"], "column": view.cells["column"], "value": counts,
            "sign": ["–" if pd.isna(value) else "" for value in counts],
            "number": ["" if pd.isna(value) else f"{value:.0f}" for value in counts],
            "module": [names[0] for names in view.cells["modules"]],
            "hover": [_hover(row) for row in view.cells.to_dict("records")],
        }
    )  # fmt: skip
    add_cells(
        plot, cells, view.rows, view.columns, quantity="intruders", style=style, zmin=0, zmax=max(counts.max(), 1.0)
    )
    name_axes(plot, view.rows, view.columns)
    return Figure(
        f"intruders_{view.side}", "Intruder dimensions", plot, view.table,
        caption(
            f"Intruder dimensions among the first k = {view.k} {view.side} singular vectors of each tuned weight, at"
            f" epsilon = {view.epsilon:g}",
            [("Intruder: a singular vector of the tuned weight whose cosine with every one of the base weight is below"
             " epsilon in modulus")],
            f"Data: {view.pair.words}; n = {view.table['module'].nunique()} modules", _notes(view),
        ),
        ("intruder_dimensions",),
    )  # fmt: skip


def _hover(cell: dict[Any, Any]) -> str:
    names = cell["modules"]
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    told = {
        "intruders": f"{cell['intruders']:.0f} of {cell['looked_at']}",
        "null": f"{cell['null']:.3g}",
        "outside of the leading span": f"{cell['projected']:.0f}",
    }
    values = {"intruders": cell["intruders"], "null": cell["null"], "outside of the leading span": cell["projected"]}
    lines = [f"{what}: {'no value' if pd.isna(values[what]) else text}" for what, text in told.items()]
    return "<br>".join([f"{label(names[0])}{more}", *lines])


def _notes(view: IntruderView) -> list[str]:
    cells = view.cells
    if cells["null"].notna().all():
        null = (
            f"In all {cells['intruders'].sum():.0f}; white noise of the updates' norms makes {cells['null'].sum():.3g}"
        )
    else:
        null = (
            f"In all {cells['intruders'].sum():.0f}; of {int(cells['null'].isna().sum())} cells the null is not known"
        )
    if cells["projected"].notna().all():
        null += f"; {cells['projected'].sum():.0f} lie outside of the span of the base's leading vectors as well"
    notes = [null]
    if view.table["k"].min() < view.k:
        notes.append(f"Small matrices have fewer directions, {view.table['k'].min()} at least")
    if any(len(names) > 1 for names in cells["modules"]):
        notes.append("A cell of several matrices is their sum")
    return notes + (["–: no value"] if cells["intruders"].isna().any() else [])
