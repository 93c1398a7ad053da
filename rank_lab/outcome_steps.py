"""What runs learned or forgot along their training, as a figure shows it."""

from dataclasses import dataclass

import pandas as pd

from rank_lab.checkpoint_scores import MEASURES
from rank_lab.errors import RankLabError
from rank_lab.outcomes import Outcomes
from rank_lab.scores import nearest

__all__ = ["LEARNING", "OutcomeSteps", "outcome_steps"]

LEARNING = "learning"
"""The quantity that is no measure of forgetting: what was gained on a target."""


@dataclass(frozen=True, eq=False)
class OutcomeSteps:
    """One quantity of every run against its step.

    Parameters
    ----------
    quantity
        :data:`LEARNING`, or one of :data:`rank_lab.checkpoint_scores.MEASURES`.
    target
        Of learning; empty for a measure of forgetting.
    tasks
        That it was measured on.
    points
        A row a checkpoint: ``run``, ``method``, ``step``, ``value``, ``low``, ``high``, ``reason``.
    without_value, without_step
        How many checkpoints have no value, and how many have one but no step; both are left out.
    """

    quantity: str
    target: str
    tasks: str
    points: pd.DataFrame
    without_value: int
    without_step: int


def outcome_steps(found: Outcomes, quantity: str = LEARNING, *, target: str | None = None) -> OutcomeSteps:
    """Choose one quantity.

    Parameters
    ----------
    found
        Of a study.
    quantity
        :data:`LEARNING` or a measure of forgetting.
    target
        Of learning: None for the first.

    Raises
    ------
    RankLabError
        If the study has no such quantity, or no checkpoint with a step has a value of it.
    """
    table, target = (_learning(found, target), target) if quantity == LEARNING else (_measure(found, quantity), "")
    name = str(table["target"].iloc[0]) if quantity == LEARNING else ""
    columns = {quantity: "value", f"{quantity}_low": "low", f"{quantity}_high": "high", f"{quantity}_reason": "reason"}
    points = table[["run", "method", "step", *columns]].rename(columns=columns)
    known = points[points["value"].notna()]
    shown = known[known["step"].notna()].sort_values(["run", "step"], kind="stable")
    if shown.empty:
        reasons = "; ".join(dict.fromkeys(str(reason) for reason in points["reason"].dropna() if reason)) or "no step"
        raise RankLabError(f"{quantity}: no checkpoint has a value and a step ({reasons}).")
    tasks = "; ".join(dict.fromkeys(str(each) for each in table[f"{quantity}_tasks"].dropna() if each))
    return OutcomeSteps(
        quantity, name, tasks, shown.reset_index(drop=True), len(points) - len(known), len(known) - len(shown)
    )


def _learning(found: Outcomes, target: str | None) -> pd.DataFrame:
    if found.learning.empty:
        raise RankLabError("no checkpoint was scored on a target; evaluate a task with the role 'target'.")
    known = [str(each) for each in found.learning["target"].unique()]
    if target is not None and target not in known:
        raise RankLabError(f"no target {target!r} in this study. Nearest: {nearest(target, known)}.")
    return found.learning[found.learning["target"] == (target or known[0])]


def _measure(found: Outcomes, measure: str) -> pd.DataFrame:
    known = [name for name in MEASURES if name in found.checkpoints.columns]
    if measure not in known:
        what = f"it has {', '.join([LEARNING, *known])}" if known else "evaluate a task with the role 'source'"
        raise RankLabError(f"no {measure!r} in this study; {what}.")
    return found.checkpoints
