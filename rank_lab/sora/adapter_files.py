"""An adapter on the disk and in the model: written whole, loaded and compared bit for bit, digested."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from rank_lab.durable import move_into_place
from rank_lab.errors import CheckpointError, RankLabError

__all__ = ["ADAPTER_FILES", "check_all_is_saved", "load_adapter", "save_adapter", "weight_digests"]

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")

_SAMPLES = 1024  # values of each frozen tensor that its digest covers


def save_adapter(model: nn.Module, folder: Path) -> None:
    """Write the adapter as PEFT does, each file in one piece.

    Parameters
    ----------
    model
        With one adapter, ``default``.
    folder
        Made where it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    peft_model: Any = model
    peft_model.save_pretrained(str(partial))
    for name in ADAPTER_FILES:
        move_into_place(partial / name, folder / name)
    shutil.rmtree(partial)


def load_adapter(model: nn.Module, folder: Path) -> None:
    """Give the model's adapter, and what was trained beside it, the values of a folder.

    Parameters
    ----------
    model
        With an adapter of the same shapes.
    folder
        From :func:`save_adapter`, or a Trainer's checkpoint.

    Raises
    ------
    CheckpointError
        If a tensor is missing, has no place in the model, or is not the same after loading.
    """
    file = folder / ADAPTER_FILES[0]
    try:
        saved = load_file(file)
        set_peft_model_state_dict(model, dict(saved))  # peft 0.20 renames keys of what it is given
    except (OSError, RuntimeError, KeyError, SafetensorError) as error:
        raise CheckpointError(
            f"{file}: cannot be loaded ({' '.join(str(error).split())[:200]}); run the schedule in a new folder."
        ) from error
    loaded = get_peft_model_state_dict(model)
    other = [name for name in {*saved, *loaded} if not _same(saved.get(name), loaded.get(name))]
    if other:
        raise CheckpointError(
            f"{file}: {len(other)} tensors differ from the model's after loading, the first {min(other)!r}; it is of"
            " another model: run the schedule in a new folder."
        )


def check_all_is_saved(model: nn.Module) -> None:
    """Refuse a model that trains what its adapter does not save: the next stage could not start from it.

    Parameters
    ----------
    model
        As it will be trained.

    Raises
    ------
    RankLabError
        Naming the first such parameter, or a layer that changes its buffers in training.
    """
    saved = {value.data_ptr() for value in get_peft_model_state_dict(model).values()}
    lost = [name for name, value in model.named_parameters() if value.requires_grad and value.data_ptr() not in saved]
    if lost:
        raise RankLabError(
            f"{len(lost)} parameters are trained but not saved with the adapter, the first {lost[0]!r}; name its module"
            " in SoraConfig(modules_to_save=[...]), or freeze it."
        )
    moving = [name for name, module in model.named_modules() if getattr(module, "track_running_stats", False)]
    if moving:
        raise RankLabError(
            f"{moving[0]!r} keeps running statistics, which training changes and the adapter does not save; a schedule"
            " needs a model without (BatchNorm is not supported)."
        )


def weight_digests(model: nn.Module) -> dict[str, Any]:
    """What tells two models apart: every trained value, and a sample of every frozen tensor.

    Parameters
    ----------
    model
        Before training.

    Returns
    -------
    dict
        Plain values: SHA-256 of the trained and of the frozen, and how many tensors each.
    """
    digests = {True: hashlib.sha256(), False: hashlib.sha256()}
    counts = {True: 0, False: 0}
    for name, value in sorted([*model.named_parameters(), *model.named_buffers()], key=lambda item: item[0]):
        trained = value.requires_grad
        counts[trained] += 1
        digests[trained].update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        flat = value.detach().reshape(-1)
        part = flat if trained else flat[:: max(1, flat.numel() // _SAMPLES)]
        digests[trained].update(part.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return {
        "trained": {"tensors": counts[True], "sha256": digests[True].hexdigest()},
        "frozen_sample": {"tensors": counts[False], "sha256": digests[False].hexdigest()},
    }


def _same(first: Tensor | None, second: Tensor | None) -> bool:
    return first is not None and second is not None and torch.equal(first.cpu(), second.detach().cpu())
