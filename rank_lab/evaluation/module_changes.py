"""What fine-tuning did to single modules, as functions of the same input: the tuned module less the base's."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from rank_lab.errors import PairingError, UnsupportedUpdateError
from rank_lab.evaluation.activations import unwrapped
from rank_lab.names import identify, natural_order
from rank_lab.plain_text import first_line
from rank_lab.training.sublayers import tapped, width_of
from rank_lab.training.targets import Target, linear_modules

__all__ = ["ModuleChange", "change_of", "changed_modules"]

_OUTSIDE = ("head", "embed")


@dataclass(frozen=True)
class ModuleChange:
    """A linear module of the base that the tuned model has in another form.

    Parameters
    ----------
    name
        Of the module, in the base.
    watched
        Whose input the change is a function of: the module itself or, of a parallel adapter, what its sublayer begins
        with.
    shape
        ``(out, in)`` of the change.
    """

    name: str
    watched: str
    shape: tuple[int, int]


def changed_modules(base: Any, tuned: Any) -> tuple[tuple[ModuleChange, ...], dict[str, str]]:
    """The linear modules in the layers that differ, and of the others why they are not among them.

    Parameters
    ----------
    base, tuned
        Of transformers, or PEFT around one.

    Returns
    -------
    tuple
        Changes in the order of their names; name to reason: ``identical``, or a sentence.

    Raises
    ------
    PairingError
        If a module of the base is not in the tuned model, or has another shape.
    """
    plain, inner = unwrapped(base), unwrapped(tuned)
    found, reasons = [], {}
    for target in sorted(linear_modules(plain), key=lambda each: natural_order(each.name)):
        old, new = plain.get_submodule(target.name), _submodule(inner, target.name)
        reason = _reason(target, old, new)
        if reason:
            reasons[target.name] = reason
            continue
        watched = _watched(inner, target.name, new)
        source = plain.get_submodule(watched)
        found.append(ModuleChange(target.name, watched, (width_of(old), _inputs_of(source))))
    return tuple(found), reasons


def change_of(base: Any, tuned: Any, module: ModuleChange) -> tuple[Callable[[Tensor], Tensor], float]:
    """The change as a function, computed in float64 on copies, and the size of the base's weights.

    Parameters
    ----------
    base, tuned
        Of transformers, or PEFT around one.
    module
        Of :func:`changed_modules`.

    Raises
    ------
    UnsupportedUpdateError
        If the module cannot be computed in float64, as one of quantised weights.
    """
    old, new = unwrapped(base).get_submodule(module.name), _submodule(unwrapped(tuned), module.name)
    try:
        before, after = (copy.deepcopy(each).double().eval() for each in (old, new))
    except (RuntimeError, TypeError, ValueError) as error:
        raise UnsupportedUpdateError(
            f"{module.name}: cannot be computed in float64 ({first_line(error)[:120]}); load the model unquantised."
        ) from error
    weight: Any = before.weight
    scale = float(weight.detach().abs().max()) if weight.numel() else 0.0
    if module.watched == module.name:
        return _of_same_input(before, after, weight.device), scale
    return _of_passage(after, _inputs_of(old), weight.device), scale


def _of_same_input(before: nn.Module, after: nn.Module, device: Any) -> Callable[[Tensor], Tensor]:
    @torch.no_grad()
    def change(rows: Tensor) -> Tensor:
        wide = rows.to(device, torch.float64)
        moved: Tensor = after(wide[None])[0] - before(wide[None])[0]
        return moved

    return change


def _of_passage(after: Any, in_features: int, device: Any) -> Callable[[Tensor], Tensor]:
    """What a parallel adapter adds, whatever the module itself is given."""

    @torch.no_grad()
    def change(rows: Tensor) -> Tensor:
        wide = rows.to(device, torch.float64)
        nothing = wide.new_zeros(1, len(wide), in_features)
        after.passage.value = wide[None]
        moved: Tensor = (after(nothing) - after.base_layer(nothing))[0]
        return moved

    return change


def _reason(target: Target, old: nn.Module, new: nn.Module) -> str:
    if identify(target.name).layer is None or target.kind in _OUTSIDE:
        return "outside of the layers: no hidden state after a layer shows what it does"
    if isinstance(new, BaseTunerLayer):
        return ""
    if type(new) is not type(old):
        return f"a {type(old).__name__} that became a {type(new).__name__}"
    state, other = old.state_dict(), new.state_dict()
    if state.keys() != other.keys() or any(state[key].shape != other[key].shape for key in state):
        raise PairingError(
            f"{target.name}: of another shape in the tuned model; it was not tuned from this base; give the right one"
            " with --base."
        )
    same = all(torch.equal(state[key], other[key].to(state[key].device, state[key].dtype)) for key in state)
    return "identical" if same else ""


def _submodule(model: nn.Module, name: str) -> nn.Module:
    """Of a tuned model, in which methods may have wrapped what is above."""
    found: Any = model
    for part in name.split("."):
        while not hasattr(found, part) and hasattr(found, "base_layer"):
            found = found.base_layer
        if not hasattr(found, part):
            raise PairingError(
                f"{name}: is in the base and not in the tuned model; it was not tuned from this base; give the right"
                " one with --base."
            )
        found = getattr(found, part)
    return found  # type: ignore[no-any-return]


def _watched(model: nn.Module, name: str, module: Any) -> str:
    configs = getattr(module, "_configs", {})
    if not any(getattr(config, "parallel", False) for config in configs.values()):
        return name
    source = tapped(model, module.passage)
    if source is None:
        raise UnsupportedUpdateError(f"{name}: a parallel adapter whose input is not to be found; load it again.")
    return source


def _inputs_of(layer: Any) -> int:
    return int(layer.nx if hasattr(layer, "nx") else layer.in_features)
