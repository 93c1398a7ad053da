"""Counts above noise, against noise of known size with signals put into it; and exponents put into tails."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from scipy.optimize import brentq

from rank_lab.bulk import gavish_donoho_rank, marchenko_pastur_rank, tail_exponent
from rank_lab.decomposition import spectrum_of
from rank_lab.errors import IncompleteSpectrumError, UnsupportedUpdateError
from rank_lab.quantities import numerical_rank
from rank_lab.spectrum import Spectrum
from rank_lab.update import DenseUpdate, LowRankUpdate, MemoryMatrix
from tests.spectra import LAWS, Array, flat, matrix, power_law, singular_values, spectra, white_noise

Count = Callable[..., int]
SHAPES = [(128, 256), (256, 128), (160, 160)]


def spectrum_with(*values: float, shape: tuple[int, int]) -> Spectrum:
    """These values and zeros up to the full rank."""
    return Spectrum.from_values(values, shape=shape)


def noisy(
    shape: tuple[int, int], signal: Array, seed: int, *, noise_std: float = 1.0, unit: float | None = None
) -> Spectrum:
    """Singular values of ``signal``, in units of ``sqrt(long side)``, planted into white noise."""
    generator = torch.Generator().manual_seed(seed)
    unit = math.sqrt(max(shape)) if unit is None else unit
    noise = noise_std * white_noise(shape, generator)
    planted = matrix(noise_std * unit * signal, shape, generator) if len(signal) else torch.zeros(shape)
    return Spectrum.from_values(singular_values(noise + planted), shape=shape)


def where_keeping_costs_as_much_as_dropping(beta: float) -> float:
    """The optimal threshold from what makes it optimal, in units of ``sqrt(long side)`` standard deviations.

    A signal x shows at y(x) with its vectors turned by cosines c and d; keeping
    it costs y^2 - 2 x y c d + x^2, dropping it x^2.
    """

    def observed(x: float) -> float:
        return math.sqrt((x + 1 / x) * (x + beta / x))

    def cosines(x: float) -> float:
        return (x**4 - beta) / math.sqrt((x**4 + beta * x**2) * (x**4 + x**2))

    return observed(brentq(lambda x: observed(x) - 2 * x * cosines(x), beta**0.25 + 1e-9, 10.0))


class TestGavishDonoho:
    def test_threshold_for_known_noise_on_a_square_is_4_over_root_3(self) -> None:
        edge = 4 / math.sqrt(3) * math.sqrt(100) * 0.3
        spectrum = spectrum_with(edge * 1.000001, edge * 0.999999, shape=(100, 100))
        assert gavish_donoho_rank(spectrum, noise_std=0.3) == 1

    @pytest.mark.parametrize("shape", [(100, 100), (100, 50), (50, 100), (10, 100), (1, 100)], ids=str)
    def test_threshold_for_known_noise_is_the_optimal_one(self, shape: tuple[int, int]) -> None:
        edge = where_keeping_costs_as_much_as_dropping(min(shape) / 100) * math.sqrt(100) * 0.3
        for factor, count in ((1.000001, 1), (0.999999, 0)):
            assert gavish_donoho_rank(spectrum_with(edge * factor, shape=shape), noise_std=0.3) == count

    @pytest.mark.parametrize("value", [2.857, 2.859])
    def test_threshold_for_unknown_noise_on_a_square(self, value: float) -> None:
        """omega(1) = 2.858 times the median."""
        spectrum = spectrum_with(value, *[1.0] * 99, shape=(100, 100))
        assert gavish_donoho_rank(spectrum) == (value > 2.858)

    @pytest.mark.parametrize("beta", [0.05, 0.1, 0.25, 0.5, 0.75, 1.0])
    def test_threshold_for_unknown_noise_follows_the_papers_cubic(self, beta: float) -> None:
        """omega(beta) = 0.56 b^3 - 0.95 b^2 + 1.82 b + 1.43, which the paper states to within 0.02."""
        omega, q = 0.56 * beta**3 - 0.95 * beta**2 + 1.82 * beta + 1.43, 101
        shape = (q, round(q / beta))
        bulk = [1.0] * (q - 2)
        assert gavish_donoho_rank(spectrum_with(omega + 0.02, omega - 0.02, *bulk, shape=shape)) == 1

    @pytest.mark.parametrize("noise_std", [None, 1e-4])
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_finds_what_was_planted(self, shape: tuple[int, int], noise_std: float | None) -> None:
        """The threshold is about 2.3 at most; three signals well above, one far below."""
        for seed in range(5):
            spectrum = noisy(shape, np.array([6.0, 5.0, 4.0, 0.2]), seed, noise_std=1e-4)
            assert gavish_donoho_rank(spectrum, noise_std=noise_std) == 3


class TestMarchenkoPastur:
    @pytest.mark.parametrize("noise_std", [None, 0.02])
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_is_zero_on_white_noise(self, shape: tuple[int, int], noise_std: float | None) -> None:
        """One false alarm in twenty is allowed: more than 4 in 40 seeds has a chance of 5 %."""
        counts = [
            marchenko_pastur_rank(noisy(shape, np.zeros(0), seed, noise_std=0.02), noise_std=noise_std)
            for seed in range(40)
        ]
        assert counts.count(0) >= 36
        assert max(counts) <= 1

    def test_raises_false_alarms_as_often_as_it_says(self) -> None:
        """5 % of 600: 30, within three standard deviations of the binomial law."""
        alarms = sum(marchenko_pastur_rank(noisy((40, 60), np.zeros(0), seed), noise_std=1.0) for seed in range(600))
        assert abs(alarms - 30) <= 3 * math.sqrt(600 * 0.05 * 0.95)

    @pytest.mark.parametrize("noise_std", [None, 1e-3])
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_finds_what_was_planted(self, shape: tuple[int, int], noise_std: float | None) -> None:
        """Signals from twice the detection limit (mn)^(1/4) up are found, one at half of it is not."""
        limit = (shape[0] * shape[1]) ** 0.25
        for seed in range(5):
            spectrum = noisy(shape, np.array([6.0, 4.0, 2.0, 0.5]), seed, noise_std=1e-3, unit=limit)
            assert marchenko_pastur_rank(spectrum, noise_std=noise_std) == 3

    def test_edge_lies_where_tracy_widom_puts_it(self) -> None:
        """The 95 % point of a 400 x 400 matrix: (sqrt 399 + 20)^2 + 0.9793 (sqrt 399 + 20)(...)^(1/3)."""
        first, second = math.sqrt(399), math.sqrt(400)
        edge = math.sqrt((first + second) ** 2 + 0.9793 * (first + second) * (1 / first + 1 / second) ** (1 / 3))
        assert 40.0 < edge < 40.5
        spectrum = spectrum_with(edge + 1e-6, edge - 1e-6, shape=(400, 400))
        assert marchenko_pastur_rank(spectrum, noise_std=1.0) == 1


@pytest.mark.parametrize("count", [gavish_donoho_rank, marchenko_pastur_rank])
class TestBoth:
    def test_refuse_the_few_values_of_factors(self, count: Count, generator: torch.Generator) -> None:
        B, A = white_noise((30, 4), generator), white_noise((4, 20), generator)
        spectrum = spectrum_of(LowRankUpdate(B, A))
        with pytest.raises(UnsupportedUpdateError, match=f"{count.__name__}.* rank at most 4 of 20.*noise_std"):
            count(spectrum)
        assert count(spectrum, noise_std=1e-9) == 4

    def test_refuse_a_truncated_spectrum(self, count: Count) -> None:
        with pytest.raises(IncompleteSpectrumError, match=count.__name__):
            count(Spectrum(np.array([2.0]), (5, 5), 5, 3.0), noise_std=1.0)

    @pytest.mark.parametrize("rank", [1, 10])
    def test_an_update_of_exactly_low_rank_has_that_rank(
        self, count: Count, rank: int, generator: torch.Generator
    ) -> None:
        """Its median is rounding or zero; what lies above that is not all signal."""
        spectrum = spectrum_of(DenseUpdate(MemoryMatrix(matrix(flat(rank), (200, 150), generator))))
        assert (spectrum.values[rank:] > 0).any(), "rounding noise that could be counted"
        assert count(spectrum) == rank

    def test_is_zero_for_a_zero_update(self, count: Count) -> None:
        assert count(spectrum_with(shape=(8, 9))) == 0

    @LAWS
    @given(spectra())
    def test_never_exceeds_the_numerical_rank_nor_depends_on_scale(self, count: Count, spectrum: Spectrum) -> None:
        full = Spectrum.from_values(spectrum.values, shape=(spectrum.rank_bound, 40))
        assert 0 <= count(full) <= numerical_rank(full)
        scaled = Spectrum.from_values(full.values * 2.0**40, shape=full.shape)
        assert count(scaled) == count(full)


class TestTailExponent:
    @pytest.mark.parametrize("alpha", [2.0, 3.0, 4.5])
    def test_recovers_a_planted_exponent(self, alpha: float) -> None:
        """The standard error of one fit is (alpha - 1) / sqrt(n); choosing where to start costs about half more."""
        error = (alpha - 1) / math.sqrt(400)
        found = []
        for seed in range(30):
            energies = 1.0 + np.random.default_rng(seed).pareto(alpha - 1, 400)
            found.append(tail_exponent(Spectrum.from_values(np.sqrt(energies), shape=(400, 500))))
        assert abs(np.mean(found) - alpha) < error
        assert np.std(found) < 2 * error

    @pytest.mark.parametrize("seed", range(3))
    def test_is_the_likeliest_at_the_start_that_fits_best(self, seed: int) -> None:
        """The paper's two equations, written out: the tail starts at one of its own values, and holds ten at least."""
        energies = np.sort(1.0 + np.random.default_rng(seed).pareto(1.5, 60))
        fits = []
        for start in range(len(energies) - 9):
            tail, n = energies[start:], len(energies) - start
            alpha = 1 + n / sum(math.log(x / tail[0]) for x in tail)
            below = [1 - (x / tail[0]) ** (1 - alpha) for x in tail]
            distance = max(max(abs(p - i / n), abs(p - (i + 1) / n)) for i, p in enumerate(below))
            fits.append((distance, alpha))
        spectrum = Spectrum.from_values(np.sqrt(energies), shape=(60, 60))
        assert tail_exponent(spectrum) == pytest.approx(min(fits)[1], rel=1e-9)

    def test_finds_where_the_tail_begins(self) -> None:
        """A flat bulk below one, a tail of exponent 3 above; a fit of all would see another slope."""
        found = []
        for seed in range(10):
            rng = np.random.default_rng(seed)
            energies = np.concatenate([rng.uniform(0.01, 1.0, 300), 1.0 + rng.pareto(2.0, 300)])
            found.append(tail_exponent(Spectrum.from_values(np.sqrt(energies), shape=(600, 600))))
        assert abs(np.mean(found) - 3.0) < 2.0 / math.sqrt(300)

    def test_does_not_depend_on_scale(self) -> None:
        spectrum = Spectrum.from_values(power_law(100), shape=(100, 100))
        scaled = Spectrum.from_values(1e-7 * power_law(100), shape=(100, 100))
        assert tail_exponent(scaled) == pytest.approx(tail_exponent(spectrum), rel=1e-9)

    def test_is_of_the_squares(self) -> None:
        """sigma_i = i^-1 means a density of energies x^-(1 + 1/2): exponent 1.5."""
        assert tail_exponent(Spectrum.from_values(power_law(2000), shape=(2000, 2000))) == pytest.approx(1.5, abs=0.02)

    def test_is_refused_where_there_is_no_tail(self, generator: torch.Generator) -> None:
        factored = spectrum_of(LowRankUpdate(white_noise((90, 60), generator), white_noise((60, 80), generator)))
        with pytest.raises(UnsupportedUpdateError, match="rank at most 60 of 80"):
            tail_exponent(factored)
        with pytest.raises(UnsupportedUpdateError, match="49 singular values; a fit of the tail needs 50"):
            tail_exponent(spectrum_with(*power_law(49), shape=(60, 60)))
        with pytest.raises(UnsupportedUpdateError, match="0 singular values"):
            tail_exponent(spectrum_with(shape=(60, 60)))
        with pytest.raises(UnsupportedUpdateError, match="all singular values are equal"):
            tail_exponent(spectrum_with(*flat(60), shape=(60, 60)))
        with pytest.raises(IncompleteSpectrumError, match="tail_exponent"):
            tail_exponent(Spectrum(power_law(60), (70, 70), 70, 10.0))

    def test_leaves_rounding_out(self, generator: torch.Generator) -> None:
        """The zeros of a rank-60 update are noise of the Gram matrix, not a tail."""
        update = DenseUpdate(MemoryMatrix(matrix(power_law(60), (120, 100), generator)))
        alone = tail_exponent(Spectrum.from_values(power_law(60), shape=(60, 60)))
        assert tail_exponent(spectrum_of(update)) == pytest.approx(alone, rel=1e-9)
