"""Values worked out by hand, and laws that hold for every spectrum."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rank_lab import quantities
from rank_lab.decomposition import spectrum_of
from rank_lab.errors import IncompleteSpectrumError, ShapeMismatchError
from rank_lab.quantities import (
    effective_rank,
    effective_rank_energy,
    energy_rank,
    frobenius_norm,
    intrinsic_dimension,
    nuclear_norm,
    nuclear_ratio,
    numerical_rank,
    numerical_rank_tolerance,
    participation_ratio,
    participation_ratio_energy,
    spectral_norm,
    stable_rank,
)
from rank_lab.spectrum import Spectrum
from rank_lab.update import DenseUpdate, MemoryMatrix
from tests.spectra import LAWS, matrix, orthonormal, power_law, spectra

Quantity = Callable[[Spectrum], float]

RANKS: list[Quantity] = [
    stable_rank,
    effective_rank,
    effective_rank_energy,
    participation_ratio,
    participation_ratio_energy,
    nuclear_ratio,
    intrinsic_dimension,
]
"""Ranks that are real numbers; 1 on one direction, q on q equal ones, NaN without any."""

NORMS: list[Quantity] = [frobenius_norm, spectral_norm, nuclear_norm]

ROUNDING = 1 + 1e-12
"""Sums of some ten values round to a few eps."""


def given_values(*values: float, shape: tuple[int, int] = (5, 7), rank_bound: int | None = None) -> Spectrum:
    return Spectrum.from_values(values, shape=shape, rank_bound=rank_bound)


class TestByHand:
    """sigma = 4, 2, 1, 1: sum 8, squares 16 + 4 + 1 + 1 = 22, fourth powers 256 + 16 + 1 + 1 = 274."""

    @pytest.mark.parametrize(
        ("quantity", "value"),
        [
            (spectral_norm, 4.0),
            (frobenius_norm, math.sqrt(22)),
            (nuclear_norm, 8.0),
            (stable_rank, 22 / 16),
            (intrinsic_dimension, 2.0),
            (participation_ratio, 64 / 22),
            (nuclear_ratio, 64 / 22),
            (participation_ratio_energy, 22**2 / 274),
            # p = 1/2, 1/4, 1/8, 1/8: entropy 1.75 bits.
            (effective_rank, 2**1.75),
            (
                effective_rank_energy,
                math.exp(-(16 / 22 * math.log(16 / 22) + 4 / 22 * math.log(4 / 22) + 2 / 22 * math.log(1 / 22))),
            ),
            (numerical_rank, 4),
            (numerical_rank_tolerance, 7 * 2.0**-52 * 4.0),
        ],
    )
    def test_quantity(self, quantity: Quantity, value: float) -> None:
        assert quantity(given_values(2, 1, 4, 1)) == pytest.approx(value, rel=1e-14)

    @pytest.mark.parametrize(
        ("share", "rank"),
        [(0.5, 1), (16 / 22, 1), (0.73, 2), (20 / 22, 2), (0.91, 3), (21 / 22, 3), (0.96, 4), (1.0, 4), (1e-9, 1)],
    )
    def test_energy_rank(self, share: float, rank: int) -> None:
        assert energy_rank(given_values(2, 1, 4, 1), share) == rank

    @pytest.mark.parametrize("share", [0.0, -0.1, 1.0000001, 90, math.nan])
    def test_a_share_is_a_fraction(self, share: float) -> None:
        with pytest.raises(ValueError, match=r"expected a fraction in \(0, 1\]"):
            energy_rank(given_values(1.0), share)

    @pytest.mark.parametrize(("percent", "rank"), [(10, 1), (30, 3), (70, 7), (90, 9), (100, 10)])
    def test_energy_rank_is_not_pushed_up_by_rounding(self, percent: int, rank: int) -> None:
        """Ten equal values, whose cumulated tenths are 0.30000000000000004 and the like."""
        assert energy_rank(given_values(*[0.1] * 10, shape=(10, 10)), percent / 100) == rank


class TestNumericalRank:
    def test_counts_what_is_above_the_convention_of_numpy(self, generator: torch.Generator) -> None:
        tolerance = 7 * 2.0**-52
        assert numerical_rank(given_values(1.0, tolerance * 1.001, tolerance * 0.999)) == 2
        exact = matrix(np.geomspace(1, 1e-20, 30), (40, 30), generator)
        found = spectrum_of(DenseUpdate(MemoryMatrix(exact)), method="svd")
        assert numerical_rank(found) == np.linalg.matrix_rank(exact.numpy())

    def test_never_counts_below_the_floor(self) -> None:
        values = np.array([1.0, 1e-3, 1e-6])
        spectrum = Spectrum(values, (3, 3), 3, float(np.linalg.norm(values)), floor=1e-5)
        assert numerical_rank_tolerance(spectrum) == 1e-5
        assert numerical_rank(spectrum) == 2
        assert numerical_rank(spectrum, tolerance=1e-7) == 3, "unless asked to"

    def test_takes_a_tolerance_in_units_of_the_weights(self) -> None:
        assert [numerical_rank(given_values(3, 2, 1), tolerance=t) for t in (0.5, 1.0, 2.5, 3.0)] == [3, 2, 1, 0]


class TestLaws:
    @LAWS
    @given(spectra())
    def test_order(self, spectrum: Spectrum) -> None:
        chain = [
            1.0,
            stable_rank(spectrum),
            intrinsic_dimension(spectrum),
            effective_rank(spectrum),
            numerical_rank(spectrum),
            spectrum.rank_bound,
        ]
        for smaller, larger in itertools.pairwise(chain):
            assert smaller <= larger * ROUNDING

    @LAWS
    @given(spectra())
    def test_participation_lies_between_the_dimension_and_the_effective_rank(self, spectrum: Spectrum) -> None:
        """Renyi entropies fall with their order: 1, 2, infinity."""
        assert intrinsic_dimension(spectrum) <= participation_ratio(spectrum) * ROUNDING
        assert participation_ratio(spectrum) <= effective_rank(spectrum) * ROUNDING
        assert stable_rank(spectrum) <= participation_ratio_energy(spectrum) * ROUNDING
        assert participation_ratio_energy(spectrum) <= effective_rank_energy(spectrum) * ROUNDING

    @LAWS
    @given(spectra())
    def test_energies_are_more_unequal_than_values(self, spectrum: Spectrum) -> None:
        assert effective_rank_energy(spectrum) <= effective_rank(spectrum) * ROUNDING
        assert participation_ratio_energy(spectrum) <= participation_ratio(spectrum) * ROUNDING

    @LAWS
    @given(spectra())
    def test_two_names_of_one_number(self, spectrum: Spectrum) -> None:
        assert participation_ratio(spectrum) == pytest.approx(nuclear_ratio(spectrum), rel=1e-13)

    @LAWS
    @given(spectra())
    def test_norms_are_in_order(self, spectrum: Spectrum) -> None:
        assert spectral_norm(spectrum) <= frobenius_norm(spectrum) * ROUNDING
        assert frobenius_norm(spectrum) <= nuclear_norm(spectrum) * ROUNDING

    @LAWS
    @given(spectra(), st.lists(st.floats(0.01, 1.0), min_size=2, max_size=6))
    def test_energy_rank_grows_with_the_share_and_holds_it(self, spectrum: Spectrum, shares: list[float]) -> None:
        shares = sorted(shares)
        ranks = [energy_rank(spectrum, share) for share in shares]
        assert ranks == sorted(ranks)
        for share, rank in zip(shares, ranks, strict=True):
            energies = spectrum.values**2 / (spectrum.values @ spectrum.values)
            assert energies[:rank].sum() >= share - 2e-12
            assert rank == 1 or energies[: rank - 1].sum() < share
            assert 1 <= rank <= numerical_rank(spectrum, tolerance=0.0)

    @LAWS
    @given(spectra(), st.integers(-180, 140))
    def test_scale_changes_norms_alone(self, spectrum: Spectrum, exponent: int) -> None:
        """Also where squares are beyond what float64 can hold."""
        factor = 10.0**exponent
        scaled = Spectrum.from_values(factor * spectrum.values, shape=spectrum.shape, rank_bound=spectrum.rank_bound)
        for rank in RANKS:
            assert rank(scaled) == pytest.approx(rank(spectrum), rel=1e-12)
        assert energy_rank(scaled, 0.9) == energy_rank(spectrum, 0.9)
        for norm in NORMS:
            assert norm(scaled) == pytest.approx(factor * norm(spectrum), rel=1e-12)

    @LAWS
    @given(st.integers(1, 60), st.integers(0, 40), st.floats(1e-9, 1e9))
    def test_equal_values_give_their_number(self, count: int, zeros: int, value: float) -> None:
        side = count + zeros
        spectrum = given_values(*[value] * count, shape=(side, side + 3))
        assert numerical_rank(spectrum) == energy_rank(spectrum, 1.0) == count
        assert energy_rank(spectrum, 0.5) == (count + 1) // 2
        for quantity in RANKS:
            assert quantity(spectrum) == pytest.approx(count, rel=1e-14)

    @LAWS
    @given(spectra())
    def test_zeros_and_shape_add_nothing(self, spectrum: Spectrum) -> None:
        wider = Spectrum.from_values(spectrum.values, shape=(90, 80))
        for quantity in [*RANKS, *NORMS]:
            assert quantity(wider) == pytest.approx(quantity(spectrum), rel=1e-13)

    @pytest.mark.parametrize("shape", [(40, 25), (25, 40)], ids=str)
    def test_orthogonal_maps_change_nothing(self, shape: tuple[int, int], generator: torch.Generator) -> None:
        exact = matrix(power_law(25), shape, generator)
        turned = orthonormal(shape[0], shape[0], generator) @ exact @ orthonormal(shape[1], shape[1], generator).T
        plain, moved = (spectrum_of(DenseUpdate(MemoryMatrix(part)), method="svd") for part in (exact, turned))
        for quantity in [*RANKS, *NORMS]:
            assert quantity(moved) == pytest.approx(quantity(plain), rel=1e-12)
        assert numerical_rank(moved) == numerical_rank(plain) == 25


class TestZeroUpdate:
    @pytest.mark.parametrize("rank_bound", [0, 3])
    def test_has_no_direction(self, rank_bound: int) -> None:
        zero = given_values(shape=(3, 4), rank_bound=rank_bound)
        assert zero.zero
        assert all(math.isnan(quantity(zero)) for quantity in RANKS)
        assert [quantity(zero) for quantity in NORMS] == [0.0, 0.0, 0.0]
        assert numerical_rank(zero) == energy_rank(zero, 0.9) == 0
        assert numerical_rank_tolerance(zero) == 0.0


class TestTruncated:
    @pytest.fixture
    def truncated(self) -> Spectrum:
        """The first two values of 3, 2, 1."""
        return Spectrum(np.array([3.0, 2.0]), (3, 3), 3, math.sqrt(14.0), method="randomized")

    @pytest.mark.parametrize("name", sorted(set(quantities.__all__)))
    def test_every_quantity_gives_the_whole_truth_or_refuses(self, name: str, truncated: Spectrum) -> None:
        whole = given_values(3, 2, 1, shape=(3, 3))
        quantity = getattr(quantities, name)
        if name == "energy_rank":
            assert quantity(truncated, 0.9) == quantity(whole, 0.9) == 2
            with pytest.raises(IncompleteSpectrumError, match=r"energy_rank\(0.99\) needs every singular value"):
                quantity(truncated, 0.99)
        elif name in {"frobenius_norm", "spectral_norm", "stable_rank", "numerical_rank_tolerance"}:
            assert quantity(truncated) == pytest.approx(quantity(whole), rel=1e-15)
        else:
            with pytest.raises(IncompleteSpectrumError, match=rf"{name} .* 2 of 3 .*0.929 of the energy"):
                quantity(truncated)

    def test_a_rank_that_ends_inside_is_known(self, truncated: Spectrum) -> None:
        assert numerical_rank(truncated, tolerance=2.5) == 1

    @pytest.mark.parametrize("quantity", [spectral_norm, stable_rank, numerical_rank])
    def test_without_any_value_nothing_is_known(self, quantity: Quantity) -> None:
        with pytest.raises(IncompleteSpectrumError, match="0 of 3"):
            quantity(Spectrum(np.zeros(0), (3, 3), 3, 1.0))


class TestSpectrum:
    """What is no spectrum cannot be made."""

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ([1.0, 2.0], "descending"),
            ([1.0, -1.0], "not negative"),
            ([math.nan, 1.0], "finite"),
            ([math.inf, 1.0], "finite"),
            ([1.0] * 4, r"\(4,\) singular values for a matrix of shape \(3, 5\)"),
            ([[1.0, 1.0]], r"\(1, 2\) singular values"),
        ],
    )
    def test_values(self, values: list[float], message: str) -> None:
        with pytest.raises(ShapeMismatchError, match=message):
            Spectrum(np.array(values), (3, 5), 3, float(np.linalg.norm(values)))

    @pytest.mark.parametrize(
        ("norm", "count"), [(1.9, 3), (1.7, 3), (1.3, 2), (math.nan, 3), (math.inf, 2), (-1.0, 0), (0.0, 1)]
    )
    def test_norm(self, norm: float, count: int) -> None:
        with pytest.raises(ShapeMismatchError, match="norm"):
            Spectrum(np.ones(count), (3, 5), 3, norm)

    @pytest.mark.parametrize("floor", [-1e-9, math.nan, math.inf])
    def test_floor(self, floor: float) -> None:
        with pytest.raises(ShapeMismatchError, match="floor"):
            Spectrum(np.ones(1), (3, 5), 3, 2.0, floor=floor)

    def test_rank_bound_fits_the_shape(self) -> None:
        with pytest.raises(ShapeMismatchError, match="rank at most 4"):
            Spectrum(np.ones(1), (3, 5), 4, 2.0)

    def test_a_truncated_one_may_hold_less_than_the_norm(self) -> None:
        spectrum = Spectrum(np.ones(2), (3, 5), 3, 100.0)
        assert not spectrum.complete
        np.testing.assert_allclose(spectrum.energy_shares, [1e-4, 1e-4])

    def test_values_cannot_be_changed(self) -> None:
        given = np.array([2.0, 1.0, 0.0])
        spectrum = Spectrum(given, (3, 5), 3, math.sqrt(5))
        given[0] = 7.0
        assert spectrum.values[0] == 2.0
        with pytest.raises(ValueError, match="read-only"):
            spectrum.values[0] = 7.0

    def test_knows_whether_full_rank_was_possible(self) -> None:
        assert given_values(1.0).full_rank_bound
        assert not given_values(1.0, rank_bound=4).full_rank_bound
