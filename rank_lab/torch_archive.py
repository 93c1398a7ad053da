"""Torch's own files (``.bin``, ``.pt``, ``.pth``), read without running code.

``torch.load(weights_only=True)`` refuses every pickle that is more than tensors
and plain containers; nothing here ever relaxes that.
"""

import pickle
import zipfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rank_lab.errors import CheckpointError

__all__ = ["aliases", "tensor", "tensors"]

_WRAPPERS = ("state_dict", "model", "module")


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
        if value.numel():
            key = (value.data_ptr(), tuple(value.shape), value.stride(), value.dtype)
            if first.setdefault(key, name) != name:
                tied[name] = first[key]
    return tied


@lru_cache(maxsize=4)
def _load(file: Path, stamp: tuple[int, ...]) -> Mapping[str, Tensor]:  # noqa: ARG001 - a part of the key
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        if "Weights only load failed" in str(error) and "GLOBAL" in str(error):
            raise CheckpointError(
                f"{file}: its pickle calls for code ({_global_named(str(error))}) and is refused unread; "
                "convert it to safetensors on a machine where you trust the file."
            ) from error
        raise _unreadable(file, error) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        raise _unreadable(file, error) from error
    return _state_dict(content, file)


def _unreadable(file: Path, error: Exception) -> CheckpointError:
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return CheckpointError(
        f"{file}: not a readable torch file ({first_line[:120]}); copy it again or convert it to safetensors."
    )


def _global_named(message: str) -> str:
    marker = "GLOBAL "
    return message.split(marker, 1)[1].split(" ", 1)[0] if marker in message else "unnamed"


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
        f"{file}: holds a {type(content).__name__} without named tensors; expected a state dict as torch.save"
        " writes it."
    )
