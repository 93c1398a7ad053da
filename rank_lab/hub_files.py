"""Which files of a hub repository are needed to read its weights."""

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

__all__ = ["WEIGHT_PATTERNS", "files_to_fetch"]

_CHECKPOINT = re.compile(r"checkpoint-[^/]+")
_CONFIGURATIONS = ("config.json", "adapter_config.json")
_SAFETENSORS = ("*.safetensors",)
_SAFETENSORS_INDEX = ("*.safetensors.index.json",)
_TORCH = ("pytorch_model*.bin", "adapter_model.bin")
WEIGHT_PATTERNS = (*_SAFETENSORS, *_TORCH)
"""Names of weight files that can be read."""

_TORCH_INDEX = ("pytorch_model*.bin.index.json", "adapter_model.bin.index.json")
_OPTIMIZER = "optimizer*"
_SECOND_COPY = "consolidated*.safetensors"


def files_to_fetch(names: Iterable[str]) -> list[str]:
    """Choose, from a repository's file list, the files needed to read its weights.

    The root is used where it holds weights, else every ``checkpoint-*/`` folder
    of a Trainer repository. In each folder safetensors files are preferred;
    torch ``.bin`` weights, which are pickles, are taken only where there is no
    safetensors file. A ``consolidated*.safetensors`` beside ``model*.safetensors``
    is the same weights a second time, in the vendor's own layout, and is left out.

    Parameters
    ----------
    names
        Paths inside the repository, with forward slashes.

    Returns
    -------
    list of str
        Sorted: weights, their indexes, and the configurations of the root and of
        the folders chosen. Empty where there are no weights to read.

    Examples
    --------
    >>> files_to_fetch(["config.json", "model.safetensors", "pytorch_model.bin", "optimizer.pt"])
    ['config.json', 'model.safetensors']
    """
    folders: dict[str, list[str]] = {"": []}
    for name in names:
        folder, _, file = name.rpartition("/")
        if folder == "" or _CHECKPOINT.fullmatch(folder):
            folders.setdefault(folder, []).append(file)
    root = folders.pop("")
    chosen = _weights_of_folder(root)
    if not chosen:
        chosen = [f"{folder}/{file}" for folder, files in folders.items() for file in _weights_of_folder(files)]
        chosen += [file for file in root if chosen and file in _CONFIGURATIONS]
    return sorted(chosen)


def _weights_of_folder(files: Sequence[str]) -> list[str]:
    """Choose the files of one folder; empty where it holds no weights."""
    candidates = [file for file in files if not fnmatchcase(file, _OPTIMIZER)]
    if any(fnmatchcase(file, "model*.safetensors") for file in candidates):
        candidates = [file for file in candidates if not fnmatchcase(file, _SECOND_COPY)]
    for weights, index in ((_SAFETENSORS, _SAFETENSORS_INDEX), (_TORCH, _TORCH_INDEX)):
        if any(_matches(file, weights) for file in candidates):
            wanted = (*weights, *index, *_CONFIGURATIONS)
            return [file for file in candidates if _matches(file, wanted)]
    return []


def _matches(file: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(file, pattern) for pattern in patterns)
