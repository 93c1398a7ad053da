"""The scores of each checkpoint as what it learned and what it forgot, by every measure that they allow."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rank_lab.errors import DataError
from rank_lab.forgetting import (
    BASE_METHOD,
    FRACTIONS,
    SOURCES,
    Change,
    divergence,
    learning,
    source_forgetting,
)
from rank_lab.score_draws import Resampling, difference_in_kind, plain_metric
from rank_lab.score_origin import LeftOut
from rank_lab.score_row import ScoreKey, ScoreRow
from rank_lab.scores import nearest

__all__ = ["FORGETTING", "MEASURES", "CheckpointScores", "scored_checkpoints", "target_name"]

FORGETTING: Mapping[str, str] = {
    "forgetting": "lost of the mean of the source tasks",
    "forgetting_normalised": "lost of what the base knows of the source tasks beyond chance",
    "cross_entropy_increase": "cross-entropy less that of the base, nats a token on source text",
    "kl_source": "KL(base || tuned) on source text, nats a token",
}
"""Measures of forgetting."""

MEASURES: Mapping[str, str] = {**FORGETTING, "kl_target": "KL(base || tuned) on target text, nats a token"}
"""All measures of how far a model went from its base; on target text that is no forgetting."""

_LOSSES = ("cross_entropy", "pseudo_cross_entropy")
_DIVERGENCES = ("kl_from_base",)
_DIVERSITY = "unique_of_"
_RESTATED = frozenset({"perplexity", "pseudo_perplexity", "bits_per_byte"})
_Key = tuple[str, str]


@dataclass(frozen=True)
class CheckpointScores:
    """One checkpoint.

    Parameters
    ----------
    run, method, step
        Which.
    forgetting
        By measure of :data:`MEASURES`; those that no run has scores for are not there.
    learning
        By target, as :func:`target_name` calls it.
    """

    run: str
    method: str
    step: int | None
    forgetting: Mapping[str, Change] = field(default_factory=dict)
    learning: Mapping[str, Change] = field(default_factory=dict)


def target_name(row: ScoreRow) -> str:
    """A target as tables call it: what was asked, how it was counted, and with how many examples in the prompt.

    Examples
    --------
    >>> target_name(ScoreRow("r", "m", 1, "gsm8k", "exact_match,strict-match", 0.5, few_shot=5))
    'gsm8k exact_match,strict-match 5-shot'
    """
    shots = "" if not row.few_shot else f" {row.few_shot}-shot"
    return f"{row.task} {plain_metric(row.metric)}{shots}"


def scored_checkpoints(
    rows: Iterable[ScoreRow], resampling: Resampling | None = None, *, source_metrics: Mapping[str, str] | None = None
) -> tuple[list[CheckpointScores], list[LeftOut]]:
    """What each checkpoint learned and forgot, and which scores took no part in it.

    Parameters
    ----------
    rows
        Of a study: the base's (method ``base``) and those of its runs. Roles decide.
    resampling
        Of the intervals.
    source_metrics
        Source task to the metric that counts, where it has several; by default that of
        :data:`rank_lab.forgetting.SOURCES`.

    Returns
    -------
    tuple
        A checkpoint for each run and step, in the order of the rows; and the scores that are left out, with reasons.

    Raises
    ------
    DataError
        If a metric that should count is none of its task's.
    """
    resampling, table = resampling or Resampling(), [*rows]
    base = [row for row in table if row.method == BASE_METHOD]
    tuned = [row for row in table if row.method != BASE_METHOD]
    plan = _Sources.of(tuned, source_metrics or {})
    groups: dict[tuple[str, int | None], list[ScoreRow]] = {}
    for row in tuned:
        groups.setdefault((row.run, row.step), []).append(row)
    odd = _odd_ones(tuned)
    found = [
        CheckpointScores(
            run, own[0].method, step, _forgotten(own, base, plan, odd, resampling), _learned(own, base, odd, resampling)
        )
        for (run, step), own in groups.items()
    ]
    return found, [*plan.left_out, *_without_part(tuned)]


@dataclass(frozen=True)
class _Sources:
    """Which scores make up each measure, the same for all checkpoints."""

    fractions: tuple[_Key, ...]
    losses: tuple[_Key, ...]
    divergences: tuple[_Key, ...]
    target_divergences: tuple[_Key, ...]
    problem: str = ""
    left_out: tuple[LeftOut, ...] = ()

    @classmethod
    def of(cls, rows: Sequence[ScoreRow], wanted: Mapping[str, str]) -> "_Sources":
        sources = [row for row in rows if row.role == "source"]
        metrics: dict[str, list[str]] = {}
        for row in sources:
            metric = plain_metric(row.metric)
            if _is_fraction(metric) and metric not in metrics.setdefault(row.task, []):
                metrics[row.task].append(metric)
        chosen, left_out, problem = [], [], ""
        for task, names in metrics.items():
            counts = _chosen(task, names, wanted)
            if counts is None:
                problem = f"{task} has {', '.join(names)}; choose which of them counts"
                continue
            chosen.append((task, counts))
            left_out += [LeftOut(f"{task} {name}", f"{counts} counts as its score") for name in names if name != counts]
        return cls(
            tuple(chosen), _keys(sources, _LOSSES), _keys(sources, _DIVERGENCES),
            _keys([row for row in rows if row.role == "target"], _DIVERGENCES), problem, tuple(left_out),
        )  # fmt: skip


def _chosen(task: str, metrics: Sequence[str], wanted: Mapping[str, str]) -> str | None:
    if task in wanted:
        if wanted[task] not in metrics:
            raise DataError(
                f"source task {task!r} has no metric {wanted[task]!r}. Nearest: {nearest(wanted[task], metrics)}."
            )
        return wanted[task]
    usual = SOURCES.get(task, ("", 0.0))[0]
    if usual in metrics:
        return usual
    return metrics[0] if len(metrics) == 1 else None


def _is_fraction(metric: str) -> bool:
    return metric.split(",", maxsplit=1)[0] in FRACTIONS or metric.startswith("pass@")


def _keys(rows: Sequence[ScoreRow], metrics: Sequence[str]) -> tuple[_Key, ...]:
    return tuple(dict.fromkeys((row.task, plain_metric(row.metric)) for row in rows if row.metric in metrics))


def _odd_ones(rows: Sequence[ScoreRow]) -> dict[ScoreKey, str]:
    """Scores that were measured otherwise than those of the other checkpoints, which they cannot stand beside."""
    groups: dict[tuple[str, ...], list[ScoreRow]] = {}
    for row in rows:
        name = (row.task, plain_metric(row.metric), target_name(row) if row.role == "target" else "", row.role)
        groups.setdefault(name, []).append(row)
    odd = {}
    for own in groups.values():
        usual = Counter(map(_conditions, own)).most_common(1)[0][0]
        reference = next(row for row in own if _conditions(row) == usual)
        for row in own:
            difference = difference_in_kind(row, reference)
            if difference:
                odd[row.key] = f"{row.task} {row.metric}: not as in most other checkpoints: {difference}"
    return odd


def _conditions(row: ScoreRow) -> tuple[object, ...]:
    return (row.few_shot, row.harness, row.harness_version, row.higher_is_better, row.set_sha256, row.n)


def _forgotten(
    rows: Sequence[ScoreRow],
    base: Sequence[ScoreRow],
    plan: _Sources,
    odd: Mapping[ScoreKey, str],
    resampling: Resampling,
) -> dict[str, Change]:
    found: dict[str, Change] = {}
    if plan.fractions or plan.problem:
        scores, reason = _all_of(rows, plan.fractions, odd)
        reason = plan.problem or reason
        for name, normalised in (("forgetting", False), ("forgetting_normalised", True)):
            found[name] = _nothing(reason, plan.fractions) if reason else source_forgetting(
                scores, base, resampling, normalised=normalised
            )  # fmt: skip
    if plan.losses:
        scores, reason = _all_of(rows, plan.losses, odd)
        found["cross_entropy_increase"] = (
            _nothing(reason, plan.losses) if reason else source_forgetting(scores, base, resampling)
        )
    for name, keys in (("kl_source", plan.divergences), ("kl_target", plan.target_divergences)):
        if keys:
            scores, reason = _all_of(rows, keys, odd)
            found[name] = _nothing(reason, keys) if reason else divergence(scores, resampling)
    return found


def _all_of(rows: Sequence[ScoreRow], keys: Sequence[_Key], odd: Mapping[ScoreKey, str]) -> tuple[list[ScoreRow], str]:
    """The scores of all these, or why they are not all there."""
    found = [row for row in rows if (row.task, plain_metric(row.metric)) in keys]
    had = {(row.task, plain_metric(row.metric)) for row in found}
    reasons = [
        f"{task} {metric} was not measured on this checkpoint" for task, metric in keys if (task, metric) not in had
    ]
    reasons += [odd[row.key] for row in found if row.key in odd]
    return found, reasons[0] if reasons else ""


def _nothing(reason: str, keys: Sequence[_Key]) -> Change:
    return Change(math.nan, reason=reason, tasks=tuple(task for task, _ in keys))


def _learned(
    rows: Sequence[ScoreRow], base: Sequence[ScoreRow], odd: Mapping[ScoreKey, str], resampling: Resampling
) -> dict[str, Change]:
    found: dict[str, Change] = {}
    for row in rows:
        if _is_target(row, rows):
            name = target_name(row)
            reason = odd.get(row.key, "")
            if name in found:
                reason = f"{name} is there twice on this checkpoint, with few-shot count and without; keep one"
            found[name] = _nothing(reason, [(row.task, row.metric)]) if reason else learning(row, base, resampling)
    return found


def _is_target(row: ScoreRow, rows: Sequence[ScoreRow]) -> bool:
    beside = row.metric in _DIVERGENCES or row.metric.startswith(_DIVERSITY)
    return row.role == "target" and not beside and not _is_restated(row, rows)


def _is_restated(row: ScoreRow, rows: Sequence[ScoreRow]) -> bool:
    """Whether it is the cross-entropy of the same text in other units."""
    others = {other.metric for other in rows if (other.task, other.run, other.step) == (row.task, row.run, row.step)}
    return row.metric in _RESTATED and not others.isdisjoint(_LOSSES)


def _without_part(rows: Sequence[ScoreRow]) -> list[LeftOut]:
    told: dict[str, str] = {}
    for row in rows:
        name, metric = f"{row.task} {row.metric}", plain_metric(row.metric)
        if not row.role:
            told[name] = "has no role; a source measures forgetting, a target learning"
        elif row.metric in _RESTATED and _is_restated(row, rows):
            told[name] = "is the cross-entropy of the same text in other units"
        elif metric.startswith(_DIVERSITY):
            told[name] = "counts how completions differ, right or wrong, and measures neither learning nor forgetting"
        elif row.role == "source" and not (_is_fraction(metric) or metric in (*_LOSSES, *_DIVERGENCES)):
            told[name] = (
                "is neither a fraction, a cross-entropy nor a divergence, and stands in no measure of forgetting"
            )
    return [LeftOut(name, reason) for name, reason in told.items()]
