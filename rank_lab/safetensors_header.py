"""The header of a safetensors file: names, types, shapes and byte ranges.

The format is eight bytes of length, a JSON header and the data
(https://github.com/huggingface/safetensors#format). The header is read here
rather than through the library because byte ranges, which the library does not
give out, are what the digests and the bounded reads need.
"""

import math
from pathlib import Path
from typing import Any

from rank_lab.errors import CheckpointError
from rank_lab.plain_file import parse_json, size_of
from rank_lab.stored_tensor import StoredTensor, torch_dtype

__all__ = ["DTYPES", "read_header"]

DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
    "BOOL": "bool", "C64": "complex64",
}  # fmt: skip
"""Torch's name of each type of the format."""

# The library's own limit is 100 MB, of which Python makes gigabytes; that of 100 000 tensors is 13 MB.
_MAX_HEADER_BYTES = 25_000_000
_OTHER_FORMATS = {b"PK\3\4": "a torch or zip archive", b"GGUF": "a GGUF file"}


def read_header(file: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Read and check the header of a safetensors file.

    Parameters
    ----------
    file
        The file; only its header is read.

    Returns
    -------
    tensors, metadata
        Tensors by name, and the header's free text entries.

    Raises
    ------
    CheckpointError
        If the file is cut, a Git LFS pointer, or its header contradicts itself
        or the file's size, or is larger than 25 MB.

    Notes
    -----
    The library's reader takes two things that this one refuses: a tensor that
    is there twice, of which it keeps the last, and headers of 25 to 100 MB. The
    other way round, a type that is unknown here is listed and refused on reading.
    """
    size = size_of(file)
    if not size:
        raise CheckpointError(f"{file}: the file is empty; copy it again.")
    with file.open("rb") as handle:
        start = handle.read(8)
        if start.startswith(b"version "):
            raise CheckpointError(
                f"{file}: is a Git LFS pointer of {size} bytes, not weights; run 'git lfs pull' in its repository."
            )
        if other := _OTHER_FORMATS.get(start[:4]):
            raise CheckpointError(
                f"{file}: is {other} by its first bytes, not safetensors; give it the ending of its own format, or"
                " convert it."
            )
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > size - 8:
            raise CheckpointError(
                f"{file}: is {size} bytes long but announces a header of {length}; the file was cut or is no"
                " safetensors file: copy it again."
            )
        if length > _MAX_HEADER_BYTES:
            raise CheckpointError(
                f"{file}: has a header of {length} bytes, more than the {_MAX_HEADER_BYTES} that are read; save the"
                " model in several shards."
            )
        raw = handle.read(length)
    entries = _parse(raw, file)
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise CheckpointError(
            f"{file}: its header's __metadata__ is no object of texts; the file is damaged: copy it again."
        )
    tensors = {name: _tensor(name, entry, file, 8 + length) for name, entry in entries.items()}
    _check_extent(entries, file, 8 + length, size)
    return tensors, metadata


def _parse(raw: bytes, file: Path) -> dict[str, Any]:
    try:
        entries = parse_json(raw, constants=False)
    except ValueError as error:  # not UTF-8, not JSON, a tensor twice, a number of thousands of digits
        raise CheckpointError(
            f"{file}: its header cannot be parsed as JSON ({error}); copy the file again, or save a model of more than"
            " 100 000 tensors in shards."
        ) from error
    if not isinstance(entries, dict):
        raise CheckpointError(
            f"{file}: its header is a JSON {type(entries).__name__}, expected an object of tensors; the file is"
            " damaged: copy it again."
        )
    return entries


def _tensor(name: str, entry: Any, file: Path, data_start: int) -> StoredTensor:
    try:
        code, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        code, shape, begin, end = None, (), -1, -1
    if not _is_code(code) or not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
        raise CheckpointError(
            f"{file}: the header entry of tensor {name!r} lacks a proper dtype, shape or data_offsets; the file is"
            " damaged: copy it again."
        )
    dtype = DTYPES.get(code, code)
    if end < begin or (code in DTYPES and end - begin != math.prod(shape) * torch_dtype(dtype).itemsize):
        raise CheckpointError(
            f"{file}: tensor {name!r} of shape {list(shape)} and type {code} cannot lie in bytes {begin} to {end}; the"
            " file is damaged: copy it again."
        )
    return StoredTensor(name=name, shape=shape, dtype=dtype, file=file, offset=data_start + begin)


def _is_code(code: object) -> bool:
    """Whether it may be a type: one that is not known is listed and not read."""
    return isinstance(code, str) and (code in DTYPES or (code.isidentifier() and code.isascii() and len(code) <= 32))


def _check_extent(entries: dict[str, Any], file: Path, data_start: int, size: int) -> None:
    """Check that the tensors fill the file, each byte once, as the format demands."""
    ranges = sorted((*entry["data_offsets"], name) for name, entry in entries.items())
    reached = 0
    for begin, end, name in ranges:
        if data_start + end > size:
            raise CheckpointError(
                f"{file}: ends at byte {size}, before tensor {name!r} does (byte {data_start + end}); "
                "the file was cut or is still being written: copy it again."
            )
        if begin != reached:
            what = "overlaps the tensor before it" if begin < reached else "leaves a gap behind the tensor before it"
            raise CheckpointError(
                f"{file}: tensor {name!r} starts at byte {begin} of the data and {what}, which ends at byte {reached};"
                " the header is damaged: save or copy the file again."
            )
        reached = end
    if data_start + reached != size:
        raise CheckpointError(
            f"{file}: is {size} bytes long but its tensors end at byte {data_start + reached}; header and data are of"
            " different files: copy it again."
        )
