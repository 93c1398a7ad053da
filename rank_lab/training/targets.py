"""Which modules of a model a method adapts: by their place, as papers name them, or by name."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from peft import get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from rank_lab.errors import PairingError, UnsupportedUpdateError
from rank_lab.names import identify, natural_order, strip_wrappers

__all__ = ["PLACES", "Target", "adapt_exactly", "chosen_targets", "linear_modules"]

PLACES = ("attention", "mlp", "all")
"""Targets by place; ``all``: attention and feed-forward, gate_proj included, of every layer."""

_ATTENTION = frozenset({"q", "k", "v", "qkv", "kv", "o"})
_MLP = frozenset({"gate", "up", "gate_up", "down"})
_IN_ATTENTION = re.compile(r"\w*(attn|att|attention)s?\w*", re.IGNORECASE)
_QUANTISED = ("Linear8bitLt", "Linear4bit")  # of bitsandbytes


@dataclass(frozen=True)
class Target:
    """A module that can be adapted.

    Parameters
    ----------
    name
        Path in the model.
    kind
        One of :data:`rank_lab.names.KINDS`.
    place
        ``"attention"`` or ``"mlp"``; empty for what is neither.
    stored
        ``"linear"``, ``"conv1d"`` (transformers' transposed layer) or ``"embedding"``.
    """

    name: str
    kind: str
    place: str
    stored: str


def linear_modules(model: nn.Module) -> list[Target]:
    """Every linear layer of a model, in the model's order.

    Parameters
    ----------
    model
        Not adapted yet.

    Examples
    --------
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=9, n_positions=4))
    >>> [(target.name, target.kind, target.place) for target in linear_modules(model)][:2]
    [('transformer.h.0.attn.c_attn', 'qkv', 'attention'), ('transformer.h.0.attn.c_proj', 'o', 'attention')]
    """
    return [_target(name, module) for name, module in model.named_modules() if _stored(module)]


def chosen_targets(model: nn.Module, targets: str, *, embeddings: bool = False, head: bool = False) -> list[Target]:
    """The modules that a choice means.

    Parameters
    ----------
    model
        Of transformers, not adapted yet.
    targets
        One of :data:`PLACES`, or names of modules with commas between: whole paths, or their last parts.
    embeddings, head
        Whether the input embedding and the output head are adapted, too.

    Returns
    -------
    list of Target
        In the model's order.

    Raises
    ------
    UnsupportedUpdateError
        If what the place means cannot be told from the names of this model, or is not stored in linear layers.
    PairingError
        If a name is of no linear layer; the nearest are offered.

    Examples
    --------
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> size = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
    >>> model = LlamaForCausalLM(LlamaConfig(vocab_size=9, **size))
    >>> [target.kind for target in chosen_targets(model, "mlp")]
    ['gate', 'up', 'down']
    >>> [target.name for target in chosen_targets(model, "q_proj, v_proj")]
    ['model.layers.0.self_attn.q_proj', 'model.layers.0.self_attn.v_proj']
    """
    found = linear_modules(model)
    chosen = _of_place(model, found, targets) if targets in PLACES else _by_name(found, targets)
    names = {target.name for target in chosen}
    beside = [target for target in _beside(model, embeddings=embeddings, head=head) if target.name not in names]
    order = {name: place for place, (name, _) in enumerate(model.named_modules())}
    return sorted([*chosen, *beside], key=lambda target: order[target.name])


def adapt_exactly(model: nn.Module, config: Any, names: Sequence[str]) -> nn.Module:
    """The model adapted by PEFT, and not one module more or less than was chosen.

    Parameters
    ----------
    model
        Changed in place.
    config
        PEFT's, whose targets are the names.
    names
        Paths of the modules.

    Raises
    ------
    UnsupportedUpdateError
        If PEFT, which compares the ends of paths, found others.
    """
    adapted: Any = get_peft_model(model, config)
    there = set(adapted.base_model.targeted_module_names)
    other = there.symmetric_difference(names)
    if other:
        raise UnsupportedUpdateError(
            f"targets: PEFT adapts {len(there)} modules where {len(names)} were chosen, as it compares the ends of"
            f" their paths; the first that differs is {min(other)!r}: name the modules to adapt, with commas between."
        )
    peft_model: nn.Module = adapted
    return peft_model


def _path(model: nn.Module, module: nn.Module) -> str:
    path: str = next(name for name, other in model.named_modules() if other is module)
    return path


def _of_place(model: nn.Module, found: list[Target], place: str) -> list[Target]:
    inside = [target for target in found if identify(target.name).layer is not None]
    _refuse_stacked_experts(model, place)
    unknown = [target.name for target in inside if target.kind == "other"]
    if unknown:
        raise UnsupportedUpdateError(
            f"targets {place!r}: {len(unknown)} linear layers of {type(model).__name__} are of no known kind, the first"
            f" {unknown[0]!r}; name the modules to adapt, with commas between."
        )
    wanted = {"attention", "mlp"} if place == "all" else {place}
    chosen = [target for target in inside if target.place in wanted]
    missing = sorted(wanted - {target.place for target in chosen})
    if missing:
        raise UnsupportedUpdateError(
            f"targets {place!r}: {type(model).__name__} has no linear layers of {' or '.join(missing)} in its layers"
            f" ({_listed(target.name for target in found)}); name the modules to adapt, with commas between."
        )
    return chosen


def _refuse_stacked_experts(model: nn.Module, place: str) -> None:
    """Experts in one tensor are no linear layers: a place that means them would silently leave them out."""
    if place == "attention":
        return
    for name, parameter in model.named_parameters():
        if parameter.ndim == 3 and identify(strip_wrappers(name)).kind in _MLP:
            raise UnsupportedUpdateError(
                f"targets {place!r}: {name!r} holds all experts in one tensor, which is no linear layer; choose"
                " 'attention', or name the modules to adapt, with commas between."
            )


def _by_name(found: list[Target], targets: str) -> list[Target]:
    chosen: list[Target] = []
    asked = [name.strip() for name in targets.split(",")]
    for name in asked:
        fits = [target for target in found if name and f".{target.name}".endswith(f".{name}")]
        if not fits:
            _refuse_name(name, found)
        chosen += [target for target in fits if target not in chosen]
    return chosen


def _refuse_name(name: str, found: list[Target]) -> None:
    leaves = [target.name.rpartition(".")[2] for target in found]
    near = get_close_matches(name.rpartition(".")[2], sorted({*leaves, *PLACES}), n=3, cutoff=0.5)
    hint = f"nearest: {', '.join(near)}" if near else _listed(target.name for target in found)
    raise PairingError(
        f"targets {name!r}: no linear layer of the model has this name ({hint}); give one of {', '.join(PLACES)}, or"
        " names of linear layers with commas between."
    )


def _beside(model: nn.Module, *, embeddings: bool, head: bool) -> Iterator[Target]:
    """The input embedding and the output head where they are asked for."""
    into, out = _ends(model)
    if head and out is None:
        raise UnsupportedUpdateError(
            f"head: {type(model).__name__} has no output head over the vocabulary; leave it out. A new head for classes"
            " or numbers is always trained."
        )
    if (embeddings or head) and into is not None and out is not None and _tied(into, out):
        raise UnsupportedUpdateError(
            f"embeddings, head: {type(model).__name__} ties its input embedding to its output head, one weight for"
            " both, which an update of either would untie; leave them out, or train with the method full."
        )
    if embeddings and into is not None:
        yield Target(_path(model, into), "embed", "", "embedding")
    if head and out is not None:
        yield Target(_path(model, out), "head", "", _stored(out) or "linear")


def _ends(model: nn.Module) -> tuple[nn.Module | None, nn.Module | None]:
    into, out = getattr(model, "get_input_embeddings", None), getattr(model, "get_output_embeddings", None)
    return (into() if into else None), (out() if out else None)


def _tied(into: nn.Module, out: nn.Module) -> bool:
    return getattr(into, "weight", None) is getattr(out, "weight", 0)


def _target(name: str, module: nn.Module) -> Target:
    identity = identify(name)
    place = ""
    if identity.layer is not None and identity.kind in _ATTENTION | _MLP:
        gate_of_attention = identity.kind == "gate" and any(map(_IN_ATTENTION.fullmatch, name.split(".")))
        place = "attention" if identity.kind in _ATTENTION or gate_of_attention else "mlp"
    return Target(name, identity.kind, place, _stored(module))


def _stored(module: nn.Module) -> str:
    if isinstance(module, Conv1D):
        return "conv1d"
    if isinstance(module, nn.Linear) or type(module).__name__ in _QUANTISED:
        return "linear"
    return ""


def _listed(names: Iterable[str]) -> str:
    """Some names, in short."""
    leaves = sorted({re.sub(r"(?<=\.)\d+(?=\.)", "*", name) for name in names}, key=natural_order)
    if not leaves:
        return "it has no linear layers"
    return f"found {', '.join(leaves[:6])}{' ...' if len(leaves) > 6 else ''}"
