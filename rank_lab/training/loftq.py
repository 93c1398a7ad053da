r"""LoftQ (2310.08659) as a method of PEFT: LoRA on a base rounded to NF4, from factors that make up for the rounding.

PEFT's own LoftQ needs bitsandbytes and a CUDA device. Here the base's weight is replaced by what its NF4 form stands
for, :math:`Q`, in the type that it had: the numbers are LoftQ's, the memory is not saved. The factors start as the best
approximation of the error, :math:`s\,B A \approx W - Q`. One iteration, PEFT's default: :math:`Q` is then the rounding
of :math:`W` alone, the same wherever an adapter is loaded on the original base, which rounds it anew.

Saved are ``adapter_config.json`` (``peft_type`` ``LOFTQ``, else as LoRA's) and ``adapter_model.safetensors``:
``base_model.model.MODULE.lora_A.weight`` (r, in) and ``base_model.model.MODULE.lora_B.weight`` (out, r).
"""

from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraModel
from peft.tuners.lora.layer import Linear
from scipy.stats import norm
from torch import Tensor, nn

from rank_lab.errors import UnsupportedUpdateError
from rank_lab.peft_types import peft_type, register

__all__ = ["BLOCK", "NF4", "LoftqAdapterConfig", "LoftqModel", "rounded_to_nf4"]

BLOCK = 64
"""Values in a row that share a scale."""

_TAIL = 0.9677083  # of QLoRA (2305.14314): the outermost quantiles are at this share


def _levels() -> Tensor:
    """Quantiles of a normal distribution, 8 above zero, 7 below and zero itself, the largest at one."""
    above = norm.ppf(torch.linspace(_TAIL, 0.5, 9, dtype=torch.float64)[:-1].numpy())
    below = -norm.ppf(torch.linspace(_TAIL, 0.5, 8, dtype=torch.float64)[:-1].numpy())
    levels = torch.tensor([*above, 0.0, *below], dtype=torch.float64).sort().values
    return (levels / levels.max()).to(torch.float32)


NF4 = _levels()
"""The 16 values of NF4, between -1 and 1."""


@dataclass
class LoftqAdapterConfig(LoraConfig):  # type: ignore[misc]
    """What ``get_peft_model`` needs for LoftQ: all of ``LoraConfig`` holds.

    Examples
    --------
    >>> LoftqAdapterConfig(r=4).peft_type.value
    'LOFTQ'
    """

    def __post_init__(self) -> None:
        """Take the method's own type, and refuse another start."""
        super().__post_init__()
        self.peft_type = peft_type("LOFTQ")
        if self.init_lora_weights is not True or self.use_dora:
            raise UnsupportedUpdateError(
                "LoftqAdapterConfig: init_lora_weights and use_dora are another start and another method; leave them"
                " out, or use LoraConfig."
            )


class LoftqModel(LoraModel):  # type: ignore[misc]
    """LoRA's model whose base is rounded; made by ``get_peft_model``, not by hand."""

    prefix: str = "lora_"

    def _create_and_replace(
        self, lora_config: Any, adapter_name: str, target: nn.Module, target_name: str, parent: nn.Module, **kwargs: Any
    ) -> None:
        if isinstance(target, Linear):
            raise UnsupportedUpdateError(
                f"LoftQ: {kwargs['current_key']!r} has another adapter already, whose base it would round; load it on a"
                " model of its own."
            )
        super()._create_and_replace(lora_config, adapter_name, target, target_name, parent, **kwargs)
        layer = getattr(parent, target_name)
        if type(layer) is not Linear:
            raise UnsupportedUpdateError(
                f"LoftQ: {kwargs['current_key']!r}, a {type(target).__name__}, is no linear layer to round; leave it"
                " out of the targets."
            )
        _start(layer, adapter_name)


@torch.no_grad()
def _start(layer: Any, adapter_name: str) -> None:
    """Round the base and, where they have values, set the factors to the best approximation of what that took."""
    weight = layer.get_base_layer().weight
    rounded = rounded_to_nf4(weight.data)
    error = weight.data.to(torch.float32) - rounded.to(torch.float32)
    weight.data = rounded
    A, B = layer.lora_A[adapter_name].weight, layer.lora_B[adapter_name].weight
    if A.device.type == "meta":  # the values come from a file
        return
    error = error.T if layer.fan_in_fan_out else error
    left, sizes, across = torch.linalg.svd(error, full_matrices=False)
    rank = min(layer.r[adapter_name], len(sizes))
    roots = (sizes[:rank] / layer.scaling[adapter_name]).sqrt()
    A.zero_()[:rank].copy_(roots[:, None] * across[:rank])
    B.zero_()[:, :rank].copy_(left[:, :rank] * roots)


def rounded_to_nf4(weight: Tensor) -> Tensor:
    """A weight rounded to NF4 and back: each block of 64 values in a row to 16 levels of its largest size.

    Parameters
    ----------
    weight
        Of any shape, as it is stored.

    Returns
    -------
    torch.Tensor
        Of the same shape and type.

    Examples
    --------
    >>> rounded_to_nf4(torch.tensor([0.5, -2.0, 0.1, 0.0]))
    tensor([ 0.4922, -2.0000,  0.1592,  0.0000])
    """
    values = weight.detach().to(torch.float32).reshape(-1)
    missing = -len(values) % BLOCK
    blocks = torch.cat((values, values.new_zeros(missing))).reshape(-1, BLOCK)
    sizes = blocks.abs().amax(dim=1, keepdim=True)
    levels = NF4.to(values.device)
    between = (levels[1:] + levels[:-1]) / 2
    shares = blocks / sizes.clamp(min=torch.finfo(torch.float32).tiny)
    rounded = levels[torch.bucketize(shares, between)] * sizes
    return rounded.reshape(-1)[: len(values)].reshape(weight.shape).to(weight.dtype)


register("LOFTQ", LoftqAdapterConfig, LoftqModel, LoftqModel.prefix)
