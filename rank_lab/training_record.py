"""How a run was trained: the file that a training leaves beside its checkpoints, for whoever reads them later."""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rank_lab.durable import write_whole
from rank_lab.errors import CheckpointError, SchemaError
from rank_lab.plain_file import parse_json, size_of
from rank_lab.plain_text import is_plain, plain

__all__ = ["RECORD_FILE", "SIGN_LIKE", "TrainingRecord", "is_sign_like", "record_beside"]

RECORD_FILE = "training.json"
"""In the folder that holds ``checkpoint-N``."""

SIGN_LIKE = ("lion", "signsgd", "signum", "muon", "sophia")
"""Starts of the names of optimizers whose step has entries of one size (or, Muon, singular values of one size)
whatever the gradient's: they raise the rank of an update by themselves."""

_VERSION = 1


@dataclass(frozen=True)
class TrainingRecord:
    """How a run was trained.

    Parameters
    ----------
    method
        One of the registry's names, such as ``"full"`` or ``"rslora"``.
    kind
        What the model predicts: ``causal``, ``masked``, ``classification`` or ``regression``.
    base, revision
        Folder or hub id of what was tuned, and the commit where it is of the hub.
    choices
        Of the method, plain values: targets, rank, alpha ...
    optimizer
        As transformers names it, such as ``"adamw_torch"``.
    learning_rate, scheduler, warmup, weight_decay, clip
        Largest rate, its shape, share of the steps that warm up, decay, largest norm of the gradient.
    batch_size, steps, seed
        Examples of an optimizer step over all devices, optimizer steps planned, seed.
    trainable_parameters, parameters
        How many are trained, and how many there are in all.
    precision
        ``"float32"``, ``"bfloat16"`` or ``"float16"``.
    data
        Where the rows came from, their hashes and counts; as :class:`rank_lab.tasks.TaskData` records it.
    versions
        Of the packages that trained.
    """

    method: str
    kind: str
    base: str
    revision: str | None
    choices: Mapping[str, Any]
    optimizer: str
    learning_rate: float
    scheduler: str
    warmup: float
    weight_decay: float
    clip: float
    batch_size: int
    steps: int
    seed: int
    trainable_parameters: int
    parameters: int
    precision: str
    data: Mapping[str, Any]
    versions: Mapping[str, str] = field(default_factory=dict)

    def save(self, folder: Path | str) -> Path:
        """Write the record into a run's folder; it is there whole or not at all."""
        file = Path(folder) / RECORD_FILE
        content = {"record_version": _VERSION, **dataclasses.asdict(self)}
        write_whole(file, json.dumps(content, indent=1, sort_keys=True) + "\n")
        return file

    @classmethod
    def load(cls, folder: Path | str) -> "TrainingRecord":
        """Read the record of a run's folder.

        Raises
        ------
        SchemaError
            If there is none, or it is not what :meth:`save` writes: a field more or less, or of another kind.
        """
        file = Path(folder) / RECORD_FILE
        if not file.exists() and not file.is_symlink():
            raise SchemaError(
                f"{folder}: has no {RECORD_FILE}, which 'rank-lab finetune' leaves in a run's folder; give such a one."
            )
        try:
            size_of(file)
            content = dict(parse_json(file.read_bytes()))
            version = content.pop("record_version")
            if version != _VERSION:
                raise SchemaError(
                    f"{file}: record_version {version!r}, expected {_VERSION}; written by another rank_lab."
                )
            return _checked(cls(**content))
        except SchemaError:
            raise
        except (OSError, CheckpointError, KeyError, TypeError, ValueError) as error:
            raise SchemaError(
                f"{file}: is no record of a training ({error}); train with 'rank-lab finetune'."
            ) from error


def _checked(record: TrainingRecord) -> TrainingRecord:
    """The record, if every field is of its kind: whoever reads it counts on numbers, and on names that print."""
    for names, expected, fits in (
        (("method", "kind", "optimizer", "scheduler", "precision"), "a name", _is_name),
        (("base",), "a text", lambda value: isinstance(value, str)),
        (("revision",), "a text or null", lambda value: value is None or isinstance(value, str)),
        (("learning_rate", "warmup", "weight_decay", "clip"), "a finite number", _is_number),
        (("batch_size", "steps", "seed", "trainable_parameters", "parameters"), "a whole number", _is_whole),
        (("choices", "data", "versions"), "an object", lambda value: isinstance(value, Mapping)),
    ):
        wrong = next((name for name in names if not fits(getattr(record, name))), None)
        if wrong is not None:
            raise TypeError(f"{wrong} is {plain(repr(getattr(record, wrong)), limit=80)}, expected {expected}")
    return record


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and is_plain(value)


def _is_number(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def is_sign_like(optimizer: str) -> bool:
    """Whether an optimizer's steps raise the rank of an update by themselves.

    Examples
    --------
    >>> is_sign_like("lion_8bit"), is_sign_like("adamw_torch")
    (True, False)
    """
    return optimizer.lower().startswith(SIGN_LIKE)


def record_beside(source: Path | str) -> TrainingRecord | None:
    """The record of the run that a path belongs to, None where there is none: of its folder, or the one above.

    Parameters
    ----------
    source
        A run's folder, or one of its ``checkpoint-N``.
    """
    path = Path(source)
    for folder in (path, path.parent):
        if (folder / RECORD_FILE).is_file():
            return TrainingRecord.load(folder)
    return None
