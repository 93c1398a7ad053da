"""The null is what noise shows: published values, simulated noise, and integrals done another way."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from rank_lab.metrics import METRICS, evaluate
from rank_lab.null import factor_null, marchenko_pastur_median, null_ranks, null_spectrum
from rank_lab.quantities import effective_rank, stable_rank
from rank_lab.spectrum import Spectrum
from tests.spectra import Array, singular_values, white_noise

SHAPES = [(4096, 4096), (11008, 4096), (14336, 4096), (4096, 1024), (768, 768), (3072, 768)]

# definitions.md, section 2.1: Marchenko-Pastur integrals computed by a study of its own, to the nearest integer.
TABLE: dict[str, tuple[int, ...]] = {
    "energy_rank_90": (2088, 2916, 3058, 779, 392, 585),
    "energy_rank_99": (3156, 3889, 3937, 988, 592, 741),
    "effective_rank": (3297, 3881, 3936, 989, 618, 742),
    "effective_rank_energy": (2484, 3401, 3551, 904, 466, 678),
    "participation_ratio": (2951, 3705, 3798, 959, 553, 719),
    "participation_ratio_energy": (2048, 2985, 3186, 819, 384, 614),
    "stable_rank": (1024, 1580, 1739, 455, 192, 341),
}
# Cumulated sigma to 90 % (LyCORIS), and cumulated energy to the square of 90 % (kohya's sv_fro).
SIGMA_SHARE = (2753, 3354, 3417, 861, 516, 646)
NORM_SHARE = (1624, 2339, 2485, 638, 305, 478)


def reached(weights: Array, share: float) -> float:
    """Where the cumulated weights reach the share, between the integers."""
    cumulated = np.concatenate([[0.0], np.cumsum(weights) / weights.sum()])
    return float(np.interp(share, cumulated, np.arange(len(cumulated))))


def integral(beta: float, function: Callable[[float], float], *, up_to: float = math.inf) -> float:
    """Mean over the eigenvalues by adaptive quadrature over x itself, with the density as textbooks print it."""
    low, high = (1 - math.sqrt(beta)) ** 2, (1 + math.sqrt(beta)) ** 2

    def integrand(root: float) -> float:  # x = low + root^2 takes the square root out of the lower end
        x = low + root**2
        density = math.sqrt(max((high - x) * (x - low), 0.0)) / (2 * math.pi * beta * x) if x > 0 else 0.0
        return function(x) * density * 2 * root

    return float(quad(integrand, 0.0, math.sqrt(min(high, up_to) - low), epsabs=1e-11, epsrel=1e-11, limit=500)[0])


class TestTable:
    @pytest.mark.parametrize("name", TABLE)
    def test_integrals(self, name: str) -> None:
        assert tuple(round(null_ranks(shape)[name]) for shape in SHAPES) == TABLE[name]

    def test_quantiles(self) -> None:
        for shape, sigma, norm in zip(SHAPES, SIGMA_SHARE, NORM_SHARE, strict=True):
            values = null_spectrum(shape).values
            assert reached(values, 0.9) == pytest.approx(sigma, abs=0.51)
            assert reached(values**2, 0.81) == pytest.approx(norm, abs=0.51)


class TestIntegrals:
    @pytest.mark.parametrize("shape", [(100, 100), (100, 99), (100, 50), (7, 100), (1, 1000)], ids=str)
    def test_agree_with_another_quadrature(self, shape: tuple[int, int]) -> None:
        q, beta = min(shape), min(shape) / max(shape)
        mean = integral(beta, math.sqrt)
        entropy = integral(beta, lambda x: math.sqrt(x) / mean * math.log(math.sqrt(x) / mean) if x > 0 else 0.0)
        entropy_energy = integral(beta, lambda x: x * math.log(x) if x > 0 else 0.0)
        found = null_ranks(shape)
        assert integral(beta, lambda x: 1.0) == pytest.approx(1.0, rel=1e-8)
        for name, value in {
            "effective_rank": q * math.exp(-entropy),
            "effective_rank_energy": q * math.exp(-entropy_energy),
            "participation_ratio": q * mean**2,
            "nuclear_ratio": q * mean**2,
            # Closed forms: the second moment is 1 + beta, the largest value 1 + sqrt(beta).
            "participation_ratio_energy": q / (1 + beta),
            "stable_rank": q / (1 + math.sqrt(beta)) ** 2,
            "intrinsic_dimension": q * mean / (1 + math.sqrt(beta)),
        }.items():
            assert found[name] == pytest.approx(value, rel=1e-7), name

    @pytest.mark.parametrize("longer", [1023, 1025, 4097, 50257], ids=str)
    def test_hold_at_the_steep_end_of_nearly_square_matrices(self, longer: int) -> None:
        nearly, square = null_ranks((longer - 1, longer)), null_ranks((longer - 1, longer - 1))
        for name, value in square.items():
            assert nearly[name] == pytest.approx(value, rel=2e-3), name

    def test_shares_of_the_energy_are_those_of_the_largest_eigenvalues(self) -> None:
        for shape in ((200, 200), (300, 100)):
            values = null_spectrum(shape).values
            for percent in (50, 90, 95, 99):
                assert null_ranks(shape)[f"energy_rank_{percent}"] == pytest.approx(
                    reached(values**2, percent / 100), abs=0.6
                )

    @pytest.mark.parametrize("shape", [(300, 100), (128, 128), (1, 50)], ids=str)
    def test_median_halves_the_eigenvalues(self, shape: tuple[int, int]) -> None:
        beta, median = min(shape) / max(shape), marchenko_pastur_median(shape)
        assert integral(beta, lambda x: 1.0, up_to=median) == pytest.approx(0.5, rel=1e-9)

    def test_median_of_a_square_is_that_of_gavish_and_donoho(self) -> None:
        """lambda(1) / sqrt(median) = 2.858."""
        assert 4 / math.sqrt(3) / math.sqrt(marchenko_pastur_median((5, 5))) == pytest.approx(2.858, abs=5e-4)

    @pytest.mark.parametrize("shape", [(300, 100), (1, 7), (64, 64)], ids=str)
    def test_do_not_depend_on_orientation(self, shape: tuple[int, int]) -> None:
        assert null_ranks(shape) == null_ranks(shape[::-1])
        assert marchenko_pastur_median(shape) == marchenko_pastur_median(shape[::-1])
        np.testing.assert_array_equal(null_spectrum(shape).values, null_spectrum(shape[::-1]).values)

    def test_every_rank_has_a_null(self) -> None:
        assert set(null_ranks((64, 32))) == {name for name, metric in METRICS.items() if metric.rank}

    def test_a_caller_cannot_change_the_cached_values(self) -> None:
        null_ranks((64, 32))["stable_rank"] = -1.0
        assert null_ranks((64, 32))["stable_rank"] > 0


class TestSimulation:
    @pytest.mark.parametrize("shape", [(256, 256), (512, 128), (128, 512), (300, 200)], ids=str)
    def test_white_noise_has_these_ranks(self, shape: tuple[int, int], generator: torch.Generator) -> None:
        """A rank that sums over the spectrum or counts in it fluctuates by about one (1.7 at most in 30 seeds); those
        that divide by the largest value by its Tracy-Widom width and finite-size bias, 7 % at this size."""
        found = evaluate(Spectrum.from_values(singular_values(white_noise(shape, generator)), shape=shape))
        for name, value in null_ranks(shape).items():
            edge = name in {"stable_rank", "intrinsic_dimension"}
            assert abs(found[name] - value) <= (0.08 * value if edge else 2.0), name

    def test_the_null_spectrum_is_that_of_noise(self, generator: torch.Generator) -> None:
        """Singular values of noise are rigid: no quantile of one sample is off by more than 3 % of the largest."""
        for shape in ((300, 300), (150, 450)):
            noise = singular_values(white_noise(shape, generator))
            noise = noise / np.linalg.norm(noise)
            expected = null_spectrum(shape)
            assert np.abs(noise - expected.values).max() < 0.03 * noise[0]
            assert math.isclose(expected.frobenius_norm, 1.0, rel_tol=1e-12)
            assert effective_rank(expected) == pytest.approx(null_ranks(shape)["effective_rank"], rel=1e-3)


class TestFactorNull:
    @pytest.mark.parametrize(("shape", "rank"), [((96, 64), 8), ((64, 96), 8), ((40, 40), 40), ((50, 30), 1)])
    def test_is_the_law_of_explicit_products(
        self, shape: tuple[int, int], rank: int, generator: torch.Generator
    ) -> None:
        """Means over 16 samples here and 200 products there, each value within four standard errors."""
        short = np.stack([sample.values for sample in factor_null(shape, rank)])
        products = [
            white_noise((shape[0], rank), generator) @ white_noise((rank, shape[1]), generator) for _ in range(200)
        ]
        explicit = np.stack([singular_values(product)[:rank] for product in products])
        error = explicit.std(0, ddof=1) * math.sqrt(1 / 16 + 1 / 200)
        assert (np.abs(short.mean(0) - explicit.mean(0)) < 4 * error).all()
        # The spread, too: a ratio of variances with 15 and 199 degrees of freedom stays within a factor of 3.5.
        ratio = short.var(0, ddof=1) / explicit.var(0, ddof=1)
        assert 1 / 3.5 < np.median(ratio) < 3.5

    def test_expected_energy_is_known(self) -> None:
        """E ||BA||_F^2 = out * in * rank."""
        samples = factor_null((200, 100), 10)
        mean = float(np.mean([sample.frobenius_norm**2 for sample in samples]))
        assert mean == pytest.approx(200 * 100 * 10, rel=0.05)

    def test_samples_are_complete_factored_spectra(self) -> None:
        for sample in factor_null((30, 20), 5):
            assert (len(sample.values), sample.rank_bound, sample.shape) == (5, 5, (30, 20))
            assert sample.complete
            assert not sample.full_rank_bound

    def test_repeats(self) -> None:
        first = [stable_rank(sample) for sample in factor_null((30, 20), 5)]
        factor_null.cache_clear()
        assert [stable_rank(sample) for sample in factor_null((30, 20), 5)] == first
        assert len(set(first)) == len(first), "independent samples"

    def test_of_no_rank_is_zero(self) -> None:
        assert all(sample.zero for sample in factor_null((4, 3), 0))
