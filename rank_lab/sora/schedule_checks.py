"""What a schedule cannot be run with, refused before anything is trained."""

import os
from collections.abc import Mapping
from typing import Any

from peft import PeftModel
from torch import nn
from transformers import TrainingArguments

from rank_lab.errors import RankLabError, UnsupportedUpdateError
from rank_lab.sora.adapter_files import check_all_is_saved
from rank_lab.sora.callback import active_adapter, sora_config_of
from rank_lab.sora.schedule_plan import Schedule
from rank_lab.sora.stage import prox_start

__all__ = ["refuse_arguments", "refuse_early_end", "refuse_model", "refuse_processes", "refuse_sets"]

_LABELS = ("labels", "label")


def refuse_arguments(arguments: TrainingArguments, names: Mapping[str, str]) -> None:
    """Refuse what no stage can be trained with.

    Parameters
    ----------
    arguments
        The user's.
    names
        For the rows.

    Raises
    ------
    RankLabError
        Naming it.
    """
    refuse_processes(max(arguments.world_size, arguments.n_gpu))
    for name in ("fp16", "deepspeed", "fsdp", "torch_compile"):
        if getattr(arguments, name, None):
            raise UnsupportedUpdateError(
                f"TrainingArguments({name}={getattr(arguments, name)!r}): not supported by a schedule, which needs"
                " every step to be taken and every gate in one piece; use bf16 or float32 on one device, as it is."
            )
    odd = sorted(set(names) - {"model", "task"})
    if odd:
        raise RankLabError(f"names {odd}: expected model and task.")


def refuse_early_end(arguments: TrainingArguments, schedule: Schedule, config: Any) -> None:
    """Refuse a stage that could end where its loss or its gates rest because nothing has begun to move them.

    Parameters
    ----------
    arguments
        The user's.
    schedule
        To carry out.
    config
        The adapter's.

    Raises
    ------
    RankLabError
        If ``min_steps`` of a stage lies within warm-up, or before the first step that shrinks its gates.
    """
    for goal in schedule.goals:
        warmup = int(arguments.get_warmup_steps(goal.rule.max_steps))
        start, least = prox_start(config, arguments, goal.rule), goal.rule.min_steps
        if goal.threshold == 0:  # shrinks nothing, whenever it starts
            start = 0
        if max(warmup, start) <= least:
            continue
        if warmup >= start:
            raise RankLabError(
                f"stage {goal.stage}: min_steps {least} lies within warm-up ({warmup} steps), where the loss can be"
                " flat because the learning rate is small; raise min_steps, or shorten warm-up."
            )
        raise RankLabError(
            f"stage {goal.stage}: min_steps {least} lies before prox_start_step {start}, up to which no gate is shrunk"
            " and all rest; raise min_steps, or lower prox_start_step."
        )


def refuse_processes(count: int) -> None:
    """Refuse several processes or devices: each would train and write the same stage.

    Parameters
    ----------
    count
        As far as the caller knows; the environment is asked, too.

    Raises
    ------
    UnsupportedUpdateError
        If there is more than one.
    """
    processes = max(int(os.environ.get("WORLD_SIZE") or 1), count)
    if processes > 1:
        raise UnsupportedUpdateError(
            f"{processes} processes or GPUs: a schedule runs in one process on one device; run each seed as a process"
            " of its own, in a folder of its own (CUDA_VISIBLE_DEVICES, without torchrun)."
        )


def refuse_model(model: nn.Module, other_than: nn.Module | None) -> None:
    """Refuse a model that no stage could start from.

    Parameters
    ----------
    model
        From ``make_model``.
    other_than
        The one of the seed before.

    Raises
    ------
    RankLabError
        Naming what is wrong.
    """
    if not isinstance(model, PeftModel):
        raise RankLabError(
            f"make_model returned a {type(model).__name__}; expected what get_peft_model(model, SoraConfig(...)) gives."
        )
    if model is other_than:
        raise RankLabError("make_model returned the same model for two seeds; it must make a new one at each call.")
    config = sora_config_of(model)
    names = [*model.peft_config]
    if names != ["default"] or active_adapter(model) != "default":
        raise RankLabError(f"the model has adapters {names}; a schedule needs one, of the name 'default'.")
    if config.threshold is not None:
        raise RankLabError(
            f"SoraConfig(threshold={config.threshold:g}): each stage has its own; leave it out, and give"
            " Schedule(thresholds=...)."
        )
    check_all_is_saved(model)


def refuse_sets(train: Any, validation: Any, subset: int) -> None:
    """Refuse data sets that nothing can be measured on.

    Parameters
    ----------
    train, validation
        With the columns that the model takes.
    subset
        Size of the memorization subset.

    Raises
    ------
    RankLabError
        Naming the set.
    """
    for name, dataset in (("training", train), ("validation", validation)):
        if not any(column in dataset.column_names for column in _LABELS):
            raise RankLabError(
                f"the {name} set has columns {dataset.column_names} but no labels; add a column 'labels'."
            )
        if not len(dataset):
            raise RankLabError(f"the {name} set is empty; nothing can be measured on it.")
    if len(train) < subset:
        raise RankLabError(
            f"the training set has {len(train)} examples, fewer than the memorization subset of {subset}; give"
            f" a subset of {len(train)} or less (--subset)."
        )
