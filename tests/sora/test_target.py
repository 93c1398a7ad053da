"""Thresholds driven by a target: it is hit, what is closed stays closed, and a resumed stage is the same stage."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rank_lab.errors import RankLabError
from rank_lab.sora import (
    GatedModule,
    ProximalStep,
    SoraCallback,
    SoraTrainer,
    exact_parameter_count,
    gate_parameters,
    gated_modules,
    parameter_groups,
)
from rank_lab.sora.target import TargetThreshold, gate_costs, target_counts
from tests.sora.adapters import adapted
from tests.sora.test_trainer import StopAt, arguments, data, model_of, weights

MODES = ("lr", "constant", "adam")
STEPS = 160
RATE = 0.02
RANK = 8
TRUE_RANK = 3


@cache
def problem() -> tuple[Tensor, Tensor]:
    """A linear map of rank 3 to learn."""
    generator = torch.Generator().manual_seed(7)
    X = torch.randn(64, 12, generator=generator)
    left, right = torch.randn(10, TRUE_RANK, generator=generator), torch.randn(TRUE_RANK, 12, generator=generator)
    return X, X @ (left @ right).T


class Loop:
    """One gated layer, trained in stages by an own loop."""

    def __init__(self, mode: str, operator: str = "soft", *, revive: bool = True, ones: bool = True) -> None:
        generator = torch.Generator().manual_seed(1)
        self.A = nn.Parameter(torch.randn(RANK, 12, generator=generator) / 4)
        self.B = nn.Parameter(torch.randn(10, RANK, generator=generator) / 4)
        self.gate = nn.Parameter(torch.ones(RANK) if ones else torch.randn(RANK, generator=generator))
        self.mode, self.operator, self.revive = mode, operator, revive
        groups = [{"params": [self.A, self.B]}, {"params": [self.gate], "weight_decay": 0.0, "sora_gate": True}]
        self.optimizer = torch.optim.AdamW(groups, lr=RATE, foreach=False)

    @property
    def nonzero(self) -> int:
        return int(torch.count_nonzero(self.gate))

    def loss(self) -> Tensor:
        X, Y = problem()
        return ((X @ self.A.T * self.gate) @ self.B.T - Y).square().mean()

    def rates(self, steps: int = STEPS) -> list[float]:
        return [RATE * min(1.0, step / 10) * (1 - step / steps) for step in range(steps)]

    def target(self, target: int, **options: Any) -> TargetThreshold:
        return TargetThreshold(target, {self.gate: 1}, self.rates(), **options)

    def step_with(self, threshold: Any) -> ProximalStep:
        return ProximalStep(self.optimizer, threshold, self.mode, self.operator, revive=self.revive)

    def train(self, proximal: ProximalStep, steps: Sequence[int] = range(STEPS)) -> list[int]:
        counts = []
        for step in steps:
            for group in self.optimizer.param_groups:
                group["lr"] = self.rates()[step]
            self.optimizer.zero_grad()
            self.loss().backward()
            self.optimizer.step()
            counts.append(self.nonzero)
        return counts

    def stage(self, threshold: Any) -> list[int]:
        proximal = self.step_with(threshold)
        counts = self.train(proximal)
        proximal.detach()
        return counts

    def state(self) -> list[Tensor]:
        return [value.detach().clone() for value in (self.A, self.B, self.gate)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("operator", "ones"), [("soft", True), ("gapped", True), ("soft", False)])
def test_every_target_is_hit_exactly(mode: str, operator: str, ones: bool) -> None:
    loop = Loop(mode, operator, ones=ones)
    loop.stage(0.0)
    closed = torch.zeros(RANK, dtype=torch.bool)
    losses = []
    for target in (5, TRUE_RANK, 1):
        threshold = loop.target(target)
        before = loop.nonzero
        counts = loop.stage(threshold)
        assert counts[-1] == loop.nonzero == threshold.count == target
        reached = threshold.reached_step
        assert reached is not None
        assert set(counts[reached:]) == {target}
        assert counts[0] == before
        assert threshold(reached) == threshold.reached_threshold > 0
        assert threshold(reached + 1) == threshold(STEPS - 1) == 0.0
        assert bool((loop.gate[closed] == 0).all())  # what earlier stages closed
        closed = loop.gate.detach() == 0
        losses.append(float(loop.loss().detach()))
    assert losses[1] < 0.1 * losses[2]  # what remains at the true rank is what matters


@pytest.mark.parametrize("mode", MODES)
def test_a_stage_resumed_anywhere_is_the_same_stage(mode: str) -> None:
    straight = Loop(mode)
    straight.stage(0.0)
    start = straight.state()
    threshold = straight.target(4)
    counts = straight.stage(threshold)
    assert threshold.reached_step is not None
    for stop in (0, threshold.reached_step // 2, threshold.reached_step, threshold.reached_step + 1):
        first = Loop(mode)
        first.stage(0.0)
        assert all(torch.equal(a, b) for a, b in zip(first.state(), start, strict=True))
        proximal = first.step_with(first.target(4))
        seen = first.train(proximal, range(stop))
        saved = json.loads(json.dumps(proximal.state_dict()))
        proximal.detach()

        second = Loop(mode)
        for value, from_disk in zip((second.A, second.B, second.gate), first.state(), strict=True):
            value.data.copy_(from_disk)
        second.optimizer.load_state_dict(first.optimizer.state_dict())
        resumed = second.target(4)
        proximal = second.step_with(resumed)
        proximal.load_state_dict(saved)
        assert proximal.threshold_at(max(stop - 1, 0)) == saved["threshold"]
        seen += second.train(proximal, range(stop, STEPS))
        assert seen == counts
        assert all(torch.equal(a, b) for a, b in zip(second.state(), straight.state(), strict=True))
        assert resumed.state_dict() == threshold.state_dict()


def test_a_target_that_is_met_is_reached_at_once() -> None:
    loop = Loop("lr")
    loop.stage(0.0)
    loop.stage(loop.target(4))
    for target in (4, 7):
        before, threshold = loop.nonzero, loop.target(target)
        assert set(loop.stage(threshold)) == {before}
        assert (threshold.reached_step, threshold.reached_threshold, threshold.count) == (0, 0.0, before)
        assert threshold.start == 0.0


def one_vector(values: Sequence[float], rate: float = 0.1) -> tuple[nn.Parameter, torch.optim.Optimizer]:
    gate = nn.Parameter(torch.tensor(values))
    gate.grad = torch.zeros(len(values))
    return gate, torch.optim.SGD([{"params": [gate], "sora_gate": True}], lr=rate)


def test_gates_go_in_the_order_of_their_size_and_by_the_mark() -> None:
    gate, optimizer = one_vector([0.9, 0.1, 0.5, 0.3])
    for target, left in ((3, [0, 2, 3]), (2, [0, 2]), (1, [0])):
        threshold = TargetThreshold(target, {gate: 1}, [0.1] * 100)
        proximal = ProximalStep(optimizer, threshold, "lr")
        for _ in range(100):
            optimizer.step()
        proximal.detach()
        assert torch.nonzero(gate).flatten().tolist() == left
        assert threshold.reached_step in (49, 50)


def test_nothing_rises_while_the_learning_rate_is_zero_or_it_is_too_early() -> None:
    gate, optimizer = one_vector([0.9, 0.5])
    rates = [0.0, 0.0, *[0.1] * 98]
    threshold = TargetThreshold(1, {gate: 1}, rates)
    proximal = ProximalStep(optimizer, threshold, "lr", prox_start_step=1)
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    assert threshold.first_step == 2
    assert threshold(1) == 0.0
    assert threshold.reached
    proximal.detach()


def test_a_rate_that_was_not_announced_delays_the_rise_and_no_more() -> None:
    gate, optimizer = one_vector([0.9, 0.5])
    threshold = TargetThreshold(1, {gate: 1}, [0.0, *[0.1] * 99])
    ProximalStep(optimizer, threshold, "lr")
    for _ in range(100):
        optimizer.step()
    assert threshold.first_step == 1
    assert threshold.reached


def test_parameters_are_missed_by_less_than_one_gate() -> None:
    """Two vectors whose gates cost 7 and 10: 30 is not a sum of what remains."""
    small, large = (nn.Parameter(torch.tensor(values)) for values in ([0.9, 0.1, 0.5], [0.3, 0.8, 0.6]))
    optimizer = torch.optim.SGD([{"params": [small, large], "sora_gate": True}], lr=0.1)
    threshold = TargetThreshold(30, {small: 7, large: 10}, [0.1] * 50)
    ProximalStep(optimizer, threshold, "lr")
    small.grad = large.grad = torch.zeros(3)
    for _ in range(50):
        optimizer.step()
    assert [torch.nonzero(each).flatten().tolist() for each in (small, large)] == [[0], [1, 2]]
    assert threshold.count == 27


def test_equal_gates_go_together() -> None:
    gate, optimizer = one_vector([1.0, 0.5, 0.5, 0.5])
    threshold = TargetThreshold(3, {gate: 1}, [0.1] * 40)
    ProximalStep(optimizer, threshold, "lr")
    for _ in range(40):
        optimizer.step()
    assert threshold.count == 1


def test_gates_without_a_metric_cannot_be_closed_and_it_is_said() -> None:
    gate = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([{"params": [gate], "sora_gate": True, "weight_decay": 0.0}], lr=0.1)
    threshold = TargetThreshold(1, {gate: 1}, [0.1] * 20)
    ProximalStep(optimizer, threshold, "adam")
    gate.grad = torch.zeros(3)
    for _ in range(20):
        optimizer.step()
    assert gate.tolist() == [1.0] * 3
    assert (threshold.reached, threshold.reached_step, threshold.first_step) == (False, None, None)
    assert threshold.count == 3


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize("revive", [False, True])
def test_closed_before_the_stage_stays_closed_and_in_it_only_without_revival(revive: bool, resumed: bool) -> None:
    gate, optimizer = one_vector([0.0, 1.0, 0.9, 0.02], rate=0.1)
    threshold = TargetThreshold(1, {gate: 1}, [0.1] * 100)
    proximal = ProximalStep(optimizer, threshold, "lr", revive=revive)
    while gate[3] != 0:
        optimizer.step()
    assert not threshold.reached
    if resumed:
        proximal.detach()
        saved = json.loads(json.dumps(proximal.state_dict()))
        ProximalStep(optimizer, TargetThreshold(1, {gate: 1}, [0.1] * 100), "lr", revive=revive).load_state_dict(saved)
    gate.grad = torch.tensor([-1.0, 0.0, 0.0, -1.0])
    optimizer.step()
    assert float(gate[0].detach()) == 0.0
    assert bool(gate[3] != 0) is revive


# With transformers' Trainer ------------------------------------------------------------------------------------------


def trainer_with(folder: Path, target: int, kind: str = "rank", **options: Any) -> tuple[SoraTrainer, TargetThreshold]:
    model = model_of(threshold=None)
    rates = [0.02 * min(step / 3, (24 - step) / 21) for step in range(24)]  # the Trainer's: warm-up, then linear
    threshold = TargetThreshold(target, gate_costs(kind, model), rates)
    trainer = SoraTrainer(
        model, arguments(folder, **options), train_dataset=data(), callbacks=[SoraCallback(threshold)]
    )
    return trainer, threshold


@pytest.mark.parametrize("stop", [6, 20])
def test_the_trainer_resumes_it_bit_for_bit(tmp_path: Path, stop: int) -> None:
    straight, threshold = trainer_with(tmp_path / "straight", 20)
    straight.train()
    assert sum(module.nonzero for module in gated_modules(straight.model)) == 20
    assert threshold.reached_step is not None
    assert 6 < threshold.reached_step < 20  # once before, and once after
    saving = {"save_strategy": "steps", "save_steps": stop}
    first, _ = trainer_with(tmp_path / "parts", 20, **saving)
    first.add_callback(StopAt(stop))
    first.train()
    second, resumed = trainer_with(tmp_path / "parts", 20, **saving)
    second.train(resume_from_checkpoint=str(tmp_path / "parts" / f"checkpoint-{stop}"))
    ours, theirs = weights(second.model), weights(straight.model)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert resumed.state_dict() == threshold.state_dict()

    other, _ = trainer_with(tmp_path / "parts", 19, **saving)
    with pytest.raises(RankLabError, match="saved with target=20 and would go on with 19"):
        other.train(resume_from_checkpoint=str(tmp_path / "parts" / f"checkpoint-{stop}"))
    model = model_of(threshold=4.0)
    plain = SoraTrainer(model, arguments(tmp_path / "parts", **saving), train_dataset=data())
    with pytest.raises(RankLabError, match="a threshold that goes by the gates"):
        plain.train(resume_from_checkpoint=str(tmp_path / "parts" / f"checkpoint-{stop}"))


def test_a_number_of_parameters(tmp_path: Path) -> None:
    model = model_of()
    modules = gated_modules(model)
    dearest = max(module.in_features + module.out_features for module in modules)
    budget = exact_parameter_count(modules) // 3
    trainer, threshold = trainer_with(tmp_path, budget, "parameters")
    trainer.train()
    count = exact_parameter_count(gated_modules(trainer.model))
    assert budget - dearest < count <= budget
    assert threshold.count == count


def test_the_same_trainer_twice_begins_anew(tmp_path: Path) -> None:
    trainer, threshold = trainer_with(tmp_path, 20)
    trainer.train()
    first = threshold.reached_step
    trainer.train()
    assert first is not None
    assert first > 0
    assert threshold.reached_step == 0  # of a new stage, which began with 20


# Bad input -----------------------------------------------------------------------------------------------------------

MODULES = [GatedModule("up", 12, 4, rank=8, nonzero=8), GatedModule("down", 4, 12, rank=4, nonzero=4)]

BAD_TARGETS: dict[str, tuple[str, list[Any], str]] = {
    "not decreasing": ("rank", [2.0, 3.0], r"targets 2.0, 3.0 come to 4 and 6 gates"),
    "equal": ("parameters", [64, 64], r"come to 64 and 64 parameters"),
    "the same number of gates": ("rank", [2.4, 2.1], r"come to 4 and 4 gates"),
    "zero": ("rank", [0.0], r"target rank 0.0 comes to 0 gates over 2 modules; expected 1"),
    "less than one gate": ("parameters", [15], r"target parameters 15 comes to 15 .* expected 16"),
    "above r": ("rank", [6.5], r"13 gates over 2 modules; expected 1 \(one gate\) to 12"),
    "above all parameters": ("parameters", [193], r"to 192 \(all of them\)"),
    "negative": ("rank", [-1.0], r"target rank -1.0"),
    "nan": ("rank", [float("nan")], r"target rank nan: expected a finite number"),
    "infinite": ("parameters", [float("inf")], r"target parameters inf: expected a whole number"),
    "fraction": ("parameters", [64.5], r"target parameters 64.5: expected a whole number"),
    "bool": ("rank", [True], r"target rank True"),
    "text": ("rank", ["2"], r"target rank '2'"),
    "kind": ("energy", [2.0], r"target kind 'energy': expected one of rank, parameters"),
}


@pytest.mark.parametrize("case", BAD_TARGETS)
def test_bad_targets(case: str) -> None:
    kind, targets, message = BAD_TARGETS[case]
    with pytest.raises(RankLabError, match=message):
        target_counts(kind, targets, MODULES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": 0}, "target 0"),
        ({"target": 1.5}, "target 1.5"),
        ({"rates": []}, "a stage of 0 steps"),
        ({"rates": [0.1, float("nan")]}, "rate of step 1 nan"),
    ],
)
def test_bad_stages(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RankLabError, match=message):
        TargetThreshold(**{"target": 2, "costs": {}, "rates": [0.1]} | options)


def test_gates_that_costs_were_not_given_for() -> None:
    model = adapted("llama").train()
    optimizer = torch.optim.SGD(parameter_groups(model), lr=0.1)
    ProximalStep(optimizer, TargetThreshold(2, gate_costs("rank", adapted("llama")), [0.1]))
    with pytest.raises(RankLabError, match="6 vectors of gates, 6 of them unknown"):
        optimizer.step()
    sharded = nn.Parameter(torch.ones(2))
    sharded.to_local = lambda: sharded
    with pytest.raises(RankLabError, match="FSDP2"):
        TargetThreshold(2, {sharded: 1}, [0.1]).before_step([sharded])
    next(iter(gate_parameters(model).values())).requires_grad_(False)
    with pytest.raises(RankLabError, match="its gate is not trained"):
        gate_costs("rank", model)
