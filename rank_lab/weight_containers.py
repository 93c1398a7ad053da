"""Folders and files that hold weights in another way than as named tensors in one file."""

import shlex
from pathlib import Path

from rank_lab.distributed_archive import is_distributed
from rank_lab.errors import CheckpointError

__all__ = ["distributed_folder", "refuse_other_containers"]

_ACCELERATE = "pytorch_model_fsdp_*"
_PARTITIONS = ("*zero_pp_rank_*_states.pt", "mp_rank_*_model_states.pt")


def distributed_folder(folder: Path) -> Path | None:
    """Where a distributed checkpoint lies: the folder itself, or what accelerate and transformers name inside of it.

    Raises
    ------
    CheckpointError
        If several could be meant.
    """
    if is_distributed(folder):
        return folder
    found = sorted(child for child in folder.glob(_ACCELERATE) if is_distributed(child))
    if len(found) > 1:
        raise CheckpointError(
            f"{folder}: holds several models ({', '.join(child.name for child in found)}); name the folder that is"
            " meant."
        )
    return found[0] if found else None


def refuse_other_containers(path: Path) -> None:
    """Refuse what is recognised and not read: DeepSpeed's partitions and GGUF.

    DeepSpeed's files are pickles with code of its own, also for its own
    converter, so that they are converted by its script and not opened here.

    Raises
    ------
    CheckpointError
        With the command that converts it.
    """
    if path.is_file():
        if path.suffix == ".gguf":
            raise _gguf(path)
        if path.suffix == ".distcp" or path.name == ".metadata":
            raise CheckpointError(f"{path}: a part of a distributed checkpoint; name its folder, {path.parent}.")
        return
    home = _partitioned(path)
    if home is not None:
        raise _deepspeed(path, home)
    if any(path.glob("*.gguf")) and not any(path.glob("*.safetensors")):
        raise _gguf(next(path.glob("*.gguf")))


def _partitioned(folder: Path) -> Path | None:
    """The folder to convert if this holds nothing but DeepSpeed's partitions; None otherwise."""
    if any(folder.glob("*.safetensors")) or any(folder.glob("pytorch_model*.bin")):
        return None  # gathered weights lie beside them, as transformers saves them
    if any(folder.glob("adapter_model.*")) or any(folder.glob("consolidated*.pth")):
        return None
    if any(any(folder.glob(f"global_step*/{pattern}")) for pattern in _PARTITIONS):
        return folder
    return folder.parent if any(any(folder.glob(pattern)) for pattern in _PARTITIONS) else None


def _deepspeed(path: Path, home: Path) -> CheckpointError:
    if path.suffix == ".pth":
        return CheckpointError(
            f"{path}: XTuner's checkpoint in DeepSpeed's partitions, which are pickles with code; convert it by: xtuner"
            f" convert pth_to_hf CONFIG {shlex.quote(str(path))} OUTPUT, and name OUTPUT."
        )
    tag = "" if home == path else f" --tag {shlex.quote(path.name)}"
    where = shlex.quote(str(home))
    return CheckpointError(
        f"{path}: DeepSpeed's partitions, which are pickles with code; gather them by: python"
        f" {shlex.quote(str(home / 'zero_to_fp32.py'))} {where} {where}/gathered --safe_serialization{tag}, and name"
        f" {where}/gathered."
    )


def _gguf(file: Path) -> CheckpointError:
    return CheckpointError(
        f"{file}: GGUF, whose quantisation is larger than most updates and whose query and key rows are reordered; name"
        " the model that it was converted from."
    )
