"""Which matrices' and kinds' rank goes with forgetting, from reports and the scores of their checkpoints."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from rank_lab.checkpoint_scores import FORGETTING, CheckpointScores
from rank_lab.errors import RankLabError
from rank_lab.outcome_columns import typed
from rank_lab.rank_forgetting import Association, Correlation, Sampling, associations
from rank_lab.rank_summaries import SUMMARY_RANKS
from rank_lab.scores import nearest
from rank_lab.told_ranks import told

__all__ = ["ASSOCIATION_COLUMNS", "rank_associations"]

ASSOCIATION_COLUMNS = (
    "target", "measure", "methods", "rank", "level", "item", "runs",
    "correlation", "low", "high", "p", "p_bh", "p_holm", "reason",
    "partial", "partial_low", "partial_high", "partial_p", "partial_p_bh", "partial_p_holm", "partial_reason",
)  # fmt: skip
"""Columns of the table; ``level`` is ``module``, ``kind`` or ``model``."""

_ALL = "all methods"
_Place = tuple[str, int | None]


def rank_associations(
    updates: pd.DataFrame,
    checkpoints: Iterable[CheckpointScores],
    *,
    rank: str = "energy_rank_90",
    sampling: Sampling | None = None,
) -> pd.DataFrame:
    """Rank correlations with forgetting over runs, plain and given what was learned.

    Each run enters once, with its last checkpoint that has ranks and scores;
    its checkpoints are no independent runs. Runs of all methods stand together,
    and those of each method by themselves: between methods rank differs by
    construction. Modules are corrected over all modules, kinds over all kinds.

    Parameters
    ----------
    updates
        Of the study's reports.
    checkpoints
        With what they learned and forgot.
    rank
        One of :data:`rank_lab.rank_summaries.SUMMARY_RANKS`, as far as it can be told.
    sampling
        Of p values and intervals.

    Returns
    -------
    pandas.DataFrame
        Columns of :data:`ASSOCIATION_COLUMNS`; a row without a correlation says why.

    Raises
    ------
    RankLabError
        If the rank is none of these.
    """
    if rank not in SUMMARY_RANKS:
        raise RankLabError(f"rank {rank!r} is not known here. Nearest: {nearest(rank, SUMMARY_RANKS)}.")
    tables = _ranks(updates, rank)
    known = [each for each in checkpoints if (each.run, each.step) in tables["model"]]
    rows: list[dict[str, Any]] = []
    for target in dict.fromkeys(name for each in known for name in each.learning):
        for measure in (name for name in FORGETTING if any(name in each.forgetting for each in known)):
            last = _last(each for each in known if target in each.learning and measure in each.forgetting)
            for methods, own in _by_method(last).items():
                key = {"target": target, "measure": measure, "methods": methods, "rank": rank}
                rows += _rows(key, own, tables, target, measure, sampling)
    return typed(pd.DataFrame(rows, columns=list(ASSOCIATION_COLUMNS)))


def _ranks(updates: pd.DataFrame, rank: str) -> dict[str, dict[_Place, dict[str, float]]]:
    """By level and checkpoint, the rank of each item: of a module, or the weighted mean of a kind or of all."""
    rows = updates[updates["delta"] == "cumulative"]
    values, weights = told(rows, rank).to_numpy(np.float64), rows["change_share"].to_numpy(np.float64)
    tables: dict[str, dict[_Place, dict[str, float]]] = {"module": {}, "kind": {}, "model": {}}
    sums: dict[tuple[str, _Place, str], list[float]] = {}
    names = rows[["run", "step", "module", "kind"]].to_dict(orient="records")
    for row, value, weight in zip(names, values, weights, strict=True):
        place = (str(row["run"]), None if pd.isna(row["step"]) else int(row["step"]))
        for table in tables.values():
            table.setdefault(place, {})
        if np.isfinite(value):
            tables["module"][place][str(row["module"])] = float(value)
            for level, item in (("kind", str(row["kind"])), ("model", "all")):
                total = sums.setdefault((level, place, item), [0.0, 0.0])
                total[0] += value * weight if weight > 0 else 0.0
                total[1] += max(weight, 0.0) if np.isfinite(weight) else 0.0
    for (level, place, item), (total_value, total_weight) in sums.items():
        if total_weight > 0:
            tables[level][place][item] = total_value / total_weight
    return tables


def _last(checkpoints: Iterable[CheckpointScores]) -> list[CheckpointScores]:
    last: dict[str, CheckpointScores] = {}
    for each in checkpoints:
        if each.run not in last or (each.step or 0) >= (last[each.run].step or 0):
            last[each.run] = each
    return [*last.values()]


def _by_method(runs: list[CheckpointScores]) -> dict[str, list[CheckpointScores]]:
    methods = list(dict.fromkeys(each.method for each in runs))
    alone = {method: [each for each in runs if each.method == method] for method in methods}
    return {_ALL: runs} | (alone if len(methods) > 1 else {})


def _rows(
    key: dict[str, Any],
    runs: list[CheckpointScores],
    tables: dict[str, dict[_Place, dict[str, float]]],
    target: str,
    measure: str,
    sampling: Sampling | None,
) -> list[dict[str, Any]]:
    forgot = np.array([each.forgetting[measure].value for each in runs])
    learned = np.array([each.learning[target].value for each in runs])
    found = []
    for level, table in tables.items():
        own = [table[each.run, each.step] for each in runs]
        names = dict.fromkeys(name for values in own for name in values)
        items = {name: np.array([values.get(name, np.nan) for values in own]) for name in names}
        found += [
            key | {"level": level} | _row(each) for each in associations(items, forgot, learned, sampling=sampling)
        ]
    return found


def _row(each: Association) -> dict[str, Any]:
    plain, partial = each.correlation, each.partial
    row = {"item": each.item, "runs": plain.runs, "correlation": plain.value, **_ends(plain, "")}
    row |= {"p_bh": each.p_bh, "p_holm": each.p_holm}
    if partial is not None:
        row |= {"partial": partial.value, **_ends(partial, "partial_")}
        row |= {"partial_p_bh": each.partial_p_bh, "partial_p_holm": each.partial_p_holm}
    return row


def _ends(found: Correlation, prefix: str) -> dict[str, Any]:
    return {f"{prefix}{name}": getattr(found, name) for name in ("low", "high", "p", "reason")}
