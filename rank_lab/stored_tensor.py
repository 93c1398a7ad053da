"""One tensor of a file: what its header says, and reading parts of it.

Reading goes through ``pread`` into a buffer of the requested size, not through
a memory map: mapped pages count as the process's memory until the kernel takes
them back, and then no bound on memory could be stated or tested.
"""

import hashlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rank_lab import distributed_archive, torch_archive, zero_archive
from rank_lab.errors import CheckpointError, ShapeMismatchError

__all__ = ["FLOAT_DTYPES", "Selection", "StoredTensor"]

FLOAT_DTYPES = frozenset({"float64", "float32", "float16", "bfloat16"})
"""Storage types whose values are weights; anything else is packed or quantised."""

_CHUNK = 1 << 20  # elements
_PAGE = 4096


@dataclass(frozen=True)
class Selection:
    """Every ``period`` rows or columns, those from ``start`` on, ``length`` of them: one part of a fused weight.

    Parameters
    ----------
    axis
        0 for rows, 1 for columns, as stored.
    period
        Of the pattern; the whole length for a part that is one range.
    start, length
        Of the part in each period.
    whole
        Length of that axis in the file.
    """

    axis: Literal[0, 1]
    period: int
    start: int
    length: int
    whole: int

    def runs(self, part: slice) -> Iterator[slice]:
        """Ranges in the file that a range of the selected rows or columns stands for."""
        first, last, _ = part.indices(self.whole // self.period * self.length)
        while first < last:
            turn, within = divmod(first, self.length)
            count = min(self.length - within, last - first)
            begin = turn * self.period + self.start + within
            yield slice(begin, begin + count)
            first += count


@dataclass(frozen=True)
class StoredTensor:
    """Header entry of one tensor, or of a part of it; small, hashable and picklable.

    Parameters
    ----------
    name
        Name inside the file.
    shape
        As stored.
    dtype
        Torch's name of the stored type, such as ``"bfloat16"``.
    file
        The file that holds it.
    offset
        Byte offset of its first element in a safetensors file; None for a
        tensor of a torch archive, which torch itself locates, or of a
        distributed checkpoint, whose ``.metadata`` is the file, or of DeepSpeed's
        partitions, whose first one is.
    start
        First element of a part of a tensor of a torch archive; see :meth:`view`.
    selection
        Rows or columns of a fused weight; see :meth:`select`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    file: Path
    offset: int | None = None
    start: int = 0
    selection: Selection | None = None

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The stored type as torch's object."""
        return torch_dtype(self.dtype, f"{self.file}: tensor {self.name!r} has type ")

    def view(self, shape: tuple[int, ...], *, start: int = 0) -> "StoredTensor":
        """The elements from ``start`` on, in row-major order, as a tensor of that shape.

        A convolution as a matrix, one expert of a stack, the first rows of a fused weight.

        Parameters
        ----------
        shape
            Of the view.
        start
            First element.

        Raises
        ------
        ShapeMismatchError
            If the tensor does not hold so many elements from there on, or is a selection.

        Examples
        --------
        >>> stack = StoredTensor("experts.w1", (4, 3, 2), "float32", Path("x"), 100)
        >>> expert = stack.view((3, 2), start=6)
        >>> expert.shape, expert.offset
        ((3, 2), 124)
        """
        if self.selection is not None or start < 0 or start + math.prod(shape) > self.elements:
            raise ShapeMismatchError(
                f"{self.file}: tensor {self.name!r} of shape {list(self.shape)} has no {list(shape)} from element"
                f" {start} on; expected a part of what is stored."
            )
        if self.offset is None:
            return replace(self, shape=shape, start=self.start + start)
        return replace(self, shape=shape, offset=self.offset + start * self.torch_dtype.itemsize)

    def select(self, axis: Literal[0, 1], *, period: int, start: int, length: int) -> "StoredTensor":
        """Rows or columns of a matrix that come again with a period: one of the weights in a fused one.

        Parameters
        ----------
        axis
            0 for rows, 1 for columns, as stored.
        period, start, length
            Of each ``period`` the ``length`` from ``start`` on.

        Raises
        ------
        ShapeMismatchError
            If the pattern does not fit the matrix.

        Examples
        --------
        >>> fused = StoredTensor("qkv", (12, 5), "float32", Path("x"), 0)
        >>> fused.select(0, period=6, start=2, length=2).shape
        (4, 5)
        """
        fits = len(self.shape) == 2 and self.selection is None and period > 0 and self.shape[axis] % period == 0
        if not fits or start < 0 or length < 1 or start + length > period:
            raise ShapeMismatchError(
                f"{self.file}: tensor {self.name!r} of shape {list(self.shape)} has no {length} of every {period} from"
                f" {start} on along axis {axis}; expected a matrix whose side is a multiple of the period."
            )
        chosen = self.shape[axis] // period * length
        shape = (chosen, self.shape[1]) if axis == 0 else (self.shape[0], chosen)
        return replace(self, shape=shape, selection=Selection(axis, period, start, length, self.shape[axis]))

    def _unselected(self) -> "StoredTensor":
        chosen = self.selection
        if chosen is None:
            return self
        shape = (chosen.whole, self.shape[1]) if chosen.axis == 0 else (self.shape[0], chosen.whole)
        return replace(self, shape=shape, selection=None)

    def read(self) -> Tensor:
        """Read the whole tensor in its stored type."""
        if self.selection is not None:
            return self.block(slice(None), slice(None))
        if self.offset is None:
            return _copied(self._mapped())
        buffer = np.empty(self.elements * self.torch_dtype.itemsize, dtype=np.uint8)
        with self.file.open("rb") as handle:
            _fill(handle.fileno(), buffer.data, self.offset, self)
        return _shaped(buffer, self.torch_dtype, self.shape)

    def block(self, rows: slice, columns: slice) -> Tensor:
        """Read ``tensor[rows, columns]`` of a matrix, touching no other byte.

        Parameters
        ----------
        rows, columns
            Ranges with a step of one.

        Returns
        -------
        torch.Tensor
            In the stored type, contiguous, shape ``(rows, columns)``.
        """
        if self.selection is not None:
            return self._selected_block(self.selection, rows, columns)
        if self.offset is None:
            return _copied(self._mapped()[rows, columns])
        (first, last, _), (left, right, _) = rows.indices(self.shape[0]), columns.indices(self.shape[1])
        item, width = self.torch_dtype.itemsize, self.shape[1]
        height, across = max(last - first, 0), max(right - left, 0)
        buffer = np.empty(height * across * item, dtype=np.uint8)
        view = buffer.data
        with self.file.open("rb") as handle:
            descriptor = handle.fileno()
            if across == width:
                _fill(descriptor, view, self.offset + first * width * item, self)
            else:
                for row in range(height):
                    start = self.offset + ((first + row) * width + left) * item
                    _fill(descriptor, view[row * across * item : (row + 1) * across * item], start, self)
        return _shaped(buffer, self.torch_dtype, (height, across))

    def _selected_block(self, chosen: Selection, rows: slice, columns: slice) -> Tensor:
        whole = self._unselected()
        runs = list(chosen.runs(rows if chosen.axis == 0 else columns)) or [slice(0, 0)]
        if chosen.axis == 1 and len(runs) > 1 and chosen.length * self.torch_dtype.itemsize < _PAGE:
            span = whole.block(rows, slice(runs[0].start, runs[-1].stop))
            kept = [column - runs[0].start for run in runs for column in range(run.start, run.stop)]
            return span[:, kept]  # a few bytes of every row: one read of the row is faster than many
        parts = [whole.block(run, columns) if chosen.axis == 0 else whole.block(rows, run) for run in runs]
        return torch.cat(parts, dim=chosen.axis)

    def chunks(self) -> Iterator[Tensor]:
        """Stream a tensor of any number of dimensions in row-major order, as flat pieces of one length.

        Yields
        ------
        torch.Tensor
            In the stored type, contiguous; overwritten by the next piece.
        """
        if self.selection is not None:
            step = max(1, _CHUNK // max(self.shape[1], 1))
            for start in range(0, self.shape[0], step):
                yield self.block(slice(start, start + step), slice(None)).reshape(-1)
            return
        if self.offset is None:
            flat = self._mapped().detach().reshape(-1)
            for start in range(0, flat.numel(), _CHUNK):
                yield flat[start : start + _CHUNK].contiguous()
            return
        item = self.torch_dtype.itemsize
        buffer = np.empty(min(self.elements, _CHUNK) * item, dtype=np.uint8)
        with self.file.open("rb") as handle:
            for start in range(0, self.elements, _CHUNK):
                part = buffer[: min(_CHUNK, self.elements - start) * item]
                _fill(handle.fileno(), part.data, self.offset + start * item, self)
                yield torch.from_numpy(part).view(self.torch_dtype)

    def digest(self) -> str:
        """Digest of the tensor's bytes; equal content gives equal digests in any file format.

        Returns
        -------
        str
            128 bits of BLAKE2b, in hexadecimal, over dtype, shape and bytes in row-major order.
        """
        state = hashlib.blake2b(f"{self.dtype}{self.shape}".encode(), digest_size=16)
        for chunk in self.chunks():
            state.update(chunk.view(torch.uint8).numpy().data)
        return state.hexdigest()

    def _mapped(self) -> Tensor:
        _ = self.torch_dtype  # a type of torch's, so that there are plain values
        if self.file.name == distributed_archive.METADATA_FILE:
            whole = distributed_archive.tensor(self.file, self.name)
        elif zero_archive.is_partition(self.file):
            whole = zero_archive.tensor(self.file, self.name)
        else:
            whole = torch_archive.tensor(self.file, self.name)
        if tuple(whole.shape) == self.shape and not self.start:
            return whole
        return whole.reshape(-1)[self.start : self.start + self.elements].reshape(self.shape)


def torch_dtype(name: str, where: str = "") -> torch.dtype:
    """Torch's dtype of that name.

    Parameters
    ----------
    name
        Without ``torch.``.
    where
        Start of the message if there is none: file and tensor.

    Raises
    ------
    CheckpointError
        If torch has no such type.
    """
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise CheckpointError(
            f"{where}{name!r}, which torch does not know; re-save the tensors as float32, float16 or bfloat16."
        )
    return dtype


def _shaped(buffer: npt.NDArray[np.uint8], dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    # torch cannot view an empty array as another type
    return torch.from_numpy(buffer).view(dtype).reshape(shape) if buffer.size else torch.empty(shape, dtype=dtype)


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().clone(memory_format=torch.contiguous_format)  # stored in any stride, read row-major


def _fill(descriptor: int, view: memoryview, offset: int, tensor: StoredTensor) -> None:
    done = 0
    while done < len(view):
        count = os.preadv(descriptor, [view[done:]], offset + done)
        if count == 0:
            raise CheckpointError(
                f"{tensor.file}: the file ends inside tensor {tensor.name!r}, which its header places at byte "
                f"{tensor.offset}; the file was cut or is still being written: copy it again."
            )
        done += count
