"""One table of ranks, learning and forgetting: a row for each run and checkpoint of a study, joined by run and step."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from rank_lab.checkpoint_scores import MEASURES, CheckpointScores, scored_checkpoints
from rank_lab.forgetting import Change
from rank_lab.outcome_columns import typed
from rank_lab.rank_associations import rank_associations
from rank_lab.rank_forgetting import Sampling
from rank_lab.rank_summaries import rank_summaries
from rank_lab.report import RankReport
from rank_lab.run_facts import RunFacts, run_facts
from rank_lab.schema import UPDATES
from rank_lab.score_draws import Resampling
from rank_lab.score_origin import LeftOut
from rank_lab.score_table import ScoreTable
from rank_lab.trade_offs import TradeOffTables, trade_offs

__all__ = ["OutcomeChoices", "Outcomes", "outcomes"]

_FACTS = ("method", "optimizer", "learning_rate", "seed", "trainable_parameters", "parameters", "setting")
_Place = tuple[str, int | None]


@dataclass(frozen=True)
class OutcomeChoices:
    """What may be chosen of the tables.

    Parameters
    ----------
    rank
        The rank that is correlated with forgetting.
    source_metrics
        Source task to the metric that counts, where it has several.
    resampling, sampling
        Of the intervals of scores, and of correlations.
    """

    rank: str = "energy_rank_90"
    source_metrics: Mapping[str, str] | None = None
    resampling: Resampling = field(default_factory=Resampling)
    sampling: Sampling = field(default_factory=Sampling)


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What the runs of a study learned and forgot, beside their ranks.

    Parameters
    ----------
    checkpoints
        A row for each run and step that has ranks or scores: how it was trained, rank summaries of the whole model (see
        :func:`rank_lab.rank_summaries.rank_summaries`), every measure of forgetting with its interval, and ``reason``
        where ranks or scores are not there.
    kinds
        The same summaries of each kind of module.
    learning
        A row for each run, step and target.
    trade_offs
        Fronts, groups of seeds and forgetting at equal learning.
    associations
        Which matrices' rank goes with forgetting.
    left_out
        Scores that are in none of these, with the reason.
    scores
        What all of it was made from.
    """

    checkpoints: pd.DataFrame
    kinds: pd.DataFrame
    learning: pd.DataFrame
    trade_offs: TradeOffTables
    associations: pd.DataFrame
    left_out: pd.DataFrame
    scores: ScoreTable


def outcomes(reports: Sequence[RankReport], scores: ScoreTable, choices: OutcomeChoices | None = None) -> Outcomes:
    """Join reports and scores by run and step.

    Parameters
    ----------
    reports
        Of a study; none are needed for what concerns scores alone.
    scores
        Of the same study; roles decide what is learning and what forgetting.
    choices
        See there.

    Raises
    ------
    SchemaError
        If a run and step are in two reports.
    RankLabError
        If the rank is not known.
    """
    choices = choices or OutcomeChoices()
    facts = run_facts([report.provenance for report in reports])
    updates = pd.concat([report.updates for report in reports]) if reports else _no_updates()
    scored, left_out = scored_checkpoints(scores.rows, choices.resampling, source_metrics=choices.source_metrics)
    scored = [_with_method(each, facts) for each in scored]
    level = choices.resampling.level
    return Outcomes(
        _checkpoints(updates, scored, facts),
        typed(rank_summaries(updates, ("run", "step", "kind"))),
        _learning(scored),
        trade_offs(scored, facts, level=level),
        rank_associations(updates, scored, rank=choices.rank, sampling=choices.sampling),
        _left_out(left_out),
        scores,
    )


def _with_method(each: CheckpointScores, facts: Mapping[str, RunFacts]) -> CheckpointScores:
    """The record of the training knows the method best."""
    known = facts.get(each.run)
    method = known.method if known is not None and known.method else each.method
    return CheckpointScores(each.run, method, each.step, each.forgetting, each.learning)


def _checkpoints(
    updates: pd.DataFrame, scored: Iterable[CheckpointScores], facts: Mapping[str, RunFacts]
) -> pd.DataFrame:
    summaries = rank_summaries(updates)
    names = [str(name) for name in summaries.columns if name not in ("run", "step")]
    ranks = {_place(row): {name: row[name] for name in names} for row in summaries.to_dict(orient="records")}
    scores: dict[_Place, CheckpointScores] = {(each.run, each.step): each for each in scored}
    measures = [name for name in MEASURES if any(name in each.forgetting for each in scores.values())]
    methods = dict(zip(updates["run"], updates["method"], strict=True))
    rows = []
    for place in sorted({*ranks, *scores}, key=lambda place: (place[0], -1 if place[1] is None else place[1])):
        about = facts.get(place[0], RunFacts(place[0]))
        row: dict[str, Any] = {"run": place[0], "step": place[1]} | {name: getattr(about, name) for name in _FACTS}
        row["method"] = scores[place].method if place in scores else about.method or methods.get(place[0], "")
        row |= ranks.get(place, dict.fromkeys(names))
        for name in measures:
            row |= _columns_of(name, scores[place].forgetting.get(name) if place in scores else None)
        rows.append(row | {"reason": _reason(place, ranks, scores, about, place[0] in facts)})
    of_measures = [column for name in measures for column in _columns_of(name, None)]
    return typed(pd.DataFrame(rows, columns=["run", "step", *_FACTS, *names, *of_measures, "reason"]))


def _columns_of(name: str, change: Change | None) -> dict[str, Any]:
    """A change as columns of a table; None is one that was not measured."""
    change = change or Change(math.nan, reason="not measured")
    ends = {f"{name}_low": change.low, f"{name}_high": change.high}
    about = {f"{name}_how": change.how, f"{name}_reason": change.reason, f"{name}_tasks": ", ".join(change.tasks)}
    return {name: change.value} | ends | about


def _reason(
    place: _Place, ranks: Mapping[_Place, Any], scores: Mapping[_Place, Any], about: RunFacts, reported: bool
) -> str:
    found = []
    unranked = (
        "its report holds no update of a weight, and why in its coverage" if reported else "no report of this run"
    )
    for what, known, nowhere in (("ranks", ranks, unranked), ("scores", scores, "none of this run")):
        if place not in known:
            steps = sorted(other for name, other in known if name == place[0] and other is not None)
            listed = ", ".join(map(str, steps[:5])) + (" ..." if steps[5:] else "")
            found.append(f"no {what}: {f'they are of steps {listed}' if steps else nowhere}")
    return "; ".join([*found, *([about.reason] if about.reason else [])])


def _learning(scored: Iterable[CheckpointScores]) -> pd.DataFrame:
    rows = [
        {"run": each.run, "step": each.step, "method": each.method, "target": target} | _columns_of("learning", change)
        for each in scored
        for target, change in each.learning.items()
    ]
    columns = ["run", "step", "method", "target", *_columns_of("learning", None)]
    return typed(pd.DataFrame(rows, columns=columns))


def _left_out(found: Iterable[LeftOut]) -> pd.DataFrame:
    rows = [{"score": each.name, "reason": each.reason} for each in found]
    return typed(pd.DataFrame(rows, columns=["score", "reason"]))


def _place(row: Mapping[Any, Any]) -> _Place:
    return (str(row["run"]), None if pd.isna(row["step"]) else int(row["step"]))


def _no_updates() -> pd.DataFrame:
    empty: pd.DataFrame = UPDATES.empty_table().to_pandas()
    return empty
