"""What can be told of a change before its spectrum: how much is identical, on which grid, how large the weight was."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from rank_lab.decomposition import spectrum_of
from rank_lab.errors import NonFiniteError
from rank_lab.stored_tensor import StoredTensor
from rank_lab.update import TILE_BYTES, DenseUpdate, Matrix

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
    change = tuned.read().to(torch.float64)
    if base is not None:
        change = change - base.read().to(torch.float64)
    norm = float(torch.linalg.vector_norm(change))
    return norm if math.isfinite(norm) else math.nan


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
    frobenius = math.sqrt(sum(float(tile.double().square().sum()) for tile in tiles))
    if not math.isfinite(frobenius):
        raise NonFiniteError("the weight holds NaN or infinite values (in float32); its norms mean nothing.")
    return WeightNorms(frobenius, min(_largest_ritz_value(tiles, weight.shape[1]), frobenius) if frobenius else 0.0)


def _largest_ritz_value(tiles: "_Tiles", columns: int) -> float:
    generator = torch.Generator().manual_seed(0)
    block = torch.linalg.qr(torch.randn(columns, _BLOCK_WIDTH, generator=generator)).Q
    basis, images, best = block, _product(tiles, block), 0.0
    for _ in range(_MAX_STEPS):
        ritz = math.sqrt(float(torch.linalg.eigvalsh(images.double().T @ images.double())[-1]))
        if ritz <= best * (1 + _CONVERGED):
            return max(best, ritz)
        best = ritz
        block = _transposed_product(tiles, images[:, -_BLOCK_WIDTH:])
        # Twice is enough for orthogonality to working precision, also of the directions that QR makes up where the
        # block has lost rank: without it a weight of low rank would seem larger than it is.
        for _ in range(2):
            block = torch.linalg.qr(block - basis @ (basis.T @ block)).Q
        basis, images = torch.cat([basis, block], dim=1), torch.cat([images, _product(tiles, block)], dim=1)
    return best


class _Tiles:
    """Row tiles in float32: kept if small, read again on each pass if not."""

    def __init__(self, weight: Matrix) -> None:
        rows, columns = weight.shape
        self._weight = weight
        self._step = max(1, TILE_BYTES // (4 * max(columns, 1)))
        small = 4 * rows * columns <= 16 * min(rows, columns) ** 2 or 4 * rows * columns <= TILE_BYTES
        self._kept = [self._read(start) for start in range(0, rows, self._step)] if small else None

    def __iter__(self) -> Iterator[Tensor]:
        if self._kept is not None:
            return iter(self._kept)
        return (self._read(start) for start in range(0, self._weight.shape[0], self._step))

    def _read(self, start: int) -> Tensor:
        return self._weight.block(slice(start, start + self._step), slice(0, self._weight.shape[1])).to(torch.float32)


def _product(tiles: _Tiles, right: Tensor) -> Tensor:
    return torch.cat([tile @ right for tile in tiles])


def _transposed_product(tiles: _Tiles, right: Tensor) -> Tensor:
    total, start = torch.zeros(0), 0
    for tile in tiles:
        part = tile.T @ right[start : start + len(tile)]
        total = part if start == 0 else total + part
        start += len(tile)
    return total
