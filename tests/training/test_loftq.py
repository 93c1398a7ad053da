"""LoftQ: the rounding against NF4's definition, the start against the best approximation, and its analysis."""

import copy
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model

from rank_lab import Checkpoint, analyze, plan_updates, read_update
from rank_lab.errors import UnsupportedUpdateError
from rank_lab.training.loftq import BLOCK, NF4, LoftqAdapterConfig, rounded_to_nf4
from rank_lab.training.method import MethodChoices
from rank_lab.training.methods import METHODS
from tests.training.models import fresh, loaded, logits, saved_base, train

# As bitsandbytes has them (create_normal_map is where its kernels' table comes from)
PUBLISHED = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip


def test_the_levels_are_the_published_ones() -> None:
    torch.testing.assert_close(NF4, torch.tensor(PUBLISHED), rtol=0, atol=2e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_value_becomes_the_nearest_level_of_its_block(dtype: torch.dtype) -> None:
    weight = torch.randn(7, 30, generator=torch.Generator().manual_seed(1)).to(dtype)
    rounded = rounded_to_nf4(weight)
    assert (rounded.shape, rounded.dtype) == (weight.shape, dtype)
    for start in range(0, weight.numel(), BLOCK):
        block = weight.reshape(-1)[start : start + BLOCK].float()
        levels = NF4 * block.abs().max()
        nearest = levels[(block[:, None] - levels).abs().argmin(dim=1)]
        torch.testing.assert_close(rounded.reshape(-1)[start : start + BLOCK], nearest.to(dtype), rtol=0, atol=0)
    assert torch.equal(rounded_to_nf4(torch.zeros(3, 3)), torch.zeros(3, 3))


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_start_is_the_best_approximation_of_the_error(architecture: str) -> None:
    base = fresh(architecture, "causal")
    weights = {name: value.detach().clone() for name, value in base.named_parameters()}
    model = METHODS["loftq"].adapt(base, MethodChoices(rank=4), "causal")
    layers = {name: module for name, module in model.base_model.model.named_modules() if hasattr(module, "lora_A")}
    assert layers
    for name, layer in layers.items():
        rounded = rounded_to_nf4(weights[f"{name}.weight"])
        assert torch.equal(layer.base_layer.weight, rounded)
        error = weights[f"{name}.weight"] - rounded
        left = error - layer.get_delta_weight("default")
        best = torch.linalg.svdvals(error)[4:].square().sum().sqrt()
        torch.testing.assert_close(left.norm(), best, rtol=1e-4, atol=1e-6)
        assert float(best) < float(error.norm())


def test_what_was_learned_is_the_update_since_the_start(tmp_path: Path) -> None:
    base = saved_base(tmp_path / "base", "llama", "causal")
    model = METHODS["loftq"].adapt(loaded(base, "llama", "causal"), MethodChoices(rank=4), "causal")
    model.save_pretrained(tmp_path / "start")
    first = {name: layer.get_delta_weight("default").clone() for name, layer in factored(model)}
    train(model, "causal")
    model.save_pretrained(tmp_path / "tuned")
    lean = PeftModel.from_pretrained(loaded(base, "llama", "causal"), tmp_path / "tuned", low_cpu_mem_usage=True)
    torch.testing.assert_close(logits(lean), logits(model))
    plan = plan_updates(
        Checkpoint.open(tmp_path / "tuned"), Checkpoint.open(base), initial=Checkpoint.open(tmp_path / "start")
    )
    exact = {name: layer.get_delta_weight("default") - first[name] for name, layer in factored(model)}
    assert {spec.module for spec in plan.specs} == set(exact)
    for spec in plan.specs:
        torch.testing.assert_close(read_update(spec).to_dense().float(), exact[spec.module], rtol=1e-4, atol=1e-6)
    report = analyze(tmp_path / "tuned", base)
    assert report.updates["warning"].str.contains("update of the quantised base").all()


def factored(model: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    named = model.base_model.model.named_modules()  # type: ignore[union-attr,operator]
    return [(name, module) for name, module in named if hasattr(module, "lora_A")]


def test_what_it_cannot_be_combined_with_is_refused() -> None:
    for options in ({"init_lora_weights": "pissa"}, {"use_dora": True}):
        with pytest.raises(UnsupportedUpdateError, match="another start and another method"):
            LoftqAdapterConfig(**options)
    model = METHODS["loftq"].adapt(fresh("llama", "causal"), MethodChoices(rank=4), "causal")
    with pytest.raises(UnsupportedUpdateError, match="has another adapter already"):
        model.add_adapter("other", copy.deepcopy(model.peft_config["default"]))
    with pytest.raises(UnsupportedUpdateError, match="is no linear layer to round"):
        get_peft_model(fresh("llama", "causal"), LoftqAdapterConfig(r=2, target_modules=["embed_tokens"]))
