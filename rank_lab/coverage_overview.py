"""What was analysed of each run and step, and what rounding leaves of it: counts and shares of the change."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from rank_lab.rank_summaries import REGIMES

__all__ = ["NOT_MEASURED", "STATUSES", "CoverageOverview", "coverage_overview"]

STATUSES = ("analysed", "identical", "vector", "new", "skipped", "failed")
"""What became of a tensor; ``failed`` is one that was skipped and that the user should mend."""

NOT_MEASURED = "not measured"
"""In place of a regime, of matrices whose values could not be read."""

_KEY = ["run", "step"]


@dataclass(frozen=True, eq=False)
class CoverageOverview:
    """Counts over runs and steps.

    Parameters
    ----------
    places
        A row a run and step, in the order of the reports: ``run``, ``step``, ``tensors``, ``matrices``.
    statuses
        A row a run, step and status that occurs: ``run``, ``step``, ``status``, ``tensors``, ``share`` (of the
        tensors) and ``change_share``: of the squared change of the whole model, missing where nobody can tell.
    regimes
        A row a run, step and regime that occurs: ``run``, ``step``, ``noise_regime``, ``matrices``, ``share`` (of the
        matrices) and ``change_share``. Of the change since the base.
    reasons
        A row a run, step, status and reason: ``tensors``, and ``example``, the first of them. Tensors that were
        analysed have none.
    """

    places: pd.DataFrame
    statuses: pd.DataFrame
    regimes: pd.DataFrame
    reasons: pd.DataFrame


def coverage_overview(updates: pd.DataFrame, coverage: pd.DataFrame) -> CoverageOverview:
    """What was analysed, and what rounding leaves of it.

    Parameters
    ----------
    updates, coverage
        Rows of one or more reports.

    Notes
    -----
    The share of the change of what was analysed is that of its matrices: a matrix may lie in several tensors, and
    several matrices in one.
    """
    matrices = updates[updates["delta"] == "cumulative"]
    status = coverage["status"].where(~coverage["failed"].fillna(False).astype(bool), "failed").astype(str)
    tensors = coverage.assign(status=status)
    statuses = _counted(tensors, "status", STATUSES, "tensors")
    of_matrices = _by_place(matrices.groupby(_KEY, sort=False, dropna=False)["change_share"].sum(min_count=1))
    statuses["change_share"] = [
        of_matrices.get(_place(run, step), float("nan")) if status == "analysed" else share
        for run, step, status, share in statuses[[*_KEY, "status", "change_share"]].itertuples(index=False)
    ]
    regime = matrices["noise_regime"].fillna(NOT_MEASURED).astype(str)
    regimes = _counted(matrices.assign(noise_regime=regime), "noise_regime", (*REGIMES, NOT_MEASURED), "matrices")
    return CoverageOverview(_places(tensors, matrices), statuses, regimes, _reasons(tensors))


def _place(run: Any, step: Any) -> tuple[str, int | None]:
    """What identifies a run and step: a step that is missing is equal to itself."""
    return str(run), None if pd.isna(step) else int(step)


def _by_place(groups: "pd.Series[Any]") -> dict[tuple[str, int | None], Any]:
    return {_place(*key): value for key, value in groups.items() if isinstance(key, tuple)}


def _counted(rows: pd.DataFrame, by: str, order: tuple[str, ...], count: str) -> pd.DataFrame:
    own = rows[[*_KEY, by, "change_share"]].assign(
        place=rows.groupby(_KEY, sort=False, dropna=False).ngroup(),
        order=rows[by].map({name: number for number, name in enumerate(order)}),
    )
    groups = own.groupby(["place", "order"])
    found: pd.DataFrame = groups[[*_KEY, by]].first()
    found[count] = groups.size()
    found["share"] = found[count] / own.groupby("place").size().reindex(found.index, level="place")
    found["change_share"] = groups["change_share"].sum(min_count=1)
    return found.reset_index(drop=True)


def _places(tensors: pd.DataFrame, matrices: pd.DataFrame) -> pd.DataFrame:
    sizes = [_by_place(rows.groupby(_KEY, sort=False, dropna=False).size()) for rows in (tensors, matrices)]
    both = pd.concat([tensors[_KEY], matrices[_KEY]]).drop_duplicates()
    counts = [[size.get(_place(run, step), 0) for run, step in both.itertuples(index=False)] for size in sizes]
    return both.assign(tensors=counts[0], matrices=counts[1]).reset_index(drop=True)


def _reasons(tensors: pd.DataFrame) -> pd.DataFrame:
    rows = tensors[tensors["reason"].fillna("") != ""]
    by = [*_KEY, "status", "reason"]
    found = rows.groupby(by, sort=False, dropna=False)["tensor"].agg(["size", "first"]).reset_index()
    return found.rename(columns={"size": "tensors", "first": "example"})
