"""Spiked noise against simulation, inertia against eigenvalues."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rank_lab.null import white_edge
from rank_lab.spikes import count_above, debiased, fluctuation, leading, overlaps, shown, undiffused
from tests.spectra import LAWS, white_noise

SHAPES = [(256, 256), (128, 512), (512, 128)]


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def simulated(request: pytest.FixtureRequest) -> tuple[tuple[int, int], np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """True values; observed ones and squared cosines left and right, over 60 draws."""
    rows, columns = request.param
    generator = torch.Generator().manual_seed(5)
    theta = np.array([1.3, 2.0, 4.0]) * (rows * columns) ** 0.25
    draws = []
    for _ in range(60):
        noise = white_noise((rows, columns), generator)
        for value in theta:
            observed = noise.clone()
            observed[0, 0] += value
            left, values, right = torch.linalg.svd(observed, full_matrices=False)
            draws.append([float(values[0]), float(left[0, 0]) ** 2, float(right[0, 0]) ** 2])
    table = np.array(draws).reshape(60, len(theta), 3)
    return request.param, theta, table[:, :, 0], table[:, :, 1].mean(0), table[:, :, 2].mean(0)


def test_spikes_show_where_the_law_says(simulated) -> None:  # type: ignore[no-untyped-def]
    shape, theta, observed, left, right = simulated
    error = observed.std(0) / np.sqrt(len(observed))
    assert (np.abs(observed.mean(0) - shown(theta, shape)) < 4 * error + 0.15).all()
    assert np.allclose(observed.std(0), fluctuation(theta, shape), rtol=0.3)
    cosines = overlaps(theta, shape)
    assert np.allclose(cosines[0], left, atol=0.05)
    assert np.allclose(cosines[1], right, atol=0.05)


@LAWS
@given(st.integers(2, 3000), st.integers(2, 3000), st.floats(1.001, 1e4))
def test_debiasing_undoes_showing(rows: int, columns: int, factor: float) -> None:
    theta = np.array([factor * (rows * columns) ** 0.25])
    found = debiased(shown(theta, (rows, columns)), (rows, columns))
    assert found == pytest.approx(theta, rel=1e-4)


def test_nothing_at_or_below_the_edge() -> None:
    assert (debiased(np.array([0.0, 10.0, 32.0]), (256, 256)) == 0).all()


def test_the_white_edge_is_passed_by_one_in_twenty(generator: torch.Generator) -> None:
    shape = (96, 160)
    passed = [float(torch.linalg.matrix_norm(white_noise(shape, generator), 2)) > white_edge(shape) for _ in range(400)]
    assert 0.02 < np.mean(passed) < 0.09


@pytest.mark.parametrize("size", [1, 2, 40, 300, 520])
def test_inertia_counts_eigenvalues(size: int, generator: torch.Generator) -> None:
    factor = torch.randn(size, size + 7, generator=generator, dtype=torch.float64)
    gram = factor @ factor.T
    lower = torch.tril(gram)
    eigenvalues = torch.linalg.eigvalsh(gram)
    for place in {0, size // 3, size - 1}:
        for threshold in (float(eigenvalues[place]) * (1 - 1e-9), float(eigenvalues[place]) * (1 + 1e-9)):
            assert count_above(lower, threshold) == int((eigenvalues > threshold).sum())
    assert torch.equal(lower, torch.tril(gram)), "put back"


@pytest.mark.parametrize("size", [60, 300, 600])
@pytest.mark.parametrize("count", [0, 1, 5, 70, 60])
def test_leading_values_and_vectors(size: int, count: int, generator: torch.Generator) -> None:
    count = min(count, size)
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
    sigma = torch.cat([torch.linspace(20, 10, count), torch.linspace(4, 1, size - count)]).double()
    gram = (basis * sigma**2) @ basis.T
    found = leading(torch.tril(gram), 7.0)
    assert found.values == pytest.approx(sigma[:count].numpy(), rel=1e-9)
    if count and found.vectors is not None:
        assert torch.allclose((found.vectors.T @ basis[:, :count]).abs(), torch.eye(count).double(), atol=1e-6)
    assert (found.vectors is not None) == (0 < count <= min(size // 8, 64))


@pytest.mark.parametrize("shape", [(200, 200), (150, 400)], ids=str)
@pytest.mark.parametrize("std", [0.05, 0.2])
def test_undiffusing_gives_back_values_and_energy(
    shape: tuple[int, int], std: float, generator: torch.Generator
) -> None:
    true = white_noise(shape, generator) * torch.linspace(2.0, 0.5, shape[1]).double()
    noisy = torch.linalg.svdvals(true + std * white_noise(shape, generator)).numpy()
    exact = torch.linalg.svdvals(true).numpy()
    found = undiffused(noisy, shape, std)
    top = slice(0, len(exact) // 2)
    assert abs((found - exact)[top].mean()) < 0.1 * abs((noisy - exact)[top].mean()) + 0.1 * std
    assert (found**2).sum() == pytest.approx((exact**2).sum(), rel=0.01)


def test_without_noise_nothing_is_taken_out() -> None:
    for shape in ((5, 3), (3, 3)):  # a value of zero, as of an update that leaves rows alone
        assert undiffused(np.array([2.0, 1.0, 0.0]), shape, 0.0).tolist() == [2.0, 1.0, 0.0]
