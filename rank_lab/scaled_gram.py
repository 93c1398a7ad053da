r"""The lengths of singular vectors once their whitening is undone, with what noise does to them.

A noisy singular vector is :math:`\hat u = c\, u + \sqrt{1 - c^2}\, w` with a random :math:`w`. Scaled back by
:math:`A = \mathrm{diag}(a)`, :math:`w` gets the mean length :math:`\overline{a^2}`, and would count the noise
of coarse rows for signal: it is subtracted, and :math:`c` divided out.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["ScaledGram", "mostly_noise", "scaled_gram"]

_MOSTLY = 0.5


@dataclass(frozen=True, eq=False)
class ScaledGram:
    r"""Gram matrix of the true vectors, scaled back, and the law of its error.

    Parameters
    ----------
    gram
        :math:`U^T A^2 U`, estimated.
    quartic
        :math:`(U^T A^4 U - (U^T A^2 U)^2) / d`, the covariance of the cross terms with noise that is
        orthogonal to :math:`U`.
    square
        Standard deviation of :math:`a^2` over :math:`\sqrt d`: the error of the noise's own lengths.
    tangent
        :math:`\sqrt{1 - c^2} / c` of each vector.
    """

    gram: Tensor
    quartic: Tensor
    square: float
    tangent: Tensor

    def drawn(self, count: int, rng: np.random.Generator) -> Tensor:
        """The matrix itself, then draws of its estimate, ``(1 + count, k, k)``."""
        size = len(self.gram)
        energies, directions = torch.linalg.eigh(self.quartic)
        root = directions * energies.clamp_min(0.0).sqrt()
        cross = root @ torch.from_numpy(rng.standard_normal((count, size, size))) * self.tangent
        own = torch.from_numpy(rng.standard_normal((count, size, size))) * (self.square / math.sqrt(2.0))
        own = (own + own.mT) * self.tangent[:, None] * self.tangent
        return torch.cat([self.gram[None], self.gram + cross + cross.mT + own])

    @staticmethod
    def root(grams: Tensor) -> Tensor:
        """Matrices whose Gram matrices these are, negative directions left out."""
        energies, directions = torch.linalg.eigh(grams)
        roots: Tensor = energies.clamp_min(0.0).sqrt()[..., None] * directions.mT
        return roots


def mostly_noise(vectors: Tensor, scale: Tensor, cosines: npt.NDArray[np.float64]) -> Tensor:
    """Which vectors would be mostly noise once they are scaled back, ``(k,)``; see :func:`scaled_gram`."""
    lengths = (vectors * scale[:, None]).square().sum(dim=0)
    return (1.0 - _squares(cosines)) * float(scale.square().mean()) > _MOSTLY * lengths


def scaled_gram(vectors: Tensor, scale: Tensor, cosines: npt.NDArray[np.float64]) -> ScaledGram:
    """Scale vectors back and take the noise out of their lengths.

    Parameters
    ----------
    vectors
        Orthonormal columns, ``(d, k)``, none of them :func:`mostly_noise`.
    scale
        :math:`a`, ``(d,)``.
    cosines
        Squared cosines :math:`c^2` with the true vectors, ``(k,)``.

    Examples
    --------
    >>> found = scaled_gram(torch.eye(4, 2, dtype=torch.float64), 2.0 * torch.ones(4, dtype=torch.float64), np.ones(2))
    >>> found.gram.tolist(), found.square
    ([[4.0, 0.0], [0.0, 4.0]], 0.0)
    """
    squares = _squares(cosines)
    cosine = squares.sqrt()[:, None] * squares.sqrt()
    second, fourth = float(scale.square().mean()), float(scale.pow(4).mean())
    scaled = vectors * scale[:, None]
    gram = (scaled.T @ scaled - torch.diag((1.0 - squares) * second)) / cosine
    twice = scaled * scale[:, None]
    quartic = (twice.T @ twice - torch.diag((1.0 - squares) * fourth)) / cosine
    return ScaledGram(
        gram,
        (quartic - gram @ gram) / len(scale),
        math.sqrt(max(fourth - second**2, 0.0) / len(scale)),
        ((1.0 - squares) / squares).sqrt(),
    )


def _squares(cosines: npt.NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(np.clip(cosines, 1e-3, 1.0))
