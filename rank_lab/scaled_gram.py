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

__all__ = ["Moments", "ScaledGram", "mostly_noise", "scaled_gram"]

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


@dataclass(frozen=True, eq=False)
class Moments:
    r"""Noisy vectors, scaled back once and twice: :math:`\hat U^T A^2 \hat U` and :math:`\hat U^T A^4 \hat U`.

    They add up over parts of the rows, so that long vectors need not be held.
    """

    second: Tensor
    fourth: Tensor

    @classmethod
    def of(cls, vectors: Tensor, scale: Tensor) -> "Moments":
        """Of vectors in columns, ``(d, k)``, and the scale of each row, ``(d,)``."""
        once = vectors * scale[:, None]
        second = once.T @ once
        once *= scale[:, None]
        return cls(second, once.T @ once)

    def __add__(self, other: "Moments") -> "Moments":
        """Of the rows of both."""
        return Moments(self.second + other.second, self.fourth + other.fourth)

    def only(self, kept: Tensor) -> "Moments":
        """Of some of the vectors, by a mask."""
        return Moments(self.second[kept][:, kept], self.fourth[kept][:, kept])


def mostly_noise(moments: Moments, scale: Tensor, cosines: npt.NDArray[np.float64]) -> Tensor:
    """Which vectors would be mostly noise once they are scaled back, ``(k,)``; see :func:`scaled_gram`."""
    return (1.0 - _squares(cosines)) * float(scale.square().mean()) > _MOSTLY * moments.second.diagonal()


def scaled_gram(moments: Moments, scale: Tensor, cosines: npt.NDArray[np.float64]) -> ScaledGram:
    """Take the noise out of the lengths of vectors that were scaled back.

    Parameters
    ----------
    moments
        Of orthonormal vectors, none of them :func:`mostly_noise`.
    scale
        :math:`a`, ``(d,)``.
    cosines
        Squared cosines :math:`c^2` with the true vectors, ``(k,)``.

    Examples
    --------
    >>> scale = 2.0 * torch.ones(4, dtype=torch.float64)
    >>> found = scaled_gram(Moments.of(torch.eye(4, 2, dtype=torch.float64), scale), scale, np.ones(2))
    >>> found.gram.tolist(), found.square
    ([[4.0, 0.0], [0.0, 4.0]], 0.0)
    """
    squares = _squares(cosines)
    cosine = squares.sqrt()[:, None] * squares.sqrt()
    second, fourth = float(scale.square().mean()), float(scale.pow(4).mean())
    gram = (moments.second - torch.diag((1.0 - squares) * second)) / cosine
    quartic = (moments.fourth - torch.diag((1.0 - squares) * fourth)) / cosine
    return ScaledGram(
        gram,
        (quartic - gram @ gram) / len(scale),
        math.sqrt(max(fourth - second**2, 0.0) / len(scale)),
        ((1.0 - squares) / squares).sqrt(),
    )


def _squares(cosines: npt.NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(np.clip(cosines, 1e-3, 1.0))
