"""One run of :mod:`analyses.parameter_efficiency`: trained, its parameters counted, asked for the validation set."""

import dataclasses
import math
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn
from transformers import TrainingArguments, set_seed

from analyses.efficiency_arms import WARMUP, Arm, warmed_linear
from analyses.storage_formats import encoder_folder
from rank_lab.base_model import load_base, load_tokenizer
from rank_lab.demo import BASE
from rank_lab.scores import SCORES
from rank_lab.sora.callback import SoraCallback, sora_config_of
from rank_lab.sora.gates import exact_parameter_count, gate_parameters, gated_modules, published_parameter_count
from rank_lab.sora.predictions import predictions_of
from rank_lab.sora.target import TargetThreshold, gate_costs, target_counts
from rank_lab.task_rows import read_rows
from rank_lab.tasks import GLUE, Subset, TaskData, encoded
from rank_lab.training.finetune import TrainingRun, Watching, finetune
from rank_lab.training.methods import METHODS

__all__ = ["DEMO", "ENCODER", "KeptShare", "Sizes", "halves", "parameters_of", "run", "task_data"]

ENCODER = "all-MiniLM-L6-v2"
"""What the development environment's encoder is called."""

DEMO = "the demo's base"

_HEADS = ("classifier", "score")
_MEASURED_IN_TRAINING = 16
"""Validation examples whose loss a run notes itself; its score is of all, afterwards."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What all runs of a study share.

    Parameters
    ----------
    model
        Hub id, :data:`ENCODER` or :data:`DEMO`.
    steps, batch, max_length
        Optimizer steps, examples of each, tokens of the longest.
    train_limit, validation_limit
        Examples of a task that are used; None for all.
    device
        ``cpu`` or ``cuda``.
    """

    model: str
    steps: int
    batch: int
    max_length: int
    train_limit: int | None
    validation_limit: int | None
    device: str

    @property
    def folder(self) -> str:
        """Folder or hub id."""
        if self.model == DEMO:
            return str(BASE)
        return str(encoder_folder()) if self.model == ENCODER else self.model


class KeptShare(SoraCallback):
    """SoRA's threshold rises until only a share of the parameters is left; see :class:`TargetThreshold`.

    Parameters
    ----------
    share
        In (0, 1).
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def on_train_begin(self, args: Any, state: Any, _control: Any, **kwargs: Any) -> None:
        """Count, and hook in."""
        model = kwargs["model"]
        config, modules = sora_config_of(model), gated_modules(model)
        config.threshold = None  # not a number that a reader of the adapter could use again
        whole = exact_parameter_count([dataclasses.replace(module, nonzero=module.rank) for module in modules])
        count = target_counts("parameters", [math.floor(self.share * whole)], modules)[0]
        rate = args.learning_rate if config.gate_lr is None else config.gate_lr
        rates = [rate * part for part in warmed_linear(args.max_steps)]
        self.threshold = TargetThreshold(count, gate_costs("parameters", model), rates)
        super().on_train_begin(args, state, _control, **kwargs)


def task_data(task: str, folder: Path, sizes: Sizes) -> TaskData:
    """A task, its validation set in the order of length, which saves padding.

    Parameters
    ----------
    task
        One of GLUE's.
    folder
        With a folder for each task.
    sizes
        Of the study.
    """
    tokenizer = load_tokenizer(sizes.folder, "a study of fine-tuning starts from a base")
    rows = len(read_rows(GLUE[task], folder / task, "validation", commit=None).texts)
    limit = None if sizes.validation_limit is None else min(sizes.validation_limit, rows)
    subset = Subset(train=sizes.train_limit, validation=limit)
    data = encoded(task, folder / task, tokenizer, max_length=sizes.max_length, subset=subset)
    order = np.argsort([len(tokens) for tokens in data.validation["input_ids"]], kind="stable")
    return dataclasses.replace(data, validation=data.validation.select(order))


def run(arm: Arm, rate: float, seed: int, data: TaskData, sizes: Sizes, folder: Path) -> dict[str, Any]:
    """Train once; parameters, scores of both halves of the validation set, and predictions.

    Parameters
    ----------
    arm, rate, seed
        What is trained, and how.
    data
        Of the task.
    sizes
        Of the study.
    folder
        Of the run: its record stays there, its checkpoint does not.
    """
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed: its end would be told, not be in the model
    set_seed(seed)  # the new head is the same for all arms
    model = load_base(sizes.folder, data.task.kind, classes=data.classes, dtype="float32")
    head = sum(value.numel() for name, value in model.named_parameters() if _is_head(name))
    noted = data.validation.select(range(min(_MEASURED_IN_TRAINING, len(data.validation))))
    began = time.monotonic()
    watching = Watching(callbacks=[KeptShare(arm.keep)] if arm.keep is not None else ())
    plan = TrainingRun(model, METHODS[arm.method], arm.choices, _arguments(rate, seed, sizes, folder), 1)
    done = finetune(plan, dataclasses.replace(data, validation=noted), folder, watching=watching)
    seconds = time.monotonic() - began
    with torch.autocast(sizes.device, torch.bfloat16):  # as it was trained
        found = predictions_of(model, data.validation, data.collator, data.task.kind, 32, show_labels=False)
    score = SCORES[data.task.score]
    chosen, reported = halves(len(found.labels))
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    return {
        **parameters_of(model, head),
        "choice_score": score.of(found.labels[chosen], found.predictions[chosen]),
        "report_score": score.of(found.labels[reported], found.predictions[reported]),
        "train_loss": done.losses[-1].train_loss,
        "training_seconds": seconds,
        "predictions": [round(float(value), 5) for value in found.predictions],
        "labels": found.labels.tolist(),
    }


def halves(examples: int) -> tuple[np.ndarray, np.ndarray]:
    """Which examples choose the learning rate, and which are reported on: a fixed choice by chance.

    Parameters
    ----------
    examples
        Of the validation set.

    Examples
    --------
    >>> chosen, reported = halves(5)
    >>> len(chosen), len(reported), sorted([*chosen.tolist(), *reported.tolist()])
    (2, 3, [0, 1, 2, 3, 4])
    """
    order = np.random.default_rng(0).permutation(examples)
    return np.sort(order[: examples // 2]), np.sort(order[examples // 2 :])


def parameters_of(model: Any, head: int) -> dict[str, int | None]:
    """Exact counts, the new head apart from all others: trained, not zero in the end, and of the base.

    A direction that SoRA or AdaLoRA closed counts as zero with both of its vectors; AdaLoRA's others have a value of
    their own beside these, SoRA's gates are folded into one of them. Of SoRA also what the published code counts.

    Parameters
    ----------
    model
        As trained.
    head
        Parameters of the new head.
    """
    trained = sum(value.numel() for name, value in model.named_parameters() if _counts(name, value))
    left, published = trained, None
    if gate_parameters(model):
        modules = gated_modules(model)
        left = exact_parameter_count(modules)
        published = published_parameter_count(modules, int(model.config.hidden_size))
    elif any(".lora_E." in name for name, _ in model.named_parameters()):
        left = sum(_directions_left(module) for module in model.modules() if hasattr(module, "lora_E"))
    original = sum(value.numel() for name, value in model.named_parameters() if _is_of_base(name))
    return {"trained": trained, "nonzero": left, "published_count": published, "head": head, "base": original}


def _directions_left(module: Any) -> int:
    return sum(
        int((values != 0).sum()) * (module.lora_A[name].shape[1] + module.lora_B[name].shape[0] + 1)
        for name, values in module.lora_E.items()
    )


def _counts(name: str, value: nn.Parameter) -> bool:
    return value.requires_grad and not _is_head(name)


def _is_head(name: str) -> bool:
    return any(part in _HEADS for part in name.split("."))


_ADDED = ("lora_", "bitfit_", "bottleneck_")


def _is_of_base(name: str) -> bool:
    return not _is_head(name) and not any(part.startswith(_ADDED) for part in name.split("."))


def _arguments(rate: float, seed: int, sizes: Sizes, folder: Path) -> TrainingArguments:
    return TrainingArguments(
        str(folder), max_steps=sizes.steps, per_device_train_batch_size=sizes.batch, per_device_eval_batch_size=32,
        learning_rate=rate, lr_scheduler_type="linear", warmup_steps=WARMUP, weight_decay=0.0, seed=seed,
        use_cpu=sizes.device == "cpu", dataloader_pin_memory=False, bf16=True, report_to=[],
    )  # fmt: skip
