"""A safetensors file written tensor by tensor, so that only one of them is in memory."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import torch
from torch import Tensor

__all__ = ["STORED_TYPES", "SafetensorsWriter"]

STORED_TYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
"""torch's names of types that are written, and the format's."""


class SafetensorsWriter:
    """Tensors of one type, in the order in which they were announced; the header comes first in the file.

    Parameters
    ----------
    file
        Replaced where it is there.
    shapes
        Every tensor that will be written.
    dtype
        A key of :data:`STORED_TYPES`.

    Examples
    --------
    >>> import tempfile
    >>> from safetensors.torch import load_file
    >>> file = Path(tempfile.mkdtemp()) / "a.safetensors"
    >>> with SafetensorsWriter(file, {"x": (2, 3)}, "float32") as writer:
    ...     writer.add("x", torch.ones(2, 3))
    >>> load_file(file)["x"].sum().item()
    6.0
    """

    def __init__(self, file: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str) -> None:
        self._shapes = dict(shapes)
        self._waiting = list(shapes)
        self._dtype: torch.dtype = getattr(torch, dtype)
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        place = 0
        for name, shape in self._shapes.items():
            end = place + math.prod(shape) * self._dtype.itemsize
            header[name] = {"dtype": STORED_TYPES[dtype], "shape": list(shape), "data_offsets": [place, end]}
            place = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._stream: BinaryIO = file.open("wb")
        self._stream.write(len(text).to_bytes(8, "little") + text)

    def add(self, name: str, values: Tensor) -> None:
        """Write the next tensor.

        Raises
        ------
        ValueError
            If another name or shape was announced.
        """
        expected = self._waiting.pop(0) if self._waiting else "nothing"
        if name != expected or tuple(values.shape) != self._shapes[name]:
            raise ValueError(f"tensor {name!r} of shape {list(values.shape)}, where {expected!r} was announced")
        stored = values.to(self._dtype).reshape(-1).contiguous().cpu()
        self._stream.write(stored.view(torch.uint8).numpy().tobytes())

    def __enter__(self) -> Self:
        """The writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file; it is whole only if every announced tensor was written."""
        self._stream.close()
        if kind is None and self._waiting:
            raise ValueError(f"tensor {self._waiting[0]!r} was announced and not written")
