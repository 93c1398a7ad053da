"""Torch's own files (``.bin``, ``.pt``, ``.pth``), read without running code.

``torch.load(weights_only=True)`` refuses every pickle that is more than tensors
and plain containers; nothing here ever relaxes that.
"""

import pickle
import re
import warnings
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rank_lab.archive_check import check_archive, is_zip
from rank_lab.errors import CheckpointError

__all__ = ["aliases", "content", "storage_type", "tensor", "tensors"]

_WRAPPERS = ("state_dict", "model", "module")
_LFS_POINTER = b"version https://git-lfs"
_UNPICKLER_REASON = re.compile(r"WeightsUnpickler error:\s*([^\n]+)")
_CODE = re.compile(r"GLOBAL (\S+)")


def tensors(file: Path) -> Mapping[str, Tensor]:
    """All tensors of an archive by name, mapped from disk where the format allows.

    Parameters
    ----------
    file
        A file written by ``torch.save``. Zip archives (torch >= 1.6) are mapped,
        so that only touched pages are read; the older format is read whole.

    Raises
    ------
    CheckpointError
        If the file is no torch archive, is cut, or holds pickled code.
    """
    stat = file.stat()
    return _load(file, (stat.st_ino, stat.st_ctime_ns, stat.st_mtime_ns, stat.st_size))


def tensor(file: Path, name: str) -> Tensor:
    """One tensor of an archive; see :func:`tensors`."""
    return tensors(file)[name]


def storage_type(value: Tensor) -> str:
    """Name of a tensor's stored type; one that torch does not know where there is no plain array of values.

    Examples
    --------
    >>> storage_type(torch.ones(2)), storage_type(torch.eye(2).to_sparse()), storage_type(torch.ones(2, device="meta"))
    ('float32', 'sparse_coo float32', 'meta float32')
    """
    dtype = str(value.dtype).removeprefix("torch.")
    if value.is_meta:
        return f"meta {dtype}"
    return dtype if value.layout == torch.strided else f"{str(value.layout).removeprefix('torch.')} {dtype}"


def aliases(file: Path) -> dict[str, str]:
    """Names that share their storage with an earlier name: tied weights.

    Returns
    -------
    dict
        Later name to first name, for tensors of equal place, shape and stride.
    """
    first: dict[tuple[object, ...], str] = {}
    tied: dict[str, str] = {}
    for name, value in tensors(file).items():
        if value.numel() and " " not in storage_type(value):
            key = (value.data_ptr(), tuple(value.shape), value.stride(), value.dtype)
            if first.setdefault(key, name) != name:
                tied[name] = first[key]
    return tied


@lru_cache(maxsize=4)
def _load(file: Path, stamp: tuple[int, ...]) -> Mapping[str, Tensor]:  # noqa: ARG001 - a part of the key
    return _state_dict(content(file), file)


def content(file: Path, records: Mapping[str, type] | None = None) -> Any:
    """All that an archive holds, its tensors mapped from disk where the format allows.

    Parameters
    ----------
    file
        A file written by ``torch.save``.
    records
        Full names of classes, each with one without behaviour that takes its place.

    Raises
    ------
    CheckpointError
        If the file is no torch archive, is cut, or holds pickled code.
    """
    replaced: list[Any] = [(record, name) for name, record in (records or {}).items()]
    try:
        check_archive(file, frozenset(records or ()))
        with warnings.catch_warnings(), torch.serialization.safe_globals(replaced):
            warnings.simplefilter("ignore")  # torch's remarks on old formats concern those who write them
            return torch.load(file, map_location="cpu", weights_only=True, mmap=is_zip(file))
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        code = _CODE.search(str(error))
        if code is not None:
            raise CheckpointError(
                f"{file}: its pickle calls for code ({code[1]}) and is refused unread; convert it to safetensors on a"
                " machine where you trust the file."
            ) from error
        raise _unreadable(file, error) from error
    except Exception as error:  # what is no pickle fails in any way that bytes can
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> CheckpointError:
    with file.open("rb") as handle:
        start = handle.read(len(_LFS_POINTER))
    if start == _LFS_POINTER:
        return CheckpointError(
            f"{file}: is a Git LFS pointer of {file.stat().st_size} bytes, not weights; run 'git lfs pull' in its"
            " repository."
        )
    other = "GGUF" if start[:4] == b"GGUF" else "safetensors" if start[8:9] == b"{" else ""
    if other:
        return CheckpointError(
            f"{file}: is a {other} file by its first bytes, not torch's; give it the ending .{other.lower()}."
        )
    if start.startswith(b"PK") and not is_zip(file):
        return CheckpointError(
            f"{file}: an archive of {file.stat().st_size} bytes without its end; the file was cut or is still being"
            " written: copy it again."
        )
    reason = _UNPICKLER_REASON.search(str(error))
    text = reason[1] if reason else (str(error).strip() or type(error).__name__).splitlines()[0]
    return CheckpointError(
        f"{file}: not a readable torch file ({text[:120]}); expected what torch.save writes: copy it again or convert"
        " it to safetensors."
    )


def _state_dict(content: Any, file: Path) -> Mapping[str, Tensor]:
    if isinstance(content, Mapping):
        for key in _WRAPPERS:
            inner = content.get(key)
            if isinstance(inner, Mapping) and any(isinstance(value, Tensor) for value in inner.values()):
                content = inner
                break
        found = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        if found:
            return found
    raise CheckpointError(
        f"{file}: holds a {type(content).__name__} without named tensors; expected a state dict: save the model's"
        " state_dict() instead."
    )
