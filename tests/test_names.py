"""Place and kind of a module are read off names as real models have them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rank_lab.names import KINDS, Identity, identify, natural_order, strip_wrappers

# Names of models that transformers 5.23 makes, of files on the hub, and of the original repositories.
REAL = [
    ("model.layers.7.self_attn.q_proj", Identity("model.layers", 7, "q")),
    ("model.layers.31.self_attn.o_proj", Identity("model.layers", 31, "o")),
    ("model.layers.0.mlp.gate_proj", Identity("model.layers", 0, "gate")),
    ("model.layers.0.mlp.gate_up_proj", Identity("model.layers", 0, "gate_up")),
    ("model.layers.0.mlp.gate", Identity("model.layers", 0, "router")),
    ("model.layers.0.self_attn.gate", Identity("model.layers", 0, "other")),
    ("model.layers.0.self_attn.kv_a_proj_with_mqa", Identity("model.layers", 0, "kv")),
    ("model.layers.2.block_sparse_moe.experts.7.w2", Identity("model.layers", 2, "down", 7)),
    ("model.layers.2.mlp.experts.0.up_proj", Identity("model.layers", 2, "up", 0)),
    ("model.layers.2.mlp.shared_experts.up_proj", Identity("model.layers", 2, "up")),
    ("model.language_model.layers.3.mlp.down_proj", Identity("model.language_model.layers", 3, "down")),
    ("transformer.h.11.attn.c_attn", Identity("transformer.h", 11, "qkv")),
    ("transformer.h.11.attn.c_proj", Identity("transformer.h", 11, "o")),
    ("transformer.h.11.mlp.c_proj", Identity("transformer.h", 11, "down")),
    ("gpt_neox.layers.0.attention.query_key_value", Identity("gpt_neox.layers", 0, "qkv")),
    ("gpt_neox.layers.0.mlp.dense_h_to_4h", Identity("gpt_neox.layers", 0, "up")),
    ("bert.encoder.layer.4.attention.self.query", Identity("bert.encoder.layer", 4, "q")),
    ("bert.encoder.layer.4.attention.output.dense", Identity("bert.encoder.layer", 4, "o")),
    ("bert.encoder.layer.4.intermediate.dense", Identity("bert.encoder.layer", 4, "up")),
    ("bert.encoder.layer.4.output.dense", Identity("bert.encoder.layer", 4, "down")),
    ("distilbert.transformer.layer.0.ffn.lin2", Identity("distilbert.transformer.layer", 0, "down")),
    ("decoder.block.3.layer.1.EncDecAttention.o", Identity("decoder.block", 3, "o")),
    ("decoder.block.3.layer.2.DenseReluDense.wo", Identity("decoder.block", 3, "down")),
    ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias", Identity("encoder.block", 0, "embed")),
    ("model.decoder.layers.0.encoder_attn.out_proj", Identity("model.decoder.layers", 0, "o")),
    ("layers.5.attn.Wqkv", Identity("layers", 5, "qkv")),
    ("layers.5.attn.Wo", Identity("layers", 5, "o")),
    ("layers.5.mlp.Wo", Identity("layers", 5, "down")),
    ("backbone.layers.0.mixer.in_proj", Identity("backbone.layers", 0, "other")),
    ("transformer.resblocks.0.attn.in_proj_weight", Identity("transformer.resblocks", 0, "qkv")),
    ("layers.9.attention.wq", Identity("layers", 9, "q")),
    ("model.embed_tokens", Identity("", None, "embed")),
    ("text_model.embeddings.token_embedding", Identity("", None, "embed")),
    ("transformer.wpe", Identity("", None, "embed")),
    ("lm_head", Identity("", None, "head")),
    ("classifier.out_proj", Identity("", None, "head")),
    ("cls.predictions.decoder", Identity("", None, "head")),
    ("model.layers.0.something.new", Identity("model.layers", 0, "other")),
]


@pytest.mark.parametrize(("module", "expected"), REAL, ids=[name for name, _ in REAL])
def test_identity_of_real_names(module: str, expected: Identity) -> None:
    assert identify(module) == expected
    assert identify(f"{module}.weight") == expected


PREFIXES = [
    "module.",
    "_orig_mod.",
    "base_model.model.",
    "module.module.",
    "_orig_mod.module.",
    "module.base_model.model.",
]


@pytest.mark.parametrize("prefix", ["", *PREFIXES])
@pytest.mark.parametrize("name", ["model.layers.0.q_proj.weight", "transformer.h.0.attn.bias", "lm_head.weight"])
def test_prefixes_are_stripped(name: str, prefix: str) -> None:
    assert strip_wrappers(prefix + name) == name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.layers.0._fsdp_wrapped_module.q_proj.weight", "model.layers.0.q_proj.weight"),
        ("layers.1._checkpoint_wrapped_module.mlp.weight", "layers.1.mlp.weight"),
        ("base_model.model.h.0.c_attn.base_layer.weight", "h.0.c_attn.weight"),
        ("base_model.model.score.modules_to_save.default.weight", "score.weight"),
        ("score.original_module.weight", "score.original_module.weight"),
        ("module_list.0.weight", "module_list.0.weight"),
        ("my.module.0.weight", "my.module.0.weight"),
        ("model.base_model.q.weight", "model.base_model.q.weight"),
    ],
)
def test_wrappers_inside_a_name(name: str, expected: str) -> None:
    assert strip_wrappers(name) == expected


parts = st.lists(
    st.one_of(st.sampled_from(["layers", "h", "q", "experts", "²", "x1"]), st.integers(0, 120).map(str)), min_size=1
)


@given(parts.map(".".join))
def test_any_name_has_an_identity(name: str) -> None:
    found = identify(name)
    assert found.kind in KINDS
    assert (found.layer is None) <= (found.stack == "" and found.expert is None)
    assert strip_wrappers(strip_wrappers(name)) == strip_wrappers(name)


@given(st.lists(parts.map(".".join)))
def test_natural_order_is_an_order_of_numbers(names: list[str]) -> None:
    ordered, backwards = sorted(names, key=natural_order), names[::-1]
    assert sorted(ordered) == sorted(names)
    assert sorted(backwards, key=natural_order) == ordered


def test_layers_stand_in_the_order_of_their_numbers() -> None:
    names = [f"model.layers.{i}.q_proj" for i in range(12)]
    backwards = names[::-1]
    assert sorted(backwards, key=natural_order) == names
