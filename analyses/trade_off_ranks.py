"""Ranks of a checkpoint's change, beside their nulls, and at the end of a run the intruders in its weights."""

from math import nan
from pathlib import Path
from statistics import mean
from typing import Any

import pandas as pd

from analyses.trade_off_texts import Documents
from rank_lab import analyze
from rank_lab.checkpoint import Checkpoint
from rank_lab.errors import RankLabError
from rank_lab.evaluation.functional_changes import functional_changes
from rank_lab.evaluation.functional_options import FunctionalOptions
from rank_lab.evaluation.probe import probe_of
from rank_lab.evaluation.text_sets import TextSet
from rank_lab.evaluation.tuned_models import EvaluatedModel
from rank_lab.intruders import WeightDirections, intruder_counts, weight_directions
from rank_lab.leading_vectors import leading_vectors
from rank_lab.measurement import MeasurementOptions
from rank_lab.planned import Settings, plan_since, start_of, training_records
from rank_lab.rank_summaries import rank_summaries
from rank_lab.spec import read_update
from rank_lab.tuned_weight import tuned_weight, weight_place

__all__ = ["INTRUDERS_AMONG", "INTRUDER_COSINE", "WITHOUT_UPDATE", "functional_ranks_of", "intruders_of", "ranks_of"]

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


def functional_ranks_of(base: Any, tuned: EvaluatedModel, texts: Documents, context: int) -> dict[str, float]:
    """Of the change of hidden states after layers, the same tokens through both models: means over layers.

    Parameters
    ----------
    base
        In memory, another than the tuned one.
    tuned
        In memory; any method has these ranks.
    texts
        Whose tokens.
    context
        Tokens of the longest input.

    Returns
    -------
    dict
        k90 beside that of a random linear change on the same inputs, the effective rank, and the share of the change
        that a linear map of the layer's input explains.
    """
    read = TextSet(texts.name, tuple("".join(parts) for parts in texts.texts), "held-out texts")
    probe = probe_of(tuned.tokenizer, "causal", read, context=context)
    found = functional_changes(base, tuned.model, probe, FunctionalOptions(scopes=("layer",), resamples=0)).places
    return {
        "functional_energy_rank_90": mean(place.ranks["energy_rank_90"].value for place in found),
        "null_functional_energy_rank_90": mean(place.null.get("energy_rank_90", nan) for place in found),
        "functional_effective_rank": mean(place.ranks["effective_rank"].value for place in found),
        "linear_share": mean(place.linear_share.value for place in found),
        "probe_tokens": float(found[0].tokens),
    }


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
