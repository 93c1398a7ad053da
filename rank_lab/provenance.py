"""What is needed to run an analysis again and to know that the inputs are the same."""

import importlib.metadata
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from rank_lab.checkpoint import Checkpoint
from rank_lab.measurement import MeasurementOptions

__all__ = ["provenance_of", "versions_and_machine"]

_PACKAGES = ("rank-lab", "torch", "numpy", "scipy", "pandas", "pyarrow")


def provenance_of(
    tuned: Sequence[Checkpoint], base: Checkpoint | None, options: MeasurementOptions, *, settings: dict[str, Any]
) -> dict[str, Any]:
    """Record inputs, versions, machine and settings.

    Parameters
    ----------
    tuned, base
        What is analysed.
    options
        How.
    settings
        Further choices of the caller, such as ``lora_alpha``.

    Returns
    -------
    dict
        Plain values, ready for JSON. Contents are identified by the digests in
        ``coverage`` and ``updates["content"]``.
    """
    return {
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [*sys.argv],
        "tuned": [_source(checkpoint) for checkpoint in tuned],
        "base": None if base is None else _source(base),
        "settings": {"method": options.method, "k": options.k, "device": options.device, "noise": options.noise}
        | settings,
        **versions_and_machine(options.device),
    }


def versions_and_machine(device: str, *, packages: Sequence[str] = ()) -> dict[str, Any]:
    """With which versions, and on what.

    Parameters
    ----------
    device
        ``cpu`` or ``cuda``, with or without a number.
    packages
        Further ones, beside those that every number rests on.
    """
    return {
        "versions": {name: _version(name) for name in (*_PACKAGES, *packages)} | {"python": platform.python_version()},
        "platform": platform.platform(),
        "processor": platform.machine(),
        "device_name": _device_name(device),
    }


def _source(checkpoint: Checkpoint) -> dict[str, Any]:
    files = sorted({tensor.file for tensor in checkpoint.tensors.values()})
    return {
        "source": checkpoint.source,
        "revision": checkpoint.revision,
        "step": checkpoint.step,
        "tensors": len(checkpoint.tensors),
        "files": [{"name": file.name, "bytes": file.stat().st_size} for file in files],
        "model_type": checkpoint.model_type,
        "adapter_config": None if checkpoint.adapter_config is None else dict(checkpoint.adapter_config),
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _device_name(device: str) -> str:
    if not device.startswith("cuda"):
        return device
    import torch

    return str(torch.cuda.get_device_name(device))
