"""Numbers of :mod:`analyses.parameter_efficiency`: chosen rates, scores with intervals, and whether one is not worse.

A score has two kinds of chance in it: of the seed, and of the validation examples. Both are in every interval: the
variance of the mean over seeds as examples are resampled, and that of the seeds over their number, with Student's
factor at the degrees of freedom of Welch and Satterthwaite. What examples and seeds do together is in both, so that
intervals are rather too wide than too narrow.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from rank_lab.scores import Score
from rank_lab.uncertainty import bootstrap_draws

__all__ = ["LEAD", "MARGIN", "Estimate", "averaged", "chosen_rates", "compared", "estimated", "verdict"]

Values = npt.NDArray[np.float64]

LEAD = 0.98
"""Points by which the paper's SoRA is ahead of its LoRA on average (arXiv 2311.11696, Table 1: 89.36 and 88.38)."""

MARGIN = 1.0
"""Points that count as no worse, about that lead; set before any run."""

_RESAMPLES = 1000


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, in points of 100.

    Parameters
    ----------
    value
        The mean.
    example_variance
        Of the mean, as validation examples are drawn anew.
    seed_variance
        Of the mean, as seeds are: that of one seed over their number. NaN for one seed.
    freedom
        Degrees of freedom of the latter.
    """

    value: float
    example_variance: float
    seed_variance: float
    freedom: float

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Both ends; NaN for one seed.

        Parameters
        ----------
        level
            Nominal coverage.

        Examples
        --------
        >>> [round(end, 3) for end in Estimate(80.0, 0.0, 1.0, 2).interval()]  # Student's, of two degrees
        [75.697, 84.303]
        """
        from scipy.stats import norm, t

        variance = self.example_variance + self.seed_variance
        if not math.isfinite(variance):
            return math.nan, math.nan
        freedom = self.freedom * (variance / self.seed_variance) ** 2 if self.seed_variance > 0 else math.inf
        quantile = (1 + level) / 2
        factor = norm.ppf(quantile) if math.isinf(freedom) else t.ppf(quantile, freedom)
        half = float(factor) * math.sqrt(variance)
        return self.value - half, self.value + half


def estimated(score: Score, labels: Values, runs: Sequence[Values]) -> Estimate:
    """The score of one arm.

    Parameters
    ----------
    score
        The task's.
    labels
        Shape (examples,).
    runs
        Predictions of each seed, of the same shape.
    """
    draws = np.mean([bootstrap_draws(score, labels, run, resamples=_RESAMPLES) for run in runs], axis=0)
    return _estimate(np.array([score.of(labels, run) for run in runs]), draws)


def compared(score: Score, labels: Values, first: Sequence[Values], second: Sequence[Values]) -> Estimate:
    """By how much the first arm scores higher, paired by seed and by example.

    Parameters
    ----------
    score, labels
        As of :func:`estimated`.
    first, second
        Predictions, of the same seeds in the same order.
    """
    pairs = list(zip(first, second, strict=True))
    draws = [
        bootstrap_draws(score, labels, one, resamples=_RESAMPLES)
        - bootstrap_draws(score, labels, other, resamples=_RESAMPLES)
        for one, other in pairs
    ]
    differences = np.array([score.of(labels, one) - score.of(labels, other) for one, other in pairs])
    return _estimate(differences, np.mean(draws, axis=0))


def averaged(tasks: Sequence[Estimate]) -> Estimate:
    """The mean over tasks, which are taken as they are and not as a sample of others.

    Parameters
    ----------
    tasks
        An estimate of each; their examples and seeds are independent.
    """
    count = len(tasks)
    seeds = [each.seed_variance / count**2 for each in tasks]
    below = sum(part**2 / each.freedom for part, each in zip(seeds, tasks, strict=True) if each.freedom)
    return Estimate(
        value=float(np.mean([each.value for each in tasks])),
        example_variance=sum(each.example_variance for each in tasks) / count**2,
        seed_variance=sum(seeds),
        freedom=sum(seeds) ** 2 / below if below else math.inf,
    )


def verdict(low: float, high: float, margin: float = MARGIN) -> str:
    """What a difference's interval says of the first arm.

    Parameters
    ----------
    low, high
        Its ends.
    margin
        Points that count as no worse.

    Examples
    --------
    >>> verdict(-0.5, 0.9), verdict(-3.0, 0.9), verdict(-3.0, -1.5), verdict(0.2, 2.0)
    ('not worse', 'cannot be told', 'worse', 'better')
    >>> verdict(-0.8, -0.1), verdict(float("nan"), float("nan"))
    ('worse, within the margin', 'cannot be told')
    """
    if low > 0:
        return "better"
    if high < 0:
        return "worse, within the margin" if low > -margin else "worse"
    return "not worse" if low > -margin else "cannot be told"


def chosen_rates(rows: pd.DataFrame) -> pd.DataFrame:
    """Of each task and arm the rate with the best mean score on the half that chooses; of equal ones the smallest.

    Parameters
    ----------
    rows
        Of all rates with the seeds that choose: ``task``, ``arm``, ``learning_rate``, ``choice_score``.
    """
    known = rows.fillna({"choice_score": float("-inf")})  # a score that is not defined chooses nothing
    means = known.groupby(["task", "arm", "learning_rate"], sort=False)["choice_score"].mean().reset_index()
    ordered = means.sort_values(["choice_score", "learning_rate"], ascending=[False, True], kind="stable")
    best = ordered.groupby(["task", "arm"], sort=False).head(1)
    return best[["task", "arm", "learning_rate"]].reset_index(drop=True)


def _estimate(seeds: Values, draws: Values) -> Estimate:
    known = draws[np.isfinite(draws)]
    examples = float(np.var(100 * known, ddof=1)) if len(known) > 0.95 * len(draws) else math.nan
    spread = float(np.var(100 * seeds, ddof=1) / len(seeds)) if len(seeds) > 1 else math.nan
    return Estimate(float(100 * seeds.mean()), examples, spread, float(len(seeds) - 1))
