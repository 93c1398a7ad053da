"""Where a tensor sits in its model, read off its name."""

import re
from dataclasses import dataclass

__all__ = ["KINDS", "Identity", "identify", "natural_order", "strip_wrappers"]

KINDS = (
    "q", "k", "v", "qkv", "kv", "o", "gate", "up", "gate_up", "down",
    "embed", "head", "router", "conv", "other",
)  # fmt: skip
"""Kinds of module, in the order in which tables and maps show them."""

_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_layer"})
_TRAINED_COPY = re.compile(r"(?<=\.)modules_to_save\.\w+\.")  # PEFT keeps it beside the frozen "original_module"
_LEADING = ("module.", "base_model.model.")

# The last path component that is not "weight" decides; the first rule that matches wins.
_BY_LEAF: tuple[tuple[str, str], ...] = (
    (r"(c_attn|qkv(_proj|_linear)?|query_key_value|in_proj(_weight)?|Wqkv|att_proj|wqkv)", "qkv"),
    (r"(kv_proj|key_value|kv_a_proj_with_mqa|kv_b_proj|kv)", "kv"),
    (r"(q_proj|query(_proj|_layer)?|q_lin|q_a_proj|q_b_proj|wq|q|q_attn|to_q|linear_q)", "q"),
    (r"(k_proj|key(_proj|_layer)?|k_lin|wk|k|to_k|linear_k)", "k"),
    (r"(v_proj|value(_proj|_layer)?|v_lin|wv|v|to_v|linear_v)", "v"),
    (r"(o|o_proj|out_lin|to_out|wo_attn|linear_out)", "o"),
    (r"(gate_up_proj|gate_and_up_proj|w13|Wi)", "gate_up"),
    (r"(gate_proj|w1|wi_0|gate_linear|linear_gate)", "gate"),
    (r"(up_proj|w3|wi_1|wi|fc1|fc_in|c_fc|dense_h_to_4h|lin1|linear1|intermediate|ffn_1|ffn|w_in)", "up"),
    (r"(down_proj|w2|fc2|fc_out|dense_4h_to_h|lin2|linear2|ffn_2|ffn_output|w_out)", "down"),
    (r"(embed_tokens|wte|wpe|word_embeddings|position_embeddings|token_type_embeddings|embed_positions|tok_embeddings|token_embedding|position_embedding|shared|embeddings?|relative_attention_bias|embed_in)", "embed"),
    (r"((generator_)?lm_head|vocab_projector|embed_out|score|classifier|qa_outputs|decoder|predictions|output_projection)", "head"),
    (r"(router|gate|shared_expert_gate)", "router"),
    (r"(conv\d*d?|patch_embedding|patch_embeddings|conv_proj)", "conv"),
)  # fmt: skip
_AMBIGUOUS = re.compile(r"(dense|c_proj|[wW]o|out_proj|proj|output|linear|fc)")
_ATTENTION = re.compile(
    r"(self_?|cross_?|encoder_?)?(attn|attention|att|mha|SelfAttention|EncDecAttention)", re.IGNORECASE
)
_FEED_FORWARD = re.compile(r"(mlp|ffn?|feed_?forward|dense_?relu_?dense|output|experts?)", re.IGNORECASE)
_HEADS = frozenset({"classifier", "score", "lm_head", "predictions", "cls", "qa_outputs", "pooler"})


@dataclass(frozen=True)
class Identity:
    """Place of a module in its model.

    Parameters
    ----------
    stack
        Path before the layer number, such as ``"model.layers"``; empty outside the stacks.
    layer
        Number of the layer, or None.
    kind
        One of :data:`KINDS`.
    expert
        Number of the expert in a mixture, or None.
    """

    stack: str
    layer: int | None
    kind: str
    expert: int | None = None


def strip_wrappers(name: str) -> str:
    """Drop what data parallelism, compilation and PEFT wrap around a name.

    Examples
    --------
    >>> strip_wrappers("module._orig_mod.model.layers.0.mlp.up_proj.weight")
    'model.layers.0.mlp.up_proj.weight'
    >>> strip_wrappers("base_model.model.model.layers.0.q_proj.base_layer.weight")
    'model.layers.0.q_proj.weight'
    >>> strip_wrappers("base_model.model.classifier.modules_to_save.default.weight")
    'classifier.weight'
    """
    name = _TRAINED_COPY.sub("", name)
    name = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
    stripped = True
    while stripped:
        stripped = False
        for prefix in _LEADING:
            if name.startswith(prefix):
                name, stripped = name.removeprefix(prefix), True
    return name


def natural_order(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that puts layer 2 before layer 10.

    Examples
    --------
    >>> sorted(["layers.10.q", "layers.2.q"], key=natural_order)
    ['layers.2.q', 'layers.10.q']
    """
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in name.split("."))


def identify(module: str) -> Identity:
    """Stack, layer, kind and expert of a module path.

    The first integer component is the layer, what stands before it the stack;
    an integer behind a component with ``expert`` in its name is the expert.
    Leaves that attention and feed-forward share (``dense``, ``c_proj`` ...) are
    decided by the nearest ancestor that looks like either. What no rule knows
    is ``"other"``, never dropped.

    Parameters
    ----------
    module
        Path without wrappers and without ``.weight``.

    Examples
    --------
    >>> identify("model.layers.3.self_attn.q_proj")
    Identity(stack='model.layers', layer=3, kind='q', expert=None)
    >>> identify("model.layers.0.block_sparse_moe.experts.7.w2").expert
    7
    >>> identify("encoder.layer.2.attention.output.dense").kind, identify("encoder.layer.2.output.dense").kind
    ('o', 'down')
    """
    parts = module.removesuffix(".weight").split(".")
    layer_at = next((i for i, part in enumerate(parts) if part.isdecimal()), None)
    expert_at = next(
        (i for i, part in enumerate(parts) if part.isdecimal() and i and "expert" in parts[i - 1] and i != layer_at),
        None,
    )
    return Identity(
        stack=".".join(parts[:layer_at]) if layer_at is not None else "",
        layer=int(parts[layer_at]) if layer_at is not None else None,
        kind=_kind([part for part in parts if not part.isdecimal()], inside_layer=layer_at is not None),
        expert=int(parts[expert_at]) if expert_at is not None else None,
    )


def _kind(parts: list[str], *, inside_layer: bool) -> str:
    if not inside_layer and _HEADS & set(parts):
        return "head"
    leaf = parts[-1] if parts else ""  # a bare nn.Sequential has numbers only
    for pattern, kind in _BY_LEAF:
        if re.fullmatch(pattern, leaf):
            # A gate inside attention routes nothing, an in_proj outside of it (Mamba's) makes no queries.
            fits = leaf not in {"gate", "in_proj"} or (leaf == "in_proj") == _inside_attention(parts)
            return kind if fits else "other"
    if _AMBIGUOUS.fullmatch(leaf):
        return _by_ancestor(parts)
    return "other"


def _inside_attention(parts: list[str]) -> bool:
    return any(_ATTENTION.fullmatch(part) for part in parts[:-1])


def _by_ancestor(parts: list[str]) -> str:
    leaf = parts[-1]
    for part in reversed(parts[:-1]):
        if part == "intermediate":
            return "up"
        if _ATTENTION.fullmatch(part):
            return "o"
        if part == "output" and leaf == "dense":
            continue  # BERT: attention.output.dense and output.dense
        if _FEED_FORWARD.fullmatch(part):
            return "down"
    return "down" if "output" in parts[:-1] else "other"
