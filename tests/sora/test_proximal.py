"""When gates are shrunk, and by how much: the promises of the proximal step."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rank_lab.errors import RankLabError
from rank_lab.sora import ProximalStep, parameter_groups, threshold_list
from rank_lab.sora.proximal import innermost_optimizer
from tests.sora.adapters import adapted, as_trained, tokens

LAMBDA = 0.05


@cache
def lasso() -> tuple[Tensor, Tensor, Tensor]:
    """A badly scaled problem, and its exact solution by cyclic coordinate descent."""
    generator = torch.Generator().manual_seed(11)
    X = torch.randn(60, 24, dtype=torch.float64, generator=generator)
    X *= torch.logspace(-0.7, 0.7, 24, dtype=torch.float64)[torch.randperm(24, generator=generator)]
    truth = torch.zeros(24, dtype=torch.float64)
    truth[:8] = torch.randn(8, dtype=torch.float64, generator=generator) + 1.0
    y = X @ truth + 0.05 * torch.randn(60, dtype=torch.float64, generator=generator)
    solution = torch.zeros(24, dtype=torch.float64)
    squares = (X**2).sum(0) / len(y)
    for _ in range(3000):
        for i in range(24):
            partial = X[:, i] @ (y - X @ solution + X[:, i] * solution[i]) / len(y)
            solution[i] = partial.sign() * max(abs(float(partial)) - LAMBDA, 0.0) / squares[i]
    gradient = X.T @ (X @ solution - y) / len(y)
    assert float((gradient.abs() - LAMBDA).clamp(min=0).max()) < 1e-10  # the conditions of an optimum
    return X, y, solution


def solved(mode: str, steps: int, threshold: float, operator: str = "soft") -> Tensor:
    X, y, _ = lasso()
    gate = nn.Parameter(torch.ones(24, dtype=torch.float64))
    optimizer = torch.optim.AdamW([{"params": [gate], "sora_gate": True}], lr=0.01, weight_decay=0.0, foreach=False)
    ProximalStep(optimizer, threshold, mode, operator)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.01 * (1 - step / steps)
        with torch.no_grad():
            gate.grad = X.T @ (X @ gate - y) / len(y)
        optimizer.step()
    return gate.detach()


def test_in_adams_metric_the_lasso_is_solved_whatever_the_length() -> None:
    _, _, solution = lasso()
    support = solution != 0
    assert 4 < int(support.sum()) < 20
    for steps in (3000, 6000, 12000):
        found = solved("adam", steps, LAMBDA)
        assert torch.equal(found != 0, support), steps
        assert float((found - solution).abs().max()) < 0.02


def test_a_constant_threshold_counts_the_length_of_training() -> None:
    counts = [int((solved("constant", steps, 3e-4) != 0).sum()) for steps in (500, 2000, 8000)]
    assert counts[0] > counts[1] > counts[2]


Start = Callable[[list[Any]], torch.optim.Optimizer]
OPTIMIZERS: dict[str, Start] = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.1),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.1, foreach=False),
    "adamw, foreach": lambda groups: torch.optim.AdamW(groups, lr=0.1, foreach=True),
    "adamw, fused": lambda groups: torch.optim.AdamW(groups, lr=0.1, fused=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_only_flagged_groups_are_shrunk(name: str) -> None:
    gate, other = nn.Parameter(torch.tensor([1.0, 0.05])), nn.Parameter(torch.tensor([1.0, 0.05]))
    groups = [{"params": [other], "weight_decay": 0.0}, {"params": [gate], "weight_decay": 0.0, "sora_gate": True}]
    step = ProximalStep(OPTIMIZERS[name](groups), 1.0)
    gate.grad = other.grad = torch.zeros(2)
    step.optimizer.step()
    assert other.tolist() == pytest.approx([1.0, 0.05])
    assert gate.tolist() == pytest.approx([0.9, 0.0])
    step.detach()
    step.optimizer.step()
    assert gate.tolist() == pytest.approx([0.9, 0.0])
    assert step.calls == 1


def one_gate(value: float = 1.0, **group: Any) -> tuple[nn.Parameter, list[Any]]:
    gate = nn.Parameter(torch.full((3,), value))
    gate.grad = torch.zeros(3)
    return gate, [{"params": [gate], "sora_gate": True, "weight_decay": 0.0} | group]


def test_the_threshold_is_a_function_of_the_step() -> None:
    gate, groups = one_gate()
    asked = []

    def threshold(step: int) -> float:
        asked.append(step)
        return 0.1 * step

    step = ProximalStep(torch.optim.SGD(groups, lr=1.0), threshold, "constant", prox_start_step=2)
    for _ in range(4):
        step.optimizer.step()
    assert asked == [0, 1, 2, 3]
    assert gate.tolist() == pytest.approx([0.5] * 3)  # 1 - 0.2 - 0.3: nothing before step 2
    state = step.state_dict()
    assert state["calls"] == state["step"] == 4

    resumed = ProximalStep(torch.optim.SGD(groups, lr=1.0), threshold, "constant", prox_start_step=2)
    resumed.load_state_dict(state)
    assert resumed.step == 4
    step.detach()
    asked.clear()
    resumed.optimizer.step()
    assert asked == [4]
    other = ProximalStep(torch.optim.SGD(groups, lr=1.0), 0.1, "lr")
    with pytest.raises(RankLabError, match="saved with mode='constant'"):
        other.load_state_dict(state)
    with pytest.raises(RankLabError, match="not one of ProximalStep"):
        step.load_state_dict({"exp_avg": 0})


@pytest.mark.parametrize("fused", [False, True])
def test_accumulated_and_skipped_steps_do_not_count(fused: bool) -> None:
    """A loss scaler does not call an optimizer whose gradients overflowed, but a fused one, which skips by itself."""
    gate, groups = one_gate()
    optimizer = torch.optim.SGD(groups, lr=0.1, fused=fused)
    step = ProximalStep(optimizer, 1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for micro in range(6):
        gradient = float("inf") if micro == 3 else 0.0
        scaler.scale((gate * torch.tensor([gradient, 0.0, 0.0])).sum()).backward()
        if micro % 2:
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    assert step.calls == 2  # of three updates one overflowed
    assert step.skipped == int(fused)
    assert gate.tolist() == pytest.approx([0.8] * 3)


def test_a_closed_gate_stays_closed_unless_it_may_revive() -> None:
    for revive in (True, False):
        gate, groups = one_gate(0.0)
        step = ProximalStep(torch.optim.SGD(groups, lr=1.0), 0.1, "constant", revive=revive)
        gate.grad = torch.tensor([1.0, -1.0, 0.05])
        step.optimizer.step()
        assert gate.tolist() == pytest.approx([-0.9, 0.9, 0.0] if revive else [0.0, 0.0, 0.0])


def test_the_first_steps_in_adams_metric() -> None:
    """B starts at zero, so that no gate has a gradient in the first step: none may be lost by that."""
    for options, alive in (({}, False), ({"prox_start_step": 5}, True), ({"adam_rms": True}, False)):
        gate, groups = one_gate()
        step = ProximalStep(torch.optim.AdamW(groups, lr=0.01), 0.1, "adam", **options)
        step.optimizer.step()
        assert gate.tolist() == [1.0] * 3
        gate.grad = torch.full((3,), 1e-5)  # still hardly anything: the threshold is far above one
        step.optimizer.step()
        assert bool((gate != 0).all()) is alive


def test_one_denominator_per_module() -> None:
    gate, groups = one_gate()
    optimizer = torch.optim.AdamW(groups, lr=0.01, eps=1e-8)
    ProximalStep(optimizer, 0.5, "adam", adam_rms=True)
    gate.grad = torch.tensor([1.0, 2.0, 2.0])
    optimizer.step()
    shrunk = 1.0 - 0.01 - 0.01 * 0.5 / 3.0**0.5  # the root mean square of 1, 2, 2
    assert gate.tolist() == pytest.approx([shrunk] * 3, rel=1e-6)


def test_with_amsgrad_the_largest_moment_is_the_metric() -> None:
    gate, groups = one_gate()
    optimizer = torch.optim.AdamW(groups, lr=0.01, amsgrad=True)
    step = ProximalStep(optimizer, 0.0, "adam")
    gate.grad = torch.ones(3)
    optimizer.step()
    step.threshold = 0.5
    gate.grad = torch.zeros(3)
    before = gate.detach().clone()
    step.detach()
    twin = nn.Parameter(before.clone())
    state = optimizer.state[gate]
    largest = state["max_exp_avg_sq"].clone()
    optimizer.step()
    twin.data.copy_(gate)
    expected = twin - 0.01 * 0.5 / ((largest / (1 - 0.999**2)).sqrt() + 1e-8)
    step._after()
    torch.testing.assert_close(gate, expected)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "negative": ({"threshold": -0.1}, "0 or more"),
    "nan": ({"threshold": float("nan")}, "finite"),
    "text": ({"threshold": "0.1"}, "finite number"),
    "mode": ({"threshold": 0.1, "mode": "sgd"}, "lr, adam, constant"),
    "operator": ({"threshold": 0.1, "operator": "hard"}, "soft, gapped"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_settings(case: str) -> None:
    options, message = BAD[case]
    with pytest.raises(RankLabError, match=message):
        ProximalStep(torch.optim.SGD(one_gate()[1], lr=0.1), **options)


def test_bad_optimizers() -> None:
    gate, groups = one_gate()
    with pytest.raises(RankLabError, match="no parameter group"):
        ProximalStep(torch.optim.SGD([gate], lr=0.1), 0.1)
    with pytest.raises(RankLabError, match="DeepSpeed"):
        ProximalStep(object(), 0.1)
    with pytest.raises(RankLabError, match="weight_decay"):
        ProximalStep(torch.optim.SGD([{**groups[0], "weight_decay": 0.1}], lr=0.1), 0.1)
    flat = [{"params": [nn.Parameter(torch.ones(3, 2))], "sora_gate": True}]
    with pytest.raises(RankLabError, match=r"shape \[3, 2\]"):
        ProximalStep(torch.optim.SGD(flat, lr=0.1), 0.1)
    half = [{"params": [nn.Parameter(torch.ones(3, dtype=torch.bfloat16))], "sora_gate": True}]
    with pytest.raises(RankLabError, match="bfloat16"):
        ProximalStep(torch.optim.SGD(half, lr=0.1), 0.1)
    step = ProximalStep(torch.optim.SGD(groups, lr=0.1), 0.1, "adam")
    with pytest.raises(RankLabError, match="SGD, which keeps no second moments"):
        step.optimizer.step()
    later = ProximalStep(torch.optim.SGD(groups, lr=0.1), lambda step: -1.0 if step else 0.0)
    later.optimizer.step()
    with pytest.raises(RankLabError, match="threshold at step 1"):
        later.optimizer.step()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("exp_linear", 0.0, 1.0, 3), "exp_linear from 0"),
        (("linear", 1.0, 0.5, 3), "do not increase"),
        (("linear", 0.0, 1.0, 1), "do not increase"),
        (("linear", -1.0, 1.0, 3), "start -1.0"),
        (("linear", 0.0, float("nan"), 3), "stop nan"),
        (("cubic", 0.0, 1.0, 3), "linear, log_linear, exp_linear"),
    ],
)
def test_bad_lists(arguments: tuple[str, float, float, int], message: str) -> None:
    with pytest.raises(RankLabError, match=message):
        threshold_list(*arguments)


def test_wrappers_are_taken_off() -> None:
    class Wrapper:
        def __init__(self, optimizer: Any) -> None:
            self.optimizer = optimizer

    inner = torch.optim.SGD(one_gate()[1], lr=0.1)
    assert innermost_optimizer(Wrapper(Wrapper(inner))) is inner


def test_an_own_loop_prunes_a_model() -> None:
    """The usual start, an own loop, mode lr: gates reach zero, and those that matter do not."""
    torch.manual_seed(0)
    model = adapted("llama").train()
    teacher = as_trained(adapted("llama"))
    with torch.no_grad():
        target = teacher(input_ids=tokens()).logits
    optimizer = torch.optim.AdamW(parameter_groups(model, weight_decay=0.01), lr=0.02)
    step = ProximalStep(optimizer, 1.0)
    losses = []
    for _ in range(120):
        optimizer.zero_grad()
        loss = (model(input_ids=tokens()).logits - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    gates = torch.cat([value.detach() for name, value in model.named_parameters() if "lora_gate" in name])
    assert step.calls == 120
    assert 0 < int((gates == 0).sum()) < len(gates)
    assert losses[-1] < 0.5 * losses[0]
