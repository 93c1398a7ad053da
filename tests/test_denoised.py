"""Counts and ranks with the rounding taken out: intervals at the edge, energy that no counted direction holds."""

import math

import numpy as np
import pytest
import torch

from analyses.planted import Recipe
from rank_lab.change import change_statistics
from rank_lab.decomposition import spectrum_of
from rank_lab.denoised import Estimate, count_interval
from rank_lab.metrics import DENOISED_RANKS
from rank_lab.noise import noise_of
from rank_lab.null import white_edge
from rank_lab.rounding_energy import RoundingEnergy, added_energy
from rank_lab.spikes import shown


def test_a_count_is_certain_far_above_the_edge_and_not_at_it() -> None:
    shape = (200, 300)
    edge = white_edge(shape)
    far = shown(np.array([200.0, 100.0]), shape)
    assert count_interval(far, shape, edge) == Estimate(2.0, 2.0, 2.0)
    near = np.append(far, edge + 0.05)
    found = count_interval(near, shape, edge)
    assert found.value == 3
    assert found.low == 2
    assert count_interval(np.zeros(0), shape, edge) == Estimate(0.0, 0.0, 0.0)


def test_added_noise_is_taken_out_of_the_energy(generator: torch.Generator) -> None:
    signal = torch.randn(300, 300, generator=generator, dtype=torch.float64)
    noise = (torch.rand(300, 300, generator=generator, dtype=torch.float64) - 0.5) * 12**0.5
    stored, count = float((signal + noise).square().sum()), float(signal.numel())
    found = added_energy(stored, count, count, 0.0, whitened=False)
    assert found.low < float(signal.square().sum()) < found.high
    assert found.high - found.low < 0.1 * found.value


def test_diffuse_energy_is_what_the_directions_do_not_hold() -> None:
    energy = RoundingEnergy(low=90.0, value=100.0, high=110.0)
    assert energy.diffuse(100.0) == pytest.approx((0.0, 0.0, 0.1))
    assert energy.diffuse(50.0) == pytest.approx((0.8, 1.0, 1.2))
    halved = RoundingEnergy(low=90.0, value=100.0, high=110.0, attenuation=0.5, attenuation_rms=0.5)
    assert halved.diffuse(25.0) == pytest.approx((0.0, 0.0, 0.1))
    assert halved.swallowed
    assert not energy.swallowed


def test_a_rank_that_needs_hidden_energy_has_a_bound_only(generator: torch.Generator) -> None:
    """Three strong directions in an unstructured update: most of the energy lies below the edge."""
    case = Recipe(shape=(384, 384), size=2e-5, kind="iid", on_grid=False).planted(generator)
    strong = Recipe(shape=(384, 384), size=2e-5, rank=3, on_grid=False).planted(generator)
    tuned = case.update.tuned.block(slice(None), slice(None)).double() + strong.true
    update = type(case.update)(type(case.update.tuned)(tuned.float().bfloat16()), case.update.base)  # type: ignore[call-arg]
    found = noise_of(update, spectrum_of(update), change_statistics(update))
    estimate = found.ranks["energy_rank_90"]
    assert math.isnan(estimate.value)
    assert estimate.low > 10
    assert estimate.high == 384
    assert found.diffuse
    assert math.isnan(found.ranks["effective_rank"].value)


def test_ranks_are_those_of_the_schema(generator: torch.Generator) -> None:
    case = Recipe().planted(generator)
    found = noise_of(case.update, spectrum_of(case.update), change_statistics(case.update))
    assert tuple(found.ranks) == DENOISED_RANKS
