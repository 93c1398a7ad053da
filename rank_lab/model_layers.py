"""The layers of a model by its config alone: their paths in memory, and which of them a LoRA can be put on."""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from rank_lab.plain_file import parse_json

__all__ = ["model_layers"]

_KINDS = {"Linear": "linear", "Conv1D": "conv1d", "Embedding": "embedding"}


def model_layers(config: Mapping[str, Any]) -> dict[str, str] | None:
    """Path of every layer of a transformers model, and its kind; None where the config does not name its class.

    Parameters
    ----------
    config
        Content of ``config.json``.

    Returns
    -------
    dict or None
        Kinds: ``linear``, ``conv1d``, ``embedding`` or, for any other layer, the name of its class. Subclasses count
        as what they are derived from.

    Notes
    -----
    The model is built without memory for its weights, by transformers' own class; no code of the checkpoint runs.

    Examples
    --------
    >>> model_layers({"model_type": "unheard-of"}) is None
    True
    """
    return _layers(json.dumps(dict(config), sort_keys=True, default=str))


@lru_cache(maxsize=8)
def _layers(text: str) -> dict[str, str] | None:
    import torch
    import transformers

    content = parse_json(text.encode())
    architectures, kind = content.get("architectures"), content.get("model_type")
    name = architectures[0] if isinstance(architectures, list) and architectures else None
    found = getattr(transformers, name, None) if isinstance(name, str) else None
    if not isinstance(found, type) or not issubclass(found, transformers.PreTrainedModel):
        return None
    from huggingface_hub.errors import StrictDataclassError

    try:
        settings = transformers.CONFIG_MAPPING[str(kind)].from_dict(content)
        with torch.device("meta"):
            model = found(settings)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, AssertionError, StrictDataclassError):
        return None  # a config that this class is not made for
    return {path: _kind(layer) for path, layer in model.named_modules() if path}


def _kind(layer: object) -> str:
    names = [each.__name__ for each in type(layer).__mro__]
    return next((_KINDS[name] for name in names if name in _KINDS), names[0])
