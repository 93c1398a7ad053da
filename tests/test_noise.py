"""Is it learning or rounding: planted updates are found where they can be and refused where they cannot."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from analyses.planted import Planted, Recipe
from rank_lab.change import change_statistics
from rank_lab.decomposition import spectrum_of
from rank_lab.noise import Noise, NoiseMode, noise_from, noise_of, regime_of
from rank_lab.update import DenseUpdate, MemoryMatrix


def noise(update: DenseUpdate, mode: NoiseMode = "full", *, base_rounded: bool = False) -> Noise:
    statistics = change_statistics(update)
    return noise_of(update, spectrum_of(update), statistics, mode=mode, base_rounded=base_rounded)


def holds(found: Noise, name: str, true: float) -> bool:
    estimate = found.ranks[name]
    return estimate.low <= true <= estimate.high


@pytest.mark.parametrize("unequal", [False, True], ids=["equal", "unequal rows"])
@pytest.mark.parametrize("on_grid", [False, True], ids=["off grid", "on grid"])
@pytest.mark.parametrize("size", [1e-3, 3e-4, 1e-4])
def test_a_planted_rank_is_found_where_it_can_be(
    size: float, on_grid: bool, unequal: bool, generator: torch.Generator
) -> None:
    case = Recipe(shape=(384, 384), size=size, on_grid=on_grid, unequal=unequal).planted(generator)
    found = noise(case.update)
    assert found.regime in {"resolved", "partial"}
    assert found.above_rounding.value == 16
    assert found.above_iid.value == 16
    for name, share in (("energy_rank_90", 0.9), ("energy_rank_99", 0.99)):
        true = case.energy_rank(share)
        assert found.ranks[name].value == pytest.approx(true, abs=1), name
        assert holds(found, name, true), name
    assert not found.diffuse


@pytest.mark.parametrize("size", [1e-5, 3e-6])
def test_and_refused_where_it_cannot(size: float, generator: torch.Generator) -> None:
    found = noise(Recipe(shape=(384, 384), size=size).planted(generator).update)
    assert found.regime == "unresolved"
    assert found.ranks == {}
    assert found.energy_fraction == 1.0


def test_structure_below_rounding_shows_against_noise_of_its_own_size(generator: torch.Generator) -> None:
    found = noise(Recipe(shape=(512, 512), size=1e-5).planted(generator).update)
    assert found.above_rounding.value == 0
    assert found.above_iid.value >= 13


@pytest.mark.parametrize("size", [1e-3, 1e-4, 3e-5])
@pytest.mark.parametrize("on_grid", [False, True], ids=["off grid", "on grid"])
def test_an_unstructured_update_is_no_structure(size: float, on_grid: bool, generator: torch.Generator) -> None:
    case = Recipe(shape=(300, 400), size=size, kind="iid", on_grid=on_grid).planted(generator)
    assert noise(case.update).above_iid.value == 0


@pytest.mark.parametrize("kind", ["iid", "power"])
def test_many_directions_are_denoised_together(kind: str, generator: torch.Generator) -> None:
    case = Recipe(shape=(384, 384), size=1e-4, kind=kind, on_grid=False).planted(generator)  # type: ignore[arg-type]
    found = noise(case.update)
    true = case.energy_rank(0.9)
    assert found.ranks["energy_rank_90"].value == pytest.approx(true, rel=0.12)
    assert holds(found, "energy_rank_90", true)


@pytest.mark.parametrize(
    ("base", "tuned"),
    [
        (torch.float32, torch.bfloat16),
        (torch.float16, torch.bfloat16),
        (torch.float32, torch.float16),
        (torch.bfloat16, torch.float16),
    ],
    ids=str,
)
@pytest.mark.parametrize("widened", [False, True])
def test_a_recast_has_rank_zero(
    base: torch.dtype, tuned: torch.dtype, widened: bool, generator: torch.Generator
) -> None:
    weight = (1e-3 * torch.randn(200, 150, generator=generator)).to(base)
    cast = weight.to(tuned)
    if torch.equal(cast.double(), weight.double()):
        weight[0] *= 1e-4  # what float16 cannot hold of bfloat16's range
        cast = weight.to(tuned)
    stored = cast.float() if widened else cast
    update = DenseUpdate(MemoryMatrix(stored), MemoryMatrix(weight))
    statistics = change_statistics(update)
    found = noise(update)
    assert statistics.recast == "tuned"
    assert (found.regime, found.above_rounding.value) == ("unresolved", 0)
    assert found.ranks["energy_rank_90"].value == 0
    # Nor does the test itself find anything, where the cast is not recognised as one.
    blind = noise_of(update, spectrum_of(update), dataclasses.replace(statistics, recast=""), mode="rounding")
    assert blind.above_rounding.value == 0 or base == torch.bfloat16, "of an underflow in one row, all is lost"


def test_a_cast_that_cuts_off_is_a_recast_too(generator: torch.Generator) -> None:
    weight = torch.randn(120, 150, generator=generator)
    cut = (weight.view(torch.int32) & -65536).view(torch.float32).bfloat16()
    assert not torch.equal(cut, weight.bfloat16())
    update = DenseUpdate(MemoryMatrix(cut), MemoryMatrix(weight))
    assert change_statistics(update).recast == "tuned"
    assert noise(update).above_rounding.value == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rows_that_did_not_occur_were_not_swallowed(dtype: torch.dtype, generator: torch.Generator) -> None:
    """An embedding whose tokens were seldom seen: most entries are unchanged, and nothing was lost."""
    base = (0.02 * torch.randn(600, 64, generator=generator)).to(dtype)
    change = torch.zeros(600, 64)
    change[:40] = 1e-2 * torch.randn(40, 5, generator=generator) @ torch.randn(5, 64, generator=generator)
    update = DenseUpdate(MemoryMatrix((base.float() + change).to(dtype)), MemoryMatrix(base))
    statistics = change_statistics(update)
    assert statistics.identical_fraction > 0.9
    assert statistics.swallowed_fraction < 0.05
    found = noise(update)
    assert found.regime == "resolved"
    assert found.above_rounding.value == 5


def test_the_base_as_the_recast_of_the_tuned(generator: torch.Generator) -> None:
    weight = torch.randn(200, 150, generator=generator)
    update = DenseUpdate(MemoryMatrix(weight), MemoryMatrix(weight.bfloat16()))
    assert change_statistics(update).recast == "base"
    assert noise(update).above_rounding.value == 0


def test_a_small_update_of_a_coarse_base_is_none(generator: torch.Generator) -> None:
    base = (0.02 * torch.randn(200, 150, generator=generator)).bfloat16()
    change = 2e-8 * torch.randn(200, 3, generator=generator) @ torch.randn(3, 150, generator=generator)
    update = DenseUpdate(MemoryMatrix(base.float() + change), MemoryMatrix(base))
    statistics = change_statistics(update)
    assert statistics.recast == ""
    assert noise(update).above_rounding.value == 3, "all of it rounds back to the base, and none of it is rounding"


def test_float32_is_resolved_and_not_tested_unless_it_looks_merged(generator: torch.Generator) -> None:
    spread = Recipe(kind="power", size=1e-3, grid=torch.float32, on_grid=False).planted(generator)
    found = noise(spread.update, "rounding")
    assert found.regime == "resolved"
    assert math.isnan(found.above_rounding.value), "not looked at"
    merged = Recipe(kind="low", rank=8, size=1e-3, grid=torch.float32, on_grid=False).planted(generator)
    found = noise(merged.update, "rounding")
    assert (found.regime, found.above_rounding.value, found.diffuse) == ("resolved", 8, False)


def test_the_mode_says_what_is_looked_at(generator: torch.Generator) -> None:
    case = Recipe(size=1e-4).planted(generator)
    off, rounding, full = (noise(case.update, mode) for mode in ("off", "rounding", "full"))  # type: ignore[arg-type]
    assert math.isnan(off.above_rounding.value)
    assert off.ranks == {}
    assert off.regime == rounding.regime == full.regime
    assert math.isnan(rounding.above_iid.value)
    assert full.above_iid.value == 16


def test_between_two_checkpoints_both_are_rounded(generator: torch.Generator) -> None:
    first = 0.02 * torch.randn(256, 300, generator=generator)
    noise_only = first + 1e-7 * torch.randn(256, 300, generator=generator)
    update = DenseUpdate(MemoryMatrix(noise_only.bfloat16()), MemoryMatrix(first.half()))
    one, both = (noise(update, base_rounded=rounded) for rounded in (False, True))
    assert both.energy_fraction >= one.energy_fraction
    assert both.above_rounding.value == 0


def test_regimes_are_ordered() -> None:
    order = ("resolved", "partial", "unresolved")
    for energy in (0.0, 0.05, 0.2, 1.0):
        ranks = [order.index(regime_of(zeros, energy, 5)) for zeros in (0.0, 0.3, 0.5, 0.8, 0.9, 1.0)]
        assert ranks == sorted(ranks)
    assert regime_of(0.0, 0.0, 0) == "unresolved"


def test_orientation_changes_nothing(generator: torch.Generator) -> None:
    case = Recipe(shape=(200, 333), size=2e-4, unequal=True).planted(generator)
    tuned, base = (side.block(slice(None), slice(None)) for side in (case.update.tuned, case.update.base))  # type: ignore[union-attr]
    turned = DenseUpdate(MemoryMatrix(tuned.T.contiguous()), MemoryMatrix(base.T.contiguous()), transposed=True)
    here, there = noise(case.update), noise(turned)
    assert here.above_rounding == there.above_rounding
    assert here.ranks["energy_rank_90"].value == there.ranks["energy_rank_90"].value


def test_it_is_read_back_as_it_was(generator: torch.Generator) -> None:
    found = noise(Recipe().planted(generator).update)
    assert noise_from(dataclasses.asdict(found)) == found


def coverage(cases: list[Planted], share: float, name: str) -> float:
    held = []
    for case in cases:
        found = noise(case.update, "rounding")
        if found.ranks:
            held.append(holds(found, name, case.energy_rank(share)))
    assert len(held) >= len(cases) // 2
    return float(np.mean(held))


def test_intervals_hold_what_is_true(generator: torch.Generator) -> None:
    """The 200 cases, their false alarms and all regimes: ``python -m analyses.noise_tables``."""
    rng = np.random.default_rng(3)
    cases = [
        Recipe(
            shape=((128, 128), (96, 200), (200, 96))[i % 3],
            size=float(10 ** rng.uniform(-4.3, -3)),
            rank=int(rng.integers(2, 9)),
            on_grid=bool(rng.integers(2)),
            unequal=bool(rng.integers(2)),
            weakest=float(rng.uniform(0.2, 1.0)),
        ).planted(generator)
        for i in range(60)
    ]
    assert coverage(cases, 0.9, "energy_rank_90") >= 0.88
    assert coverage(cases, 0.99, "energy_rank_99") >= 0.88
