r"""Behavioural rank: how many directions of an update keep a given share of what was learned.

Let :math:`s(\cdot)` be what a model gained on the target texts over its base :math:`W`, and :math:`\Delta_k` the
update cut to its leading k singular directions in every matrix, the best of that rank (Eckart & Young 1936,
https://doi.org/10.1007/BF02288367). The share of what was learned that k directions keep is

.. math:: q(k) = \frac{s(W + \Delta_k)}{s(W + \Delta)},

0 for the base and 1 for the tuned model, and the behavioural rank is the least k with :math:`q(k) \ge p`. It is a
number of the task and of the texts, where the ranks of the spectrum are of the weights alone: a tail that holds
energy and changes no score raises those and not this one. What was learned is known no better than the texts say,
and so are share and rank: both have paired bootstrap intervals over texts, and where what was learned is not above
its noise there is no share and no rank.

All functions are of rows of scores, as :mod:`rank_lab.forgetting` has them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from rank_lab.errors import RankLabError
from rank_lab.forgetting import PAIRED, Change, source_forgetting
from rank_lab.score_draws import Resampling
from rank_lab.score_row import ScoreRow
from rank_lab.uncertainty import MAX_UNDEFINED, Interval, percentile_interval

__all__ = [
    "FEWEST_EXAMPLES",
    "BehaviouralRank",
    "KeptShare",
    "behavioural_rank",
    "change_since",
    "kept_shares",
    "unresolved",
]

Values = npt.NDArray[np.float64]
Rows = Sequence[ScoreRow]

FEWEST_EXAMPLES = 8
"""Texts of a set below which nothing is said: the percentiles of a bootstrap over fewer mean nothing."""


@dataclass(frozen=True)
class KeptShare:
    """One truncation of an update.

    Parameters
    ----------
    k
        Directions of each matrix.
    change
        What the truncated model gained (of a target) or lost (of a source) against the base, in units of the score.
    share
        Of the tuned model's change; NaN where that is not above its noise, with the reason.
    draws
        The share in each resample, shape (resamples,); None where there is none.
    """

    k: int
    change: Change
    share: Interval
    draws: Values | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class BehaviouralRank:
    """The least number of directions that keeps a share of what was learned.

    Parameters
    ----------
    share
        That was asked for.
    value
        The least k that was tried and keeps it; None where there is none, with the reason.
    low, high
        Ends of the interval over examples; None where none can be given. Ranks between two that were tried are not
        known: the low end is the least, the high end the largest that is possible.
    tried_below
        The largest k below it that was tried, which does not keep the share: where that is not ``value - 1`` a smaller
        rank may keep it.
    lasting
        The least k that was tried from which on all larger ones keep the share, too. Above ``value`` where the share
        falls again as directions are added.
    reason
        Why there is no value, or no interval; empty where there are both.
    """

    share: float
    value: int | None
    low: int | None = None
    high: int | None = None
    tried_below: int | None = None
    lasting: int | None = None
    reason: str = ""

    @property
    def exact(self) -> bool:
        """Whether the next smaller rank was tried and does not keep the share."""
        return self.value is not None and (self.value == 0 or self.tried_below == self.value - 1)


def change_since(rows: Rows, base: Rows, *, role: str, resampling: Resampling | None = None) -> Change:
    """What a model gained of its target scores, or lost of its source scores, against the base: means over the tasks.

    Parameters
    ----------
    rows, base
        A score a task, of the model and of the base.
    role
        ``"target"`` for what was gained, ``"source"`` for what was lost.
    resampling
        Of the interval.

    Raises
    ------
    RankLabError
        If the role is neither.

    Examples
    --------
    >>> base = [ScoreRow("base", "base", 0, "code", "cross_entropy", 3.0, higher_is_better=False)]
    >>> tuned = [ScoreRow("r", "full", 9, "code", "cross_entropy", 2.0, higher_is_better=False)]
    >>> change_since(tuned, base, role="target").value, change_since(tuned, base, role="source").value
    (1.0, -1.0)
    """
    if role not in ("target", "source"):
        raise RankLabError(
            f"role {role!r}: expected 'target', of what was learned, or 'source', of what was forgotten."
        )
    lost = source_forgetting(rows, base, resampling)
    if role == "source":
        return lost
    low, high = (None, None) if lost.low is None or lost.high is None else (0.0 - lost.high, 0.0 - lost.low)
    return replace(lost, value=0.0 - lost.value, low=low, high=high, draws=None if lost.draws is None else -lost.draws)


def unresolved(change: Change, rows: Rows, *, role: str) -> str:
    """Why there is no share of a change; empty where it is above its noise.

    Parameters
    ----------
    change
        Of the tuned model against the base, from :func:`change_since`.
    rows
        Scores of the tuned model that it is of.
    role
        ``"target"`` or ``"source"``.

    Examples
    --------
    >>> row = ScoreRow("r", "full", 9, "code", "cross_entropy", 2.0, n=24, higher_is_better=False)
    >>> unresolved(Change(0.01, -0.02, 0.04, PAIRED), [row], role="target")
    'nothing was learned: 0.01 (-0.02 to 0.04), not above its noise, so that there is no share of it'
    >>> unresolved(Change(0.5, 0.4, 0.6, PAIRED), [row], role="target")
    ''
    """
    if not math.isfinite(change.value):
        return change.reason or "a score is not finite"
    counts = {row.task: len(row.examples or ()) or row.n or 0 for row in rows}
    task = min(counts, key=lambda name: counts[name])
    if counts[task] < FEWEST_EXAMPLES:
        return (
            f"{counts[task]} examples of {task} are too few to tell a share from its noise; give {FEWEST_EXAMPLES} or"
            " more"
        )
    if change.low is None or change.high is None:
        return change.reason or "the change has no interval"
    if change.low > 0:
        return ""
    what = "learned" if role == "target" else "forgotten"
    told = f"{change.value:.3g} ({change.low:.3g} to {change.high:.3g})"
    if change.high < 0:
        opposite = "it became worse" if role == "target" else "it became better"
        return f"nothing was {what}: {told}, {opposite}, so that there is no share of it"
    return f"nothing was {what}: {told}, not above its noise, so that there is no share of it"


def kept_shares(
    truncated: Mapping[int, Rows],
    tuned: Rows,
    base: Rows,
    *,
    role: str = "target",
    resampling: Resampling | None = None,
) -> tuple[KeptShare, ...]:
    r"""The share of what was learned, or forgotten, at each rank that was tried.

    Parameters
    ----------
    truncated
        Rank to the scores of the truncated model, a score a task.
    tuned, base
        The same scores of the tuned model and of the base.
    role
        ``"target"``: the share of what was learned; ``"source"``: of what was forgotten.
    resampling
        Of the intervals; the resamples of a set are the same for all models.

    Returns
    -------
    tuple of KeptShare
        By rank. Over several tasks the share is that of the mean change, :math:`\sum_t c_t(k) / \sum_t c_t`.

    Raises
    ------
    RankLabError
        If no rank was tried.

    Examples
    --------
    >>> def losses(*texts):
    ...     mean = sum(texts) / len(texts)
    ...     return [ScoreRow("r", "full", 9, "code", "cross_entropy", mean, n=len(texts), set_sha256=64 * "0",
    ...                      higher_is_better=False, examples=texts)]
    >>> base = losses(3.0, 3.5, 3.0, 3.5, 3.0, 3.5, 3.0, 3.5)
    >>> half = losses(2.5, 2.75, 2.5, 2.75, 2.5, 2.75, 2.5, 2.75)
    >>> tuned = losses(*8 * [2.0])
    >>> [each.share.value for each in kept_shares({4: half, 8: tuned}, tuned, base)]
    [0.5, 1.0]
    """
    if not truncated:
        raise RankLabError("no rank was tried: truncate the update to one at least.")
    resampling = resampling or Resampling()
    whole = change_since(tuned, base, role=role, resampling=resampling)
    reason = unresolved(whole, tuned, role=role)
    found = []
    for k in sorted(truncated):
        change = change_since(truncated[k], base, role=role, resampling=resampling)
        found.append(_kept(k, change, whole, reason, _same(truncated[k], base, tuned), resampling.level))
    return tuple(found)


def _same(rows: Rows, base: Rows, tuned: Rows) -> float | None:
    """The share of what scores exactly as the base or as the tuned model does."""
    for share, others in ((1.0, tuned), (0.0, base)):
        there = {row.task: (row.value, row.examples) for row in others}
        if all(row.task in there and (row.value, row.examples) == there[row.task] for row in rows):
            return share
    return None


def _kept(k: int, change: Change, whole: Change, reason: str, same: float | None, level: float) -> KeptShare:
    if reason or not math.isfinite(change.value):
        return KeptShare(k, change, Interval(math.nan, None, None, reason=reason or change.reason))
    draws = None
    if change.draws is not None and whole.draws is not None:
        draws = change.draws / np.where(whole.draws > 0, whole.draws, np.nan)
    if same is not None:
        return KeptShare(k, change, Interval(same, same, same), None if draws is None else np.full_like(draws, same))
    value = change.value / whole.value
    if draws is None or {change.how, whole.how} != {PAIRED}:
        return KeptShare(k, change, Interval(value, None, None, reason="the scores are not of the same examples"))
    return KeptShare(k, change, percentile_interval(value, draws, level=level), draws)


def behavioural_rank(shares: Sequence[KeptShare], share: float = 0.9, *, level: float = 0.95) -> BehaviouralRank:
    """The least rank that keeps a share of what was learned.

    Parameters
    ----------
    shares
        From :func:`kept_shares`, of all ranks that were tried.
    share
        To keep, above 0 and at most 1.
    level
        Nominal coverage of the interval.

    Returns
    -------
    BehaviouralRank
        Without a value where nothing was learned, or no rank that was tried keeps so much.

    Raises
    ------
    RankLabError
        If the share is out of its range, or nothing was tried.

    Examples
    --------
    >>> learned = Change(1.0, 0.9, 1.1, PAIRED)
    >>> curve = [KeptShare(k, learned, Interval(q, q, q)) for k, q in ((1, 0.5), (2, 0.92), (3, 0.88), (4, 1.0))]
    >>> found = behavioural_rank(curve)
    >>> found.value, found.tried_below, found.lasting
    (2, 1, 4)
    """
    if not 0.0 < share <= 1.0:
        raise RankLabError(f"a share of {share}: expected one above 0 and at most 1, such as 0.9.")
    if not shares:
        raise RankLabError("no rank was tried: truncate the update to one at least.")
    curve = sorted(shares, key=lambda each: each.k)
    kept = [each.share.value >= share for each in curve]
    without = next((each for each in curve if math.isnan(each.share.value)), None)
    if without is not None:
        return BehaviouralRank(share, None, reason=without.share.reason)
    if not any(kept):
        best = max(curve, key=lambda each: each.share.value)
        return BehaviouralRank(
            share, None,
            reason=f"no rank that was tried keeps {share:g}: the most is {best.share.value:.3g}, at {best.k}, and the"
            f" largest that was tried is {curve[-1].k}",
        )  # fmt: skip
    at = kept.index(True)
    lasting = next((curve[i].k for i in range(len(curve)) if all(kept[i:])), None)
    low, high, reason = _ends(curve, share, level)
    return BehaviouralRank(
        share, curve[at].k, low, high, curve[at - 1].k if at else None, lasting, reason
    )  # fmt: skip


def _ends(curve: Sequence[KeptShare], share: float, level: float) -> tuple[int | None, int | None, str]:
    drawn = [each.draws for each in curve if each.draws is not None]
    if len(drawn) < len(curve):
        why = next((each.share.reason for each in curve if each.draws is None and each.share.reason), "")
        return None, None, why or "the scores of single examples are not known"
    draws = np.stack(drawn)
    places = _first_kept(draws, share)
    undefined = int((places < 0).sum())
    if undefined > MAX_UNDEFINED * len(places):
        return None, None, f"{undefined} of {len(places)} resamples have no rank that keeps it"
    known = np.sort(places[places >= 0])
    first = int(np.quantile(known, (1 - level) / 2, method="inverted_cdf"))
    last = int(np.quantile(known, (1 + level) / 2, method="inverted_cdf"))
    return (curve[first - 1].k + 1 if first else curve[0].k), curve[last].k, ""


def _first_kept(draws: Values, share: float) -> npt.NDArray[np.int64]:
    """Place of the least rank that keeps the share in each resample; -1 where none does or it has no share."""
    kept = draws >= share
    none = ~kept.any(axis=0) | np.isnan(draws).any(axis=0)
    return np.where(none, -1, kept.argmax(axis=0)).astype(np.int64)
