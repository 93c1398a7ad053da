"""What a schedule was run with, in ``schedule.json``; going on with anything else is refused by name."""

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from rank_lab.curve import CURVE_FILE, SCHEDULE_FILE
from rank_lab.durable import write_whole
from rank_lab.errors import RankLabError, SchemaError
from rank_lab.sora.schedule_plan import Schedule

__all__ = [
    "SCHEDULE_FILE",
    "agree_on_file",
    "data_digest",
    "differences",
    "environment",
    "keep_record",
    "plain_adapter",
    "plain_arguments",
]

SCHEMA = 1

_ROWS = 1000  # digested at a time; another number gives other digests
_NOT_COMPARED = ("schema", "environments")
_MAY_GROW = ("thresholds", "target_ranks", "target_parameters", "seeds", "controls")
_PACKAGES = ("rank-lab", "torch", "transformers", "peft", "accelerate", "datasets", "numpy")

# Of TrainingArguments: what a stage decides by itself, and what changes no number.
_NOT_RECORDED = (
    "output_dir", "max_steps", "num_train_epochs", "seed", "data_seed", "load_best_model_at_end", "ignore_data_skip",
    "auto_find_batch_size", "restore_callback_states_from_checkpoint", "disable_tqdm", "report_to", "run_name",
    "project", "do_train", "do_eval", "do_predict", "resume_from_checkpoint", "local_rank", "use_cpu", "debug",
    "metric_for_best_model", "greater_is_better", "skip_memory_metrics", "prediction_loss_only", "batch_eval_metrics",
    "include_for_metrics", "include_num_input_tokens_seen", "torch_empty_cache_steps",
)  # fmt: skip
_NOT_RECORDED_STARTS = ("logging_", "log_", "save_", "eval_", "hub_", "push_to_hub", "trackio_", "ddp_", "dataloader_")
_RECORDED_ALL_THE_SAME = ("dataloader_drop_last",)

_NOT_OF_THE_ADAPTER = ("base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "peft_version")


def keep_record(out: Path, schedule: Schedule, settings: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Write what a run is, or see that it is what the folder was begun with.

    Longer lists of thresholds, targets, seeds or controls, that begin with the old
    ones, extend a run. Other versions, threads or devices are added to
    ``environments`` with the time: they may change last digits, and are no other run.

    Parameters
    ----------
    out
        Folder of the study.
    schedule
        To carry out.
    settings
        Everything else that changes numbers, as plain values.
    device
        That it runs on.

    Returns
    -------
    dict
        The record as it now is on the disk.

    Raises
    ------
    RankLabError
        Naming the first difference, or if there is a curve that no record belongs to.
    SchemaError
        If the record cannot be read.
    """
    file = out / SCHEDULE_FILE
    plan = asdict(schedule) | {"controls": schedule.controls_in_use, "dense_stop": asdict(schedule.first_rule)}
    now = json.loads(json.dumps({"schedule": plan, **settings}, default=str))
    here = environment(device) | {"since": datetime.now(UTC).isoformat(timespec="seconds")}
    if not file.is_file():
        if (out / CURVE_FILE).exists():
            raise RankLabError(f"{out}: holds a {CURVE_FILE} but no {SCHEDULE_FILE}; give a new folder.")
        record = {"schema": SCHEMA, **now, "environments": [here]}
    else:
        before = _read(file)
        _refuse_changes(file, before, now)
        environments = before["environments"]
        if {**environments[-1], "since": ""} != {**here, "since": ""}:
            environments = [*environments, here]
        record = {"schema": SCHEMA, **now, "environments": environments}
        if record == before:
            return record
    write_whole(file, json.dumps(record, indent=1) + "\n")
    return record


def plain_arguments(arguments: TrainingArguments) -> dict[str, Any]:
    """Those of TrainingArguments that change numbers and are the user's.

    Parameters
    ----------
    arguments
        The user's.
    """
    return {
        name: value
        for name, value in arguments.to_dict().items()
        if name in _RECORDED_ALL_THE_SAME
        or not (name in _NOT_RECORDED or name.startswith(_NOT_RECORDED_STARTS) or name.endswith("_token"))
    }


def plain_adapter(config: Any) -> dict[str, Any]:
    """An adapter's settings without what names files.

    Parameters
    ----------
    config
        A SoraConfig.
    """
    found = {name: value for name, value in config.to_dict().items() if name not in _NOT_OF_THE_ADAPTER}
    return {name: sorted(value) if isinstance(value, set | frozenset) else value for name, value in found.items()}


def data_digest(dataset: Any) -> dict[str, Any]:
    """How many rows a data set has, its columns, and the SHA-256 of all values in order.

    Parameters
    ----------
    dataset
        A ``datasets.Dataset``.
    """
    digest, names = hashlib.sha256(), sorted(dataset.column_names)
    for start in range(0, len(dataset), _ROWS):
        columns = dataset[start : start + _ROWS]
        rows = json.dumps([columns[name] for name in names], default=_as_list)
        digest.update(rows.encode() + b"\n")
    return {"rows": len(dataset), "columns": names, "sha256": digest.hexdigest()}


def environment(device: torch.device) -> dict[str, Any]:
    """Versions and the machine's part in last digits.

    Parameters
    ----------
    device
        That a run is on; a machine may have others.

    Examples
    --------
    >>> found = environment(torch.device("cpu"))
    >>> found["device_type"], found["device"] == platform.machine()
    ('cpu', True)
    """
    versions = {name: version(name) for name in _PACKAGES}
    return {
        "versions": versions | {"python": platform.python_version()},
        "threads": torch.get_num_threads(),
        "device_type": device.type,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
    }


def agree_on_file(file: Path, content: Mapping[str, Any], what: str) -> None:
    """Write a small file of a run, or see that it says the same.

    Parameters
    ----------
    file
        In a folder that exists.
    content
        Plain values.
    what
        Said of it where it differs.

    Raises
    ------
    RankLabError
        Naming the first difference.
    """
    now = json.loads(json.dumps(content))
    if not file.is_file():
        write_whole(file, json.dumps(now) + "\n")
        return
    difference = next(differences(_read(file), now, ""), None)
    if difference is not None:
        raise RankLabError(f"{file}: {what}: {difference}; run the schedule in a new folder.")


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise SchemaError(f"{file}: cannot be read ({error}); restore it from a copy, or give a new folder.") from error
    lacks = {"schedule", "arguments", "adapter"} - set(content) if file.name == SCHEDULE_FILE else ()
    if not isinstance(content, dict) or content.get("schema", SCHEMA) != SCHEMA or lacks:
        raise SchemaError(f"{file}: is not of schema {SCHEMA}; use the version of rank_lab that wrote it.")
    return content


def _refuse_changes(file: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    old = {name: value for name, value in before.items() if name not in _NOT_COMPARED}
    for name in ("arguments", "adapter"):  # other versions of the libraries have other settings, with defaults
        both = before[name].keys() & now[name].keys()
        old = {**old, name: {key: old[name][key] for key in both}}
        now = {**now, name: {key: now[name][key] for key in both}}
    old, new = (json.loads(json.dumps(each)) for each in (old, now))
    if old["schedule"].get("dense_stop") is None:  # written before the rule in effect was
        old["schedule"]["dense_stop"] = new["schedule"]["dense_stop"]
    for name in _MAY_GROW:
        grown = new["schedule"][name]
        first = old["schedule"].get(name, [])
        if first == grown[: len(first)]:
            old["schedule"][name] = grown
    difference = next(differences(old, new, ""), None)
    if difference is not None:
        raise RankLabError(
            f"{file}: the run was begun with other settings: {difference}; run it as it was begun, or in a new folder"
            " (only longer lists of thresholds, targets, seeds and controls go on in the old one)."
        )


def differences(there: Any, now: Any, path: str = "") -> Iterator[str]:
    """What differs between two plain values, by name.

    Parameters
    ----------
    there, now
        Of JSON.
    path
        Of both.

    Examples
    --------
    >>> list(differences({"a": {"b": 1}}, {"a": {"b": 2}}))
    ['a.b 1 there, 2 now']
    """
    if isinstance(there, dict) and isinstance(now, dict):
        for name in [*there, *(name for name in now if name not in there)]:
            yield from differences(there.get(name), now.get(name), f"{path}.{name}" if path else name)
    elif there != now:
        yield f"{path} {_short(there)} there, {_short(now)} now"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _as_list(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)
