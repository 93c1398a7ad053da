"""Rank beside forgetting, as figures show it: a point a checkpoint, and a correlation a matrix or kind."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import pandas as pd

from rank_lab.checkpoint_scores import FORGETTING
from rank_lab.errors import RankLabError
from rank_lab.outcomes import Outcomes
from rank_lab.rank_summaries import SUMMARY_RANKS
from rank_lab.scores import nearest

__all__ = ["LEVELS", "AssociationPoints", "Level", "RankPoints", "association_points", "rank_points"]

Level: TypeAlias = Literal["kind", "module"]
LEVELS: tuple[Level, ...] = ("kind", "module")
"""What a correlation may be of."""

_ALL = "all methods"


@dataclass(frozen=True, eq=False)
class RankPoints:
    """The rank of whole models beside what they forgot.

    Parameters
    ----------
    rank, measure
        Which; the rank is the mean over matrices by their share of the change.
    over_null
        Whether ranks are divided by their null.
    points
        A row a checkpoint: ``run``, ``method``, ``step``, ``rank``, ``null``, ``matrices`` (how many have this rank),
        ``forgetting`` with ends, ``last`` (of its run: what correlations are of).
    correlations
        Of the whole model's rank: ``target``, ``methods``, ``runs``, ``correlation``, ``low``, ``high``, ``p``,
        ``reason``; empty where the study has none of this rank.
    without_value
        How many checkpoints have no rank or no forgetting and are left out.
    """

    rank: str
    measure: str
    over_null: bool
    points: pd.DataFrame
    correlations: pd.DataFrame
    without_value: int


@dataclass(frozen=True, eq=False)
class AssociationPoints:
    """Rank correlations with forgetting, item by item.

    Parameters
    ----------
    target, measure, methods, rank, level
        Which.
    given_learning
        Whether they are partial ones, given what was learned.
    points
        A row an item that has a correlation, largest first: ``item``, ``correlation``, ``low``, ``high``, ``p_bh``,
        ``p_holm``, ``runs``.
    refused
        Reason to how many items have no correlation for it.
    """

    target: str
    measure: str
    methods: str
    rank: str
    level: Level
    given_learning: bool
    points: pd.DataFrame
    refused: dict[str, int]


def rank_points(
    found: Outcomes, rank: str = "energy_rank_90", measure: str | None = None, *, over_null: bool = False
) -> RankPoints:
    """Choose a rank and a measure of forgetting.

    Parameters
    ----------
    found
        Of a study.
    rank
        One of :data:`rank_lab.rank_summaries.SUMMARY_RANKS`.
    measure
        None for the first that the study has.
    over_null
        Divide by what white noise (of factors: random factors) would show.

    Raises
    ------
    RankLabError
        If the study has no such rank or measure, or no checkpoint has both.
    """
    if rank not in SUMMARY_RANKS:
        raise RankLabError(f"rank {rank!r} is not known here. Nearest: {nearest(rank, SUMMARY_RANKS)}.")
    table = found.checkpoints
    measure = _measure(table, measure)
    points = pd.DataFrame({name: table[name] for name in ("run", "method", "step")})
    points["rank"], points["null"] = table[rank], table[f"null_{rank}"]
    points["matrices"] = table[f"{rank}_matrices"]
    if over_null:
        divisor = points["null"].where(points["null"] > 0)
        points["rank"], points["null"] = points["rank"] / divisor, points["null"] / divisor
    for end in ("", "_low", "_high"):
        points[f"forgetting{end}"] = table[f"{measure}{end}"]
    known = points[points["rank"].notna() & points["forgetting"].notna()].copy()
    if known.empty:
        reasons = "; ".join(dict.fromkeys(str(each) for each in table["reason"].dropna() if each))
        raise RankLabError(
            f"no checkpoint has both a rank and {measure}{f' ({reasons})' if reasons else ''}; analyze and evaluate the"
            " same steps of the same runs."
        )
    known["step_order"] = known["step"].fillna(-1)
    known["last"] = known["step_order"] == known.groupby("run")["step_order"].transform("max")
    return RankPoints(
        rank, measure, over_null, known.drop(columns="step_order").reset_index(drop=True),
        _correlations(found.associations, rank, measure), len(points) - len(known),
    )  # fmt: skip


def association_points(
    found: Outcomes,
    measure: str | None = None,
    *,
    target: str | None = None,
    methods: str = _ALL,
    level: Level = "kind",
    given_learning: bool = False,
) -> AssociationPoints:
    """Choose the correlations of kinds or of matrices.

    Parameters
    ----------
    found
        Of a study.
    measure, target
        None for the first.
    methods
        ``all methods``, or one method's name.
    level
        One of :data:`LEVELS`.
    given_learning
        The partial ones, given what was learned on the target.

    Raises
    ------
    RankLabError
        If there are none, with the reason why correlations are refused.
    """
    table = found.associations
    if level not in LEVELS:
        raise RankLabError(f"correlations of {level!r}; expected one of {', '.join(LEVELS)}.")
    if table.empty:
        raise RankLabError("no checkpoint has ranks, learning and forgetting; analyze and evaluate the same steps.")
    chosen = {}
    for name, wanted in (("target", target), ("measure", measure), ("methods", methods)):
        known = [str(each) for each in table[name].unique()]
        chosen[name] = known[0] if wanted is None else wanted
        if chosen[name] not in known:
            raise RankLabError(f"no {name} {chosen[name]!r} here. Nearest: {nearest(chosen[name], known)}.")
        table = table[table[name] == chosen[name]]
    own = table[table["level"] == level]
    start = "partial" if given_learning else "correlation"
    prefix = "partial_" if given_learning else ""
    columns = {f"{prefix}{name}": name for name in ("low", "high", "p_bh", "p_holm", "reason")}
    own = own[["item", "runs", start, *columns]].rename(columns={start: "correlation"} | columns)
    known_rows = own[own["correlation"].notna()]
    refused = own.loc[own["correlation"].isna(), "reason"].value_counts()
    reasons = {str(reason): int(count) for reason, count in refused.items()}
    if known_rows.empty:
        why = "; ".join(reasons) or f"no {level} has a rank that can be told"
        raise RankLabError(f"no correlation of rank and {chosen['measure']} by {level}: {why}.")
    points = known_rows.sort_values("correlation", ascending=False, kind="stable").drop(columns="reason")
    return AssociationPoints(
        chosen["target"], chosen["measure"], chosen["methods"], str(table["rank"].iloc[0]), level, given_learning,
        points.reset_index(drop=True), reasons,
    )  # fmt: skip


def _measure(table: pd.DataFrame, wanted: str | None) -> str:
    known = [name for name in FORGETTING if name in table.columns]
    if not known:
        raise RankLabError("no measure of forgetting in this study; evaluate a task with the role 'source'.")
    if wanted is not None and wanted not in known:
        raise RankLabError(f"no measure {wanted!r} in this study; it has {', '.join(known)}.")
    return wanted or known[0]


def _correlations(table: pd.DataFrame, rank: str, measure: str) -> pd.DataFrame:
    own = table[(table["level"] == "model") & (table["rank"] == rank) & (table["measure"] == measure)]
    columns = ["target", "methods", "runs", "correlation", "low", "high", "p", "reason"]
    return own.drop_duplicates("methods")[columns].reset_index(drop=True)
