"""Matrices that are read in blocks and lie nowhere: a weight with its adapter, a weight with white noise."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rank_lab.update import Matrix

__all__ = ["FactorMatrix", "MatrixSum", "WhiteNoise"]

_BLOCK = 64  # small, so that tiles of any height draw few entries that they do not need


@dataclass(frozen=True, eq=False)
class MatrixSum:
    """The sum of two matrices in float64, as an adapter would leave it if nothing were rounded.

    Parameters
    ----------
    first, second
        Of one shape, in one orientation.

    Examples
    --------
    >>> ones = FactorMatrix(torch.ones(3, 1), torch.ones(1, 2))
    >>> MatrixSum(ones, ones).block(slice(0, 1), slice(0, 2)).tolist()
    [[2.0, 2.0]]
    """

    first: Matrix
    second: Matrix

    @property
    def shape(self) -> tuple[int, ...]:
        """``(rows, columns)`` as stored."""
        return self.first.shape

    @property
    def torch_dtype(self) -> torch.dtype:
        """Of the sum."""
        return torch.float64

    def block(self, rows: slice, columns: slice) -> Tensor:
        """``sum[rows, columns]``."""
        first, second = self.first.block(rows, columns), self.second.block(rows, columns)
        return first.to(torch.float64) + second.to(torch.float64)


@dataclass(frozen=True, eq=False)
class FactorMatrix:
    """A product of two factors, a block at a time.

    Parameters
    ----------
    left, across
        ``(rows, r)`` and ``(r, columns)``, with whatever scales them.
    """

    left: Tensor
    across: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """``(rows, columns)``."""
        return self.left.shape[0], self.across.shape[1]

    @property
    def torch_dtype(self) -> torch.dtype:
        """Of the factors."""
        return self.left.dtype

    def block(self, rows: slice, columns: slice) -> Tensor:
        """``(left across)[rows, columns]``."""
        return self.left[rows] @ self.across[:, columns]


@dataclass(frozen=True)
class WhiteNoise:
    """Independent Gaussian entries, the same on every reading.

    Parameters
    ----------
    shape
        ``(rows, columns)``.
    norm
        Root mean square of the Frobenius norm.
    seed
        Another one, another matrix.

    Examples
    --------
    >>> noise = WhiteNoise((100, 70), 3.0)
    >>> whole = noise.block(slice(0, 100), slice(0, 70))
    >>> bool((whole[10:90, 65:70] == noise.block(slice(10, 90), slice(65, 70))).all()), round(float(whole.norm()), 1)
    (True, 3.0)
    """

    shape: tuple[int, ...]
    norm: float
    seed: int = 0

    @property
    def torch_dtype(self) -> torch.dtype:
        """Of the entries."""
        return torch.float64

    def block(self, rows: slice, columns: slice) -> Tensor:
        """``noise[rows, columns]``; blocks of a fixed grid are drawn, each from a seed of its own."""
        (top, bottom, _), (left, right, _) = rows.indices(self.shape[0]), columns.indices(self.shape[1])
        above, before = top - top % _BLOCK, left - left % _BLOCK
        lines = [
            torch.cat([self._drawn(row, column) for column in range(before, right, _BLOCK)], dim=1)
            for row in range(above, bottom, _BLOCK)
        ]
        part = torch.cat(lines)[top - above : bottom - above, left - before : right - before]
        return part * (self.norm / math.sqrt(math.prod(self.shape)))

    def _drawn(self, row: int, column: int) -> Tensor:
        # Not torch's generator, which takes 32 bits of a seed: blocks would come again.
        generator = np.random.default_rng((self.seed, row, column))
        return torch.from_numpy(generator.standard_normal((_BLOCK, _BLOCK)))
