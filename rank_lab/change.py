"""What can be told of a change before its spectrum: how much is identical, on which grid, how large the weight was."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Literal

import torch
from torch import Tensor

from rank_lab.decomposition import convergence, spectrum_of
from rank_lab.errors import NonFiniteError
from rank_lab.grid import GRIDS, grid_name, lies_on, rounding_variance, spacing
from rank_lab.stored_tensor import StoredTensor
from rank_lab.update import TILE_BYTES, DenseUpdate, Matrix, return_freed_memory, tile_elements

__all__ = ["ChangeStatistics", "WeightNorms", "change_statistics", "vector_change_norm", "weight_norms"]

_BLOCK_WIDTH = 8
_MAX_STEPS = 40
_CONVERGED = 1e-6
_EXACT_UP_TO = 512
_TWICE_ROUNDED = 0.5625  # of both spacings: half of them, and a sixteenth for a float16 on the way
_NEARLY_ALL = 0.999
_CAN_SWALLOW = 1e-4  # share of rounding in the energy: below, no entry is so small that it could be lost


@dataclass(frozen=True)
class ChangeStatistics:
    r"""One pass over both matrices of a dense update.

    Parameters
    ----------
    identical_fraction
        Share of entries that are equal in both files, in [0, 1].
    tuned_grid, base_grid
        The coarsest of bfloat16, float16, float32 and the stored type on which
        all values lie: a float32 file whose low bits are zero is bfloat16.
    tuned_non_finite, base_non_finite
        How many entries are NaN or infinite.
    swallowed_fraction
        Share of unchanged entries where rounding can be the reason: in rows that changed at all (the others
        are tokens that did not occur, or frozen), and zero where rounding is less than
        1e-4 of the squared norm of the change.
    tuned_rounding, base_rounding
        Sum of the variances of rounding to that grid, :math:`\sum_{ij} \mathrm{ulp}_{ij}^2 / 12`; zero
        for float64, whose rounding is below that of any arithmetic here.
    recast
        ``"tuned"`` if that is the base rounded to another grid and nothing else, ``"base"`` if it is the
        other way round, else empty.
    both_rounded
        Whether the change looks like the rounding of both files: of different grids, no entry moved by more,
        and the squared norm is that of their variances. They were then cast from one parent, or the update
        is too small to be told from that.
    """

    identical_fraction: float
    tuned_grid: str
    base_grid: str
    tuned_non_finite: int
    base_non_finite: int
    swallowed_fraction: float = 0.0
    tuned_rounding: float = 0.0
    base_rounding: float = 0.0
    recast: Literal["", "tuned", "base"] = ""
    both_rounded: bool = False

    @property
    def tuned_type(self) -> torch.dtype:
        """The tuned grid as torch's type."""
        return getattr(torch, self.tuned_grid)  # type: ignore[no-any-return]

    @property
    def base_type(self) -> torch.dtype:
        """The base's grid as torch's type; the tuned one's where there is no base."""
        return getattr(torch, self.base_grid or self.tuned_grid)  # type: ignore[no-any-return]


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
    sides = _Side(update.tuned.torch_dtype), _Side((update.base or update.tuned).torch_dtype)
    counts = _Counts()
    for _, tuned, base in update.pieces():
        counts.total += tuned.numel()
        sides[0].add(tuned, base)
        if base is not None:
            sides[1].add(base, tuned)
            counts.add(tuned, base)
            counts.explain(tuned, base, (sides[0].grid, sides[1].grid))
    return_freed_memory()
    tuned_grid, base_grid = (side.grid for side in sides)
    rounding = sides[0].rounding[tuned_grid]
    return ChangeStatistics(
        counts.identical / max(counts.total, 1),
        grid_name(tuned_grid),
        grid_name(base_grid) if update.base is not None else "",
        sides[0].non_finite,
        sides[1].non_finite,
        counts.unchanged / max(counts.in_changed_rows, 1) if rounding > _CAN_SWALLOW * counts.energy > 0.0 else 0.0,
        rounding,
        sides[1].rounding[base_grid],
        _recast(sides, counts.energy) if counts.energy > 0.0 else "",
        counts.energy > 0.0 and _both_rounded(sides, counts),
    )


@dataclass
class _Counts:
    """Entries so far: all, equal ones, those of rows that changed, equal ones there; and the energy of the change."""

    total: int = 0
    identical: int = 0
    in_changed_rows: int = 0
    unchanged: int = 0
    explained: int = 0
    energy: float = 0.0

    def add(self, tuned: Tensor, base: Tensor) -> None:
        same = tuned == base
        rows = same.sum(dim=1)
        changed = rows < tuned.shape[1]
        weights = base[changed] != 0  # nothing is lost beside a zero, which was pruned
        self.identical += int(rows.sum())
        self.in_changed_rows += int(weights.sum())
        self.unchanged += int((same[changed] & weights).sum())
        self.energy += float((tuned.to(torch.float64) - base.to(torch.float64)).square_().sum())

    def explain(self, tuned: Tensor, base: Tensor, grids: tuple[torch.dtype, torch.dtype]) -> None:
        """Count the entries whose change is no larger than the rounding of both sides."""
        steps = spacing(tuned, grids[0]).add_(spacing(base, grids[1])).to(torch.float64)
        change = (tuned.to(torch.float64) - base.to(torch.float64)).abs_()
        self.explained += int((change <= _TWICE_ROUNDED * steps).sum())


class _Side:
    """What one of the two matrices shows, tile by tile, for each grid on which it may lie."""

    def __init__(self, stored: torch.dtype) -> None:
        self.stored = stored
        self.grids = [grid for grid in GRIDS if grid.itemsize <= stored.itemsize]
        self.rounding = dict.fromkeys((*GRIDS, torch.float64), 0.0)
        self.rounds_to_this = list(self.grids)
        self.non_finite = 0

    @property
    def grid(self) -> torch.dtype:
        """The coarsest on which everything so far lies; its own type where that is no coarser."""
        coarsest = self.grids[0] if self.grids else self.stored
        alike = self.stored in self.grids and self.rounding[coarsest] <= self.rounding[self.stored]
        return self.stored if alike else coarsest

    @property
    def is_rounding(self) -> bool:
        """Whether every value so far is the other side's, rounded to a grid on which all of these lie."""
        return any(grid in self.rounds_to_this for grid in self.grids)

    def add(self, tile: Tensor, other: Tensor | None) -> None:
        self.non_finite += int((~torch.isfinite(tile)).sum())
        self.grids = [grid for grid in self.grids if lies_on(tile, grid)]
        for grid in self.grids:
            self.rounding[grid] += float(rounding_variance(tile, grid).sum())
        if other is not None:
            self.rounds_to_this = [grid for grid in self.rounds_to_this if _rounds_to(other, tile, grid)]


def _rounds_to(other: Tensor, tile: Tensor, grid: torch.dtype) -> bool:
    """Whether these are the other values, rounded to the nearest of the grid, or cut off."""
    rounded, exact = other.to(grid), tile.to(torch.float64)
    if bool((rounded.to(torch.float64) == exact).all()):
        return True
    if grid.itemsize != 2:
        return False
    above = rounded.to(torch.float64).abs() > other.to(torch.float64).abs()
    cut = torch.where(above, rounded.view(torch.int16) - 1, rounded.view(torch.int16)).view(grid)
    return bool((cut.to(torch.float64) == exact).all())


def _recast(sides: tuple[_Side, _Side], energy: float) -> Literal["", "tuned", "base"]:
    tuned, base = sides
    if tuned.is_rounding:
        return "tuned"
    # A small update of a coarse base rounds back to it, too; but only a re-cast is as large as rounding.
    return "base" if base.is_rounding and _alike(energy, base.rounding[base.grid]) else ""


def _both_rounded(sides: tuple[_Side, _Side], counts: _Counts) -> bool:
    both = sum(side.rounding[side.grid] for side in sides)
    differ = sides[0].grid != sides[1].grid
    return differ and counts.explained >= _NEARLY_ALL * counts.total and _alike(counts.energy, both)


def _alike(energy: float, rounding: float) -> bool:
    return 0.8 * rounding < energy < 1.25 * rounding


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
