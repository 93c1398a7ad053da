"""Adapters that start by taking something out of the base: what to subtract, and what to say where nobody can."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rank_lab.checkpoint import Checkpoint
from rank_lab.errors import PairingError
from rank_lab.merging import recipe_text
from rank_lab.spec import BASE_CHANGED, UpdateSpec

__all__ = ["against_start", "without_start"]

# A decomposition of the weight and nothing else: the same for everyone who has the weight.
_RECOMPUTABLE = frozenset({"pissa", "olora", "kasa"})
_SET_UP_IN = frozenset({"float32", "float16", "bfloat16"})  # the types of weight that PEFT starts these methods on
_ROUNDING = "what rounding the residual to its stored type changed is not in it"
_SINCE = f"{BASE_CHANGED}: the initial adapter is taken out, so that this is the update of the original base"


def against_start(specs: Sequence[UpdateSpec], start: Sequence[UpdateSpec], initial: Checkpoint) -> list[UpdateSpec]:
    """Updates since the adapter was initialised.

    Parameters
    ----------
    specs
        Of the trained adapter.
    start
        Of the same adapter, saved before training.
    initial
        Where that is, for messages.

    Raises
    ------
    PairingError
        If the two do not adapt the same modules in the same shapes.
    """
    before = {spec.module: _factors_alone(spec) for spec in start}
    after = {spec.module for spec in specs}
    other = sorted(after ^ before.keys())
    if other:
        raise PairingError(
            f"{initial.source}: {other[0]!r} is adapted in only one of the adapter and its initial state; give the same"
            " adapter as it was saved before training."
        )
    found = []
    for spec in specs:
        first = before[spec.module]
        if spec.shape != first.shape or spec.update_kind != first.update_kind:
            raise PairingError(
                f"{initial.source}: {spec.module!r} is {first.update_kind} of shape {first.shape}, but"
                f" {spec.update_kind} of {spec.shape} in the adapter; give the same adapter as it was before training."
            )
        rank = min(spec.rank_bound + first.rank_bound, *spec.shape)
        found.append(replace(spec, previous=first, rank_bound=rank, note=_noted(spec, _SINCE)))
    return found


def without_start(spec: UpdateSpec, start: str, config: Mapping[str, Any], *, layer: str) -> UpdateSpec:
    """An update of a base that ``start`` changed: against the original one where that can be recomputed.

    Parameters
    ----------
    spec
        Factored.
    start
        From :class:`rank_lab.adapter_config.AdapterRecipe`.
    config
        The adapter's.
    layer
        ``linear`` or ``conv1d`` (transformers'); empty if it is not known which.
    """
    factor = spec.source("A")
    if spec.transposed and start != "loftq":
        return spec  # PEFT starts embeddings at zero, whatever it does to the other modules
    known = start in _RECOMPUTABLE and layer and spec.weight is not None and spec.weight.dtype in _SET_UP_IN
    if not known or spec.weight is None or factor is None:
        return replace(spec, note=_noted(spec, _residual_only(start, spec)))
    taken = f"{start}'s initial factors are recomputed from the base given, taken for the original"
    note = f"{BASE_CHANGED}: {taken}, {_ROUNDING}"
    return replace(
        spec,
        sources=(*spec.sources, ("original", spec.weight)),
        recipe=recipe_text(config, layer=layer),
        rank_bound=min(2 * factor.shape[0], *spec.shape),
        note=_noted(spec, note),
    )


def _factors_alone(spec: UpdateSpec) -> UpdateSpec:
    if spec.source("original") is None:
        return spec
    factors = tuple((role, tensor) for role, tensor in spec.sources if role != "original")
    rank = spec.required("A").shape[0] if spec.source("A") is not None else spec.rank_bound
    return replace(spec, sources=factors, rank_bound=min(rank, *spec.shape), recipe="")


def _residual_only(start: str, spec: UpdateSpec) -> str:
    text = f"{BASE_CHANGED}: update of the residual base, {start} took its initial factors out of the base weight"
    if start == "kasa":
        text = f"{BASE_CHANGED}: update of the base that kasa cut the smallest directions out of"
    if start == "loftq":
        error = "whose error loftq's factors start with and which is not in it"
        text = f"{BASE_CHANGED}: update of the quantised base, {error}"
    if start in _RECOMPUTABLE and spec.weight is None:
        return (
            f"{text}, give the original base (--base) or the initial adapter (--initial-adapter) for the update of that"
        )
    return f"{text}, give the initial adapter (--initial-adapter) for the update since the start"


def _noted(spec: UpdateSpec, text: str) -> str:
    return f"{spec.note}; {text}" if spec.note else text
