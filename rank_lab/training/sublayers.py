"""The sublayers of a model, attention and feed-forward: where each ends, and what went into it."""

from itertools import takewhile
from typing import Any

from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.pytorch_utils import Conv1D

from rank_lab.errors import RankLabError, UnsupportedUpdateError
from rank_lab.names import identify
from rank_lab.training.targets import Target, linear_modules

__all__ = [
    "SUBLAYERS", "Passage", "check_width", "input_width_of", "output_projections", "tap", "tapped", "untap", "width_of",
]  # fmt: skip

SUBLAYERS = ("attention", "mlp", "both")
"""Places that an adapter may have."""

_OUTPUTS = {"attention": "o", "mlp": "down"}
_INPUTS = {"attention": ("q", "qkv"), "mlp": ("gate", "up", "gate_up")}


class Passage:
    """What went into a sublayer, on its way to the adapter at its end."""

    def __init__(self) -> None:
        self.value: Tensor | None = None

    def take(self) -> Tensor | None:
        """What went in, which is then forgotten."""
        value, self.value = self.value, None
        return value

    @staticmethod
    def required(value: Tensor | None) -> Tensor:
        """What went in, or an error if nothing was seen."""
        if value is None:
            raise UnsupportedUpdateError(
                "parallel adapter: the sublayer's input was not seen, its first layer was not called as a module; use"
                " the method 'series'."
            )
        return value


class _Tap:
    """A hook that puts the input of a sublayer's first layer into the passage."""

    def __init__(self, passage: Passage) -> None:
        self.passage = passage

    def __call__(self, _module: nn.Module, args: tuple[Any, ...]) -> None:
        self.passage.value = args[0] if args else None


def output_projections(model: nn.Module, place: str) -> list[Target]:
    """The linear layers that end the sublayers of a place.

    Parameters
    ----------
    model
        Of transformers.
    place
        One of :data:`SUBLAYERS`.

    Raises
    ------
    RankLabError
        If the place is unknown.
    UnsupportedUpdateError
        If the model's names show no such layer, or several in one layer (experts).

    Examples
    --------
    >>> from transformers import BertConfig, BertForMaskedLM
    >>> size = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
    >>> model = BertForMaskedLM(BertConfig(vocab_size=9, **size))
    >>> [target.name for target in output_projections(model, "both")]
    ['bert.encoder.layer.0.attention.output.dense', 'bert.encoder.layer.0.output.dense']
    """
    if place not in SUBLAYERS:
        raise RankLabError(f"place {place!r}: expected one of {', '.join(SUBLAYERS)}.")
    found = [target for target in linear_modules(model) if target.place]
    chosen: list[Target] = []
    for sublayer in _OUTPUTS if place == "both" else (place,):
        ends = [target for target in found if target.kind == _OUTPUTS[sublayer]]
        layers = {_layer_of(target.name) for target in found}
        if any(identify(target.name).expert is not None for target in ends) or not ends:
            raise UnsupportedUpdateError(
                f"place {place!r}: {type(model).__name__} has no single output projection of {sublayer} by its names"
                f" ({len(ends)} in {len(layers)} layers); choose another place or method."
            )
        missing = layers - {_layer_of(target.name) for target in ends}
        if missing:
            raise UnsupportedUpdateError(
                f"place {place!r}: layer {min(missing)[1]} of {type(model).__name__} has no output projection of"
                f" {sublayer} by its names, and others have; choose another place or method."
            )
        chosen += ends
    order = {target.name: place for place, target in enumerate(found)}
    return sorted(chosen, key=lambda target: order[target.name])


def width_of(layer: nn.Module) -> int:
    """Width of a linear layer's output."""
    width = layer.nf if isinstance(layer, Conv1D) else layer.out_features
    return int(width)  # type: ignore[arg-type]


def input_width_of(layer: nn.Module) -> int:
    """Width of a linear layer's input."""
    width = layer.nx if isinstance(layer, Conv1D) else layer.in_features
    return int(width)  # type: ignore[arg-type]


def check_width(size: int, activation: str) -> None:
    """Refuse a bottleneck that is none, or a non-linearity that transformers does not know."""
    if size < 1:
        raise RankLabError(f"size {size}: expected a bottleneck of 1 or more.")
    if activation not in ACT2FN:
        raise RankLabError(f"activation {activation!r}: expected one of transformers', such as gelu, relu or tanh.")


def tap(model: nn.Module, output: str, passage: Passage) -> None:
    """Let what goes into a sublayer reach the adapter at its end, once for all adapters there.

    Parameters
    ----------
    model
        With a wrapped output projection.
    output
        Name of that.
    passage
        The wrapping layer's.
    """
    first = model.get_submodule(_input_of(model, output))
    if not any(isinstance(hook, _Tap) and hook.passage is passage for hook in first._forward_pre_hooks.values()):
        first.register_forward_pre_hook(_Tap(passage))


def tapped(model: nn.Module, passage: Passage) -> str | None:
    """Name of the layer whose input goes into a passage; None where none does.

    Parameters
    ----------
    model, passage
        As :func:`tap` was given them.
    """
    for name, module in model.named_modules():
        if any(isinstance(hook, _Tap) and hook.passage is passage for hook in module._forward_pre_hooks.values()):
            return str(name)
    return None


def untap(model: nn.Module) -> None:
    """Take all such hooks away."""
    for module in model.modules():
        for key, hook in list(module._forward_pre_hooks.items()):
            if isinstance(hook, _Tap):
                del module._forward_pre_hooks[key]


def _input_of(model: nn.Module, output: str) -> str:
    """Name of the sublayer's first linear layer: of its kind, in its layer, with the longest path in common."""
    kind = identify(output).kind
    sublayer = next(name for name, end in _OUTPUTS.items() if end == kind)
    layer = _layer_of(output)
    fits = [
        target.name
        for target in linear_modules(model)
        if target.kind in _INPUTS[sublayer] and _layer_of(target.name) == layer
    ]
    if not fits:
        raise UnsupportedUpdateError(
            f"parallel adapter: {output!r} ends a sublayer whose first layer its names do not show; use 'series'."
        )
    return max(fits, key=lambda name: _in_common(name, output))


def _in_common(name: str, other: str) -> int:
    """How many components two paths start with alike."""
    alike = (first == second for first, second in zip(name.split("."), other.split("."), strict=False))
    return sum(1 for _ in takewhile(bool, alike))


def _layer_of(name: str) -> tuple[str, int | None]:
    identity = identify(name)
    return identity.stack, identity.layer
