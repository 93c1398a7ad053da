r"""From the tensors of one module in a foreign adapter to its update: factors, scaling, shape.

Scalings as the formats' own programs apply them, none of which is written in
PEFT's config:

* kohya's sd-scripts, ``merge_lora.py``: ``up @ down * alpha / rank``, alpha the
  rank where it is missing; convolutions likewise, ``up`` of size 1.
* LyCORIS, ``locon.py``, ``loha.py``, ``lokr.py`` (their forward pass): alpha / rank;
  LoKr of two whole halves has scale 1 whatever alpha says (its training with
  rs_lora had not, which a file cannot tell). ``diff`` is the difference itself.
* diffusers, ``peft_utils.get_peft_kwargs``: the config in the header's
  ``lora_adapter_metadata``, else alpha / rank of the stored alphas, else 1.
* mlx-lm, ``LoRALinear.fuse``: ``scale * (lora_a @ lora_b).T``, ``scale`` from
  ``lora_parameters``; ``LoRAEmbedding.fuse`` does not transpose.
* torchtune, ``LoRALinear``: ``lora_b.weight @ lora_a.weight * alpha / rank``; the
  weights' file does not record alpha.
"""

import math
from dataclasses import replace

from rank_lab.errors import CheckpointError, ShapeMismatchError, UnsupportedUpdateError
from rank_lab.foreign_names import ForeignGroup
from rank_lab.names import Identity, identify
from rank_lab.spec import UpdateSpec
from rank_lab.stored_tensor import FLOAT_DTYPES, StoredTensor

__all__ = ["difference_spec", "factor_spec", "hadamard_spec", "kronecker_spec", "stored_alpha"]

_NO_ALPHA = "no alpha stored: taken as the rank, as kohya's and LyCORIS' programs load it"


def stored_alpha(group: ForeignGroup) -> float | None:
    """The alpha of a module, read from its one-element tensor; None if there is none.

    Raises
    ------
    CheckpointError
        If it is no positive number: the formats' programs disagree on what 0 means.
    """
    tensor = group.parts.get("alpha")
    if tensor is None:
        return None
    value = float(tensor.read()) if tensor.elements == 1 else math.nan
    if not math.isfinite(value) or value <= 0:
        raise CheckpointError(
            f"{tensor.file}: {tensor.name!r} is {value} of shape {list(tensor.shape)}, expected one positive number;"
            " the scaling cannot be known: save the adapter again."
        )
    return value


def factor_spec(group: ForeignGroup, scaling: float | None, *, transposed: bool = False, note: str = "") -> UpdateSpec:
    """Two factors, or three with LoCon's middle one; convolutions as matrices.

    Parameters
    ----------
    group
        With ``B`` ``(out, r)`` and ``A`` ``(r, in)``, both of any number of trailing dimensions.
    scaling
        None for alpha / rank.
    transposed
        Whether ``B`` is ``(in, r)`` and ``A`` ``(r, out)``.
    note
        What a reader must know.
    """
    A, B, mid = _needed(group, "A"), _needed(group, "B"), group.parts.get("mid")
    rank = A.shape[0] if A.shape else 0
    wide = mid is not None and (mid.shape[:2] != (rank, rank) or A.shape[2:] != (1,) * (len(A.shape) - 2))
    fits = len(A.shape) >= 2 and len(B.shape) >= 2 and B.shape[1:] == (rank,) + (1,) * (len(B.shape) - 2)
    if not fits or wide or rank == 0:
        raise ShapeMismatchError(
            f"{A.file}: {group.module!r}: {B.name!r} is {list(B.shape)} and {A.name!r} is {list(A.shape)}; expected"
            " (out, r, 1 ...) and (r, in, ...) of one rank r. Is the file a mix of two adapters?"
        )
    kernel = mid.shape[2:] if mid is not None else A.shape[2:]
    shape = (B.shape[0], A.elements // rank * (math.prod(kernel) if mid is not None else 1))
    left, right = B.view((B.shape[0], rank)), A.view((rank, A.elements // rank))
    sources = (("B", left), ("A", right)) + (() if mid is None else (("mid", mid),))
    if scaling is None:
        scaling, note = _by_alpha(group, rank, note)
    return UpdateSpec(
        module=group.module,
        identity=_identity(group.module, convolution=len(A.shape) > 2),
        update_kind="lora",
        shape=(shape[1], shape[0]) if transposed else shape,
        rank_bound=min(rank, *shape),
        sources=sources,
        scaling=scaling,
        transposed=transposed,
        note=note,
    )


def hadamard_spec(group: ForeignGroup) -> UpdateSpec:
    """LoHa: the elementwise product of two products of factors."""
    names = [f"hada_w{half}_{side}" for half in (1, 2) for side in "ab"]
    a1, b1, a2, b2 = (_needed(group, name) for name in names)
    cores = [group.parts[name] for name in ("hada_t1", "hada_t2") if name in group.parts]
    rank, other = b1.shape[0], b2.shape[0]
    out_at, rank_at = (1, 0) if cores else (0, 1)
    fits = all(len(t.shape) == 2 for t in (a1, b1, a2, b2)) and a1.shape[out_at] == a2.shape[out_at]
    fits = fits and b1.shape[1] == b2.shape[1] and (a1.shape[rank_at], a2.shape[rank_at]) == (rank, other)
    kernel = cores[0].shape[2:] if cores else ()
    fits = fits and len(cores) in {0, 2} and all(t.shape == (rank, other, *kernel) for t in cores)
    if not fits:
        raise _unfit(group, "hada_w1_a (out, r), hada_w1_b (r, in) and the same of w2")
    scaling, note = _by_alpha(group, rank, "")
    shape = (a1.shape[out_at], b1.shape[1] * math.prod(kernel))
    return _product(group, "loha", shape, rank * other, scaling, note=note)


def kronecker_spec(group: ForeignGroup) -> UpdateSpec:
    """LoKr: the Kronecker product of two matrices, each whole or of two factors."""
    first, second = _kronecker_half(group, "1"), _kronecker_half(group, "2")
    scaling, note = 1.0, ""
    factored = [rank for _, _, rank, whole in (first, second) if not whole]
    if factored:
        scaling, note = _by_alpha(group, factored[0], "")
    elif "alpha" in group.parts:
        note = (
            "both halves of the Kronecker product are whole: scaled by 1 whatever alpha says, as LyCORIS loads it;"
            " where it was trained with rs_lora it was scaled by the root of a rank that is not stored"
        )
    if len(set(factored)) > 1:
        raise _unfit(group, "the same rank in both halves")
    shape = (first[0] * second[0], first[1] * second[1])
    return _product(group, "lokr", shape, min(first[:3]) * min(second[:3]), scaling, note=note)


def difference_spec(group: ForeignGroup) -> UpdateSpec:
    """LyCORIS' full difference, a matrix or a convolution."""
    tensor = _needed(group, "diff")
    if len(tensor.shape) < 2:
        raise _unfit(group, "a diff of at least two dimensions")
    matrix = tensor.view((tensor.shape[0], tensor.elements // max(tensor.shape[0], 1)))
    return UpdateSpec(
        module=group.module,
        identity=_identity(group.module, convolution=len(tensor.shape) > 2),
        update_kind="dense",
        shape=(matrix.shape[0], matrix.shape[1]),
        rank_bound=min(matrix.shape),
        sources=(("tuned", matrix),),
        note="the difference itself is stored",
    )


def _product(
    group: ForeignGroup, kind: str, shape: tuple[int, int], rank: int, scaling: float, *, note: str
) -> UpdateSpec:
    used = tuple((role, tensor) for role, tensor in group.parts.items() if role.startswith(("hada_", "lokr_")))
    convolution = any(len(tensor.shape) > 2 for _, tensor in used)
    spec = UpdateSpec(
        module=group.module,
        identity=_identity(group.module, convolution=convolution),
        update_kind="loha",
        shape=shape,
        rank_bound=min(rank, *shape),
        sources=used,
        scaling=scaling,
        note=note,
    )
    return spec if kind == "loha" else replace(spec, update_kind="lokr")


def _kronecker_half(group: ForeignGroup, number: str) -> tuple[int, int, int, bool]:
    """Rows, columns, rank bound of one half, and whether it is stored whole."""
    name = f"lokr_w{number}"
    if name in group.parts:
        whole = group.parts[name]
        if len(whole.shape) < 2:
            raise _unfit(group, f"{name} of at least two dimensions")
        rows, columns = whole.shape[0], whole.elements // max(whole.shape[0], 1)
        return rows, columns, min(rows, columns), True
    left, right = _needed(group, f"{name}_a"), _needed(group, f"{name}_b")
    core = group.parts.get(f"lokr_t{number}")
    rank = right.shape[0]
    if core is None and len(left.shape) == 2 and len(right.shape) >= 2 and left.shape[1] == rank:
        return left.shape[0], right.elements // rank, rank, False
    if core is not None and left.shape[:1] == (rank,) and core.shape[:2] == (rank, rank) and len(right.shape) == 2:
        return left.shape[1], right.shape[1] * math.prod(core.shape[2:]), rank, False
    raise _unfit(group, f"{name}_a (rows, r) and {name}_b (r, columns)")


def _by_alpha(group: ForeignGroup, rank: int, note: str) -> tuple[float, str]:
    alpha = stored_alpha(group)
    if alpha is None:
        return 1.0, "; ".join(text for text in (note, _NO_ALPHA) if text)
    return alpha / rank, note


def _needed(group: ForeignGroup, role: str) -> StoredTensor:
    tensor = group.parts.get(role)
    if tensor is None:
        there = next(iter(group.parts.values()))
        raise UnsupportedUpdateError(
            f"{there.file}: module {group.module!r} has {', '.join(sorted(group.parts))} but no {role}; the file is"
            " incomplete or of a method that is not read: merge the adapter into its base and compare with --base."
        )
    if tensor.dtype not in FLOAT_DTYPES or tensor.elements == 0:
        raise CheckpointError(
            f"{tensor.file}: {tensor.name!r} is {tensor.dtype} of shape {list(tensor.shape)}, expected numbers in"
            " float16, bfloat16, float32 or float64; save the adapter again."
        )
    return tensor


def _unfit(group: ForeignGroup, expected: str) -> ShapeMismatchError:
    shapes = ", ".join(f"{role} {list(tensor.shape)}" for role, tensor in sorted(group.parts.items()))
    there = next(iter(group.parts.values()))
    return ShapeMismatchError(f"{there.file}: {group.module!r}: {shapes}; expected {expected}: save the adapter again.")


# kohya's names have underscores for dots; these leaves say by themselves what they are.
_LEAVES = (
    "to_q", "to_k", "to_v", "q_proj", "k_proj", "v_proj", "out_proj", "to_out_0", "fc1", "fc2",
)  # fmt: skip


def _identity(module: str, *, convolution: bool) -> Identity:
    if "." not in module:
        leaf = next((leaf for leaf in _LEAVES if module.endswith(f"_{leaf}")), None)
        known = {"to_out_0": "o", "out_proj": "o", "fc1": "up", "fc2": "down"}
        kind = "other" if leaf is None else known.get(leaf) or identify(leaf).kind
        identity = Identity("", None, kind)
    else:
        identity = identify(module)
    return replace(identity, kind="conv") if convolution else identity
