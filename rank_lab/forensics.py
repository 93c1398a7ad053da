"""What a measurement betrays of where the files come from: warnings beside the numbers."""

import math
from collections import Counter
from collections.abc import Iterable

from rank_lab.measurement import Measurement
from rank_lab.spec import UpdateSpec

__all__ = ["merged_rank", "suspicions"]

_AS_LARGE_AS_THE_WEIGHT = 0.7  # two unrelated weights differ by 1.4 of either
_NEARLY_ALL = 0.8
_LOW_RANK_SHARE = 0.25


def suspicions(spec: UpdateSpec, measurement: Measurement) -> list[str]:
    """What a reader must know of one update besides its numbers.

    Parameters
    ----------
    spec, measurement
        The update and what was measured of it.

    Returns
    -------
    list of str
        Empty where nothing is odd.
    """
    if measurement.failure:
        return []
    relative = measurement.frobenius_norm / measurement.weight.frobenius if measurement.weight.frobenius else math.nan
    large = (
        [f"the change is {relative:.2g} times as large as the weight: is the base the model that it was tuned from?"]
        if relative > _AS_LARGE_AS_THE_WEIGHT and not spec.factored
        else []
    )
    if spec.update_kind != "dense":
        zero = measurement.frobenius_norm == 0.0
        return [
            "the update is zero: an adapter that was not trained (B = 0) or whose gates are all shut"
        ] * zero + large
    if measurement.identical:
        return [f"identical: frozen, or changed by less than the rounding to {measurement.tuned_grid}"]
    found = [_recast(measurement)] if measurement.recast else []
    noise = measurement.noise
    if measurement.both_rounded and not found:
        found.append(
            f"no entry moved by more than the rounding to {measurement.tuned_grid} and to {measurement.base_grid}: both"
            " files look like casts of one, and the rounding of both is taken out"
        )
    elif noise is not None and noise.regime == "unresolved" and not found:
        found.append(
            f"unresolved: {measurement.identical_fraction:.0%} of the entries are unchanged and the rest cannot be told"
            f" from rounding to {measurement.tuned_grid}; compare checkpoints that were saved in float32"
        )
    return found + large


def _recast(measurement: Measurement) -> str:
    if measurement.recast == "tuned":
        return f"re-cast: every value is the base's, rounded to {measurement.tuned_grid}; nothing was learned here"
    return (
        f"re-cast: every base value is the tuned one, rounded to {measurement.base_grid}; the difference is the"
        " rounding of the base"
    )


def merged_rank(measured: Iterable[tuple[UpdateSpec, Measurement]]) -> int | None:
    """Rank of the adapter that was probably merged into the tuned file; None if it looks like full fine-tuning.

    A merged adapter leaves exactly its rank above the rounding, the same in nearly all matrices, and
    nothing diffuse beside it.

    Parameters
    ----------
    measured
        The cumulative updates of one checkpoint.
    """
    counts: Counter[int] = Counter()
    changed = 0
    for spec, found in measured:
        if spec.update_kind != "dense" or found.noise is None or found.identical or found.failure:
            continue
        rank = found.noise.above_rounding.value
        changed += rank != 0  # a matrix that was only re-cast says nothing of the others
        if rank > 0 and rank <= _LOW_RANK_SHARE * spec.rank_bound and not found.noise.diffuse:
            counts[int(rank)] += 1
    if changed < 2 or not counts:
        return None
    rank, share = counts.most_common(1)[0]
    return rank if share >= max(2.0, _NEARLY_ALL * changed) else None
