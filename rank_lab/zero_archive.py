"""DeepSpeed's ZeRO partitions, put together without running code.

The files are torch archives that hold three classes of DeepSpeed beside the
tensors. They are read with ``weights_only=True`` and a record without behaviour
in the place of each; any other class in them is refused by name. DeepSpeed's
own converter unpickles whatever is there.

Trained weights come from the optimizer's float32 copy, as that converter takes
them; frozen ones and buffers as they are stored. ZeRO-1 keeps frozen weights
with the module only, where the converter does not look: here they are found.
"""

import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from rank_lab import torch_archive
from rank_lab.errors import CheckpointError
from rank_lab.plain_text import plain
from rank_lab.zero_layout import Shapes, Span, cut_groups, cut_parameters

__all__ = ["ZeroEntry", "aliases", "entries", "first_partition", "is_partition", "other_state", "tensor"]

_PARTITION = re.compile(r"(?P<type>bf16_|fp16_|)zero_pp_rank_(?P<rank>\d{1,6})_mp_rank_(?P<slice>\d+)_optim_states\.pt")
_TRAINED = "optimizer_state_dict"
_FROZEN = "frozen_param_fragments"
_FLAT = {1: "single_partition_of_fp32_groups", 2: "single_partition_of_fp32_groups", 3: "fp32_flat_groups"}
_EXPERTS = frozenset({"ds_autoep_layers", "autoep_layers"})


class _Record:
    """Stands for a class of DeepSpeed: holds what was saved, does nothing."""

    values: tuple[Any, ...]
    state: Any = None

    def __new__(cls, *values: Any) -> Self:
        made = super().__new__(cls)
        made.values = values
        return made

    def __setstate__(self, state: Any) -> None:
        self.state = state


_RECORDS = dict.fromkeys(
    (
        "deepspeed.runtime.zero.config.ZeroStageEnum",
        "deepspeed.runtime.fp16.loss_scaler.LossScaler",
        "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
        "deepspeed.utils.tensor_fragment.fragment_address",
    ),
    _Record,
)


@dataclass(frozen=True)
class _Piece:
    file: Path
    keys: tuple[str | int, ...]
    start: int
    length: int


@dataclass(frozen=True)
class ZeroEntry:
    """One tensor: its shape and type, and the ranges of stored tensors that it is made of."""

    shape: tuple[int, ...]
    dtype: str
    pieces: tuple[_Piece, ...]


@dataclass(frozen=True)
class _Content:
    entries: Mapping[str, ZeroEntry]
    tied: Mapping[str, str]
    others: tuple[tuple[str, str], ...]


class _LayoutError(Exception):
    """What the partitions are that is not put together here."""


def is_partition(file: Path) -> bool:
    """Whether a file's name is that of a process's optimizer state, which stands for the whole save."""
    return _PARTITION.fullmatch(file.name) is not None


def first_partition(folder: Path) -> Path | None:
    """The optimizer state of the first process in a folder of partitions; None if there is none."""
    return min((file for file in folder.glob("*_optim_states.pt") if is_partition(file)), default=None)


def entries(file: Path) -> Mapping[str, ZeroEntry]:
    """The model's tensors by name.

    Parameters
    ----------
    file
        Optimizer state of the first process; the other files of the save lie beside it.

    Raises
    ------
    CheckpointError
        If a file is missing, damaged, holds code or another layout than ZeRO's three.
    """
    return _content(file, _stamps(file.parent)).entries


def aliases(file: Path) -> Mapping[str, str]:
    """Names that share a parameter with another name: tied weights."""
    return _content(file, _stamps(file.parent)).tied


def other_state(file: Path) -> tuple[tuple[str, str], ...]:
    """What else is there, with the reason why it is not read."""
    return _content(file, _stamps(file.parent)).others


def tensor(file: Path, name: str) -> Tensor:
    """One tensor, whole; the last two are kept, which the tiles of an update come from."""
    return _tensor(file, name, _stamps(file.parent))


_Stamps = tuple[tuple[str, int, int, int, int], ...]


def _stamps(folder: Path) -> _Stamps:
    files = [(file.name, file.stat()) for file in sorted(folder.glob("*.pt"))]
    return tuple((name, stat.st_ino, stat.st_ctime_ns, stat.st_mtime_ns, stat.st_size) for name, stat in files)


@lru_cache(maxsize=2)
def _tensor(file: Path, name: str, stamps: _Stamps) -> Tensor:
    entry = _content(file, stamps).entries[name]
    parts = []
    for piece in entry.pieces:
        value = _stored(piece.file, _stamp(piece.file, stamps), piece.keys)
        parts.append(value.reshape(-1)[piece.start : piece.start + piece.length])
    if len(parts) == 1:
        return parts[0].reshape(entry.shape)
    return torch.cat(parts or [torch.empty(0, dtype=getattr(torch, entry.dtype))]).reshape(entry.shape)


def _stamp(file: Path, stamps: _Stamps) -> tuple[int, ...]:
    for name, *stamp in stamps:
        if name == file.name:
            return tuple(stamp)
    raise CheckpointError(f"{file}: missing beside the other partitions; copy the checkpoint again.")


@lru_cache(maxsize=256)  # a file per process; a map of the file and a few small objects each
def _archive(file: Path, stamp: tuple[int, ...]) -> Any:  # noqa: ARG001 - a part of the key
    return torch_archive.content(file, _RECORDS)


def _stored(file: Path, stamp: tuple[int, ...], keys: tuple[str | int, ...]) -> Tensor:
    value = _archive(file, stamp)
    for key in keys:
        value = value[key]
    if not isinstance(value, Tensor):
        raise TypeError(f"{keys[-1]} is a {type(value).__name__}")
    return value.detach()


@lru_cache(maxsize=4)
def _content(file: Path, stamps: _Stamps) -> _Content:
    try:
        return _Save(file, stamps).content()
    except _LayoutError as error:
        home, tag = shlex.quote(str(file.parent.parent)), shlex.quote(file.parent.name)
        raise CheckpointError(
            f"{file.parent}: DeepSpeed's partitions {error}, which are not put together here; where you trust the"
            f" files, gather them by DeepSpeed's own script: python {home}/zero_to_fp32.py {home} {home}/gathered"
            f" --safe_serialization --tag {tag}, and name {home}/gathered."
        ) from error
    except CheckpointError:
        raise
    except Exception as error:  # what is not DeepSpeed's fails in any way that values can
        raise CheckpointError(
            f"{file.parent}: not the partitions of one save by DeepSpeed ({type(error).__name__}:"
            f" {plain(str(error), limit=120)}); files are missing, mixed or damaged: copy the checkpoint again."
        ) from error


class _Save:
    """The files of one save, opened."""

    def __init__(self, file: Path, stamps: _Stamps) -> None:
        self._folder, self._stamps = file.parent, stamps
        names = [name for name, *_ in stamps]
        self._files = self._by_rank([match for name in names if (match := _PARTITION.fullmatch(name))])
        foreign = next(
            (name for name in names if name.startswith(("layer_", "expp_rank_", "zero_pp_rank_0_mp_rank_01"))), None
        )
        if foreign is not None:
            raise _LayoutError(f"with {foreign} of expert, pipeline or tensor parallelism")
        self._states = [self._open(part)[_TRAINED] for part in self._files]
        self._stage = self._found_stage()
        count = len(self._files)
        models = [f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt" for rank in range(count)]
        self._models = [
            self._folder / name for name in (models if self._stage == 3 else ["mp_rank_00_model_states.pt"])
        ]
        self._model = self._open(self._models[0])
        self._module: Mapping[str, Any] = self._model["module"]
        if self._model.get("mp_world_size", 1) != 1 or _EXPERTS & set(self._model):
            raise _LayoutError("with weights cut by tensor or expert parallelism")
        told = [[model.get(key) for key in ("global_steps", "param_shapes")] for model in map(self._open, self._models)]
        if any(other != told[0] for other in told):
            raise ValueError("model states of two saves")
        if "shared_params" not in self._model:
            raise _LayoutError("of a DeepSpeed that did not yet save which parameters are tied")

    def _by_rank(self, found: list[re.Match[str]]) -> list[Path]:
        if len({match["type"] for match in found}) != 1:
            raise ValueError("optimizer states of two saves")
        if {int(match["slice"]) for match in found} != {0}:
            raise _LayoutError("with weights cut by tensor parallelism")
        by_rank = {int(match["rank"]): self._folder / match[0] for match in found}
        missing = sorted(set(range(max(by_rank) + 1)) - set(by_rank))
        if missing or len(by_rank) != len(found):
            raise ValueError(f"the optimizer state of process {missing[:3]} is missing")
        return [by_rank[rank] for rank in sorted(by_rank)]

    def _open(self, file: Path) -> Any:
        return _archive(file, _stamp(file, self._stamps))

    def _found_stage(self) -> int:
        stages = {_stage(state) for state in self._states}
        counts = {count for state in self._states for count in _listed(state["partition_count"])}
        if any("ds_zero_partition_groups" in state for state in self._states) or len(counts) > 1:
            raise _LayoutError("cut over groups of processes of different size")
        if counts != {len(self._files)}:
            raise ValueError(f"{len(self._files)} optimizer states, though {sorted(counts)} processes saved them")
        if len(stages) != 1:
            raise ValueError("optimizer states of several stages")
        return stages.pop()

    def content(self) -> _Content:
        """Every tensor and where it lies."""
        found = self._trained() | self._frozen()
        others = [(_TRAINED, "training state beside the model, not a weight")]
        tied = {str(name): str(first) for name, first in self._model["shared_params"].items()}
        for name, value in self._module.items():
            if name in found or name in tied or not isinstance(value, Tensor):
                continue
            if self._stage == 3 and not value.numel() and name not in self._model["buffer_names"]:
                others.append((name, "of which the partitions hold no values"))
            else:
                piece = _Piece(self._models[0], ("module", name), 0, value.numel())
                found[name] = ZeroEntry(tuple(value.shape), torch_archive.storage_type(value), (piece,))
        for name, first in tied.items():
            if first in found:
                found[name] = found[first]
            else:
                others.append((name, f"tied to {first!r}, which the partitions do not hold"))
        return _Content(found, {name: first for name, first in tied.items() if first in found}, tuple(others))

    def _trained(self) -> dict[str, ZeroEntry]:
        groups = [_shapes(group) for group in _listed(self._model["param_shapes"])]
        flat = [state[_FLAT[self._stage]] for state in self._states]
        if any(len(tensors) != len(flat[0]) for tensors in flat) or (self._stage < 3 and len(flat[0]) != len(groups)):
            raise ValueError("processes with different numbers of parameter groups")
        types = {torch_archive.storage_type(value) for tensors in flat for value in tensors}
        if len(types) != 1 or any(value.ndim != 1 for tensors in flat for value in tensors):
            raise ValueError(f"partitions of types {sorted(types)}")
        if sum(map(len, groups)) != len({name for group in groups for name in group}):
            raise ValueError("two parameters of one name")
        lengths = [[value.numel() for value in tensors] for tensors in flat]
        if self._stage == 3:
            spans = cut_parameters(groups, lengths)
        else:
            spans = cut_groups(groups, lengths, self._states[0].get("param_alignment_paddings"))
            self._agree(spans)
        shapes = {name: shape for group in groups for name, shape in group.items()}
        dtype = types.pop()
        return {name: ZeroEntry(shapes[name], dtype, tuple(map(self._piece, parts))) for name, parts in spans.items()}

    def _piece(self, span: Span) -> _Piece:
        return _Piece(self._files[span.rank], (_TRAINED, _FLAT[self._stage], span.group), span.start, span.length)

    def _agree(self, spans: Mapping[str, tuple[Span, ...]]) -> None:
        """Refuse if DeepSpeed's own list of fragments, where it is saved, places a parameter elsewhere.

        With round-robin gradients the list is of the order before the shuffle, which the values do not lie in.
        """
        if _round_robin(self._open(self._files[0])):
            return
        for rank, state in enumerate(self._states):
            for group, listed in enumerate(state.get("param_slice_mappings") or ()):
                said = {name: (where.state["start"], where.state["numel"]) for name, where in listed.items()}
                here = {
                    name: (span.start, span.length)
                    for name, parts in spans.items()
                    for span in parts
                    if (span.rank, span.group) == (rank, group)
                }
                if said != here:
                    raise ValueError(f"the list of fragments of process {rank} does not fit the shapes")

    def _frozen(self) -> dict[str, ZeroEntry]:
        found = {}
        for name, shape in _shapes(self._model.get("frozen_param_shapes") or {}).items():
            keys, left, pieces = (_FROZEN, name), math.prod(shape), []
            values = [self._open(file)[_FROZEN][name] for file in self._models]
            for file, value in zip(self._models, values, strict=True):
                length = min(left, value.numel())
                pieces.append(_Piece(file, keys, 0, length))
                left -= length
            if left or len({value.dtype for value in values}) != 1:
                raise ValueError(f"fragments of {name} do not make {list(shape)}")
            found[name] = ZeroEntry(shape, torch_archive.storage_type(values[0]), tuple(pieces))
        return found


def _stage(state: Mapping[str, Any]) -> int:
    """ZeRO's stage; DeepSpeed's optimizer for bfloat16 names none and cuts as the first does."""
    if "zero_stage" not in state and "param_slice_mappings" in state and _FLAT[1] in state:
        return 1
    value = state["zero_stage"]
    stage = value.values[0] if isinstance(value, _Record) else value
    if stage not in _FLAT:
        raise ValueError(f"stage {stage}, expected 1, 2 or 3")
    return int(stage)


def _round_robin(archive: Mapping[str, Any]) -> bool:
    config = archive.get("ds_config")
    about = config.get("zero_optimization") if isinstance(config, dict) else None
    return not isinstance(about, dict) or bool(about.get("round_robin_gradients"))


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _shapes(group: Mapping[str, Any]) -> Shapes:
    found = {str(name): tuple(shape) for name, shape in group.items()}
    if not all(type(side) is int and side >= 0 for shape in found.values() for side in shape):
        raise ValueError("a shape that is none")
    return found
