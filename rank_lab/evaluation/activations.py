"""Hooks that read what goes into and comes out of parts of a model, at the input's own tokens."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rank_lab.errors import PairingError, UnsupportedUpdateError
from rank_lab.evaluation.probe import ProbeBatch
from rank_lab.evaluation.tuned_models import refuse_unknown_tokens
from rank_lab.training.virtual_tokens import layers_of

__all__ = ["Seen", "forward", "layer_names", "reading", "unwrapped", "width_of_layers"]


@dataclass
class Seen:
    """What was seen in one forward pass.

    Parameters
    ----------
    inputs, outputs
        By the module's name, shape (inputs, length, width); of a module that was called twice, or with anything else,
        there is a reason in their place.
    """

    inputs: dict[str, Tensor | str] = field(default_factory=dict)
    outputs: dict[str, Tensor | str] = field(default_factory=dict)


def unwrapped(model: Any) -> nn.Module:
    """The model of transformers inside one of PEFT, or the model itself."""
    inner: nn.Module = model.get_base_model() if hasattr(model, "get_base_model") else model
    return inner


def layer_names(base: Any, tuned: Any) -> tuple[str, ...]:
    """Names of the layers that both models have.

    Parameters
    ----------
    base, tuned
        Of transformers, or PEFT around one.

    Raises
    ------
    PairingError
        If they are not layers of one architecture.
    UnsupportedUpdateError
        If a model has no single stack of layers.
    """
    try:
        names, others = (tuple(layers_of(unwrapped(model))) for model in (base, tuned))
    except UnsupportedUpdateError as error:
        raise UnsupportedUpdateError(
            str(error).replace("method 'prelayer': ", "hidden states by layer: ").replace("choose another method", "")
            + " leave out the scope 'layer'."
        ) from error
    widths = [width_of_layers(model) for model in (base, tuned)]
    if names != others or widths[0] != widths[1]:
        raise PairingError(
            f"the base has {len(names)} layers of width {widths[0]} ({names[0]} ...), the tuned model {len(others)} of"
            f" width {widths[1]} ({others[0]} ...): it was not tuned from this base; give the right one with --base."
        )
    return names


def width_of_layers(model: Any) -> int:
    """Width of a model's hidden states."""
    inner: Any = unwrapped(model)
    return int(inner.config.get_text_config().hidden_size)


@contextmanager
def reading(model: Any, inputs: Iterable[str], outputs: Iterable[str]) -> Iterator[Seen]:
    """Have a model show what goes into and out of some of its modules, for as long as this lasts.

    Parameters
    ----------
    model
        Of transformers, or PEFT around one.
    inputs, outputs
        Names of modules inside :func:`unwrapped`.
    """
    seen, inner = Seen(), unwrapped(model)
    handles = []
    try:
        for name in dict.fromkeys(inputs):
            hook = _InputHook(seen.inputs, name)
            handles.append(inner.get_submodule(name).register_forward_pre_hook(hook, with_kwargs=True))
        handles += [
            inner.get_submodule(name).register_forward_hook(_OutputHook(seen.outputs, name))
            for name in dict.fromkeys(outputs)
        ]
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def forward(model: Any, batch: ProbeBatch, seen: Seen) -> Seen:
    """Run a batch through a model, and keep what was seen at the tokens that count: shape (tokens, width).

    Virtual tokens, of a prompt before the input or of PreLayer, are not among them.

    Parameters
    ----------
    model
        In evaluation mode.
    batch
        Which.
    seen
        From :func:`reading`, which this empties.
    """
    refuse_unknown_tokens(model, int(batch.ids.max()))
    device = next(model.parameters()).device
    for found in (seen.inputs, seen.outputs):
        found.clear()
    with torch.no_grad():
        model(input_ids=batch.ids.to(device), attention_mask=batch.mask.to(device))
    counted = batch.counted.to(device)
    return Seen(_at(seen.inputs, counted), _at(seen.outputs, counted))


def _at(found: Mapping[str, Tensor | str], counted: Tensor) -> dict[str, Tensor | str]:
    kept: dict[str, Tensor | str] = {}
    for name, value in found.items():
        if isinstance(value, Tensor):
            fits = value.ndim == 3 and len(value) == len(counted) and value.shape[1] >= counted.shape[1]
            shown = "x".join(map(str, value.shape))
            kept[name] = (
                value[:, -counted.shape[1] :][counted] if fits else f"activations of shape {shown}, not a row a token"
            )
        else:
            kept[name] = value
    return kept


class _InputHook:
    def __init__(self, found: dict[str, Tensor | str], name: str) -> None:
        self.found, self.name = found, name

    def __call__(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = args[0] if args else kwargs.get("hidden_states", kwargs.get("input"))
        self.found[self.name] = _one(self.found, self.name, given)


class _OutputHook:
    def __init__(self, found: dict[str, Tensor | str], name: str) -> None:
        self.found, self.name = found, name

    def __call__(self, _module: nn.Module, _args: Any, output: Any) -> None:
        given = output[0] if isinstance(output, tuple) else output
        self.found[self.name] = _one(self.found, self.name, given)


def _one(found: Mapping[str, Any], name: str, given: Any) -> Tensor | str:
    if name in found:
        return "called more than once in a forward pass"
    return given.detach() if isinstance(given, Tensor) else "no tensor goes through it"
