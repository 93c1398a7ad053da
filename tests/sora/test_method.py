"""SoRA as one of PEFT's methods: everything that PEFT and transformers do with an adapter."""

import copy
import importlib.util
import pickle
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import PeftModel, PeftType, get_peft_model
from torch import nn

from rank_lab import analyze, plan_updates, read_update
from rank_lab.checkpoint import Checkpoint
from rank_lab.errors import RankLabError, UnsupportedUpdateError
from rank_lab.peft_types import peft_type, register
from rank_lab.sora import SoraConfig, SoraModel, gate_parameters, gated_modules, importance
from tests.sora.adapters import (
    KINDS,
    TASKS,
    adapted,
    as_trained,
    base_model,
    fresh_process,
    logits,
    patterns,
    settings,
    tokens,
)


def test_the_type_is_a_member_like_any_other() -> None:
    kind = peft_type("SORA")
    assert kind is PeftType.SORA is PeftType("SORA") is PeftType["SORA"]
    assert kind in list(PeftType)
    assert pickle.loads(pickle.dumps(kind)) is kind is copy.deepcopy(kind)
    register("SORA", SoraConfig, SoraModel, "lora_")  # again: nothing happens
    with pytest.raises(UnsupportedUpdateError, match="of its own"):
        register("SORA", object, SoraModel, "lora_")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_changes_before_training_and_when_disabled(kind: str) -> None:
    plain = logits(base_model(kind))
    model = adapted(kind)
    assert torch.equal(logits(model), plain)
    gates = gate_parameters(model)
    assert gates
    assert all(gate.dtype == torch.float32 and bool((gate == 1).all()) for gate in gates.values())
    as_trained(model)
    assert float((logits(model) - plain).abs().max()) > 1e-3
    with model.disable_adapter():
        assert torch.equal(logits(model), plain)


@pytest.mark.parametrize("kind", KINDS)
def test_merging(kind: str) -> None:
    model = as_trained(adapted(kind, **patterns(kind)))
    gated, weights = logits(model), {name: value.clone() for name, value in model.state_dict().items()}
    model.merge_adapter()
    torch.testing.assert_close(logits(model), gated, rtol=1e-4, atol=1e-5)
    model.unmerge_adapter()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, weights[name], rtol=1e-5, atol=1e-6)
    merged = copy.deepcopy(model).merge_and_unload(safe_merge=True)
    torch.testing.assert_close(logits(merged), gated, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_layer_computes_what_the_formula_says(kind: str) -> None:
    model = as_trained(adapted(kind, **patterns(kind))).double()
    layer = next(layer for layer in model.modules() if hasattr(layer, "lora_gate"))
    A, B, gate = layer.lora_A["default"].weight, layer.lora_B["default"].weight, layer.lora_gate["default"]
    rank = int(A.shape[0])
    x = torch.randn(5, A.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = layer.base_layer(x) + 12 / rank**0.5 * (B @ torch.diag(gate) @ A @ x.T).T
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


LOADERS = {
    "PeftModel": "PeftModel.from_pretrained(base(), folder)",
    "PeftModel, low memory": "PeftModel.from_pretrained(base(), folder, low_cpu_mem_usage=True)",
    "AutoPeftModel": "auto.from_pretrained(folder)",
    "load_adapter": "native()",
    "transformers alone": "kind.from_pretrained(folder)",
}
FRESH = """
import sys, torch, peft, transformers, rank_lab.sora
from peft import PeftModel
root = sys.argv[1]
CLASSES = {
    'CAUSAL_LM': (transformers.AutoModelForCausalLM, peft.AutoPeftModelForCausalLM),
    'SEQ_CLS': (transformers.AutoModelForSequenceClassification, peft.AutoPeftModelForSequenceClassification),
}
for name, task in (case.split('=') for case in sys.argv[2:]):
    kind, auto = CLASSES[task]
    folder = f'{root}/{name}/adapter'
    base = lambda: kind.from_pretrained(f'{root}/{name}/base')
    def native():
        model = base()
        model.load_adapter(folder)
        return model
    ids, expected = torch.load(f'{root}/{name}/io.pt')
    for number, model in enumerate([LOADERS]):
        gates = [value for name, value in model.named_parameters() if 'lora_gate' in name]
        assert gates and all(gate.dtype == torch.float32 for gate in gates), 'gates'
        with torch.no_grad():
            difference = float((model.eval()(input_ids=ids).logits - expected).abs().max())
        print(name, number, difference)
"""


def test_saved_and_loaded_in_a_fresh_process(tmp_path: Path) -> None:
    for kind in KINDS:
        base = base_model(kind)
        base.save_pretrained(tmp_path / kind / "base")
        base = type(base).from_pretrained(tmp_path / kind / "base")
        model = as_trained(get_peft_model(base, settings(kind, **patterns(kind))))
        expected = logits(model)
        model.save_pretrained(tmp_path / kind / "adapter")
        torch.save((tokens(), expected), tmp_path / kind / "io.pt")
    code = FRESH.replace("LOADERS", ", ".join(LOADERS.values()))
    printed = fresh_process(code, tmp_path, *(f"{kind}={TASKS[kind]}" for kind in KINDS)).splitlines()
    assert printed == [f"{kind} {number} 0.0" for kind in KINDS for number in range(len(LOADERS))]


def test_without_rank_lab_it_is_not_loaded_as_plain_lora(tmp_path: Path) -> None:
    as_trained(adapted("llama")).save_pretrained(tmp_path)
    code = "import sys, peft\ntry: peft.PeftConfig.from_pretrained(sys.argv[1])\nexcept KeyError as e: print(e)"
    code += "\nimport rank_lab, rank_lab.cli, rank_lab.commands\nassert 'rank_lab.sora' not in sys.modules"
    assert "SORA" in fresh_process(code, tmp_path)


def test_several_adapters() -> None:
    model = as_trained(adapted("llama"))
    first = logits(model)
    model.add_adapter("other", settings("llama", r=4, gate_init="normal"))
    assert not any(value.requires_grad for name, value in model.named_parameters() if ".other" in name)
    assert torch.equal(logits(model), first)
    as_trained(model, "other")
    assert torch.equal(logits(model), first)
    model.set_adapter("other")
    second = logits(model)
    assert not torch.equal(second, first)
    assert {name.rsplit(".", 1)[-1] for name in gate_parameters(model)} == {"other"}
    both = torch.cat([model(input_ids=tokens()[:1], adapter_names=["default"]).logits,
                      model(input_ids=tokens()[:1], adapter_names=["other"]).logits])  # fmt: skip
    torch.testing.assert_close(both, torch.stack([first[0], second[0]]), rtol=1e-5, atol=1e-6)
    model.set_adapter("default")
    assert torch.equal(logits(model), first)
    model.delete_adapter("other")
    assert not [name for name, _ in model.named_parameters() if ".other" in name]
    assert torch.equal(logits(model), first)
    with pytest.raises(UnsupportedUpdateError, match="add_weighted_adapter"):
        model.add_weighted_adapter(["default"], [1.0], "sum")


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing_gives_the_same_gradients(kind: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = as_trained(adapted(kind)).train()
        for part in model.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
        if checkpointing:
            model.enable_input_require_grads()
            base = model.get_base_model()
            getattr(base, "activation_checkpointing_enable", base.gradient_checkpointing_enable)()
            assert base.is_gradient_checkpointing
        model(input_ids=tokens()).logits.square().mean().backward()
        gradients.append({name: gate.grad for name, gate in gate_parameters(model).items()})
    for name, gradient in gradients[0].items():
        assert float(gradient.abs().max()) > 0
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-8)


def test_what_is_trained() -> None:
    model = as_trained(adapted("bert"))
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert {name.split(".")[-2] for name in trained if "lora_" not in name} == {"default"}  # the classifier's copy
    assert all("classifier" in name for name in trained if "lora_" not in name)
    model(input_ids=tokens()).logits.square().mean().backward()
    layer = next(layer for layer in model.modules() if hasattr(layer, "lora_gate"))
    shut = layer.lora_gate["default"] == 0
    assert bool((layer.lora_A["default"].weight.grad[shut] == 0).all())
    assert bool((layer.lora_B["default"].weight.grad[:, shut] == 0).all())
    assert bool((layer.lora_gate["default"].grad != 0).all())  # by which alone a shut gate may open


def test_a_gate_is_float32_in_a_bfloat16_model(tmp_path: Path) -> None:
    model = as_trained(get_peft_model(base_model("llama").bfloat16(), settings("llama"), autocast_adapter_dtype=False))
    layer = next(layer for layer in model.modules() if hasattr(layer, "lora_gate"))
    assert layer.lora_A["default"].weight.dtype == torch.bfloat16
    assert layer.lora_gate["default"].dtype == torch.float32
    expected = logits(model)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(base_model("llama").bfloat16(), tmp_path, autocast_adapter_dtype=False)
    assert {gate.dtype for name, gate in loaded.named_parameters() if "lora_gate" in name} == {torch.float32}
    torch.testing.assert_close(logits(loaded), expected, rtol=1e-2, atol=1e-3)


def test_normal_gates() -> None:
    torch.manual_seed(0)
    values = torch.cat([gate.detach() for gate in gate_parameters(adapted("llama", gate_init="normal")).values()])
    assert len(values) == 36
    assert 0.5 < float(values.std()) < 1.5
    assert len(set(values.tolist())) == len(values)


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.conv, self.out = nn.Embedding(5, 4), nn.Conv1d(4, 4, 1), nn.Linear(4, 2)
        self.heads = nn.MultiheadAttention(4, 2)


@pytest.mark.parametrize(
    ("name", "kind"), [("words", "Embedding"), ("conv", "Conv1d"), ("heads", "MultiheadAttention")]
)
def test_other_layers_are_refused_by_name(name: str, kind: str) -> None:
    with pytest.raises(UnsupportedUpdateError, match=f"{name}: a {kind} cannot be gated"):
        get_peft_model(Mixed(), SoraConfig(r=2, target_modules=[name]))


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "gate_init": ({"gate_init": "zeros"}, "ones, normal"),
    "mode": ({"threshold_mode": "sgd"}, "lr, adam, constant"),
    "operator": ({"operator": "hard"}, "soft, gapped"),
    "negative": ({"threshold": -1.0}, "0 or more"),
    "nan": ({"threshold": float("nan")}, "finite"),
    "l1": ({"l1_weight": float("inf")}, "finite"),
    "start": ({"prox_start_step": -1}, "0 or more"),
    "dora": ({"use_dora": True}, "use_dora"),
    "bias": ({"lora_bias": True}, "lora_bias"),
    "experts": ({"target_parameters": ["mlp.experts.gate_up_proj"]}, "target_parameters"),
    "pissa": ({"init_lora_weights": "pissa"}, "pissa"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_settings(case: str) -> None:
    options, message = BAD[case]
    with pytest.raises(RankLabError, match=message):
        SoraConfig(r=2, target_modules=["q_proj"], **options)


def test_conversion_of_peft_is_refused() -> None:
    model = as_trained(adapted("llama"))
    assert not model.supports_lora_conversion()
    with pytest.raises((TypeError, ValueError)):
        peft.convert_to_lora(model, rank=2)


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_bases(tmp_path: Path, bits: int) -> None:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

    wide = {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 1}  # blocks of 64 must fit in
    LlamaForCausalLM(LlamaConfig(**wide, num_attention_heads=4, vocab_size=60)).save_pretrained(tmp_path)
    quantised = BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8)
    base = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=quantised, device_map="cpu")
    plain = base.train()(input_ids=tokens()).logits  # bitsandbytes repacks for good in evaluation on a CPU
    model = as_trained(get_peft_model(base, settings("llama")).train())
    layers = [layer for layer in model.modules() if hasattr(layer, "lora_gate")]
    assert {type(layer).__name__ for layer in layers} == {"Linear4bit" if bits == 4 else "Linear8bitLt"}
    gated = model(input_ids=tokens()).logits
    assert float((gated - plain).detach().abs().max()) > 1e-3
    gated.square().mean().backward()
    assert all(gate.dtype == torch.float32 and gate.grad is not None for gate in gate_parameters(model).values())
    with torch.no_grad():
        for gate in gate_parameters(model).values():
            gate.zero_()
    assert torch.equal(model(input_ids=tokens()).logits, plain)


@pytest.mark.parametrize("kind", KINDS)
def test_analyze_shows_the_nominal_rank(tmp_path: Path, kind: str) -> None:
    model = as_trained(
        adapted(kind, **patterns(kind)), shut=["layers.0.self_attn.v_proj", "h.0.mlp.c_proj", "layer.0.attention"]
    )
    model.save_pretrained(tmp_path / "sora")
    report = analyze(tmp_path / "sora")
    assert not report.coverage["failed"].any()
    assert set(report.updates["update_kind"]) == {"sora"}
    rows = report.updates.set_index("module")
    counted = {part.module: part for part in gated_modules(model)}
    assert len(rows) == len(counted) > 3
    for module, part in counted.items():
        row = rows.loc[module]
        assert int(row["numerical_rank"]) == part.nonzero
        assert int(row["rank_bound"]) == part.rank
    assert min(part.nonzero for part in counted.values()) == 0
    assert len({part.rank for part in counted.values()}) == 2
    for spec in plan_updates(Checkpoint.open(tmp_path / "sora")).specs:
        update = read_update(spec)
        sizes = importance(update)
        left, across = update.factors()
        for i, size in enumerate(sizes):
            exact = torch.linalg.matrix_norm(left[:, i : i + 1] @ across[i : i + 1], ord=2)
            assert float(size) == pytest.approx(float(exact), rel=1e-12, abs=1e-15)
        assert int((sizes > 0).sum()) == counted[spec.module].nonzero
