"""What was trained as it was at the last point, in a file: the change since then is told from it, after a kill, too."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from rank_lab.checkpoint import Checkpoint
from rank_lab.durable import move_into_place
from rank_lab.errors import CheckpointError
from rank_lab.safetensors_header import DTYPES, read_header
from rank_lab.spec import UpdateSpec
from rank_lab.stored_tensor import StoredTensor

__all__ = ["LAST_FILE", "LastPoint", "earlier_specs", "keep_beside", "kept_file", "restore"]

_TYPES = {name: code for code, name in DTYPES.items()}
_IN_CHECKPOINT = "rank_tracking"
LAST_FILE = "last.safetensors"
"""Name of the file, in a report that is being written and in checkpoints."""


@dataclass(frozen=True)
class LastPoint:
    """Tensors as they were at a step.

    Parameters
    ----------
    step
        Optimizer steps taken.
    checkpoint
        Their file as a checkpoint: the whole adapter, or the trained weights of a model.
    """

    step: int
    checkpoint: Checkpoint

    @classmethod
    def write(cls, file: Path, step: int, live: Checkpoint, names: Sequence[str]) -> "LastPoint":
        """Write tensors one piece at a time, so that no second copy of a model is ever in memory.

        Parameters
        ----------
        file
            Replaced where it is there; whole or not at all.
        step
            Optimizer steps taken.
        live
            The model in training.
        names
            What to write of it.
        """
        tensors = {name: live[name] for name in names}
        about = {"step": str(step)}
        if live.adapter_config is not None:
            about["adapter_config"] = json.dumps(live.adapter_config)
        partial = file.with_name(f".{file.name}.partial")
        with partial.open("wb") as stream:
            header = json.dumps(_header(tensors, about)).encode()
            stream.write(len(header).to_bytes(8, "little") + header)
            for tensor in tensors.values():
                for piece in tensor.chunks():
                    stream.write(piece.contiguous().view(torch.uint8).numpy().data)
        move_into_place(partial, file)
        return cls.read(file)

    @classmethod
    def read(cls, file: Path) -> "LastPoint":
        """Read what :meth:`write` wrote.

        Raises
        ------
        CheckpointError
            If it is not that.
        """
        tensors, about = read_header(file)
        try:
            step = int(about["step"])
            settings = json.loads(about["adapter_config"]) if "adapter_config" in about else None
        except (KeyError, ValueError) as error:
            raise CheckpointError(
                f"{file}: is not the file that a RankTracker keeps ({error}); remove it, and the change since the last"
                " point is told from the checkpoint that training resumes from."
            ) from error
        return cls(step, Checkpoint(str(file), file.parent, tensors, adapter_config=settings, step=step))


def keep_beside(file: Path, checkpoint: Path) -> None:
    """Keep the file with a trainer's checkpoint, for a run that resumes there; no copy where the disk can link.

    Parameters
    ----------
    file
        Of the last point.
    checkpoint
        ``checkpoint-N``.
    """
    kept = kept_file(checkpoint)
    kept.parent.mkdir(exist_ok=True)
    restore(file, kept)


def restore(kept: Path, file: Path) -> None:
    """Give what is in one file another name, too, whole or not at all; see :func:`keep_beside`."""
    partial = file.with_name(f".{file.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        os.link(kept, partial)
    except OSError:  # another file system, or one without links
        shutil.copyfile(kept, partial)
    move_into_place(partial, file)


def kept_file(checkpoint: Path) -> Path:
    """Where :func:`keep_beside` puts it."""
    return checkpoint / _IN_CHECKPOINT / LAST_FILE


def earlier_specs(specs: Sequence[UpdateSpec], last: LastPoint) -> dict[str, UpdateSpec]:
    """The updates of a model's own weights as they were at the last point, by module.

    Parameters
    ----------
    specs
        Of now, all dense.
    last
        Holds the weights of all of them.
    """
    return {spec.module: replace(spec, sources=_moved(spec, last)) for spec in specs}


def _moved(spec: UpdateSpec, last: LastPoint) -> tuple[tuple[str, StoredTensor], ...]:
    now = spec.required("tuned")
    there = last.checkpoint[now.name]
    offset = (there.offset or 0) + now.start * there.torch_dtype.itemsize
    tuned = replace(there, shape=now.shape, offset=offset, selection=now.selection)
    return tuple((role, tuned if role == "tuned" else tensor) for role, tensor in spec.sources)


def _header(tensors: Mapping[str, StoredTensor], about: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {"__metadata__": dict(about)}
    end = 0
    for name, tensor in tensors.items():
        size = tensor.elements * tensor.torch_dtype.itemsize
        found[name] = {
            "dtype": _TYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [end, end + size],
        }
        end += size
    return found
