"""Variants of LoRA, against what PEFT merges: exact factors where they are, merged layers where not."""

from pathlib import Path
from typing import Any

import pytest
import torch

from rank_lab import Checkpoint, Settings, analyze, plan_updates, read_update
from rank_lab.coverage import Plan
from rank_lab.errors import PairingError
from tests.checkpoints import assert_all_accounted_for, rank_lab, save_adapter
from tests.peft_models import (
    Model,
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


def started(folder: Path, config: Any, prepare: Any = None) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """As :func:`trained`, with the adapter saved before training too, as PEFT asks for it."""
    from peft import get_peft_model

    model = small()
    model.save_pretrained(folder / "base")
    before = {name: value.detach().double() for name, value in model.state_dict().items()}
    if prepare is not None:
        prepare(model, config)
    adapted = get_peft_model(model, config)
    adapted.save_pretrained(folder / "initial")
    perturbed(adapted)
    adapted.save_pretrained(folder / "adapter")
    return before, {name: value.double() for name, value in adapted.double().merge_and_unload().state_dict().items()}


def run(model: Model) -> Any:
    words = (7 * torch.arange(48)).reshape(1, 48) % 60
    return model(input_ids=words, labels=words).loss


def for_corda(model: Model, config: Any) -> None:
    from peft.tuners.lora.corda import preprocess_corda

    with torch.no_grad():
        preprocess_corda(model, config, run_model=lambda: run(model))


def for_lora_ga(model: Model, config: Any) -> None:
    from peft.tuners.lora.loraga import preprocess_loraga

    preprocess_loraga(model, config, train_step=lambda: run(model).backward())


STARTS: dict[str, tuple[dict[str, Any], Any]] = {
    "pissa": ({"init_lora_weights": "pissa"}, None),
    "pissa_niter_4": ({"init_lora_weights": "pissa_niter_4"}, None),
    "olora": ({"init_lora_weights": "olora"}, None),
    "corda": ({"init_lora_weights": "corda", "corda_config": ("CordaConfig", {"corda_method": "kpm"})}, for_corda),
    "lora_ga": ({"init_lora_weights": "lora_ga", "lora_ga_config": ("LoraGAConfig", {})}, for_lora_ga),
}


@pytest.mark.parametrize("start", STARTS)
def test_the_initial_adapter_gives_the_update_of_the_original_base(tmp_path: Path, start: str) -> None:
    options, prepare = STARTS[start]
    before, after = started(tmp_path, lora_of(options), prepare)
    tuned, base = opened(tmp_path)
    initial = Checkpoint.open(tmp_path / "initial")
    plan = plan_updates(tuned, base, initial=initial)
    assert_all_accounted_for(plan, tmp_path / "adapter", tmp_path / "base")
    assert_is_what_merging_changes(plan, before, after, within=1e-6)
    assert {(spec.rank_bound, spec.update_kind) for spec in plan.specs} == {(8, "lora")}
    for spec, alone in zip(plan.specs, plan_updates(tuned, initial=initial).specs, strict=True):
        assert read_update(alone).to_dense().equal(read_update(spec).to_dense())  # it needs no base
    study = tmp_path / "study"
    done = rank_lab(
        "analyze", tmp_path / "adapter", "--initial-adapter", tmp_path / "initial", "-o", study, "--name", "a"
    )
    assert (done.code, done.err) == (0, "")
    report = analyze(tmp_path / "adapter", settings=Settings(initial=tmp_path / "initial"))
    assert (report.updates["numerical_rank"] == 8).all()
    assert report.updates["warning"].str.contains("since the initial adapter").all()
    assert report.provenance["settings"]["initial"] == str(tmp_path / "initial")


@pytest.mark.parametrize("start", STARTS)
def test_without_it_the_update_of_the_residual_says_what_it_is(tmp_path: Path, start: str) -> None:
    options, prepare = STARTS[start]
    started(tmp_path, lora_of(options), prepare)
    recomputed = start in {"pissa", "olora"}
    for base in (None, tmp_path / "base"):
        report = analyze(tmp_path / "adapter", base)
        against_original = recomputed and base is not None
        assert (report.updates["numerical_rank"] == (8 if against_original else 4)).all()
        text = "taken for the original" if against_original else f"update of the residual base: {start} took its"
        assert report.updates["warning"].str.contains(text).all()
        more = "give the original base as --base" if recomputed else r"\(--initial-adapter\)"
        assert against_original or report.updates["warning"].str.contains(more).all()


def test_loftq_says_that_the_error_of_the_quantised_base_is_not_in_it(tmp_path: Path) -> None:
    config = {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}}
    tensors = {f"base_model.model.h.0.q_proj.lora_{n}.weight": torch.ones(2, 2) for n in "AB"}
    folder = save_adapter(tmp_path, tensors, **config)
    (spec,) = plan_updates(Checkpoint.open(folder)).specs
    assert spec.note.startswith("update of the quantised base: loftq's factors start at its error")


def test_an_initial_adapter_of_something_else_is_refused(tmp_path: Path) -> None:
    started(tmp_path, lora(init_lora_weights="pissa"))
    tuned, base = opened(tmp_path)
    with pytest.raises(PairingError, match="is the adapter itself"):
        plan_updates(tuned, base, initial=tuned)
    with pytest.raises(PairingError, match="no adapter; give the adapter as it was saved before"):
        plan_updates(tuned, base, initial=base)
    with pytest.raises(PairingError, match="leave out --initial-adapter"):
        plan_updates(base, Checkpoint.open(small_copy(tmp_path)), initial=tuned)
    trained(tmp_path / "other", lora(target_modules=["q_proj"]))
    with pytest.raises(PairingError, match="is adapted in only one of"):
        plan_updates(tuned, base, initial=Checkpoint.open(tmp_path / "other" / "adapter"))
    trained(tmp_path / "dora", lora(use_dora=True))
    with pytest.raises(PairingError, match="--initial-adapter is for factors"):
        plan_updates(*opened(tmp_path / "dora"), initial=tuned)


def small_copy(folder: Path) -> Path:
    small("llama").save_pretrained(folder / "again")
    return folder / "again"


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
