"""Which papers what is exported rests on: of the methods, quantities, tests and data sets that are in it, no others."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import pandas as pd

from rank_lab.curve import Curve
from rank_lab.metrics import METRICS
from rank_lab.outcomes import Outcomes
from rank_lab.references import DATA_SETS, REFERENCES, TRAINING_METHODS
from rank_lab.report import RankReport
from rank_lab.schema import RANKS

__all__ = ["METRIC_PAPERS", "cited_by", "uncited_methods"]


def _paper(reference: str) -> str | None:
    """Key of the paper that a quantity's reference names, by its identifier, else by first author and year."""
    for key, entry in REFERENCES.items():
        surname = entry.author.split(",")[0]
        by_name = reference.startswith(f"{surname} ") and f"({entry.year})" in reference
        if (entry.arxiv and entry.arxiv in reference) or (entry.doi and entry.doi in reference) or by_name:
            return key
    return None


METRIC_PAPERS: Mapping[str, str] = MappingProxyType(
    {name: key for name, metric in METRICS.items() if (key := _paper(metric.reference)) is not None}
)
"""Quantity to the key of the paper that defines it; textbook quantities have none."""


def cited_by(reports: Sequence[RankReport], outcomes: Outcomes | None, curve: Curve | None) -> list[str]:
    """Keys of :data:`rank_lab.references.REFERENCES` that the tables of a study rest on.

    Parameters
    ----------
    reports, outcomes, curve
        What is exported; none, or None, for what the study does not have.
    """
    found = _of_updates(report.updates for report in reports)
    if outcomes is not None:
        found |= _of_outcomes(outcomes)
    if curve is not None:
        found |= {"ding2023sora"} | _of_tasks(row.task for row in curve.records)
    return [key for key in REFERENCES if key in found]


def uncited_methods(reports: Sequence[RankReport]) -> list[str]:
    """Methods of training for which there is no entry, so that the user knows what to add."""
    return sorted(_methods(reports) - set(TRAINING_METHODS))


def _of_updates(tables: Iterable[pd.DataFrame]) -> set[str]:
    found: set[str] = set()
    for updates in tables:
        has = updates.columns[updates.notna().any()]
        found |= {METRIC_PAPERS[name] for name in has if name in METRIC_PAPERS}
        found |= {TRAINING_METHODS[name] for name in updates["method"].dropna().unique() if name in TRAINING_METHODS}
        tests = {
            "marchenko1967distribution": [f"null_{name}" for name in RANKS],
            "landa2022biwhitening": ["rank_above_rounding"],
            "landa2025dyson": ["rank_above_iid"],
            "benaych2012singular": [name for name in updates.columns if name.endswith("_denoised")],
        }
        found |= {key for key, columns in tests.items() if any(name in has for name in columns)}
    return found


def _of_outcomes(outcomes: Outcomes) -> set[str]:
    rows = outcomes.scores.rows
    found = _of_tasks(row.task for row in rows)
    found |= {TRAINING_METHODS[row.method] for row in rows if row.method in TRAINING_METHODS}
    has = outcomes.checkpoints.columns[outcomes.checkpoints.notna().any()]
    if "forgetting" in has:
        found.add("biderman2024lora")
    if "kl_source" in has or "kl_target" in has:
        found.add("shenfeld2025razor")
    if outcomes.trade_offs.areas["hypervolume"].notna().any():
        found.add("zitzler1998multiobjective")
    if outcomes.associations["correlation"].notna().any():
        found.add("benjamini1995fdr")
    if outcomes.associations["partial"].notna().any():
        found.add("freedman1983nonstochastic")
    return found


def _of_tasks(tasks: Iterable[str]) -> set[str]:
    return {DATA_SETS[task] for task in tasks if task in DATA_SETS}


def _methods(reports: Sequence[RankReport]) -> set[str]:
    return {str(method) for report in reports for method in report.updates["method"].dropna().unique()}
