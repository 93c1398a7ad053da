"""Which files of a folder hold its weights; pure look-up, nothing is opened but indexes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from rank_lab.distributed_archive import METADATA_FILE
from rank_lab.errors import CheckpointError
from rank_lab.plain_file import json_object, size_of
from rank_lab.plain_text import plain
from rank_lab.weight_containers import distributed_folder, partition_folders, partitions, refuse_other_containers

__all__ = ["WeightFiles", "find_weight_files"]

_TORCH_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt"})
_UNREAD = {
    ".ggml": "GGML, which is mostly quantised, is not read; give the safetensors or torch file that it was made of",
    ".h5": "TensorFlow's weights are not read; load them with transformers 4 (from_tf=True) and save them again",
    ".msgpack": "Flax's weights are not read; load them with transformers 4 (from_flax=True) and save them again",
    ".onnx": "ONNX graphs are not read; give the safetensors or torch file that it was exported from",
    ".npz": "NumPy archives are not read; save the arrays by their names with safetensors.numpy.save_file",
}
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.(?P<suffix>safetensors|bin)")
_ADAPTER_FILES = (
    "adapter_model.safetensors",  # PEFT's
    "adapter_model.bin",
    "adapter_model.pt",  # torchtune's
    "adapters.safetensors",  # MLX's
)
_MODEL_FILES = ("model.safetensors", "pytorch_model.bin")
_TRAINER_STATE = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state|random_states|recipe_state)[\w.-]*")
_LOOSE_SUFFIXES = _TORCH_SUFFIXES - {".bin"}
_LITGPT_LORA = ".pth.lora"


@dataclass(frozen=True)
class WeightFiles:
    """Files to read, and those left aside.

    Parameters
    ----------
    files
        Weight files in the order of their names.
    weight_map
        Tensor name to file name, from a shard index; None where there is none.
    adapter
        Whether these are a PEFT adapter's.
    set_aside
        Other weight files of the folder, each with the reason.
    """

    files: tuple[Path, ...]
    weight_map: Mapping[str, str] | None = None
    adapter: bool = False
    set_aside: tuple[tuple[str, str], ...] = ()


def find_weight_files(path: Path) -> WeightFiles:
    """Find the weights of a file or folder.

    Order of preference: an adapter (``adapter_config.json``), a shard index,
    ``model.safetensors``, a complete set of numbered shards, the torch
    equivalents, a distributed checkpoint, DeepSpeed's partitions, the only
    weight file there is.

    Parameters
    ----------
    path
        An existing file or folder.

    Raises
    ------
    CheckpointError
        If there are no weights, a shard is missing or surplus, or several
        files could be meant.
    """
    if not path.is_dir():
        size_of(path)  # refuses what is no regular file
    refuse_other_containers(path)
    if not path.is_dir():
        return _single(path)
    if _is_there(path / "adapter_config.json"):
        return _adapter(path)
    found = _model_files(path, "safetensors") or _model_files(path, "bin")
    if found is not None:
        return found
    distributed = distributed_folder(path)
    if distributed is not None:
        return WeightFiles((distributed / METADATA_FILE,))
    partition = partitions(path)
    if partition is not None:
        rest = [folder.name for folder in partition_folders(path) if folder != partition.parent]
        return WeightFiles((partition,), set_aside=tuple((plain(name), "another save by DeepSpeed") for name in rest))
    loose = [file for file in sorted(path.iterdir()) if file.is_file() and file.suffix in _LOOSE_SUFFIXES]
    return _only(path, loose) or _refuse_without_weights(path)


def _single(file: Path) -> WeightFiles:
    if file.suffix in _UNREAD:
        raise CheckpointError(f"{file}: {_UNREAD[file.suffix]}.")
    if file.suffix not in {".safetensors", *_TORCH_SUFFIXES} and not file.name.endswith(_LITGPT_LORA):
        raise CheckpointError(
            f"{file}: {file.suffix or 'no'} file ending; expected .safetensors, .bin, .pt or .pth: name such a"
            " file, or the folder that holds it."
        )
    adapter = file.name in _ADAPTER_FILES and _is_there(file.parent / "adapter_config.json")
    return WeightFiles((file,), adapter=adapter)


def _adapter(folder: Path) -> WeightFiles:
    for name in _ADAPTER_FILES:
        if _is_there(folder / name):
            aside = tuple((below, "another adapter, to be named by itself") for below in _adapters_below(folder))
            return WeightFiles((folder / name,), adapter=True, set_aside=_others(folder, {name}) + aside)
    raise CheckpointError(
        f"{folder}: has adapter_config.json but neither {' nor '.join(_ADAPTER_FILES)}; save the adapter again."
    )


def _refuse_without_weights(folder: Path) -> NoReturn:
    unread = next((file for file in sorted(folder.iterdir()) if file.suffix in _UNREAD), None)
    if unread is not None:
        raise CheckpointError(f"{unread}: {_UNREAD[unread.suffix]}.")
    raise CheckpointError(
        f"{folder}: {_what_is_there(folder)}; expected model.safetensors, pytorch_model.bin, their shards, .distcp"
        " files or an adapter: name the folder that holds the weights."
    )


def _model_files(folder: Path, suffix: str) -> WeightFiles | None:
    single = folder / _MODEL_FILES[0 if suffix == "safetensors" else 1]
    index = folder / f"{single.name}.index.json"
    if _is_there(index):
        return _indexed(index)
    if _is_there(single):
        return WeightFiles((single,), set_aside=_others(folder, {single.name}))
    shards = sorted(file for file in folder.glob(f"*.{suffix}") if _SHARD.fullmatch(file.name))
    if shards:
        return _numbered(shards)
    return _only(folder, sorted(folder.glob(f"*.{suffix}")))


def _only(folder: Path, files: list[Path]) -> WeightFiles | None:
    loose = [file for file in files if not _TRAINER_STATE.fullmatch(file.name)]
    if len(loose) > 1:
        raise CheckpointError(
            f"{folder}: several weight files ({', '.join(file.name for file in loose[:4])}) and no index; name the file"
            " that is meant."
        )
    return WeightFiles((loose[0],), set_aside=_others(folder, {loose[0].name})) if loose else None


def _indexed(index: Path) -> WeightFiles:
    weight_map = (json_object(index) or {}).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(
            f"{index}: not a shard index; expected an object whose weight_map gives a file name for each tensor: copy"
            " it again."
        )
    names = sorted(set(weight_map.values()))
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(
                f"{index}: names the shard {name!r}, which is not a plain file name of this folder; refused: put the"
                " shards beside the index."
            )
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{index.parent}: {len(missing)} of {len(names)} shards are missing ({', '.join(missing[:3])}), which"
            f" {index.name} lists; download them."
        )
    single = index.parent / index.name.removesuffix(".index.json")
    if _is_there(single) and single.name not in names:
        raise CheckpointError(
            f"{single}: lies beside {index.name}, which does not list it: two saves are mixed;"
            " remove the older one's files."
        )
    shape = _SHARD.fullmatch(names[0]) if names else None
    surplus = [
        file.name
        for file in sorted(index.parent.glob("*"))
        if (match := _SHARD.fullmatch(file.name))
        and shape
        and match["stem"] == shape["stem"]
        and match["suffix"] == shape["suffix"]
        and file.name not in names
    ]
    if surplus:
        raise CheckpointError(
            f"{index.parent}: shard {surplus[0]} is not listed in {index.name}; two saves are mixed: remove the older"
            " one's files."
        )
    return WeightFiles(
        tuple(index.parent / name for name in names), weight_map=weight_map, set_aside=_others(index.parent, set(names))
    )


def _numbered(shards: list[Path]) -> WeightFiles:
    matches = [match for file in shards if (match := _SHARD.fullmatch(file.name))]
    counts = {(match["stem"], int(match["count"])) for match in matches}
    folder = shards[0].parent
    if len(counts) > 1:
        raise CheckpointError(
            f"{folder}: shards of several saves ({shards[0].name}, {shards[-1].name}) and no index; remove those that"
            " do not belong."
        )
    count = counts.pop()[1]
    missing = sorted(set(range(1, count + 1)) - {int(match["number"]) for match in matches})
    if missing or len(shards) != count:
        raise CheckpointError(
            f"{folder}: {len(shards)} of {count} shards are there, number {missing[:3]} missing; download them."
        )
    return WeightFiles(tuple(shards), set_aside=_others(folder, {file.name for file in shards}))


def _adapters_below(folder: Path) -> list[str]:
    return sorted(file.parent.name for file in folder.glob("*/adapter_config.json"))


def _others(folder: Path, used: set[str]) -> tuple[tuple[str, str], ...]:
    rest = sorted(
        file.name
        for file in folder.iterdir()
        if file.is_file()
        and file.name not in used
        and file.suffix in {".safetensors", *_TORCH_SUFFIXES}
        and not _TRAINER_STATE.fullmatch(file.name)
    )
    beside = plain(", ".join(sorted(used)[:2]))
    kept = tuple(
        (
            plain(below.name),
            f"DeepSpeed's partitions beside the weights that were read ({beside}); to be named by itself",
        )
        for below in partition_folders(folder)
    )
    return tuple((plain(name), f"weight file beside the one that was read ({beside})") for name in rest) + kept


def _is_there(file: Path) -> bool:
    """Whether anything has that name, be it a broken link or a pipe, which reading then refuses by name."""
    return file.exists() or file.is_symlink()


def _what_is_there(folder: Path) -> str:
    adapters = _adapters_below(folder)
    if adapters:
        return f"no weights, but adapters in the folders {', '.join(adapters)}, of which to name one"
    names = sorted(file.name for file in folder.iterdir())
    return f"no weights among {len(names)} entries ({plain(', '.join(names[:4]))})" if names else "the folder is empty"
