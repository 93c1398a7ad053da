"""What a run cannot be trained with, refused before anything is loaded."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from rank_lab.errors import RankLabError, UnsupportedUpdateError
from rank_lab.tasks import TaskData
from rank_lab.training.lion import is_own_lion
from rank_lab.training.method import KINDS

__all__ = ["refuse_adapted", "refuse_arguments", "refuse_crowded"]

_BEFORE_INPUT = frozenset({"prefix", "prompt", "prelayer"})  # methods whose virtual tokens take positions

_NEEDED: Mapping[str, str] = {  # starts of names of optimizers, and what they are made of
    "lion": "bitsandbytes", "paged": "bitsandbytes", "ademamix": "bitsandbytes", "adamw_bnb": "bitsandbytes",
    "adamw_8bit": "bitsandbytes", "rmsprop_bnb": "bitsandbytes", "adamw_torch_4bit": "torchao",
    "adamw_torch_8bit": "torchao", "galore": "galore_torch", "lomo": "lomo_optim", "adalomo": "lomo_optim",
    "grokadamw": "grokadamw", "schedule_free": "schedulefree", "apollo": "apollo_torch",
    "stable_adamw": "optimi", "adamw_anyprecision": "torchdistx",
}  # fmt: skip


def refuse_arguments(arguments: TrainingArguments, data: TaskData, folder: Path) -> None:
    """Refuse what no run can be trained with.

    Parameters
    ----------
    arguments
        The user's.
    data
        Of the run.
    folder
        That is to receive it.

    Raises
    ------
    RankLabError
        Naming it.
    """
    if folder.exists() and not folder.is_dir():
        raise RankLabError(f"{folder}: is a file; -o names the folder of the run.")
    if arguments.max_steps < 1:
        raise RankLabError(f"max_steps {arguments.max_steps}: expected the steps of the training, 1 or more.")
    if data.task.kind not in KINDS:
        raise RankLabError(f"a task of kind {data.task.kind!r}: expected one of {', '.join(KINDS)}.")
    if arguments.n_gpu > 1:
        raise UnsupportedUpdateError(
            f"{arguments.n_gpu} GPUs in one process: start one process for each with 'accelerate launch', or show one"
            " by CUDA_VISIBLE_DEVICES."
        )
    for name in ("fp16", "deepspeed", "fsdp", "torch_compile"):
        if getattr(arguments, name, None):
            raise UnsupportedUpdateError(
                f"TrainingArguments({name}={getattr(arguments, name)!r}): not supported here, where every step is taken"
                " and every tensor is in one piece; use bf16 or float32, and DDP for several GPUs."
            )
    if arguments.warmup_steps and arguments.get_warmup_steps(arguments.max_steps) > arguments.max_steps:
        raise RankLabError(
            f"{arguments.warmup_steps} steps of warm-up in {arguments.max_steps} steps; give fewer, or a share below 1."
        )
    batch = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    if len(data.train) < batch:
        raise RankLabError(
            f"{len(data.train)} training examples for a batch of {batch} (--batch-size x --accumulation x processes);"
            " give a smaller one."
        )
    if arguments.train_sampling_strategy != "random":
        raise UnsupportedUpdateError(
            f"TrainingArguments(train_sampling_strategy={arguments.train_sampling_strategy!r}): not supported; examples"
            " come in random order."
        )
    _refuse_optimizer(arguments)


def refuse_adapted(model: Any, arguments: TrainingArguments, method: str) -> None:
    """Refuse what a method cannot be trained with.

    Parameters
    ----------
    model
        Adapted.
    arguments
        The user's.
    method
        Its name.

    Raises
    ------
    UnsupportedUpdateError
        Naming it.
    """
    types = {str(getattr(config.peft_type, "value", "")) for config in getattr(model, "peft_config", {}).values()}
    if arguments.activation_checkpointing and "PREFIX_TUNING" in types:
        raise UnsupportedUpdateError(
            f"method {method!r} with gradient checkpointing: the prefix is handed to the model as its cache, which"
            " grows when a layer is computed again; leave out --gradient-checkpointing."
        )


def refuse_crowded(base: Any, data: TaskData, method: str, prompt_tokens: int) -> None:
    """Refuse virtual tokens that leave the longest input no room within the model's positions.

    Parameters
    ----------
    base
        The model, not adapted yet.
    data
        Both sets.
    method, prompt_tokens
        Its name, and how many virtual tokens it has, if it is one that has any.

    Raises
    ------
    RankLabError
        With both numbers, and what to lower.
    """
    positions = getattr(base.config, "max_position_embeddings", None)
    if method not in _BEFORE_INPUT or not isinstance(positions, int):
        return
    longest = max(len(row) for part in (data.train, data.validation) for row in part["input_ids"])
    if prompt_tokens + longest > positions:
        fit = f"at most {positions - longest} fit" if longest < positions else "none fits"
        raise RankLabError(
            f"--prompt-tokens {prompt_tokens}: with an input of {longest} tokens they are more than the model's"
            f" {positions} positions ({fit}); give fewer, or a smaller --max-length."
        )


def _refuse_optimizer(arguments: TrainingArguments) -> None:
    name = str(getattr(arguments.optim, "value", arguments.optim))
    package = next((package for start, package in _NEEDED.items() if name.startswith(start)), None)
    if package is not None and not is_own_lion(name) and importlib.util.find_spec(package) is None:
        raise RankLabError(f"optimizer {name}: is of the package {package}, which is not installed; install it first.")
