"""Ranks of a checkpoint's change, beside their nulls, and at the end of a run the intruders in its weights."""

from pathlib import Path
from typing import Any

import pandas as pd

from rank_lab import analyze
from rank_lab.checkpoint import Checkpoint
from rank_lab.errors import RankLabError
from rank_lab.intruders import WeightDirections, intruder_counts, weight_directions
from rank_lab.leading_vectors import leading_vectors
from rank_lab.measurement import MeasurementOptions
from rank_lab.planned import Settings, plan_since, start_of, training_records
from rank_lab.rank_summaries import rank_summaries
from rank_lab.spec import read_update
from rank_lab.tuned_weight import tuned_weight, weight_place

__all__ = ["INTRUDERS_AMONG", "INTRUDER_COSINE", "WITHOUT_UPDATE", "intruders_of", "ranks_of"]

WITHOUT_UPDATE = frozenset({"series", "parallel", "compacter", "prefix", "prompt", "prelayer"})
"""Methods that change no weight of the base."""

INTRUDERS_AMONG, INTRUDER_COSINE = 10, 0.5
"""Leading directions of a tuned weight that are looked at, and the cosine below which one is an intruder. A random
direction's largest cosine with one of 256 others is about 0.2 in 256 dimensions."""

_KEPT = ("energy_rank_90", "null_energy_rank_90", "effective_rank", "stable_rank", "relative_frobenius")


def ranks_of(checkpoint: Path, base: Path, cache_folder: Path) -> dict[str, Any]:
    """Means over matrices, weighted by their share of the change: of all, and k90 of each kind and layer.

    Parameters
    ----------
    checkpoint
        Folder.
    base
        What it was tuned from.
    cache_folder
        Of measured updates.

    Returns
    -------
    dict
        ``kinds`` and ``layers``: k90 and its null by name.
    """
    updates = analyze(checkpoint, base, options=MeasurementOptions(cache=cache_folder)).updates
    whole = rank_summaries(updates).iloc[0]
    parts = {f"{part}s": _parts(updates, part) for part in ("kind", "layer")}
    return {name: float(whole[name]) for name in _KEPT} | parts


def _parts(updates: pd.DataFrame, by: str) -> dict[str, list[float]]:
    found = rank_summaries(updates, ("run", "step", by)).dropna(subset=[by])
    keys = [str(key) if by == "kind" else str(int(key)) for key in found[by]]
    return dict(zip(keys, found[["energy_rank_90", "null_energy_rank_90"]].to_numpy().tolist(), strict=True))


def intruders_of(checkpoint: Path, base: Path) -> dict[str, float]:
    """Intruders among the leading left directions of the tuned weights of layers (arXiv 2410.21228, algorithm 1).

    Parameters
    ----------
    checkpoint
        Folder.
    base
        What it was tuned from.

    Returns
    -------
    dict
        ``intruders``, over all changed matrices of layers, of ``directions`` looked at.
    """
    tuned, original = Checkpoint.open(checkpoint), Checkpoint.open(base)
    training, _ = training_records([tuned])
    plan = plan_since(tuned, original, Settings(), start_of(tuned, Settings(), training))
    found = looked_at = 0
    for spec in plan.specs:
        if spec.identity.layer is None or min(spec.shape) == 1:
            continue
        place = weight_place(spec, (original, tuned))
        if place.reason:
            raise RankLabError(f"{checkpoint}, {spec.module}: {place.reason}.")
        before, after = tuned_weight(place, read_update(spec))
        leading = leading_vectors(after, INTRUDERS_AMONG)
        counts = intruder_counts(
            _directions(spec.module, str(base), before), leading, ks=(INTRUDERS_AMONG,), epsilons=(INTRUDER_COSINE,)
        )
        left = next(count for count in counts if count.side == "left")
        found, looked_at = found + left.intruders, looked_at + left.k
    return {"intruders": float(found), "directions": float(looked_at)}


_KNOWN: dict[tuple[str, str], WeightDirections] = {}


def _directions(module: str, base: str, weight: Any) -> WeightDirections:
    """Of a weight of the base, found once in a process."""
    if (module, base) not in _KNOWN:
        _KNOWN[module, base] = weight_directions(weight)
    return _KNOWN[module, base]
