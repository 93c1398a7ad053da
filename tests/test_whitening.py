"""Biwhitening: all rows and columns alike, whatever the map; the norm bound of unequal noise."""

import pytest
import torch

from rank_lab.null import white_edge
from rank_lab.whitening import Whitening, whitening_of


def tiles(variance: torch.Tensor, step: int = 7):  # type: ignore[no-untyped-def]
    return lambda: (
        (slice(i, min(i + step, len(variance))), variance[i : i + step]) for i in range(0, len(variance), step)
    )


def of(variance: torch.Tensor) -> Whitening:
    return whitening_of(tiles(variance), tuple(variance.shape))  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(40, 90), (90, 40), (1, 5), (5, 1)], ids=str)
def test_rows_and_columns_become_alike(shape: tuple[int, int], generator: torch.Generator) -> None:
    variance = torch.rand(shape, generator=generator, dtype=torch.float64) + 0.1
    variance *= torch.logspace(-6, 2, shape[0])[:, None] * torch.logspace(3, -1, shape[1])
    found = of(variance)
    alike = found.rows[:, None] ** 2 * variance * found.columns**2
    assert float((alike.mean(1) - 1).abs().max()) < 2e-3
    assert float((alike.mean(0) - 1).abs().max()) < 1e-9
    assert found.total_variance == pytest.approx(float(variance.sum()))
    assert found.total_square == pytest.approx(float(variance.square().sum()))


def test_rows_without_noise_are_left_out(generator: torch.Generator) -> None:
    variance = torch.rand(6, 5, generator=generator, dtype=torch.float64)
    variance[2], variance[:, 3] = 0.0, 0.0
    found = of(variance)
    assert float(found.rows[2]) == 0.0
    assert float(found.columns[3]) == 0.0
    assert torch.isfinite(found.rows).all()
    assert torch.isfinite(found.columns).all()


def test_scaled_noise_ends_at_the_white_edge(generator: torch.Generator) -> None:
    shape = (300, 500)
    std = (
        torch.exp(torch.randn(300, 1, generator=generator, dtype=torch.float64))
        * torch.rand(1, 500, generator=generator).double()
    )
    noise = std * (torch.rand(shape, generator=generator, dtype=torch.float64) - 0.5) * 12**0.5
    found = of(std.expand(shape) ** 2)
    scaled = found.scaled(slice(0, 300), noise.clone(), 0)
    assert float(torch.linalg.matrix_norm(scaled, 2)) == pytest.approx(white_edge(shape), rel=0.03)
    assert float(torch.linalg.matrix_norm(noise, 2)) <= found.norm_bound * 1.02
    part = noise[:, 100:120].clone()
    assert torch.equal(found.scaled(slice(100, 120), part, 1), scaled[:, 100:120])


def test_equal_noise_has_the_edge_as_its_bound() -> None:
    found = of(torch.full((100, 400), 4.0, dtype=torch.float64))
    assert found.norm_bound == pytest.approx(2.0 * (10 + 20))
    assert found.spread == pytest.approx(1.0)


def test_the_spread_is_that_of_the_rows() -> None:
    variance = torch.ones(4, 6, dtype=torch.float64)
    variance[0] = 5.0
    assert of(variance).spread == pytest.approx((25 + 3) / 4 / 4)
