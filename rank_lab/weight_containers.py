"""Folders and files that hold weights in another way than as named tensors in one file."""

import shlex
from pathlib import Path

from rank_lab.distributed_archive import is_distributed
from rank_lab.errors import CheckpointError
from rank_lab.plain_file import size_of
from rank_lab.plain_text import plain
from rank_lab.zero_archive import first_partition, is_partition

__all__ = ["distributed_folder", "partition_folders", "partitions", "refuse_other_containers"]

_ACCELERATE = "pytorch_model_fsdp_*"
_PARTITIONS = ("*zero_pp_rank_*_states.pt", "mp_rank_*_model_states.pt")
_MAX_TAG_BYTES = 1000


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


def partition_folders(folder: Path) -> tuple[Path, ...]:
    """Folders of DeepSpeed's partitions that lie in a folder, by name."""
    return tuple(sorted(child for child in folder.iterdir() if child.is_dir() and _holds_partitions(child)))


def partitions(folder: Path) -> Path | None:
    """The file that stands for DeepSpeed's partitions in a folder: of the save that ``latest`` names, or the only one.

    Raises
    ------
    CheckpointError
        If several saves could be meant, or the file that holds the weights is missing.
    """
    home = folder if _holds_partitions(folder) else _latest(folder)
    if home is None:
        return None
    first = first_partition(home)
    if first is None:
        raise CheckpointError(
            f"{home}: lacks *zero_pp_rank_*_optim_states.pt, in which DeepSpeed keeps the trained weights in float32;"
            " copy them too. Saved without ZeRO, the weights are those of mp_rank_00_model_states.pt: name that file."
        )
    return first


def _latest(folder: Path) -> Path | None:
    saves = partition_folders(folder)
    latest = folder / "latest"
    if saves and latest.is_file():
        tag = latest.read_text(errors="replace").strip() if size_of(latest) <= _MAX_TAG_BYTES else ""
        chosen = next((save for save in saves if save.name == tag), None)
        if chosen is None:
            raise CheckpointError(
                f"{latest}: names {plain(tag, limit=80)!r}, which is none of the saves beside it"
                f" ({', '.join(plain(save.name) for save in saves[:4])}); name the folder that is meant."
            )
        return chosen
    if len(saves) > 1:
        raise CheckpointError(
            f"{folder}: several saves by DeepSpeed ({', '.join(plain(save.name) for save in saves[:4])}) and no file"
            " 'latest' that names one; name the folder that is meant."
        )
    return saves[0] if saves else None


def _holds_partitions(folder: Path) -> bool:
    return any(any(folder.glob(pattern)) for pattern in _PARTITIONS)


def refuse_other_containers(path: Path) -> None:
    """Refuse what is recognised and not read: GGUF, XTuner's folders, and a part of a save in the place of it.

    Raises
    ------
    CheckpointError
        With what to name instead, or the command that converts it.
    """
    if path.is_file():
        if path.suffix == ".gguf":
            raise _gguf(path)
        if path.suffix == ".distcp" or path.name == ".metadata":
            raise CheckpointError(f"{path}: a part of a distributed checkpoint; name its folder, {path.parent}.")
        if is_partition(path):
            raise CheckpointError(f"{path}: a part of DeepSpeed's partitions; name its folder, {path.parent}.")
        return
    if path.suffix == ".pth" and _holds_partitions(path):
        raise CheckpointError(
            f"{path}: XTuner's checkpoint in DeepSpeed's partitions, with names and classes of its own; convert it by:"
            f" xtuner convert pth_to_hf CONFIG {shlex.quote(str(path))} OUTPUT, and name OUTPUT."
        )
    if any(path.glob("*.gguf")) and not any(path.glob("*.safetensors")):
        raise _gguf(next(path.glob("*.gguf")))


def _gguf(file: Path) -> CheckpointError:
    return CheckpointError(
        f"{file}: GGUF, whose quantisation is larger than most updates and whose query and key rows are reordered; name"
        " the model that it was converted from."
    )
