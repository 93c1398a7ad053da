r"""Adam's own metric, :math:`\sqrt{\hat v} + \epsilon`, in which the proximal step's mode ``adam`` measures."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rank_lab.errors import RankLabError
from rank_lab.sora.gates import gate_parameters, local, whole

__all__ = ["denominators_of", "gate_denominators"]


def denominators_of(optimizer: Optimizer, gates: list[Tensor], group: dict[str, Any], *, adam_rms: bool) -> Tensor:
    r""":math:`\sqrt{\hat v} + \epsilon` of vectors of gates, one after the other; infinite where no gradient was seen.

    Parameters
    ----------
    optimizer
        Adam of torch, or any that keeps ``exp_avg_sq``.
    gates, group
        Parameters of one type, and the group that holds them.
    adam_rms
        The root mean square of :math:`\sqrt{\hat v}` over the vector in place of each gate's own.

    Raises
    ------
    RankLabError
        If the optimizer steps a gate and keeps no second moments.

    Examples
    --------
    >>> gate = nn.Parameter(torch.ones(2))
    >>> optimizer = torch.optim.Adam([gate])
    >>> gate.grad = torch.tensor([3.0, 0.0])
    >>> optimizer.step()
    >>> denominators_of(optimizer, [gate], optimizer.param_groups[0], adam_rms=False)
    tensor([3.0000,    inf])
    """
    moments, steps = zip(*(_second_moment(optimizer, gate, adam_rms=adam_rms) for gate in gates), strict=True)
    taken = torch.stack([step.to(steps[0].device) for step in steps]).tolist()  # a device is asked once for all
    if "betas" not in group:
        raise RankLabError(
            "mode 'adam' needs an optimizer of Adam's kind, with betas; use torch.optim.AdamW, or mode 'lr'."
        )
    corrections = [1 - group["betas"][1] ** step for step in taken]
    if len(set(corrections)) == 1:
        own = torch.cat(moments) / corrections[0]
    else:
        own = torch.cat([moment / by for moment, by in zip(moments, corrections, strict=True)])
    return torch.where(own > 0, own.sqrt() + group["eps"], math.inf)


def _second_moment(optimizer: Optimizer, gate: Tensor, *, adam_rms: bool) -> tuple[Tensor, Tensor]:
    """Of a gate's gradients, before Adam's correction, and over how many steps."""
    state = optimizer.state.get(gate, {})
    moment = state.get("max_exp_avg_sq", state.get("exp_avg_sq"))
    if moment is None or "step" not in state:
        if gate.grad is None and not state:  # the optimizer passed it over
            return torch.zeros_like(local(gate)), torch.ones(())
        raise RankLabError(
            f"mode 'adam' with {type(optimizer).__name__}, which keeps no second moments (exp_avg_sq); use"
            " torch.optim.AdamW, or mode 'lr'."
        )
    own = whole(moment).mean().expand_as(local(gate)) if adam_rms else local(moment)
    return own, torch.as_tensor(state["step"])


def gate_denominators(optimizer: Optimizer, model: nn.Module, *, adam_rms: bool = False) -> Tensor:
    """The same of all gates of a model, one after the other, as :func:`rank_lab.sora.controls.gated_factors` has them.

    Parameters
    ----------
    optimizer
        That trained the model; of its wrappers, the innermost
        (:func:`rank_lab.sora.proximal.innermost_optimizer`).
    model
        With a SoRA adapter that is trained.
    adam_rms
        As in :class:`rank_lab.sora.ProximalStep`.

    Raises
    ------
    RankLabError
        If the optimizer does not hold every gate, or keeps no second moments.

    Examples
    --------
    >>> from peft import get_peft_model
    >>> from rank_lab.sora import SoraConfig, parameter_groups
    >>> model = get_peft_model(nn.Sequential(nn.Linear(4, 3)), SoraConfig(r=2, target_modules=["0"]))
    >>> gate_denominators(torch.optim.AdamW(parameter_groups(model)), model)
    tensor([inf, inf])
    """
    groups = {id(value): group for group in optimizer.param_groups for value in group["params"]}
    found = []
    for name, gate in gate_parameters(model).items():
        if id(gate) not in groups:
            raise RankLabError(
                f"{type(optimizer).__name__} does not hold {name}; give the optimizer that trained this model."
            )
        found.append(denominators_of(optimizer, [gate], groups[id(gate)], adam_rms=adam_rms))
    return torch.cat(found)
