"""Files of one model in transformers' two formats meet, tensor by tensor and value by value."""

import functools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn

from rank_lab import Checkpoint, RankReport, conversion, plan_updates, read_update
from rank_lab.coverage import Plan
from rank_lab.errors import PairingError
from rank_lab.spec import UpdateSpec
from rank_lab.stored_tensor import StoredTensor
from tests.checkpoints import assert_all_accounted_for, llama, moved, rank_lab, save

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
}
EYES = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "image_size": 28, "patch_size": 14}


def causal(model_type: str, **more: Any) -> nn.Module:
    config = transformers.AutoConfig.for_model(model_type, **SIZES | more)
    model: nn.Module = transformers.AutoModelForCausalLM.from_config(config)
    return model


def deepseek_v3() -> nn.Module:
    ranks = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 4}
    experts = {"n_routed_experts": 12, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2, "n_shared_experts": 1}
    return causal("deepseek_v3", **ranks, **experts, moe_intermediate_size=12, first_k_dense_replace=1)


def gemma3() -> nn.Module:
    config = transformers.Gemma3Config(
        text_config=SIZES, vision_config=EYES | {"intermediate_size": 24}, mm_tokens_per_image=4
    )
    model: nn.Module = transformers.Gemma3ForConditionalGeneration(config)
    return model


def dinov2() -> nn.Module:
    model: nn.Module = transformers.Dinov2Model(transformers.Dinov2Config(**EYES, use_swiglu_ffn=True))
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    "mixtral": lambda: causal("mixtral", num_local_experts=3, num_experts_per_tok=2),
    "qwen3_moe": lambda: causal("qwen3_moe", moe_intermediate_size=12, num_experts=11, num_experts_per_tok=2),
    "gemma3": gemma3,
    "gpt_oss": lambda: causal("gpt_oss", num_local_experts=3, num_experts_per_tok=2),
    "deepseek_v3": deepseek_v3,
    "hrm_text": lambda: causal("hrm_text"),
    "dinov2": dinov2,
}
FORMATS = ("hub", "memory", "raw")


@functools.cache
def pair(name: str, root: Path) -> Path:
    """Base and tuned of one model, each saved in every format by transformers itself."""
    torch.manual_seed(0)
    model = MODELS[name]()
    for which in ("base", "tuned"):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        for form in ("hub", "memory"):
            model.save_pretrained(root / name / which / form, save_original_format=form == "hub")
        (root / name / which / "raw").mkdir()
        torch.save(model.state_dict(), root / name / which / "raw" / "pytorch_model.bin")
    return root / name


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("formats")


def hub_changes(folder: Path) -> dict[str, torch.Tensor]:
    base, tuned = (load_file(folder / which / "hub" / "model.safetensors") for which in ("base", "tuned"))
    return {name: value.double() - base[name].double() for name, value in tuned.items()}


def plan_of(folder: Path, tuned: str, base: str) -> Plan:
    return plan_updates(Checkpoint.open(folder / "tuned" / tuned), Checkpoint.open(folder / "base" / base))


def in_hub_format(spec: UpdateSpec, folder: Path) -> StoredTensor:
    for source in (spec.required("tuned"), spec.required("base")):
        whole = Checkpoint.open(source.file).tensors[source.name].elements == source.elements
        if whole and source.file.relative_to(folder).parts[1] == "hub":
            return source
    raise AssertionError(f"{spec.module}: neither side is a whole tensor of the hub format")


DIFFERENT = [
    (name, *sides)
    for name in ("mixtral", "qwen3_moe", "gemma3", "deepseek_v3")
    for sides in (("memory", "hub"), ("hub", "memory"), ("raw", "hub"), ("hub", "raw"))
]


@pytest.mark.parametrize(("name", "tuned", "base"), DIFFERENT)
def test_every_matrix_has_the_change_that_was_made_to_it(root: Path, name: str, tuned: str, base: str) -> None:
    folder = pair(name, root)
    plan = plan_of(folder, tuned, base)
    changes = hub_changes(folder)
    found = {}
    for spec in plan.specs:
        source = in_hub_format(spec, folder)
        assert source.name not in found
        found[source.name] = read_update(spec).to_dense()
        assert torch.equal(found[source.name], changes[source.name].reshape(spec.shape))
        assert spec.weight == spec.required("base")
    assert set(found) >= {key for key, change in changes.items() if change.ndim == 2}
    assert_all_accounted_for(plan, folder / "tuned" / tuned, folder / "base" / base)
    assert not [row for row in plan.coverage if row.failed or row.status == "new"]


@pytest.mark.parametrize("name", ["hrm_text", "dinov2"])
@pytest.mark.parametrize(("tuned", "base"), [("memory", "hub"), ("hub", "memory")])
def test_fused_weights_are_taken_apart(root: Path, name: str, tuned: str, base: str) -> None:
    folder = pair(name, root)
    plan = plan_of(folder, tuned, base)
    before, after = (load_file(folder / which / "memory" / "model.safetensors") for which in ("base", "tuned"))
    expected = {key.removesuffix(".weight"): after[key].double() - before[key].double() for key in before}
    for spec in plan.specs:
        assert torch.equal(read_update(spec).to_dense(), expected[spec.module].reshape(spec.shape))
    assert {spec.module for spec in plan.specs} >= {key for key, change in expected.items() if change.ndim == 2}
    fused = {row.tensor: row.reason for row in plan.coverage if row.reason.startswith("in ")}
    assert fused
    assert all("parts, each compared with a tensor of its own" in reason for reason in fused.values())
    assert_all_accounted_for(plan, folder / "tuned" / tuned, folder / "base" / base)


def test_biases_of_fused_weights_keep_their_norms(root: Path, tmp_path: Path) -> None:
    folder = pair("dinov2", root)
    for tuned, base in (("memory", "hub"), ("hub", "memory")):
        outcome = rank_lab(
            "analyze", folder / "tuned" / tuned, "--base", folder / "base" / base, "-o", tmp_path / tuned, "--name", "x"
        )
        assert outcome.code == 0, outcome.err
        coverage = RankReport.load(tmp_path / tuned / "x.rank").coverage.set_index("tensor")
        before, after = (load_file(folder / which / "memory" / "model.safetensors") for which in ("base", "tuned"))
        key = "encoder.layer.0.mlp.gate_proj"
        for name in (f"{key}.bias", f"{key}.weight"):
            change = float((after[name].double() - before[name].double()).norm())
            assert coverage.loc[name, "frobenius_norm"] == pytest.approx(change, rel=1e-6)
        assert coverage.loc[f"{key}.bias", "status"] == "vector"
        assert coverage.loc["encoder.layer.0.mlp.weights_in.bias", "status"] == "analysed"


def test_an_adapter_finds_its_weights_in_a_base_in_hub_format(root: Path, tmp_path: Path) -> None:
    folder = pair("gemma3", root)
    base = transformers.Gemma3ForConditionalGeneration.from_pretrained(folder / "base" / "hub")
    model = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["q_proj", "gate_proj"]))
    model.save_pretrained(tmp_path)
    plan = plan_updates(Checkpoint.open(tmp_path), Checkpoint.open(folder / "base" / "hub"))
    assert {spec.module for spec in plan.specs} == {
        name.removesuffix(".base_layer").removeprefix("base_model.model.")
        for name, _ in model.named_modules()
        if name.endswith(".base_layer")
    }
    stored = load_file(folder / "base" / "hub" / "model.safetensors")
    held = dict(base.named_parameters())
    for spec in plan.specs:
        assert spec.weight is not None
        assert torch.equal(stored[spec.weight.name], held[f"{spec.module}.base_layer.weight"])
    assert_all_accounted_for(plan, tmp_path, folder / "base" / "hub")


def test_experts_are_named_and_numbered(root: Path) -> None:
    plan = plan_of(pair("mixtral", root), "memory", "hub")
    kinds = {(spec.identity.kind, spec.identity.expert) for spec in plan.specs if spec.identity.expert is not None}
    assert kinds == {(kind, expert) for kind in ("gate", "up", "down") for expert in range(3)}
    assert "model.layers.1.mlp.experts.2.w3" in {spec.module for spec in plan.specs}
    stacks = [row for row in plan.coverage if row.tensor.endswith("experts.gate_up_proj")]
    assert [row.reason.split(",")[0] for row in stacks] == ["in 6 parts", "in 6 parts"]
    assert {row.side for row in stacks} == {"tuned"}


def test_the_two_formats_of_gpt_oss_are_one(root: Path) -> None:
    folder = pair("gpt_oss", root)
    for form in ("memory", "raw"):
        assert set(Checkpoint.open(folder / "base" / form).tensors) == set(hub_changes(folder))
    assert plan_of(folder, "memory", "hub").specs


@pytest.mark.parametrize("form", FORMATS)
def test_one_format_on_both_sides_asks_nobody(root: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pair("mixtral", root)

    def asked(*sources: Checkpoint) -> None:
        raise AssertionError("the names meet")

    monkeypatch.setattr(conversion, "_model", asked)
    assert plan_of(folder, form, form).specs


def test_other_heads_on_one_body_leave_its_names_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {
        "vocab_size": 20,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 12,
    }
    config = transformers.BertConfig(**sizes)
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "tuned")
    transformers.BertModel(config).save_pretrained(tmp_path / "base")
    plan = plan_updates(Checkpoint.open(tmp_path / "tuned"), Checkpoint.open(tmp_path / "base"))
    assert "encoder.layer.0.attention.self.query" in {spec.module for spec in plan.specs}
    assert_all_accounted_for(plan, tmp_path / "tuned", tmp_path / "base")
    asked = []
    monkeypatch.setattr(conversion, "_model", lambda *sources: asked.append(sources))
    names = {"classifier.dense.weight": torch.ones(2, 8), "bert.layer.0.query.weight": torch.ones(8, 8)}
    save(tmp_path / "one", names)
    save(
        tmp_path / "other",
        {"position_ids": torch.ones(1, 4, dtype=torch.int64), "layer.0.query.weight": torch.ones(8, 8)},
    )
    assert plan_updates(Checkpoint.open(tmp_path / "one"), Checkpoint.open(tmp_path / "other")).specs
    assert not asked, "a buffer that one file lacks is no difference of formats"


def test_a_rearrangement_within_tensors_is_refused_by_name(tmp_path: Path) -> None:
    model = causal("inkling2_text")
    for form in ("hub", "memory"):
        model.save_pretrained(tmp_path / form, save_original_format=form == "hub")  # type: ignore[operator]
    for tuned, base in (("hub", "memory"), ("memory", "hub")):
        with pytest.raises(
            PairingError, match=r"model\.llm\.layers\.0\.mlp\.experts\.w13_weight' by Interleave 1, which"
        ):
            plan_updates(Checkpoint.open(tmp_path / tuned), Checkpoint.open(tmp_path / base))


def test_without_transformers_the_nearest_names_are_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pair("mixtral", root)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(PairingError, match=r"have no partner by name; nearest: model\.layers\.0\.mlp\.experts"):
        plan_of(folder, "memory", "hub")


@pytest.mark.parametrize(
    "config", [None, {"model_type": "no_such_model"}, {"model_type": "mixtral", "hidden_size": "x"}]
)
def test_an_unknown_model_is_refused(root: Path, tmp_path: Path, config: dict[str, Any] | None) -> None:
    folder = pair("mixtral", root)
    for form in ("hub", "memory"):
        save(tmp_path / form, load_file(folder / "base" / form / "model.safetensors"), config=config)
    with pytest.raises(PairingError, match="have no partner by name; nearest"):
        plan_updates(Checkpoint.open(tmp_path / "memory"), Checkpoint.open(tmp_path / "hub"))


def test_a_stack_of_another_size_is_refused(root: Path, tmp_path: Path) -> None:
    folder = pair("mixtral", root)
    tensors = load_file(folder / "tuned" / "memory" / "model.safetensors")
    name = "model.layers.0.mlp.experts.gate_up_proj"
    tensors[name] = tensors[name][:, :, :8]
    save(tmp_path / "tuned", tensors)
    with pytest.raises(
        PairingError, match=r"gate_up_proj' of shape \[3, 48, 8\] is made of 6 tensors like .*\[3, 48, 16\]"
    ):
        plan_updates(Checkpoint.open(tmp_path / "tuned"), Checkpoint.open(folder / "base" / "hub"))


@pytest.mark.parametrize("meta_is", ["base", "tuned"])
def test_rotary_layouts_are_never_mixed(tmp_path: Path, generator: torch.Generator, meta_is: str) -> None:
    hugging_face = llama(generator)
    changed = moved(hugging_face, generator)
    meta = {re.sub(r"^model\.|_proj", "", name): value for name, value in changed.items()}
    meta = {re.sub(r"self_attn\.([qk])", r"attention.w\1", name): value for name, value in meta.items()}
    save(tmp_path / "meta", meta)
    save(tmp_path / "hf", hugging_face, config={"model_type": "llama"})
    tuned, base = ("hf", "meta") if meta_is == "base" else ("meta", "hf")
    outcome = rank_lab("analyze", tmp_path / tuned, "--base", tmp_path / base, "-o", tmp_path / "study")
    assert outcome.code == 2
    assert re.search(r"'layers\.0\.attention\.w[qk]\.weight' is in Meta's layout", outcome.err)
    assert outcome.err.count("\n") == 1
