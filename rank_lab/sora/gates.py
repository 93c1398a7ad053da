"""The gates of a model: found by name, put into a parameter group of their own, counted."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rank_lab.errors import RankLabError
from rank_lab.update import LowRankUpdate

__all__ = [
    "GATE_FLAG",
    "GatedModule",
    "exact_parameter_count",
    "gate_parameters",
    "gated_modules",
    "importance",
    "parameter_groups",
    "published_parameter_count",
]

GATE_FLAG = "sora_gate"
"""Key of the parameter group whose values :class:`rank_lab.sora.ProximalStep` shrinks."""

SHRUNK = "_has_proximal_step"
"""Attribute of a gate that a :class:`rank_lab.sora.ProximalStep` shrinks."""

_GATE = ".lora_gate."
_WRAPPER = "base_model.model."  # of PEFT, around any model


@dataclass(frozen=True)
class GatedModule:
    """The size of one gated update.

    Parameters
    ----------
    module
        Path in the base model, as reports have it.
    out_features, in_features
        Shape of the weight.
    rank
        Number of gates.
    nonzero
        Number of gates that are not zero: the nominal rank.
    """

    module: str
    out_features: int
    in_features: int
    rank: int
    nonzero: int


def gate_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable gates of a model by name.

    Examples
    --------
    >>> gate_parameters(nn.Linear(2, 2))
    {}
    """
    return {name: value for name, value in model.named_parameters() if _GATE in name and value.requires_grad}


def parameter_groups(model: nn.Module, *, weight_decay: float = 0.0, gate_lr: float | None = None) -> list[Any]:
    """Parameter groups for any torch optimizer: all that is trained, and the gates in a flagged group of their own.

    Parameters
    ----------
    model
        With a SoRA adapter.
    weight_decay
        Of all but the gates, which have none: decay would shrink them beside the threshold.
    gate_lr
        Learning rate of the gates; None for the optimizer's.

    Raises
    ------
    RankLabError
        If the model has no trainable gate.

    Examples
    --------
    >>> from peft import get_peft_model
    >>> from rank_lab.sora import SoraConfig
    >>> model = get_peft_model(nn.Sequential(nn.Linear(4, 3)), SoraConfig(r=2, target_modules=["0"]))
    >>> [(len(group["params"]), group.get("sora_gate", False)) for group in parameter_groups(model)]
    [(2, False), (1, True)]
    """
    gates = gate_parameters(model)
    others = [value for name, value in model.named_parameters() if value.requires_grad and name not in gates]
    return [{"params": others, "weight_decay": weight_decay}, gate_group(gates, gate_lr)]


def gate_group(gates: dict[str, nn.Parameter], gate_lr: float | None) -> dict[str, Any]:
    """The flagged group; see :func:`parameter_groups`."""
    if not gates:
        raise RankLabError(
            "the model has no trainable gate; make it with get_peft_model(model, SoraConfig(...)), or load the adapter"
            " with is_trainable=True."
        )
    rate = {} if gate_lr is None else {"lr": gate_lr}
    return {"params": list(gates.values()), "weight_decay": 0.0, GATE_FLAG: True} | rate


def gated_modules(model: nn.Module, adapter: str = "default") -> list[GatedModule]:
    """Size and nominal rank of every gated module.

    Parameters
    ----------
    model
        With a SoRA adapter.
    adapter
        Its name.

    Examples
    --------
    >>> gated_modules(nn.Linear(2, 2))
    []
    """
    found = []
    for name, layer in gated_layers(model, adapter):
        A, B, gate = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight, whole(layer.lora_gate[adapter])
        found.append(
            GatedModule(name, int(B.shape[0]), int(A.shape[1]), int(A.shape[0]), int(torch.count_nonzero(gate)))
        )
    return found


def gated_layers(model: nn.Module, adapter: str) -> Iterator[tuple[str, Any]]:
    """Path in the base model, and PEFT's layer there, of every module that the adapter gates."""
    for name, module in model.named_modules():
        gates: Any = getattr(module, "lora_gate", None)
        if isinstance(gates, nn.ParameterDict) and adapter in gates:
            yield name.removeprefix(_WRAPPER), module


def whole(values: Tensor) -> Tensor:
    """The whole of a tensor that may be spread over processes, which must all ask."""
    full = getattr(values, "full_tensor", None)
    gathered: Tensor = values if full is None else full()
    return gathered.detach()


def local(values: Tensor) -> Tensor:
    """The part that this process holds of a tensor that may be spread over several, sharing its memory."""
    of_process = getattr(values, "to_local", None)
    part: Tensor = values if of_process is None else of_process()
    return part.detach()


def exact_parameter_count(modules: list[GatedModule]) -> int:
    r"""Non-zero parameters of the factors, :math:`\sum_m \mathrm{nnz}_m (\mathrm{in}_m + \mathrm{out}_m)`.

    The gates are not counted: folding takes them into A.

    Examples
    --------
    >>> exact_parameter_count([GatedModule("up", out_features=12, in_features=4, rank=8, nonzero=3)])
    48
    """
    return sum(module.nonzero * (module.in_features + module.out_features) for module in modules)


def published_parameter_count(modules: list[GatedModule], hidden_size: int) -> int:
    """What the published code counts: all factors, less twice the hidden size for each zero gate.

    Right for square matrices only; of a feed-forward module a zero gate frees
    more, so that the count is too high. For comparison with the paper's numbers.

    Parameters
    ----------
    modules
        From :func:`gated_modules`.
    hidden_size
        Of the model.

    Examples
    --------
    >>> published_parameter_count([GatedModule("up", out_features=12, in_features=4, rank=8, nonzero=3)], 4)
    88
    """
    every = sum(module.rank * (module.in_features + module.out_features) for module in modules)
    return every - 2 * hidden_size * sum(module.rank - module.nonzero for module in modules)


def importance(update: LowRankUpdate) -> Tensor:
    r"""Size of each direction, :math:`|s|\,|g_i|\,\|A_i\|\,\|B_i\|`, in float64.

    A gate alone says nothing: it and its two vectors are defined up to a common
    scale only. Each value is the spectral norm of that direction's own term.

    Parameters
    ----------
    update
        From :func:`rank_lab.read_update`; without a gate, the gate is one.

    Returns
    -------
    torch.Tensor
        ``(r,)``, in the order of the gates.

    Examples
    --------
    >>> update = LowRankUpdate(torch.ones(4, 2), torch.ones(2, 9), scaling=2.0, gate=torch.tensor([0.0, -0.5]))
    >>> importance(update)
    tensor([0., 6.], dtype=torch.float64)
    """
    left, across = update.factors()
    sizes: Tensor = torch.linalg.vector_norm(left, dim=0) * torch.linalg.vector_norm(across, dim=1)
    return sizes
