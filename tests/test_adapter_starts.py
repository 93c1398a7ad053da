"""Adapters that take their initial factors out of the base: against the original one, or said not to be."""

from pathlib import Path
from typing import Any

import pytest
import torch

from rank_lab import Checkpoint, Settings, analyze, plan_updates, read_update
from rank_lab.errors import PairingError, UnsupportedUpdateError
from tests.checkpoints import assert_all_accounted_for, factors, rank_lab, save, save_adapter
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
    assert report.updates["warning"].str.contains("the initial adapter is taken out").all()
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
        text = "taken for the original" if against_original else f"update of the residual base, {start} took its"
        assert report.updates["warning"].str.contains(text).all()
        more = r"give the original base \(--base\)" if recomputed else r"\(--initial-adapter\)"
        assert against_original or report.updates["warning"].str.contains(more).all()


def test_loftq_says_that_the_error_of_the_quantised_base_is_not_in_it(tmp_path: Path) -> None:
    config = {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}}
    tensors = {f"base_model.model.h.0.q_proj.lora_{n}.weight": torch.ones(2, 2) for n in "AB"}
    folder = save_adapter(tmp_path, tensors, **config)
    (spec,) = plan_updates(Checkpoint.open(folder)).specs
    assert "update of the quantised base, whose error loftq's factors start with" in spec.note


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


def test_steps_of_a_merged_adapter_and_of_one_that_changed_its_base(tmp_path: Path) -> None:
    from peft import get_peft_model

    for name, options in (("dora", {"use_dora": True}), ("pissa", {"init_lora_weights": "pissa"})):
        folder = tmp_path / name
        model = small()
        model.save_pretrained(folder / "base")
        before = {n: value.detach().double() for n, value in model.state_dict().items()}
        adapted = get_peft_model(model, lora(**options))
        states = []
        for step in (1, 2):
            perturbed(adapted)
            adapted.save_pretrained(folder / "run" / f"checkpoint-{step}")
            adapted.merge_adapter()
            states.append({n: v.double() for n, v in adapted.get_base_model().state_dict().items()})
            adapted.unmerge_adapter()
        report = analyze(folder / "run", folder / "base")
        assert not report.coverage["failed"].any()
        table = report.updates.set_index(["delta", "step", "module"])["frobenius_norm"]
        for module in {module for _, _, module in table.index}:
            first, second = (state[f"{module}.base_layer.weight"] for state in states)
            whole = float((second - before[f"{module}.weight"]).norm())
            assert table["cumulative", 2, module] == pytest.approx(whole, rel=1e-4)
            assert table["step", 2, module] == pytest.approx(float((second - first).norm()), rel=1e-4)
            assert table["step", 1, module] == table["cumulative", 1, module]


def test_dora_after_a_start_that_cannot_be_repeated_is_refused(tmp_path: Path, generator: torch.Generator) -> None:
    folder = save_adapter(tmp_path, factors(generator), use_dora=True, init_lora_weights="corda")
    with pytest.raises(UnsupportedUpdateError, match="use_dora with init_lora_weights='corda': the base was changed"):
        plan_updates(Checkpoint.open(folder))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_pissa_takes_out_is_the_best_approximation(
    tmp_path: Path, generator: torch.Generator, dtype: torch.dtype
) -> None:
    """Without PEFT: its initial factors are the largest singular directions, unrounded whatever the base's type."""
    module = "model.layers.0.self_attn.q_proj"
    weight = torch.randn(8, 8, generator=generator).to(dtype)
    save(tmp_path / "base", {f"{module}.weight": weight})
    tensors = factors(generator, module)
    folder = save_adapter(tmp_path / "adapter", tensors, init_lora_weights="pissa", r=2, lora_alpha=6)
    (spec,) = plan_updates(Checkpoint.open(folder), Checkpoint.open(tmp_path / "base")).specs
    A, B = (tensor.double() for tensor in tensors.values())
    U, values, Vh = torch.linalg.svd(weight.double())
    taken = U[:, :2] @ torch.diag(values[:2]) @ Vh[:2]
    torch.testing.assert_close(read_update(spec).to_dense(), 3 * B @ A - taken, rtol=1e-5, atol=1e-5)
