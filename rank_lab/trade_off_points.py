"""One trade-off of a study as a figure shows it: a target and a measure of forgetting, by checkpoint or over seeds."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import pandas as pd

from rank_lab.background import Background
from rank_lab.errors import RankLabError
from rank_lab.scores import nearest
from rank_lab.trade_offs import TradeOffTables

__all__ = ["TRADE_OFFS_OF", "TradeOffOf", "TradeOffPoints", "trade_off_points"]

TradeOffOf: TypeAlias = Literal["checkpoints", "seeds"]
TRADE_OFFS_OF: tuple[TradeOffOf, ...] = ("checkpoints", "seeds")
"""What a point is: a checkpoint of a run, or the mean over the seeds of a group of runs at a step."""

_ENDS = [f"{name}{end}" for name in ("learning", "forgetting") for end in ("", "_low", "_high")]


@dataclass(frozen=True, eq=False)
class TradeOffPoints:
    """Learning and forgetting, ready to be drawn.

    Parameters
    ----------
    target, measure, of
        Which.
    points
        A row a point: ``curve`` (a run, or a group of seeds), ``method``, ``setting``, ``learning_rate``, ``step``,
        ``learning`` and ``forgetting`` with ends, ``seeds``, ``reason`` (why it has no interval), and of checkpoints
        ``seed``, ``on_front`` and ``front_share``. Along each curve in the order of steps.
    areas
        Hypervolumes of this target and measure.
    equal_learning
        Forgetting at equal learning, of this target and measure.
    without_value
        How many points have no learning or no forgetting and are left out.
    background
        Published points of this target and measure, where there are any.
    """

    target: str
    measure: str
    of: TradeOffOf
    points: pd.DataFrame
    areas: pd.DataFrame
    equal_learning: pd.DataFrame
    without_value: int
    background: Background | None = None


def trade_off_points(
    tables: TradeOffTables,
    target: str | None = None,
    measure: str | None = None,
    *,
    of: TradeOffOf = "checkpoints",
    background: Background | None = None,
) -> TradeOffPoints:
    """Choose one trade-off.

    Parameters
    ----------
    tables
        Of a study's outcomes.
    target, measure
        None for the only or first one.
    of
        One of :data:`TRADE_OFFS_OF`.
    background
        Published points, see :func:`rank_lab.background.trade_off_background`.

    Raises
    ------
    RankLabError
        If there is no such trade-off, none of its points has both values, or the background is of another.
    """
    if of not in TRADE_OFFS_OF:
        raise RankLabError(f"a trade-off of {of!r}; expected one of {', '.join(TRADE_OFFS_OF)}.")
    if tables.points.empty:
        raise RankLabError(
            "no run has both learning and forgetting; evaluate a target and a source task on the base and on a run."
        )
    target = _chosen(tables.points["target"], "target", target)
    measure = _chosen(tables.points.loc[tables.points["target"] == target, "measure"], "measure", measure)
    behind = None if background is None else background.behind(target, measure)
    own = {
        name: _of(getattr(tables, name), target, measure) for name in ("points", "groups", "areas", "equal_learning")
    }
    points = _checkpoints(own["points"]) if of == "checkpoints" else _groups(own["groups"])
    known = points[points["learning"].notna() & points["forgetting"].notna()]
    if known.empty:
        reasons = "; ".join(dict.fromkeys(str(reason) for reason in points["reason"] if reason)) or "no value"
        raise RankLabError(f"{target}, {measure}: no point has learning and forgetting ({reasons}).")
    return TradeOffPoints(
        target, measure, of, known.reset_index(drop=True), own["areas"], own["equal_learning"],
        len(points) - len(known), behind,
    )  # fmt: skip


def _of(table: pd.DataFrame, target: str, measure: str) -> pd.DataFrame:
    return table[(table["target"] == target) & (table["measure"] == measure)]


def _chosen(column: "pd.Series[str]", what: str, wanted: str | None) -> str:
    known = [str(each) for each in column.unique()]
    if wanted is None:
        return known[0]
    if wanted not in known:
        raise RankLabError(f"no {what} {wanted!r} in this study. Nearest: {nearest(wanted, known)}.")
    return wanted


def _checkpoints(points: pd.DataFrame) -> pd.DataFrame:
    reasons = [
        "; ".join(dict.fromkeys(str(each) for each in pair if pd.notna(each) and each))
        for pair in zip(points["learning_reason"], points["forgetting_reason"], strict=True)
    ]
    columns = ["method", "setting", "learning_rate", "seed", "step", *_ENDS, "on_front", "front_share"]
    found = points[columns].assign(curve=points["run"], seeds=1, reason=reasons)
    return found.sort_values(["curve", "step"], kind="stable", na_position="first")


def _groups(groups: pd.DataFrame) -> pd.DataFrame:
    columns = ["method", "setting", "learning_rate", "step", *_ENDS, "seeds", "reason"]
    found = groups[columns].assign(curve=[_name(row) for row in groups.to_dict("records")])
    return found.sort_values(["curve", "step"], kind="stable", na_position="first")


def _name(row: dict[object, object]) -> str:
    rate = row["learning_rate"]
    parts = [str(row["method"]), str(row["setting"]) if pd.notna(row["setting"]) else ""]  # type: ignore[call-overload]
    return ", ".join([*filter(None, parts), *([] if pd.isna(rate) else [f"lr {rate:.3g}"])])  # type: ignore[call-overload]
