"""What ``rank-lab schedule`` does: read a task and a model, run Algorithm 1, print its curves."""

import copy
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from rank_lab.commands import console
from rank_lab.curve import CurveRow
from rank_lab.curve_terminal import render_curve, sentence
from rank_lab.durable import write_text
from rank_lab.errors import DataError, RankLabError
from rank_lab.scores import SCORES
from rank_lab.sora.config import SoraConfig
from rank_lab.sora.knees import knees_of
from rank_lab.sora.schedule import run_schedule
from rank_lab.sora.schedule_plan import Schedule
from rank_lab.sora.thresholds import threshold_list
from rank_lab.tasks import GLUE, Subset, Task, TaskData, encoded, task_named

__all__ = ["Adapter", "Inputs", "Sweep", "Training", "make_model_of", "run_and_print"]

TASK_FILE = "task.json"
"""Where the rows came from, what was cut and left out."""

_PEFT_TASKS = {"classification": "SEQ_CLS", "regression": "SEQ_CLS", "causal": "CAUSAL_LM"}


@dataclass(frozen=True)
class Inputs:
    """The model and its task, as typed.

    Parameters
    ----------
    model
        Folder or hub id of the base.
    task
        One of GLUE's names, or any where the columns are given.
    data
        Folder of ``train.jsonl`` and ``validation.jsonl``; None for the hub.
    text_columns, label_column, kind, score
        Of a task of the user's own; no text columns for one of GLUE's.
    max_length, train_limit
        Tokens of the longest example, and how many training examples; None for all.
    """

    model: str
    task: str
    data: Path | None = None
    text_columns: tuple[str, ...] = ()
    label_column: str = ""
    kind: str = "classification"
    score: str = ""
    max_length: int | None = None
    train_limit: int | None = None

    def encoded(self) -> TaskData:
        """Both sets, tokenised by the model's own tokenizer.

        Raises
        ------
        RankLabError
            If the task is not known, its columns were not given, or its data cannot be read.
        """
        from transformers import AutoTokenizer

        task = self._task()
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.model)
        except (OSError, ValueError) as error:
            raise DataError(f"{self.model}: no tokenizer could be loaded ({_first_line(error)}).") from error
        return encoded(task, self.data, tokenizer, max_length=self.max_length, subset=Subset(train=self.train_limit))

    def _task(self) -> Task:
        own = self.text_columns or self.label_column or self.score
        if not own:
            return task_named(self.task)
        if self.task in GLUE:
            raise DataError(
                f"--task {self.task} is GLUE's, whose columns and score are known; give a task of your own another"
                " name, or leave out --text-column, --label-column and --score."
            )
        score = self.score or {"classification": "accuracy", "regression": "pearson"}.get(self.kind, "token_accuracy")
        return Task(self.task, self.kind, self.text_columns, self.label_column, score)


@dataclass(frozen=True)
class Sweep:
    """What is raised from stage to stage, as typed.

    Parameters
    ----------
    thresholds, target_ranks, target_parameters
        Lists, comma-separated; empty for none.
    kind, start, stop, count
        Or a list by formula; see :func:`rank_lab.sora.threshold_list`.
    """

    thresholds: str = ""
    target_ranks: str = ""
    target_parameters: str = ""
    kind: str = "linear"
    start: float = 0.0
    stop: float | None = None
    count: int = 7

    def lists(self) -> dict[str, tuple[float, ...] | tuple[int, ...]]:
        """As :class:`rank_lab.sora.Schedule` names them.

        Raises
        ------
        RankLabError
            If none or several were given, or one holds what is no number.
        """
        given = [
            name
            for name, value in (
                ("--thresholds", self.thresholds), ("--stop", self.stop is not None),
                ("--target-ranks", self.target_ranks), ("--target-parameters", self.target_parameters),
            )
            if value
        ]  # fmt: skip
        if len(given) != 1:
            said = " and ".join(given) or "none of them"
            raise RankLabError(
                f"{said} given; expected one of --thresholds 0,1,2, --stop 2 (with --start, --count, --list),"
                " --target-ranks 6,4,2 or --target-parameters 100000,50000."
            )
        if self.stop is not None:
            return {"thresholds": tuple(threshold_list(self.kind, self.start, self.stop, self.count))}
        if self.target_parameters:
            counts = _numbers(self.target_parameters, "--target-parameters")
            return {"target_parameters": tuple(int(count) for count in counts)}
        if self.target_ranks:
            return {"target_ranks": _numbers(self.target_ranks, "--target-ranks")}
        return {"thresholds": _numbers(self.thresholds, "--thresholds")}


@dataclass(frozen=True)
class Adapter:
    """What is trained, as typed; see :class:`rank_lab.sora.SoraConfig`.

    Parameters
    ----------
    rank, alpha, dropout, targets
        LoRA's; targets comma-separated.
    mode, operator, gate_init, gate_lr, l1_weight, revive
        SoRA's.
    freeze_head
        Whether a classification head stays as it starts, as in the published code.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: str = "all-linear"
    mode: str = "lr"
    operator: str = "soft"
    gate_init: str = "ones"
    gate_lr: float | None = None
    l1_weight: float = 0.0
    revive: bool = True
    freeze_head: bool = False

    def config(self, kind: str) -> SoraConfig:
        """The configuration for a task of that kind."""
        names = [name.strip() for name in self.targets.split(",") if name.strip()]
        return SoraConfig(
            r=self.rank, lora_alpha=self.alpha, lora_dropout=self.dropout,
            target_modules=names[0] if names == ["all-linear"] else names, task_type=_PEFT_TASKS[kind],
            threshold_mode=self.mode, operator=self.operator, gate_init=self.gate_init, gate_lr=self.gate_lr,
            l1_weight=self.l1_weight, revive=self.revive,
        )  # fmt: skip


@dataclass(frozen=True)
class Training:
    """How each stage is trained, as typed; see transformers' ``TrainingArguments``.

    Parameters
    ----------
    learning_rate, scheduler, warmup, weight_decay, clip
        Of the optimizer, AdamW; warm-up as a fraction of a stage.
    batch_size, accumulation, evaluation_batch_size
        Examples.
    bf16
        Mixed precision.
    device
        ``cpu`` or ``cuda``.
    """

    learning_rate: float = 1e-3
    scheduler: str = "constant_with_warmup"
    warmup: float = 0.06
    weight_decay: float = 0.0
    clip: float = 1.0
    batch_size: int = 16
    accumulation: int = 1
    evaluation_batch_size: int = 64
    bf16: bool = False
    device: str = "cpu"

    def arguments(self, study: Path) -> Any:
        """The template that :func:`rank_lab.sora.run_schedule` takes."""
        from transformers import TrainingArguments

        return TrainingArguments(
            str(study), learning_rate=self.learning_rate, lr_scheduler_type=self.scheduler,
            warmup_steps=self.warmup, weight_decay=self.weight_decay, max_grad_norm=self.clip,
            per_device_train_batch_size=self.batch_size, gradient_accumulation_steps=self.accumulation,
            per_device_eval_batch_size=self.evaluation_batch_size, bf16=self.bf16, use_cpu=self.device == "cpu",
            dataloader_pin_memory=self.device != "cpu", report_to=[],
        )  # fmt: skip


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
        from peft import get_peft_model

        base = _base_model(source, data)
        if base.config.pad_token_id is None:
            base.config.pad_token_id = data.source["tokenizer"]["pad_token_id"]
        model: nn.Module = get_peft_model(base, copy.deepcopy(config))
        if adapter.freeze_head:
            for name, value in model.named_parameters():
                value.requires_grad_(value.requires_grad and "modules_to_save" not in name)
        return model

    return make_model


def _base_model(source: str, data: TaskData) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    kind = data.task.kind
    try:
        if kind == "causal":
            return AutoModelForCausalLM.from_pretrained(source)
        problem = "regression" if kind == "regression" else "single_label_classification"
        return AutoModelForSequenceClassification.from_pretrained(
            source, num_labels=data.classes or 1, problem_type=problem, ignore_mismatched_sizes=True
        )
    except (OSError, ValueError) as error:
        raise RankLabError(f"{source}: no model for a {kind} task could be loaded ({_first_line(error)}).") from error


def run_and_print(
    inputs: Inputs, study: Path, adapter: Adapter, training: Training, schedule: Schedule, *, as_json: bool
) -> None:
    """Run the schedule, a line on standard error for each stage that is done, and print its curves with their knees.

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
    arguments = training.arguments(study)
    data = inputs.encoded()
    for warning in data.source["warnings"]:
        sys.stderr.write(f"note: {warning}\n")
    curve = run_schedule(
        make_model_of(inputs.model, data, adapter), data.train, data.validation, study, schedule,
        score=SCORES[data.task.score], collator=data.collator, arguments=arguments,
        names={"model": Path(inputs.model).name, "task": data.task.name}, progress=_tell,
    )  # fmt: skip
    write_text(study / TASK_FILE, json.dumps(data.source, indent=1) + "\n")
    knees = knees_of(curve)
    if as_json:
        rows = [asdict(row) for row in curve.records]
        sys.stdout.write(json.dumps({"rows": rows, "knees": knees}, indent=1) + "\n")
    else:
        console().print(render_curve(curve.rows, knees))
        console().print(f"written: {study}", highlight=False)


def _tell(row: CurveRow) -> None:
    sys.stderr.write(sentence(row) + "\n")
    sys.stderr.flush()


def _numbers(text: str, option: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise RankLabError(f"{option} {text}: expected numbers with commas between, such as 0,1,2.5.") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
