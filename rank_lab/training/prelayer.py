r"""Prefix-layer tuning (PreLayer, 2106.09685, section 5.1) as a method of PEFT: virtual tokens trained in every layer.

Virtual tokens stand before the input, and what goes into each layer at their places is not what the layer before
gave but trained: :math:`L\,n\,d` parameters for L layers, n tokens and width d. Their places are cut off the body's
output again, so that labels, logits, heads and pooling see the input's tokens alone; attentions, where they are asked
for, have them. When keys and values are kept between calls (``generate``), those of the virtual tokens are kept too.

Saved are ``adapter_config.json`` (``peft_type`` ``PRELAYER``) and ``adapter_model.safetensors`` with one tensor per
layer: ``base_model.model.LAYER.prelayer_tokens`` (n, d).
"""

import inspect
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rank_lab.errors import UnsupportedUpdateError
from rank_lab.peft_types import peft_type, register
from rank_lab.training.heads import new_heads, task_type
from rank_lab.training.method import MethodChoices
from rank_lab.training.own_tuner import OwnConfig, OwnLayer, OwnModel
from rank_lab.training.prompts import check_prompt_tokens
from rank_lab.training.targets import adapt_exactly
from rank_lab.training.virtual_tokens import Places, body_of, give_places, layers_of, take_places

__all__ = ["PreLayerConfig", "PreLayerModel", "adapt_prelayer"]

_START = 0.02  # standard deviation; adapt_prelayer begins with better values


@dataclass
class PreLayerConfig(OwnConfig):
    """What ``get_peft_model`` needs for PreLayer.

    Parameters
    ----------
    num_virtual_tokens
        How many stand before the input.

    Examples
    --------
    >>> PreLayerConfig(num_virtual_tokens=3).peft_type.value
    'PRELAYER'
    """

    num_virtual_tokens: int = field(default=20, metadata={"help": "Virtual tokens before the input."})

    def __post_init__(self) -> None:
        """Check all values, and take the method's own type."""
        super().__post_init__()
        self.peft_type = peft_type("PRELAYER")
        check_prompt_tokens(self.num_virtual_tokens)


class PreLayerLayer(OwnLayer):
    """A layer of the body whose input at the virtual tokens' places is trained.

    Parameters
    ----------
    base_layer
        The layer.
    width
        Of hidden states.
    places
        Whether there are such places in a call.
    """

    adapter_layer_names = ("prelayer_tokens",)

    def __init__(self, base_layer: nn.Module, width: int, places: Places) -> None:
        super().__init__(base_layer)
        self.width, self.places = width, places
        self.prelayer_tokens = nn.ParameterDict({})

    def add_parts(self, adapter_name: str, config: Any) -> None:
        """Small random activations."""
        weight = next(self.base_layer.parameters())
        values = _START * torch.randn(config.num_virtual_tokens, self.width)
        self.prelayer_tokens[adapter_name] = nn.Parameter(values.to(weight.device))

    def tokens(self) -> Tensor | None:
        """The trained activations that act now."""
        names = self.in_use()
        if len(names) > 1:
            raise UnsupportedUpdateError(
                f"PreLayer: adapters {names} are active, and their virtual tokens have the same places; choose one."
            )
        own: Tensor | None = self.prelayer_tokens[names[0]] if names else None
        return own

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The layer's output, of an input with the trained activations in place."""
        own = self.tokens() if self.places.now else None
        if own is not None:
            own = own.to(hidden_states.dtype).expand(len(hidden_states), -1, -1)
            hidden_states = torch.cat((own, hidden_states[:, self.places.now :]), dim=1)
        return self.base_layer(hidden_states, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """What the model asks of its layers beside calling them, such as their kind of attention."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":
                raise
            return getattr(self.base_layer, name)


class PreLayerModel(OwnModel):
    """The model that PEFT makes of a base and a :class:`PreLayerConfig`."""

    prefix: str = "prelayer_"
    tuner_layer_cls = PreLayerLayer

    def _new_layer(self, target: nn.Module, name: str) -> OwnLayer:
        _ = name
        places = give_places(body_of(self.model), _wanted)
        return PreLayerLayer(target, int(self.model.config.get_text_config().hidden_size), places)

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> Any:
        unloaded = super()._unload_and_optionally_merge(*args, **kwargs)
        take_places(body_of(unloaded))
        return unloaded


def adapt_prelayer(model: Any, choices: MethodChoices, kind: str) -> nn.Module:
    """PreLayer, from what the model itself makes of random tokens: before training it is prompt tuning from those.

    Parameters
    ----------
    model, choices, kind
        As of :class:`rank_lab.training.method.Method`.

    Raises
    ------
    UnsupportedUpdateError
        If the model has not one stack of layers, or embeddings of another width than theirs, or keeps a state that
        is not keys and values.
    """
    check_prompt_tokens(choices.prompt_tokens)
    layers = layers_of(model)
    if kind == "causal" and "past_key_values" not in inspect.signature(body_of(model).forward).parameters:
        raise UnsupportedUpdateError(
            f"method 'prelayer': {type(model).__name__} keeps no keys and values but a state of its own, which would"
            " take in the virtual tokens at every word it writes; choose another method."
        )
    width, embedding = model.config.get_text_config().hidden_size, model.get_input_embeddings().weight
    if embedding.shape[1] != width:
        raise UnsupportedUpdateError(
            f"method 'prelayer': {type(model).__name__} embeds in width {embedding.shape[1]}, its layers have {width};"
            " choose another method."
        )
    words = torch.randint(len(embedding), (1, choices.prompt_tokens)).to(embedding.device)
    config = PreLayerConfig(
        task_type=task_type(kind),
        target_modules=list(layers),
        modules_to_save=new_heads(model, kind) or None,
        num_virtual_tokens=choices.prompt_tokens,
    )
    activations = _inputs_of_layers(model, words)
    adapted = adapt_exactly(model, config, list(layers))
    wrapped = [module for module in adapted.modules() if isinstance(module, PreLayerLayer)]
    with torch.no_grad():
        for layer, values in zip(wrapped, activations, strict=True):
            layer.prelayer_tokens["default"].copy_(values)
    return adapted


def _inputs_of_layers(model: Any, words: Tensor) -> list[Tensor]:
    """What goes into each layer for a row of tokens."""
    body, training = body_of(model), model.training
    model.eval()
    with torch.no_grad():
        output = body(input_ids=words, attention_mask=torch.ones_like(words), output_hidden_states=True)
    model.train(training)
    return [states[0] for states in output.hidden_states[:-1]]


def _wanted(body: nn.Module) -> int:
    """How many virtual tokens the layers of a body have now."""
    layer = next((module for module in body.modules() if isinstance(module, PreLayerLayer)), None)
    own = layer.tokens() if layer is not None else None
    return 0 if own is None else len(own)


register("PRELAYER", PreLayerConfig, PreLayerModel, PreLayerModel.prefix)
