"""SoRA, sparse low-rank adaptation, as a method of PEFT: a gate between LoRA's factors, made sparse in training.

Importing this package is all that PEFT needs: ``get_peft_model``,
``PeftModel.from_pretrained``, the ``AutoPeftModel`` classes and transformers'
``load_adapter`` then know the type.
"""

from typing import TYPE_CHECKING

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
from rank_lab.sora.model import SoraModel
from rank_lab.sora.peft_type import register
from rank_lab.sora.proximal import ProximalStep
from rank_lab.sora.thresholds import gapped_threshold, soft_threshold, threshold_list

if TYPE_CHECKING:
    from rank_lab.sora.trainer import SoraTrainer, SoraTrainerMixin

__all__ = [
    "FoldReport",
    "GatedModule",
    "ProximalStep",
    "SoraCallback",
    "SoraConfig",
    "SoraModel",
    "SoraTrainer",
    "SoraTrainerMixin",
    "exact_parameter_count",
    "fold",
    "gapped_threshold",
    "gate_parameters",
    "gated_modules",
    "importance",
    "parameter_groups",
    "published_parameter_count",
    "soft_threshold",
    "threshold_list",
]

register(SoraConfig, SoraModel, SoraModel.prefix)


def __getattr__(name: str) -> object:
    """Load the Trainer, which takes seconds to import, on first use."""
    if name not in {"SoraTrainer", "SoraTrainerMixin"}:
        raise AttributeError(f"module 'rank_lab.sora' has no attribute {name!r}")
    from rank_lab.sora import trainer

    return getattr(trainer, name)
