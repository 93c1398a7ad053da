"""What each run of a study is: how it was trained and from what, and how much of it was analysed; the worst first."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from rank_lab.rank_summaries import REGIMES
from rank_lab.study import ReportEntry
from rank_lab.warning_groups import warning_groups

__all__ = ["left_out", "run_overview"]

_COLUMNS = [
    "run", "method", "optimizer", "learning_rate", "steps", "matrices", "tensors", "analysed", "failed", "skipped",
    "warnings", *REGIMES, "unmeasured", "base", "tuned", "made",
]  # fmt: skip
_OF_UPDATES = ["run", "step", "delta", "module", "noise_regime", "warning"]  # few of many: rows are chosen faster
_OF_COVERAGE = ["step", "status", "failed"]

_WORST = ("failed", "skipped", "new", "vector", "identical")


def run_overview(entries: Sequence[ReportEntry]) -> pd.DataFrame:
    """A row a run.

    Parameters
    ----------
    entries
        The reports of a study.

    Returns
    -------
    pandas.DataFrame
        ``run``, ``method``, ``optimizer``, ``learning_rate`` (the values there are, as text), ``steps`` (as text),
        ``matrices`` (of the last step), ``tensors`` of the last step and how many of them were ``analysed``,
        ``failed`` (to be mended by the user) and ``skipped`` (the failed among them), ``warnings`` (matrices that have
        one), how many matrices are in each noise regime and in none (``unmeasured``), ``base`` and ``tuned`` (where
        they were read from) and ``made`` (when, in UTC). Runs with failures first, then with skipped tensors, then
        with warnings, else in the order given.
    """
    found = pd.DataFrame([_row(entry) for entry in entries], columns=_COLUMNS)
    return found.sort_values(["failed", "skipped", "warnings"], ascending=False, kind="stable", ignore_index=True)


def left_out(reasons: pd.DataFrame) -> pd.DataFrame:
    """Tensors without ranks at the last step of each run, the worst first: failed, skipped, new, vectors, identical.

    Parameters
    ----------
    reasons
        Of :class:`rank_lab.coverage_overview.CoverageOverview`.

    Examples
    --------
    >>> rows = pd.DataFrame({"run": "lora", "step": [1, 2, 2, 2], "reason": "...", "tensors": 1, "example": "x",
    ...     "status": ["failed", "identical", "skipped", "analysed"]})
    >>> list(left_out(rows)["status"])
    ['skipped', 'identical']
    """
    step = reasons["step"].astype("Int64").fillna(-1)
    last = step == step.groupby(reasons["run"], sort=False).transform("max")
    own = reasons[last & (reasons["status"] != "analysed")]
    return own.sort_values("status", key=lambda status: status.map(_WORST.index), kind="stable", ignore_index=True)


def _row(entry: ReportEntry) -> dict[str, Any]:
    updates, coverage = _last(entry.updates[_OF_UPDATES]), _last(entry.coverage[_OF_COVERAGE])
    cumulative = updates[updates["delta"] == "cumulative"]
    provenance = entry.provenance
    regimes = cumulative["noise_regime"].fillna("").value_counts()
    status = coverage["status"].value_counts()
    base = provenance.get("base")
    return {
        "run": entry.run,
        "method": _texts(entry.updates["method"]),
        "optimizer": _texts(entry.updates["optimizer"]),
        "learning_rate": _texts(entry.updates["learning_rate"]),
        "steps": _steps(entry),
        "matrices": len(cumulative),
        "tensors": len(coverage),
        "analysed": int(status.get("analysed", 0)),
        "failed": int(coverage["failed"].fillna(False).sum()),
        "skipped": int(status.get("skipped", 0)),
        "warnings": int(warning_groups(cumulative)["matrices"].sum()),
        **{regime: int(regimes.get(regime, 0)) for regime in REGIMES},
        "unmeasured": int(regimes.get("", 0)),
        "base": str(base["source"]) if base else "",
        "tuned": str(provenance["tuned"][-1]["source"]),
        "made": str(provenance.get("created_at", "")),
    }


def _last(table: pd.DataFrame) -> pd.DataFrame:
    if not len(table) or table["step"].isna().all():
        return table
    found: pd.DataFrame = table.loc[table["step"] == table["step"].max()]
    return found


def _texts(column: "pd.Series[Any]") -> str:
    values = column.dropna().unique()
    return ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)


def _steps(entry: ReportEntry) -> str:
    steps = sorted({int(step) for step in entry.updates["step"].dropna()})
    if len(steps) > 6:
        return f"{steps[0]} ... {steps[-1]} ({len(steps)})"
    return ", ".join(map(str, steps))
