"""The matrices of one run and step as a map: layers across, kinds of module down."""

from dataclasses import dataclass

import numpy as np
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
    cells = _cells(labelled)
    step = places.iloc[0]["step"]
    return LayerTable(
        str(places.iloc[0]["run"]), None if pd.isna(step) else int(step), delta, metric, over, cells,
        rows, columns,
    )  # fmt: skip


def _cells(labelled: pd.DataFrame) -> pd.DataFrame:
    """A row a place, in the order of their first matrices; one of several matrices has their medians."""
    groups = labelled.assign(told=labelled["state"] == "value").groupby(["row", "column"], sort=False)
    counts = groups.size()
    middle, first = groups[_NUMBERS].median(), groups["state"].first()
    regimes, regime = groups["noise_regime"].nunique(), groups["noise_regime"].first()
    modules: dict[tuple[str, str], list[str]] = {}
    for row, column, module in zip(labelled["row"], labelled["column"], labelled["module"], strict=True):
        modules.setdefault((row, column), []).append(str(module))
    return pd.DataFrame(
        {
            "matrices": counts,
            "known": groups["value"].count(),
            "modules": [tuple(names) for names in modules.values()],
            "noise_regime": np.select([regimes == 0, regimes == 1], ["", regime.astype(object)], "mixed"),
            **{name: middle[name].where((counts == 1) | (name not in ("low", "high"))) for name in _NUMBERS},
            "state": first.where(~groups["told"].any(), "value"),
        }
    ).reset_index()
