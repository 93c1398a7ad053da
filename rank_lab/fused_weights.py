"""How an architecture takes a fused weight apart: an explicit table, read off the modelling files of transformers 5.23.

What the table does not name, or what a config leaves open, stays fused, with
the reason. A "gate" is the half that goes through the activation: ModernBERT's
own code calls the other half so.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rank_lab.expert_stacks import HUB_TRANSPOSES, STACKS_IN_OUT, STACKS_OUT_IN

__all__ = ["FusedPart", "fused_parts", "is_fused"]

Config = Mapping[str, Any]


@dataclass(frozen=True)
class FusedPart:
    """One weight in a fused one: of each ``period`` outputs the ``length`` from ``start`` on."""

    name: str
    period: int
    start: int
    length: int


Parts = tuple[FusedPart, ...]
_QKV = ("q_proj", "k_proj", "v_proj")
_GATE_UP = ("gate_proj", "up_proj")


def is_fused(module: str) -> bool:
    """Whether the table names a weight of that leaf, for whatever architecture."""
    parts = module.split(".")
    return parts[-1] in _LEAVES or "input_linear" in parts[-2:]


def fused_parts(module: str, outputs: int, config: Config | None) -> tuple[Parts, str]:
    """Parts of a fused weight, in their order.

    Parameters
    ----------
    module
        Its path.
    outputs
        Its number of outputs.
    config
        Content of ``config.json``; None if there is none.

    Returns
    -------
    parts, reason
        No parts and the reason if it stays whole.

    Examples
    --------
    >>> parts, _ = fused_parts("transformer.h.0.attn.c_attn", 12, {"model_type": "gpt2"})
    >>> [(part.name, part.start, part.length) for part in parts]
    [('q_proj', 0, 4), ('k_proj', 4, 4), ('v_proj', 8, 4)]
    >>> fused_parts("h.0.attn.c_attn", 12, None)[1]
    'kept fused: no config.json names the architecture'
    """
    leaf = module.rsplit(".", 1)[-1]
    if leaf == "in_proj_weight":  # torch's own MultiheadAttention, whatever the model
        return _checked(_equal(outputs, _QKV), outputs, module)
    if config is None or config.get("model_type") is None:
        return (), "kept fused: no config.json names the architecture"
    model_type = str(config["model_type"])
    arrangement = _TABLE.get((model_type, leaf)) or _stack_arrangement(module, model_type)
    if arrangement is None:
        return (), f"kept fused: no table entry says how {model_type} takes {leaf} apart"
    try:
        parts = arrangement(module, outputs, config)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        return (), f"kept fused: config.json of the {model_type} model does not settle it ({_reason(error)})"
    return _checked(parts, outputs, model_type)


def _reason(error: Exception) -> str:
    return f"no {error.args[0]}" if isinstance(error, KeyError) else str(error) or type(error).__name__


def _checked(parts: Parts, outputs: int, of: str) -> tuple[Parts, str]:
    covered = sum(part.length * (outputs // part.period) for part in parts if outputs % part.period == 0)
    if covered == outputs and all(part.length > 0 for part in parts):
        return parts, ""
    return (), f"kept fused: {outputs} outputs are not those of the parts that {of} has"


def _ranges(sizes: Mapping[str, int]) -> Parts:
    """Contiguous parts, in order, of one period."""
    period, start, parts = sum(sizes.values()), 0, []
    for name, length in sizes.items():
        parts.append(FusedPart(name, period, start, length))
        start += length
    return tuple(parts)


def _equal(outputs: int, names: tuple[str, ...]) -> Parts:
    return _ranges(dict.fromkeys(names, outputs // len(names)))


def _thirds(module: str, outputs: int, config: Config) -> Parts:  # noqa: ARG001 - a table's common signature
    return _equal(outputs, _QKV)


def _gpt2(module: str, outputs: int, config: Config) -> Parts:  # noqa: ARG001
    return _equal(outputs, _QKV[1:] if "crossattention" in module.split(".") else _QKV)


def _halves(module: str, outputs: int, config: Config) -> Parts:  # noqa: ARG001
    return _equal(outputs, _GATE_UP)


def _alternating(module: str, outputs: int, config: Config) -> Parts:  # noqa: ARG001
    return _equal(2, _GATE_UP)


def _codegen(module: str, outputs: int, config: Config) -> Parts:  # noqa: ARG001
    # Four blocks, those of the machines that it was trained on, of queries, values and keys in that order.
    return _equal(outputs // 4, ("q_proj", "v_proj", "k_proj"))


def _per_head(heads: str) -> Callable[[str, int, Config], Parts]:
    def arrangement(module: str, outputs: int, config: Config) -> Parts:  # noqa: ARG001
        return _equal(outputs // _count(config, heads), _QKV)

    return arrangement


def _grouped_ranges(module: str, outputs: int, config: Config) -> Parts:  # noqa: ARG001
    """Phi-3: all queries, all keys, all values."""
    heads = _count(config, "num_attention_heads")
    shared = heads if config.get("num_key_value_heads") is None else _count(config, "num_key_value_heads")
    return _heads_ranges(outputs, heads, shared)


def _dbrx(module: str, outputs: int, config: Config) -> Parts:  # noqa: ARG001
    return _heads_ranges(outputs, _count(config, "n_heads"), _count(config["attn_config"], "kv_n_heads"))


def _heads_ranges(outputs: int, heads: int, shared: int) -> Parts:
    size, rest = divmod(outputs, heads + 2 * shared)
    if rest:
        raise ValueError(f"{outputs} outputs for {heads} heads and twice {shared}")
    return _ranges({"q_proj": heads * size, "k_proj": shared * size, "v_proj": shared * size})


def _bigcode(module: str, outputs: int, config: Config) -> Parts:
    if not _flag(config, "multi_query"):
        return _per_head("n_head")(module, outputs, config)
    return _heads_ranges(outputs, _count(config, "n_head"), 1)


def _falcon(module: str, outputs: int, config: Config) -> Parts:
    heads = _count(config, "num_attention_heads")
    if _flag(config, "new_decoder_architecture"):
        groups = _count(config, "num_kv_heads")
        return _heads_ranges(outputs // groups, heads // groups, 1)
    if _flag(config, "multi_query"):
        return _heads_ranges(outputs, heads, 1)
    return _per_head("num_attention_heads")(module, outputs, config)


def _count(config: Config, name: str) -> int:
    value = config[name]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}")
    return value


def _flag(config: Config, name: str) -> bool:
    value = config[name]
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}")
    return value


# Models of text and images whose image part has a fused "qkv".
_VISION = (
    "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "glm4v", "glm4v_moe",
)  # fmt: skip

_TABLE: dict[tuple[str, str], Callable[[str, int, Config], Parts]] = {
    ("gpt2", "c_attn"): _gpt2,
    ("imagegpt", "c_attn"): _gpt2,
    ("decision_transformer", "c_attn"): _gpt2,
    ("openai-gpt", "c_attn"): _thirds,
    ("gpt_bigcode", "c_attn"): _bigcode,
    ("gpt_neox", "query_key_value"): _per_head("num_attention_heads"),
    ("gpt_neox_japanese", "query_key_value"): _per_head("num_attention_heads"),
    ("persimmon", "query_key_value"): _per_head("num_attention_heads"),
    ("bloom", "query_key_value"): _per_head("n_head"),
    ("falcon", "query_key_value"): _falcon,
    ("codegen", "qkv_proj"): _codegen,
    ("mpt", "Wqkv"): _thirds,
    ("dbrx", "Wqkv"): _dbrx,
    ("modernbert", "Wqkv"): _thirds,
    ("modernbert", "Wi"): _halves,
    ("phi3", "qkv_proj"): _grouped_ranges,
    ("phi3", "gate_up_proj"): _halves,
    ("glm", "gate_up_proj"): _halves,
    ("glm4", "gate_up_proj"): _halves,
    ("glm4v", "gate_up_proj"): _halves,
    **{(model_type, "qkv"): _thirds for model_type in _VISION},
}

_LEAVES = frozenset(leaf for _, leaf in _TABLE) | {"in_proj_weight"}


def _stack_arrangement(module: str, model_type: str) -> Callable[[str, int, Config], Parts] | None:
    """For one expert of a stack; GPT-OSS alone alternates gate and up."""
    parts = module.split(".")
    in_experts = any("expert" in part for part in parts)
    if parts[-1] == "gate_up_proj" and in_experts:
        if model_type == "gpt_oss":
            return _alternating
        return _halves if model_type in STACKS_IN_OUT | STACKS_OUT_IN | HUB_TRANSPOSES else None
    granite = model_type.startswith("granitemoe") and model_type in STACKS_OUT_IN
    return _halves if granite and parts[-2:-1] == ["input_linear"] else None
