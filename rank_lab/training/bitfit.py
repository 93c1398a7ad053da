r"""BitFit (2106.10199) as a method of PEFT: biases that the model has are trained, nothing else.

Saved are ``adapter_config.json`` (``peft_type`` ``BITFIT``) and ``adapter_model.safetensors`` with one tensor per
module: ``base_model.model.MODULE.bitfit_layers.bias``, the bias itself, not its change, in the shape of the model's.
"""

from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.tuners_utils import check_adapters_to_merge
from torch import Tensor, nn
from torch.func import functional_call

from rank_lab.errors import UnsupportedUpdateError
from rank_lab.peft_types import peft_type, register
from rank_lab.training.heads import new_heads, task_type
from rank_lab.training.method import MethodChoices
from rank_lab.training.own_tuner import OwnConfig, OwnLayer, OwnModel
from rank_lab.training.targets import PLACES, adapt_exactly, chosen_targets

__all__ = ["BitFitConfig", "BitFitModel", "adapt_bitfit"]

_NEW_HEADS = ("classifier", "score")


@dataclass
class BitFitConfig(OwnConfig):
    """What ``get_peft_model`` needs to train biases.

    Examples
    --------
    >>> from peft import get_peft_model
    >>> model = get_peft_model(nn.Sequential(nn.Linear(2, 3)), BitFitConfig(target_modules=["0"]))
    >>> [(name, tuple(value.shape)) for name, value in model.named_parameters() if value.requires_grad]
    [('base_model.model.0.bitfit_layers.default.bias', (3,))]
    """

    def __post_init__(self) -> None:
        """Take the method's own type."""
        super().__post_init__()
        self.peft_type = peft_type("BITFIT")


class _Bias(nn.Module):
    """A bias by itself, so that it is saved under that name."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.bias = nn.Parameter(values)


class BitFitLayer(OwnLayer):
    """A module that computes with another bias than its own."""

    adapter_layer_names = ("bitfit_layers",)

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        self.bitfit_layers = nn.ModuleDict({})
        self._own_bias: Tensor | None = None

    def add_parts(self, adapter_name: str, config: Any) -> None:  # noqa: ARG002
        """A copy of the module's bias."""
        self.bitfit_layers[adapter_name] = _Bias(_bias_of(self.wrapped).detach().clone())

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's output, with the active adapter's bias in place of its own."""
        if not self.in_use():
            return self.base_layer(*args, **kwargs)
        return functional_call(self.base_layer, {"bias": self.bias}, args, kwargs)

    @property
    def bias(self) -> Tensor:
        """The bias that acts now, also for a model that reads it past the module's call."""
        names, own = self.in_use(), _bias_of(self.wrapped)
        if not names:
            return own
        if len(names) > 1:
            raise UnsupportedUpdateError(f"BitFit: adapters {names} are active, and a module has one bias; choose one.")
        part: Any = self.bitfit_layers[names[0]]
        values: Tensor = part.bias.to(own.dtype)
        return values

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:  # noqa: ARG002
        """Give the module the adapter's bias."""
        names = check_adapters_to_merge(self, adapter_names)
        if not names:
            return
        if len(names) > 1 or self.merged:
            raise UnsupportedUpdateError(f"BitFit: a module has one bias, which cannot be merged from {names}.")
        part: Any = self.bitfit_layers[names[0]]
        own = _bias_of(self.wrapped)
        self._own_bias = own.data
        own.data = part.bias.detach().to(own.dtype).clone()
        self.merged_adapters.append(names[0])

    def unmerge(self) -> None:
        """Give the module its own bias back."""
        if self.merged and self._own_bias is not None:
            _bias_of(self.wrapped).data = self._own_bias
            self.merged_adapters.clear()


class BitFitModel(OwnModel):
    """The model that PEFT makes of a base and a :class:`BitFitConfig`."""

    prefix: str = "bitfit_"
    tuner_layer_cls = BitFitLayer

    def _new_layer(self, target: nn.Module, name: str) -> OwnLayer:
        if not _has_bias(target):
            raise UnsupportedUpdateError(f"BitFit: {name!r}, a {type(target).__name__}, has no bias to train.")
        return BitFitLayer(target)


def adapt_bitfit(model: Any, choices: MethodChoices, kind: str) -> nn.Module:
    """BitFit: with targets ``all`` every bias of the model, else those of the modules chosen.

    Parameters
    ----------
    model, choices, kind
        As of :class:`rank_lab.training.method.Method`.

    Raises
    ------
    UnsupportedUpdateError
        If there is no bias to train, or one that belongs to no layer of its own.
    """
    heads = (*_NEW_HEADS, *new_heads(model, kind)) if kind not in {"causal", "masked"} else ()
    names = [name for name, module in model.named_modules() if _has_bias(module)]
    names = [name for name in names if name.partition(".")[0] not in heads]
    if choices.targets == PLACES[-1]:
        _refuse_other_biases(model)
    else:
        chosen = {target.name for target in chosen_targets(model, choices.targets)}
        names = [name for name in names if name in chosen]
    if not names:
        raise UnsupportedUpdateError(
            f"method 'bitfit': {type(model).__name__} has no biases"
            f"{'' if choices.targets == PLACES[-1] else f' in {choices.targets}'}, and BitFit trains those that are"
            " there; choose another method."
        )
    config = BitFitConfig(
        task_type=task_type(kind), target_modules=names, modules_to_save=new_heads(model, kind) or None
    )
    return adapt_exactly(model, config, names)


def _refuse_other_biases(model: nn.Module) -> None:
    """Refuse a bias that no layer of its own would train: it would be left out in silence."""
    reached = {id(_bias_of(module)) for module in model.modules() if _has_bias(module)}
    for name, module in model.named_modules():
        own = module._parameters.get("bias")
        if own is not None and id(own) not in reached:
            raise UnsupportedUpdateError(
                f"method 'bitfit': the bias of {name!r}, a {type(module).__name__}, belongs to no layer of its own;"
                " name the modules to adapt, with commas between."
            )


def _has_bias(module: nn.Module) -> bool:
    own = module._parameters.get("bias")
    return own is not None and not any(True for _ in module.children())


def _bias_of(module: nn.Module) -> Tensor:
    bias = module._parameters["bias"]
    assert isinstance(bias, torch.Tensor)  # noqa: S101
    return bias


register("BITFIT", BitFitConfig, BitFitModel, BitFitModel.prefix)
