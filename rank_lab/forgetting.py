"""What a model learned and what it forgot: scores against those of the model that it was made from.

All functions are of rows of scores. Forgetting is what was lost, learning what
was gained: both are larger for more of it, whichever way the metric points.
Whatever cannot be compared has no value, and says why.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from rank_lab.score_draws import (
    Resampling,
    are_paired,
    difference_in_kind,
    plain_metric,
    score_draws,
    standard_error,
    weights_of,
)
from rank_lab.score_row import ScoreRow
from rank_lab.uncertainty import percentile_interval

__all__ = [
    "BASE_METHOD",
    "FRACTIONS",
    "PAIRED",
    "SOURCES",
    "UNPAIRED",
    "Change",
    "base_of",
    "divergence",
    "learning",
    "score_loss",
    "source_forgetting",
]

Values = npt.NDArray[np.float64]

BASE_METHOD = "base"
"""What rows of the untuned model have as their method."""

SOURCES: Mapping[str, tuple[str, float]] = {
    "hellaswag": ("acc_norm", 0.25),
    "arc_challenge": ("acc_norm", 0.25),
    "winogrande": ("acc", 0.5),
}
"""Tasks of the source average of Biderman et al. (2024), arXiv:2405.09673, with the metric in which each is usually
given and the score of a guess."""

FRACTIONS = frozenset({"acc", "acc_norm", "acc_bytes", "accuracy", "exact_match", "f1", "token_accuracy"})
"""Metrics in [0, 1] that may stand together in one average; pass@k is another."""

PAIRED, UNPAIRED = "paired", "unpaired"
"""How an interval was made: by a bootstrap over examples that both models were scored on, or from the standard errors
of both, as if they were independent, which makes it wider."""


@dataclass(frozen=True)
class Change:
    """A difference between a tuned model and its base.

    Parameters
    ----------
    value
        NaN where there is none.
    low, high
        Ends of its interval; None where none can be given.
    how
        :data:`PAIRED`, :data:`UNPAIRED`, or empty where there is no interval.
    reason
        Why there is no value or no interval; empty where there are both.
    tasks
        What it was measured on.
    draws
        The value in each resample, shape (resamples,); None where there are none. Resamples of the same set are the
        same for all models.
    """

    value: float
    low: float | None = None
    high: float | None = None
    how: str = ""
    reason: str = ""
    tasks: tuple[str, ...] = ()
    draws: Values | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class _Part:
    """What one task says."""

    value: float
    error: float | None
    draws: Values | None
    paired: bool


def base_of(row: ScoreRow, base: Sequence[ScoreRow]) -> tuple[ScoreRow | None, str]:
    """The base's score that a score is to be compared with, or why there is none.

    Parameters
    ----------
    row
        Of a tuned model.
    base
        All scores of the base.

    Examples
    --------
    >>> tuned = ScoreRow("r", "lora", 9, "arc_challenge", "acc_norm", 0.4, few_shot=25)
    >>> base_of(tuned, [ScoreRow("base", "base", 0, "arc_challenge", "acc_norm", 0.5, few_shot=0)])[1]
    'arc_challenge acc_norm: tuned model and base differ: 25 and 0 solved examples in the prompt'
    >>> base_of(tuned, [])[1]
    'arc_challenge acc_norm: the base has no such score; evaluate the untuned model (method base, step 0)'
    """
    name = f"{row.task} {row.metric}"
    same = [other for other in base if (other.task, plain_metric(other.metric)) == (row.task, plain_metric(row.metric))]
    fitting = [other for other in same if not difference_in_kind(row, other)]
    if len(fitting) == 1:
        return fitting[0], ""
    if fitting:
        runs = ", ".join(sorted({other.run for other in fitting}))
        return (
            None,
            f"{name}: the base has {len(fitting)} such scores ({runs}); keep the one that the model was made from",
        )
    if same:
        return None, f"{name}: tuned model and base differ: {difference_in_kind(row, same[0])}"
    return None, f"{name}: the base has no such score; evaluate the untuned model (method base, step 0)"


def score_loss(row: ScoreRow, base: Sequence[ScoreRow], resampling: Resampling | None = None) -> Change:
    r"""What a model lost of one score against its base: :math:`s_0 - s`, or :math:`s - s_0` where smaller is better.

    Of a cross-entropy on source text this is its increase, in the same units.

    Parameters
    ----------
    row
        Of the tuned model.
    base
        All scores of the base.
    resampling
        Of the interval.

    Examples
    --------
    >>> tuned = ScoreRow("r", "lora", 9, "wiki", "cross_entropy", 3.5, 0.03, higher_is_better=False)
    >>> base = ScoreRow("base", "base", 0, "wiki", "cross_entropy", 3.0, 0.04, higher_is_better=False)
    >>> change = score_loss(tuned, [base])
    >>> change.value, round(change.low, 3), round(change.high, 3), change.how
    (0.5, 0.402, 0.598, 'unpaired')
    """
    return source_forgetting([row], base, resampling)


def learning(row: ScoreRow, base: Sequence[ScoreRow], resampling: Resampling | None = None) -> Change:
    """What a model gained of a target score over its base: the loss with the other sign.

    Parameters
    ----------
    row
        Of the tuned model.
    base
        All scores of the base.
    resampling
        Of the interval.
    """
    lost = score_loss(row, base, resampling)
    low, high = (None, None) if lost.low is None or lost.high is None else (-lost.high, -lost.low)
    draws = None if lost.draws is None else -lost.draws
    return Change(0.0 - lost.value, low, high, lost.how, lost.reason, lost.tasks, draws)


def source_forgetting(
    rows: Sequence[ScoreRow],
    base: Sequence[ScoreRow],
    resampling: Resampling | None = None,
    *,
    normalised: bool = False,
) -> Change:
    r"""What a model lost of the mean of its source scores, :math:`\frac 1 k \sum_t (s_{0t} - s_t)`.

    Parameters
    ----------
    rows
        One score a task, of one model.
    base
        All scores of the base.
    resampling
        Of the interval.
    normalised
        Lost of what the base knows beyond chance, :math:`1 - \frac 1 k \sum_t (s_t - c_t) / (s_{0t} - c_t)`: 0 for
        nothing, 1 for all of it. Chance is the row's, else that of :data:`SOURCES`.

    Returns
    -------
    Change
        Without a value where there are no rows, a task is there twice, or any of them cannot be compared: a mean over
        the rest would be of something else.

    References
    ----------
    .. [1] Biderman et al. (2024), LoRA Learns Less and Forgets Less, arXiv:2405.09673, section 3.3.

    Examples
    --------
    >>> base = [ScoreRow("base", "base", 0, "winogrande", "acc", 0.75)]
    >>> tuned = [ScoreRow("r", "full", 9, "winogrande", "acc", 0.625)]
    >>> source_forgetting(tuned, base).value, source_forgetting(tuned, base, normalised=True).value
    (0.125, 0.5)
    """
    resampling = resampling or Resampling()
    tasks = tuple(row.task for row in rows)
    found = [base_of(row, base) for row in rows]
    reasons = [reason for _, reason in found if reason] or _unfit(rows, tasks)
    if reasons:
        return Change(math.nan, reason=reasons[0], tasks=tasks)
    pairs = [(row, other) for row, (other, _) in zip(rows, found, strict=True) if other is not None]
    if not normalised:
        return _combined([_lost(row, other, resampling) for row, other in pairs], tasks, resampling)
    chances = [_chance(row, other) for row, other in pairs]
    for (row, other), chance in zip(pairs, chances, strict=True):
        reason = _no_share(row, other, chance)
        if reason:
            return Change(math.nan, reason=reason, tasks=tasks)
    parts = [_share_lost(*pair, chance or 0.0, resampling) for pair, chance in zip(pairs, chances, strict=True)]
    return _combined(parts, tasks, resampling)


def divergence(rows: Sequence[ScoreRow], resampling: Resampling | None = None) -> Change:
    r"""Forgetting as :math:`\mathrm{KL}(\mathrm{base} \,\|\, \mathrm{tuned})`, which holds its comparison in itself.

    Parameters
    ----------
    rows
        The divergence on each of some texts, of one model, with the scores of its examples or a standard error where
        they are known.
    resampling
        Of the interval.

    Returns
    -------
    Change
        The mean over the texts; without a value where there are none.

    References
    ----------
    .. [1] Shenfeld et al. (2025), RL's Razor, arXiv:2509.04259.

    Examples
    --------
    >>> divergence([ScoreRow("r", "full", 9, "wiki", "kl_from_base", 0.25, higher_is_better=False)]).value
    0.25
    """
    resampling, tasks = resampling or Resampling(), tuple(row.task for row in rows)
    reasons = _unfit(rows, tasks)
    if reasons:
        return Change(math.nan, reason=reasons[0], tasks=tasks)
    parts = [_Part(row.value, standard_error(row), score_draws(row, resampling), are_paired(row, row)) for row in rows]
    return _combined(parts, tasks, resampling)


def _unfit(rows: Sequence[ScoreRow], tasks: Sequence[str]) -> list[str]:
    if not rows:
        return ["no score with the role 'source'"]
    twice = [f"{row.metric}, {row.few_shot}-shot" for row in rows if row.task == _first_twice(tasks)]
    return [f"{_first_twice(tasks)} is there twice ({'; '.join(twice)}); choose one"] if twice else []


def _first_twice(tasks: Sequence[str]) -> str | None:
    return next((task for task in tasks if tasks.count(task) > 1), None)


def _lost(row: ScoreRow, base: ScoreRow, resampling: Resampling) -> _Part:
    sign = 1.0 if row.higher_is_better else -1.0
    value = sign * (base.value - row.value)
    if are_paired(row, base):
        differences = sign * (np.asarray(base.examples) - np.asarray(row.examples))
        draws = weights_of(row, resampling) @ differences / len(differences)
        error = float(np.std(differences, ddof=1) / math.sqrt(len(differences))) if len(differences) > 1 else None
        return _Part(value, error, draws, True)
    return _Part(value, _quadrature(row, base), _unpaired(row, base, resampling, sign), False)


def _share_lost(row: ScoreRow, base: ScoreRow, chance: float, resampling: Resampling) -> _Part:
    known = base.value - chance
    value = 1 - (row.value - chance) / known
    tuned_draws, base_draws = score_draws(row, resampling), score_draws(base, resampling)
    draws = None
    if tuned_draws is not None and base_draws is not None:
        below = base_draws - chance
        draws = 1 - (tuned_draws - chance) / np.where(below > 0, below, np.nan)
    errors = standard_error(row), standard_error(base)
    error = None
    if errors[0] is not None and errors[1] is not None:
        error = math.hypot(errors[0], (1 - value) * errors[1]) / known
    return _Part(value, error, draws, are_paired(row, base))


def _no_share(row: ScoreRow, base: ScoreRow, chance: float | None) -> str:
    name = f"{row.task} {row.metric}"
    if chance is None:
        return f"{name}: the score of a guess is not known; give its chance"
    if not row.higher_is_better:
        return f"{name}: smaller is better, so that no guess has a score to begin from"
    return (
        "" if base.value > chance else f"{name}: the base scores {base.value:.4g}, no more than a guess, {chance:.4g}"
    )


def _chance(row: ScoreRow, base: ScoreRow) -> float | None:
    usual = SOURCES.get(row.task)
    known = usual[1] if usual and usual[0] == plain_metric(row.metric) else None
    return next((each for each in (row.chance, base.chance, known) if each is not None), None)


def _quadrature(row: ScoreRow, base: ScoreRow) -> float | None:
    errors = standard_error(row), standard_error(base)
    return None if errors[0] is None or errors[1] is None else math.hypot(errors[0], errors[1])


def _unpaired(row: ScoreRow, base: ScoreRow, resampling: Resampling, sign: float) -> Values | None:
    tuned, reference = score_draws(row, resampling), score_draws(base, resampling)
    return None if tuned is None or reference is None else sign * (reference - tuned)


def _combined(parts: Sequence[_Part], tasks: tuple[str, ...], resampling: Resampling) -> Change:
    value = float(np.mean([part.value for part in parts]))
    drawn = [part.draws for part in parts if part.draws is not None]
    draws = np.mean(drawn, axis=0) if len(drawn) == len(parts) else None
    if not math.isfinite(value):
        return Change(value, reason="a score is not finite", tasks=tasks)
    if draws is not None and all(part.paired for part in parts):
        interval = percentile_interval(value, draws, level=resampling.level)
        how = "" if interval.low is None else PAIRED
        return Change(value, interval.low, interval.high, how, interval.reason, tasks, draws)
    errors = [part.error for part in parts]
    known = [error for error in errors if error is not None]
    if len(known) < len(errors):
        task = tasks[errors.index(None)]
        return Change(value, reason=f"{task}: neither a standard error nor scores of the same examples", tasks=tasks)
    half = NormalDist().inv_cdf((1 + resampling.level) / 2) * math.hypot(*known) / len(parts)
    return Change(value, value - half, value + half, UNPAIRED, "", tasks, draws)
