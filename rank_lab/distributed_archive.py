"""Torch's distributed checkpoints (``.metadata`` and ``*.distcp``, as FSDP saves them), read without running code.

``.metadata`` is a pickle. Only the classes that torch writes into it are
accepted, each replaced by a record without behaviour; any other name in it is
refused before it is looked up. The tensors themselves lie in the ``distcp``
files as torch archives, which are read with ``weights_only=True``.
"""

import io
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rank_lab.errors import CheckpointError

__all__ = ["METADATA_FILE", "DistributedEntry", "entries", "is_distributed", "other_state", "tensor"]

METADATA_FILE = ".metadata"

_MODEL_KEYS = frozenset({"model", "state_dict", "module"})
"""Top-level keys under which a training state holds the model (accelerate's and torchtitan's is ``model``)."""


@dataclass(frozen=True)
class _Piece:
    file: str
    offset: int
    length: int
    at: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class DistributedEntry:
    """One tensor: its shape and type, and the pieces that it was saved in."""

    shape: tuple[int, ...]
    dtype: str
    pieces: tuple[_Piece, ...]


class _Record:
    """Stands for any class of torch's metadata: holds what was saved, does nothing."""

    def __init__(self, *values: Any) -> None:
        self.values = values

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)
        else:
            self.values = tuple(state)


def _layout(name: str) -> str:
    return name


_CLASSES: dict[tuple[str, str], Callable[..., Any]] = {
    **{
        ("torch.distributed.checkpoint.metadata", name): _Record
        for name in (
            "Metadata", "MetadataIndex", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata",
            "TensorProperties", "StorageMeta", "_MEM_FORMAT_ENCODING",
        )
    },
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"): _Record,
    ("torch.distributed.checkpoint.filesystem", "_StoragePrefix"): _Record,
    ("torch.serialization", "_get_layout"): _layout,
    ("torch", "Size"): tuple,
    ("collections", "OrderedDict"): dict,
    **{("pathlib", name): _Record for name in ("PosixPath", "WindowsPath", "PurePosixPath")},
    **{("pathlib._local", name): _Record for name in ("PosixPath", "WindowsPath", "PurePosixPath")},
}  # fmt: skip


class _CodeError(Exception):
    pass


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = _CLASSES.get((module, name))
        if known is not None:
            return known
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return name
        raise _CodeError(f"{module}.{name}")


def is_distributed(folder: Path) -> bool:
    """Whether a folder is a distributed checkpoint."""
    return (folder / METADATA_FILE).is_file() and any(folder.glob("*.distcp"))


def entries(file: Path) -> Mapping[str, DistributedEntry]:
    """The model's tensors by name, without the key under which a training state holds it.

    Parameters
    ----------
    file
        ``.metadata``.

    Raises
    ------
    CheckpointError
        If it is damaged, holds anything but torch's own metadata, or a file that it names is missing or cut.
    """
    return _read(file, _stamp(file))[0]


def other_state(file: Path) -> tuple[tuple[str, str], ...]:
    """What else the checkpoint holds (optimizer, scheduler ...), each key once with the reason why it is not read."""
    return _read(file, _stamp(file))[1]


def tensor(file: Path, name: str) -> Tensor:
    """One tensor, whole; the last two are kept, which the tiles of an update come from."""
    return _tensor(file, name, _stamp(file))


def _stamp(file: Path) -> tuple[int, ...]:
    status = file.stat()
    return status.st_ino, status.st_ctime_ns, status.st_mtime_ns, status.st_size


@lru_cache(maxsize=2)
def _tensor(file: Path, name: str, stamp: tuple[int, ...]) -> Tensor:
    entry = _read(file, stamp)[0][name]
    whole = torch.empty(entry.shape, dtype=getattr(torch, entry.dtype))
    for piece in entry.pieces:
        shard = file.parent / piece.file
        with shard.open("rb") as handle:
            handle.seek(piece.offset)
            data = io.BytesIO(handle.read(piece.length))
        try:
            part = torch.load(data, map_location="cpu", weights_only=True)
        except Exception as error:  # what is no archive fails in any way that bytes can
            raise CheckpointError(
                f"{shard}: tensor {name!r} is no readable archive at byte {piece.offset}; the file was cut or is of"
                " another save: copy it again."
            ) from error
        if not isinstance(part, Tensor) or tuple(part.shape) != piece.shape or part.dtype != whole.dtype:
            raise CheckpointError(
                f"{shard}: tensor {name!r} is not the {entry.dtype} of shape {list(piece.shape)} that {file.name}"
                " says; files of two saves are mixed: copy the checkpoint again."
            )
        where = tuple(slice(start, start + length) for start, length in zip(piece.at, piece.shape, strict=True))
        whole[where] = part
    return whole


@lru_cache(maxsize=4)
def _read(
    file: Path,
    stamp: tuple[int, ...],  # noqa: ARG001 - a part of the key
) -> tuple[dict[str, DistributedEntry], tuple[tuple[str, str], ...]]:
    try:
        content = _Reader(io.BytesIO(file.read_bytes())).load()
        described, stored = dict(content.state_dict_metadata), dict(content.storage_data or {})
        paths = dict(getattr(content, "planner_data", None) or {})
        pieces: dict[str, dict[tuple[int, ...], Any]] = {}
        for index, info in stored.items():
            pieces.setdefault(index.fqn, {})[tuple(getattr(index, "offset", None) or ())] = info
        found, others = {}, {}
        for full, about in described.items():
            key, name = _model_name(full, paths.get(full))
            if key is not None:
                others[key] = "training state beside the model, not a weight"
            elif hasattr(about, "chunks"):
                found[name] = _entry(file, about, pieces.get(full, {}))
    except _CodeError as error:
        raise CheckpointError(
            f"{file}: its pickle calls for {error}, which is none of torch's metadata, and is refused; convert the"
            " checkpoint to safetensors on a machine where you trust the file."
        ) from error
    except CheckpointError:
        raise
    except Exception as error:  # a damaged pickle fails in any way that bytes can
        raise CheckpointError(
            f"{file}: not the metadata of a distributed checkpoint ({type(error).__name__}); copy it again."
        ) from error
    return found, tuple(sorted(others.items()))


def _model_name(full: str, path: Any) -> tuple[str | None, str]:
    """A top-level key that is none of the model's, or None; and the tensor's name."""
    if not isinstance(path, tuple) or len(path) < 2:
        return None, full
    if path[0] in _MODEL_KEYS:
        return None, ".".join(map(str, path[1:]))
    return str(path[0]), full


def _entry(file: Path, about: Any, stored: Mapping[tuple[int, ...], Any]) -> DistributedEntry:
    found = []
    for chunk in about.chunks:
        at, shape = tuple(chunk.offsets), tuple(chunk.sizes)
        info = stored.get(at) or (stored.get(()) if not any(at) else None)
        if info is None or Path(info.relative_path).name != info.relative_path:
            raise CheckpointError(f"{file}: does not say where a piece of a tensor lies; save the checkpoint again.")
        if getattr(info, "transform_descriptors", None):
            raise CheckpointError(f"{file}: its tensors are compressed or encrypted; save the checkpoint without that.")
        shard = file.parent / info.relative_path
        if not shard.is_file() or shard.stat().st_size < info.offset + info.length:
            raise CheckpointError(
                f"{shard}: {'cut' if shard.is_file() else 'missing'}, though {file.name} lists it; copy it again."
            )
        found.append(_Piece(info.relative_path, info.offset, info.length, at, shape))
    return DistributedEntry(tuple(about.size), str(about.properties.values[0]), tuple(found))
