"""The table of fused weights against the forward code of transformers itself.

The fused layer is made to give the numbers of its own outputs; what then
arrives as query, key and value says which output is which. One token at
position 0 is not turned by rotary embeddings.
"""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="the table is held against transformers' own code")

from torch.overrides import TorchFunctionMode
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rank_lab.expert_stacks import HUB_TRANSPOSES, STACKS_IN_OUT, STACKS_OUT_IN, flat_stack
from rank_lab.fused_weights import fused_parts

Seen = dict[str, list[int]]

SMALL = {"vocab_size": 30, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
GPT2 = {"vocab_size": 30, "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 8}
PAD = {"pad_token_id": 0}
# model type, its config, the fused layer, and how query, key and value are caught: transformers' attention
# interface, a method of the attention that is given them or returns them, or the products in its forward.
CASES: list[tuple[str, dict[str, Any], str, str]] = [
    ("gpt2", GPT2, "c_attn", "interface"),
    ("decision_transformer", {"hidden_size": 32, "n_layer": 1, "n_head": 4, "n_positions": 8}, "c_attn", "interface"),
    ("gpt_bigcode", GPT2 | {"multi_query": True}, "c_attn", "interface"),
    ("gpt_bigcode", GPT2 | {"multi_query": False}, "c_attn", "interface"),
    ("gpt_neox", SMALL, "query_key_value", "interface"),
    ("persimmon", SMALL | {"qk_layernorm": False}, "query_key_value", "interface"),
    ("phi3", SMALL | PAD, "qkv_proj", "interface"),
    ("phi3", SMALL | PAD | {"num_key_value_heads": 2}, "qkv_proj", "interface"),
    ("modernbert", SMALL | PAD, "Wqkv", "interface"),
    (
        "dbrx",
        {
            "vocab_size": 30, "d_model": 32, "n_heads": 4, "n_layers": 1, "max_seq_len": 8,
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 1e6, "rope_theta": 10000.0},
            "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 2, "moe_top_k": 1, "hidden_size": 32},
        },
        "Wqkv",
        "interface",
    ),
    ("openai-gpt", GPT2, "c_attn", "_attn"),
    ("imagegpt", GPT2, "c_attn", "_attn"),
    ("gpt_neox_japanese", SMALL, "query_key_value", "_attn"),
    ("codegen", GPT2 | {"rotary_dim": 4}, "qkv_proj", "_attn"),
    ("bloom", {"vocab_size": 30, "hidden_size": 32, "n_layer": 1, "n_head": 4}, "query_key_value", "_reshape"),
    ("falcon", SMALL | {"new_decoder_architecture": True, "num_kv_heads": 2}, "query_key_value", "_split_heads"),
    ("falcon", SMALL | {"new_decoder_architecture": False, "multi_query": True}, "query_key_value", "_split_heads"),
    ("falcon", SMALL | {"new_decoder_architecture": False, "multi_query": False}, "query_key_value", "_split_heads"),
    ("mpt", {"vocab_size": 30, "d_model": 32, "n_heads": 4, "n_layers": 1, "max_seq_len": 8}, "Wqkv", "matmul"),
]  # fmt: skip


def tiny(model_type: str, settings: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A model of that type and the config that transformers would save beside it."""
    config = transformers.AutoConfig.for_model(model_type, **settings)
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config, attn_implementation="eager").eval()
    return model, config.to_dict()


def order(states: torch.Tensor) -> list[int]:
    """Outputs in the order of heads; those that are handed to several heads once."""
    return list(dict.fromkeys(states.detach().flatten().round().int().tolist()))


def seen(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> Seen:
    return {"q_proj": order(query), "k_proj": order(key), "v_proj": order(value)}


@contextmanager
def by_interface(model: Any, found: list[Seen]) -> Iterator[None]:
    def attention(module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any) -> Any:
        found.append(seen(query, key, value))
        return torch.zeros_like(query).transpose(1, 2), None

    with mock.patch.object(type(ALL_ATTENTION_FUNCTIONS), "get_interface", return_value=attention):
        yield


@contextmanager
def by_method(model: Any, found: list[Seen], method: str) -> Iterator[None]:
    owner = type(next(module for module in model.modules() if hasattr(module, method)))
    original: Callable[..., Any] = getattr(owner, method)

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        if method == "_attn":
            found.append(seen(*args[:3]))
            if owner.__name__ == "Attention":  # OpenAI's hands over its keys with the last two axes exchanged
                found[-1]["k_proj"] = order(args[1].transpose(-1, -2))
        else:
            found.append(seen(*result))
        return result

    with mock.patch.object(owner, method, watched):
        yield


@contextmanager
def by_products(model: Any, found: list[Seen]) -> Iterator[None]:
    products: list[tuple[torch.Tensor, torch.Tensor]] = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.matmul:
                products.append(args[:2])
            return func(*args, **(kwargs or {}))

    with Watch():
        yield
    (query, key), (_, value) = products[:2]
    found.append(seen(query, key.transpose(-1, -2), value))


def taken_apart(model: Any, leaf: str, way: str) -> tuple[Seen, int, str]:
    """What arrives as query, key and value, the number of outputs, and the path of the fused layer."""
    name, layer = next((n, m) for n, m in model.named_modules() if n.rsplit(".", 1)[-1] == leaf)
    outputs: list[int] = []

    def numbered(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        outputs.append(output.shape[-1])
        return torch.arange(output.shape[-1], dtype=output.dtype).expand_as(output)

    found: list[Seen] = []
    inputs = (
        {"inputs_embeds": torch.ones(1, 1, 32)}
        if "Decision" in type(model).__name__
        else {"input_ids": torch.ones(1, 1, dtype=torch.long)}
    )
    body = model.encoder if "Decision" in type(model).__name__ else model
    ways = {"interface": by_interface, "matmul": by_products}
    watch = ways[way](model, found) if way in ways else by_method(model, found, way)
    with torch.no_grad(), watch:
        hook = layer.register_forward_hook(numbered)
        body(**inputs)
        hook.remove()
    return found[0], outputs[0], name


@pytest.mark.parametrize(
    ("model_type", "settings", "leaf", "way"), CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)]
)
def test_queries_keys_and_values_are_those_of_the_forward_pass(
    model_type: str, settings: dict[str, Any], leaf: str, way: str
) -> None:
    model, config = tiny(model_type, settings)
    found, outputs, name = taken_apart(model, leaf, way)
    parts, reason = fused_parts(name, outputs, config)
    assert parts, reason
    assert {part.name: rows(part, outputs) for part in parts} == found


def rows(part: Any, outputs: int) -> list[int]:
    return [i for i in range(outputs) if part.start <= i % part.period < part.start + part.length]


def test_torch_s_own_attention_is_taken_apart() -> None:
    attention = torch.nn.MultiheadAttention(8, 2, bias=False, batch_first=True)
    given = torch.randn(1, 3, 8)
    parts, _ = fused_parts("visual.attn.in_proj_weight", 24, None)
    q, k, v = (given @ attention.in_proj_weight[rows(part, 24)].T for part in parts)
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(x.view(1, 3, 2, 4).transpose(1, 2) for x in (q, k, v))
    )
    torch.testing.assert_close(
        attention(given, given, given)[0], attention.out_proj(expected.transpose(1, 2).flatten(2))
    )


@pytest.mark.parametrize(
    "model_type",
    ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "glm4v", "glm4v_moe"],
)
def test_the_image_parts_of_models_of_text_and_images(model_type: str) -> None:
    config = transformers.AutoConfig.for_model(model_type)
    home = importlib.import_module(f"transformers.models.{model_type}.modeling_{model_type}")
    owner = next(c for n, c in vars(home).items() if n.endswith("VisionAttention") and c.__module__ == home.__name__)
    attention, found = owner(config.vision_config), []
    outputs = attention.qkv.out_features
    numbers = torch.arange(outputs, dtype=torch.float32)[None]
    hook = attention.qkv.register_forward_hook(lambda *_: numbers)
    turn = torch.ones(1, outputs // 3 // attention.num_heads), torch.zeros(1, outputs // 3 // attention.num_heads)
    with by_interface(attention, found):
        attention(torch.ones(1, outputs // 3), cu_seqlens=torch.tensor([0, 1]), position_embeddings=turn)
    hook.remove()
    parts, _ = fused_parts("visual.blocks.0.attn.qkv", outputs, config.to_dict())
    assert {part.name: rows(part, outputs) for part in parts} == found[0]


@pytest.mark.parametrize(
    ("model_type", "fused", "out"),
    [("phi3", "gate_up_proj", "down_proj"), ("glm", "gate_up_proj", "down_proj"), ("glm4", "gate_up_proj", "down_proj"),
     ("glm4v", "gate_up_proj", "down_proj"), ("modernbert", "Wi", "Wo")],
)  # fmt: skip
def test_gate_and_up_are_those_of_the_forward_pass(model_type: str, fused: str, out: str) -> None:
    if model_type == "glm4v":
        text = transformers.AutoConfig.for_model("glm4v_text", **SMALL, num_key_value_heads=4, pad_token_id=0)
        home = importlib.import_module("transformers.models.glm4v.modeling_glm4v")
        model, config = torch.nn.ModuleDict({"mlp": home.Glm4vTextMLP(text)}), {"model_type": model_type}
    else:
        model, config = tiny(model_type, SMALL | PAD | {"num_key_value_heads": 4, "head_dim": 8})
    name, mlp = next((n, m) for n, m in model.named_modules() if hasattr(m, fused))
    given = torch.randn(5, 32)
    weight = getattr(mlp, fused).weight
    parts, _ = fused_parts(f"{name}.{fused}", weight.shape[0], config)
    gate, up = (given @ weight[rows(part, weight.shape[0])].T for part in parts)
    activation = next(m for n, m in mlp.named_modules() if n.startswith("act"))
    torch.testing.assert_close(getattr(mlp, out)(activation(gate) * up), mlp(given))


def experts_of(model_type: str) -> list[Any]:
    """The modules that hold stacks, on no device, as the modelling code makes them from its default config."""
    config = transformers.AutoConfig.for_model(model_type)
    text = config.get_text_config()
    home = importlib.import_module(type(text).__module__.replace("configuration_", "modeling_"))
    for size in ("num_experts", "n_routed_experts", "moe_intermediate_size"):
        if not isinstance(getattr(text, size, 0), int):
            vars(text)[size] = 12  # left open by default, or one per modality
    found = []
    for name, owner in vars(home).items():
        if not (isinstance(owner, type) and name.endswith("Experts") and owner.__module__ == home.__name__):
            continue
        try:
            with torch.device("meta"):
                found.append(owner(text))
        except (AttributeError, TypeError):
            continue  # another part's experts, made from another config
    return [experts for experts in found if getattr(experts, "gate_up_proj", None) is not None]


@pytest.mark.parametrize("model_type", sorted(STACKS_IN_OUT | STACKS_OUT_IN | HUB_TRANSPOSES))
def test_stacks_lie_as_the_table_says(model_type: str) -> None:
    if model_type not in transformers.CONFIG_MAPPING:
        pytest.fail(f"{model_type} is no model type of transformers {transformers.__version__}")
    found = experts_of(model_type)
    assert found or model_type == "jetmoe"
    for experts in found:
        transposed = model_type in STACKS_IN_OUT
        (_, *gate_up), (_, *down) = experts.gate_up_proj.shape, experts.down_proj.shape
        assert (gate_up if transposed else gate_up[::-1]) == [
            down[1] if transposed else down[0],
            2 * (down[0] if transposed else down[1]),
        ]
        assert getattr(experts, "is_transposed", transposed) == transposed
        assert getattr(experts, "is_concatenated", True) == (model_type != "gpt_oss")


def test_jetmoe_stacks_lie_as_the_table_says() -> None:
    from transformers.models.jetmoe.modeling_jetmoe import JetMoeParallelExperts

    assert "jetmoe" in STACKS_OUT_IN
    experts, given = JetMoeParallelExperts(2, 3, 5), torch.randn(4, 3)
    experts.weight.data.normal_()
    expected = torch.cat([given[:1] @ experts.weight[0].T, given[1:] @ experts.weight[1].T])
    torch.testing.assert_close(experts(given, [1, 3]), expected)


def test_dbrx_experts_lie_one_below_the_other() -> None:
    settings = next(settings for kind, settings, *_ in CASES if kind == "dbrx")
    model, config = tiny("dbrx", settings)
    name, experts = next((n, m) for n, m in model.named_modules() if n.endswith("ffn.experts"))
    given, weights = torch.randn(3, 32), dict(experts.mlp.named_parameters())
    one = torch.ones(3, 1)
    for expert in range(2):
        sides = {}
        for leaf, weight in weights.items():
            count, transposed = flat_stack(f"{name}.mlp.{leaf}", tuple(weight.shape), config)
            part = weight.view(count, -1, weight.shape[1])[expert]
            sides[leaf] = part.T if transposed else part
        middle = experts.mlp.activation_fn(given @ sides["w1"].T) * (given @ sides["v1"].T)
        chosen = experts(given, torch.full((3, 1), expert), one)
        torch.testing.assert_close(chosen.reshape(3, 32), middle @ sides["w2"].T)
