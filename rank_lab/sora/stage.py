"""One stage of Algorithm 1: trained from what is on the disk until its rule says that it ends."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from transformers import TrainingArguments

from rank_lab.durable import write_whole
from rank_lab.errors import CheckpointError, RankLabError
from rank_lab.sora.adapter_files import load_adapter, save_adapter
from rank_lab.sora.callback import sora_config_of
from rank_lab.sora.gates import gated_modules
from rank_lab.sora.rates import gate_rates
from rank_lab.sora.schedule_plan import StageGoal
from rank_lab.sora.stage_checkpoints import (
    hook_calls,
    last_whole,
    log_of,
    optimizer_file,
    reached_threshold,
    seconds_of,
)
from rank_lab.sora.stage_progress import PROGRESS_FILE, progress_line
from rank_lab.sora.stage_trainer import StageCallback, StageTrainer
from rank_lab.sora.stop_rule import Stop, StopRule, checks_of, gates_fell, stopped
from rank_lab.sora.target import TargetThreshold, gate_costs, target_counts

__all__ = ["Stage", "Trained", "prox_start", "seed_of", "stage_arguments", "train_stage"]

_CHECKS_PER_SAVE = 5


@dataclass(frozen=True)
class Stage:
    """What one stage is trained from and with.

    Parameters
    ----------
    folder
        Of the stage.
    before
        Folder of the stage before; None for the first.
    goal
        What it does.
    seed
        Of the run; with the number of the stage it decides everything random in it.
    arguments
        The user's.
    keep_moments
        Whether the optimizer's moments come from the stage before.
    prox_start_step
        The first step after which gates are shrunk, see :func:`prox_start`.
    watch
        Called with a sentence at each check.
    """

    folder: Path
    before: Path | None
    goal: StageGoal
    seed: int
    arguments: TrainingArguments
    keep_moments: bool
    prox_start_step: int
    watch: Callable[[str], None] | None = None

    @property
    def training(self) -> Path:
        """Where the Trainer's checkpoints are."""
        return self.folder / "training"

    @property
    def where(self) -> str:
        """What errors call it."""
        aim = (
            f"threshold {self.goal.threshold:g}"
            if self.goal.threshold is not None
            else f"target {self.goal.target:g} ({self.goal.target_kind})"
        )
        return f"seed {self.seed}, stage {self.goal.stage} ({aim})"


@dataclass(frozen=True)
class Trained:
    """What a stage did, as its last checkpoint says.

    Parameters
    ----------
    steps, hook_calls
        Of the optimizer, and how often gates were shrunk.
    stop
        Why it ended.
    lr_start, lr_peak, lr_end
        The first, the largest and the last learning rate.
    threshold
        The last in force; where a target was reached, the one that reached it.
    gates_fell
        Share of the gates' sum of absolute values that was lost in the checks that decided the end.
    seconds
        Wall time of training, over all processes that had a part in it.
    """

    steps: int
    hook_calls: int
    stop: Stop
    lr_start: float
    lr_peak: float
    lr_end: float
    threshold: float
    gates_fell: float
    seconds: float


def train_stage(model: nn.Module, train: Any, collator: Any, stage: Stage) -> Trained:
    """Train a stage, from its start or its last whole checkpoint, and write its adapter.

    Parameters
    ----------
    model
        Whatever its adapter holds: the values are read from the disk, or are those of the start for the first stage.
    train, collator
        What the Trainer takes.
    stage
        What to do.

    Returns
    -------
    Trained
        The model then holds the stage's last values.

    Raises
    ------
    NonFiniteError
        If it diverges; its last whole checkpoint stays.
    RankLabError
        If gates were not shrunk exactly once a step.
    """
    last = last_whole(stage.training)
    _configure(model, stage)
    if last is None or stopped(stage.goal.rule, log_of(last)) is None:
        if stage.before is not None:
            load_adapter(model, stage.before)
        _train(model, train, collator, stage, last)
        last = last_whole(stage.training)
    if last is None:
        raise CheckpointError(
            f"{stage.training}: the Trainer took no step; are there fewer examples than a batch, and"
            " dataloader_drop_last?"
        )
    load_adapter(model, last)
    save_adapter(model, stage.folder)
    checks = checks_of(log_of(last))
    write_whole(stage.folder / PROGRESS_FILE, "".join(progress_line(check) + "\n" for check in checks))
    return _trained(stage, last)


def stage_arguments(template: TrainingArguments, rule: StopRule, folder: Path, seed: int) -> TrainingArguments:
    """A user's arguments with what a stage decides by itself.

    Parameters
    ----------
    template
        The user's.
    rule
        Of the stage.
    folder
        For checkpoints.
    seed
        Of the stage.
    """
    return dataclasses.replace(
        template,
        output_dir=str(folder),
        max_steps=rule.max_steps,
        num_train_epochs=1.0,
        logging_strategy="steps",
        logging_steps=rule.check_steps,
        logging_first_step=False,
        logging_nan_inf_filter=False,  # the default would show the mean of the others in place of a NaN
        save_strategy="steps",
        save_steps=rule.check_steps * _CHECKS_PER_SAVE,  # at checks: a check's mean never straddles a checkpoint
        save_total_limit=None,
        save_only_model=False,
        eval_strategy="no",
        eval_on_start=False,
        load_best_model_at_end=False,
        ignore_data_skip=False,
        restore_callback_states_from_checkpoint=False,
        auto_find_batch_size=False,
        push_to_hub=False,
        report_to=[],
        disable_tqdm=True,
        seed=seed,
        data_seed=seed,
    )


def seed_of(seed: int, stage: int) -> int:
    """The seed of all that is random in one stage.

    Parameters
    ----------
    seed, stage
        Of the run, and the number of the stage.

    Examples
    --------
    >>> seed_of(0, 1) == seed_of(0, 1) != seed_of(1, 0)
    True
    """
    return int(np.random.SeedSequence((seed, stage)).generate_state(1)[0])


def prox_start(config: Any, arguments: TrainingArguments, rule: StopRule) -> int:
    """The first step of a stage after which gates are shrunk.

    In the mode ``adam`` that is the end of warm-up where the config has no step
    of its own, and no ``adam_rms``: before, gradients are too small to be a metric.

    Parameters
    ----------
    config
        The adapter's.
    arguments
        The user's.
    rule
        Of the stage.

    Raises
    ------
    RankLabError
        If there is no warm-up either.
    """
    given = int(config.prox_start_step)
    if config.threshold_mode != "adam" or config.adam_rms or given:
        return given
    warmup = int(arguments.get_warmup_steps(rule.max_steps))
    if not warmup:
        raise RankLabError(
            "threshold_mode 'adam' shrinks gates from step 0, when they have hardly seen a gradient (B starts at zero);"
            " give warm-up (warmup_steps), SoraConfig(prox_start_step=...) or adam_rms=True."
        )
    return warmup


def _configure(model: nn.Module, stage: Stage) -> None:
    config = sora_config_of(model)
    config.threshold = stage.goal.threshold
    config.prox_start_step = stage.prox_start_step


def _train(model: nn.Module, train: Any, collator: Any, stage: Stage, last: Path | None) -> None:
    carried = stage.before if stage.keep_moments else None
    seed = seed_of(stage.seed, stage.goal.stage)
    stage.training.mkdir(parents=True, exist_ok=True)
    trainer = StageTrainer(
        stage=StageCallback(stage.goal.rule, stage.where, stage.folder / PROGRESS_FILE, last, stage.watch),
        moments=None if carried is None else optimizer_file(carried / "training"),
        target=_target(model, stage),
        model=model,
        args=stage_arguments(stage.arguments, stage.goal.rule, stage.training, seed),
        train_dataset=train,
        data_collator=collator,
    )
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    # Mixed precision wraps the model's forward pass, once for every Trainer.
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)


def _target(model: nn.Module, stage: Stage) -> TargetThreshold | None:
    goal = stage.goal
    if goal.target is None or goal.target_kind is None:
        return None
    count = target_counts(goal.target_kind, [goal.target], gated_modules(model))[0]
    rates = gate_rates(stage.arguments, goal.rule.max_steps, sora_config_of(model).gate_lr)
    return TargetThreshold(count, gate_costs(goal.target_kind, model), rates)


def _trained(stage: Stage, last: Path) -> Trained:
    log = log_of(last)
    check, stop = checks_of(log)[-1], stopped(stage.goal.rule, log)
    calls, steps = hook_calls(last), int(check["step"])
    if calls != steps or stop is None:
        raise RankLabError(
            f"{stage.where}: {steps} steps of the optimizer, but gates were shrunk {calls} times (stop: {stop}); is the"
            " optimizer replaced or wrapped during training?"
        )
    rates = {name: float(check[name]) for name in ("lr_start", "lr_peak", "lr_end")}
    reached = reached_threshold(last)
    threshold = float(check["threshold"]) if reached is None else reached
    fell = gates_fell(stage.goal.rule, log)
    return Trained(steps, calls, stop, threshold=threshold, gates_fell=fell, seconds=seconds_of(last), **rates)
