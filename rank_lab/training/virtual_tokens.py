"""Places for virtual tokens before the input of a model's body, made as it is called and cut off what it gives back."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from rank_lab.errors import RankLabError, UnsupportedUpdateError

__all__ = ["Places", "body_of", "give_places", "layers_of", "take_places"]


class Places:
    """How many virtual tokens stand before the input in the call that is being computed."""

    def __init__(self) -> None:
        self.now = 0


def body_of(model: Any) -> Any:
    """What takes tokens and calls the layers: the innermost part around them that takes embeddings as well.

    Heads may call it directly, past what is around it.

    Parameters
    ----------
    model
        Of transformers, with one stack of layers.

    Raises
    ------
    UnsupportedUpdateError
        If there is no such part.
    """
    stack = next(iter(layers_of(model))).rpartition(".")[0]
    parts = stack.split(".")[:-1]
    for end in range(len(parts), -1, -1):
        part = model.get_submodule(".".join(parts[:end]))
        takes = inspect.signature(part.forward).parameters
        if "inputs_embeds" in takes and hasattr(part, "get_input_embeddings"):
            return part
    raise UnsupportedUpdateError(
        f"method 'prelayer': no part of {type(model).__name__} takes inputs_embeds; choose another method."
    )


def layers_of(model: Any) -> dict[str, nn.Module]:
    """The layers of a model by name, in their order.

    Parameters
    ----------
    model
        Of transformers, with one stack of layers.

    Raises
    ------
    UnsupportedUpdateError
        If there are several stacks, or none.

    Examples
    --------
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=2, n_head=2, vocab_size=9, n_positions=4))
    >>> list(layers_of(model))
    ['transformer.h.0', 'transformer.h.1']
    """
    config = model.config.get_text_config()
    stacks = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == config.num_hidden_layers
    }
    outer = [name for name in stacks if not any(name.startswith(f"{other}.") for other in stacks)]
    if len(outer) != 1 or config.is_encoder_decoder:
        raise UnsupportedUpdateError(
            f"method 'prelayer': {type(model).__name__} has {len(outer)} stacks of {config.num_hidden_layers} layers"
            f" ({', '.join(outer) or 'none'}), where one is expected; choose another method."
        )
    return {f"{outer[0]}.{place}": layer for place, layer in enumerate(stacks[outer[0]])}


def give_places(body: Any, wanted: Any) -> Places:
    """Have a body stand virtual tokens before its input; again, give back what is there.

    Parameters
    ----------
    body
        A model without its head.
    wanted
        Of the body, how many there should be now.
    """
    for hook in body._forward_pre_hooks.values():
        if isinstance(hook, _Before):
            return hook.places
    places = Places()
    body.register_forward_pre_hook(_Before(places, wanted), with_kwargs=True)
    body.register_forward_hook(_After(places))
    if isinstance(getattr(body, "pooler", None), nn.Module):
        body.pooler.register_forward_pre_hook(_BeforePooler(places))
    return places


def take_places(body: Any) -> None:
    """Undo :func:`give_places`."""
    for module in (body, getattr(body, "pooler", None)):
        if not isinstance(module, nn.Module):
            continue
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key, hook in list(hooks.items()):
                if isinstance(hook, _Before | _After | _BeforePooler):
                    del hooks[key]
                    module._forward_pre_hooks_with_kwargs.pop(key, None)


class _Before:
    def __init__(self, places: Places, wanted: Any) -> None:
        self.places, self.wanted = places, wanted

    def __call__(self, body: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
        names = list(inspect.signature(body.forward).parameters)
        given = dict(zip(names, args, strict=False)) | kwargs
        count = self.wanted(body)
        cache = given.get("past_key_values")
        kept = int(cache.get_seq_length()) if cache is not None else 0
        self.places.now = 0 if kept else count
        if count:
            given = _with_places(body, given, count, kept=bool(kept))
        return (), given


class _After:
    def __init__(self, places: Places) -> None:
        self.places = places

    def __call__(self, _body: Any, _args: Any, output: Any) -> Any:
        count, self.places.now = self.places.now, 0
        if not count:
            return output
        if isinstance(output, tuple):
            return (output[0][:, count:], *output[1:])
        output["last_hidden_state"] = output.last_hidden_state[:, count:]
        if getattr(output, "hidden_states", None) is not None:
            output["hidden_states"] = tuple(states[:, count:] for states in output.hidden_states)
        return output


class _BeforePooler:
    def __init__(self, places: Places) -> None:
        self.places = places

    def __call__(self, _pooler: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0][:, self.places.now :], *args[1:])


def _with_places(body: Any, given: dict[str, Any], count: int, *, kept: bool) -> dict[str, Any]:
    """The arguments of a call with places before the input, or room for those that were kept."""
    mask, positions = given.get("attention_mask"), given.get("position_ids")
    changed: dict[str, Any] = {}
    if mask is not None:
        _check_flat(mask, "attention_mask")
        changed["attention_mask"] = torch.cat((mask.new_ones(len(mask), count), mask), dim=1)
    if positions is not None:
        _check_flat(positions, "position_ids")
        changed["position_ids"] = positions + count if kept else _shifted(positions, count)
    if not kept:
        changed |= _embedded(body, given, count)
    return given | changed


def _embedded(body: Any, given: dict[str, Any], count: int) -> dict[str, Any]:
    embeds = given.get("inputs_embeds")
    if embeds is None:
        if given.get("input_ids") is None:
            raise RankLabError("PreLayer: neither input_ids nor inputs_embeds were given; give one of them.")
        embeds = body.get_input_embeddings()(given["input_ids"])
    before = embeds.new_zeros(len(embeds), count, embeds.shape[2])
    changed = {"input_ids": None, "inputs_embeds": torch.cat((before, embeds), dim=1)}
    types = given.get("token_type_ids")
    if types is not None:
        changed["token_type_ids"] = torch.cat((types.new_zeros(len(types), count), types), dim=1)
    return changed


def _shifted(positions: Tensor, count: int) -> Tensor:
    if bool((positions[:, 1:] < positions[:, :-1]).any()):
        raise UnsupportedUpdateError(
            "PreLayer: positions that start anew within a row mean several texts packed in one, of which only the first"
            " would have the virtual tokens; turn packing off."
        )
    before = torch.arange(count, dtype=positions.dtype, device=positions.device).expand(len(positions), -1)
    return torch.cat((before, positions + count), dim=1)


def _check_flat(values: Any, name: str) -> None:
    if not isinstance(values, Tensor) or values.ndim != 2:
        shape = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise UnsupportedUpdateError(
            f"PreLayer: {name} of shape {shape}, where batch and length are expected; give the plain mask of tokens,"
            " and generate without a static cache."
        )
