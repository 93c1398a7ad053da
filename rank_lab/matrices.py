"""The matrices that two tensors of one name hold: one, or one per expert, or the weights of a fused one."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from rank_lab.checkpoint import Checkpoint
from rank_lab.expert_stacks import expert_module, flat_stack, is_expert_stack
from rank_lab.fused_weights import fused_parts, is_fused
from rank_lab.names import Identity, identify
from rank_lab.orientation import stacked_transposed, stored_transposed
from rank_lab.spec import UpdateSpec, dense_spec
from rank_lab.stored_tensor import StoredTensor

__all__ = ["is_convolution", "matrix_specs", "stored_as"]

_FUSED_KINDS = frozenset({"qkv", "kv", "gate_up"})


@dataclass(frozen=True)
class _Piece:
    module: str
    identity: Identity
    tuned: StoredTensor
    base: StoredTensor
    transposed: bool = False
    note: str = ""


def matrix_specs(
    key: str, tuned: StoredTensor, base: StoredTensor, sources: tuple[Checkpoint, ...], *, split_fused: bool = False
) -> tuple[UpdateSpec, ...]:
    """Updates of all matrices in two tensors of one name; none if they hold no matrix.

    Parameters
    ----------
    key
        Their common name.
    tuned, base
        Of one shape, or embeddings of different length.
    sources
        Checkpoints whose config may name the architecture, best first.
    split_fused
        Whether fused weights are taken apart by :func:`rank_lab.fused_weights.fused_parts`.
    """
    pieces = _pieces(key, tuned, base, sources)
    if split_fused:
        pieces = [part for piece in pieces for part in _taken_apart(piece, sources)]
    return tuple(
        dense_spec(p.module, p.tuned, p.base, transposed=p.transposed, note=p.note, identity=p.identity) for p in pieces
    )


def stored_as(specs: tuple[UpdateSpec, ...]) -> str:
    """What a coverage row says of a tensor that holds more than one matrix; empty for a single one."""
    if len(specs) == 1:
        return ""
    experts = {spec.identity.expert for spec in specs}
    return f"{len(experts)} experts: {len(specs)} matrices" if len(experts) > 1 else f"fused: {len(specs)} matrices"


def is_convolution(key: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is the kernel of a convolution, by its name and its number of dimensions.

    Modules whose ``weight`` has four or five dimensions are convolutions; one
    with three is one only if its path says so.

    Examples
    --------
    >>> is_convolution("conv1.weight", (8, 4, 3)), is_convolution("bilinear.weight", (8, 4, 4))
    (True, False)
    >>> is_convolution("patch_embeddings.projection.weight", (8, 3, 16, 16)), is_convolution("pos_embed", (1, 4, 8))
    (True, False)
    """
    if not key.endswith(".weight") or not 3 <= len(shape) <= 5:
        return False
    return len(shape) > 3 or any("conv" in part.lower() for part in key.split("."))


def _pieces(key: str, tuned: StoredTensor, base: StoredTensor, sources: tuple[Checkpoint, ...]) -> list[_Piece]:
    module = key.removesuffix(".weight")
    count, turned = flat_stack(key, tuned.shape, _config(sources))
    if count > 1 and tuned.shape == base.shape:
        return list(_numbered(module, (tuned, base), count, turned))
    if len(tuned.shape) == 2:
        transposed, note = stored_transposed(key, sources)
        return [_Piece(module, identify(module), tuned, base, transposed, note)]
    if is_expert_stack(key, tuned.shape):
        return list(_experts(key, tuned, base, sources))
    if is_convolution(key, tuned.shape):
        matrix = (tuned.shape[0], tuned.elements // tuned.shape[0])
        note = f"convolution {list(tuned.shape)}: the first dimension against all others, as stored"
        identity = replace(identify(module), kind="conv")
        return [_Piece(module, identity, tuned.view(matrix), base.view(matrix), note=note)]
    return []


def _experts(key: str, tuned: StoredTensor, base: StoredTensor, sources: tuple[Checkpoint, ...]) -> Iterator[_Piece]:
    count, rows, columns = tuned.shape
    transposed, note = stacked_transposed(key, (rows, columns), sources)
    yield from _numbered(key.removesuffix(".weight"), (tuned, base), count, transposed, note)


def _numbered(
    module: str, pair: tuple[StoredTensor, StoredTensor], count: int, transposed: bool, note: str = ""
) -> Iterator[_Piece]:
    size = pair[0].elements // count
    shape = (size // pair[0].shape[-1], pair[0].shape[-1])
    for expert in range(count):
        name = expert_module(module, expert)
        tuned, base = (tensor.view(shape, start=expert * size) for tensor in pair)
        yield _Piece(name, replace(identify(name), expert=expert), tuned, base, transposed, note)


def _config(sources: tuple[Checkpoint, ...]) -> Mapping[str, Any] | None:
    return next((source.config for source in sources if source.model_type is not None), None)


def _taken_apart(piece: _Piece, sources: tuple[Checkpoint, ...]) -> list[_Piece]:
    if piece.identity.kind not in _FUSED_KINDS and not is_fused(piece.module):
        return [piece]
    axis: Literal[0, 1] = 1 if piece.transposed else 0
    parts, reason = fused_parts(piece.module, piece.tuned.shape[axis], _config(sources))
    if parts and piece.note:
        parts, reason = (), "kept fused: the orientation is not known"
    if not parts:
        return [replace(piece, note="; ".join(text for text in (piece.note, reason) if text))]
    found = []
    for part in parts:
        module = f"{piece.module}.{part.name}"
        sides = [
            tensor.select(axis, period=part.period, start=part.start, length=part.length)
            for tensor in (piece.tuned, piece.base)
        ]
        identity = replace(identify(module), expert=piece.identity.expert)
        found.append(_Piece(module, identity, sides[0], sides[1], piece.transposed, piece.note))
    return found
