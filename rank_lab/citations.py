"""Which papers what is exported rests on: of the methods, quantities, tests and data sets that are in it, no others."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import pandas as pd

from rank_lab.checkpoint_scores import MEASURES
from rank_lab.errors import RankLabError
from rank_lab.metrics import METRICS
from rank_lab.outcomes import Outcomes
from rank_lab.references import DATA_SETS, REFERENCES, TRAINING_METHODS
from rank_lab.report import RankReport
from rank_lab.schema import RANKS
from rank_lab.shown_values import SHOWN
from rank_lab.study_parts import StudyParts
from rank_lab.subspace_report import SubspaceReport

__all__ = ["FIGURE_PAPERS", "METRIC_PAPERS", "cited_by", "cited_by_figures", "uncited_methods"]


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


_SUBSPACE_PAPERS = MappingProxyType(
    {
        "angles": "bjorck1973angles",
        "phi": "hu2022lora",
        "amplification": "hu2022lora",
        "intruders": "shuttleworth2024illusion",
    }
)

FIGURE_PAPERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        **{name: (METRIC_PAPERS[name],) if name in METRIC_PAPERS else () for name in SHOWN},
        **dict.fromkeys(MEASURES, ()),
        "forgetting": ("biderman2024lora",),
        "kl_source": ("shenfeld2025razor",),
        "kl_target": ("shenfeld2025razor",),
        "learning": (),
        "hypervolume": ("zitzler1998multiobjective",),
        "spearman": (),
        "benjamini_hochberg": ("benjamini1995fdr",),
        "memorization": ("ding2023sora",),
        "generalization": ("ding2023sora",),
        "nonzero_gates": ("ding2023sora",),
        "kept_energy": (),
        "behavioural_rank": ("eckart1936approximation",),
        "eckart_young": ("eckart1936approximation",),
        "principal_angles": (_SUBSPACE_PAPERS["angles"],),
        "phi": (_SUBSPACE_PAPERS["phi"],),
        "amplification": (_SUBSPACE_PAPERS["amplification"],),
        "linear_share": (),
        "intruder_dimensions": (_SUBSPACE_PAPERS["intruders"],),
    }
)
"""Name in :attr:`rank_lab.figures.Figure.metrics` to the keys of its papers; what is textbook has none."""


def cited_by_figures(metrics: Iterable[str]) -> list[str]:
    """Keys of :data:`rank_lab.references.REFERENCES` that figures rest on.

    Parameters
    ----------
    metrics
        Of one or more figures.

    Raises
    ------
    RankLabError
        If a name is not known: a paper that is left out in silence is not missed by anybody.

    Examples
    --------
    >>> cited_by_figures(["phi", "stable_rank", "spearman"])
    ['hu2022lora', 'rudelson2007sampling']
    """
    names = set(metrics)
    unknown = sorted(names - set(FIGURE_PAPERS))
    if unknown:
        raise RankLabError(f"figure of {unknown[0]!r}: its papers are not in rank_lab.citations.FIGURE_PAPERS; add it.")
    found = {key for name in names for key in FIGURE_PAPERS[name]}
    return [key for key in REFERENCES if key in found]


def cited_by(parts: StudyParts) -> list[str]:
    """Keys of :data:`rank_lab.references.REFERENCES` that the tables of a study rest on.

    Parameters
    ----------
    parts
        What is exported.
    """
    found = _of_updates(report.updates for report in parts.reports)
    if parts.outcomes is not None:
        found |= _of_outcomes(parts.outcomes)
    if parts.curve is not None:
        found |= {"ding2023sora"} | _of_tasks(row.task for row in parts.curve.records)
    for comparison in parts.subspaces.values():
        found |= _of_subspaces(comparison)
    for measured in parts.functional.values():
        found |= _of_updates([measured.ranks[["method"]]]) | {
            METRIC_PAPERS[name] for name in measured.ranks["metric"].dropna().unique() if name in METRIC_PAPERS
        }
    if parts.behavioural:
        found |= set(cited_by_figures(["behavioural_rank", "effective_rank"]))
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


def _of_subspaces(report: SubspaceReport) -> set[str]:
    methods = {str(report.provenance[role].get("method")) for role in ("first", "second")}
    found = {TRAINING_METHODS[method] for method in methods if method in TRAINING_METHODS}
    return found | {key for table, key in _SUBSPACE_PAPERS.items() if len(getattr(report, table))}


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
