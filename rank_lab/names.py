"""Where a tensor sits in its model, read off its name."""

import re
from dataclasses import dataclass

__all__ = [
    "KINDS", "Identity", "has_vocabulary", "identify", "is_known", "may_be_tied", "natural_order", "strip_wrappers",
]  # fmt: skip

KINDS = (
    "q", "k", "v", "qkv", "kv", "o", "gate", "up", "gate_up", "down",
    "embed", "head", "router", "conv", "other",
)  # fmt: skip
"""Kinds of module, in the order in which tables and maps show them.

Queries, keys, values and outputs of any attention, linear and cross-attention too: the module says where. ``gate``: of
a feed-forward block or of an attention's output. ``head``: what stands between body and predictions. ``conv``:
convolutions, and the patch projections of vision models, which are convolutions however they are stored.
"""

_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_layer"})
_TRAINED_COPY = re.compile(r"(?<=\.)modules_to_save\.\w+\.")  # PEFT keeps it beside the frozen "original_module"
_LEADING = ("module.", "base_model.model.")

# What kind of block a component is; the nearest one above the module decides, and transparent ones are looked through.
_BLOCKS: tuple[tuple[str, str], ...] = (
    (r"router(_\w+)?|gate", "router"),
    (r"(\w+_)?(cross)?(attn|att|attention)s?(_\d+|_layers)?|\w*Attention", "attention"),
    (r"(\w+_)?(mlp|ffn|ff|moe|feed_?forward)s?\d?(_block|_in|_out)?|Dense\w*Dense", "feed_forward"),
    (r"mamba(_\w+)?|mixer|temporal_block|rg_lru|conv|forget_gate|mlstm_layer", "recurrence"),
    (r"(\w+_)?(layers?|blocks?)|resblocks|h", "layer"),
)  # fmt: skip
_TRANSPARENT = re.compile(r"\d+|self|output|(\w+_)?experts?(_\d+)?")

# Block around it ("" any, "-" none of a layer's); last component, or last two or three; kind. The first that fits wins.
_RULES: tuple[tuple[str, str, str], ...] = (
    ("router", r".+", "router"),
    # Names that mean something else in one place than everywhere below.
    ("feed_forward", r"key", "up"),  # RWKV names its channel mixing by key and value
    ("feed_forward", r"value", "down"),
    ("feed_forward", r"receptance", "gate"),
    ("attention", r"experts\.input_linear", "q"),  # JetMoE's mixture of attention heads
    ("attention", r"experts\.output_linear", "o"),
    ("feed_forward", r"experts\.mlp\.w1", "gate"),  # DBRX
    ("feed_forward", r"experts\.mlp\.w2", "down"),
    ("feed_forward", r"mlp\.w[12]", "other"),  # Qwen-1 calls its up projection w1 and its gate w2
    ("", r"(compressor|indexer)\.gate_proj|relative_pos_embeddings", "other"),
    # Attention, and what replaces it.
    ("", r"c_attn|(\w+_)?qkv(_proj|_linear)?|query_key_value|in_proj_(weight|qkvz?)|Wqkv|att_proj|wqkv", "qkv"),
    ("", r"(to_|w)?kv|kv_proj|key_value|kv_[ab]_proj(_with_mqa)?|wkv_[ab]|Wkv", "kv"),
    ("", r"q_(proj|lin|attn|head|gate_proj|a_proj|b_proj)|[wW]q|wq_[ab]|q|to_q|linear_q|project_q|q_proj\.linear|query_(proj|layer|global)", "q"),
    ("", r"k_(proj|lin|head)|[wW]k|k|to_k|linear_k|project_k|k_proj\.linear|key_(proj|layer|global)", "k"),
    ("", r"v_(proj|lin|head|proj_current|proj_delayed)|[wW]v|v|to_v|linear_v|project_v|v_proj\.linear|value_(proj|layer|global)", "v"),
    ("", r"o|o_proj|o_[ab]_proj|out_lin|to_out|wo_attn|wo_[ab]|attention_out|o_proj\.linear|mlstm_layer\.out_proj", "o"),
    ("attention", r"in_proj", "qkv"),
    ("attention", r"(\w+_)?query", "q"),
    ("attention", r"key", "k"),
    ("attention", r"value", "v"),
    ("attention", r"dense|c_proj|[wW]o|out_proj|proj|projection|projection_layer|proj_out|post_proj|linear_out|output|out|fc", "o"),
    ("attention", r"gate_proj|g_([ab]_)?proj|in_proj_z|output_gate", "gate"),
    ("recurrence", r"ogate_preact", "gate"),
    # Feed-forward, dense or one expert.
    ("", r"gate_up_proj|gate_and_up_proj|w13|Wi", "gate_up"),
    ("feed_forward", r"input_linear", "gate_up"),
    ("", r"gate_proj|wi_0|gate_linear|linear_gate|proj_up_gate|w_in\.w_0|gate_proj\.linear", "gate"),
    ("feed_forward", r"w1", "gate"),
    ("", r"up_proj|wi_1|wi|fc_in|c_fc|dense_h_to_4h|proj_up|w_in\.w_1|up_proj\.linear|(intermediate(_\w+)?|dense)\.dense|\d+\.ffn|ffn\.0", "up"),
    ("feed_forward", r"w3|v1|fc1|lin1|linear_?1|linear_fc1|dense_?1|layer_1|ffn_1|intermediate|w_in", "up"),
    ("layer", r"fc1|lin1|linear_?1", "up"),
    ("", r"down_proj|fc_out|dense_4h_to_h|proj_down|ffn_output|down_proj\.linear|output(_\w+)?\.dense|ffn\.2", "down"),
    ("feed_forward", r"w2|fc2|lin2|linear_?2|linear_fc2|dense_?2|layer_2|ffn_2|w_out|output_linear|dense|c_proj|[wW]o|out_proj|proj|output|fc", "down"),
    ("layer", r"fc2|lin2|linear_?2", "down"),
    # What stands before and after the layers, and convolutions anywhere.
    ("", r"(patch_embed|patch_embeddings?)(\.(proj|projection|linear))?|patch_conv|(\w+_)?(conv|conv_?[123]d)(s|\d|_in)?|conv_proj|conv_qk_\w+|conv_upsampler\d|\w*conv_attn_layer\.(depth|point)wise", "conv"),
    ("", r"wte|wpe|shared|embed_(in|tokens|positions|global|tokens_per_layer)|(tokens|positions)_embed|embeddings?|cls_token|transformer\.w", "embed"),
    ("", r"(\w+_)?(word|tok|token|position|positional|pos|segment|seg|class|entity|ngram|value|input|row|column|shape|pronunciation|token_type|generation|rel)_(embed|emb|embedding)s?(_\d+|_vlm)?", "embed"),
    ("", r"relative_attention_bias|rel_pos_[hw]|(\w+_)?position_embedding_table", "embed"),
    ("", r"(\w+_)?lm_head|vocab_projector|embed_out|score|classifier|qa_outputs|predictions|output_projection", "head"),
    ("-", r"embed", "embed"),
    ("-", r"head|output|decoder|(head|projection_head|transform)\.dense", "head"),
    ("attention", r"gate", "other"),  # it routes nothing
    ("", r"router|gate|shared_expert_gate", "router"),
    # Known, and none of the kinds: state spaces, linear recurrences and short convolutions; the forget gates, decays,
    # sinks and relative positions of attention; indexers, hyper-connections, projections between widths or modalities.
    ("recurrence", r"(in|out|x|dt|f|f_a|f_b)_proj(_weight)?|A_log|D|linear(_\w+)?|\w+_gate_weight|[if]gate_preact", "other"),
    ("attention", r"in_proj_(a|b|ba)|(a|b|dt|r|sink)_proj|time_mix_\w+|receptance|r|r_kernel|query_key", "other"),
    ("feed_forward", r"time_mix_\w+|(pre|post)_expert_proj", "other"),
    ("", r"rel_logits_proj\.proj|[qk]_l2_clip\.scale|rel_l2_clip\.scale|attention_input\.query|conv_(kernel|out)_layer", "other"),
    ("", r"indexer\.\w+|scorer\.\w+|(attn|ffn)_hc\.fn|hc_head\.hc_fn|altup\.\w+|altup_\w+(\.\d+)?|laurel\.\w+|per_layer_\w+", "other"),
    ("", r"\w*(projector|merger|aligner|connector)\w*(\.\w+)?|(merger|merger_list)\.mlp|mlp\.\d+|embedding_hidden_mapping_in|embeddings_project", "other"),
)  # fmt: skip
_HEADS = frozenset({
    "classifier", "score", "lm_head", "predictions", "cls", "qa_outputs", "pooler", "generator_predictions", "vocab_transform",
})  # fmt: skip

_VOCABULARY_HEADS = frozenset(
    {"lm_head", "generator_lm_head", "embed_out", "decoder", "predictions", "output_projection", "vocab_projector"}
)

_WORD_EMBEDDING = re.compile(
    r"wte|shared|embed|embed_in|embed_tokens|tokens_embed|embeddings?|w|(\w+_)?(word|tok|token|input)_emb(ed|edding)?s?"
)


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
    Names that attention and feed-forward share (``dense``, ``c_proj`` ...) are
    decided by the block around them. What no rule knows is ``"other"``, as is
    what rules know to be none of the kinds; :func:`is_known` tells them apart.

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
    numbers = [re.fullmatch(r"(?:expert_)?(\d+)", part) for part in parts]
    experts = (
        int(number[1])
        for i, number in enumerate(numbers)
        if number and i and i != layer_at and "expert" in parts[i - 1]
    )
    return Identity(
        stack=".".join(parts[:layer_at]) if layer_at is not None else "",
        layer=int(parts[layer_at]) if layer_at is not None else None,
        kind=_kind(parts) or "other",
        expert=next(experts, None),
    )


def is_known(module: str) -> bool:
    """Whether a rule names this module, be it to say that it is none of the kinds.

    Parameters
    ----------
    module
        Path without wrappers and without ``.weight``.

    Examples
    --------
    >>> identify("backbone.layers.0.mixer.x_proj").kind, is_known("backbone.layers.0.mixer.x_proj")
    ('other', True)
    >>> identify("layers.0.something.new").kind, is_known("layers.0.something.new")
    ('other', False)
    """
    return _kind(module.removesuffix(".weight").split(".")) is not None


def has_vocabulary(module: str) -> bool:
    """Whether the rows of a module stand for tokens or positions, so that more of them may be appended.

    A classifier's rows are labels: they are not compared across numbers of labels.

    Examples
    --------
    >>> has_vocabulary("model.embed_tokens"), has_vocabulary("lm_head"), has_vocabulary("classifier.out_proj")
    (True, True, False)
    """
    kind = identify(module).kind
    return kind == "embed" or (kind == "head" and module.rsplit(".", 1)[-1] in _VOCABULARY_HEADS)


def may_be_tied(head: str, embedding: str) -> bool:
    """Whether a model may tie these two: a head over words to the embedding of words.

    A classifier's rows are labels, and those of positions or token types no words, however many there are of them.

    Parameters
    ----------
    head, embedding
        Paths of the modules.

    Examples
    --------
    >>> may_be_tied("lm_head", "model.embed_tokens"), may_be_tied("lm_head", "transformer.wpe")
    (True, False)
    >>> may_be_tied("classifier", "bert.embeddings.token_type_embeddings")
    False
    """
    of_words = identify(embedding).kind == "embed" and _WORD_EMBEDDING.fullmatch(embedding.rsplit(".", 1)[-1])
    return bool(of_words) and identify(head).kind == "head" and has_vocabulary(head)


def _kind(parts: list[str]) -> str | None:
    names = [part for part in parts if not part.isdecimal()]
    inside_layer = len(names) < len(parts)
    if not inside_layer and _HEADS & set(names):
        return "head"
    leaf = names[-1] if names else ""  # a bare nn.Sequential has numbers only
    place = _block(parts, leaf)
    tails = (leaf, ".".join(parts[-2:]), ".".join(parts[-3:]))
    for where, pattern, kind in _RULES:
        holds = where in {"", place} or (where == "-" and not inside_layer)
        if holds and any(re.fullmatch(pattern, tail) for tail in tails):
            return kind
    return None


def _block(parts: list[str], leaf: str) -> str:
    above = parts[: len(parts) - 1 - parts[::-1].index(leaf)] if leaf else []
    for part in reversed(above):
        if not _TRANSPARENT.fullmatch(part):
            return next((block for pattern, block in _BLOCKS if re.fullmatch(pattern, part)), "")
    return ""
