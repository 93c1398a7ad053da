"""Two sets of names meet by stated rules only."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rank_lab.errors import PairingError
from rank_lab.key_space import BODY_PREFIXES, aligned, canonical, layer_counts, nearest_pairs
from rank_lab.stored_tensor import StoredTensor

BODY = ["embeddings.weight", "encoder.layer.0.query.weight", "encoder.layer.1.query.weight"]


def stored(*names: str) -> dict[str, StoredTensor]:
    return {name: StoredTensor(name, (2, 2), "float32", Path("model.safetensors"), 0) for name in names}


def test_wrapped_names_become_one_key_space() -> None:
    names = ("module.layers.0.q.weight", "base_model.model.layers.1.q.base_layer.weight", "_orig_mod.norm.weight")
    found = canonical(stored(*names), "x")
    assert list(found) == ["layers.0.q.weight", "layers.1.q.weight", "norm.weight"]
    assert [tensor.name for tensor in found.values()] == list(names)


def test_names_that_collide_are_refused() -> None:
    with pytest.raises(PairingError, match=r"tuned: 'q\.weight' and 'module\.q\.weight' are the same name"):
        canonical(stored("q.weight", "module.q.weight"), "tuned")


@pytest.mark.parametrize("prefix", BODY_PREFIXES)
def test_a_body_with_and_without_its_prefix(prefix: str) -> None:
    with_head = [f"{prefix}.{name}" for name in BODY] + ["classifier.weight"]
    for first, second in ((with_head, BODY), (BODY, with_head)):
        keys, other_keys = aligned(first, second)
        assert set(keys) == set(first)
        assert set(other_keys) == set(second)
        assert {keys[name] for name in first} & {other_keys[name] for name in second} == set(BODY)


@pytest.mark.parametrize("prefix", ["language_model.", "model.language_model."])
def test_the_text_part_of_a_model_that_sees_images(prefix: str) -> None:
    text = ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"]
    both = [f"{prefix}{name.removeprefix('model.') if prefix.startswith('model.') else name}" for name in text]
    sees = [*both, "vision_tower.layers.0.mlp.fc1.weight"]
    for first, second in ((sees, text), (text, sees)):
        keys, other_keys = aligned(first, second)
        assert {keys[name] for name in first} & {other_keys[name] for name in second} == set(text)


def test_the_same_names_are_left_alone() -> None:
    names = [f"model.{name}" for name in BODY]
    keys, other_keys = aligned(names, [*names, "lm_head.weight"])
    assert all(name == key for name, key in (keys | other_keys).items())


def test_a_prefix_is_not_stripped_where_it_does_not_help() -> None:
    keys, other_keys = aligned(["model.a.weight", "model.b.weight"], ["c.weight"])
    assert all(name == key for name, key in (keys | other_keys).items())


def test_a_prefix_is_not_stripped_where_names_would_collide() -> None:
    keys, _ = aligned(["model.a.weight", "a.weight", "model.b.weight"], ["a.weight", "b.weight"])
    assert len(set(keys.values())) == 3


names = st.lists(
    st.lists(st.sampled_from([*BODY_PREFIXES[:3], "a", "b", "0", "weight"]), min_size=1, max_size=4).map(".".join),
    unique=True,
    max_size=8,
)


@given(names, names)
def test_keys_are_one_to_one(tuned: list[str], base: list[str]) -> None:
    for found, side in zip(aligned(tuned, base), (tuned, base), strict=True):
        assert list(found) == side
        assert len(set(found.values())) == len(side)
        assert all(name == key or name.endswith(f".{key}") for name, key in found.items())
    at_least = len(set(tuned) & set(base))
    keys, other_keys = aligned(tuned, base)
    assert len(set(keys.values()) & set(other_keys.values())) >= at_least


def test_layers_and_experts_are_counted() -> None:
    found = layer_counts(
        ["model.layers.0.q.weight", "model.layers.10.mlp.experts.3.w1.weight", "vision.layers.0.q.weight", "0.weight"]
    )
    assert found == {"model.layers": {0, 10}, "model.layers.10.mlp.experts": {3}, "vision.layers": {0}, "": {0}}
    assert layer_counts(["block.0.layer.1.wo.weight", "norm.weight"]) == {"block": {0}}


def test_each_name_stands_beside_its_nearest() -> None:
    assert nearest_pairs(["h.0.attn.qkv"], ["h.0.mlp.up", "h.0.attn.c_attn"]) == "h.0.attn.qkv ~ h.0.attn.c_attn"
    assert nearest_pairs(["a"], []) == "a ~ nothing"
    assert nearest_pairs(list("abcde"), ["a"]).count("~") == 3
