"""Kinds of module in 25 architectures, read off their modelling files by hand, on the names that the real models have."""

import re
from functools import cache

import pytest

from rank_lab.names import identify, is_known

transformers = pytest.importorskip("transformers", reason="the names of real models come from transformers")

from analyses.module_names import model_on_meta, weights_of

LLAMA_ATTENTION = {f"self_attn.{kind}_proj": kind for kind in "qkvo"}
BART_ATTENTION = {f"self_attn.{kind}_proj": kind for kind in "qkv"} | {"self_attn.out_proj": "o"}
GATED = {"gate_proj": "gate", "up_proj": "up", "down_proj": "down"}
TWO_LAYERS = {"fc1": "up", "fc2": "down"}
STACKED = {"experts.gate_up_proj": "gate_up", "experts.down_proj": "down"}
BERT_LAYER = {
    "attention.self.query": "q",
    "attention.self.key": "k",
    "attention.self.value": "v",
    "attention.output.dense": "o",
    "intermediate.dense": "up",
    "output.dense": "down",
}
BLOOM_LAYER = {
    "self_attention.query_key_value": "qkv",
    "self_attention.dense": "o",
    "mlp.dense_h_to_4h": "up",
    "mlp.dense_4h_to_h": "down",
}
T5_BLOCK = {f"SelfAttention.{kind}": kind for kind in "qkvo"} | {
    "SelfAttention.relative_attention_bias": "embed",
    "DenseReluDense.wi": "up",
    "DenseReluDense.wo": "down",
}


def under(prefix: str, kinds: dict[str, str]) -> dict[str, str]:
    return {f"{prefix}.{name}": kind for name, kind in kinds.items()}


LLAMA = {"model.embed_tokens": "embed", "lm_head": "head"} | under("model.layers", LLAMA_ATTENTION)
VISION_LAYER = LLAMA_ATTENTION | under("mlp", TWO_LAYERS)

# Names without numbers and ".weight", of every tensor of two dimensions or more that is no bias.
BY_HAND: dict[str, dict[str, str]] = {
    "gpt2": {"transformer.wte": "embed", "transformer.wpe": "embed"}
    | under("transformer.h", {"attn.c_attn": "qkv", "attn.c_proj": "o", "mlp.c_fc": "up", "mlp.c_proj": "down"}),
    "llama": LLAMA | under("model.layers.mlp", GATED),
    "bert": under("bert.embeddings", dict.fromkeys(("word_embeddings", "position_embeddings", "token_type_embeddings"), "embed"))
    | under("bert.encoder.layer", BERT_LAYER)
    | {"cls.predictions.transform.dense": "head"},
    "roberta": under("roberta.embeddings", dict.fromkeys(("word_embeddings", "position_embeddings", "token_type_embeddings"), "embed"))
    | under("roberta.encoder.layer", BERT_LAYER)
    | {"lm_head.dense": "head"},
    "distilbert": under("distilbert.embeddings", dict.fromkeys(("word_embeddings", "position_embeddings"), "embed"))
    | under("distilbert.transformer.layer.attention", {"q_lin": "q", "k_lin": "k", "v_lin": "v", "out_lin": "o"})
    | under("distilbert.transformer.layer.ffn", {"lin1": "up", "lin2": "down"})
    | {"vocab_transform": "head"},
    "modernbert": {"model.embeddings.tok_embeddings": "embed", "head.dense": "head"}
    | under("model.layers", {"attn.Wqkv": "qkv", "attn.Wo": "o", "mlp.Wi": "gate_up", "mlp.Wo": "down"}),
    "t5": {"shared": "embed"}
    | under("encoder.block.layer", T5_BLOCK)
    | under("decoder.block.layer", T5_BLOCK)
    | under("decoder.block.layer", {f"EncDecAttention.{kind}": kind for kind in "qkvo"}),
    "bart": {"model.shared": "embed", "model.encoder.embed_positions": "embed", "model.decoder.embed_positions": "embed"}
    | under("model.encoder.layers", BART_ATTENTION | TWO_LAYERS)
    | under("model.decoder.layers", BART_ATTENTION | TWO_LAYERS)
    | under("model.decoder.layers", {key.replace("self", "encoder"): kind for key, kind in BART_ATTENTION.items()}),
    "opt": under("model.decoder", {"embed_tokens": "embed", "embed_positions": "embed"})
    | under("model.decoder.layers", BART_ATTENTION | TWO_LAYERS),
    "falcon": {"transformer.word_embeddings": "embed"} | under("transformer.h", BLOOM_LAYER),
    "phi": {"model.embed_tokens": "embed", "lm_head": "head"}
    | under("model.layers.self_attn", {"q_proj": "q", "k_proj": "k", "v_proj": "v", "dense": "o"})
    | under("model.layers.mlp", TWO_LAYERS),
    "phi3": {"model.embed_tokens": "embed", "lm_head": "head"}
    | under("model.layers.self_attn", {"qkv_proj": "qkv", "o_proj": "o"})
    | under("model.layers.mlp", {"gate_up_proj": "gate_up", "down_proj": "down"}),
    "gpt_neox": {"gpt_neox.embed_in": "embed", "lm_head": "head"}
    | under("gpt_neox.layers", {key.replace("self_", ""): kind for key, kind in BLOOM_LAYER.items()}),
    "bloom": {"transformer.word_embeddings": "embed"} | under("transformer.h", BLOOM_LAYER),
    "mpt": {"transformer.wte": "embed"}
    | under("transformer.blocks", {"attn.Wqkv": "qkv", "attn.out_proj": "o", "ffn.up_proj": "up", "ffn.down_proj": "down"}),
    "gptj": {"transformer.wte": "embed", "lm_head": "head"}
    | under("transformer.h.attn", {"q_proj": "q", "k_proj": "k", "v_proj": "v", "out_proj": "o"})
    | under("transformer.h.mlp", {"fc_in": "up", "fc_out": "down"}),
    "mixtral": LLAMA | under("model.layers.mlp", STACKED | {"gate": "router"}),
    "qwen3_moe": LLAMA | under("model.layers.mlp", STACKED | {"gate": "router"}),
    "gpt_oss": LLAMA | under("model.layers.mlp", STACKED | {"router": "router"}),
    "deepseek_v3": {"model.embed_tokens": "embed", "lm_head": "head"}
    | under("model.layers.self_attn", {"q_a_proj": "q", "q_b_proj": "q", "kv_a_proj_with_mqa": "kv", "kv_b_proj": "kv", "o_proj": "o"})
    | under("model.layers.mlp", STACKED | GATED | under("shared_experts", GATED) | {"gate": "router"}),
    "llama4": under("language_model", {"model.embed_tokens": "embed", "lm_head": "head"})
    | under("language_model.model.layers", LLAMA_ATTENTION)
    | under("language_model.model.layers.feed_forward", STACKED | under("shared_expert", GATED) | {"router": "router"})
    | under("vision_model", {"positional_embedding_vlm": "embed", "patch_embedding.linear": "conv"})
    | under("vision_model", under("model.layers", VISION_LAYER) | under("vision_adapter.mlp", TWO_LAYERS))
    | {"multi_modal_projector.linear_1": "other"},
    "mamba": {"backbone.embeddings": "embed"}
    | under("backbone.layers.mixer", dict.fromkeys(("A_log", "in_proj", "x_proj", "dt_proj", "out_proj"), "other") | {"conv1d": "conv"}),
    "gemma3": {"model.language_model.embed_tokens": "embed", "model.multi_modal_projector.mm_input_projection_weight": "other"}
    | under("model.language_model.layers", LLAMA_ATTENTION | under("mlp", GATED))
    | under("model.vision_tower.embeddings", {"patch_embedding": "conv", "position_embedding": "embed"})
    | under("model.vision_tower.encoder.layers", BART_ATTENTION | under("mlp", TWO_LAYERS))
    | under("model.vision_tower.head", {"probe": "other", "attention.in_proj_weight": "qkv", "attention.out_proj": "o"})
    | under("model.vision_tower.head.mlp", TWO_LAYERS),
    "deberta-v2": under("deberta.embeddings", dict.fromkeys(("word_embeddings", "position_embeddings"), "embed"))
    | under("deberta.encoder.layer", {re.sub("(query|key|value)$", r"\1_proj", key): kind for key, kind in BERT_LAYER.items()})
    | {"cls.predictions.transform.dense": "head"},
    "xlnet": {"transformer.word_embedding": "embed", "transformer.mask_emb": "other"}
    | under("transformer.layer.rel_attn", {"q": "q", "k": "k", "v": "v", "o": "o", "r": "other", "seg_embed": "embed"})
    | under("transformer.layer.ff", {"layer_1": "up", "layer_2": "down"}),
}  # fmt: skip
TASKS = {"bert": "masked", "roberta": "masked", "distilbert": "masked", "modernbert": "masked", "deberta-v2": "masked",
         "t5": "seq2seq", "bart": "seq2seq", "llama4": "image-text", "gemma3": "image-text"}  # fmt: skip


@cache
def names_of(model_type: str) -> tuple[str, ...]:
    return tuple(weights_of(model_on_meta(model_type, TASKS.get(model_type, "causal"))))


def without_numbers(name: str) -> str:
    return re.sub(r"\.\d+(?=\.|$)", "", name.removesuffix(".weight"))


def test_there_are_25_architectures() -> None:
    assert len(BY_HAND) == 25


@pytest.mark.parametrize("model_type", BY_HAND)
def test_every_weight_has_the_kind_that_its_modelling_file_shows(model_type: str) -> None:
    found = {without_numbers(name): identify(name.removesuffix(".weight")).kind for name in names_of(model_type)}
    assert found == BY_HAND[model_type]


@pytest.mark.parametrize("model_type", BY_HAND)
def test_numbers_of_layers_are_those_of_the_config(model_type: str) -> None:
    layers: dict[str, set[int]] = {}
    for name in names_of(model_type):
        place = identify(name)
        assert place.layer is None or name.startswith(f"{place.stack}.{place.layer}.")
        if place.layer is not None:
            layers.setdefault(place.stack, set()).add(place.layer)
    config = transformers.CONFIG_MAPPING[model_type]().get_text_config(decoder=True)
    assert config.num_hidden_layers in {len(numbers) for numbers in layers.values()}
    assert all(numbers == set(range(len(numbers))) for numbers in layers.values())


@pytest.mark.parametrize(
    ("name", "kind", "expert"),
    [
        ("model.layers.0.block_sparse_moe.experts.3.w1", "gate", 3),
        ("model.layers.0.block_sparse_moe.experts.3.w3", "up", 3),
        ("model.layers.0.block_sparse_moe.input_linear", "gate_up", None),
        ("model.layers.0.block_sparse_moe.router.layer", "router", None),
        ("model.encoder.layers.3.ffn.experts.expert_11.fc2", "down", 11),
        ("layers.0.attention.wo", "o", None),
        ("layers.0.feed_forward.w2", "down", None),
        ("transformer.h.0.mlp.w1", "other", None),  # Qwen-1's up, which the name alone does not tell from a gate
        ("transformer.blocks.0.ffn.experts.mlp.w1", "gate", None),
        ("transformer.blocks.0.ffn.experts.mlp.v1", "up", None),
        ("h.0.ffn.0", "up", None),
        ("h.0.ffn.2", "down", None),
        ("h.0.ffn.4", "other", None),
        ("blocks.0.attention.key", "k", None),
        ("blocks.0.feed_forward.key", "up", None),
        ("blocks.0.feed_forward.value", "down", None),
        ("model.layers.0.self_attn.q_proj.linear", "q", None),
        ("model.layers.0.self_attn.rel_logits_proj.proj", "other", None),
        ("model.layers.0.ada_rms_norm.linear1", "other", None),
        ("model.layers.0.mlp.gate.down_proj", "router", None),
        ("model.layers.0.linear_attn.in_proj_qkvz", "qkv", None),
        ("model.layers.0.linear_attn.out_proj", "o", None),
        ("model.layers.0.mamba.out_proj", "other", None),
        ("model.layers.0.self_attention.experts.input_linear", "q", None),
        ("bert.encoder.layer.0.crossattention.self.key", "k", None),
        ("encoder.layer.0.key", "other", None),
    ],
)
def test_names_that_need_their_block(name: str, kind: str, expert: int | None) -> None:
    assert (identify(name).kind, identify(name).expert) == (kind, expert)


def test_known_as_no_kind_is_told_from_unknown() -> None:
    assert is_known("model.layers.0.mamba.out_proj.weight")
    assert is_known("model.layers.0.mlp.up_proj")
    assert not is_known("model.layers.0.something.new")
    assert not is_known("0")
