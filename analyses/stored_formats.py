"""The checkpoints of a run as files would hold them: in float32, or rounded as published ones are."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rank_lab.durable import held

__all__ = ["FORMATS", "half_precision_base", "stored"]

FORMATS = {
    "float32": "float32",
    "bfloat16": "bfloat16, of a float16 base",
    "bfloat16-grid": "bfloat16, of a bfloat16 base",
}
"""How checkpoints are stored, in words. Llama-2 was published in float16: values of its base lie off the grid of
bfloat16, on which those of later models lie."""

_WEIGHTS = "model.safetensors"
_BESIDE = ("*.json", "*.jinja", "*.model", "*.txt")


def half_precision_base(base: Path, folder: Path) -> Path:
    """A base whose values are float16 numbers, kept in float32: what training starts from.

    Parameters
    ----------
    base
        Folder of a model in one file.
    folder
        Receives it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with held(folder.parent / f".{folder.name}.lock"):
        if not (folder / _WEIGHTS).is_file():
            _written(folder, {name: value.half().float() for name, value in load_file(base / _WEIGHTS).items()}, base)
    return folder


def stored(run: Path, base: Path, form: str, folder: Path) -> tuple[Path, Path]:
    """A run's checkpoints and their base in a format of storage.

    Parameters
    ----------
    run
        Folder of ``checkpoint-N`` in float32.
    base
        From :func:`half_precision_base`.
    form
        One of :data:`FORMATS`. On the grid, the run's change is added to the rounded base before it is rounded.
    folder
        Receives copies; nothing is copied of float32. Of what lies off the grid also ``checkpoint-0``, the base itself:
        its difference is rounding alone.

    Returns
    -------
    tuple of Path
        Folder of the run, and that of its base.
    """
    if form == "float32":
        return run, base
    start = load_file(base / _WEIGHTS)
    there = {name: value.to(torch.bfloat16) for name, value in start.items()}
    own_base, own_run = folder / form / "base", folder / form / run.name
    on_grid = form == "bfloat16-grid"
    _written(own_base, there if on_grid else {name: value.half() for name, value in start.items()}, base)
    if not on_grid:  # what rounding alone makes of it
        _written(own_run / "checkpoint-0", {name: value.to(torch.bfloat16) for name, value in start.items()}, base)
    for checkpoint in sorted(run.glob("checkpoint-*")):
        tuned = load_file(checkpoint / _WEIGHTS)
        if on_grid:
            tuned = {name: there[name].float() + (value - start[name]) for name, value in tuned.items()}
        _written(
            own_run / checkpoint.name, {name: value.to(torch.bfloat16) for name, value in tuned.items()}, checkpoint
        )
    for file in run.glob("training.json"):
        shutil.copy(file, own_run)
    return own_run, own_base


def _written(folder: Path, tensors: Mapping[str, Tensor], beside: Path) -> None:
    """Weights, and small files of the folder that they are from; the weights last, so that what has them is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in _BESIDE:
        for file in beside.glob(pattern):
            shutil.copy(file, folder)
    partial = folder / f"{_WEIGHTS}.part"
    save_file({name: value.contiguous() for name, value in tensors.items()}, partial, metadata={"format": "pt"})
    partial.rename(folder / _WEIGHTS)
