"""Learning against forgetting over the runs of a study: fronts, groups of seeds, forgetting at equal learning.

A table for each target and each measure of forgetting: none is averaged with
another. What is said of a method is said of its runs at a learning rate, with
an interval over seeds.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from rank_lab.checkpoint_scores import FORGETTING, CheckpointScores
from rank_lab.forgetting import Change
from rank_lab.outcome_columns import typed
from rank_lab.pareto import TradeOff, area_of, forgetting_at, front_of
from rank_lab.run_facts import RunFacts
from rank_lab.uncertainty import student_interval

__all__ = ["ALL_METHODS", "TradeOffTables", "trade_offs"]

ALL_METHODS = "all methods"

_GROUP = ["target", "measure", "method", "setting", "learning_rate"]
_Rows = list[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class TradeOffTables:
    """What the checkpoints of a study say together.

    Parameters
    ----------
    points
        A row a checkpoint, target and measure: learning and forgetting with their intervals, whether it is on the
        front of all checkpoints (``on_front``) and in which share of the resamples (``front_share``).
    areas
        A row a target, measure and method, and one of all: the hypervolume with its interval and reference.
    groups
        A row a target, measure, method, setting, learning rate and step: means over seeds with Student's interval;
        ``best_learning_rate`` by the target alone, with a ``note`` where the rates tried do not enclose it.
    equal_learning
        A row a target, measure, level of learning, method, setting and learning rate: forgetting there, the mean over
        seeds with Student's interval; none outside of what its curves reach.
    """

    points: pd.DataFrame
    areas: pd.DataFrame
    groups: pd.DataFrame
    equal_learning: pd.DataFrame


@dataclass(frozen=True)
class _Member:
    """A checkpoint in one trade-off."""

    run: str
    step: int | None
    facts: RunFacts
    learning: Change
    forgetting: Change

    @property
    def group(self) -> tuple[str, str, float]:
        return (self.facts.method, self.facts.setting, self.facts.learning_rate)


def trade_offs(
    checkpoints: Iterable[CheckpointScores], facts: Mapping[str, RunFacts], *, level: float = 0.95
) -> TradeOffTables:
    """All tables of a study.

    Parameters
    ----------
    checkpoints
        With what they learned and forgot.
    facts
        Run to how it was trained; a run that is not there is a group of its own.
    level
        Nominal coverage of the intervals.
    """
    known = [*checkpoints]
    points: _Rows = []
    areas: _Rows = []
    groups: _Rows = []
    equal: _Rows = []
    for target in dict.fromkeys(name for each in known for name in each.learning):
        for measure in (name for name in FORGETTING if any(name in each.forgetting for each in known)):
            members = [
                _Member(each.run, each.step, _facts(each, facts), each.learning[target], each.forgetting[measure])
                for each in known
                if target in each.learning and measure in each.forgetting
            ]
            key = {"target": target, "measure": measure}
            if members:
                points += _points(key, members, areas, level)
                groups += _groups(key, members, level)
                equal += _equal(key, members, level)
    tables = ((points, _POINTS), (areas, _AREAS), (groups, _GROUPS), (equal, _EQUAL))
    return TradeOffTables(*(typed(pd.DataFrame(rows, columns=columns)) for rows, columns in tables))


_CHANGES = [f"{name}{end}" for name in ("learning", "forgetting") for end in ("", "_low", "_high", "_how", "_reason")]
_POINTS = ["target", "measure", "run", "step", "method", "setting", "learning_rate", "seed", *_CHANGES, "on_front", "front_share", "front_reason"]  # fmt: skip  # noqa: E501
_AREAS = ["target", "measure", "method", "hypervolume", "low", "high", "reference_learning", "reference_forgetting", "reason"]  # fmt: skip  # noqa: E501
_GROUPS = [*_GROUP, "step", "seeds", *(f"{name}{end}" for name in ("learning", "forgetting") for end in ("", "_low", "_high")), "best_learning_rate", "note", "reason"]  # fmt: skip  # noqa: E501
_EQUAL = ["target", "measure", "at_learning", "method", "setting", "learning_rate", "seeds", "forgetting", "low", "high", "reason"]  # fmt: skip  # noqa: E501


def _facts(each: CheckpointScores, facts: Mapping[str, RunFacts]) -> RunFacts:
    found = facts.get(each.run)
    if found is None or not found.method:
        reason = "no report of this run" if found is None else found.reason
        return RunFacts(each.run, each.method, setting=each.run, reason=reason)
    return found


def _points(key: dict[str, Any], members: Sequence[_Member], areas: _Rows, level: float) -> _Rows:
    front = front_of([TradeOff(each.learning, each.forgetting) for each in members], level=level)
    methods = dict.fromkeys(each.facts.method for each in members)
    for method in (ALL_METHODS, *methods):
        own = [TradeOff(e.learning, e.forgetting) for e in members if method in (ALL_METHODS, e.facts.method)]
        area = front.hypervolume if method == ALL_METHODS else area_of(own, front.reference, level=level)
        learned, forgot = front.reference
        areas.append(
            key | {"method": method, "hypervolume": area.value, "low": area.low, "high": area.high}
            | {"reference_learning": learned, "reference_forgetting": forgot, "reason": area.reason}
        )  # fmt: skip
    rows = []
    for index, each in enumerate(members):
        row = key | {"run": each.run, "step": each.step, "method": each.facts.method, "setting": each.facts.setting}
        row |= {"learning_rate": each.facts.learning_rate, "seed": each.facts.seed}
        row |= _change("learning", each.learning) | _change("forgetting", each.forgetting)
        row |= {"on_front": front.on_front[index], "front_share": front.share[index], "front_reason": front.reason}
        rows.append(row)
    return rows


def _change(name: str, change: Change) -> dict[str, Any]:
    ends = {f"{name}_low": change.low, f"{name}_high": change.high}
    return {name: change.value} | ends | {f"{name}_how": change.how, f"{name}_reason": change.reason}


def _groups(key: dict[str, Any], members: Sequence[_Member], level: float) -> _Rows:
    best = _best_rates(members)
    cells: dict[tuple[Any, ...], list[_Member]] = {}
    for each in members:
        cells.setdefault((*_hashable(each.group), each.step), []).append(each)
    rows = []
    for own in cells.values():
        facts = own[0].facts
        reason = _seeds_problem(own)
        row = key | {"method": facts.method, "setting": facts.setting, "learning_rate": facts.learning_rate}
        row |= {"step": own[0].step, "seeds": len(own), "reason": reason}
        for name in ("learning", "forgetting"):
            row |= _over_seeds(name, [getattr(each, name).value for each in own], level, bool(reason))
        rate, note = best.get((facts.method, facts.setting), (math.nan, ""))
        row["best_learning_rate"] = rate == facts.learning_rate
        row["note"] = note if row["best_learning_rate"] else ""
        rows.append(row)
    return rows


def _over_seeds(name: str, values: Sequence[float], level: float, refused: bool) -> dict[str, Any]:
    """Mean and interval; of values that are not all there, neither: the mean of the rest would be of other seeds."""
    if not np.isfinite(values).all():
        return {name: math.nan, f"{name}_low": math.nan, f"{name}_high": math.nan}
    mean, low, high = student_interval(values, level)
    return {name: mean, f"{name}_low": math.nan if refused else low, f"{name}_high": math.nan if refused else high}


def _seeds_problem(members: Sequence[_Member]) -> str:
    seeds = [each.facts.seed for each in members]
    if not all(math.isfinite(change.value) for each in members for change in (each.learning, each.forgetting)):
        return "a run has no value here"
    if len(members) == 1:
        return members[0].facts.reason or "one seed, which says nothing of the spread"
    if None in seeds:
        return "the seeds are not known"
    return "" if len(set(seeds)) == len(seeds) else "a seed is there twice, so that its runs are not independent"


def _best_rates(members: Sequence[_Member]) -> dict[tuple[str, str], tuple[float, str]]:
    """Learning rate with the most learning at the end of its runs, mean over seeds, of each method and setting.

    A rate at which a run has no value, as it diverged, is never the best, but was tried: the best may lie below it.
    """
    last: dict[str, _Member] = {}
    for each in members:
        if each.run not in last or (each.step or 0) >= (last[each.run].step or 0):
            last[each.run] = each
    learned: dict[tuple[str, str], dict[float, list[float]]] = {}
    for each in last.values():
        if math.isfinite(each.facts.learning_rate):
            rates = learned.setdefault((each.facts.method, each.facts.setting), {})
            rates.setdefault(each.facts.learning_rate, []).append(each.learning.value)
    best = {}
    for group, rates in learned.items():
        means = {rate: float(np.mean(values)) for rate, values in rates.items() if np.isfinite(values).all()}
        if means:
            rate = max(means, key=lambda each: means[each])
            best[group] = (rate, _edge(rate, [*rates]))
    return best


def _edge(best: float, rates: Sequence[float]) -> str:
    if len(rates) == 1:
        return "the only rate: none was searched for"
    return "the largest or smallest rate tried: the best may lie beyond" if best in (min(rates), max(rates)) else ""


def _equal(key: dict[str, Any], members: Sequence[_Member], level: float) -> _Rows:
    """At the most that every method reached, and at half of it, with the base at the start of each curve.

    A method that learned nothing sets no level for the others; its rows say that it does not reach theirs.
    """
    curves = _curves(members)
    reached: dict[str, float] = {}
    for own in curves.values():
        for curve in own:
            most = max((e.learning.value for e in curve if math.isfinite(e.learning.value)), default=-math.inf)
            reached[curve[0].facts.method] = max(most, reached.get(curve[0].facts.method, -math.inf))
    learned = [each for each in reached.values() if each > 0]
    if not learned:
        return []
    most = min(learned)
    rows = []
    for at in (most / 2, most):
        for own in curves.values():
            facts = own[0][0].facts
            found = [_at(curve, at) for curve in own]
            reason = _equal_problem(own, found)
            mean, low, high = student_interval([value for value in found if value is not None], level)
            row = key | {"at_learning": at, "method": facts.method, "setting": facts.setting}
            row |= {"learning_rate": facts.learning_rate, "seeds": len(own), "reason": reason}
            whole = None not in found
            row |= {"forgetting": mean if whole else math.nan, "low": math.nan if reason else low}
            rows.append(row | {"high": math.nan if reason else high})
    return rows


def _curves(members: Sequence[_Member]) -> dict[tuple[Any, ...], list[list[_Member]]]:
    runs: dict[str, list[_Member]] = {}
    for each in members:
        runs.setdefault(each.run, []).append(each)
    curves: dict[tuple[Any, ...], list[list[_Member]]] = {}
    for own in runs.values():
        ordered = sorted(own, key=lambda each: -1 if each.step is None else each.step)
        curves.setdefault(_hashable(own[0].group), []).append(ordered)
    return curves


def _at(curve: Sequence[_Member], level: float) -> float | None:
    learned = [0.0, *(each.learning.value for each in curve)]
    return forgetting_at(learned, [0.0, *(each.forgetting.value for each in curve)], level)


def _equal_problem(curves: Sequence[Sequence[_Member]], found: Sequence[float | None]) -> str:
    missing = sum(value is None for value in found)
    if missing:
        return f"{missing} of {len(found)} runs do not reach it"
    seeds = [curve[0].facts.seed for curve in curves]
    if len(seeds) == 1:
        return curves[0][0].facts.reason or "one seed, which says nothing of the spread"
    if None in seeds:
        return "the seeds are not known"
    return "" if len(set(seeds)) == len(seeds) else "a seed is there twice, so that its runs are not independent"


def _hashable(group: tuple[str, str, float]) -> tuple[Any, ...]:
    """NaN is no key: it is not equal to itself."""
    return (*group[:2], None if math.isnan(group[2]) else group[2])
