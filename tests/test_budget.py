"""Ranks under a budget or for an energy: planted spectra, brute force, bounds, caps."""

import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rank_lab import allocation
from rank_lab.budget import ALLOCATIONS, Allocation, ModuleSpectrum, RankAllocator, budget_curve, plan_ranks
from rank_lab.directions import Directions, directions_of
from rank_lab.errors import BudgetError


def spectrum(name: str, shape: tuple[int, int], values: list[float], **about: object) -> ModuleSpectrum:
    return ModuleSpectrum(name, *shape, np.array(values), **about)  # type: ignore[arg-type]


def random_modules(rng: np.random.Generator, count: int = 3, most: int = 4) -> list[ModuleSpectrum]:
    found = []
    for index in range(count):
        shape = tuple(int(side) for side in rng.integers(most, 3 * most, size=2))
        values = np.sort(rng.exponential(size=int(rng.integers(1, most + 1))))[::-1]
        padded = np.concatenate([values, np.zeros(min(shape) - len(values))])
        found.append(ModuleSpectrum(f"m{index}", shape[0], shape[1], padded))
    return found


def every_plan(modules: list[ModuleSpectrum]) -> list[tuple[int, float]]:
    """Parameters and kept energy of all rank vectors there are."""
    ranges = [range(np.count_nonzero(module.values) + 1) for module in modules]
    found = []
    for ranks in itertools.product(*ranges):
        pairs = list(zip(modules, ranks, strict=True))
        cost = sum(rank * (m.out_features + m.in_features) for m, rank in pairs)
        found.append((cost, math.fsum(float((m.values[:rank] ** 2).sum()) for m, rank in pairs)))
    return found


@pytest.mark.parametrize("seed", range(30))
def test_greedy_is_the_optimum_but_for_the_last_direction(seed: int) -> None:
    rng = np.random.default_rng(seed)
    modules = random_modules(rng)
    plans, total = every_plan(modules), sum(m.frobenius_norm**2 for m in modules)
    allocator = RankAllocator(modules)
    for budget in rng.integers(allocator.cheapest, allocator.all_parameters + 1, size=8).tolist():
        found = allocator.plan(parameters=budget)
        best = max(energy for cost, energy in plans if cost <= budget) / total
        assert found.parameters <= budget
        assert found.energy_bound is not None
        assert found.kept_energy <= best + 1e-12 <= found.energy_bound + 1e-9
        assert best - found.kept_energy <= max(float(m.values.max()) ** 2 for m in modules) / total
        if found.energy_bound - found.kept_energy < 1e-12:
            assert found.kept_energy == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("seed", range(30))
def test_an_energy_takes_the_least_parameters_but_for_the_last_direction(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    modules = random_modules(rng)
    plans, total = every_plan(modules), sum(m.frobenius_norm**2 for m in modules)
    for energy in rng.uniform(0.05, 0.99, size=8).tolist():
        found = plan_ranks(modules, energy=energy)
        least = min(cost for cost, kept in plans if kept >= energy * total * (1 - 1e-12))
        assert found.kept_energy >= energy - 1e-9
        assert found.parameters_bound is not None
        assert found.parameters_bound <= least <= found.parameters
        assert found.parameters - least <= max(m.cost for m in modules)


@pytest.mark.parametrize("seed", range(10))
def test_greedy_is_exactly_the_optimum_where_all_cost_the_same(seed: int) -> None:
    rng = np.random.default_rng(seed)
    modules = [ModuleSpectrum(f"m{index}", 5, 4, np.sort(rng.exponential(size=4))[::-1].copy()) for index in range(3)]
    plans = every_plan(modules)
    total = sum(m.frobenius_norm**2 for m in modules)
    for budget in range(9, 9 * 12 + 1, 5):
        best = max(energy for cost, energy in plans if cost <= budget) / total
        assert plan_ranks(modules, parameters=budget).kept_energy == pytest.approx(best, abs=1e-12)


def test_planted_ranks_are_found() -> None:
    modules = [
        spectrum("a", (8, 8), [5, 4, 3] + [0] * 5),
        spectrum("b", (8, 8), [2] + [0] * 7),
        spectrum("c", (8, 8), [0] * 8),
    ]
    plan = plan_ranks(modules, parameters=10_000)
    assert plan.ranks == {"a": 3, "b": 1}
    assert plan.kept_energy == 1.0
    assert plan.relative_error == 0.0
    assert plan.rows[2].reason == "not changed"
    assert plan.parameters == 4 * 16


def test_energy_per_parameter_decides_not_energy() -> None:
    wide, small = spectrum("wide", (100, 100), [3.0] + [0] * 99), spectrum("small", (4, 4), [1.0, 0, 0, 0])
    assert plan_ranks([wide, small], parameters=200).ranks == {"small": 1}  # 9 / 200 against 1 / 8; wide fits no more
    assert plan_ranks([wide, small], parameters=208).ranks == {"wide": 1, "small": 1}
    found = plan_ranks([wide, small], parameters=200)
    assert found.energy_bound == pytest.approx((1 + 192 * 9 / 200) / 10)


def test_what_is_left_of_a_budget_is_spent_on_what_still_fits() -> None:
    large = spectrum("large", (50, 50), [10.0, 9.9] + [0] * 48)
    small = spectrum("small", (2, 3), [0.5, 0.1])
    plan = plan_ranks([large, small], parameters=111)
    assert plan.ranks == {"large": 1, "small": 2}


def test_errors_are_those_of_the_tail() -> None:
    plan = plan_ranks([spectrum("a", (6, 5), [4, 2, 1, 1, 1])], rank=2)
    (row,) = plan.rows
    assert row.relative_error == pytest.approx(math.sqrt(3 / 23))
    assert row.kept_energy == pytest.approx(20 / 23)
    tiny = plan_ranks([spectrum("a", (6, 5), [1, 1e-9, 0, 0, 0])], rank=1)
    assert tiny.relative_error == pytest.approx(1e-9)  # 1 minus the kept share would say 0


def test_truncated_spectra_know_their_norm_and_say_that_they_end() -> None:
    plan = plan_ranks([spectrum("a", (6, 5), [2.0, 1.0], frobenius_norm=3.0)], rank=4)
    (row,) = plan.rows
    assert (row.rank, row.capped_by) == (2, "truncated")
    assert row.relative_error == pytest.approx(math.sqrt(4 / 9))
    complete = plan_ranks([spectrum("a", (6, 5), [2.0, 1.0, 0, 0, 0])], rank=4)
    assert (complete.rows[0].rank, complete.rows[0].capped_by) == (2, "")


@pytest.mark.parametrize("regime", ["resolved", "partial", "unresolved"])
def test_rounding_is_not_bought_unless_asked_for(regime: str) -> None:
    modules = [
        spectrum("a", (9, 9), [3, 2] + [1.0] * 7, above_noise=2, noise_regime=regime),
        spectrum("b", (9, 9), [1.0] * 9, above_noise=0, noise_regime=regime),
    ]
    plan = plan_ranks(modules, parameters=10_000)
    assert plan.ranks == {"a": 2}
    assert plan.capped == 2
    assert "nothing stands above" in plan.rows[1].reason
    assert plan_ranks(modules, parameters=10_000, above_noise=False).ranks == {"a": 9, "b": 9}
    missed = plan_ranks(modules, energy=0.9)
    assert not missed.reached
    assert missed.ranks == {"a": 2}
    assert missed.parameters_bound is None


def test_untested_rounding_is_said() -> None:
    plan = plan_ranks([spectrum("a", (4, 4), [2, 1, 1, 1], noise_regime="partial")], rank=4)
    assert plan.rows[0].rank == 4
    assert plan.rows[0].reason == "not tested against rounding"


def test_floor_and_largest_rank_cap() -> None:
    modules = [spectrum("a", (4, 4), [2, 1, 1e-9, 1e-9], floor=1e-7)]
    assert plan_ranks(modules, parameters=1000).ranks == {"a": 2}
    assert plan_ranks(modules, parameters=1000, most=1).rows[0].capped_by == "most"


def test_modules_without_spectrum_are_rows_with_a_reason() -> None:
    modules = [spectrum("a", (4, 4), [1, 0, 0, 0]), spectrum("b", (4, 4), [], reason="2 NaN")]
    plan = plan_ranks(modules, energy=0.5)
    assert plan.rows[1].reason == "2 NaN"
    assert math.isnan(plan.rows[1].kept_energy)
    assert plan.kept_energy == 1.0
    assert plan.full_parameters == 16


def test_uniform_and_per_layer_are_what_they_say() -> None:
    modules = [spectrum("a", (4, 4), [3, 2, 1, 1]), spectrum("b", (6, 4), [1, 1, 1, 1])]
    uniform = plan_ranks(modules, parameters=2 * 18 + 5, method="uniform")
    assert uniform.ranks == {"a": 2, "b": 2}
    assert uniform.energy_bound is None
    per_layer = plan_ranks(modules, energy=0.8, method="per_layer")
    shares = [np.cumsum(module.values**2) / module.frobenius_norm**2 for module in modules]
    found = {}
    for energy in np.linspace(0.01, 0.99, 99):  # one share for all: the least whose plan keeps 0.8 of all
        ranks = tuple(int(np.searchsorted(share, energy - 1e-12)) + 1 for share in shares)
        kept = sum(share[rank - 1] * m.frobenius_norm**2 for share, rank, m in zip(shares, ranks, modules, strict=True))
        found.setdefault(kept / 19 >= 0.8, []).append(ranks)
    assert tuple(per_layer.ranks.values()) == found[True][0]


@pytest.mark.parametrize("seed", range(5))
def test_the_curve_agrees_with_the_plans_and_greedy_is_never_below(seed: int) -> None:
    modules = random_modules(np.random.default_rng(seed), count=5, most=8)
    points = budget_curve(modules)
    by_budget: dict[int, dict[str, float]] = {}
    for point in points:
        by_budget.setdefault(point.budget, {})[point.method] = point.kept_energy
        assert point.relative_error == pytest.approx(math.sqrt(1 - point.kept_energy), abs=1e-7)
        if point.parameters:
            plan = plan_ranks(modules, parameters=point.budget, method=point.method)  # type: ignore[arg-type]
            assert (plan.parameters, pytest.approx(plan.kept_energy)) == (point.parameters, point.kept_energy)
    largest = max(float(m.values[0]) ** 2 for m in modules) / sum(m.frobenius_norm**2 for m in modules)
    for kept in by_budget.values():
        assert set(kept) == set(ALLOCATIONS)
        assert kept["greedy"] >= max(kept.values()) - largest
    last = [point for point in points if point.budget == points[-1].budget]
    assert all(point.kept_energy == pytest.approx(1.0) for point in last)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"parameters": 0}, "a budget of 0: expected a whole number"),
        ({"parameters": 7}, "7 parameters buys nothing: the cheapest direction costs 8"),
        ({"parameters": 12, "method": "uniform"}, "rank 1 in every module costs 18"),
        ({"parameters": 1.5}, "expected a whole number"),
        ({"energy": 0.0}, "above 0 and below 1"),
        ({"energy": 1.0}, "above 0 and below 1"),
        ({"energy": 1.1}, "above 0 and below 1"),
        ({"energy": math.nan}, "above 0 and below 1"),
        ({"rank": 0}, "a rank of 0"),
        ({}, "exactly one"),
        ({"rank": 1, "energy": 0.5}, "exactly one"),
        ({"rank": 1, "method": "magic"}, "expected one of greedy, uniform, per_layer"),
        ({"rank": 1, "most": 0}, "a largest rank of 0"),
    ],
)
def test_what_cannot_be_asked(asked: dict[str, object], says: str) -> None:
    modules = [spectrum("a", (4, 4), [3, 2, 1, 1]), spectrum("b", (6, 4), [1, 1, 1, 1])]
    with pytest.raises(BudgetError, match=says):
        plan_ranks(modules, **asked)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("modules", "says"),
    [
        ([], "no module"),
        ([("a", [0, 0, 0, 0], {})], "are zero"),
        ([("a", [], {"reason": "2 NaN"})], "2 NaN"),
        ([("a", [1, 0, 0, 0], {"above_noise": 0, "noise_regime": "unresolved"})], "above the rounding"),
        ([("a", [1, 0, 0, 0], {}), ("a", [1, 0, 0, 0], {})], "twice"),
    ],
)
def test_nothing_to_plan(modules: list[tuple[str, list[float], dict[str, object]]], says: str) -> None:
    with pytest.raises(BudgetError, match=says):
        plan_ranks([spectrum(name, (4, 4), values, **about) for name, values, about in modules], rank=1)


@pytest.mark.parametrize("values", [[1, 2], [1, -1], [math.nan], [math.inf], [1] * 5])
def test_spectra_that_are_none(values: list[float]) -> None:
    with pytest.raises(BudgetError, match="a: its singular values"):
        spectrum("a", (4, 4), values)
    with pytest.raises(BudgetError, match="of another matrix"):
        spectrum("a", (4, 4), [2.0, 1.0], frobenius_norm=1.0)


def test_counting_by_blocks_is_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocation, "_BLOCK", 4)
    modules = random_modules(np.random.default_rng(3), count=6, most=6)
    order = allocation.ordered(directions_of(modules), "greedy")
    for count in range(len(order.owner) + 1):
        assert order.ranks(count, 6).tolist() == np.bincount(order.owner[:count], minlength=6).tolist()


def test_the_benchmark_measures_and_compares(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "analyses.budget_speed", "--quick", "--out", tmp_path],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads((tmp_path / "budget_speed.json").read_text())
    assert (tmp_path / "budget_speed.md").read_text() in done.stdout
    assert len(found["seconds_budget"]) == len(found["seconds_energy"]) == 20
    for greedy, uniform, per_layer in zip(*(found["error"][way] for way in ALLOCATIONS), strict=True):
        assert greedy <= min(uniform, per_layer)


def test_a_slider_sorts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long an answer takes, analyses/budget_speed.py measures."""
    sorts: list[str] = []

    def counted(directions: Directions, method: Allocation) -> allocation.Order:
        sorts.append(method)
        return allocation.ordered(directions, method)

    monkeypatch.setattr("rank_lab.budget.ordered", counted)
    decay = np.exp(-np.arange(64) / 30)
    allocator = RankAllocator([ModuleSpectrum(f"m{i}", 64, 64 + 16 * (i % 3), (1 + i / 10) * decay) for i in range(9)])
    for share in (0.5, 0.7, 0.9):
        allocator.plan(parameters=2000)
        allocator.plan(energy=share)
    assert sorts == ["greedy"]
