"""Leading vectors, matrices that lie nowhere, and how many directions are above rounding."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rank_lab.composed_matrix import FactorMatrix, MatrixSum, WhiteNoise
from rank_lab.errors import NonFiniteError
from rank_lab.leading_vectors import leading_vectors
from rank_lab.resolved import directions, resolved_directions
from rank_lab.update import DenseUpdate, LowRankUpdate, MemoryMatrix
from tests.spectra import factors, matrix, power_law, singular_values


@pytest.mark.parametrize("shape", [(700, 560), (560, 700), (40, 30)])
@pytest.mark.parametrize("transposed", [False, True])
def test_the_leading_vectors_are_those_of_the_svd(
    shape: tuple[int, int], transposed: bool, generator: torch.Generator
) -> None:
    stored = matrix(power_law(min(shape)), shape, generator)
    update = DenseUpdate(MemoryMatrix(stored), transposed=transposed)
    found = leading_vectors(update, 5)
    assert found.method == ("lanczos" if min(shape) > 512 else "gram")
    exact = torch.linalg.svd(stored.T if transposed else stored)
    assert found.values[:6] == pytest.approx(exact.S[:6].numpy(), rel=1e-10)
    for ours, true in ((found.U, exact.U[:, :5]), (np.asarray(found.Vh).T, exact.Vh[:5].T)):
        overlap = np.asarray(ours).T @ true.numpy()
        assert np.abs(overlap) == pytest.approx(np.eye(5), abs=1e-8)
    assert np.asarray(found.U).T @ update.to_dense().numpy() @ np.asarray(found.Vh).T == pytest.approx(
        np.diag(found.values[:5]), abs=1e-9
    )


def test_factors_and_the_dense_product_have_the_same_directions(generator: torch.Generator) -> None:
    B, A = factors(np.array([3.0, 2.0, 1.0]), (40, 25), generator)
    dense = leading_vectors(DenseUpdate(MemoryMatrix(B @ A)), 8)
    thin = leading_vectors(LowRankUpdate(B, A), 8)
    assert (directions(dense), directions(thin)) == (3, 3)
    overlap = np.asarray(dense.U)[:, :3].T @ np.asarray(thin.U)
    assert np.abs(overlap) == pytest.approx(np.eye(3), abs=1e-9)


def test_a_zero_update_has_no_direction() -> None:
    assert directions(leading_vectors(LowRankUpdate(torch.zeros(6, 2), torch.ones(2, 5)), 2)) == 0
    zero = DenseUpdate(MemoryMatrix(torch.zeros(600, 600)))
    assert directions(leading_vectors(zero, 3)) == 0


def test_not_a_number_is_refused() -> None:
    broken = torch.eye(600)
    broken[3, 3] = torch.nan
    with pytest.raises(NonFiniteError, match="NaN"):
        leading_vectors(DenseUpdate(MemoryMatrix(broken)), 3)


def test_a_weight_with_its_adapter_is_their_sum(generator: torch.Generator) -> None:
    weight = torch.randn(30, 20, generator=generator).to(torch.bfloat16)
    B, A = torch.randn(30, 2, generator=generator), torch.randn(2, 20, generator=generator)
    left, across = LowRankUpdate(B, A, scaling=0.5).factors()
    both = DenseUpdate(MatrixSum(MemoryMatrix(weight), FactorMatrix(left, across)))
    assert torch.equal(both.to_dense(), weight.double() + left @ across)


def test_white_noise_is_white_and_the_same_in_every_tile() -> None:
    noise = WhiteNoise((300, 520), 2.0, seed=3)
    whole = DenseUpdate(noise).to_dense()
    assert float(whole.norm()) == pytest.approx(2.0, rel=0.01)
    columns = torch.cat([tile for _, tile in DenseUpdate(noise).tiles(axis=1)], dim=1)
    assert torch.equal(whole, columns)
    edge = 2.0 / np.sqrt(300 * 520) * (np.sqrt(300) + np.sqrt(520))
    assert singular_values(whole)[0] == pytest.approx(edge, rel=0.05)
    other = DenseUpdate(replace(noise, seed=4)).to_dense()
    assert abs(float((whole * other).sum())) < 4 * 4.0 / np.sqrt(300 * 520)


@pytest.mark.parametrize(
    ("size", "expected"), [(1e-3, 8), (3e-5, 8), (1e-9, 0)], ids=["resolved", "partial", "swallowed"]
)
def test_directions_above_rounding_are_counted(size: float, expected: int, generator: torch.Generator) -> None:
    base = (0.02 * torch.randn(256, 320, generator=generator)).to(torch.bfloat16)
    change = size * torch.randn(256, 8, generator=generator) @ torch.randn(8, 320, generator=generator) / 8**0.5
    tuned = (base.double() + change).to(torch.bfloat16)
    update = DenseUpdate(MemoryMatrix(tuned), MemoryMatrix(base))
    spectrum = leading_vectors(update, 16)
    assert resolved_directions(update, spectrum, stored=True) == expected
    if expected:
        assert directions(spectrum) == 16  # rounding fills the others, too


def test_a_finely_stored_difference_is_resolved_throughout(generator: torch.Generator) -> None:
    base = torch.randn(100, 80, generator=generator)
    update = DenseUpdate(MemoryMatrix(base + torch.randn(100, 80, generator=generator)), MemoryMatrix(base))
    assert resolved_directions(update, leading_vectors(update, 16), stored=True) == 16


def test_a_cast_file_has_no_direction(generator: torch.Generator) -> None:
    base = torch.randn(100, 80, generator=generator)
    update = DenseUpdate(MemoryMatrix(base.to(torch.bfloat16)), MemoryMatrix(base))
    assert resolved_directions(update, leading_vectors(update, 16), stored=True) == 0
