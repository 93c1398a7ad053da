"""What a behavioural report comes to: ranks in weight space of the whole update, one curve per way of cutting it."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from rank_lab.behavioural_report import BehaviouralReport

__all__ = ["CURVE_COLUMNS", "WEIGHT_RANKS", "WeightRank", "curve_of", "weight_ranks"]

WEIGHT_RANKS = ("energy_rank_90", "effective_rank", "rank_above_rounding")
"""Quantities of the spectrum that stand beside a behavioural rank."""

CURVE_COLUMNS = ("k", "directions", "energy", "value", "change", "share", "share_low", "share_high", "reason")
"""Of :func:`curve_of`, beside the ends of the change."""


@dataclass(frozen=True)
class WeightRank:
    """A rank of the spectrum, the mean over matrices by their share of the change.

    Parameters
    ----------
    name
        One of :data:`WEIGHT_RANKS`.
    value
        NaN where no matrix has it.
    null
        What noise of those shapes has; NaN where there is none.
    matrices
        How many it is of, and of how many that were truncated.
    resolved
        Whether rounding explains so little of every one of these updates that no test against it was needed.
    """

    name: str
    value: float
    null: float
    matrices: tuple[int, int]
    resolved: bool = False


def weight_ranks(report: BehaviouralReport) -> tuple[WeightRank, ...]:
    """Ranks in weight space of the same update.

    Parameters
    ----------
    report
        Any.
    """
    rows = report.matrices[report.matrices["status"] == "truncated"]
    resolved = bool(rows["noise_regime"].isin(["exact", "resolved"]).all())
    found = []
    for name in WEIGHT_RANKS:
        null = f"null_{name}"
        known = rows[rows[name].notna()]
        weights = known["change_share"]
        total = float(weights.sum()) if len(known) else float("nan")
        value = float((known[name] * weights).sum()) / total if total else float("nan")
        noise = float((known[null] * weights).sum()) / total if total and null in rows else float("nan")
        found.append(WeightRank(name, value, noise, (len(known), len(rows)), resolved))
    return tuple(found)


def curve_of(report: BehaviouralReport, how: str, role: str, task: str) -> pd.DataFrame:
    """Points of one way of cutting and one task, by rank: with the vectors that the report's rank is of.

    Parameters
    ----------
    report
        Any.
    how
        One of :data:`rank_lab.truncated_update.TRUNCATIONS`.
    role, task
        ``target`` or ``source``, and its name; empty for the mean of several.
    """
    points = report.points
    own = points[(points["how"] == how) & (points["role"] == role) & (points["task"] == task)]
    return own[own["vectors"] == _kept(report)].sort_values("k", kind="stable").reset_index(drop=True)


def _kept(report: BehaviouralReport) -> bool:
    statuses: set[Any] = set(report.matrices["status"])
    return "vector left out" not in statuses
