"""Resamples of scores over their examples, the same for all models that were scored on the same set."""

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from rank_lab.errors import RankLabError
from rank_lab.score_row import ScoreRow

__all__ = [
    "Resampling",
    "are_paired",
    "difference_in_kind",
    "plain_metric",
    "score_draws",
    "standard_error",
    "weights_of",
]

Values = npt.NDArray[np.float64]

_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Resampling:
    """How intervals are made.

    Parameters
    ----------
    resamples
        How many.
    seed
        Where their randomness starts.
    level
        Nominal coverage, in (0, 1).

    Raises
    ------
    RankLabError
        If there would be no resample, or the level is not in (0, 1).
    """

    resamples: int = 1000
    seed: int = 0
    level: float = 0.95

    def __post_init__(self) -> None:
        """Refuse what gives no interval."""
        if self.resamples < 1 or not 0 < self.level < 1:
            raise RankLabError(
                f"{self.resamples} resamples at level {self.level}: expected 1 at least, and a level between 0 and 1."
            )


def plain_metric(metric: str) -> str:
    """A metric without lm-eval's filter, where that is none.

    Examples
    --------
    >>> plain_metric("acc,none"), plain_metric("exact_match,strict-match")
    ('acc', 'exact_match,strict-match')
    """
    return metric.removesuffix(",none")


def difference_in_kind(first: ScoreRow, second: ScoreRow) -> str:
    """Why two scores of a task may not be compared; empty where they may.

    Parameters
    ----------
    first, second
        Of the same task and metric.

    Examples
    --------
    >>> zero, five = (ScoreRow("r", "m", 0, "gsm8k", "acc", 0.5, few_shot=shots) for shots in (0, 5))
    >>> difference_in_kind(zero, five), difference_in_kind(zero, zero)
    ('0 and 5 solved examples in the prompt', '')
    """
    if (first.task, plain_metric(first.metric)) != (second.task, plain_metric(second.metric)):
        return f"{first.task} {first.metric} and {second.task} {second.metric} are different quantities"
    if first.few_shot != second.few_shot:
        return f"{first.few_shot} and {second.few_shot} solved examples in the prompt"
    if (first.harness, first.harness_version) != (second.harness, second.harness_version):
        return f"measured by {_harness(first)} and by {_harness(second)}"
    if first.higher_is_better != second.higher_is_better:
        return "a larger value is better in one and worse in the other"
    if first.set_sha256 and second.set_sha256 and first.set_sha256 != second.set_sha256:
        return "measured on different examples"
    if first.n is not None and second.n is not None and first.n != second.n:
        return f"measured on {first.n} and on {second.n} examples"
    return ""


def are_paired(first: ScoreRow, second: ScoreRow) -> bool:
    """Whether both scores are means over the same known examples."""
    same = bool(first.set_sha256) and first.set_sha256 == second.set_sha256
    return same and _is_mean(first) and _is_mean(second) and len(first.examples or ()) == len(second.examples or ())


def standard_error(row: ScoreRow) -> float | None:
    r"""Of a score: what its harness gave, else :math:`s / \sqrt n` over its examples; None where neither is known.

    Examples
    --------
    >>> standard_error(ScoreRow("r", "m", 0, "t", "acc", 0.5, examples=(0, 1, 0, 1)))
    0.28867513459481287
    """
    if row.stderr is not None:
        return row.stderr
    examples = row.examples or ()
    if len(examples) < 2 or not _is_mean(row):
        return None
    return float(np.std(examples, ddof=1) / math.sqrt(len(examples)))


def score_draws(row: ScoreRow, resampling: Resampling) -> Values | None:
    """The score in resamples: over its examples where they are known, else normal with its standard error.

    Parameters
    ----------
    row
        Scores of the same set share their resamples of it; those without a set have their own.
    resampling
        How many, and the seed.

    Returns
    -------
    numpy.ndarray or None
        Shape (resamples,); None where neither examples nor a standard error are known.
    """
    if _is_mean(row) and len(row.examples or ()) > 1:
        examples = np.asarray(row.examples, np.float64)
        draws: Values = weights_of(row, resampling) @ examples / len(examples)
        return draws
    error = standard_error(row)
    if error is None or not math.isfinite(row.value):
        return None
    generator = np.random.default_rng([resampling.seed, _number(repr(row.key))])
    return row.value + error * generator.standard_normal(resampling.resamples)


def weights_of(row: ScoreRow, resampling: Resampling) -> Values:
    """How often each example of the row's set is in each resample: shape (resamples, examples).

    Parameters
    ----------
    row
        With scores of examples.
    resampling
        How many, and the seed.
    """
    place = _number(row.set_sha256 or repr(row.key))
    return _counts(resampling.seed, place, len(row.examples or ()), resampling.resamples).astype(np.float64)


@lru_cache(maxsize=16)
def _counts(seed: int, place: int, examples: int, resamples: int) -> npt.NDArray[np.uint16]:
    """Kept for all models of a set; of ten thousand examples in 20 MB."""
    generator = np.random.default_rng([seed, place])
    counts = np.empty((resamples, examples), np.uint16)
    for index in range(resamples):
        counts[index] = np.bincount(generator.integers(0, examples, examples), minlength=examples)
    counts.flags.writeable = False
    return counts


def _is_mean(row: ScoreRow) -> bool:
    """Whether the examples are there and the value is their mean, so that resampling them resamples the value."""
    if not row.examples:
        return False
    mean = math.fsum(row.examples) / len(row.examples) if all(map(math.isfinite, row.examples)) else math.nan
    return math.isclose(mean, row.value, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _harness(row: ScoreRow) -> str:
    return f"{row.harness} {row.harness_version}".strip() or "an unknown harness"
