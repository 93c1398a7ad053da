"""What is needed to read one update: built from headers, small, and sent to workers."""

from dataclasses import dataclass, replace
from typing import Literal

from rank_lab.errors import PairingError
from rank_lab.names import Identity
from rank_lab.stored_tensor import StoredTensor
from rank_lab.update import DenseUpdate, LowRankUpdate, Update

__all__ = ["UpdateKind", "UpdateSpec", "read_update", "since"]

UpdateKind = Literal["dense", "lora", "adalora", "sora"]


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
        ``"dense"``: difference of ``tuned`` and ``base``; the others: factors.
    shape
        ``(out, in)``, whatever the file's orientation.
    rank_bound
        The largest rank that shape and factors allow.
    sources
        Role to tensor: ``tuned`` and ``base``, or ``B``, ``A`` and ``gate``.
    scaling
        Factor of a factored update, resolved once from the config.
    transposed
        Whether what the sources form is the transpose of the update.
    rows
        Compare only the first so many stored rows.
    weight
        The base weight that the update is added to, for relative norms.
    previous
        Factored update to subtract, for the change since an earlier checkpoint.
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
    note: str = ""

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
    """
    if spec.update_kind == "dense":
        return DenseUpdate(spec.required("tuned"), spec.source("base"), transposed=spec.transposed, rows=spec.rows)
    update = _factored(spec)
    return update if spec.previous is None else update.minus(_factored(spec.previous))


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
            f" {earlier.shape} in the checkpoint before; a trajectory must be of one training run."
        )
    if spec.update_kind == "dense":
        return replace(spec, sources=(("tuned", spec.required("tuned")), ("base", earlier.required("tuned"))), note="")
    return replace(spec, previous=earlier, rank_bound=min(spec.rank_bound + earlier.rank_bound, *spec.shape))


def _factored(spec: UpdateSpec) -> LowRankUpdate:
    B, A, gate = spec.required("B").read(), spec.required("A").read(), spec.source("gate")
    if spec.transposed:
        B, A = A.T, B.T
    return LowRankUpdate(B, A, spec.scaling, None if gate is None else gate.read().reshape(-1))
