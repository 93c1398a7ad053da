"""Principal angles, LoRA's similarity and their nulls, on subspaces whose position was chosen first."""

import numpy as np
import numpy.typing as npt
import pytest
import torch

from rank_lab.subspace import (
    chordal_distance,
    geodesic_distance,
    phi,
    phi_null,
    principal_angles,
    relative_gap,
)  # fmt: skip
from rank_lab.subspace_null import random_angles
from tests.spectra import orthonormal

Array = npt.NDArray[np.float64]


def planted(angles: Array, dimension: int, generator: torch.Generator) -> tuple[Array, Array]:
    """Two subspaces at these principal angles, each in a random basis of its own."""
    count = len(angles)
    axes = orthonormal(dimension, 2 * count, generator).numpy()
    second = axes[:, :count] * np.cos(angles) + axes[:, count:] * np.sin(angles)
    turns = [orthonormal(count, count, generator).numpy() for _ in range(2)]
    return axes[:, :count] @ turns[0], second @ turns[1]


@pytest.mark.parametrize(
    "angles",
    [
        [0.0, 0.3, np.pi / 2],
        [1e-12, 1e-10, 1e-8],
        [0.7],
        [np.pi / 2 - 1e-9, np.pi / 2],
        [1e-10, 1.0, 1.2],  # most of them beyond 45 degrees, where scipy takes the small one from its cosine
        [0.2, np.pi / 2 - 1e-10],
        [1e-13, 1e-9, 1e-6, 0.7, np.pi / 4, 1.0, 1.57],
    ],
    ids=str,
)
def test_planted_angles_are_found(angles: list[float], generator: torch.Generator) -> None:
    for _ in range(20):  # how a cosine near one is rounded depends on the matrices and on the machine
        first, second = planted(np.array(angles), 40, generator)
        assert principal_angles(first, second) == pytest.approx(angles, rel=0.0, abs=1e-14)
        assert principal_angles(second, first) == pytest.approx(angles, rel=0.0, abs=1e-14)


def test_a_subspace_within_another_has_no_angle_to_it(generator: torch.Generator) -> None:
    whole = orthonormal(30, 5, generator).numpy()
    assert principal_angles(whole[:, :2], whole) == pytest.approx([0.0, 0.0], abs=1e-14)
    assert phi(whole[:, :2], whole)[1].tolist() == pytest.approx([1.0, 1.0, 1.0, 1.0, 1.0])
    assert len(principal_angles(whole[:, :0], whole)) == 0


def test_distances_are_those_of_the_projections(generator: torch.Generator) -> None:
    first, second = (orthonormal(25, 4, generator).numpy() for _ in range(2))
    angles = principal_angles(first, second)
    between = np.linalg.norm(first @ first.T - second @ second.T)
    assert chordal_distance(angles) == pytest.approx(between / np.sqrt(2))
    assert chordal_distance(angles) <= geodesic_distance(angles) <= np.pi / 2 * 2.0


def test_phi_is_one_for_equal_vectors_and_zero_for_orthogonal_ones(generator: torch.Generator) -> None:
    basis = orthonormal(20, 8, generator).numpy()
    assert np.diag(phi(basis, basis)) == pytest.approx(np.ones(8))
    assert phi(basis[:, :4], basis[:, 4:]) == pytest.approx(np.zeros((4, 4)), abs=1e-25)


def test_phi_knows_neither_signs_nor_order_of_the_two(generator: torch.Generator) -> None:
    first, second = (orthonormal(20, 4, generator).numpy() for _ in range(2))
    flipped = first * np.array([1.0, -1.0, -1.0, 1.0])
    assert phi(flipped, second) == pytest.approx(phi(first, second))
    assert phi(second, first) == pytest.approx(phi(first, second).T)
    turned = first @ orthonormal(4, 4, generator).numpy()
    assert phi(turned, second)[-1] == pytest.approx(phi(first, second)[-1])  # a whole span has no preferred basis
    assert phi(turned, second)[0] != pytest.approx(phi(first, second)[0])


def test_phi_is_the_mean_squared_cosine_of_the_principal_angles(generator: torch.Generator) -> None:
    first, second = (orthonormal(30, 6, generator).numpy() for _ in range(2))
    for k in (1, 3, 6):
        angles = principal_angles(first[:, :k], second[:, :k])
        assert phi(first, second)[k - 1, k - 1] == pytest.approx(np.mean(np.cos(angles) ** 2))


def test_phi_of_random_subspaces_is_its_null_in_the_mean(generator: torch.Generator) -> None:
    draws = np.array(
        [phi(orthonormal(24, 3, generator).numpy(), orthonormal(24, 5, generator).numpy()) for _ in range(400)]
    )
    error = draws.std(axis=0) / np.sqrt(len(draws))
    expected = np.array([[phi_null(i, j, 24) for j in range(1, 6)] for i in range(1, 4)])
    assert (np.abs(draws.mean(axis=0) - expected) < 4 * error).all()
    assert phi_null(3, 5, 24) == 5 / 24


@pytest.mark.parametrize(("dimension", "k", "other"), [(40, 3, 5), (40, 5, 3), (12, 8, 7), (10, 10, 4)])
def test_angles_of_random_subspaces_are_their_null(
    dimension: int, k: int, other: int, generator: torch.Generator
) -> None:
    null = random_angles(dimension, k, other)
    pairs = [
        (orthonormal(dimension, k, generator).numpy(), orthonormal(dimension, other, generator).numpy())
        for _ in range(300)
    ]
    angles = np.array([principal_angles(*pair) for pair in pairs])
    cosines = np.cos(angles)
    assert cosines.mean(axis=0) == pytest.approx(null.cosines, abs=5 * 0.3 / np.sqrt(200))
    assert np.quantile(cosines, 0.95, axis=0) == pytest.approx(null.high, abs=0.08)
    distances = [np.mean([measure(each) for each in angles]) for measure in (geodesic_distance, chordal_distance)]
    assert distances == pytest.approx([null.geodesic, null.chordal], rel=0.03, abs=1e-6)
    assert null.cosines[: max(k + other - dimension, 0)] == pytest.approx(1.0)  # they must meet


def test_the_null_of_a_large_space_has_the_exact_mean_square() -> None:
    null = random_angles(11008, 16, 16)
    assert (null.cosines**2).sum() == pytest.approx(16 * 16 / 11008, rel=0.05)
    assert (null.high >= null.cosines).all()


def test_gap() -> None:
    values = np.array([4.0, 3.0, 3.0, 0.0])
    assert [relative_gap(values, k) for k in (1, 2, 3, 4)] == [0.25, 0.0, 1.0, 0.0]


def test_vectors_of_different_spaces_are_refused() -> None:
    for function in (phi, principal_angles):
        with pytest.raises(ValueError, match="expected columns of one length"):
            function(np.eye(3), np.eye(4))
    with pytest.raises(ValueError, match="expected 1 to 4"):
        random_angles(4, 5, 1)
