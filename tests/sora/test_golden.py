"""The published code's numbers, wherever torch's AdamW can reproduce them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rank_lab import LowRankUpdate
from rank_lab.errors import RankLabError
from rank_lab.sora import (
    GatedModule,
    ProximalStep,
    exact_parameter_count,
    gapped_threshold,
    published_parameter_count,
    soft_threshold,
    threshold_list,
)
from tests.sora.golden import oracle

WITHIN = 1e-12
STAGE = 10


def close(ours: Tensor, theirs: Any) -> None:
    torch.testing.assert_close(ours, torch.tensor(theirs, dtype=ours.dtype), rtol=0, atol=WITHIN)


def test_operators() -> None:
    part = oracle("A_operator")
    z = torch.tensor(part["z"], dtype=torch.float64)
    for case in part["cases"]:
        xi = case["xi"]
        close(soft_threshold(z, xi), case["soft"])
        # At xi the published operator leaves the value, at 2 xi rounding decides.
        decided = torch.ones_like(z, dtype=torch.bool)
        if xi:
            decided = ((z.abs() - xi).abs() > 1e-9) & ((z.abs() - 2 * xi).abs() > 1e-9)
        assert int(decided.sum()) >= 50
        theirs = torch.tensor(case["official"], dtype=torch.float64)
        close(gapped_threshold(z, xi)[decided], theirs[decided].tolist())


def test_the_gapped_operator_is_not_the_soft_one() -> None:
    at = torch.tensor([0.15, -0.15], dtype=torch.float64)  # 1.5 times the threshold
    assert gapped_threshold(at, 0.1).tolist() == [0.0, 0.0]
    assert soft_threshold(at, 0.1).tolist() == pytest.approx([0.05, -0.05])


@pytest.mark.parametrize("operator", [soft_threshold, gapped_threshold])
def test_operators_keep_what_is_not_a_number(operator: Callable[[Tensor, float], Tensor]) -> None:
    values = operator(torch.tensor([float("nan"), float("inf"), 0.0]), 0.5)
    assert values.isnan().tolist() == [True, False, False]
    assert float(values[1]) == float("inf")


def test_the_gapped_operator_minimises_what_it_is_said_to_minimise() -> None:
    grid = torch.linspace(-3, 3, 60001, dtype=torch.float64)  # holds 0 and steps of 1e-4
    xi = 0.3
    for z in (-1.7, -0.61, -0.59, -0.31, 0.2, 0.45, 0.62, 0.9):
        penalty = xi * grid.abs() + xi**2 / 2 * (grid.abs() > 1e-9)
        best = grid[torch.argmin((grid - z) ** 2 / 2 + penalty)]
        assert float(gapped_threshold(torch.tensor(z, dtype=torch.float64), xi)) == pytest.approx(float(best), abs=2e-4)


def test_lists() -> None:
    for case in oracle("B_lambda_lists")["cases"]:
        if "error" in case:  # one of the published classes knows no exp_linear
            continue
        arguments = (case["schedule"], case["start"], case["max"], case["num"])
        if case["has_nan"]:
            with pytest.raises(RankLabError):
                threshold_list(*arguments)
        else:
            close(torch.tensor(threshold_list(*arguments), dtype=torch.float64), case["lambdas"])


def replayed(run: dict[str, Any], *, mode: str, operator: str, threshold: Any) -> Tensor:
    part = oracle("C_replay")
    gate = torch.nn.Parameter(torch.tensor(part["g0"], dtype=torch.float64))
    group = {"params": [gate], "sora_gate": True, "weight_decay": 0.0}
    optimizer = torch.optim.AdamW([group], lr=0.0, betas=(0.9, 0.999), eps=1e-8, foreach=False)
    step = ProximalStep(optimizer, threshold, mode, operator)
    rows = []
    for gradient, lr in zip(part["grads"], part["lr"][run["lr_kind"]], strict=True):
        optimizer.param_groups[0]["lr"] = lr
        gate.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        rows.append(gate.detach().clone())
    assert step.calls == len(rows) == 50
    return torch.stack(rows)


def by_stage(run: dict[str, Any]) -> Callable[[int], float]:
    return lambda step: run["stage_lambdas"][step // STAGE]


@pytest.mark.parametrize(
    ("row", "operator"),
    [("paper_soft_torch_adamw_eps1e-8", "soft"), ("official_op_torch_adamw_eps1e-8", "gapped")],
)
def test_replays(row: str, operator: str) -> None:
    compared = 0
    for run in oracle("C_replay")["runs"]:
        mode = {"plain": "constant", "multiply_lr": "lr"}[run["variant"]]
        close(replayed(run, mode=mode, operator=operator, threshold=by_stage(run)), run[row])
        compared += 1
    assert compared == 10


def test_replay_in_adams_metric() -> None:
    for run in oracle("C_replay")["prox_adam_runs"]:
        close(replayed(run, mode="adam", operator="soft", threshold=run["lambda"]), run["gates"])


def test_replay_of_the_papers_formula() -> None:
    part = oracle("C_replay")
    for run in part["paper_literal_sgd_runs"]:
        gate = torch.nn.Parameter(torch.tensor(part["g0"], dtype=torch.float64))
        optimizer = torch.optim.SGD([{"params": [gate], "sora_gate": True}], lr=0.0)
        ProximalStep(optimizer, run["lambda"], "lr")
        for gradient, lr, expected in zip(part["grads"], part["lr"][run["lr_kind"]], run["gates"], strict=True):
            optimizer.param_groups[0]["lr"] = lr
            gate.grad = torch.tensor(gradient, dtype=torch.float64)
            optimizer.step()
            close(gate.detach(), expected)


def test_closed_loop_of_the_papers_formula() -> None:
    part = oracle("D_closed_loop")
    run = part["paper_literal_sgd"]
    X, Y = (torch.tensor(part[name], dtype=torch.float64) for name in ("X", "Y"))
    A, B = (torch.nn.Parameter(torch.tensor(part[name], dtype=torch.float64)) for name in ("A0", "B0"))
    gate = torch.nn.Parameter(torch.tensor(part["gate0"][0], dtype=torch.float64))
    optimizer = torch.optim.SGD([{"params": [A, B]}, {"params": [gate], "sora_gate": True}], lr=run["eta"])
    ProximalStep(optimizer, run["lambda"], "lr")
    for expected in run["steps"]:
        optimizer.zero_grad()
        loss = (((X @ A.T) * gate @ B.T * part["scaling"] - Y) ** 2).mean()
        loss.backward()
        assert float(loss.detach()) == pytest.approx(expected["loss0"], rel=1e-9)
        optimizer.step()
        close(gate.detach(), expected["gate"])
    close(A.detach(), run["A"])
    close(B.detach(), run["B"])


def test_export_example() -> None:
    example = oracle("D_closed_loop")["export_example"]
    B, A = (torch.tensor(example[name], dtype=torch.float64) for name in ("B_export", "A_export"))
    update = LowRankUpdate(B, A, example["lora_alpha_export"] / example["r_export"])
    close(update.to_dense(), example["deltaW"])


def test_parameter_counts() -> None:
    for case in oracle("E_param_count")["cases"]:
        hidden, ffn = case["hidden"], case["ffn"]
        shapes = {"w1": (ffn, hidden), "w2": (hidden, ffn)}
        modules = [
            GatedModule(name, *shapes.get(name.split("_")[1], (hidden, hidden)), case["r"], case["r"] - zeros)
            for name, zeros in case["zeros_per_module"].items()
        ]
        assert exact_parameter_count(modules) == case["exact_nonzero_AB"]
        assert published_parameter_count(modules, hidden) == case["official_sparse"]
        assert sum(module.nonzero for module in modules) == case["nonzero_gates"]
