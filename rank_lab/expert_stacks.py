"""Experts that a file stores as one tensor: which names are such stacks, and how each expert lies in them.

Read off the modelling files of transformers 5.23: the classes behind
``experts.gate_up_proj`` and ``experts.down_proj``, and JetMoE's and Granite's
``input_linear`` and ``output_linear``.
"""

import re
from collections.abc import Mapping
from typing import Any

__all__ = [
    "HUB_TRANSPOSES",
    "LINEAR_STACKS",
    "STACKS_IN_OUT",
    "STACKS_OUT_IN",
    "expert_module",
    "flat_stack",
    "is_expert_stack",
]

STACKS_IN_OUT = frozenset(
    {"gpt_oss", "openai_privacy_filter", "llama4", "llama4_text", "aria", "aria_text"}
)  # fmt: skip
"""Model types whose experts are ``(in, out)``."""

STACKS_OUT_IN = frozenset(
    {
        "afmoe", "axk1", "axk2", "bailing_hybrid", "beam", "cohere2_moe", "deepseek_ocr2", "deepseek_ocr2_text",
        "deepseek_v2", "deepseek_v3", "deepseek_v32", "deepseek_v4", "diffusion_gemma", "diffusion_gemma_text",
        "dots1", "dots3_note", "dots3_note_text", "ernie4_5_moe", "ernie4_5_vl_moe", "ernie4_5_vl_moe_text",
        "exaone_moe", "flex_olmo", "flint", "gemma4", "gemma4_text", "glm4_moe", "glm4_moe_lite", "glm4v_moe",
        "glm4v_moe_text", "glm5_next", "glm5_next_text", "glm_moe_dsa", "granitemoe", "granitemoe_swa",
        "granitemoehybrid", "granitemoeshared", "hunyuan_v1_moe", "hy_v3", "hy_v4", "inkling_mm_model",
        "inkling_text", "inkling2", "inkling2_text", "jamba", "jetmoe", "kimi_linear", "kolibri1", "laguna",
        "lfm2_moe", "longcat_flash", "mellum", "mimo_v2_flash", "minimax", "minimax_m2", "minimax_m3_vl",
        "minimax_m3_vl_text", "mistral4", "mistral_large4", "mistral_large4_text", "mixtral", "muse_spark",
        "muse_spark_text", "olmoe", "phimoe", "qwen2_moe", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_moe",
        "qwen3_next", "qwen3_omni_moe", "qwen3_omni_moe_text", "qwen3_omni_moe_thinker",
        "qwen3_omni_moe_talker_text", "qwen4_exp", "qwen4_exp_text", "solar_open", "step3p5", "step3p7",
        "unlimited_ocr", "unlimited_ocr_text", "zaya",
    }
)  # fmt: skip
"""Model types whose experts are ``(out, in)``."""

HUB_TRANSPOSES = frozenset({"qwen3_vl_moe", "qwen3_vl_moe_text"})
"""Model types whose hub files hold ``(in, out)`` under the names of the memory's ``(out, in)``."""

LINEAR_STACKS = frozenset({"input_linear", "output_linear"})
"""Leaves that are stacks of ``(out, in)`` wherever they have three dimensions, without "expert" in their path."""

_FLAT = re.compile(r".+\.experts\.mlp\.(?P<leaf>w1|v1|w2)")
_LINEAR_PARENTS = frozenset({"block_sparse_moe", "moe", "experts", "mlp"})


def is_expert_stack(key: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is a stack of experts, by its name.

    Examples
    --------
    >>> is_expert_stack("model.layers.0.mlp.experts.down_proj", (4, 8, 6))
    True
    >>> is_expert_stack("layers.0.experts.3.conv.weight", (4, 8, 6)), is_expert_stack("conv1.weight", (4, 8, 3))
    (False, False)
    """
    return len(shape) == 3 and not key.endswith("bias") and _stacked_at(key.removesuffix(".weight")) is not None


def flat_stack(key: str, shape: tuple[int, ...], config: Mapping[str, Any] | None) -> tuple[int, bool]:
    """Experts in a matrix that has them one below the other, as DBRX stores them, and whether each is ``(in, out)``.

    Returns
    -------
    experts, transposed
        1 expert if this is no such matrix or the config does not say how many there are.

    Examples
    --------
    >>> config = {"model_type": "dbrx", "ffn_config": {"moe_num_experts": 4}}
    >>> flat_stack("transformer.blocks.0.ffn.experts.mlp.w2", (24, 8), config)
    (4, True)
    """
    leaf = _FLAT.fullmatch(key.removesuffix(".weight"))
    if leaf is None or len(shape) != 2 or config is None or config.get("model_type") != "dbrx":
        return 1, False
    inner = config.get("ffn_config")
    count = inner.get("moe_num_experts") if isinstance(inner, dict) else None
    if isinstance(count, bool) or not isinstance(count, int) or count < 1 or shape[0] % count:
        return 1, False
    return count, leaf["leaf"] == "w2"


def expert_module(module: str, expert: int) -> str:
    """Path of one expert of a stack, numbered where files with one matrix per expert have the number.

    Examples
    --------
    >>> expert_module("model.layers.0.mlp.experts.gate_up_proj", 3)
    'model.layers.0.mlp.experts.3.gate_up_proj'
    >>> expert_module("model.layers.0.block_sparse_moe.input_linear", 3)
    'model.layers.0.block_sparse_moe.input_linear.3'
    """
    parts = module.split(".")
    at = _stacked_at(module)
    where = len(parts) if at is None else at
    return ".".join([*parts[:where], str(expert), *parts[where:]])


def _stacked_at(module: str) -> int | None:
    """Where in the path the expert's number is missing; None if this is no stack."""
    parts = module.split(".")
    last = next((i for i in reversed(range(len(parts) - 1)) if "expert" in parts[i]), None)
    if last is not None:
        return None if parts[last + 1].isdecimal() else last + 1
    linear = len(parts) > 1 and parts[-1] in LINEAR_STACKS and parts[-2] in _LINEAR_PARENTS
    return len(parts) if linear else None
