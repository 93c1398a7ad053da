"""The contract over every method of the installed PEFT: its update, or that there is none, or a refusal by name."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.utils.peft_types import PeftType
from safetensors.torch import load_file, save_file

from rank_lab import Checkpoint, analyze, plan_updates, read_update
from rank_lab.errors import PairingError
from tests.checkpoints import assert_all_accounted_for, rank_lab, save_adapter
from tests.peft_models import TARGETS, assert_is_what_merging_changes, opened, small, trained

# PEFT's and transformers' own remarks
pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("UserWarning", "RuntimeWarning", "FutureWarning")
]

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
IN_FLOAT32 = {"PSOFT"}  # decompositions of the base weight
NEWER = {"SUPERTUNING", "SHADOW"}  # that the oldest PEFT that is supported does not have


def installed(names: Iterable[str]) -> list[str]:
    """Without the newer ones, where the oldest PEFT is installed."""
    return [name for name in names if name in PeftType.__members__ or name not in NEWER]


def config_of(name: str, options: dict[str, Any]) -> Any:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    return PEFT_TYPE_TO_CONFIG_MAPPING[PeftType[name]](**options)


def test_every_method_of_peft_is_decided() -> None:
    """A method that a newer PEFT adds fails here until somebody says what there is to analyse of it."""
    ours = {"SORA", "BITFIT", "BOTTLENECK", "COMPACTER", "LOFTQ", "PRELAYER"}
    decided = [*DELTA, *VECTORS, *NONE, *REFUSED]
    assert len(set(decided)) == len(decided)
    assert {kind.name for kind in PeftType} - ours == set(installed(decided))
    assert peft.__version__.startswith("0.20.") or installed(decided) == decided


@pytest.mark.parametrize("name", installed(DELTA))
def test_the_update_is_what_merging_changes(tmp_path: Path, name: str) -> None:
    before, after = trained(tmp_path, config_of(name, {"target_modules": TARGETS} | DELTA[name]))
    tuned, base = opened(tmp_path)
    plan = plan_updates(tuned, base)
    assert plan.method == name.lower()
    assert_all_accounted_for(plan, tmp_path / "adapter", tmp_path / "base")
    assert_is_what_merging_changes(plan, before, after, within=1e-6 if name in IN_FLOAT32 else 1e-12)


GPT2 = {"target_modules": ["c_attn", "c_proj"]}
IN_STAGES = {"target_modules": r".*stages\.1.*convolution"}
# by name: model, PEFT's type, and config
OTHER_LAYERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "FOURIERFT on conv1d": ("gpt2", "FOURIERFT", {"n_frequency": 20} | GPT2),
    "HIRA on conv1d": ("gpt2", "HIRA", {"r": 4} | GPT2),
    "IA3 on conv1d": ("gpt2", "IA3", {"feedforward_modules": ["c_proj"]} | GPT2),
    "RANDLORA on conv1d": ("gpt2", "RANDLORA", {"r": 4} | GPT2),
    "VBLORA on conv1d": ("gpt2", "VBLORA", DELTA["VBLORA"] | GPT2),
    "VERA on conv1d": ("gpt2", "VERA", {"r": 4} | GPT2),
    "VERA on conv1d of transposed shapes": ("gpt2", "VERA", {"r": 4, "target_modules": ["c_fc", "mlp.c_proj"]}),
    "LOHA on convolutions": ("resnet", "LOHA", {"r": 2, "target_modules": ["convolution"]}),
    "LOHA, effective": ("resnet", "LOHA", {"r": 2, "use_effective_conv2d": True, "target_modules": ["convolution"]}),
    "LOKR on convolutions": ("resnet", "LOKR", {"r": 2, "target_modules": ["convolution"]}),
    "OFT on convolutions": ("resnet", "OFT", {"oft_block_size": 4} | IN_STAGES),
    "BOFT on convolutions": ("resnet", "BOFT", {"boft_block_size": 4} | IN_STAGES),
    "HRA on convolutions": ("resnet", "HRA", {"r": 2, "target_modules": ["convolution"]}),
    "IA3 on convolutions": ("resnet", "IA3", {"target_modules": ["convolution"], "feedforward_modules": []}),
    "LOKR, both factors": ("llama", "LOKR", {"r": 2, "decompose_both": True}),
    "LOKR, by layer": ("llama", "LOKR", {"r": 2, "rank_pattern": {"q_proj": 3}, "alpha_pattern": {"v_proj": 5}}),
    "MISS, bat": ("llama", "MISS", {"r": 4, "init_weights": "bat"}),
    "MISS, mini": ("llama", "MISS", {"r": 4, "mini_r": 4, "init_weights": "mini"}),
    "VERA, all linear": ("llama", "VERA", {"r": 4, "target_modules": "all-linear"}),
    "IA3, saved whole": ("llama", "IA3", {"feedforward_modules": [], "modules_to_save": ["lm_head"]}),
    "OFT, shared blocks": ("llama", "OFT", {"oft_block_size": 8, "block_share": True, "coft": True}),
}


@pytest.mark.parametrize("case", OTHER_LAYERS)
def test_other_layers_and_settings(tmp_path: Path, case: str) -> None:
    kind, name, options = OTHER_LAYERS[case]
    before, after = trained(tmp_path, config_of(name, {"target_modules": TARGETS} | options), small(kind))
    plan = plan_updates(*opened(tmp_path))
    assert_all_accounted_for(plan, tmp_path / "adapter", tmp_path / "base")
    assert not any(row.failed for row in plan.coverage)
    assert_is_what_merging_changes(plan, before, after, transposed=kind == "gpt2")
    assert {spec.identity.kind == "conv" for spec in plan.specs} == {kind == "resnet"}


@pytest.mark.parametrize("method", ["VERA", "PVERA"])
def test_shared_projections_are_those_of_the_file(tmp_path: Path, method: str) -> None:
    """PEFT 0.20 draws them again by their seed and passes over those that it saved."""
    trained(tmp_path, config_of(method, {"target_modules": TARGETS} | DELTA[method]))
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors, start = load_file(file), method.lower()
    shared = {name: torch.randn_like(value) for name, value in tensors.items() if "lambda" not in name}
    assert set(shared) == {f"base_model.{start}_A", f"base_model.{start}_B"}
    save_file(tensors | shared, file, metadata={"format": "pt"})
    plan = plan_updates(*opened(tmp_path))
    for spec in plan.specs:
        b, d = (tensors[f"base_model.model.{spec.module}.{start}_lambda_{which}"].double() for which in "bd")
        A, B = (shared[f"base_model.{start}_{which}"].double() for which in "AB")
        out, across = spec.shape
        mean = (d[:, None] * A[:, :across])[: B.shape[1]]  # the other half of PVeRA's is of the noise of training
        exact = b[:, None] * B[:out] @ mean
        torch.testing.assert_close(read_update(spec).to_dense(), exact, rtol=1e-6, atol=1e-9)


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


@pytest.mark.parametrize("name", installed(NONE))
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


def test_merged_updates_are_exact_and_fail_one_by_one(tmp_path: Path) -> None:
    """No rounding in what was merged here; an untrained adapter changes nothing, NaN costs its own row."""
    from peft import LoHaConfig, get_peft_model

    small().save_pretrained(tmp_path / "base")
    get_peft_model(small(), LoHaConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    report = analyze(tmp_path / "adapter", tmp_path / "base")
    assert report.updates["frobenius_norm"].tolist() == [0.0, 0.0]
    assert report.updates["numerical_rank"].tolist() == [0, 0]
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = {name: torch.ones_like(value) for name, value in load_file(file).items()}
    tensors["base_model.model.model.layers.1.self_attn.q_proj.hada_w1_a"][0, 0] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    report = analyze(tmp_path / "adapter", tmp_path / "base")
    assert report.updates["noise_regime"].tolist()[0] == "exact"
    assert report.updates["noise_regime"].isna().tolist() == [False, True]
    assert report.updates["numerical_rank"].tolist()[0] == 1
    assert report.updates["numerical_rank"].isna().tolist() == [False, True]
    failed = report.coverage[report.coverage["failed"]]
    assert set(failed["module"]) == {"model.layers.1.self_attn.q_proj"}
    assert len(failed) == 4
