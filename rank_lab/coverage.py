"""What became of every tensor of either checkpoint."""

import re
from collections.abc import Container
from dataclasses import dataclass, field, replace
from typing import Literal

from rank_lab.spec import UpdateSpec
from rank_lab.stored_tensor import FLOAT_DTYPES, StoredTensor

__all__ = ["CoverageRow", "Plan", "Side", "Status", "VectorChange", "belongs_to_packed", "not_compared", "unreadable"]

Side = Literal["both", "tuned", "base"]
Status = Literal["analysed", "identical", "vector", "new", "skipped"]


@dataclass(frozen=True)
class CoverageRow:
    """One tensor and what became of it.

    Parameters
    ----------
    tensor
        Name in the file where it is (the tuned one's, if in both).
    side
        Which checkpoint holds it.
    status
        ``analysed``; ``identical``: not changed at all; ``vector``: no matrix,
        has a norm only; ``new``: only in the tuned one; ``skipped``: see the reason.
    reason
        Why; empty if analysed.
    module
        The update that it belongs to, empty if none.
    parts
        The updates that it belongs to where they are several: the experts of a
        stack, the weights in a fused one. ``module`` is then its own path.
    tuned, base
        Header entries, for shape and type.
    frobenius_norm
        Norm of its change; NaN where it could not be had.
    failed
        Whether this is something the user should mend, not a matter of course.
    """

    tensor: str
    side: Side
    status: Status
    reason: str = ""
    module: str = ""
    tuned: StoredTensor | None = None
    base: StoredTensor | None = None
    frobenius_norm: float = float("nan")
    failed: bool = False
    parts: tuple[str, ...] = ()

    @property
    def modules(self) -> tuple[str, ...]:
        """All updates that the tensor belongs to."""
        return self.parts or ((self.module,) if self.module else ())

    def but(self, status: Status, reason: str, *, failed: bool = False) -> "CoverageRow":
        """The same tensor with another fate."""
        return replace(self, status=status, reason=reason, failed=failed)


@dataclass(frozen=True)
class VectorChange:
    """A tensor that is no matrix and whose change has a norm only.

    Parameters
    ----------
    tensor
        Name in the file where it is.
    tuned, base
        The change is their difference; ``base=None`` where ``tuned`` is the change itself.
    scaling
        Factor of the change, of a bias beside LoRA's factors.
    """

    tensor: str
    tuned: StoredTensor
    base: StoredTensor | None
    scaling: float = 1.0


@dataclass(frozen=True)
class Plan:
    """Which tensors form which update, and what became of every other.

    Parameters
    ----------
    specs
        One per update, in the order of the tuned checkpoint's names.
    coverage
        One row per tensor of either side.
    vectors
        Those rows of status ``vector`` whose norm can be had.
    method
        What made the update: ``full``, ``lora``, ``adalora``, ``sora``, or PEFT's name of another method.
    """

    specs: tuple[UpdateSpec, ...]
    coverage: tuple[CoverageRow, ...]
    method: str
    vectors: tuple[VectorChange, ...] = field(default=())


# Integer tensors that models store and never train: positions, masks, counters.
# Of the types, no quantised format packs weights into 64-bit integers or booleans.
_BUFFER_DTYPES = frozenset({"int64", "bool"})
_BUFFER = re.compile(
    r"(.+\.)?(position_ids|token_type_ids|relative_position_index|num_batches_tracked|(attn|attention)\.bias)"
)


# What GPTQ, AWQ, bitsandbytes and compressed-tensors keep beside packed weights, and the names of those.
_UNPACKS = {
    "scales": ("qweight",), "qzeros": ("qweight",), "g_idx": ("qweight",), "SCB": ("weight",),
    "weight_scale": ("weight", "weight_packed"), "weight_scale_inv": ("weight",), "input_scale": ("weight",),
}  # fmt: skip
_STATE_OF_PACKED = frozenset({"absmax", "quant_map", "nested_absmax", "nested_quant_map"})


def not_compared(row: CoverageRow, *tensors: StoredTensor) -> CoverageRow | None:
    """The row's fate if the values of one of its tensors are no weights; None if all are.

    Parameters
    ----------
    row
        As it stands.
    tensors
        Those that would be read.
    """
    for tensor in tensors:
        buffer = tensor.dtype in _BUFFER_DTYPES or _BUFFER.fullmatch(tensor.name) is not None
        if tensor.dtype not in FLOAT_DTYPES and buffer:
            return row.but("skipped", f"a buffer of {tensor.dtype}: positions, masks or counters, not trained")
        reason = unreadable(tensor)
        if reason:
            return row.but("skipped", reason, failed=True)
    return None


def belongs_to_packed(row: CoverageRow, tensor: StoredTensor, names: Container[str]) -> CoverageRow | None:
    """The fate of a float tensor that serves to unpack a quantised one: scales, zero points; None if it does not.

    Parameters
    ----------
    row
        As it stands.
    tensor
        Of the tuned checkpoint.
    names
        All names of that checkpoint.
    """
    module, _, leaf = tensor.name.rpartition(".")
    packed = next((f"{module}.{name}" for name in _UNPACKS.get(leaf, ()) if f"{module}.{name}" in names), None)
    if packed is None and leaf in _STATE_OF_PACKED and module in names:
        packed = module
    return None if packed is None else row.but("skipped", f"serves to unpack the quantised {packed}")


def unreadable(tensor: StoredTensor) -> str:
    """Why this tensor's values cannot be compared; empty if they can.

    Examples
    --------
    >>> from pathlib import Path
    >>> unreadable(StoredTensor("q.qweight", (4, 4), "int32", Path("x"))).split(":")[0]
    'stored as int32'
    """
    if 0 in tensor.shape:
        return (
            f"shape {list(tensor.shape)}: saved before the partitions were gathered (ZeRO-3); gather the weights and"
            " save again"
        )
    if tensor.dtype not in FLOAT_DTYPES:
        return f"stored as {tensor.dtype}: packed or quantised; dequantise both checkpoints to float and save again"
    return ""
