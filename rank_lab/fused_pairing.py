"""Fused weights of one file against the separate ones of another, where a table says how they belong together."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from rank_lab.checkpoint import Checkpoint
from rank_lab.coverage import CoverageRow, Side, VectorChange, not_compared
from rank_lab.fused_weights import FusedPart, fused_parts, is_fused
from rank_lab.names import identify
from rank_lab.orientation import stored_transposed
from rank_lab.spec import UpdateSpec, dense_spec
from rank_lab.stored_tensor import StoredTensor

__all__ = ["FusedPairing", "pair_fused"]

Keyed = Mapping[str, StoredTensor]


@dataclass(frozen=True)
class FusedPairing:
    """Updates, rows and the keys that they settle on either side."""

    specs: tuple[UpdateSpec, ...] = ()
    rows: tuple[CoverageRow, ...] = ()
    vectors: tuple[VectorChange, ...] = ()
    tuned_keys: frozenset[str] = frozenset()
    base_keys: frozenset[str] = frozenset()


def pair_fused(tuned: Keyed, base: Keyed, sources: tuple[Checkpoint, Checkpoint]) -> FusedPairing:
    """Pair fused weights that only one side has with the separate ones that only the other has.

    A separate weight is the part of its kind beside the fused one, if there is
    exactly one of that kind and its shape is the part's. All parts must be there.
    Their biases are compared likewise.

    Parameters
    ----------
    tuned, base
        Common key to tensor.
    sources
        The two checkpoints, whose configs may name the architecture.
    """
    found = [
        *_of_side("tuned", tuned, base, sources),
        *_of_side("base", base, tuned, sources[::-1]),
    ]
    return FusedPairing(
        tuple(spec for pairing in found for spec in pairing.specs),
        tuple(row for pairing in found for row in pairing.rows),
        tuple(vector for pairing in found for vector in pairing.vectors),
        frozenset().union(*(pairing.tuned_keys for pairing in found)),
        frozenset().union(*(pairing.base_keys for pairing in found)),
    )


def _of_side(
    fused_side: Side, fused: Keyed, split: Keyed, sources: tuple[Checkpoint, Checkpoint]
) -> list[FusedPairing]:
    config = next((source.config for source in sources if source.model_type is not None), None)
    lonely = {key: tensor for key, tensor in split.items() if key not in fused}
    found = []
    for key, tensor in fused.items():
        module = key.removesuffix(".weight")
        if key in split or len(tensor.shape) != 2 or not is_fused(module):
            continue
        if stored_transposed(key, sources) != (False, ""):
            continue  # a Conv1D's columns are not a linear layer's rows
        parts, _ = fused_parts(module, tensor.shape[0], config)
        partners = _partners(module, tensor, parts, lonely)
        row = CoverageRow(tensor.name, fused_side, "analysed")
        if partners and not_compared(row, tensor, *partners.values()) is None:
            found.append(_pairing(row, key, tensor, parts, partners))
            found += _biases(row, module, parts, list(partners), fused, lonely)
    return found


def _partners(module: str, tensor: StoredTensor, parts: tuple[FusedPart, ...], split: Keyed) -> dict[str, StoredTensor]:
    """Key and tensor of the separate weight of each part, in their order; empty unless all are there."""
    parent = module.rpartition(".")[0]
    beside = {key: t for key, t in split.items() if key.removesuffix(".weight").rpartition(".")[0] == parent}
    found = {}
    for part in parts:
        shape = (tensor.shape[0] // part.period * part.length, tensor.shape[1])
        kind = identify(f"{parent}.{part.name}").kind
        same = [key for key, t in beside.items() if t.shape == shape and _kind(key) == kind]
        if len(same) != 1:
            return {}
        found[same[0]] = beside[same[0]]
    return found


def _kind(key: str) -> str:
    return identify(key.removesuffix(".weight")).kind


def _pairing(
    row: CoverageRow, key: str, tensor: StoredTensor, parts: tuple[FusedPart, ...], partners: Keyed
) -> FusedPairing:
    fused_is_tuned = row.side == "tuned"
    here, there = ("the tuned checkpoint", "the base") if fused_is_tuned else ("the base", "the tuned checkpoint")
    specs, rows = [], []
    for part, (name, alone) in zip(parts, partners.items(), strict=True):
        module = name.removesuffix(".weight")
        selected = tensor.select(0, period=part.period, start=part.start, length=part.length)
        sides = (selected, alone) if fused_is_tuned else (alone, selected)
        specs.append(dense_spec(module, *sides))
        other: Side = "base" if fused_is_tuned else "tuned"
        found = CoverageRow(alone.name, other, "analysed", f"split here, fused in {here}", module)
        rows.append(replace(found, base=alone) if fused_is_tuned else replace(found, tuned=alone))
    whole = replace(
        row,
        reason=f"fused here, split in {there}",
        module=key.removesuffix(".weight"),
        parts=tuple(spec.module for spec in specs),
    )
    rows.insert(0, replace(whole, tuned=tensor) if fused_is_tuned else replace(whole, base=tensor))
    return _settled(fused_is_tuned, key, partners, FusedPairing(tuple(specs), tuple(rows)))


def _biases(
    row: CoverageRow, module: str, parts: tuple[FusedPart, ...], keys: list[str], fused: Keyed, split: Keyed
) -> list[FusedPairing]:
    """The bias of a fused weight against those of the separate ones; nothing unless all are there and fit."""
    key, names = f"{module}.bias", [f"{name.removesuffix('.weight')}.bias" for name in keys]
    whole = fused.get(key)
    if whole is None or len(whole.shape) != 1 or key in split or any(name not in split for name in names):
        return []
    column = whole.view((whole.shape[0], 1))
    selected = [column.select(0, period=part.period, start=part.start, length=part.length) for part in parts]
    alone = [split[name] for name in names]
    fits = all(t.shape == (part.shape[0],) for t, part in zip(alone, selected, strict=True))
    if not fits or not_compared(row, whole, *alone) is not None:
        return []
    fused_is_tuned = row.side == "tuned"
    other: Side = "base" if fused_is_tuned else "tuned"
    vectors, rows = [], []
    for tensor, part in zip(alone, selected, strict=True):
        single = tensor.view((tensor.shape[0], 1))
        vectors.append(VectorChange(tensor.name, *((part, single) if fused_is_tuned else (single, part))))
        found = CoverageRow(tensor.name, other, "vector", "compared with its part of a fused bias")
        rows.append(replace(found, base=tensor) if fused_is_tuned else replace(found, tuned=tensor))
    reason = "fused here, counted with the separate ones of the other side"
    own = CoverageRow(whole.name, row.side, "skipped", reason)
    rows.insert(0, replace(own, tuned=whole) if fused_is_tuned else replace(own, base=whole))
    return [_settled(fused_is_tuned, key, names, FusedPairing((), tuple(rows), tuple(vectors)))]


def _settled(fused_is_tuned: bool, key: str, others: Iterable[str], pairing: FusedPairing) -> FusedPairing:
    own, separate = frozenset({key}), frozenset(others)
    tuned, base = (own, separate) if fused_is_tuned else (separate, own)
    return replace(pairing, tuned_keys=tuned, base_keys=base)
