"""What a fine-tuning method is: how it adapts a model, and what a reader must know of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

__all__ = ["KINDS", "Method", "MethodChoices"]

KINDS = ("causal", "masked", "classification", "regression")
"""What a model may predict: the next token, a masked token, a class, a number."""


@dataclass(frozen=True)
class MethodChoices:
    """What a user may choose of a method; a method reads its own part and refuses what it cannot carry out.

    Parameters
    ----------
    targets
        ``"attention"``, ``"mlp"`` or ``"all"`` (gate_proj included), or names of modules with commas between.
    embeddings, head
        Whether the input embedding and the output head are adapted, too.
    rank, alpha, dropout
        Of the LoRA family; alpha None for 2 x rank. SoRA: the largest rank; AdaLoRA: the mean rank in the end.
    bottleneck, place
        Of adapters: width, and ``"attention"``, ``"mlp"`` or ``"both"``.
    prompt_tokens
        Of prefix and prompt tuning: virtual tokens.
    threshold, gate_lr
        SoRA's; see :class:`rank_lab.sora.SoraConfig`.
    steps
        Optimizer steps in all, which AdaLoRA's budget needs.
    """

    targets: str = "all"
    embeddings: bool = False
    head: bool = False
    rank: int = 16
    alpha: float | None = None
    dropout: float = 0.0
    bottleneck: int = 64
    place: str = "both"
    prompt_tokens: int = 20
    threshold: float = 0.0
    gate_lr: float | None = None
    steps: int = 1000


@dataclass(frozen=True)
class Method:
    """One way to fine-tune.

    Parameters
    ----------
    name, title
        As the command line and as tables call it.
    reference
        arXiv id or DOI.
    learning_rate
        Where a search would begin, with AdamW.
    adapt
        Of a model, what is chosen and one of :data:`KINDS`: the model ready to train, of which only the
        method's own parameters require a gradient. The model given may be changed.
    at_start
        How outputs differ from the base's before training; empty where they are equal.
    starts_elsewhere
        Whether factors start from a part of the base weights, so that an update is told from the adapter as it started.
    """

    name: str
    title: str
    reference: str
    learning_rate: float
    adapt: "Callable[[Any, MethodChoices, str], nn.Module]"
    at_start: str = ""
    starts_elsewhere: bool = False
