"""What the verb ``schedule`` was asked for, as typed; checked when it is carried out."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rank_lab.base_model import load_tokenizer
from rank_lab.errors import DataError, RankLabError
from rank_lab.plain_text import first_line
from rank_lab.sora.config import SoraConfig
from rank_lab.sora.schedule_plan import Schedule
from rank_lab.sora.stop_rule import StopRule
from rank_lab.sora.thresholds import threshold_list
from rank_lab.tasks import GLUE, Subset, Task, TaskData, encoded, task_named
from rank_lab.training_options import refuse_below_one, refuse_device, refuse_negative, refuse_rate

__all__ = ["Adapter", "Inputs", "Plan", "Training"]

_PEFT_TASKS = {"classification": "SEQ_CLS", "regression": "SEQ_CLS", "causal": "CAUSAL_LM"}
_SCHEDULERS = (
    "constant_with_warmup",
    "constant",
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "inverse_sqrt",
)
_SCORES = {"classification": "accuracy", "regression": "pearson", "causal": "token_accuracy"}


@dataclass(frozen=True)
class Inputs:
    """The model and its task, as typed.

    Parameters
    ----------
    model, name
        Folder or hub id of the base, and what tables call it; empty for the folder's name.
    task
        One of GLUE's names, or any where the columns are given.
    data, revision
        Folder of ``train.jsonl`` and ``validation.jsonl``; None for the hub, and of that a branch, tag or commit.
    text_columns, label_column, kind, score
        Of a task of the user's own, a classification unless said; none of them for one of GLUE's.
    max_length, train_limit
        Tokens of the longest example, and how many training examples; None for all.
    """

    model: str
    task: str
    data: Path | None = None
    revision: str | None = None
    text_columns: tuple[str, ...] = ()
    label_column: str = ""
    kind: str | None = None
    score: str = ""
    max_length: int | None = None
    train_limit: int | None = None
    name: str = ""

    def encoded(self) -> TaskData:
        """Both sets, tokenised by the model's own tokenizer.

        Raises
        ------
        RankLabError
            If the task is not known, its columns were not given, or its data cannot be read.
        """
        task = self._task()
        tokenizer = load_tokenizer(self.model, "a schedule trains a new SoRA adapter from its start")
        subset = Subset(train=self.train_limit)
        return encoded(task, self.data, tokenizer, max_length=self.max_length, subset=subset, revision=self.revision)

    def _task(self) -> Task:
        own = self.text_columns or self.label_column or self.score or self.kind
        if not own:
            return task_named(self.task)
        if self.task in GLUE:
            raise DataError(
                f"--task {self.task} is GLUE's, whose columns and score are known; give a task of your own another"
                " name, or leave out --text-column, --label-column, --kind and --score."
            )
        kind = self.kind or "classification"
        if kind not in _PEFT_TASKS:
            raise DataError(f"--kind {kind}: a schedule is of one of {', '.join(_PEFT_TASKS)}.")
        score = self.score or _SCORES.get(kind, "accuracy")
        return Task(self.task, kind, self.text_columns, self.label_column, score)


@dataclass(frozen=True)
class Plan:
    """What is raised from stage to stage, and when a stage ends, as typed.

    Parameters
    ----------
    thresholds, target_ranks, target_parameters
        Lists, comma-separated; empty for none.
    kind, start, stop, count
        Or a list by formula, linear from 0 and of 7 where not given; see :func:`rank_lab.sora.threshold_list`.
    controls
        Comma-separated; ``none`` for none, None for all that apply.
    seeds
        Comma-separated.
    reference, subset, subset_seed, keep_moments
        See :class:`rank_lab.sora.Schedule`.
    min_steps, max_steps, check_steps, patience, tolerance
        See :class:`rank_lab.sora.StopRule`.
    dense_steps
        Steps of stage 0, exactly: a loss is flat before it begins to fall, too. None for the rule of the others.
    """

    thresholds: str = ""
    target_ranks: str = ""
    target_parameters: str = ""
    kind: str | None = None
    start: float | None = None
    stop: float | None = None
    count: int | None = None
    controls: str | None = None
    seeds: str = "0"
    reference: str = "stage_0"
    subset: int = 1000
    subset_seed: int = 42
    keep_moments: bool = True
    min_steps: int = 100
    max_steps: int = 1000
    check_steps: int = 20
    patience: int = 3
    tolerance: float = 0.01
    dense_steps: int | None = None

    def schedule(self) -> Schedule:
        """As :func:`rank_lab.sora.run_schedule` takes it.

        Raises
        ------
        RankLabError
            If no list or several were given, or a value is none of those that it may be.
        """
        rule = StopRule(self.min_steps, self.max_steps, self.check_steps, self.patience, self.tolerance)
        dense = None
        if self.dense_steps is not None:
            if self.dense_steps < 1 or self.dense_steps % self.check_steps:
                raise RankLabError(
                    f"--dense-steps {self.dense_steps}: expected a multiple of --check-steps, {self.check_steps}."
                )
            dense = replace(rule, min_steps=self.dense_steps, max_steps=self.dense_steps)
        return Schedule(
            **self._sweep(), stop=rule, dense_stop=dense, controls=self._controls(), reference=self.reference,
            subset=self.subset, subset_seed=self.subset_seed, seeds=_whole(self.seeds, "--seeds"),
            keep_moments=self.keep_moments,
        )  # fmt: skip

    def _sweep(self) -> dict[str, Any]:
        given = [
            name
            for name, value in (
                ("--thresholds", self.thresholds), ("--stop", self.stop is not None),
                ("--target-ranks", self.target_ranks), ("--target-parameters", self.target_parameters),
            )
            if value
        ]  # fmt: skip
        if len(given) != 1:
            raise RankLabError(
                f"{' and '.join(given) or 'no thresholds'} given; expected one of --thresholds 0,1,2, --stop 2 (with"
                " --start, --count, --list), --target-ranks 6,4,2 and --target-parameters 100000,50000."
            )
        by_formula = {"--list": self.kind, "--start": self.start, "--count": self.count}
        if self.stop is not None:
            start, count = (0.0 if self.start is None else self.start), (7 if self.count is None else self.count)
            return {"thresholds": tuple(threshold_list(self.kind or "linear", start, self.stop, count))}
        unused = [option for option, value in by_formula.items() if value is not None]
        if unused:
            raise RankLabError(f"{unused[0]} without --stop: it is of a list by formula; give --stop, or leave it out.")
        if self.target_parameters:
            return {"target_parameters": _whole(self.target_parameters, "--target-parameters")}
        if self.target_ranks:
            return {"target_ranks": _numbers(self.target_ranks, "--target-ranks")}
        return {"thresholds": _numbers(self.thresholds, "--thresholds")}

    def _controls(self) -> tuple[str, ...] | None:
        if self.controls is None:
            return None
        return () if self.controls == "none" else tuple(name.strip() for name in self.controls.split(","))


@dataclass(frozen=True)
class Adapter:
    """What is trained, as typed; see :class:`rank_lab.sora.SoraConfig`.

    Parameters
    ----------
    rank, alpha, dropout, targets
        LoRA's; targets comma-separated.
    mode, operator, gate_init, gate_lr, gate_clip, l1_weight, prox_start_step, adam_rms, revive, leave_out_zeros
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
    gate_clip: float | None = None
    l1_weight: float = 0.0
    prox_start_step: int = 0
    adam_rms: bool = False
    revive: bool = True
    leave_out_zeros: bool = False
    freeze_head: bool = False

    def config(self, kind: str) -> SoraConfig:
        """The configuration for a task of that kind.

        Raises
        ------
        RankLabError
            If a value is none of those that it may be.
        """
        if not 0 < abs(self.alpha) < math.inf:
            raise RankLabError(f"--alpha {self.alpha!r}: expected a finite number other than 0, which adapts nothing.")
        if not 0 <= self.dropout < 1:
            raise RankLabError(f"--dropout {self.dropout!r}: expected a share from 0 to below 1.")
        if self.freeze_head and kind == "causal":
            raise RankLabError("--freeze-head with a causal task, which has no new head; leave it out.")
        names = [name.strip() for name in self.targets.split(",") if name.strip()]
        return SoraConfig(
            r=self.rank, lora_alpha=self.alpha, lora_dropout=self.dropout,
            target_modules=names[0] if names == ["all-linear"] else names, task_type=_PEFT_TASKS[kind],
            threshold_mode=self.mode, operator=self.operator, gate_init=self.gate_init, gate_lr=self.gate_lr,
            gate_clip=self.gate_clip, l1_weight=self.l1_weight, prox_start_step=self.prox_start_step,
            adam_rms=self.adam_rms, revive=self.revive, leave_out_zeros=self.leave_out_zeros,
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
        """The template that :func:`rank_lab.sora.run_schedule` takes.

        Raises
        ------
        RankLabError
            If transformers refuses a value, or the device is not there.
        """
        refuse_device(self.device)
        if not 0 <= self.warmup < 1:
            raise RankLabError(f"--warmup {self.warmup:g}: expected a fraction of a stage, from 0 to below 1.")
        counts = ("batch_size", "accumulation", "evaluation_batch_size")
        refuse_below_one({name: getattr(self, name) for name in counts})
        refuse_rate("--lr", self.learning_rate)
        refuse_negative({"--weight-decay": self.weight_decay, "--clip": self.clip})
        if self.scheduler not in _SCHEDULERS:
            raise RankLabError(f"--scheduler {self.scheduler}: expected one of {', '.join(_SCHEDULERS)}.")
        try:
            return self._template(study)
        except ValueError as error:  # transformers': bf16 where it cannot be
            raise RankLabError(f"training options: {first_line(error)}") from error

    def _template(self, study: Path) -> Any:
        from transformers import TrainingArguments

        return TrainingArguments(
            str(study), learning_rate=self.learning_rate, lr_scheduler_type=self.scheduler,
            warmup_steps=self.warmup, weight_decay=self.weight_decay, max_grad_norm=self.clip,
            per_device_train_batch_size=self.batch_size, gradient_accumulation_steps=self.accumulation,
            per_device_eval_batch_size=self.evaluation_batch_size, bf16=self.bf16, use_cpu=self.device == "cpu",
            dataloader_pin_memory=self.device != "cpu", report_to=[],
        )  # fmt: skip


def _numbers(text: str, option: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise RankLabError(f"{option} {text}: expected numbers with commas between, such as 0,1,2.5.") from None


def _whole(text: str, option: str) -> tuple[int, ...]:
    values = _numbers(text, option)
    if not all(value.is_integer() for value in values):
        raise RankLabError(f"{option} {text}: expected whole numbers with commas between.")
    return tuple(int(value) for value in values)
