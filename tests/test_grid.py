"""Spacing and rounding variance against torch's own casts."""

import numpy as np
import pytest
import torch

from rank_lab.grid import GRIDS, lies_on, rounding_variance, spacing


@pytest.mark.parametrize("grid", [torch.float16, torch.float32], ids=str)
def test_spacing_is_numpys(grid: torch.dtype, generator: torch.Generator) -> None:
    values = (torch.randn(2000, generator=generator) * torch.logspace(-6, 4, 2000)).to(grid)
    values = torch.cat([values, torch.tensor([0.0, 1.0, -2.0, 6e-8], dtype=grid)])
    found = spacing(values, grid).double().numpy()
    assert (found == np.spacing(np.abs(values.numpy())).astype(np.float64)).all()


def test_spacing_of_bfloat16_is_the_next_value(generator: torch.Generator) -> None:
    values = (torch.randn(5000, generator=generator).abs() * torch.logspace(-30, 30, 5000)).bfloat16()
    following = (values.view(torch.int16) + 1).view(torch.bfloat16)
    assert torch.equal(spacing(values, torch.bfloat16).double(), following.double() - values.double())


@pytest.mark.parametrize("grid", [torch.bfloat16, torch.float16], ids=str)
def test_the_variance_is_that_of_rounding(grid: torch.dtype, generator: torch.Generator) -> None:
    values = 0.02 * torch.randn(1 << 20, generator=generator, dtype=torch.float64)
    rounded = values.float().to(grid)
    errors = (rounded.double() - values).square().sum()
    assert float(errors / rounding_variance(rounded, grid).sum()) == pytest.approx(1.0, abs=4e-3)


def test_an_exact_power_of_two_has_less(generator: torch.Generator) -> None:
    values = 1.0 + (torch.rand(1 << 18, generator=generator, dtype=torch.float64) - 0.5) * 2.0**-6
    rounded = values.to(torch.float32).bfloat16()
    at_one = rounded == 1.0
    errors = (rounded.double() - values)[at_one].square().mean()
    assert float(errors / rounding_variance(rounded[at_one], torch.bfloat16).mean()) == pytest.approx(1.0, abs=0.02)


def test_coarser_grids_lie_on_finer_ones(generator: torch.Generator) -> None:
    for coarse, fine in ((torch.bfloat16, torch.float32), (torch.float16, torch.float32)):
        values = torch.randn(500, generator=generator).to(coarse)
        assert lies_on(values.to(fine), coarse)
        assert not lies_on(torch.randn(500, generator=generator).to(fine), coarse)
    assert [grid.itemsize for grid in GRIDS] == sorted(grid.itemsize for grid in GRIDS)
