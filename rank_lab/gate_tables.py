"""Gates that are not zero, module by module and stage by stage, from the curve of a schedule."""

from dataclasses import dataclass

import pandas as pd

from rank_lab.curve import SORA, Curve
from rank_lab.errors import RankLabError
from rank_lab.module_grid import on_grid

__all__ = ["GateTable", "gate_table", "gate_table_of_rows", "gates_along_stages"]


@dataclass(frozen=True, eq=False)
class GateTable:
    """Gates that are not zero in the cells of a map.

    Parameters
    ----------
    cells
        A row a cell: ``row``, ``column``, ``modules`` (their names), ``value`` (mean over the cell's modules and the
        seeds), ``low`` and ``high`` (the smallest and the largest of them).
    rows, columns
        In the order in which they are shown.
    control
        ``sora``, or the name of a control.
    stage
        Shown; None: along all of them.
    seeds
        Shown together.
    gates, nonzero
        In all modules together, of stage and seeds (their mean); None along stages.
    thresholds
        Of the stages shown, NaN where there is none.
    about
        Model and task.
    by
        What the rows are: ``kind`` or ``layer``.
    """

    cells: pd.DataFrame
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    control: str
    stage: int | None
    seeds: tuple[int, ...]
    gates: float | None
    nonzero: float | None
    thresholds: tuple[float, ...]
    about: str
    by: str = "kind"


def gate_table(curve: Curve, stage: int | None = None, *, seed: int | None = None, control: str = SORA) -> GateTable:
    """Non-zero gates of each layer and kind of module at one stage.

    Parameters
    ----------
    curve
        Of a study.
    stage
        None for the last that all seeds shown have.
    seed
        None for the mean over seeds.
    control
        ``sora``, or the name of a control.

    Raises
    ------
    RankLabError
        If the curve has no such row.
    """
    return gate_table_of_rows(curve.rows, stage, seed=seed, control=control, where=str(curve.file))


def gate_table_of_rows(
    rows: pd.DataFrame,
    stage: int | None = None,
    *,
    seed: int | None = None,
    control: str = SORA,
    where: str = "curve",
) -> GateTable:
    """The same of rows that are not in a study's folder.

    Parameters
    ----------
    rows
        With the columns ``model``, ``task``, ``seed``, ``control``, ``stage``, ``threshold``, ``gates``,
        ``nonzero_gates`` and ``nonzero_by_module`` of :class:`rank_lab.curve.CurveRow`.
    stage, seed, control
        See :func:`gate_table`.
    where
        What an error calls the curve.

    Raises
    ------
    RankLabError
        If there is no such row.
    """
    rows = _rows(rows, seed, control, where)
    done = rows.groupby("stage")["seed"].nunique()
    last = int(done.index[done == done.max()].max()) if stage is None else stage
    own = rows[rows["stage"] == last]
    if own.empty:
        known = ", ".join(map(str, sorted(rows["stage"].unique())))
        raise RankLabError(f"{where}: {control} has no stage {last}; it has {known}.")
    placed, (names, columns) = on_grid(_long(own))
    return GateTable(
        _cells(placed), names, columns, control, last, _seeds(own), float(own["gates"].mean()),
        float(own["nonzero_gates"].mean()), (float(own["threshold"].iloc[0]),), _about(own),
    )  # fmt: skip


def gates_along_stages(curve: Curve, *, by: str = "kind", seed: int | None = None, control: str = SORA) -> GateTable:
    """Non-zero gates a module, of each kind or layer, stage by stage.

    Parameters
    ----------
    curve
        Of a study.
    by
        ``kind`` or ``layer``.
    seed, control
        See :func:`gate_table`.

    Raises
    ------
    RankLabError
        If the curve has no such row.
    """
    if by not in ("kind", "layer"):
        raise RankLabError(f"gates by {by!r}; expected 'kind' or 'layer'.")
    rows = _rows(curve.rows, seed, control, str(curve.file))
    placed, (kinds, layers) = on_grid(_long(rows))
    stages = sorted(int(stage) for stage in rows["stage"].unique())
    cells = placed.assign(
        row=placed["row" if by == "kind" else "column"], column=[str(stage) for stage in placed["stage"]]
    )
    thresholds = rows.groupby("stage")["threshold"].mean()
    return GateTable(
        _cells(cells), kinds if by == "kind" else layers, tuple(map(str, stages)), control, None, _seeds(rows),
        None, None, tuple(float(thresholds[stage]) for stage in stages), _about(rows), by,
    )  # fmt: skip


def _rows(rows: pd.DataFrame, seed: int | None, control: str, where: str) -> pd.DataFrame:
    own = rows[(rows["control"] == control) & ((rows["seed"] == seed) | (seed is None))]
    if own.empty:
        pairs = rows[["control", "seed"]].drop_duplicates().itertuples(index=False)
        known = sorted(f"{name} seed {number}" for name, number in pairs)
        what = f"{control}{'' if seed is None else f' seed {seed}'}"
        raise RankLabError(f"{where}: no row of {what} yet; it has {', '.join(known) if known else 'no stage at all'}.")
    return own


def _long(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a module, seed and stage."""
    found = [
        {"module": str(module), "seed": row["seed"], "stage": row["stage"], "nonzero": int(count)}
        for row in rows.to_dict("records")
        for module, count in row["nonzero_by_module"].items()
    ]
    if not found:
        raise RankLabError("the stages name no adapted module; run the schedule on a model with gates.")
    return pd.DataFrame(found)


def _cells(placed: pd.DataFrame) -> pd.DataFrame:
    cells = []
    for (row, column), own in placed.groupby(["row", "column"], sort=False):
        counts = own["nonzero"]
        about = {"row": row, "column": column, "modules": tuple(str(each) for each in own["module"].unique())}
        cells.append(about | {"value": float(counts.mean()), "low": int(counts.min()), "high": int(counts.max())})
    return pd.DataFrame(cells)


def _seeds(rows: pd.DataFrame) -> tuple[int, ...]:
    return tuple(sorted(int(seed) for seed in rows["seed"].unique()))


def _about(rows: pd.DataFrame) -> str:
    return f"{rows.iloc[0]['model']} on {rows.iloc[0]['task']}"
