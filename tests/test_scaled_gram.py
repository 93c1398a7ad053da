"""Lengths of singular vectors once their whitening is undone, against vectors whose noise is known."""

import numpy as np
import pytest
import torch

from rank_lab.scaled_gram import Moments, ScaledGram, mostly_noise, scaled_gram

LENGTH, COUNT = 4000, 5


def noisy(generator: torch.Generator, cosine: float) -> tuple[torch.Tensor, torch.Tensor]:
    """True orthonormal vectors, and the same with noise of that squared cosine."""
    both = torch.linalg.qr(torch.randn(LENGTH, 2 * COUNT, generator=generator, dtype=torch.float64)).Q
    true, noise = both[:, :COUNT], both[:, COUNT:]
    return true, cosine**0.5 * true + (1 - cosine) ** 0.5 * noise


def told(vectors: torch.Tensor, scale: torch.Tensor, cosine: float) -> ScaledGram:
    half = LENGTH // 3
    parts = (slice(0, half), slice(half, None))
    first, second = (Moments.of(vectors[part], scale[part]) for part in parts)
    return scaled_gram(first + second, scale, np.full(COUNT, cosine))


@pytest.mark.parametrize("cosine", [1.0, 0.9, 0.7])
def test_the_noise_of_coarse_rows_is_not_counted(cosine: float, generator: torch.Generator) -> None:
    true, seen = noisy(generator, cosine)
    true = torch.linalg.qr(true * torch.linspace(2.0, 0.1, LENGTH).double()[:, None]).Q  # away from the coarse rows
    noise = torch.randn(LENGTH, COUNT, generator=generator, dtype=torch.float64) / LENGTH**0.5
    seen = cosine**0.5 * true + (1 - cosine) ** 0.5 * noise
    scale = torch.linspace(0.5, 3.0, LENGTH, dtype=torch.float64)
    expected = (true * scale[:, None]).T @ (true * scale[:, None])
    found = told(seen, scale, cosine)
    assert torch.allclose(found.gram, expected, atol=0.12 * float(expected.diagonal().max()))
    naive = (seen * scale[:, None]).square().sum(0) / 1.0
    if cosine < 1.0:
        error = (found.gram.diagonal() - expected.diagonal()).abs().mean()
        assert float(error) < 0.3 * float((naive - expected.diagonal()).abs().mean())


def test_draws_scatter_around_the_matrix_as_estimates_do(generator: torch.Generator) -> None:
    cosine, scale = 0.6, torch.linspace(0.5, 2.0, LENGTH, dtype=torch.float64)
    estimates = []
    for _ in range(60):
        _, seen = noisy(generator, cosine)
        found = told(seen, scale, cosine)
        estimates.append(found)
    draws = estimates[0].drawn(400, np.random.default_rng(0))
    assert torch.equal(draws[0], estimates[0].gram)
    assert torch.allclose(draws, draws.mT)
    spread = torch.stack([found.gram for found in estimates]).std(0)
    assert float(draws[1:].std(0).mean() / spread.mean()) == pytest.approx(1.0, abs=0.3)


def test_roots_give_the_matrices_back(generator: torch.Generator) -> None:
    factor = torch.randn(3, COUNT, COUNT, generator=generator, dtype=torch.float64)
    grams = factor.mT @ factor
    roots = ScaledGram.root(grams)
    assert torch.allclose(roots.mT @ roots, grams)


def test_vectors_that_are_mostly_noise_are_told(generator: torch.Generator) -> None:
    _, seen = noisy(generator, 0.2)
    scale = torch.ones(LENGTH, dtype=torch.float64)
    assert mostly_noise(Moments.of(seen, scale), scale, np.full(COUNT, 0.2)).all()
    assert not mostly_noise(Moments.of(seen, scale), scale, np.full(COUNT, 0.8)).any()


def test_equal_scales_leave_nothing_uncertain(generator: torch.Generator) -> None:
    _, seen = noisy(generator, 0.7)
    found = told(seen, torch.full((LENGTH,), 3.0, dtype=torch.float64), 0.7)
    draws = found.drawn(50, np.random.default_rng(0))
    assert float(draws[1:].std(0).max()) < 1e-6
