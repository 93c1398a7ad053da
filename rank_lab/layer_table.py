"""The matrices of one run and step as a map: layers across, kinds of module down."""

from collections.abc import Hashable
from dataclasses import dataclass

import pandas as pd

from rank_lab.errors import RankLabError
from rank_lab.module_grid import NO_LAYER, on_grid
from rank_lab.shown_values import Over, shown_values

__all__ = ["NO_LAYER", "LayerTable", "layer_table"]

_NUMBERS = ["value", "low", "high", "null", "bound"]


@dataclass(frozen=True, eq=False)
class LayerTable:
    """One quantity over layers and kinds.

    Parameters
    ----------
    run, step, delta
        Of which report's rows.
    metric, over
        See :func:`rank_lab.shown_values.shown_values`.
    cells
        A row a cell: ``row`` (kind, with stack or name where a layer has several), ``column`` (layer, as text),
        ``matrices``, ``modules`` (their names), ``value``, ``low``, ``high``, ``null``, ``bound``, ``state``,
        ``noise_regime``. A cell of several experts shows their median, and has no interval.
    rows, columns
        In the order in which they are shown.
    """

    run: str
    step: int | None
    delta: str
    metric: str
    over: Over
    cells: pd.DataFrame
    rows: tuple[str, ...]
    columns: tuple[str, ...]


def layer_table(updates: pd.DataFrame, metric: str, *, over: Over = "", delta: str = "cumulative") -> LayerTable:
    """The map of one run and step.

    Parameters
    ----------
    updates
        Rows of one run and one step.
    metric, over
        See :func:`rank_lab.shown_values.shown_values`.
    delta
        ``cumulative`` or ``step``.

    Raises
    ------
    RankLabError
        If there are no such rows, or they are of several runs or steps.
    """
    own = updates[updates["delta"] == delta]
    if own.empty:
        raise RankLabError(f"no matrices with delta {delta!r}; a report of one checkpoint has 'cumulative' alone.")
    places = own[["run", "step"]].drop_duplicates()
    if len(places) > 1:
        raise RankLabError(f"a map shows one run and step; these rows are of {len(places)}: choose one.")
    values = shown_values(own, metric, over)
    about = own[["module", "kind", "layer", "stack", "expert", "noise_regime"]]
    labelled, (rows, columns) = on_grid(pd.concat([about, values], axis=1))
    cells = pd.DataFrame(
        [_cell(key, group) for key, group in labelled.groupby(["row", "column"], sort=False)],
    )
    step = places.iloc[0]["step"]
    return LayerTable(
        str(places.iloc[0]["run"]), None if pd.isna(step) else int(step), delta, metric, over, cells,
        rows, columns,
    )  # fmt: skip


def _cell(key: Hashable, group: pd.DataFrame) -> dict[str, object]:
    row, column = key if isinstance(key, tuple) else (key, "")
    about = {"row": row, "column": column, "matrices": len(group), "modules": tuple(map(str, group["module"]))}
    regimes = group["noise_regime"].dropna().unique()
    about["noise_regime"] = "" if not len(regimes) else str(regimes[0]) if len(regimes) == 1 else "mixed"
    if len(group) == 1:
        return about | {name: group[name].iloc[0] for name in (*_NUMBERS, "state")}
    middle = {name: group[name].median() for name in ("value", "null", "bound")}
    states = group["state"]
    state = "value" if (states == "value").any() else str(states.iloc[0])
    return about | middle | {"low": float("nan"), "high": float("nan"), "state": state}
