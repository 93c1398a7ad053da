"""What ``rank-lab schedule`` does: read a task and a model, run Algorithm 1, print its curves."""

import copy
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from rank_lab.base_model import load_base, refuse_unfit_data
from rank_lab.console import console
from rank_lab.curve import CurveRow
from rank_lab.curve_terminal import curve_summary, render_curve, sentence
from rank_lab.durable import write_whole
from rank_lab.errors import RankLabError
from rank_lab.plain_text import first_line, plain
from rank_lab.scores import SCORES
from rank_lab.sora.schedule import run_schedule
from rank_lab.sora.schedule_choices import Adapter, Inputs, Training
from rank_lab.sora.schedule_plan import Schedule
from rank_lab.tasks import TaskData

__all__ = ["TASK_FILE", "make_model_of", "quiet_libraries", "run_and_print"]

TASK_FILE = "task.json"
"""Where the rows came from, what was cut and left out."""


def make_model_of(source: str, data: TaskData, adapter: Adapter) -> Callable[[], nn.Module]:
    """What makes the model with its SoRA adapter, anew at each call.

    Parameters
    ----------
    source
        Folder or hub id of the base.
    data
        For the kind of the task and the number of classes.
    adapter
        As typed.
    """
    kind = data.task.kind
    config = adapter.config(kind)

    def make_model() -> nn.Module:
        base = load_base(source, kind, classes=data.classes)
        refuse_unfit_data(base, data, source)
        if base.config.pad_token_id is None:
            base.config.pad_token_id = data.source["tokenizer"]["pad_token_id"]
        model = _adapted(base, config)
        if adapter.freeze_head:
            for name, value in model.named_parameters():
                value.requires_grad_(value.requires_grad and "modules_to_save" not in name)
        return model

    return make_model


def _adapted(base: Any, config: Any) -> nn.Module:
    from peft import get_peft_model

    targets = config.target_modules if isinstance(config.target_modules, str) else ",".join(config.target_modules)
    try:
        model: nn.Module = get_peft_model(base, copy.deepcopy(config))
        return model
    except ValueError as error:  # PEFT's: no such layers, a rank that is none
        raise RankLabError(f"--rank {config.r}, --targets {targets}: {first_line(error)}") from error


def run_and_print(
    inputs: Inputs, study: Path, adapter: Adapter, training: Training, schedule: Schedule, *, as_json: bool
) -> None:
    """Run the schedule, with a line on standard error for each check and stage, and print its curves with their knees.

    Parameters
    ----------
    inputs, adapter, training
        As typed.
    study
        Folder that receives everything; one that was stopped goes on.
    schedule
        What is run.
    as_json
        The rows and knees as JSON, in place of tables.
    """
    if study.is_file():
        raise RankLabError(f"{study}: is a file; -o names the folder of the study.")
    quiet_libraries()
    arguments = training.arguments(study)
    data = inputs.encoded()
    for warning in data.source["warnings"]:
        sys.stderr.write(f"note: {warning}\n")
    curve = run_schedule(
        make_model_of(inputs.model, data, adapter), data.train, data.validation, study, schedule,
        score=SCORES[data.task.score], collator=data.collator, arguments=arguments,
        names={"model": inputs.name or Path(inputs.model).name, "task": data.task.name},
        progress=_tell_row, watch=_tell,
    )  # fmt: skip
    write_whole(study / TASK_FILE, json.dumps(data.source, indent=1) + "\n")
    if as_json:
        sys.stdout.write(json.dumps(curve_summary(curve), indent=1) + "\n")
    else:
        console().print(render_curve(curve))
        console().print(plain(f"written: {study}"))


def quiet_libraries() -> None:
    """No load reports and bars of other libraries between the lines of a run; a new head is meant to be new."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # PEFT asks by the older name


def _tell_row(row: CurveRow) -> None:
    _tell(sentence(row))


def _tell(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
