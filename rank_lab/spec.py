"""What is needed to read one update: built from headers, small, and sent to workers."""

import json
from dataclasses import dataclass, replace
from typing import Literal

import torch

from rank_lab.errors import PairingError
from rank_lab.factor_products import product_factors
from rank_lab.merging import initial_factors, merged_layer
from rank_lab.names import Identity, has_vocabulary, identify
from rank_lab.stored_tensor import StoredTensor
from rank_lab.update import DenseUpdate, LowRankUpdate, MemoryMatrix, Update

__all__ = [
    "BASE_CHANGED",
    "BASE_IS_TIED",
    "UpdateKind",
    "UpdateSpec",
    "common_rows",
    "dense_spec",
    "read_update",
    "since",
]

UpdateKind = Literal["dense", "lora", "adalora", "sora", "loha", "lokr", "merged"]

BASE_IS_TIED = "the base ties this head"
"""Start of a note that holds for the change since the base, not for that since an earlier checkpoint."""

BASE_CHANGED = "the base was changed at the start"
"""Start of a note of the same kind, of adapters that take their initial factors out of the base."""


@dataclass(frozen=True)
class UpdateSpec:
    """Where the tensors of one update are and how they form it.

    Parameters
    ----------
    module
        Path of the module, without wrappers and ``.weight``.
    identity
        Stack, layer, kind and expert.
    update_kind
        ``"dense"``: difference of ``tuned`` and ``base``; ``"merged"``: what
        merging an adapter changes; the others: factors.
    shape
        ``(out, in)``, whatever the file's orientation.
    rank_bound
        The largest rank that shape and factors allow.
    sources
        Role to tensor: ``tuned`` and ``base``, or ``B``, ``A`` and ``gate``, or
        those of :func:`rank_lab.factor_products.product_factors`, or all that is
        merged into ``base``; whatever the numbers depend on.
    scaling
        Factor of a factored update, resolved once from the config.
    transposed
        Whether what the sources form is the transpose of the update.
    rows
        Compare only the first so many stored rows.
    weight
        The base weight that the update is added to, for relative norms.
    previous
        Update to subtract: that of an earlier checkpoint, or of the adapter as it was initialised.
    recipe
        What an update depends on beside its tensors: an adapter's config, rows of an embedding.
    base_rounded
        Whether the base was rounded from the same run as the tuned weights: an earlier checkpoint.
    note
        What a reader must know about this update; empty if nothing.
    """

    module: str
    identity: Identity
    update_kind: UpdateKind
    shape: tuple[int, int]
    rank_bound: int
    sources: tuple[tuple[str, StoredTensor], ...]
    scaling: float = 1.0
    transposed: bool = False
    rows: int | None = None
    weight: StoredTensor | None = None
    previous: "UpdateSpec | None" = None
    recipe: str = ""
    base_rounded: bool = False
    note: str = ""

    @property
    def factored(self) -> bool:
        """Whether it is read as factors, and not as a whole matrix."""
        return self.update_kind not in {"dense", "merged"}

    def source(self, role: str) -> StoredTensor | None:
        """The tensor in that role, or None."""
        return dict(self.sources).get(role)

    def required(self, role: str) -> StoredTensor:
        """The tensor in that role.

        Raises
        ------
        PairingError
            If there is none: the spec was not built by :func:`rank_lab.pairing.plan_updates`.
        """
        tensor = self.source(role)
        if tensor is None:
            raise PairingError(
                f"{self.module}: the update spec has no tensor in the role {role!r}; build specs with plan_updates."
            )
        return tensor


def read_update(spec: UpdateSpec) -> Update:
    """The update that a spec describes.

    Factors are read now; a dense update reads its tiles when they are asked for.

    Parameters
    ----------
    spec
        From :func:`rank_lab.pairing.plan_updates`.

    Raises
    ------
    CheckpointError
        If a file was cut or is gone.
    ShapeMismatchError
        If the tensors do not fit together.
    UnsupportedUpdateError
        If PEFT cannot merge the adapter into this layer.
    """
    if spec.update_kind == "dense":
        return DenseUpdate(spec.required("tuned"), spec.source("base"), transposed=spec.transposed, rows=spec.rows)
    if spec.update_kind == "merged" and spec.source("tokens") is None:
        return _merged(spec)
    if spec.previous is not None:
        return _factored(spec).minus(_factored(spec.previous))
    if spec.source("original") is not None:
        B, A, scaling = initial_factors(spec.module, spec.recipe, spec.required("original"))
        return _factored(spec).minus(LowRankUpdate(B, A, scaling))
    return _factored(spec)


def common_rows(tuned: StoredTensor, base: StoredTensor, module: str) -> int | None:
    """How many rows two embeddings or vocabulary heads of different length share; None where that is not the case.

    Parameters
    ----------
    tuned, base
        Tensors of one name.
    module
        Its path; see :func:`has_vocabulary`.
    """
    if len(tuned.shape) != 2 or len(base.shape) != 2 or tuned.shape == base.shape or tuned.shape[1] != base.shape[1]:
        return None
    return min(tuned.shape[0], base.shape[0]) if has_vocabulary(module) else None


def dense_spec(
    module: str,
    tuned: StoredTensor,
    base: StoredTensor,
    *,
    transposed: bool = False,
    note: str = "",
    identity: Identity | None = None,
) -> UpdateSpec:
    """The difference of two stored matrices, of their common rows if a vocabulary was resized.

    Parameters
    ----------
    module
        Path of the module.
    tuned, base
        Both readable, of one shape or of :func:`common_rows`.
    transposed
        Whether the files store ``(in, out)``.
    note
        What else a reader must know.
    identity
        Where the path does not tell it; default what the path tells.
    """
    rows = common_rows(tuned, base, module)
    stored = (tuned.shape[0] if rows is None else rows, tuned.shape[1])
    if rows is not None:
        side, more = ("tuned", tuned.shape[0] - rows) if tuned.shape[0] > rows else ("base", base.shape[0] - rows)
        resized = f"resized: {rows} common rows compared, {more} rows only in the {side} checkpoint"
        note = f"{note}; {resized}" if note else resized
    return UpdateSpec(
        module=module,
        identity=identify(module) if identity is None else identity,
        update_kind="dense",
        shape=(stored[1], stored[0]) if transposed else stored,
        rank_bound=min(stored),
        sources=(("tuned", tuned), ("base", base)),
        transposed=transposed,
        rows=rows,
        weight=base,
        note=note,
    )


def since(spec: UpdateSpec, earlier: UpdateSpec | None) -> UpdateSpec:
    """The change of the same module since an earlier checkpoint.

    Parameters
    ----------
    spec
        Cumulative update now.
    earlier
        Cumulative update then; None for the start of training, where the change
        is the cumulative update itself.

    Raises
    ------
    PairingError
        If the two are not of one kind and shape.
    """
    if earlier is None:
        return spec
    if spec.shape != earlier.shape or (spec.update_kind == "dense") != (earlier.update_kind == "dense"):
        raise PairingError(
            f"{spec.module}: {spec.update_kind} of shape {spec.shape} now, {earlier.update_kind} of shape"
            f" {earlier.shape} in the checkpoint before; a trajectory must be of one training run: analyse them apart."
        )
    note = "; ".join(text for text in spec.note.split("; ") if not text.startswith((BASE_IS_TIED, BASE_CHANGED)))
    if spec.update_kind == "dense":
        sources = (("tuned", spec.required("tuned")), ("base", earlier.required("tuned")))
        return replace(spec, sources=sources, note=note, base_rounded=True)
    # Where both start from the same initial factors, these cancel.
    rank = min(_own_rank(spec) + _own_rank(earlier), *spec.shape)
    return replace(spec, previous=earlier, rank_bound=rank, note=note)


def _own_rank(spec: UpdateSpec) -> int:
    factor = spec.source("A")
    return spec.rank_bound if factor is None else min(factor.shape[0], *spec.shape)


def _merged(spec: UpdateSpec) -> DenseUpdate:
    merged, base = merged_layer(spec.module, spec.recipe, dict(spec.sources))
    if spec.previous is not None:
        base, _ = merged_layer(spec.module, spec.previous.recipe, dict(spec.previous.sources))
    rows = merged.shape[0]  # of a convolution too, whose other dimensions are one here
    return DenseUpdate(
        MemoryMatrix(merged.reshape(rows, -1)), MemoryMatrix(base.reshape(rows, -1)), transposed=spec.transposed
    )


def _tokens(spec: UpdateSpec) -> LowRankUpdate:
    """Rows of an embedding that were trained: each a row of its own in the update, all others zero."""
    rows, base, tokens = json.loads(spec.recipe)["tokens"], spec.required("base"), spec.required("tokens").read()
    before = torch.cat([base.block(slice(row, row + 1), slice(None)) for row in rows])
    where = torch.zeros(spec.shape[0], len(rows), dtype=torch.float64)
    where[rows, range(len(rows))] = 1.0
    return LowRankUpdate(where, tokens.to(torch.float64) - before.to(torch.float64))


def _factored(spec: UpdateSpec) -> LowRankUpdate:
    if spec.update_kind in {"loha", "lokr"} or spec.source("mid") is not None:
        return LowRankUpdate(*product_factors({role: part.read() for role, part in spec.sources}), spec.scaling)
    if spec.source("tokens") is not None:
        return _tokens(spec)
    B, A, gate = spec.required("B").read(), spec.required("A").read(), spec.source("gate")
    if spec.recipe and spec.source("original") is None:
        blocks = json.loads(spec.recipe)["blocks"]  # stored below each other, as many of A and of B
        A, B = (torch.block_diag(*factor.chunk(count)) for factor, count in zip((A, B), blocks, strict=True))
    if spec.transposed:
        B, A = A.T, B.T
    return LowRankUpdate(B, A, spec.scaling, None if gate is None else gate.read().reshape(-1))
