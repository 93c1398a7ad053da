r"""The factors and gates of a whole adapter, taken out of a model and put back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rank_lab.errors import PairingError, RankLabError, ShapeMismatchError
from rank_lab.sora.callback import active_adapter
from rank_lab.sora.gates import GatedModule, gated_layers, whole
from rank_lab.update import LowRankUpdate

__all__ = ["GatedFactors", "gated_factors", "set_factors"]


@dataclass(frozen=True, eq=False)
class GatedFactors:
    r"""One module's update, :math:`\Delta W = s\, B\, \mathrm{diag}(g)\, A`.

    Parameters
    ----------
    module
        Path in the base model, as reports have it.
    A
        ``(r, in)``.
    gate
        ``(r,)``.
    B
        ``(out, r)``.
    scaling
        The factor :math:`s`.

    Raises
    ------
    ShapeMismatchError
        If the three do not fit together.

    Examples
    --------
    >>> factors = GatedFactors("up", torch.ones(2, 4), torch.tensor([1.0, 0.0]), torch.ones(12, 2), scaling=0.5)
    >>> factors.size.nonzero, float(factors.update.to_dense().sum())
    (1, 24.0)
    """

    module: str
    A: Tensor
    gate: Tensor
    B: Tensor
    scaling: float

    def __post_init__(self) -> None:
        """Check that the factors fit together."""
        shapes = [list(values.shape) for values in (self.A, self.gate, self.B)]
        if [len(shape) for shape in shapes] != [2, 1, 2] or not shapes[0][0] == shapes[1][0] == shapes[2][1]:
            raise ShapeMismatchError(
                f"{self.module}: A, gate and B are {shapes[0]}, {shapes[1]} and {shapes[2]}; expected (r, in), (r,) and"
                " (out, r) of one rank r."
            )

    @property
    def size(self) -> GatedModule:
        """Shape and number of non-zero gates, for :func:`rank_lab.sora.exact_parameter_count`."""
        rank, inputs = self.A.shape
        return GatedModule(self.module, int(self.B.shape[0]), inputs, rank, int(torch.count_nonzero(self.gate)))

    @property
    def update(self) -> LowRankUpdate:
        """The update as an operator."""
        return LowRankUpdate(self.B, self.A, self.scaling, self.gate)


def gated_factors(model: nn.Module) -> list[GatedFactors]:
    """Copies of all factors and gates of the model's active adapter, which training leaves as they are.

    Raises
    ------
    RankLabError
        If several adapters are active, or the active one has no gate.

    Examples
    --------
    >>> from peft import get_peft_model
    >>> from rank_lab.sora import SoraConfig
    >>> model = get_peft_model(nn.Sequential(nn.Linear(4, 3)), SoraConfig(r=2, target_modules=["0"]))
    >>> dense = gated_factors(model)
    >>> with torch.no_grad():
    ...     _ = model.get_parameter("base_model.model.0.lora_gate.default").zero_()
    >>> [each.size.nonzero for each in gated_factors(model)]
    [0]
    >>> set_factors(model, dense)
    >>> [each.size.nonzero for each in gated_factors(model)]
    [2]
    """
    adapter = active_adapter(model)
    found = [
        GatedFactors(
            name,
            whole(layer.lora_A[adapter].weight).clone(),
            whole(layer.lora_gate[adapter]).clone(),
            whole(layer.lora_B[adapter].weight).clone(),
            float(layer.scaling[adapter]),
        )
        for name, layer in gated_layers(model, adapter)
    ]
    if not found:
        raise RankLabError(
            f"adapter {adapter!r} of {type(model).__name__} has no gate; make it with get_peft_model(model,"
            " SoraConfig(...)), or activate it by set_adapter."
        )
    return found


@torch.no_grad()
def set_factors(model: nn.Module, factors: Sequence[GatedFactors]) -> None:
    """Write factors and gates into the model's active adapter, in place and exactly.

    A lower rank than the model's is filled up with zeros, gates included. An
    optimizer goes on with the same parameters.

    Parameters
    ----------
    model
        With the adapter that they came from, or another of the same configuration.
    factors
        One for each gated module, in any order.

    Raises
    ------
    PairingError
        If they are not of the same modules.
    ShapeMismatchError
        If a shape, a type or a scaling differs; nothing is written then.

    Examples
    --------
    See :func:`gated_factors`.
    """
    adapter = active_adapter(model)
    layers = dict(gated_layers(model, adapter))
    given = {each.module: each for each in factors}
    if sorted(layers) != sorted(each.module for each in factors):
        odd = sorted(set(layers) ^ set(given)) or sorted(each.module for each in factors)
        raise PairingError(
            f"factors of {len(factors)} modules for {len(layers)} gated ones: {odd[0]} is not once in both; set what"
            " gated_factors took from the same model."
        )
    for name, layer in layers.items():
        _refuse_misfit(name, given[name], layer, adapter)
    for name, layer in layers.items():
        each, rank = given[name], given[name].gate.shape[0]
        A, gate, B = layer.lora_A[adapter].weight, layer.lora_gate[adapter], layer.lora_B[adapter].weight
        for values in (A, gate, B):
            values.zero_()
        A[:rank].copy_(each.A)
        gate[:rank].copy_(each.gate)
        B[:, :rank].copy_(each.B)


def _refuse_misfit(name: str, given: GatedFactors, layer: Any, adapter: str) -> None:
    rank, shape = (
        layer.lora_gate[adapter].shape[0],
        (layer.lora_B[adapter].out_features, layer.lora_A[adapter].in_features),
    )
    fits = given.update.shape == shape and len(given.gate) <= rank
    if not fits or given.scaling != layer.scaling[adapter]:
        raise ShapeMismatchError(
            f"{name}: rank {len(given.gate)} of {given.update.shape} with scaling {given.scaling:g} does not fit the"
            f" model's rank {rank} of {shape} with scaling {layer.scaling[adapter]:g}; set what gated_factors took from"
            " the same model."
        )
