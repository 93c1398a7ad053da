"""What of a comparison of subspaces can be chosen to be looked at, and the command that makes one."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from rank_lab.plain_text import plain
from rank_lab.study import Study
from rank_lab.subspace_report import SubspaceReport
from rank_lab.subspace_summaries import STATED_EPSILON, similarity

__all__ = ["SubspaceChoices", "compare_command", "subspace_choices"]

_FIRST = ["status", "reason", "module"]
_ORDER = ("unread", "refused", "only", "zero", "compared")


@dataclass(frozen=True, eq=False)
class SubspaceChoices:
    """What a comparison holds.

    Parameters
    ----------
    modules
        That were compared, in the order of the tables.
    sides
        Of the similarity: ``left``, ``right`` and, of two adapters, ``A``.
    updates
        What an update is called to its rows of ``amplification`` and ``intruders``; empty without a base.
    intruder_ks, epsilons, ranks
        Of these tables; thresholds with that of other tables first, ``intruder_ks`` and ``ranks`` with the most first.
    summary
        A row a module and side: similarity of as many directions as are resolved in both, and the smallest angle.
    told
        Rows of the coverage that have a reason, what failed first.
    counts
        How many modules of each status.
    """

    modules: tuple[str, ...]
    sides: tuple[str, ...]
    updates: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]]
    intruder_ks: tuple[int, ...]
    epsilons: tuple[float, ...]
    ranks: tuple[int, ...]
    summary: pd.DataFrame
    told: pd.DataFrame
    counts: Mapping[str, int]


def subspace_choices(report: SubspaceReport) -> SubspaceChoices:
    """Look what is there.

    Parameters
    ----------
    report
        Any, also one without a compared module.
    """
    coverage = report.coverage
    counts = coverage["status"].value_counts()
    told = coverage[(coverage["reason"].fillna("") != "") | coverage["failed"].fillna(value=False)]
    place = told["status"].map(lambda status: _ORDER.index(status) if status in _ORDER else -1)
    ordered = told.assign(place=place).sort_values(["place", "module"], kind="stable")
    epsilons = sorted(_values(report.intruders, "epsilon"), key=lambda each: (abs(each - STATED_EPSILON), each))
    return SubspaceChoices(
        tuple(str(each) for each in report.phi["module"].unique()),
        tuple(str(each) for each in report.phi["side"].unique()),
        _updates(report),
        tuple(sorted((int(each) for each in _values(report.intruders, "k")), reverse=True)),
        tuple(epsilons),
        tuple(sorted((int(each) for each in _values(report.amplification, "r")), reverse=True)),
        similarity(report),
        ordered[[*_FIRST, *(name for name in coverage.columns if name not in _FIRST)]].reset_index(drop=True),
        {status: int(counts[status]) for status in reversed(_ORDER) if status in counts},
    )


def compare_command(study: Study) -> str:
    """A comparison of the first two runs of a study, of which the reports name files and base.

    Parameters
    ----------
    study
        That is open.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> compare_command(Study(mkdtemp(prefix="study-"))).split(" -o ")[0]
    'rank-lab subspace FIRST SECOND --base BASE'
    """
    entries = study.reports()
    known = [str(entry.provenance["tuned"][-1]["source"]) for entry in entries][:2]
    runs = [*known, "FIRST", "SECOND"][:2] if len(known) != 1 else [known[0], "SECOND"]
    bases = {str(entry.provenance["base"]["source"]) for entry in entries if entry.provenance["base"]}
    base = bases.pop() if len(bases) == 1 else "BASE"
    return plain(shlex.join(["rank-lab", "subspace", *runs, "--base", base, "-o", str(study.folder)]))


def _updates(report: SubspaceReport) -> dict[str, tuple[pd.DataFrame, pd.DataFrame]]:
    tables = (report.amplification, report.intruders)
    keys = pd.concat([table[["run", "step"]] for table in tables]).drop_duplicates()
    found = {}
    for run, step in keys.itertuples(index=False):
        name = str(run) if pd.isna(step) else f"{run}, step {step}"
        found[name] = (_of(report.amplification, run, step), _of(report.intruders, run, step))
    return found


def _of(table: pd.DataFrame, run: Any, step: Any) -> pd.DataFrame:
    same = table["step"].isna() if pd.isna(step) else table["step"] == step
    found: pd.DataFrame = table[(table["run"] == run) & same.fillna(value=False)]
    return found


def _values(table: pd.DataFrame, column: str) -> list[float]:
    return [float(each) for each in table[column].dropna().unique()]
