"""What can be chosen of a study's functional ranks, and what is to be known before any of it is read."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from rank_lab.functional_metrics import FUNCTIONAL_RANKS, SCOPES
from rank_lab.functional_report import FunctionalReport
from rank_lab.functional_summaries import SUMMARY_METRIC
from rank_lab.functional_views import functional_rows, not_comparable
from rank_lab.plain_text import plain
from rank_lab.study import Study

__all__ = ["FunctionalChoices", "functional_choices", "measure_command"]

_MOST = 5


@dataclass(frozen=True, eq=False)
class FunctionalChoices:
    """Of some reports, each run at its last step.

    Parameters
    ----------
    metrics
        The usual one first.
    kinds
        Of each scope that there is, its kinds of place.
    ranks, all_changes
        Rows, for :mod:`rank_lab.functional_views`.
    changes
        The same as a table for readers, without spectra.
    left_out
        Modules that could not be measured, with the reason.
    has_weights
        Whether any module has a weight update.
    warnings
        Sentences: of places, and of runs that were measured on different texts.
    """

    metrics: tuple[str, ...]
    kinds: Mapping[str, tuple[str, ...]]
    ranks: pd.DataFrame
    all_changes: pd.DataFrame
    changes: pd.DataFrame
    left_out: pd.DataFrame
    has_weights: bool
    warnings: tuple[str, ...]


def functional_choices(reports: Mapping[str, FunctionalReport]) -> FunctionalChoices:
    """Look what is there.

    Parameters
    ----------
    reports
        By name; one at least.
    """
    ranks, changes = functional_rows(reports.values())
    kinds = {
        scope: tuple(dict.fromkeys(str(each) for each in ranks[ranks["scope"] == scope]["kind"])) for scope in SCOPES
    }
    coverage = pd.concat([each.coverage for each in reports.values()], ignore_index=True)
    metrics = (SUMMARY_METRIC, *(name for name in FUNCTIONAL_RANKS if name != SUMMARY_METRIC))
    return FunctionalChoices(
        metrics,
        {scope: found for scope, found in kinds.items() if found},
        ranks,
        changes,
        changes.drop(columns="spectrum"),
        coverage[coverage["status"] == "left out"].reset_index(drop=True),
        bool(ranks["weight"].notna().any()),
        (*_not_comparable(reports), *_of_places(changes)),
    )


def measure_command(study: Study) -> str:
    """What measures the first run of a study.

    Parameters
    ----------
    study
        That is open.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> measure_command(Study(mkdtemp(prefix="study-"))).split(" -o ")[0]
    'rank-lab functional TUNED --base BASE --texts probe.jsonl'
    """
    entries = study.reports()
    tuned = str(entries[0].provenance["tuned"][-1]["source"]) if entries else "TUNED"
    bases = {str(entry.provenance["base"]["source"]) for entry in entries if entry.provenance["base"]}
    base = bases.pop() if len(bases) == 1 else "BASE"
    command = ["rank-lab", "functional", tuned, "--base", base, "--texts", "probe.jsonl", "-o", str(study.folder)]
    return plain(shlex.join(command))


def _not_comparable(reports: Mapping[str, FunctionalReport]) -> list[str]:
    return [f"{sentence}." for sentence in not_comparable(each.origin for each in reports.values())]


def _of_places(changes: pd.DataFrame) -> list[str]:
    parts = [part for text in changes["warning"].fillna("") for part in str(text).split("; ") if part]
    counts = pd.Series(parts, dtype="object").value_counts()
    told = [f"{text} ({count} place{'' if count == 1 else 's'})" for text, count in counts.items()]
    return told[:_MOST] + (
        [f"{len(told) - _MOST} more warnings stand in the table below."] if len(told) > _MOST else []
    )
