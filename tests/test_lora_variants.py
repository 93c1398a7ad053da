"""Variants of LoRA, against what PEFT merges: exact factors where they are, merged layers where not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rank_lab import Checkpoint, RankReport, analyze, plan_updates, read_update
from rank_lab.coverage import Plan
from rank_lab.errors import CheckpointError, PairingError, ShapeMismatchError, UnsupportedUpdateError
from tests.checkpoints import assert_all_accounted_for, factors, llama, rank_lab, save, save_adapter
from tests.peft_models import (
    TARGETS,
    assert_is_what_merging_changes,
    lora,
    lora_of,
    opened,
    perturbed,
    small,
    trained,
)

# PEFT's and transformers' own remarks
pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("UserWarning", "RuntimeWarning", "FutureWarning")
]

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


@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss", "one parameter", "two-dimensional"])
def test_experts_in_stacks(tmp_path: Path, kind: str) -> None:
    """PEFT merges into the stack in memory; a Mixtral's files hold its experts one by one."""
    names = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    if kind == "one parameter":
        names = names[1:]
    if kind == "two-dimensional":
        names = ["mlp.up_proj.weight"]
    model = {"gpt_oss": "gpt_oss", "two-dimensional": "llama"}.get(kind, "mixtral")
    config = lora(target_modules=["q_proj"], target_parameters=names, rank_pattern={"experts.down_proj": 3})
    before, after = trained(tmp_path, config, small(model))
    tuned, base = opened(tmp_path)
    plan = plan_updates(tuned, base)
    assert_all_accounted_for(plan, tmp_path / "adapter", tmp_path / "base")
    stacks = {name: value for name, value in before.items() if any(name.endswith(n) for n in names)}
    assert len(stacks) == 2 * len(names)
    modules = {spec.module: spec for spec in plan.specs}
    for name, value in stacks.items():
        change = after[name] - value
        for expert in range(len(change) if change.ndim == 3 else 1):
            path = name.replace("experts.", f"experts.{expert}.") if change.ndim == 3 else name
            spec = modules.pop(path)
            exact = change[expert] if change.ndim == 3 else change
            exact = exact.T if model == "gpt_oss" else exact
            torch.testing.assert_close(read_update(spec).to_dense(), exact, rtol=1e-12, atol=1e-13)
            assert spec.identity.expert == (expert if change.ndim == 3 else None)
            assert spec.rank_bound == (3 if "down" in name else 4)
            assert ("stores under other names" in spec.note) == (model == "mixtral")
            assert (spec.weight is None) == (model == "mixtral")
    assert set(modules) == {f"model.layers.{layer}.self_attn.q_proj" for layer in (0, 1)}
    frozen = [row.tensor for row in plan.coverage if row.status == "identical"]
    assert not any("experts" in name for name in frozen if model == "mixtral")
    report = analyze(tmp_path / "adapter", tmp_path / "base")
    assert not report.coverage["failed"].any()
    assert len(report.updates) == len(plan.specs)


def test_factors_that_fit_two_parameters_are_not_guessed(tmp_path: Path) -> None:
    names = ["experts.one", "experts.two"]
    tensors = {
        f"base_model.model.h.0.experts.{nest}lora_{factor}.weight": torch.ones(4, 4)
        for nest in ("", "base_layer.")
        for factor in "AB"
    }
    folder = save_adapter(tmp_path, tensors, target_parameters=names)
    with pytest.raises(UnsupportedUpdateError, match=r"fit its parameters [(]one, two[)] in several ways"):
        plan_updates(Checkpoint.open(folder))
    folder = save_adapter(tmp_path, tensors, target_parameters=["one", "two"])
    with pytest.raises(UnsupportedUpdateError, match="target_parameters='one' names a parameter without its module"):
        plan_updates(Checkpoint.open(folder))
    folder = save_adapter(tmp_path, tensors, target_parameters=names, r=3)
    with pytest.raises(PairingError, match="holds the factors of 2 parameters, but target_parameters names 1"):
        plan_updates(Checkpoint.open(save_adapter(tmp_path, tensors, target_parameters=names[:1])))


@pytest.mark.parametrize("which", [[1, 5, 40], {"embed_tokens": [40, 1]}])
def test_trained_tokens_beside_a_lora(tmp_path: Path, which: Any) -> None:
    before, after = trained(tmp_path, lora(trainable_token_indices=which))
    plan = plan_updates(*opened(tmp_path))
    assert_all_accounted_for(plan, tmp_path / "adapter", tmp_path / "base")
    path = "model.embed_tokens.token_adapter"
    spec = next(spec for spec in plan.specs if spec.module == path)
    exact = after["model.embed_tokens.weight"] - before["model.embed_tokens.weight"]
    rows = which["embed_tokens"] if isinstance(which, dict) else which
    assert (spec.rank_bound, spec.update_kind, spec.identity.kind) == (len(rows), "merged", "embed")
    torch.testing.assert_close(read_update(spec).to_dense(), exact, rtol=1e-12, atol=1e-15)
    others = plan_updates(Checkpoint.open(tmp_path / "adapter"))
    (row,) = [row for row in others.coverage if "trainable_tokens" in row.tensor]
    assert (row.status, row.failed) == ("skipped", False)
    assert row.reason == "rows of an embedding, trained: their change needs --base"
    report = analyze(tmp_path / "adapter", tmp_path / "base").updates.set_index("module")
    assert report.loc[path, "numerical_rank"] == len(rows)
    assert report.loc[path, "frobenius_norm"] == pytest.approx(float(exact.norm()))


def test_trained_tokens_of_another_vocabulary_fail_by_name(tmp_path: Path) -> None:
    trained(tmp_path, lora(trainable_token_indices=[1, 5]))
    config = tmp_path / "adapter" / "adapter_config.json"
    for given, text in (("[\n    1,\n    5\n  ]", "[1, 90]"), ("[1, 90]", "[1]")):
        config.write_text(config.read_text().replace(given, text))
        (row,) = [row for row in plan_updates(*opened(tmp_path)).coverage if "trainable_tokens" in row.tensor]
        assert row.failed
        assert ("not the model that the adapter was trained on" if "90" in text else "names 1 tokens") in row.reason


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_merged_and_unmerged_give_the_same_numbers(tmp_path: Path, method: str) -> None:
    from peft import PeftModel

    trained(tmp_path, lora(use_dora=method == "dora"))
    merged = PeftModel.from_pretrained(small(), tmp_path / "adapter").merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    ours = analyze(tmp_path / "adapter", tmp_path / "base").updates.set_index("module")
    stored = analyze(tmp_path / "merged", tmp_path / "base").updates.set_index("module").loc[ours.index]
    assert len(ours) == 6
    for name in ("frobenius_norm", "spectral_norm", "relative_frobenius"):
        np.testing.assert_allclose(ours[name], stored[name], rtol=1e-5)
    assert (ours["energy_rank_99"] == stored["energy_rank_99"]).all()
    assert ours["update_kind"].unique().tolist() == ["merged" if method == "dora" else "lora"]


@pytest.mark.parametrize("changed", ["shared tensor", "config"])
def test_the_cache_of_merged_updates_sees_what_they_depend_on(tmp_path: Path, changed: str) -> None:
    from peft import LoHaConfig, VeraConfig
    from safetensors.torch import load_file, save_file

    kind = VeraConfig if changed == "shared tensor" else LoHaConfig
    trained(tmp_path, kind(r=4, target_modules=TARGETS))
    file, config = (tmp_path / "adapter" / name for name in ("adapter_model.safetensors", "adapter_config.json"))

    def norms() -> list[float]:
        study = tmp_path / "study"
        assert rank_lab("analyze", tmp_path / "adapter", "--base", tmp_path / "base", "-o", study).code == 0
        return RankReport.load(study / "adapter.rank").updates["frobenius_norm"].tolist()

    first = norms()
    assert norms() == first
    if changed == "config":
        config.write_text(config.read_text().replace('"alpha": 8', '"alpha": 16'))
    else:
        tensors = load_file(file)
        tensors["base_model.vera_A"] = 2 * tensors["base_model.vera_A"]
        save_file(tensors, file, metadata={"format": "pt"})
    np.testing.assert_allclose(norms(), 2 * np.array(first), rtol=1e-6)


def test_projections_that_are_not_saved_come_from_their_seed(tmp_path: Path) -> None:
    from peft import VeraConfig

    before, after = trained(tmp_path, VeraConfig(r=4, target_modules=TARGETS, save_projection=False))
    tuned, base = opened(tmp_path)
    assert not any(name.endswith(("vera_A", "vera_B")) for name in tuned.tensors)
    assert_is_what_merging_changes(plan_updates(tuned, base), before, after, within=1e-7)


ROUTED = {
    "alora": {"alora_invocation_tokens": [1, 2]},
    "arrow": {"arrow_config": {"top_k": 3}},
}


@pytest.mark.parametrize("name", ROUTED)
def test_variants_that_apply_to_some_tokens_only_have_no_update(
    tmp_path: Path, generator: torch.Generator, name: str
) -> None:
    plan = plan_updates(Checkpoint.open(save_adapter(tmp_path, factors(generator), **ROUTED[name])))
    assert plan.specs == ()
    assert all("differs from token to token" in row.reason and row.status == "new" for row in plan.coverage)


@pytest.mark.parametrize("name", ["use_qalora", "layer_replication"])
def test_variants_that_are_not_read_are_refused_by_name(tmp_path: Path, generator: torch.Generator, name: str) -> None:
    values = {"use_qalora": True, "layer_replication": [[0, 2]]}
    for dora in (False, True):
        folder = save_adapter(tmp_path, factors(generator), use_dora=dora, **{name: values[name]})
        with pytest.raises(UnsupportedUpdateError, match=f"adapter_config.json: setting {name}="):
            plan_updates(Checkpoint.open(folder))


def test_several_adapters_lie_in_folders_of_their_own(tmp_path: Path) -> None:
    from peft import get_peft_model

    adapted = get_peft_model(small(), lora(target_modules=["q_proj"]), adapter_name="one")
    adapted.add_adapter("two", lora(target_modules=["v_proj"]))
    perturbed(adapted)
    adapted.save_pretrained(tmp_path)
    assert {spec.identity.kind for spec in plan_updates(Checkpoint.open(tmp_path / "two")).specs} == {"v"}
    with pytest.raises(CheckpointError, match="adapters in the folders one, two, of which to name one"):
        Checkpoint.open(tmp_path)
    adapted = get_peft_model(small(), lora(target_modules=["q_proj"]))
    adapted.save_pretrained(tmp_path)
    plan = plan_updates(Checkpoint.open(tmp_path))
    aside = {row.tensor: row.reason for row in plan.coverage if row.status == "skipped"}
    assert aside == dict.fromkeys(["one", "two"], "another adapter, to be named by itself")


def test_config_and_weights_of_two_adapters_fail_module_by_module(tmp_path: Path) -> None:
    from peft import LoHaConfig

    trained(tmp_path, LoHaConfig(r=4, target_modules=TARGETS))
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(config.read_text().replace('"r": 4', '"r": 3'))
    report = analyze(tmp_path / "adapter", tmp_path / "base")
    assert report.coverage.loc[report.coverage["module"] != "", "failed"].all()
    assert report.updates["warning"].str.contains("PEFT cannot load the adapter of").all()
    config.write_text(config.read_text().replace('"r": 3', '"r": 4, "of_tomorrow": 1'))
    report = analyze(tmp_path / "adapter", tmp_path / "base")
    assert report.updates["warning"].str.contains("knows no setting of_tomorrow of LOHA").all()


def test_a_bias_beside_the_factors_has_a_scaled_norm(tmp_path: Path) -> None:
    before, after = trained(tmp_path, lora(lora_bias=True, target_modules=["q_proj"], rank_pattern={"layers.1": 2}))
    report = analyze(tmp_path / "adapter", tmp_path / "base")
    rows = report.coverage[report.coverage["tensor"].str.endswith("lora_B.bias")].set_index("tensor")
    assert rows["status"].tolist() == ["vector", "vector"]
    for layer in (0, 1):
        name = f"model.layers.{layer}.self_attn.q_proj"
        norm = rows.loc[f"base_model.model.{name}.lora_B.bias", "frobenius_norm"]
        assert norm == pytest.approx(float((after[f"{name}.bias"] - before[f"{name}.bias"]).norm()), rel=1e-6)


def test_dora_is_its_formula(tmp_path: Path, generator: torch.Generator) -> None:
    """Without PEFT: rows of W + s B A, each scaled to its trained magnitude."""
    module = "model.layers.0.self_attn.q_proj"
    weight = torch.randn(8, 8, generator=generator)
    save(tmp_path / "base", {f"{module}.weight": weight})
    tensors = factors(generator, module)
    magnitude = torch.rand(8, generator=generator)
    own = {f"base_model.model.{module}.lora_magnitude_vector": magnitude}
    folder = save_adapter(tmp_path / "adapter", tensors | own, use_dora=True, r=2, lora_alpha=6)
    (spec,) = plan_updates(Checkpoint.open(folder), Checkpoint.open(tmp_path / "base")).specs
    A, B = (tensor.double() for tensor in tensors.values())
    moved = weight.double() + 3 * B @ A
    exact = magnitude.double()[:, None] * moved / moved.norm(dim=1, keepdim=True) - weight.double()
    torch.testing.assert_close(read_update(spec).to_dense(), exact, rtol=1e-12, atol=1e-12)


def test_reading_leaves_the_random_numbers_alone(tmp_path: Path) -> None:
    trained(tmp_path, lora(use_dora=True, target_modules=["q_proj"]))
    specs = plan_updates(*opened(tmp_path)).specs
    state = torch.random.get_rng_state()
    first = [read_update(spec).to_dense() for spec in specs]
    assert torch.random.get_rng_state().equal(state)
    torch.manual_seed(1234)
    assert all(read_update(spec).to_dense().equal(old) for spec, old in zip(specs, first, strict=True))


def test_block_diagonal_factors(tmp_path: Path) -> None:
    """BD-LoRA, which PEFT does not merge: against what its layers make of unit vectors."""
    from peft import get_peft_model

    blocks = {"target_modules_bd_a": ["q_proj"], "target_modules_bd_b": ["down_proj"], "nblocks": 2}
    model = small()
    model.save_pretrained(tmp_path / "base")
    config = lora_of({"use_bdlora": ("BdLoraConfig", blocks | {"match_strict": False})})
    adapted = get_peft_model(model, config)
    perturbed(adapted)
    adapted.save_pretrained(tmp_path / "adapter")
    adapted.double()
    plan = plan_updates(*opened(tmp_path))
    assert_all_accounted_for(plan, tmp_path / "adapter", tmp_path / "base")
    assert len(plan.specs) == 6
    for spec in plan.specs:
        layer = adapted.get_base_model().get_submodule(spec.module)
        with torch.no_grad():
            units = torch.eye(spec.shape[1], dtype=torch.float64)
            exact = (layer(units) - layer.base_layer(units)).T
        torch.testing.assert_close(read_update(spec).to_dense(), exact, rtol=1e-10, atol=1e-12)
        assert spec.rank_bound == 4
    assert not analyze(tmp_path / "adapter", tmp_path / "base").coverage["failed"].any()


def test_dora_on_another_models_base_is_refused_in_one_line(tmp_path: Path, generator: torch.Generator) -> None:
    tensors = factors(generator, shape=(8, 8))
    tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"] = torch.ones(8)
    adapter = save_adapter(tmp_path / "adapter", tensors, use_dora=True)
    base = save(tmp_path / "base", llama(generator, width=16))
    with pytest.raises(ShapeMismatchError, match="the base is another model's"):
        plan_updates(Checkpoint.open(adapter), Checkpoint.open(base))
