"""One tensor of a file: what its header says, and reading parts of it.

Reading goes through ``pread`` into a buffer of the requested size, not through
a memory map: mapped pages count as the process's memory until the kernel takes
them back, and then no bound on memory could be stated or tested.
"""

import hashlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rank_lab import torch_archive
from rank_lab.errors import CheckpointError

__all__ = ["FLOAT_DTYPES", "StoredTensor"]

FLOAT_DTYPES = frozenset({"float64", "float32", "float16", "bfloat16"})
"""Storage types whose values are weights; anything else is packed or quantised."""

_CHUNK = 1 << 20  # elements


@dataclass(frozen=True)
class StoredTensor:
    """Header entry of one tensor; small, hashable and picklable.

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
        tensor of a torch archive, which torch itself locates.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    file: Path
    offset: int | None = None

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The stored type as torch's object."""
        return torch_dtype(self.dtype, f"{self.file}: tensor {self.name!r} has type ")

    def read(self) -> Tensor:
        """Read the whole tensor in its stored type."""
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

    def chunks(self) -> Iterator[Tensor]:
        """Stream a tensor of any number of dimensions in row-major order, as flat pieces of one length.

        Yields
        ------
        torch.Tensor
            In the stored type, contiguous; overwritten by the next piece.
        """
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
        return torch_archive.tensor(self.file, self.name)


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
