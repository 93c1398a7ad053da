"""How often ranks are looked at follows from sizes alone, and is never more than the share allows."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rank_lab import Checkpoint, plan_updates
from rank_lab.training.live import LiveTensor, live_checkpoint, with_copies
from rank_lab.training.live_measuring import best_device
from rank_lab.training.step_cost import CountTokens, counted_weights, rates_for
from rank_lab.training.tracking_points import (
    CPU,
    CUDA,
    CUDA_16,
    MOST_POINTS,
    PointCost,
    log_spaced,
    log_spaced_among,
    point_seconds,
    points_within,
    step_seconds,
)
from tests.peft_models import small
from tests.test_analyses import results_of
from tests.training.tracked_runs import base_of, model_of


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 100, 4321])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 20, 10_000])
def test_log_spaced_steps_are_as_many_as_asked_and_end_at_the_last(steps: int, count: int) -> None:
    found = log_spaced(steps, count)
    assert found[-1] == steps
    assert list(found) == sorted(set(found))
    assert found[0] >= 1
    assert len(found) == (1 if count < 2 or steps < 2 else min(count, steps))


@pytest.mark.parametrize(
    "steps", [(4,), (1, 2, 3, 4), (10, 50, 1000), (1, 3, 7, 19, 52, 139, 373, 1000), (998, 999, 1000)]
)
@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 20])
def test_points_among_checkpoints_are_some_of_these_and_end_at_the_last(steps: tuple[int, ...], count: int) -> None:
    found = log_spaced_among(steps, count)
    assert set(found) <= set(steps)
    assert list(found) == sorted(set(found))
    assert len(found) == min(count, len(steps))
    assert not found or found[-1] == steps[-1]
    assert len(found) < 2 or found[0] == steps[0]


@pytest.mark.parametrize("steps", [10, 1000, 100_000])
@pytest.mark.parametrize(("point", "once"), [(0.1, 0.0), (3.0, 1.0), (50.0, 20.0)])
def test_points_keep_to_the_share_or_there_are_none(steps: int, point: float, once: float) -> None:
    cost = PointCost(step=0.5, point=point, once=once)
    count = points_within(steps, cost, 0.02)
    assert 0 <= count <= min(steps, MOST_POINTS)
    fits = once + point <= 0.02 * steps * 0.5
    assert (count > 0) == fits
    assert not count or once + count * point <= 0.02 * steps * 0.5
    assert not fits or count == min(steps, MOST_POINTS) or once + (count + 1) * point > 0.02 * steps * 0.5


def test_the_cost_grows_with_what_is_measured(tmp_path: Path) -> None:
    base = Checkpoint.open(base_of(tmp_path))
    full, lora = (plan_updates(live_checkpoint(model_of(kind), "live"), base).specs for kind in ("full", "lora"))
    assert point_seconds(full, CPU) > 2 * point_seconds(lora, CPU) > 0
    assert point_seconds(full, CPU, deltas=1) == point_seconds(full, CPU) / 2
    assert step_seconds(10, 10, 1.0, CPU) == pytest.approx(1.5 * step_seconds(10, 10, 0.0, CPU))


def test_weights_that_tokens_meet_are_counted_without_the_lookup() -> None:
    model = small()
    matrices = {name: value.numel() for name, value in model.named_parameters() if value.ndim > 1}
    total = sum(matrices.values()) - matrices["model.embed_tokens.weight"]
    assert counted_weights(model) == (total, 1.0)
    weights, share = counted_weights(model_of("lora"))
    assert weights > total
    assert 0.0 < share < 0.2


def test_tokens_are_counted_while_training_only() -> None:
    model = small().eval()
    counter = CountTokens(model)
    ids = torch.zeros(3, 7, dtype=torch.int64)
    model(input_ids=ids)
    assert counter.count == 0
    model.train()
    model(input_ids=ids)
    model(inputs_embeds=torch.zeros(2, 5, 32))
    assert counter.count == 31
    counter.stop()
    model(input_ids=ids)
    assert counter.count == 31


def test_rates_are_those_of_the_machine() -> None:
    model: Any = torch.nn.Linear(2, 2)
    arguments = SimpleNamespace(bf16=False, fp16=False)
    torch.set_num_threads(2)
    try:
        assert rates_for(model, arguments).gram == CPU.gram / 2
        assert rates_for(model, arguments).row == CPU.row
    finally:
        torch.set_num_threads(1)
    on_gpu: Any = SimpleNamespace(
        parameters=lambda: iter([SimpleNamespace(device=SimpleNamespace(type="cuda"), dtype=torch.float32)])
    )
    assert rates_for(on_gpu, arguments) is CUDA
    assert rates_for(on_gpu, SimpleNamespace(bf16=True, fp16=False)) is CUDA_16


@pytest.mark.parametrize(
    ("capability", "device"), [((9, 0), "cuda:1"), ((8, 0), "cuda:1"), ((8, 9), "cpu"), ((7, 5), "cpu")]
)
def test_spectra_stay_on_a_gpu_with_fast_float64(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert best_device(torch.device("cuda:1")) == device


def test_live_tensors_are_read_in_parts_like_those_of_files() -> None:
    weight = torch.arange(24.0).reshape(4, 6)
    tensor = LiveTensor.of("w", weight, Path("memory"))
    assert tensor.view((2, 6), start=12).read().equal(weight[2:])
    assert tensor.select(0, period=2, start=1, length=1).read().equal(weight[1::2])
    assert tensor.select(1, period=3, start=0, length=2).block(slice(0, 1), slice(0, 4)).tolist() == [[0, 1, 3, 4]]
    assert torch.cat(list(tensor.chunks())).equal(weight.reshape(-1))
    assert tensor.digest() == LiveTensor.of("w", weight.clone(), Path("other")).digest()
    part = tensor.read()
    weight.zero_()
    assert part.sum() == 276


def test_a_copy_from_before_training_stays_as_it_was() -> None:
    layer = torch.nn.Linear(3, 2)
    before = layer.weight.detach().clone()
    copy = with_copies(live_checkpoint(layer, "live"), frozenset({"weight"}))
    with torch.no_grad():
        layer.weight.add_(1.0)
        layer.bias.fill_(7.0)
    assert copy["weight"].read().equal(before)
    assert copy["bias"].read().tolist() == [7.0, 7.0]  # not trained: no copy


def test_tied_weights_are_there_once() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=9, tie_word_embeddings=True, **sizes))
    names = live_checkpoint(model, "live").tensors
    assert "model.embed_tokens.weight" in names
    assert "lm_head.weight" not in names


def test_the_cost_is_measured_and_written(tmp_path: Path) -> None:
    results, text = results_of("tracking_cost", out=tmp_path)
    assert [each["case"]["method"] for each in results["measured"]] == ["full", "sora"]
    for each in results["measured"]:
        assert each["step"] > 0
        assert each["point"] > 0
        assert each["expected"]["point"] > 0
        assert each["whole"]["points"] == []  # three steps are too few for one
        assert [part["steps"] for part in each["default"]] == [300, 1000, 3000, 10_000]
    assert "not judged (--quick)" in text
    assert not results["left_out"]
