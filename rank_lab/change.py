"""What can be told of a change before its spectrum: how much is identical, on which grid, how large the weight was."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor

from rank_lab.decomposition import convergence, spectrum_of
from rank_lab.errors import NonFiniteError
from rank_lab.stored_tensor import StoredTensor
from rank_lab.update import TILE_BYTES, DenseUpdate, Matrix, return_freed_memory, tile_elements

__all__ = ["ChangeStatistics", "WeightNorms", "change_statistics", "vector_change_norm", "weight_norms"]

_GRIDS = (torch.bfloat16, torch.float16, torch.float32)
_BLOCK_WIDTH = 8
_MAX_STEPS = 40
_CONVERGED = 1e-6
_EXACT_UP_TO = 512


@dataclass(frozen=True)
class ChangeStatistics:
    """One pass over both matrices of a dense update.

    Parameters
    ----------
    identical_fraction
        Share of entries that are equal in both files, in [0, 1].
    tuned_grid, base_grid
        The coarsest of bfloat16, float16, float32 and the stored type on which
        all values lie: a float32 file whose low bits are zero is bfloat16.
    tuned_non_finite, base_non_finite
        How many entries are NaN or infinite.
    """

    identical_fraction: float
    tuned_grid: str
    base_grid: str
    tuned_non_finite: int
    base_non_finite: int


@dataclass(frozen=True)
class WeightNorms:
    """Norms of the weight that an update is added to."""

    frobenius: float
    spectral: float


def change_statistics(update: DenseUpdate) -> ChangeStatistics:
    """Compare the two matrices of a dense update entry by entry.

    Parameters
    ----------
    update
        Streamed once, in tiles.

    Notes
    -----
    O(m n), limited by memory bandwidth.

    Examples
    --------
    >>> from rank_lab.update import MemoryMatrix
    >>> base, tuned = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.5]])
    >>> change_statistics(DenseUpdate(MemoryMatrix(tuned), MemoryMatrix(base))).identical_fraction
    0.5
    """
    identical = total = 0
    bad = [0, 0]
    grids = [list(_GRIDS), list(_GRIDS)]
    for _, tuned, base in update.pairs():
        total += tuned.numel()
        sides = (tuned,) if base is None else (tuned, base)
        for side, tile in enumerate(sides):
            bad[side] += int((~torch.isfinite(tile)).sum())
            grids[side] = [grid for grid in grids[side] if _lies_on(tile, grid)]
        if base is not None:
            identical += int((tuned == base).sum())
    stored = (
        update.tuned.torch_dtype,
        update.base.torch_dtype if update.base is not None else update.tuned.torch_dtype,
    )
    return_freed_memory()
    names = [_dtype_name(found[0] if found else own) for found, own in zip(grids, stored, strict=True)]
    return ChangeStatistics(
        identical / max(total, 1), names[0], names[1] if update.base is not None else "", bad[0], bad[1]
    )


def _lies_on(tile: Tensor, grid: torch.dtype) -> bool:
    if tile.dtype == grid:
        return True
    return bool((tile.to(grid).to(tile.dtype) == tile).all())


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def vector_change_norm(tuned: StoredTensor, base: StoredTensor | None) -> float:
    """Euclidean norm of the change of a tensor of any number of dimensions, in float64; NaN if it is not finite."""
    energy = 0.0
    for part, other in zip(tuned.chunks(), repeat(None) if base is None else base.chunks(), strict=base is not None):
        change = part.to(torch.float64, copy=True)
        energy += float(torch.linalg.vector_norm(change if other is None else change.sub_(other))) ** 2
    return math.sqrt(energy) if math.isfinite(energy) else math.nan


def weight_norms(weight: Matrix) -> WeightNorms:
    r"""Frobenius and spectral norm of a weight.

    The spectral norm is the largest Ritz value of a block Krylov space [1]_,
    enlarged until a step adds less than a share of 1e-6; it approaches from
    below, and the tests hold it to 1e-4 of the exact value on flat spectra, the
    hardest case. Up to a short side of 512 it comes from the exact Gram matrix.

    Parameters
    ----------
    weight
        Streamed; kept in float32 while it is no larger than two Gram matrices
        of its short side.

    Raises
    ------
    NonFiniteError
        If the weight holds NaN or infinity.
    ShapeMismatchError
        If it holds no values.

    References
    ----------
    .. [1] Musco & Musco (2015), https://arxiv.org/abs/1504.05477

    Examples
    --------
    >>> from rank_lab.update import MemoryMatrix
    >>> norms = weight_norms(MemoryMatrix(torch.diag(torch.tensor([3.0, 4.0]))))
    >>> round(norms.frobenius, 6), round(norms.spectral, 6)
    (5.0, 4.0)
    """
    if min(weight.shape) <= _EXACT_UP_TO:
        spectrum = spectrum_of(DenseUpdate(weight))
        return WeightNorms(spectrum.frobenius_norm, float(spectrum.values[0]))
    tiles = _Tiles(weight)
    frobenius = math.sqrt(sum(float(torch.linalg.vector_norm(tile, dtype=torch.float64)) ** 2 for tile in tiles))
    if not math.isfinite(frobenius):
        raise NonFiniteError("the weight holds NaN or infinite values (in float32); its norms mean nothing.")
    with convergence(weight.shape):
        spectral = frobenius * min(_largest_ritz_value(tiles, frobenius), 1.0) if frobenius else 0.0
    del tiles
    return_freed_memory()
    return WeightNorms(frobenius, spectral)


def _largest_ritz_value(tiles: "_Tiles", scale: float) -> float:
    """Spectral norm of the weight over ``scale``, in a Krylov space of the short side, which is all that is kept."""
    generator = torch.Generator().manual_seed(0)
    side = min(tiles.shape)
    bases, all_images = torch.empty(2, _MAX_STEPS * _BLOCK_WIDTH, side)
    block, best = torch.linalg.qr(torch.randn(side, _BLOCK_WIDTH, generator=generator)).Q.T, 0.0
    for end in range(_BLOCK_WIDTH, len(bases) + 1, _BLOCK_WIDTH):
        basis, images = bases[:end], all_images[:end]
        basis[-_BLOCK_WIDTH:] = block
        images[-_BLOCK_WIDTH:] = _energy_product(block, tiles, scale)
        direction = torch.linalg.eigh((basis @ images.T).double()).eigenvectors[:, -1].float()
        vector = direction @ basis
        # A Rayleigh quotient is never above the largest value, even of a basis that is not quite orthogonal.
        ritz = math.sqrt(max(float(vector @ (direction @ images) / vector.square().sum()), 0.0))
        if ritz <= best * (1 + _CONVERGED):
            return max(best, ritz)
        best, block = ritz, images[-_BLOCK_WIDTH:]
        for _ in range(2):  # twice is enough for orthogonality to working precision
            block = torch.linalg.qr((block - (block @ basis.T) @ basis).T).Q.T
    return best


class _Tiles:
    """Row tiles in float32: kept if small, read again on each pass if not."""

    def __init__(self, weight: Matrix) -> None:
        self.shape = rows, columns = weight.shape
        self._weight = weight
        self._step = max(1, tile_elements(rows, columns) // columns)
        self._kept: Tensor | None = None
        if 4 * rows * columns <= max(16 * min(rows, columns) ** 2, TILE_BYTES):
            kept = torch.empty(rows, columns)
            for start in range(0, rows, self._step):
                kept[start : start + self._step] = self._read(start)
            self._kept = kept

    def __iter__(self) -> Iterator[Tensor]:
        if self._kept is not None:
            return iter(self._kept.split(self._step))
        return (self._read(start).to(torch.float32) for start in range(0, self.shape[0], self._step))

    def _read(self, start: int) -> Tensor:
        return self._weight.block(slice(start, start + self._step), slice(0, self.shape[1]))


def _energy_product(block: Tensor, tiles: _Tiles, scale: float) -> Tensor:
    """``block`` times the weight times its transpose, on the short side, over ``scale`` squared.

    The block lies in rows: as columns its products are up to twenty times slower.
    """
    rows, columns = tiles.shape
    total = torch.zeros(len(block), columns)
    if rows >= columns:
        for tile in tiles:
            total += (block @ tile.T).div_(scale).div_(scale) @ tile
        return total
    start = 0
    for tile in tiles:
        total += block[:, start : start + len(tile)] @ tile
        start += len(tile)
    total.div_(scale).div_(scale)
    return torch.cat([total @ tile.T for tile in tiles], dim=1)
