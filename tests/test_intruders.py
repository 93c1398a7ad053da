"""Intruder dimensions: planted ones are found, untouched weights have none, noise is told apart."""

import numpy as np
import pytest
import torch

from rank_lab.composed_matrix import FactorMatrix, MatrixSum, WhiteNoise
from rank_lab.intruders import IntruderCount, intruder_counts, mitigation, weight_directions
from rank_lab.leading_vectors import leading_vectors
from rank_lab.update import DenseUpdate, LowRankUpdate, MemoryMatrix
from tests.spectra import matrix, orthonormal, power_law

SHAPES = [(60, 60), (90, 50), (50, 90)]


def counted(base: DenseUpdate, tuned: DenseUpdate, *, k: int, epsilon: float = 0.5) -> dict[str, IntruderCount]:
    counts = intruder_counts(weight_directions(base), leading_vectors(tuned, k), ks=(k,), epsilons=(epsilon,))
    return {count.side: count for count in counts}


def intruding(
    shape: tuple[int, int], count: int, size: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A weight of norm about one, and factors of a strong update in random directions."""
    weight = matrix(power_law(min(shape)), shape, generator)
    left, right = (orthonormal(length, count, generator) for length in shape)
    return weight, size * left, right.T.contiguous()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("transposed", [False, True])
def test_planted_intruders_are_found(shape: tuple[int, int], transposed: bool, generator: torch.Generator) -> None:
    weight, B, A = intruding(shape, 3, 5.0, generator)
    base = DenseUpdate(MemoryMatrix(weight), transposed=transposed)
    added = DenseUpdate(MatrixSum(MemoryMatrix(weight), FactorMatrix(B, A)), transposed=transposed)
    merged = DenseUpdate(MemoryMatrix(weight + B @ A), transposed=transposed)
    for tuned in (added, merged):
        for count in counted(base, tuned, k=3).values():
            assert (count.intruders, count.projected, count.k, count.span) == (3, 3, 3, 6)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_untouched_or_rescaled_weight_has_none(shape: tuple[int, int], generator: torch.Generator) -> None:
    weight = matrix(power_law(min(shape)), shape, generator)
    base = DenseUpdate(MemoryMatrix(weight))
    U, S, Vh = torch.linalg.svd(weight, full_matrices=False)
    grown = (
        U * S * torch.linspace(1.5, 1.0, len(S), dtype=torch.float64)
    ) @ Vh  # the same directions in the same order
    for tuned in (weight, 3.0 * weight, grown):
        for count in counted(base, DenseUpdate(MemoryMatrix(tuned)), k=20, epsilon=0.9).values():
            assert (count.intruders, count.projected) == (0, 0)


def test_the_scale_of_the_update_decides(generator: torch.Generator) -> None:
    weight, B, A = intruding((60, 60), 2, 1.0, generator)
    base, found = DenseUpdate(MemoryMatrix(weight)), []
    for scaling in (1e-4, 0.01, 5.0):
        left, across = LowRankUpdate(B, A, scaling).factors()
        tuned = DenseUpdate(MatrixSum(MemoryMatrix(weight), FactorMatrix(left, across)))
        found.append(counted(base, tuned, k=5)["left"].intruders)
    assert found == [0, 0, 2]


def test_left_and_right_are_told_apart(generator: torch.Generator) -> None:
    """New outputs for the input direction that the weight likes best: an intruder on the left alone."""
    weight = matrix(power_law(50), (80, 50), generator)
    old = torch.linalg.svd(weight).Vh[:1]
    new = 30.0 * orthonormal(80, 1, generator)
    found = counted(DenseUpdate(MemoryMatrix(weight)), DenseUpdate(MemoryMatrix(weight + new @ old)), k=1)
    assert (found["left"].intruders, found["right"].intruders) == (1, 0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("transposed", [False, True])
def test_cosines_are_those_with_all_singular_vectors(
    shape: tuple[int, int], transposed: bool, generator: torch.Generator
) -> None:
    stored = matrix(power_law(min(shape)), shape, generator)
    weight = DenseUpdate(MemoryMatrix(stored), transposed=transposed)
    U, S, Vh = torch.linalg.svd(weight.to_dense(), full_matrices=False)
    found = weight_directions(weight)
    assert found.values == pytest.approx(S.numpy(), rel=1e-8)
    y, z = (orthonormal(length, 4, generator) for length in weight.shape)
    assert np.abs(found.cosines(y.numpy(), "left")) == pytest.approx((U.T @ y).abs().numpy(), abs=1e-8)
    assert np.abs(found.cosines(z.numpy(), "right")) == pytest.approx((Vh @ z).abs().numpy(), abs=1e-8)


def test_directions_that_the_weight_lacks_are_no_match(generator: torch.Generator) -> None:
    low = matrix(np.array([2.0, 1.0]), (40, 30), generator)
    found = weight_directions(DenseUpdate(MemoryMatrix(low)))
    y = orthonormal(40, 3, generator).numpy()
    assert np.count_nonzero(found.cosines(y, "left").any(axis=1)) == 2


def test_noise_mixes_a_degenerate_bulk_without_leaving_its_span(generator: torch.Generator) -> None:
    values = np.concatenate([np.linspace(10.0, 5.0, 8), np.full(32, 1.0) + 1e-6 * np.arange(32), np.full(60, 0.01)])
    weight = matrix(np.sort(values)[::-1].copy(), (100, 100), generator)
    base = DenseUpdate(MemoryMatrix(weight))
    noisy = DenseUpdate(MatrixSum(MemoryMatrix(weight), WhiteNoise((100, 100), 0.3)))
    top, bulk = (counted(base, noisy, k=k)["left"] for k in (8, 32))
    assert (top.intruders, top.projected) == (0, 0)
    assert bulk.intruders > 10  # each a mixture of many
    assert bulk.projected == 0
    assert bulk.smallest_gap < 0.05 < top.smallest_gap


def test_k_and_epsilon_are_reported_as_used(generator: torch.Generator) -> None:
    weight = matrix(power_law(12), (12, 20), generator)
    base = DenseUpdate(MemoryMatrix(weight))
    counts = intruder_counts(weight_directions(base), leading_vectors(base, 64), ks=(10, 64, 99))
    assert {count.k for count in counts} == {10, 12}  # there are no more
    assert len(counts) == 2 * 2 * 9
    by_epsilon = [count.epsilon for count in counts if count.side == "left" and count.k == 10]
    assert by_epsilon == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]


def test_more_are_below_a_higher_threshold(generator: torch.Generator) -> None:
    weight, B, A = intruding((60, 60), 4, 0.5, generator)
    tuned = leading_vectors(DenseUpdate(MemoryMatrix(weight + B @ A)), 20)
    counts = intruder_counts(weight_directions(DenseUpdate(MemoryMatrix(weight))), tuned, ks=(20,))
    left = [count.intruders for count in counts if count.side == "left"]
    assert left == sorted(left)
    assert left[0] < left[-1]


def test_mitigation_scales_an_intruder_away(generator: torch.Generator) -> None:
    weight, B, A = intruding((60, 50), 1, 5.0, generator)
    base, tuned = DenseUpdate(MemoryMatrix(weight)), DenseUpdate(MemoryMatrix(weight + B @ A))
    spectrum = leading_vectors(tuned, 5)
    assert float(mitigation(spectrum, (0,), 1.0).to_dense().norm()) == 0.0
    half = weight + B @ A + mitigation(spectrum, (0,), 0.5).to_dense()
    assert float(torch.linalg.matrix_norm(half, 2)) == pytest.approx(spectrum.values[0] / 2)
    removed = DenseUpdate(MemoryMatrix(weight + B @ A + mitigation(spectrum, (0,), 0.0).to_dense()))
    assert counted(base, tuned, k=5)["left"].intruders == 1
    assert counted(base, removed, k=5)["left"].intruders == 0
