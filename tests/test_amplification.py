"""Amplification: the paper's numbers, planted directions, and the two controls."""

import numpy as np
import pytest
import torch

from rank_lab.amplification import amplifications, projected_cores, random_projected_norm
from rank_lab.leading_vectors import leading_vectors
from rank_lab.spectrum import Spectrum
from rank_lab.update import DenseUpdate, LowRankUpdate, MemoryMatrix
from tests.spectra import orthonormal


def test_the_random_column_of_table_7_is_an_identity() -> None:
    """LoRA, Table 7: GPT-3's W_q, 12288 x 12288, norm 61.95; 0.02 at r = 4, 0.33 at r = 64."""
    assert random_projected_norm(61.95, 4, (12288, 12288)) == pytest.approx(61.95 * 4 / 12288)
    assert [round(random_projected_norm(61.95, r, (12288, 12288)), 4) for r in (4, 64)] == [0.0202, 0.3227]


@pytest.mark.parametrize(
    ("update", "projected", "own", "factor"), [(6.91, 0.32, 21.67, 21.6), (3.57, 1.90, 37.71, 1.9)]
)
def test_the_factor_of_table_7(update: float, projected: float, own: float, factor: float) -> None:
    weight = Spectrum(np.array([own]), (12288, 12288), 12288, 61.95, "given")
    spectrum = Spectrum.from_values([update], shape=(12288, 12288), rank_bound=1)
    (row,) = amplifications(spectrum, weight, np.array([[projected]]), (1,))
    assert row.amplification == pytest.approx(factor, rel=0.02)
    assert (row.update_norm, row.own_projected_norm) == (update, own)


@pytest.mark.parametrize("shape", [(30, 30), (40, 24), (24, 40)])
@pytest.mark.parametrize("dense", [False, True])
def test_a_direction_of_the_weight_is_amplified_by_the_ratio_of_their_values(
    shape: tuple[int, int], dense: bool, generator: torch.Generator
) -> None:
    count = min(shape)
    U, V = (orthonormal(length, count, generator) for length in shape)
    values = torch.linspace(3.0, 0.1, count, dtype=torch.float64)
    known = values.numpy()
    weight = DenseUpdate(MemoryMatrix((U * values) @ V.T))
    B, A = U[:, [4, 9]] * torch.tensor([5.0, 2.0], dtype=torch.float64), V[:, [4, 9]].T
    update = DenseUpdate(MemoryMatrix(B @ A)) if dense else LowRankUpdate(B, A)
    spectrum = leading_vectors(update, 2)
    rows = amplifications(spectrum, leading_vectors(weight, 2), projected_cores(weight, spectrum), (1, 2))
    norm = np.hypot(5.0, 2.0)
    assert [row.r for row in rows] == [1, 2]
    assert rows[0].amplification == pytest.approx(norm / float(known[4]))
    assert rows[1].amplification == pytest.approx(norm / float(np.hypot(known[4], known[9])))
    assert (rows[0].top_norm, rows[1].top_norm) == pytest.approx((5.0, norm))
    assert rows[1].own_projected_norm == pytest.approx(float(np.hypot(known[0], known[1])))
    assert rows[1].random_projected_norm == pytest.approx(float(values.norm()) * 2 / np.sqrt(shape[0] * shape[1]))


def test_the_random_control_is_the_root_mean_square(generator: torch.Generator) -> None:
    weight = torch.randn(20, 14, dtype=torch.float64, generator=generator)
    squares = [
        float((orthonormal(20, 3, generator).T @ weight @ orthonormal(14, 3, generator)).square().sum())
        for _ in range(2000)
    ]
    expected = random_projected_norm(float(weight.norm()), 3, (20, 14))
    error = np.std(squares) / np.sqrt(len(squares))
    assert abs(np.mean(squares) - expected**2) < 4 * error


def test_an_update_orthogonal_to_the_weight_has_no_factor() -> None:
    weight = DenseUpdate(MemoryMatrix(torch.diag(torch.tensor([1.0, 0.0]))))
    spectrum = leading_vectors(LowRankUpdate(torch.eye(2)[:, 1:], torch.eye(2)[1:]), 1)
    (row,) = amplifications(spectrum, leading_vectors(weight, 1), projected_cores(weight, spectrum), (1,))
    assert np.isnan(row.amplification)
    assert row.projected_norm == 0.0
