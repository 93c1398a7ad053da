"""What a training step works through: how many weights, on how many tokens, on which kind of machine."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rank_lab.training.tracking_points import CPU, CUDA, CUDA_16, Rates

__all__ = ["CountTokens", "counted_weights", "rates_for"]


class CountTokens:
    """Counts the tokens that a model is trained on until it is told to stop.

    Parameters
    ----------
    model
        Whose forward passes in training mode are counted.

    Examples
    --------
    >>> model = torch.nn.Embedding(9, 2)
    >>> counter = CountTokens(model)
    >>> _ = model(torch.zeros(4, 5, dtype=torch.int64))
    >>> counter.stop()
    >>> _ = model(torch.zeros(4, 5, dtype=torch.int64))
    >>> counter.count
    20
    """

    def __init__(self, model: Any) -> None:
        self.count = 0
        self._handle = model.register_forward_pre_hook(self._see, with_kwargs=True)

    def stop(self) -> None:
        """Count no further."""
        self._handle.remove()

    def _see(self, model: Any, positional: Sequence[Any], named: Mapping[str, Any]) -> None:
        if model.training:
            values = [named.get("input_ids"), named.get("inputs_embeds"), *positional, *named.values()]
            first = next((value for value in values if isinstance(value, Tensor) and value.ndim), None)
            self.count += 0 if first is None else math.prod(first.shape[:2])


def counted_weights(model: Any) -> tuple[int, float]:
    """How many weights every token is multiplied with, and which share of them is trained.

    The input embedding is looked up, not multiplied; it counts where the output head is tied to it.

    Examples
    --------
    >>> counted_weights(torch.nn.Linear(3, 2))
    (6, 1.0)
    """
    looked_up = _weight(model, "get_input_embeddings")
    head = _weight(model, "get_output_embeddings")
    counted = {id(value): value for value in _matrices(model) if value is not looked_up or value is head}
    total = sum(value.numel() for value in counted.values())
    trained = sum(value.numel() for value in counted.values() if value.requires_grad)
    return total, trained / total if total else 0.0


def rates_for(model: Any, arguments: Any) -> Rates:
    """Rates of the machine that trains this model; on a CPU, of as many cores as torch uses.

    Parameters
    ----------
    model
        Where its weights lie and in which type.
    arguments
        Of the Trainer, for mixed precision.
    """
    first = next(iter(model.parameters()))
    if first.device.type == "cpu":
        cores = torch.get_num_threads()
        shared = {name: getattr(CPU, name) / cores for name in ("product", "entry", "gram", "eigen")}
        return replace(CPU, **shared)
    short = first.dtype in {torch.bfloat16, torch.float16} or bool(arguments.bf16 or arguments.fp16)
    return CUDA_16 if short else CUDA


def _matrices(model: Any) -> Iterator[Tensor]:
    return (value for value in model.parameters() if value.ndim > 1)


def _weight(model: Any, getter: str) -> Tensor | None:
    try:
        layer = getattr(model, getter)()
    except (AttributeError, NotImplementedError):
        return None
    found = getattr(layer, "weight", None)
    return found if isinstance(found, Tensor) else None
