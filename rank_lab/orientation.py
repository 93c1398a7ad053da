"""Which weights lie transposed in their file: from knowledge of the architecture, never from shapes alone."""

from collections.abc import Mapping
from typing import Any

from rank_lab.checkpoint import Checkpoint
from rank_lab.expert_stacks import HUB_TRANSPOSES, LINEAR_STACKS, STACKS_IN_OUT, STACKS_OUT_IN

__all__ = ["stacked_transposed", "stored_transposed"]

# Model types whose linear layers are transformers' Conv1D, which stores (in, out),
# and the leaves that are; read off the modelling files of transformers 5.23.
_CONV1D = {
    "gpt2": ("c_attn", "c_proj", "c_fc", "q_attn"),
    "openai-gpt": ("c_attn", "c_proj", "c_fc"),
    "imagegpt": ("c_attn", "c_proj", "c_fc", "q_attn"),
    "decision_transformer": ("c_attn", "c_proj", "c_fc", "q_attn"),
    "clvp": ("c_fc", "c_proj"),
}
_LEAVES = frozenset(leaf for leaves in _CONV1D.values() for leaf in leaves)
_UNKNOWN = "orientation unknown ({why}): shape given as stored, spectrum unaffected"
_NO_CONFIG = "no config.json names the architecture"


def stored_transposed(key: str, sources: tuple[Checkpoint, ...]) -> tuple[bool, str]:
    """Whether a weight is stored ``(in, out)``, and what to say if nobody knows.

    Parameters
    ----------
    key
        Name of the weight.
    sources
        Checkpoints whose ``config.json`` may name the architecture, best first.

    Returns
    -------
    transposed, note
        The note is empty unless the name is one that Conv1D models use and no
        config says whether this is such a model.
    """
    leaf = key.removesuffix(".weight").rsplit(".", 1)[-1]
    if leaf not in _LEAVES:
        return False, ""
    config = _config(sources)
    if config is None:
        return False, _UNKNOWN.format(why=_NO_CONFIG)
    known = _CONV1D.get(str(config["model_type"]))
    if known is not None:
        return leaf in known, ""
    part = next((name for name, value in config.items() if _is_conv1d_config(value)), None)
    if part is not None:  # an encoder and a decoder in one: which of them a name belongs to, the config does not say
        return False, _UNKNOWN.format(
            why=f"{part} of the {config['model_type']} model is a {config[part]['model_type']}"
        )
    return False, ""


def stacked_transposed(key: str, shape: tuple[int, int], sources: tuple[Checkpoint, ...]) -> tuple[bool, str]:
    """Whether each expert of a stack is stored ``(in, out)``, and what to say if nobody knows.

    Parameters
    ----------
    key
        Name of the stack.
    shape
        Of one expert as stored; needed where a model type is stored in both
        orientations and only its config's sizes tell which it is.
    sources
        Checkpoints whose ``config.json`` may name the architecture, best first.

    Returns
    -------
    transposed, note
        The note is empty where the model type and the name are in the table.
    """
    config = _config(sources)
    if config is None:
        return False, _UNKNOWN.format(why=_NO_CONFIG)
    types = model_types(config)
    leaf = key.removesuffix(".weight").rsplit(".", 1)[-1]
    if leaf not in {"gate_up_proj", "down_proj", *LINEAR_STACKS}:
        return False, _UNKNOWN.format(why=f"no table entry for stacks named {leaf}")
    if types & HUB_TRANSPOSES:
        return _by_sizes(leaf, shape, config)
    if types & STACKS_IN_OUT and leaf not in LINEAR_STACKS:
        return True, ""
    if types & STACKS_OUT_IN:
        return False, ""
    return False, _UNKNOWN.format(why=f"no table entry for the expert stacks of {config['model_type']}")


def model_types(config: Mapping[str, Any]) -> frozenset[str]:
    """Model types that a config names: its own, and those of the models that it is composed of."""
    inner = (value.get("model_type") for value in config.values() if isinstance(value, dict))
    return frozenset(str(name) for name in (config.get("model_type"), *inner) if name is not None)


def _config(sources: tuple[Checkpoint, ...]) -> Mapping[str, Any] | None:
    return next((source.config for source in sources if source.model_type is not None), None)


def _by_sizes(leaf: str, shape: tuple[int, int], config: Mapping[str, Any]) -> tuple[bool, str]:
    # Hub files hold (in, out), files in the memory's format (out, in), under the same names.
    inner = config.get("text_config")
    text: Mapping[str, Any] = inner if isinstance(inner, dict) else config
    across, width = text.get("hidden_size"), text.get("moe_intermediate_size")
    if not isinstance(across, int) or not isinstance(width, int):
        return False, _UNKNOWN.format(why=f"hub files of {config['model_type']} are transposed, saved ones are not")
    out_in = (2 * width, across) if leaf == "gate_up_proj" else (across, width)
    if out_in[0] != out_in[1] and shape in {out_in, out_in[::-1]}:
        return shape != out_in, ""
    return False, _UNKNOWN.format(
        why=f"hub files of {config['model_type']} are transposed, saved ones are not, and the sizes fit both or neither"
    )


def _is_conv1d_config(value: object) -> bool:
    return isinstance(value, dict) and value.get("model_type") in _CONV1D
