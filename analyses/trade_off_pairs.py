"""Differences between two methods, paired: by seed, and by held-out text."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analyses.trade_off_texts import PROSE
from rank_lab.uncertainty import percentile_interval, student_interval

__all__ = ["LESS", "MORE", "ONE_SEED", "OPEN", "compared", "pairs"]

MORE, LESS, OPEN, ONE_SEED = "more", "less", "cannot be told apart", "one seed"

Values = npt.NDArray[np.float64]
_RESAMPLES = 2000
_SETS: Mapping[str, tuple[tuple[str, ...], float]] = {"learned": (("report",), -1.0), "forgotten": (PROSE, 1.0)}


def compared(arms: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Which methods are compared, of those that are there: all with full fine-tuning, and what the papers compare.

    Parameters
    ----------
    arms
        Names.
    """
    yield from ((arm, "full") for arm in arms if arm != "full")
    places = ("all", "attention", "mlp")
    wanted = [(f"lora-r256-{place}", f"lora-r16-{place}") for place in places]
    wanted += [(f"lora-r{rank}-{one}", f"lora-r{rank}-{other}") for rank in (16, 256)
               for one, other in (("mlp", "attention"), ("all", "mlp"))]  # fmt: skip
    wanted += [("lora-r16-mlp", "lora-r256-attention")]
    wanted += [(arm, "lora-r16-all") for arm in ("sora-r64", "adalora-r16", "pissa-r16", "series-64")]
    yield from ((one, other) for one, other in wanted if one in arms and other in arms)


def pairs(ends: pd.DataFrame, arms: Sequence[str]) -> pd.DataFrame:
    """Each compared pair at its last step, each at the rate that was chosen for it.

    Parameters
    ----------
    ends
        A row a target, arm and seed: ``learned``, ``forgotten`` and ``losses``, the sums of each text.
    arms
        Names.

    Returns
    -------
    DataFrame
        ``difference`` of the first from the second in nats a token, mean over seeds; Student's interval ``low`` to
        ``high`` of the differences of runs with one seed; and ``texts_low`` to ``texts_high``, the percentile interval
        of the mean over these seeds over resampled texts. ``verdict``: more or less where both leave out zero.
    """
    rows = []
    for target, own in ends.groupby("target", sort=False):
        by = {(row["arm"], row["seed"]): row for row in own.to_dict("records")}
        seeds = sorted({seed for _, seed in by})
        for first, second in compared(arms):
            for what, (sets, sign) in _SETS.items():
                ones, others = ([by[arm, seed] for seed in seeds] for arm in (first, second))
                apart = [one[what] - other[what] for one, other in zip(ones, others, strict=True)]
                value, low, high = student_interval(apart)
                texts = _over_texts(ones, others, sets, sign)
                key = {"target": target, "first": first, "second": second, "what": what, "seeds": len(seeds)}
                ends_of = {"low": low, "high": high, "texts_low": texts[0], "texts_high": texts[1]}
                rows.append(key | {"difference": value} | ends_of | {"verdict": _verdict((low, high), texts)})
    return pd.DataFrame(rows)


def _verdict(seeds: tuple[float, float], texts: tuple[float, float]) -> str:
    """More or less where both intervals say so: of the seeds, and of the texts, which has no ends where all agree."""
    if np.isnan(seeds).any():
        return ONE_SEED
    ends = [*seeds, *(end for end in texts if np.isfinite(end))]
    return MORE if min(ends) > 0 else LESS if max(ends) < 0 else OPEN


def _over_texts(
    ones: Sequence[Mapping[Any, Any]], others: Sequence[Mapping[Any, Any]], sets: Sequence[str], sign: float
) -> tuple[float, float]:
    sums, tokens = [], []
    for name in sets:
        apart = [
            np.subtract(one["losses"][name]["losses"], other["losses"][name]["losses"])
            for one, other in zip(ones, others, strict=True)
        ]
        sums.append(sign * np.mean(apart, axis=0))
        tokens.append(np.asarray(ones[0]["losses"][name]["tokens"], np.float64))
    above, below = np.concatenate(sums), np.concatenate(tokens)
    drawn = np.random.default_rng(0).integers(0, len(above), (_RESAMPLES, len(above)))
    found = percentile_interval(float(above.sum() / below.sum()), above[drawn].sum(axis=1) / below[drawn].sum(axis=1))
    return (np.nan, np.nan) if found.low is None or found.high is None else (found.low, found.high)
