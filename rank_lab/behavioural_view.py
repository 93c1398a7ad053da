"""One behavioural rank as a figure shows it: a curve for each way of cutting, the rank, and k90 beside it."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from rank_lab.behavioural_report import BehaviouralReport
from rank_lab.behavioural_summaries import EnergyRank, beside_energy_rank, curve_of
from rank_lab.errors import SchemaError
from rank_lab.scores import nearest

__all__ = ["CURVES", "BehaviouralView", "behavioural_targets", "behavioural_view"]

CURVES = ("learned", "forgotten", "random", "shrunk", "tail")
"""What was learned, and what was forgotten, that the leading directions keep; and, of what was learned, what random
directions, the whole update shrunk to their norm, and all other directions keep."""

_WAYS = {"learned": "leading", "random": "random", "shrunk": "shrunk", "tail": "tail"}


@dataclass(frozen=True, eq=False)
class BehaviouralView:
    """What is drawn of a report and one target.

    Parameters
    ----------
    run, step
        Which; the step is None where it is not known.
    task, source
        Name of the target, and of what forgetting is of; empty for the mean of several.
    points
        ``curve`` (of :data:`CURVES`), ``k``, ``energy``, ``share``, ``share_low``, ``share_high``, ``reason``.
    rank
        The row of the report's table ``ranks``.
    texts
        How many the target has, and the source; 0 for none.
    vectors
        ``kept``, ``left out`` or empty where none changed.
    energy
        k90 beside the rank.
    hashes
        Short SHA-256 of the target's texts, and of the source's; empty for none.
    """

    run: str
    step: int | None
    task: str
    source: str
    points: pd.DataFrame
    rank: dict[str, Any]
    texts: tuple[int, int]
    vectors: str
    energy: EnergyRank
    hashes: tuple[str, str]


def behavioural_targets(report: BehaviouralReport) -> list[str]:
    """Names of the targets of a report; an empty one stands for the mean of several."""
    return [str(name) for name in report.ranks["task"]]


def behavioural_view(report: BehaviouralReport, task: str) -> BehaviouralView:
    """Curves of one target.

    Parameters
    ----------
    report
        Any.
    task
        One of :func:`behavioural_targets`.

    Raises
    ------
    SchemaError
        If the report has no such target.
    """
    known = behavioural_targets(report)
    if task not in known:
        raise SchemaError(f"no target {task!r} in this report. Nearest: {nearest(task, known)}.")
    row: dict[Any, Any] = report.ranks[report.ranks["task"] == task].to_dict("records")[0]
    sources = [str(name) for name in report.points.loc[report.points["role"] == "source", "task"].unique()]
    source = "" if "" in sources else next(iter(sources), "")
    parts = [curve_of(report, way, "target", task).assign(curve=name) for name, way in _WAYS.items()]
    parts.insert(1, curve_of(report, "leading", "source", source).assign(curve="forgotten"))
    columns = ["curve", "k", "energy", "share", "share_low", "share_high", "reason"]
    points = pd.concat([part[columns] for part in parts if len(part)], ignore_index=True)
    step = report.provenance["settings"].get("step")
    statuses = set(report.matrices["status"])
    vectors = next((name for name in ("kept", "left out") if f"vector {name}" in statuses), "")
    counts = (_texts(report, "target", task), _texts(report, "source", source) if sources else 0)
    hashes = (_hash(report, "target", task), _hash(report, "source", source) if sources else "")
    return BehaviouralView(
        report.run, step, task, source, points, row, counts, vectors, beside_energy_rank(report, task), hashes
    )  # fmt: skip


def _hash(report: BehaviouralReport, role: str, task: str) -> str:
    own = [each for each in report.provenance["texts"] if each["role"] == role and task in ("", each["name"])]
    return ", ".join(str(each["sha256"])[:8] for each in own)


def _texts(report: BehaviouralReport, role: str, task: str) -> int:
    rows = report.scores[(report.scores["how"] == "tuned") & (report.scores["role"] == role)]
    own = rows if task == "" else rows[rows["task"] == task]
    return int(own["n"].sum())
