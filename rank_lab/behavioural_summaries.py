"""What a behavioural report comes to: ranks in words, beside those of the spectrum, one curve per way of cutting it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from rank_lab.behavioural_report import BehaviouralReport

__all__ = [
    "CURVE_COLUMNS",
    "WEIGHT_RANKS",
    "EnergyRank",
    "WeightRank",
    "beside_energy_rank",
    "curve_of",
    "rank_words",
    "text_sets_in_words",
    "weight_ranks",
]

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


@dataclass(frozen=True)
class EnergyRank:
    """The least number of directions of each matrix that hold 90 % of the squared norm, beside the behavioural rank.

    Parameters
    ----------
    value
        k90 of all updates together.
    ratio
        Behavioural rank over it: below 1 where what was learned needs fewer directions than the norm does. NaN where
        there is no behavioural rank.
    kept
        What so many leading directions keep of what was learned, ``share``, ``share_low`` and ``share_high``; None
        where that rank was not tried.
    """

    value: int
    ratio: float
    kept: dict[str, float] | None


def beside_energy_rank(report: BehaviouralReport, task: str) -> EnergyRank:
    """How the behavioural rank of a target compares with the rank of the squared norm.

    Parameters
    ----------
    report
        Any.
    task
        Name of the target; empty for the mean of several.
    """
    row = report.ranks[report.ranks["task"] == task].to_dict("records")[0]
    value, rank = int(row["energy_rank_90"]), row["rank"]
    curve = curve_of(report, "leading", "target", task)
    at = curve.loc[curve["k"] == value, ["share", "share_low", "share_high"]].to_dict("records")
    kept = {str(name): float(number) for name, number in at[0].items()} if at and pd.notna(at[0]["share"]) else None
    return EnergyRank(value, float("nan") if pd.isna(rank) or value == 0 else float(rank) / value, kept)


def rank_words(row: dict[Any, Any], name: str = "rank") -> str:
    """A rank with its interval; one between two that were tried says so.

    Examples
    --------
    >>> rank_words({"rank": 5, "rank_low": 4, "rank_high": 6, "tried_below": 4})
    '5 (4 to 6)'
    >>> rank_words({"random_rank": 16, "random_tried_below": 12}, "random_rank")
    '13 to 16'
    >>> rank_words({"rank": None})
    'none'
    """
    value = row[name]
    if value is None or pd.isna(value):
        return "none"
    below = row.get("tried_below" if name == "rank" else f"{name.removesuffix('_rank')}_tried_below")
    told = f"{value}" if below is None or pd.isna(below) or below >= value - 1 else f"{below + 1} to {value}"
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return told if low is None or high is None or pd.isna(low) or pd.isna(high) else f"{told} ({low} to {high})"


def text_sets_in_words(reports: Mapping[str, BehaviouralReport]) -> str:
    """Names, short hashes and sizes of the texts that reports are of: names alone do not tell them apart.

    Parameters
    ----------
    reports
        By name; one at least.
    """
    runs: dict[str, list[str]] = {}
    for name, report in reports.items():
        sets = [
            f"{each['name']} (sha256 {str(each['sha256'])[:8]}, {each.get('texts', '?')} texts)"
            for each in report.provenance["texts"]
        ]
        runs.setdefault(", ".join(sets), []).append(name)
    if len(runs) == 1:
        return f"Texts: {next(iter(runs))}"
    return "Texts " + "; ".join(f"of {', '.join(own)}: {told}" for told, own in runs.items())


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
