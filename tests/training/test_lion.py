"""Lion: the published recurrence, its state saved and restored, and a run of the trainer without bitsandbytes."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rank_lab.demo import BASE
from rank_lab.training.lion import Lion
from tests.training.runs import run

RATE, FIRST, SECOND, DECAY = 0.01, 0.9, 0.95, 0.1


def gradients(steps: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(4, 3, generator=generator) for _ in range(steps)]


def taken(optimizer: Lion, weight: torch.nn.Parameter, steps: list[torch.Tensor]) -> None:
    for gradient in steps:
        weight.grad = gradient
        optimizer.step()


def test_steps_follow_the_published_recurrence() -> None:
    weight = torch.nn.Parameter(torch.ones(4, 3))
    taken(Lion([weight], lr=RATE, betas=(FIRST, SECOND), weight_decay=DECAY), weight, gradients(5))
    expected, momentum = np.ones((4, 3)), np.zeros((4, 3))
    for gradient in (each.double().numpy() for each in gradients(5)):
        expected -= RATE * (np.sign(FIRST * momentum + (1 - FIRST) * gradient) + DECAY * expected)
        momentum = SECOND * momentum + (1 - SECOND) * gradient
    assert weight.detach().numpy() == pytest.approx(expected, abs=1e-6)


def test_a_restored_state_goes_on_alike() -> None:
    whole, halved = (torch.nn.Parameter(torch.ones(4, 3)) for _ in range(2))
    taken(Lion([whole], lr=RATE), whole, gradients(6))
    before = Lion([halved], lr=RATE)
    taken(before, halved, gradients(6)[:3])
    after = Lion([halved], lr=RATE)
    after.load_state_dict(before.state_dict())
    taken(after, halved, gradients(6)[3:])
    assert torch.equal(whole, halved)


@pytest.mark.parametrize("wrong", [{"lr": -1.0}, {"betas": (0.9, 1.0)}, {"weight_decay": float("nan")}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected 0 or more, and betas below 1"):
        Lion([torch.nn.Parameter(torch.ones(1))], **wrong)  # type: ignore[arg-type]


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes has its own Lion")
def test_a_run_without_bitsandbytes_moves_every_trained_entry_by_the_rate(tmp_path: Path) -> None:
    options = {"max_steps": 1, "save_at": (1,), "optim": "lion_32bit", "warmup_steps": 0, "learning_rate": 1e-3}
    done = run(tmp_path, "full", lr_scheduler_type="constant", **options)
    assert done.record.optimizer == "lion_32bit"
    before, after = (load_file(folder / "model.safetensors") for folder in (BASE, tmp_path / "checkpoint-1"))
    moved = torch.cat([(after[name] - before[name]).abs().flatten() for name in before if "layers" in name])
    assert float((moved > 0).double().mean()) > 0.99
    assert moved[moved > 0].numpy() == pytest.approx(1e-3, rel=1e-3)
