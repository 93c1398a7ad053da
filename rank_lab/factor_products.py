r"""Products of more than two factors as two: LyCORIS' Tucker, Hadamard and Kronecker forms.

Exact, and no matrix of the update's size is formed:
:math:`(L_1 R_1) \odot (L_2 R_2) = B A` with row and column products of all pairs of
columns and rows, and :math:`(L_1 R_1) \otimes (L_2 R_2) = (L_1 \otimes L_2)(R_1 \otimes R_2)`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["product_factors"]

Pair = tuple[Tensor, Tensor]


def product_factors(parts: Mapping[str, Tensor]) -> Pair:
    r"""Two factors in float64 whose product is that of all parts, without the scaling.

    Parameters
    ----------
    parts
        Role to tensor, named as in LyCORIS' files. LoCon with ``mid``: ``B``
        ``(out, r)``, ``A`` ``(r, in)``, ``mid`` ``(r, r, k...)``. LoHa:
        ``hada_w1_a`` ``(out, r)``, ``hada_w1_b`` ``(r, in)`` and so ``w2``; with
        ``hada_t1`` and ``hada_t2`` ``(r, r, k...)`` the ``a`` are ``(r, out)``. LoKr:
        ``lokr_w1`` ``(a, c)`` or ``lokr_w1_a`` and ``lokr_w1_b``, ``lokr_w2``
        ``(b, d, k...)`` or its two factors with or without ``lokr_t2``.

    Returns
    -------
    B, A
        ``(out, r)`` and ``(r, in k...)``.

    Examples
    --------
    >>> shapes = {"hada_w1_a": (3, 2), "hada_w1_b": (2, 4), "hada_w2_a": (3, 2), "hada_w2_b": (2, 4)}
    >>> B, A = product_factors({role: torch.ones(shape) for role, shape in shapes.items()})
    >>> tuple(B.shape), tuple(A.shape), float((B @ A)[0, 0])
    ((3, 4), (4, 4), 4.0)
    """
    wide = {role: value.to(torch.float64) for role, value in parts.items()}
    if "mid" in wide:
        return wide["B"], _tucker_right(wide["mid"], wide["A"])
    if "hada_w1_a" in wide:
        first, second = _half(wide, "hada_", "1"), _half(wide, "hada_", "2")
        left = torch.einsum("oi,oj->oij", first[0], second[0]).flatten(1)
        return left, torch.einsum("ik,jk->ijk", first[1], second[1]).flatten(0, 1)
    first, second = _half(wide, "lokr_", "1"), _half(wide, "lokr_", "2")
    return torch.kron(first[0], second[0].contiguous()), torch.kron(first[1], second[1].contiguous())


def _half(parts: Mapping[str, Tensor], kind: str, number: str) -> Pair:
    whole = parts.get(f"{kind}w{number}")
    if whole is not None:
        matrix = whole.flatten(1)
        unit = torch.eye(min(matrix.shape), dtype=matrix.dtype)
        return (unit, matrix) if matrix.shape[0] <= matrix.shape[1] else (matrix, unit)
    left, right, core = parts[f"{kind}w{number}_a"], parts[f"{kind}w{number}_b"], parts.get(f"{kind}t{number}")
    return (left, right.flatten(1)) if core is None else (left.T, _tucker_right(core, right))


def _tucker_right(core: Tensor, right: Tensor) -> Tensor:
    """Core ``(r, r, k...)`` and ``(r, in)`` as one factor ``(r, in k...)``."""
    return torch.einsum("ij...,jc->ic...", core, right).flatten(1)
