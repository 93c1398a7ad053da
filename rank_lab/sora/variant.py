r"""What a gated layer computes: :math:`\Delta W = s\, B\, \mathrm{diag}(g)\, A` between LoRA's two factors."""

import warnings
from typing import Any

import torch
from peft.tuners.lora.layer import LoraVariant
from torch import Tensor, nn
from torch.nn.functional import linear

from rank_lab.sora.gates import SHRUNK
from rank_lab.sora.live import after_load, live_directions

__all__ = ["SoraVariant"]


class SoraVariant(LoraVariant):  # type: ignore[misc]
    """A gate between the factors of one adapter of one linear layer, as PEFT's layers ask for it.

    Parameters
    ----------
    config
        Of the adapter.
    """

    def __init__(self, config: Any) -> None:
        self.config = config

    def supports_lora_conversion(self) -> bool:
        """Never: PEFT's conversion leaves out the gate; :func:`rank_lab.sora.fold` does not."""
        return False

    @staticmethod
    def init(module: Any, adapter_name: str, config: Any, **_: Any) -> None:
        """Give the layer a gate, in float32 whatever the layer: steps of 1e-4 vanish in bfloat16."""
        if not hasattr(module, "lora_gate"):
            module.lora_gate = nn.ParameterDict({})
            module.adapter_layer_names = (*module.adapter_layer_names, "lora_gate")
        factor = module.lora_A[adapter_name].weight
        start = torch.randn if config.gate_init == "normal" else torch.ones
        values = start(module.r[adapter_name], dtype=torch.float32, device=factor.device)
        module.lora_gate[adapter_name] = nn.Parameter(values, requires_grad=factor.requires_grad)
        if config.leave_out_zeros and after_load not in module._load_state_dict_post_hooks.values():
            module.register_load_state_dict_post_hook(after_load)

    def forward(self, module: Any, active_adapter: str, x: Tensor, result: Tensor, **_: Any) -> Tensor:
        """The layer's output with the gated update added."""
        x = module.lora_dropout[active_adapter](x)  # drawn for left out modules too: the same random numbers follow
        A, B, gate = module.lora_A[active_adapter], module.lora_B[active_adapter], module.lora_gate[active_adapter]
        if self.config.threshold and module.training and torch.is_grad_enabled():
            _warn_where_nothing_shrinks(gate)
        live = live_directions(gate) if self.config.leave_out_zeros else None
        if live is not None and not len(live):
            untouched: Tensor = _LeftOut.apply(result, A.weight, gate, B.weight)  # type: ignore[no-untyped-call]
            return untouched
        open_gates = gate if live is None else gate.index_select(0, live)
        if not self.config.revive:  # a shut gate has no gradient: none in the norm that clipping takes either
            open_gates = open_gates * (open_gates.detach() != 0)
        inner = A(x) if live is None else linear(x, A.weight.index_select(0, live))
        gated = inner * (open_gates * module.scaling[active_adapter]).to(inner.dtype)
        added: Tensor = B(gated) if live is None else linear(gated, B.weight.index_select(1, live))
        return result + added

    @staticmethod
    def merge_safe(module: Any, active_adapter: str, orig_weight: Tensor) -> Tensor:
        """The merged weight, a new tensor."""
        return _sum(orig_weight, _update(module, active_adapter))

    @staticmethod
    def merge_unsafe(module: Any, active_adapter: str, orig_weight: Tensor) -> None:
        """Merge in place."""
        orig_weight.data = _sum(orig_weight.data, _update(module, active_adapter))

    @staticmethod
    def unmerge(module: Any, active_adapter: str, orig_weight: Tensor) -> Tensor:
        """The weight without the update, up to the rounding of both sums."""
        return _sum(orig_weight.data, -_update(module, active_adapter))


def _warn_where_nothing_shrinks(gate: Tensor) -> None:
    if torch.compiler.is_compiling() or not gate.requires_grad or getattr(gate, SHRUNK, False):
        return
    warnings.warn(
        "SoraConfig has a threshold, but no ProximalStep shrinks the gates of the model that is trained: they stay"
        " dense; train with SoraTrainer, or give the optimizer to rank_lab.sora.ProximalStep.",
        RuntimeWarning,
        stacklevel=2,
    )


class _LeftOut(torch.autograd.Function):
    """The output as it is; factors and gates get gradients of zero, as directions whose gate is zero have them.

    Without a gradient an optimizer would pass them over, and neither decay them nor its moments.
    """

    @staticmethod
    def forward(ctx: Any, result: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(*parameters)
        return result.view_as(result)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return (*gradients, *(torch.zeros_like(values) for values in ctx.saved_tensors))


def _update(module: Any, adapter: str) -> Tensor:
    A, B, gate = module.lora_A[adapter].weight, module.lora_B[adapter].weight, module.lora_gate[adapter]
    wide = torch.promote_types(torch.promote_types(A.dtype, B.dtype), gate.dtype)
    product: Tensor = (B.detach().to(wide) * gate.detach().to(wide)) @ A.detach().to(wide) * module.scaling[adapter]
    return product.T if getattr(module, "fan_in_fan_out", False) else product


def _sum(weight: Tensor, update: Tensor) -> Tensor:
    """In the wider of both types, rounded once."""
    wide = torch.promote_types(weight.dtype, update.dtype)
    return (weight.to(wide) + update.to(weight.device, wide)).to(weight.dtype)
