r"""What a module's update is as a matrix: found by asking both modules, so that it is exact for any affine method.

A linear module in any disguise (LoRA, DoRA, IA3, SoRA, a full fine-tune ...) is known from what it makes of the unit
vectors and of zero: :math:`\Delta W e_i + \Delta b = f'(e_i) - f(e_i)`. Asked in float64, that is the update as it is
applied, scale and gates included, to rounding. What is not affine is found out by its real inputs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rank_lab.decomposition import convergence

__all__ = ["AffineChange", "affine_change", "is_affine"]

_ROWS = 1024
_EPS = 2.0**-52
_LEFT = 1e-10  # of the energy about the bias: what a method that computes in float32 may leave
_ROUNDING = 1e-13  # of what was subtracted


@dataclass(frozen=True, eq=False)
class AffineChange:
    r"""A change :math:`\Delta W x + \Delta b`, with its singular value decomposition.

    Parameters
    ----------
    weight
        :math:`\Delta W`, shape ``(out, in)``, float64.
    bias
        :math:`\Delta b`, shape (out,).
    values
        Singular values of the weight's change that are more than rounding, shape (rank,).
    reduced
        Shape ``(rank, in)``: :math:`S V^\top`, which makes of an input the change in the basis of the left vectors.
    """

    weight: Tensor
    bias: Tensor
    values: Tensor
    reduced: Tensor

    @property
    def rank(self) -> int:
        """Of the weight's change."""
        return len(self.values)

    @property
    def has_bias(self) -> bool:
        """Whether the bias changed."""
        return bool((self.bias != 0).any())

    def with_bias(self) -> Tensor:
        """What makes of an input with a one behind it the whole change, in an orthonormal basis: (rank + 1, in + 1)."""
        whole = torch.cat((self.weight, self.bias[:, None]), dim=1)
        with convergence(tuple(whole.shape)):
            _, values, vectors = torch.linalg.svd(whole, full_matrices=False)
        reduced: Tensor = values[: self.rank + 1, None] * vectors[: self.rank + 1]
        return reduced


def affine_change(change: Callable[[Tensor], Tensor], in_features: int, *, scale: float = 1.0) -> AffineChange:
    r"""The change that a function is if it is affine.

    Parameters
    ----------
    change
        From inputs of shape (rows, in), float64, to :math:`f'(x) - f(x)`.
    in_features
        in.
    scale
        Size of the outputs that are subtracted, for unit inputs: their rounding is no change.

    Examples
    --------
    >>> found = affine_change(lambda rows: rows @ torch.tensor([[2.0], [0.0]]).double() + 3, 2)
    >>> found.weight.tolist(), found.bias.tolist(), found.rank
    ([[2.0, 0.0]], [3.0], 1)
    """
    nothing = torch.zeros(1, in_features, dtype=torch.float64)
    bias = change(nothing)[0]
    unit = torch.eye(in_features, dtype=torch.float64)
    weight = torch.cat([change(rows) - bias for rows in unit.split(_ROWS)]).T.contiguous()
    scale = max(scale, float(bias.abs().max()) if len(bias) else 0.0)
    floor = _EPS * scale
    weight, bias = torch.where(weight.abs() > 4 * floor, weight, 0.0), torch.where(bias.abs() > 4 * floor, bias, 0.0)
    with convergence(tuple(weight.shape)):
        _, values, vectors = torch.linalg.svd(weight, full_matrices=False)
    tolerance = max(weight.shape) * _EPS * max(float(values[0]) if len(values) else 0.0, scale)
    rank = int((values > tolerance).sum())
    return AffineChange(weight, bias, values[:rank], values[:rank, None] * vectors[:rank])


def is_affine(affine: AffineChange, inputs: Tensor, change: Tensor, *, scale: float = 1.0) -> bool:
    """Whether a function is what it would be if it were affine.

    Parameters
    ----------
    affine
        Of :func:`affine_change`.
    inputs, change
        Real ones, float64, shapes (rows, in) and (rows, out).
    scale
        As of :func:`affine_change`.

    Examples
    --------
    >>> rows = torch.linspace(-1, 1, 6).double().reshape(3, 2)
    >>> [is_affine(affine_change(each, 2), rows, each(rows)) for each in (lambda x: 2 * x + 1, torch.tanh)]
    [True, False]
    """
    left = float(((change - inputs @ affine.weight.T - affine.bias) ** 2).sum())
    varied = float(((change - affine.bias) ** 2).sum())
    outputs = float((change**2).sum()) + scale**2 * inputs.shape[1] * float((inputs**2).sum())
    return left <= _LEFT * varied + _ROUNDING**2 * outputs
