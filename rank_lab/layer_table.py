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
        ``matrices``, ``known`` (how many of them have a value), ``modules`` (their names), ``value``, ``low``,
        ``high``, ``null``, ``bound``, ``state``, ``noise_regime``. A cell of several experts shows the median of those
        that have a value, and has no interval.
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
    cells = _cells(labelled.reset_index(drop=True))
    step = places.iloc[0]["step"]
    return LayerTable(
        str(places.iloc[0]["run"]), None if pd.isna(step) else int(step), delta, metric, over, cells,
        rows, columns,
    )  # fmt: skip


def _cells(labelled: pd.DataFrame) -> pd.DataFrame:
    """Cells of one matrix at once, as most are; those of several by themselves."""
    sizes = labelled.groupby(["row", "column"])["row"].transform("size")
    alone = labelled[sizes == 1]
    found = alone[["row", "column"]].assign(
        matrices=1, known=alone["value"].notna().astype("int64"), modules=alone["module"].map(_alone),
        noise_regime=alone["noise_regime"].astype(object).fillna(""),
    )  # fmt: skip
    found = found.join(alone[[*_NUMBERS, "state"]])
    shared = [(group.index[0], _cell(key, group)) for key, group in labelled[sizes > 1].groupby(["row", "column"])]
    if shared:
        several = pd.DataFrame([cell for _, cell in shared], index=[place for place, _ in shared])
        found = pd.concat([found, several]) if len(found) else several
    return found.sort_index().reset_index(drop=True)


def _alone(module: object) -> tuple[str, ...]:
    return (str(module),)


def _cell(key: Hashable, group: pd.DataFrame) -> dict[str, object]:
    row, column = key if isinstance(key, tuple) else (key, "")
    about = {"row": row, "column": column, "matrices": len(group), "known": int(group["value"].notna().sum())}
    about["modules"] = tuple(map(str, group["module"]))
    regimes = group["noise_regime"].dropna().unique()
    about["noise_regime"] = "" if not len(regimes) else str(regimes[0]) if len(regimes) == 1 else "mixed"
    middle = {name: group[name].median() for name in ("value", "null", "bound")}
    states = group["state"]
    state = "value" if (states == "value").any() else str(states.iloc[0])
    return about | middle | {"low": float("nan"), "high": float("nan"), "state": state}
