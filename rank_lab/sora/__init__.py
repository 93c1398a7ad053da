"""SoRA, sparse low-rank adaptation, as a method of PEFT: a gate between LoRA's factors, made sparse in training.

Importing this package is all that PEFT needs: ``get_peft_model``,
``PeftModel.from_pretrained``, the ``AutoPeftModel`` classes and transformers'
``load_adapter`` then know the type.

Examples
--------
Any model with linear layers, and any of transformers' Trainers (``class Mine(SoraTrainerMixin, SFTTrainer)``); the
only line that SoRA changes is the Trainer's. Gates start at one: in the mode ``lr`` none is zero before the threshold
times the learning rate, summed over the steps, nears one, and soon after all are: try a few thresholds.

>>> from tempfile import TemporaryDirectory
>>> from datasets import Dataset
>>> from peft import get_peft_model
>>> from transformers import AutoModelForCausalLM, TrainingArguments
>>> from rank_lab.demo import BASE  # your model: a folder or a hub id
>>> from rank_lab.sora import SoraConfig, SoraTrainer, exact_parameter_count, fold, gated_modules
>>> model = AutoModelForCausalLM.from_pretrained(BASE)
>>> config = SoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM", threshold=9.5)
>>> model = get_peft_model(model, config)
>>> rows = [{"input_ids": [5, 6, 7, 8], "labels": [5, 6, 7, 8]}] * 40  # your tokens
>>> out = TemporaryDirectory()
>>> options = TrainingArguments(out.name, max_steps=20, learning_rate=1e-2, report_to=[], use_cpu=True)
>>> trainer = SoraTrainer(model, options, train_dataset=Dataset.from_list(rows))
>>> trainer.train()
{...TrainOutput(...)
>>> trainer.save_model(out.name + "/sora")  # rank-lab analyze reads it as it is
>>> modules = gated_modules(model)
>>> 0 < sum(module.nonzero for module in modules) < sum(module.rank for module in modules)
True
>>> report = fold(out.name + "/sora", out.name + "/lora", model=BASE)  # plain LoRA, for those without rank_lab
>>> report.parameters == exact_parameter_count(modules), report.model_difference < 1e-4
(True, True)
>>> out.cleanup()
"""

from importlib import import_module
from typing import TYPE_CHECKING

from rank_lab.peft_types import register
from rank_lab.sora.callback import SoraCallback
from rank_lab.sora.config import SoraConfig
from rank_lab.sora.folding import FoldReport, fold
from rank_lab.sora.gates import (
    GatedModule,
    exact_parameter_count,
    gate_parameters,
    gated_modules,
    importance,
    parameter_groups,
    published_parameter_count,
)
from rank_lab.sora.live import leave_out_zeros
from rank_lab.sora.model import SoraModel
from rank_lab.sora.proximal import ProximalStep
from rank_lab.sora.schedule_plan import Schedule
from rank_lab.sora.stop_rule import StopRule
from rank_lab.sora.thresholds import gapped_threshold, soft_threshold, threshold_list

if TYPE_CHECKING:
    from rank_lab.sora.schedule import run_schedule
    from rank_lab.sora.trainer import SoraTrainer, SoraTrainerMixin

__all__ = [
    "FoldReport",
    "GatedModule",
    "ProximalStep",
    "Schedule",
    "SoraCallback",
    "SoraConfig",
    "SoraModel",
    "SoraTrainer",
    "SoraTrainerMixin",
    "StopRule",
    "exact_parameter_count",
    "fold",
    "gapped_threshold",
    "gate_parameters",
    "gated_modules",
    "importance",
    "leave_out_zeros",
    "parameter_groups",
    "published_parameter_count",
    "run_schedule",
    "soft_threshold",
    "threshold_list",
]

register("SORA", SoraConfig, SoraModel, SoraModel.prefix)


_LAZY = {"SoraTrainer": "trainer", "SoraTrainerMixin": "trainer", "run_schedule": "schedule"}


def __getattr__(name: str) -> object:
    """Load what needs the Trainer, which takes seconds to import, on first use."""
    if name not in _LAZY:
        raise AttributeError(f"module 'rank_lab.sora' has no attribute {name!r}")
    return getattr(import_module(f"rank_lab.sora.{_LAZY[name]}"), name)
