"""What a run is, in ``training.json`` and ``finetune.json``; going on with anything else is refused by name."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainingArguments

from rank_lab.durable import write_whole
from rank_lab.errors import CheckpointError, RankLabError, SchemaError
from rank_lab.plain_file import parse_json, size_of
from rank_lab.sora.schedule_record import differences, environment, plain_arguments
from rank_lab.tasks import TaskData
from rank_lab.training.method import Method, MethodChoices
from rank_lab.training_record import RECORD_FILE, TrainingRecord

__all__ = ["SETTINGS_FILE", "RunSettings", "keep_settings", "record_of", "recorded_arguments"]

SETTINGS_FILE = "finetune.json"
"""Beside :data:`rank_lab.training_record.RECORD_FILE`: what else changes numbers, and where the run was trained."""

_VERSION = 1
_CONTENT = ("version", "training", "save_at", "arguments", "base", "environments")
_SAME_NUMBERS = (  # how an optimizer step's batch is carried out
    "per_device_train_batch_size", "gradient_accumulation_steps", "activation_checkpointing",
    "activation_checkpointing_kwargs", "gradient_checkpointing", "gradient_checkpointing_kwargs",
)  # fmt: skip
_PLACES = ("from", "source", "name")  # in the record of data: where files lie, beside hashes of what they hold


@dataclass(frozen=True)
class RunSettings:
    """What a run is, as far as it changes numbers.

    Parameters
    ----------
    record
        For whoever reads checkpoints.
    save_at
        Steps after which the run is saved.
    arguments
        Of the Trainer, plain values.
    base_digest
        What tells the base from another.
    """

    record: TrainingRecord
    save_at: Sequence[int]
    arguments: Mapping[str, Any]
    base_digest: Mapping[str, Any]

    def compared(self) -> dict[str, Any]:
        """Plain values of which none may change while a run goes on."""
        record = asdict(self.record)
        for name in ("versions", "base", "revision"):  # the base by its digest
            del record[name]
        record["data"] = _without_places(record["data"])
        found = {
            "training": record,
            "save_at": list(self.save_at),
            "arguments": self.arguments,
            "base": self.base_digest,
        }
        plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
        return plain


def record_of(
    method: Method, choices: MethodChoices, data: TaskData, arguments: TrainingArguments, base: str, model: nn.Module
) -> TrainingRecord:
    """The record of a run that begins.

    Parameters
    ----------
    method, choices, data, arguments
        Of the run.
    base
        Folder or hub id.
    model
        Adapted.
    """
    config: Any = getattr(model, "config", None)
    return TrainingRecord(
        method=method.name,
        kind=data.task.kind,
        base=base,
        revision=getattr(config, "_commit_hash", None),
        choices=asdict(choices),
        optimizer=str(getattr(arguments.optim, "value", arguments.optim)),
        learning_rate=float(arguments.learning_rate),
        scheduler=str(getattr(arguments.lr_scheduler_type, "value", arguments.lr_scheduler_type)),
        warmup=int(arguments.get_warmup_steps(arguments.max_steps)) / arguments.max_steps,
        weight_decay=float(arguments.weight_decay),
        clip=float(arguments.max_grad_norm),
        batch_size=arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size,
        steps=int(arguments.max_steps),
        seed=int(arguments.seed),
        trainable_parameters=sum(value.numel() for value in model.parameters() if value.requires_grad),
        parameters=sum(value.numel() for value in model.parameters()),
        precision="bfloat16" if arguments.bf16 else "float32",
        data=data.source,
        versions=environment(arguments.device)["versions"],
    )


def recorded_arguments(arguments: TrainingArguments) -> dict[str, Any]:
    """Those of TrainingArguments that change numbers.

    Parameters
    ----------
    arguments
        Of the run.
    """
    return {name: value for name, value in plain_arguments(arguments).items() if name not in _SAME_NUMBERS}


def keep_settings(folder: Path, settings: RunSettings, device: torch.device) -> None:
    """Write what a run is, or see that it is what the folder was begun with.

    Parameters
    ----------
    folder
        Of the run.
    settings
        Of this attempt.
    device
        That it runs on; another one is added to those that the run was trained on.

    Raises
    ------
    RankLabError
        Naming the first difference, or if the folder holds what no record tells of.
    """
    file = folder / SETTINGS_FILE
    now, here = settings.compared(), environment(device)
    if not file.is_file():
        _refuse_others_work(folder)
        settings.record.save(folder)
        write_whole(file, _text({"version": _VERSION, **now, "environments": [here]}))
        return
    before = _read(file)
    old = {name: before[name] for name in now}
    both = old["arguments"].keys() & now["arguments"].keys()  # another version of transformers has other ones
    for each in (old, now):
        each["arguments"] = {name: each["arguments"][name] for name in sorted(both)}
    difference = next(differences(old, now), None)
    if difference is not None:
        raise RankLabError(
            f"{file}: the run was begun with other settings: {difference}; train it as it was begun, or in a new"
            " folder."
        )
    if before["environments"][-1] != here:
        write_whole(file, _text({**before, "environments": [*before["environments"], here]}))
    if not (folder / RECORD_FILE).is_file():
        settings.record.save(folder)


def _refuse_others_work(folder: Path) -> None:
    there = sorted(path.name for path in folder.glob("checkpoint-*")) + [
        name for name in (RECORD_FILE,) if (folder / name).exists()
    ]
    # A record without settings is of a run that was killed between the two: before any checkpoint.
    if there and there != [RECORD_FILE]:
        raise RankLabError(
            f"{folder}: holds {there[0]} of another training, but no {SETTINGS_FILE}; give a new folder."
        )


def _read(file: Path) -> dict[str, Any]:
    try:
        size_of(file)
        content = parse_json(file.read_bytes())
        if content["version"] != _VERSION:
            raise SchemaError(f"{file}: version {content['version']!r}, expected {_VERSION}; give a new folder.")
        return {name: content[name] for name in _CONTENT}
    except (OSError, CheckpointError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, SchemaError):
            raise
        raise SchemaError(f"{file}: cannot be read ({error}); restore it from a copy, or give a new folder.") from error


def _without_places(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {name: _without_places(each) for name, each in value.items() if name not in _PLACES}


def _text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1) + "\n"
