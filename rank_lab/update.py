r"""Weight updates as operators: :math:`\Delta W` of shape ``(out, in)``, streamed or factored."""

import ctypes
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from rank_lab.errors import ShapeMismatchError

__all__ = ["DenseUpdate", "LowRankUpdate", "Matrix", "MemoryMatrix", "Update", "return_freed_memory", "tile_elements"]

TILE_BYTES = 16 << 20
"""Limit on one float64 tile; a tile holds at least one row or column."""

TILE_LENGTH = 256
"""Limit on its size in rows or columns of the short side: products run at full speed, a Gram matrix is larger."""

_PIECE = 1 << 17  # elements; what is computed entry by entry stays in the processor's cache
_ROWS_AT_ONCE = 64  # of a tile in a subtraction, which converts one side on its way
_COLUMN_TILES_PER_READ = 4  # columns lie apart in a file: one system call for each row of a read

# glibc's; other systems have none.
_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def tile_elements(rows: int, columns: int) -> int:
    """Elements in a tile of a matrix of that shape."""
    return min(TILE_LENGTH * min(rows, columns), TILE_BYTES // 8)


def return_freed_memory() -> None:
    """Give what the last tiles took back to the system.

    glibc keeps up to 64 MB that was freed, in pieces that the next matrix does
    not fit into; it would come on top of every statement about memory.
    """
    if _malloc_trim is not None:
        _malloc_trim(0)


class Matrix(Protocol):
    """A matrix that can be read in blocks: a tensor in memory or in a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """``(rows, columns)`` as stored."""
        ...

    @property
    def torch_dtype(self) -> torch.dtype:
        """The stored type."""
        ...

    def block(self, rows: slice, columns: slice) -> Tensor:
        """``matrix[rows, columns]`` in the stored type."""
        ...


@dataclass(frozen=True, eq=False)
class MemoryMatrix:
    """A tensor in memory as a :class:`Matrix`."""

    values: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """``(rows, columns)``."""
        return tuple(self.values.shape)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The tensor's type."""
        return self.values.dtype

    def block(self, rows: slice, columns: slice) -> Tensor:
        """``values[rows, columns]``."""
        return self.values[rows, columns]


@dataclass(frozen=True, eq=False)
class DenseUpdate:
    r"""Difference of two stored matrices, :math:`\Delta W = W_1 - W_0`, never held whole.

    Differences are taken in float64, where those of float32, float16 and
    bfloat16 values of like size are exact.

    Parameters
    ----------
    tuned, base
        The two matrices in the file's orientation; ``base=None`` means zero.
    transposed
        Whether the files store ``(in, out)``, as transformers' Conv1D does.
    rows
        Compare only the first so many stored rows (a resized vocabulary).

    Raises
    ------
    ShapeMismatchError
        If the two do not have the same shape (of the common rows), or hold no values.

    Examples
    --------
    >>> update = DenseUpdate(MemoryMatrix(torch.ones(2, 3)), MemoryMatrix(torch.zeros(2, 3)))
    >>> update.shape, round(update.frobenius_norm() ** 2, 9)
    ((2, 3), 6.0)
    """

    tuned: Matrix
    base: Matrix | None = None
    transposed: bool = False
    rows: int | None = None

    def __post_init__(self) -> None:
        """Check that the two matrices can be subtracted."""
        if len(self.tuned.shape) != 2:
            raise ShapeMismatchError(f"an update is a matrix, but the tuned tensor has shape {list(self.tuned.shape)}.")
        base = self.tuned if self.base is None else self.base
        if self.tuned.shape[1:] != base.shape[1:] or (self.rows is None and self.tuned.shape != base.shape):
            raise ShapeMismatchError(
                f"tuned is {list(self.tuned.shape)} but base is {list(base.shape)}; they must be the same module"
                " of the same model."
            )
        common = min(self.tuned.shape[0], base.shape[0])
        if not 0 < self.stored_shape[0] <= common or self.stored_shape[1] == 0:
            raise ShapeMismatchError(
                f"an update of stored shape {list(self.stored_shape)} from matrices with {common} common rows; expected"
                " at least one row and column, and no more rows than both have."
            )

    @property
    def stored_shape(self) -> tuple[int, int]:
        """Shape in the file's orientation, of the rows that are compared."""
        rows, columns = self.tuned.shape
        return (rows if self.rows is None else self.rows), columns

    @property
    def shape(self) -> tuple[int, int]:
        """``(out, in)``."""
        rows, columns = self.stored_shape
        return (columns, rows) if self.transposed else (rows, columns)

    @property
    def rank_bound(self) -> int:
        """The largest rank that the shape allows."""
        return min(self.shape)

    def tiles(self, axis: Literal[0, 1] = 0, *, device: str = "cpu") -> Iterator[tuple[slice, Tensor]]:
        """Stream the difference in float64, in the file's orientation.

        Parameters
        ----------
        axis
            0 for tiles of whole rows, 1 for tiles of whole columns.
        device
            Where to subtract.

        Yields
        ------
        slice, torch.Tensor
            The range along ``axis`` and the tile.
        """
        step = self._tile_length(axis)
        for part, tuned, base in self.pairs(axis):
            for start in range(part.start, part.stop, step):
                tile = slice(start, min(start + step, part.stop))
                block = axis, start - part.start, tile.stop - start
                yield tile, _difference(tuned.narrow(*block), None if base is None else base.narrow(*block), device)
            del tuned, base  # before the next are read

    def pairs(self, axis: Literal[0, 1] = 0) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
        """Stream both matrices in their stored types, one or a few tiles at a time; see :meth:`tiles`."""
        rows, columns = self.stored_shape
        length = (rows, columns)[axis]
        step = self._tile_length(axis) * (_COLUMN_TILES_PER_READ if axis else 1)
        for start in range(0, length, step):
            part = slice(start, min(start + step, length))
            block = (part, slice(0, columns)) if axis == 0 else (slice(0, rows), part)
            yield part, self.tuned.block(*block), None if self.base is None else self.base.block(*block)

    def pieces(self) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
        """Stream both matrices in few whole rows at a time, for what is computed entry by entry; see :meth:`pairs`."""
        step = max(1, _PIECE // self.stored_shape[1])
        for part, tuned, base in self.pairs():
            for start in range(0, len(tuned), step):
                rows = slice(start, start + step)
                place = slice(part.start + start, min(part.start + start + step, part.stop))
                yield place, tuned[rows], None if base is None else base[rows]
            del tuned, base  # before the next are read

    def _tile_length(self, axis: Literal[0, 1]) -> int:
        return max(1, tile_elements(*self.stored_shape) // max(self.stored_shape[1 - axis], 1))

    def matmul(self, right: Tensor) -> Tensor:
        r""":math:`\Delta W X` in float64, one pass over the files; ``right`` is ``(in, k)``."""
        return self._columns(right) if self.transposed else self._rows(right)

    def transpose_matmul(self, right: Tensor) -> Tensor:
        r""":math:`\Delta W^T X` in float64, one pass over the files; ``right`` is ``(out, k)``."""
        return self._rows(right) if self.transposed else self._columns(right)

    def frobenius_norm(self) -> float:
        """Frobenius norm, accumulated in float64 over one pass."""
        return math.sqrt(sum(float(torch.linalg.vector_norm(tile)) ** 2 for _, tile in self.tiles()))

    def to_dense(self) -> Tensor:
        """Materialise, ``(out, in)`` in float64."""
        stored = torch.cat([tile for _, tile in self.tiles()])
        return stored.T.contiguous() if self.transposed else stored

    def _rows(self, right: Tensor) -> Tensor:
        right = right.to(torch.float64)
        return torch.cat([tile @ right for _, tile in self.tiles(device=str(right.device))])

    def _columns(self, right: Tensor) -> Tensor:
        right = right.to(torch.float64)
        total = torch.zeros(self.stored_shape[1], right.shape[1], dtype=torch.float64, device=right.device)
        for part, tile in self.tiles(device=str(right.device)):
            total += tile.T @ right[part]
        return total


def _difference(tuned: Tensor, base: Tensor | None, device: str) -> Tensor:
    difference = tuned.to(device).to(torch.float64, copy=True)  # a float64 tile in memory is the caller's own
    if base is not None:
        others = base.to(device).split(_ROWS_AT_ONCE)
        for rows, other_rows in zip(difference.split(_ROWS_AT_ONCE), others, strict=True):
            rows.sub_(other_rows)
    return difference


@dataclass(frozen=True, eq=False)
class LowRankUpdate:
    r"""Factored update, :math:`\Delta W = s\, B\, \mathrm{diag}(g)\, A`, never formed.

    Parameters
    ----------
    B
        ``(out, r)``.
    A
        ``(r, in)``.
    scaling
        The factor :math:`s`, for good: alpha/r, alpha/sqrt(r), ...
    gate
        ``(r,)``: SoRA's gate or AdaLoRA's singular values; None for plain LoRA.

    Raises
    ------
    ShapeMismatchError
        If the factors do not fit together.

    Examples
    --------
    >>> update = LowRankUpdate(torch.ones(4, 2), torch.ones(2, 3), scaling=0.5)
    >>> update.shape, update.rank_bound
    ((4, 3), 2)
    >>> bool((update.to_dense() == torch.ones(4, 3)).all())
    True
    """

    B: Tensor
    A: Tensor
    scaling: float = 1.0
    gate: Tensor | None = None

    def __post_init__(self) -> None:
        """Check that the factors fit together."""
        if self.B.ndim != 2 or self.A.ndim != 2 or self.B.shape[1] != self.A.shape[0]:
            raise ShapeMismatchError(
                f"B is {list(self.B.shape)} and A is {list(self.A.shape)}; expected (out, r) and (r, in) of one rank r."
            )
        if self.gate is not None and tuple(self.gate.shape) != (self.A.shape[0],):
            raise ShapeMismatchError(
                f"gate is {list(self.gate.shape)}; expected ({self.A.shape[0]},), one value per row of A."
            )

    @property
    def shape(self) -> tuple[int, int]:
        """``(out, in)``."""
        return self.B.shape[0], self.A.shape[1]

    @property
    def rank_bound(self) -> int:
        """The largest rank that factors and shape allow."""
        return min(self.A.shape[0], *self.shape)

    def factors(self, *, device: str = "cpu") -> tuple[Tensor, Tensor]:
        r"""Factors ``(out, r)`` and ``(r, in)`` in float64 whose plain product is :math:`\Delta W`."""
        left = self.B.to(device=device, dtype=torch.float64) * self.scaling
        if self.gate is not None:
            left = left * self.gate.to(device=device, dtype=torch.float64)
        return left, self.A.to(device=device, dtype=torch.float64)

    def matmul(self, right: Tensor) -> Tensor:
        r""":math:`\Delta W X` in float64; ``right`` is ``(in, k)``."""
        left, across = self.factors(device=str(right.device))
        return left @ (across @ right.to(torch.float64))

    def transpose_matmul(self, right: Tensor) -> Tensor:
        r""":math:`\Delta W^T X` in float64; ``right`` is ``(out, k)``."""
        left, across = self.factors(device=str(right.device))
        return across.T @ (left.T @ right.to(torch.float64))

    def frobenius_norm(self) -> float:
        """Frobenius norm from the factors alone, in O((out + in) r^2)."""
        left, across = self.factors()
        core = torch.linalg.qr(left, mode="r").R @ torch.linalg.qr(across.T, mode="r").R.T
        return float(torch.linalg.matrix_norm(core))

    def to_dense(self) -> Tensor:
        """Materialise, ``(out, in)`` in float64."""
        left, across = self.factors()
        return left @ across

    def minus(self, other: "LowRankUpdate") -> "LowRankUpdate":
        """The difference of two factored updates, factored, of rank at most the sum of both.

        Equal factors give exactly zero; nearly equal ones cancel to rounding,
        which the floor of the spectrum accounts for.

        Raises
        ------
        ShapeMismatchError
            If the two do not have the same shape.
        """
        if self.shape != other.shape:
            raise ShapeMismatchError(
                f"updates of shape {self.shape} and {other.shape} have no difference; they must be of one module."
            )
        (left, across), (other_left, other_across) = self.factors(), other.factors()
        columns = torch.cat([left, -other_left], dim=1)
        if torch.equal(left, other_left) and torch.equal(across, other_across):
            columns = torch.zeros_like(columns)
        return LowRankUpdate(columns, torch.cat([across, other_across]))


Update = DenseUpdate | LowRankUpdate
"""Any kind of update: both have the same attributes and methods, and neither is materialised but by ``to_dense``."""
