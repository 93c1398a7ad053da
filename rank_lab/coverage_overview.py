"""What was analysed of each run and step, and what rounding leaves of it: counts and shares of the change."""

from collections.abc import Hashable
from dataclasses import dataclass

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
    of_matrices = {
        key: rows["change_share"].sum(min_count=1) for key, rows in matrices.groupby(_KEY, sort=False, dropna=False)
    }
    statuses = _counted(tensors, "status", STATUSES, "tensors")
    analysed = statuses["status"] == "analysed"
    statuses.loc[analysed, "change_share"] = [
        _found(of_matrices, run, step) for run, step in statuses.loc[analysed, _KEY].itertuples(index=False)
    ]
    regime = matrices["noise_regime"].fillna(NOT_MEASURED).astype(str)
    regimes = _counted(matrices.assign(noise_regime=regime), "noise_regime", (*REGIMES, NOT_MEASURED), "matrices")
    return CoverageOverview(_places(tensors, matrices), statuses, regimes, _reasons(tensors))


def _found(shares: dict[Hashable, float], run: object, step: object) -> float:
    same = (
        share
        for key, share in shares.items()
        if isinstance(key, tuple) and key[0] == run and (key[1] == step if pd.notna(step) else pd.isna(key[1]))
    )
    return next(same, float("nan"))


def _counted(rows: pd.DataFrame, by: str, order: tuple[str, ...], count: str) -> pd.DataFrame:
    found = []
    for key, group in rows.groupby(_KEY, sort=False, dropna=False):
        run, step = key if isinstance(key, tuple) else (key, None)
        for name in order:
            own = group[group[by] == name]
            if len(own):
                share = own["change_share"].sum(min_count=1)
                found.append(
                    {"run": run, "step": step, by: name, count: len(own), "share": len(own) / len(group)}
                    | {"change_share": share}
                )
    return pd.DataFrame(found, columns=["run", "step", by, count, "share", "change_share"])


def _places(tensors: pd.DataFrame, matrices: pd.DataFrame) -> pd.DataFrame:
    counts = [rows.groupby(_KEY, sort=False, dropna=False).size() for rows in (tensors, matrices)]
    both = pd.concat([tensors[_KEY], matrices[_KEY]]).drop_duplicates()
    found = [
        {"run": run, "step": step}
        | {
            name: int(_found(dict(sizes.items()), run, step)) if _has(sizes, run, step) else 0
            for name, sizes in zip(("tensors", "matrices"), counts, strict=True)
        }
        for run, step in both.itertuples(index=False)
    ]
    return pd.DataFrame(found, columns=["run", "step", "tensors", "matrices"])


def _has(sizes: "pd.Series[int]", run: object, step: object) -> bool:
    return bool(pd.notna(_found(dict(sizes.items()), run, step)))


def _reasons(tensors: pd.DataFrame) -> pd.DataFrame:
    rows = tensors[tensors["reason"].fillna("") != ""]
    by = [*_KEY, "status", "reason"]
    found = rows.groupby(by, sort=False, dropna=False)["tensor"].agg(["size", "first"]).reset_index()
    return found.rename(columns={"size": "tensors", "first": "example"})
