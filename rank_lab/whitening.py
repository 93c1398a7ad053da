r"""Biwhitening: scale rows and columns so that noise of unequal size becomes alike.

Noise whose entries have variances :math:`V_{ij}` has no edge of its own: rows of large weights are
rounded more coarsely than others. Positive scalings with

.. math:: \frac1n \sum_j a_i^2 V_{ij} b_j^2 = 1 \ \text{for every row},\qquad
          \frac1m \sum_i a_i^2 V_{ij} b_j^2 = 1 \ \text{for every column}

exist and are unique up to one factor (Sinkhorn); the largest singular value of the scaled noise then
lies at :math:`\sqrt m + \sqrt n`, as if it were white [1]_.

References
----------
.. [1] Landa, Zhang & Kluger (2022), Biwhitening reveals the rank of a count matrix, https://arxiv.org/abs/2103.13840
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["VarianceTiles", "Whitening", "whitening_of"]

VarianceTiles = Callable[[], Iterator[tuple[slice, Tensor]]]
"""Streams a variance map: ranges of stored rows and their variances in float64, ``(rows, columns)``."""

_CONVERGED = 1e-3
_MAX_PASSES = (
    12  # two or three are enough but for very unequal entries, which the last pass leaves alike to some per cent
)


@dataclass(frozen=True, eq=False)
class Whitening:
    """Factors for the rows and the columns of a stored matrix.

    Parameters
    ----------
    rows, columns
        :math:`a` and :math:`b`, float64; zero for a row or column without noise, which is left out.
    total_variance, total_square
        Sum of all variances before scaling, and of their squares.
    spread
        Mean square of the rows' (or the columns', if larger) sums of variances over the square of their
        mean; one where all are alike.
    norm_bound
        Largest singular value of the unscaled noise, at most about the root of the largest row sum of
        variances plus that of the largest column sum (its edge, where all are alike) [1]_.
    imbalance
        Largest relative deviation of a column's mean variance from one at the end.

    References
    ----------
    .. [1] Bandeira & van Handel (2016), https://arxiv.org/abs/1408.6185
    """

    rows: Tensor
    columns: Tensor
    total_variance: float
    total_square: float
    spread: float
    norm_bound: float
    imbalance: float

    def scaled(self, part: slice, tile: Tensor, axis: int) -> Tensor:
        """Scale a tile of whole rows (``axis`` 0) or whole columns (1) in place."""
        rows, columns = (self.rows[part], self.columns) if axis == 0 else (self.rows, self.columns[part])
        return tile.mul_(rows.to(tile.device)[:, None]).mul_(columns.to(tile.device))


def whitening_of(variances: VarianceTiles, shape: tuple[int, int]) -> Whitening:
    """Scalings that make a variance map alike in all rows and columns.

    Parameters
    ----------
    variances
        Streamed once for each pass, so that the map is never held.
    shape
        ``(rows, columns)`` as stored.

    Notes
    -----
    O(m n) a pass; at most twelve.

    Examples
    --------
    >>> variance = torch.tensor([[1.0, 4.0], [9.0, 36.0]], dtype=torch.float64)
    >>> found = whitening_of(lambda: iter([(slice(0, 2), variance)]), (2, 2))
    >>> alike = found.rows[:, None] ** 2 * variance * found.columns**2
    >>> bool((alike - 1).abs().max() < 1e-12), found.total_variance
    (True, 50.0)
    """
    count, width = shape
    rows = torch.zeros(count, dtype=torch.float64)
    columns = torch.ones(width, dtype=torch.float64)
    plain = torch.zeros(width, dtype=torch.float64)
    total, squares, row_squares, longest, imbalance = 0.0, 0.0, 0.0, 0.0, math.inf
    for turn in range(_MAX_PASSES):
        sums = torch.zeros(width, dtype=torch.float64)
        for part, tile in variances():
            across = tile @ columns
            if turn == 0:  # all columns still weigh one
                total += float(across.sum())
                squares += float(torch.linalg.vector_norm(tile)) ** 2
                row_squares += float(across.square().sum())
                longest = max(longest, float(across.max()))
                plain += tile.sum(dim=0)
            rows[part] = _inverse(across, width)
            sums += rows[part] @ tile
        fresh = _inverse(sums, count)
        kept = (columns > 0) & (fresh > 0)
        imbalance = float((columns[kept] / fresh[kept] - 1).abs().max()) if bool(kept.any()) else 0.0
        columns = fresh
        if turn and imbalance < _CONVERGED:
            break
    bound = math.sqrt(longest) + math.sqrt(float(plain.max()))
    spread = max(count * row_squares, width * float(plain.square().sum())) / total**2 if total else 1.0
    return Whitening(rows.sqrt(), columns.sqrt(), total, squares, spread, bound, imbalance)


def _inverse(sums: Tensor, count: int) -> Tensor:
    return torch.where(sums > 0, count / sums.clamp_min(torch.finfo(torch.float64).tiny), 0.0)
