"""What a module must be, told by the model itself and not by its name: embeddings, classes, shapes."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

__all__ = ["Evidence", "evidence_of"]

_ATTENTION = frozenset({"q", "k", "v", "qkv", "kv", "o", "gate", "other", "conv", "embed"})
_FEED_FORWARD = frozenset({"gate", "up", "gate_up", "down", "other"})

# Class of the module or of the nearest one around it that says anything; the first that fits.
_CLASSES: tuple[tuple[str, frozenset[str], str], ...] = (
    (r"\w*(Router\w*|Gating)", frozenset({"router"}), "class of a router"),
    (r"\w*(Indexer|Compressor)\w*", frozenset({"q", "k", "kv", "other"}), "class of an indexer"),
    (r"\w*(Mamba\w*Mixer|ShortConv|RecurrentBlock|HyperConnection|AltUp|Laurel\w*)", frozenset({"other", "conv"}), "class of none of the kinds"),
    (r"\w*SelfOutput", frozenset({"o", "conv"}), "class of an attention's output"),
    (r"\w*Intermediate(Query)?", frozenset({"up", "conv"}), "class of a first feed-forward layer"),
    (r"\w*Output(Query)?", frozenset({"down", "conv", "other"}), "class of a second feed-forward layer"),
    (r"\w*(Projector|Merger)", frozenset({"other", "conv", "q", "k", "v", "o", "gate", "up", "down"}), "class of a projector"),
    (r"\w*(Attention|Attn|GatedDeltaNet|DeltaAttention|SelfAttn)\w*", _ATTENTION, "class of an attention"),
    (r"\w*(MLP\w*|Mlp|FeedForward|FFN|Experts?|ActDense|ReluDense|MoE)", _FEED_FORWARD | {"router"}, "class of a feed-forward block"),
)  # fmt: skip
_READS = frozenset({"q", "k", "v", "qkv", "kv", "gate", "up", "gate_up", "router", "head", "other"})
_WRITES = frozenset({"o", "down", "other"})


@dataclass(frozen=True)
class Evidence:
    """Which kinds the model allows for one weight, and why."""

    kinds: frozenset[str]
    why: str

    def contradicts(self, kind: str) -> bool:
        """Whether that kind is not among those allowed."""
        return kind not in self.kinds


def evidence_of(model: Any) -> dict[str, Evidence]:
    """What the model says of each of its weights; those of which it says nothing are left out.

    Parameters
    ----------
    model
        A transformers model, on any device.

    Returns
    -------
    dict
        By name of the parameter. Embeddings and heads come from
        ``get_input_embeddings`` and ``get_output_embeddings``, others from the
        classes of module and surroundings, narrowed by shape where exactly one
        side of a linear layer is as wide as its layer: as the norms that stand
        in that layer, or else as the embeddings.
    """
    modules = dict(model.named_modules())
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    embedded = inputs.weight.shape[-1] if isinstance(getattr(inputs, "weight", None), nn.Parameter) else None
    widths = {path: _norm_width(module) for path, module in modules.items()}
    found = {}
    for name, parameter in model.named_parameters():
        owner = name.rpartition(".")[0]
        module = modules[owner]
        if module is outputs and outputs is not None and not isinstance(module, nn.Embedding):
            found[name] = Evidence(frozenset({"head"}), "output embeddings")
        elif module is inputs or isinstance(module, nn.Embedding):
            found[name] = Evidence(frozenset({"embed"}), "an embedding")
        elif isinstance(module, nn.modules.conv._ConvNd):
            found[name] = Evidence(frozenset({"conv"}), "a convolution")
        else:
            around = _by_class(owner, modules)
            width = next((widths[path] for path in _outwards(owner) if _is_layer(path) and widths[path]), embedded)
            if around is not None:
                found[name] = _narrowed(around, module, tuple(parameter.shape), width)
    return found


def _by_class(owner: str, modules: dict[str, Any]) -> Evidence | None:
    for path in _outwards(owner):
        name = type(modules[path]).__name__
        for pattern, kinds, why in _CLASSES:
            if re.fullmatch(pattern, name):
                return Evidence(kinds, why)
    return None


def _is_layer(path: str) -> bool:
    return path.rpartition(".")[2].isdecimal()


def _norm_width(module: Any) -> int | None:
    """Size of the norms that are children of this module, if they have one size."""
    norms = (child.weight for child in module.children() if "Norm" in type(child).__name__ and hasattr(child, "weight"))
    sizes = {weight.shape[0] for weight in norms if weight is not None and weight.ndim == 1}
    return sizes.pop() if len(sizes) == 1 else None


def _outwards(path: str) -> Iterator[str]:
    while path:
        yield path
        path = path.rpartition(".")[0]


def _narrowed(around: Evidence, module: Any, shape: tuple[int, ...], width: int | None) -> Evidence:
    plain = around.kinds in (_ATTENTION, _FEED_FORWARD | {"router"}) and isinstance(module, nn.Linear)
    if not plain or width is None or len(shape) != 2 or (shape[0] == width) == (shape[1] == width):
        return around
    if shape[1] == width:
        return Evidence(around.kinds & _READS, f"{around.why}, reads the residual stream")
    return Evidence(around.kinds & _WRITES, f"{around.why}, writes the residual stream")
