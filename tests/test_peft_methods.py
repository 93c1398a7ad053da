"""The contract over every method of the installed PEFT: its update, or that there is none, or a refusal by name."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.utils.peft_types import PeftType

from rank_lab import Checkpoint, Settings, analyze, plan_updates, read_update
from rank_lab.coverage import Plan
from rank_lab.errors import CheckpointError, PairingError, UnsupportedUpdateError
from tests.checkpoints import Tensors, assert_all_accounted_for, rank_lab, save_adapter

# PEFT's and transformers' own remarks
pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("UserWarning", "RuntimeWarning", "FutureWarning")
]

Model = Any
WIDTH = 32
TARGETS = ["q_proj", "v_proj", "down_proj"]


def small(kind: str = "llama") -> Model:
    """A random model of two layers, with biases in its attention."""
    import transformers as hf

    torch.manual_seed(3)
    narrow = {"hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    words = {"vocab_size": 60, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    if kind == "gpt2":
        return hf.GPT2LMHeadModel(hf.GPT2Config(n_embd=WIDTH, n_layer=2, n_head=2, n_positions=16, **words))
    if kind == "mixtral":
        config = hf.MixtralConfig(**narrow, **words, num_key_value_heads=2, num_local_experts=3)
        return hf.MixtralForCausalLM(config)
    if kind == "resnet":
        config = hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=3)
        return hf.ResNetForImageClassification(config)
    config = hf.LlamaConfig(**narrow, **words, num_key_value_heads=2, attention_bias=True, tie_word_embeddings=False)
    model = hf.LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    return model


def perturbed(adapted: Model, by: float = 0.1) -> None:
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(by * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))


def trained(folder: Path, config: Any, model: Model | None = None) -> tuple[Tensors, Tensors]:
    """Save base and adapter; return the weights before, and merged by PEFT in float64."""
    from peft import get_peft_model

    model = small() if model is None else model
    model.save_pretrained(folder / "base")
    before = {name: value.detach().double() for name, value in model.state_dict().items()}
    adapted = get_peft_model(model, config)
    perturbed(adapted)
    adapted.save_pretrained(folder / "adapter")
    merged = copy.deepcopy(adapted).double().merge_and_unload().state_dict()
    return before, {name: value.double() for name, value in merged.items()}


def opened(folder: Path) -> tuple[Checkpoint, Checkpoint]:
    return Checkpoint.open(folder / "adapter"), Checkpoint.open(folder / "base")


def assert_is_what_merging_changes(
    plan: Plan, before: Tensors, after: Tensors, *, within: float = 1e-12, transposed: bool = False
) -> None:
    """Every weight that merging changed has its update, no other has one, and all are equal."""
    changed = {name for name, value in before.items() if value.ndim >= 2 and not torch.equal(value, after[name])}
    assert {f"{spec.module}.weight" for spec in plan.specs} == changed
    assert changed
    for spec in plan.specs:
        name = f"{spec.module}.weight"
        exact = (after[name] - before[name]).reshape(before[name].shape[0], -1)
        ours = read_update(spec).to_dense()
        assert ours.shape == spec.shape
        exact = exact.T if transposed else exact
        allowed = within * float(exact.norm() + before[name].norm())
        assert float((ours - exact).norm()) <= allowed, (name, float((ours - exact).norm()), allowed)
        assert float(exact.norm()) > 1e3 * allowed, "the tolerance would hide a wrong update"
        assert int(torch.linalg.matrix_rank(ours)) <= spec.rank_bound
    skipped = {row.tensor for row in plan.coverage if row.side == "base" and row.status == "skipped"}
    vectors = {row.base.name for row in plan.coverage if row.status == "vector" and row.base is not None}
    moved = {name for name, value in before.items() if value.ndim == 1 and not torch.equal(value, after[name])}
    assert moved <= skipped | vectors, "a bias that changes must not stand as frozen"


# PEFT's type to its config, where the defaults do not fit so small a model
DELTA: dict[str, dict[str, Any]] = {
    "LORA": {"r": 4},
    "ADALORA": {"init_r": 4, "target_r": 2, "total_step": 9},
    "BOFT": {"boft_block_size": 4},
    "C3A": {"block_size": 8},
    "DEFT": {"r": 4},
    "DELORA": {"r": 4},
    "FOURIERFT": {"n_frequency": 20},
    "GLORA": {"r": 4},
    "GRALORA": {"r": 4, "gralora_k": 2},
    "HIRA": {"r": 4},
    "HRA": {"r": 4},
    "IA3": {"feedforward_modules": ["down_proj"]},
    "LOHA": {"r": 4},
    "LOKR": {"r": 4},
    "MISS": {"r": 4},
    "OFT": {"oft_block_size": 8},
    "OSF": {},
    "PEANUT": {"r": 4},
    "PSOFT": {"r": 4},
    "PVERA": {"r": 4},
    "RANDLORA": {"r": 4},
    "ROAD": {"group_size": 8},
    "SHIRA": {"r": 4},
    "SUPERTUNING": {},
    "TRAINABLE_TOKENS": {"target_modules": ["embed_tokens"], "token_indices": [1, 5, 9]},
    "VBLORA": {"r": 4, "vector_length": 8, "num_vectors": 10, "topk": 2},
    "VERA": {"r": 4},
    "WAVEFT": {"n_frequency": 20},
}
VECTORS: dict[str, dict[str, Any]] = {
    "BEFT": {"target_modules": ["q_proj"]},
    "LN_TUNING": {"target_modules": ["input_layernorm"]},
}
PROMPTS = {"num_virtual_tokens": 3, "task_type": "CAUSAL_LM"}
NONE: dict[str, dict[str, Any] | None] = {
    "ADAPTION_PROMPT": {"task_type": "CAUSAL_LM", "adapter_len": 2, "adapter_layers": 1},
    "CARTRIDGE": PROMPTS,
    "CPT": {"task_type": "CAUSAL_LM", "cpt_token_ids": [1, 2], "cpt_mask": [1, 1], "cpt_tokens_type_mask": [1, 2]},
    "LILY": {"r": 4, "target_modules": TARGETS},
    "MULTITASK_PROMPT_TUNING": PROMPTS | {"num_tasks": 2},
    "POLY": {"r": 4, "target_modules": TARGETS},
    "PREFIX_TUNING": PROMPTS,
    "PROMPT_TUNING": PROMPTS,
    "P_TUNING": PROMPTS,
    "SHADOW": {"r": 4, "target_modules": TARGETS},
    "XLORA": None,  # needs adapters on disk to be made
}
REFUSED: dict[str, dict[str, Any] | None] = {
    "ADAMSS": None,  # needs scikit-learn to be made
    "FROD": {"target_modules": TARGETS},
    "TINYLORA": {"target_modules": TARGETS},
    "UNILORA": {"r": 4, "target_modules": TARGETS},
}
IN_FLOAT32 = {"PSOFT", "OSF"}  # decompositions of the base weight


def config_of(name: str, options: dict[str, Any]) -> Any:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    return PEFT_TYPE_TO_CONFIG_MAPPING[PeftType[name]](**options)


def test_every_method_of_peft_is_decided() -> None:
    """A method that a newer PEFT adds fails here until somebody says what there is to analyse of it."""
    ours = {"SORA"}
    decided = [*DELTA, *VECTORS, *NONE, *REFUSED]
    assert len(set(decided)) == len(decided)
    assert {kind.name for kind in PeftType} - ours == set(decided)


@pytest.mark.parametrize("name", DELTA)
def test_the_update_is_what_merging_changes(tmp_path: Path, name: str) -> None:
    before, after = trained(tmp_path, config_of(name, {"target_modules": TARGETS} | DELTA[name]))
    tuned, base = opened(tmp_path)
    plan = plan_updates(tuned, base)
    assert plan.method == name.lower()
    assert_all_accounted_for(plan, tmp_path / "adapter", tmp_path / "base")
    assert_is_what_merging_changes(plan, before, after, within=1e-6 if name in IN_FLOAT32 else 1e-12)


@pytest.mark.parametrize("name", VECTORS)
def test_methods_that_train_vectors_give_their_norms(tmp_path: Path, name: str) -> None:
    before, after = trained(tmp_path, config_of(name, VECTORS[name]))
    plan = plan_updates(*opened(tmp_path))
    assert_all_accounted_for(plan, tmp_path / "adapter", tmp_path / "base")
    report = analyze(tmp_path / "adapter", tmp_path / "base")
    assert not len(report.updates)
    assert not report.coverage["failed"].any()
    norms = sorted(report.coverage.loc[report.coverage["status"] == "vector", "frobenius_norm"])
    exact = sorted(
        float((after[n] - before[n]).norm()) for n in before if before[n].ndim == 1 and not after[n].equal(before[n])
    )
    assert norms == pytest.approx(exact, rel=1e-6)
    assert len(norms) == 2


def saved(folder: Path, name: str, options: dict[str, Any] | None) -> Path:
    """An adapter of a method without an update; written by hand where PEFT cannot make it here."""
    if options is None:
        return save_adapter(folder, {"base_model.model.own": torch.ones(2, 3)}, peft_type=name)
    from peft import get_peft_model

    adapted = get_peft_model(small(), config_of(name, options))
    adapted.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", NONE)
def test_methods_without_a_weight_update_say_so(tmp_path: Path, name: str) -> None:
    folder = saved(tmp_path / "adapter", name, NONE[name])
    plan = plan_updates(Checkpoint.open(folder))
    assert_all_accounted_for(plan, folder, None)
    assert plan.specs == ()
    assert {row.status for row in plan.coverage} == {"new"}
    assert all(row.reason.startswith(f"{name}: ") and "no weight" in row.reason for row in plan.coverage)
    done = rank_lab("analyze", folder, "-o", tmp_path / "study")
    assert (done.code, done.err) == (0, "")
    shown = rank_lab("show", tmp_path / "study")
    assert shown.code == 0
    for out in (done.out, shown.out):
        assert f"{name}: " in " ".join(out.split())
        assert "there is no weight update to analyse" in " ".join(out.split())
    assert json.loads(rank_lab("show", tmp_path / "study", "--json").out)[0]["updates"] == []


def test_a_base_beside_a_method_without_update_is_frozen(tmp_path: Path) -> None:
    small().save_pretrained(tmp_path / "base")
    folder = saved(tmp_path / "adapter", "PREFIX_TUNING", NONE["PREFIX_TUNING"])
    plan = plan_updates(Checkpoint.open(folder), Checkpoint.open(tmp_path / "base"))
    assert_all_accounted_for(plan, folder, tmp_path / "base")
    assert {row.status for row in plan.coverage if row.side == "base"} == {"identical"}


@pytest.mark.parametrize("name", REFUSED)
def test_methods_whose_files_do_not_fix_the_update_are_refused_by_name(tmp_path: Path, name: str) -> None:
    folder = saved(tmp_path / "adapter", name, REFUSED[name])
    done = rank_lab("analyze", folder, "-o", tmp_path / "study")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert done.err.startswith(f"error: {folder / 'adapter_config.json'}: peft_type {name} ")
    assert "compare with --base" in done.err


@pytest.mark.parametrize("name", ["LOHA", "VERA", "IA3"])
def test_what_only_merging_shows_needs_the_base(tmp_path: Path, name: str) -> None:
    trained(tmp_path, config_of(name, {"target_modules": TARGETS} | DELTA[name]))
    with pytest.raises(PairingError, match=f"{name} changes a weight in a way .* as --base"):
        plan_updates(Checkpoint.open(tmp_path / "adapter"))


def lora(**options: Any) -> Any:
    from peft import LoraConfig

    return LoraConfig(**{"r": 4, "lora_alpha": 12, "target_modules": TARGETS} | options)


# id: (model, options, kind of update)
LORA: dict[str, tuple[str, dict[str, Any], str]] = {
    "dora": ("llama", {"use_dora": True}, "merged"),
    "dora, rslora, patterns": (
        "llama",
        {"use_dora": True, "use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}},
        "merged",
    ),
    "dora on embeddings": ("llama", {"use_dora": True, "target_modules": ["embed_tokens", "q_proj"]}, "merged"),
    "dora on conv1d": ("gpt2", {"use_dora": True, "target_modules": ["c_attn", "c_fc"]}, "merged"),
    "dora on convolutions": ("resnet", {"use_dora": True, "target_modules": ["convolution"]}, "merged"),
    "convolutions": ("resnet", {"target_modules": ["convolution"]}, "lora"),
    "embeddings": ("llama", {"target_modules": ["embed_tokens", "q_proj"]}, "lora"),
    "rank pattern": ("llama", {"rank_pattern": {r"layers\.1\..*q_proj": 2, "down_proj": 6}}, "lora"),
    "velora": ("llama", {"velora_config": ("VeloraConfig", {"num_groups": 4})}, "lora"),
    "monteclora": ("llama", {"monteclora_config": ("MontecloraConfig", {})}, "lora"),
    "pissa": ("llama", {"init_lora_weights": "pissa"}, "lora"),
    "pissa on conv1d": ("gpt2", {"init_lora_weights": "pissa", "target_modules": ["c_attn", "c_proj"]}, "lora"),
    "olora": ("llama", {"init_lora_weights": "olora"}, "lora"),
    "kasa": ("llama", {"kasa_config": ("KasaConfig", {})}, "lora"),
    "dora after pissa": ("llama", {"use_dora": True, "init_lora_weights": "pissa"}, "merged"),
}


def lora_of(options: dict[str, Any]) -> Any:
    from peft.tuners.lora import config as subconfigs

    return lora(**{n: getattr(subconfigs, v[0])(**v[1]) if isinstance(v, tuple) else v for n, v in options.items()})


@pytest.mark.parametrize("case", LORA)
def test_variants_of_lora(tmp_path: Path, case: str) -> None:
    kind, options, update_kind = LORA[case]
    before, after = trained(tmp_path, lora_of(options), small(kind))
    if case == "embeddings":
        after["lm_head.weight"] = before["lm_head.weight"]
    plan = plan_updates(*opened(tmp_path))
    found = [spec for spec in plan.specs if spec.update_kind != "dense"]
    assert {spec.update_kind for spec in found} == {update_kind}
    changes_base = "init_lora_weights" in options or "kasa_config" in options
    plan = Plan(tuple(found), plan.coverage, plan.method)
    assert_is_what_merging_changes(
        plan, before, after, within=2e-6 if changes_base else 1e-12, transposed=kind == "gpt2"
    )
    assert plan.method == ("dora" if "use_dora" in options else "lora")
    if changes_base and update_kind == "lora":
        assert {spec.rank_bound for spec in found} == {8}
        assert all("the base given, taken for the original" in spec.note for spec in found)
