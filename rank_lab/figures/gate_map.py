"""Gates that are left: layers across and kinds down at one stage (Figure 4 of SoRA), and along the stages."""

from typing import Any

import pandas as pd

from rank_lab.figures.captions import caption
from rank_lab.figures.cell_map import add_cells, name_axes
from rank_lab.figures.figure import Figure
from rank_lab.figures.style import Style, label, new_plot
from rank_lab.gate_tables import GateTable

__all__ = ["gate_map", "gates_over_stages"]

_DEFINITION = "Non-zero gates of a module: the rank that SoRA leaves its update at most"


def gate_map(table: GateTable, style: Style = "light") -> Figure:
    """Non-zero gates of each layer and kind.

    Parameters
    ----------
    table
        From :func:`rank_lab.gate_tables.gate_table`.
    style
        Of the plot.

    Returns
    -------
    Figure
        A cell whose gates are all zero is grey with a 0.
    """
    title = f"Non-zero gates by layer and kind: {label(table.control)}, stage {table.stage}"
    plot = new_plot(style, title=title, x="layer", y="kind of module", height=120 + 28 * max(len(table.rows), 5))
    add_cells(plot, _cells(table), table.rows, table.columns, quantity="non-zero gates", style=style, zmin=0)
    name_axes(plot, table.rows, table.columns)
    first, notes = table.thresholds[0], _notes(table)
    at = f"stage {table.stage}" + ("" if pd.isna(first) else f" (λ = {first:.4g})")
    whole = f"{table.nonzero:.4g} of {table.gates:.4g} gates are not zero"
    return Figure(
        "gates", "Non-zero gates by layer and kind", plot, _data(table),
        caption(f"Non-zero gates by layer and kind of module at {at}: {whole}", [_DEFINITION], _origin(table), notes),
        ("nonzero_gates",),
    )  # fmt: skip


def gates_over_stages(table: GateTable, style: Style = "light") -> Figure:
    """Non-zero gates a module, stage by stage.

    Parameters
    ----------
    table
        From :func:`rank_lab.gate_tables.gates_along_stages`.
    style
        Of the plot.
    """
    rows = "kind of module" if table.by == "kind" else "layer"
    title = f"Non-zero gates along the stages: {label(table.control)}"
    plot = new_plot(style, title=title, x="threshold λ of the stage", y=rows, height=120 + 24 * max(len(table.rows), 5))
    add_cells(plot, _cells(table), table.rows, table.columns, quantity="gates a module", style=style, zmin=0)
    texts = [
        stage if pd.isna(each) else f"{each:.3g}" for stage, each in zip(table.columns, table.thresholds, strict=True)
    ]
    name_axes(plot, table.rows, table.columns, texts=texts)
    if any(pd.isna(each) for each in table.thresholds):
        plot.update_xaxes(title={"text": "stage"})
    data = _data(table).assign(
        threshold=_data(table)["column"].map(dict(zip(table.columns, table.thresholds, strict=True)))
    )
    return Figure(
        f"gates_along_stages_by_{table.by}", "Non-zero gates along the stages", plot, data,
        caption(f"Non-zero gates a module, by {rows}, at each stage", [_DEFINITION], _origin(table), _notes(table)),
        ("nonzero_gates",),
    )  # fmt: skip


def _cells(table: GateTable) -> pd.DataFrame:
    cells = table.cells
    return pd.DataFrame(
        {
            "row": cells["row"], "column": cells["column"], "value": cells["value"],
            "sign": ["0" if value == 0 else "" for value in cells["value"]],
            "number": [f"{value:.2g}" for value in cells["value"]],
            "module": [names[0] for names in cells["modules"]],
            "hover": [_hover(row) for row in cells.to_dict("records")],
        }
    )  # fmt: skip


def _hover(cell: dict[Any, Any]) -> str:
    modules = cell["modules"]
    more = f" and {len(modules) - 1} more" if len(modules) > 1 else ""
    spread = "" if cell["low"] == cell["high"] else f" ({cell['low']} to {cell['high']})"
    return f"{label(modules[0])}{more}<br>non-zero gates: {cell['value']:.4g}{spread}"


def _data(table: GateTable) -> pd.DataFrame:
    cells = table.cells.assign(modules=[" ".join(names) for names in table.cells["modules"]])
    cells.insert(0, "control", table.control)
    cells.insert(1, "stage", table.stage)
    return cells.rename(columns={"value": "nonzero_gates"})


def _origin(table: GateTable) -> str:
    modules = {name for names in table.cells["modules"] for name in names}
    seeds = ", ".join(map(str, table.seeds))
    plural = "seed" if len(table.seeds) == 1 else "seeds"
    return f"Data: {table.about}, {table.control}, {plural} {seeds}; n = {len(modules)} modules"


def _notes(table: GateTable) -> list[str]:
    notes = ["0 on grey: no gate is left, so that the update is zero"] if (table.cells["value"] == 0).any() else []
    if len(table.seeds) > 1:
        notes.append("A cell is the mean over seeds; smallest and largest are in the data")
    several = table.stage is None or any(len(names) > 1 for names in table.cells["modules"])
    return notes + (["A cell of several modules is their mean"] if several else [])
