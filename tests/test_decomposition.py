"""Every method must recover singular values that were chosen before the matrix was made."""

import math

import numpy as np
import pytest
import torch

from rank_lab import decomposition
from rank_lab import update as update_module
from rank_lab.decomposition import gram_matrix, spectrum_of
from rank_lab.errors import IncompleteSpectrumError, NonFiniteError, UnsupportedUpdateError
from rank_lab.metrics import METRICS, evaluate
from rank_lab.quantities import effective_rank, energy_rank, numerical_rank, stable_rank
from rank_lab.spectrum import Method, Spectrum
from rank_lab.update import DenseUpdate, LowRankUpdate, MemoryMatrix
from tests.spectra import (
    SPECTRA,
    Array,
    deficient,
    factors,
    flat,
    geometric,
    integers,
    matrix,
    orthonormal,
    power_law,
    singular_values,
    white_noise,
)

SHAPES = [(64, 64), (96, 40), (40, 96), (300, 20), (1, 30), (30, 1)]
EXACT = 1e-12
"""Of the largest value: LAPACK's SVD is backward stable, and building the matrix rounds as much again."""


def dense(values: torch.Tensor, *, transposed: bool = False) -> DenseUpdate:
    """The update ``values``, stored as it is or transposed."""
    return DenseUpdate(MemoryMatrix(values.T.contiguous() if transposed else values), transposed=transposed)


def gram_error(values: Array, floor: float) -> Array:
    """What rounding of the squares may do to each value: all of the floor at zero, its square over a large value."""
    return np.minimum(floor, floor**2 / np.maximum(values, floor))


def leading_part(found: Spectrum) -> Array:
    """``U diag(values) Vh``, after checking that both are orthonormal."""
    assert found.U is not None
    assert found.Vh is not None
    count = len(found.Vh)
    np.testing.assert_allclose(found.U.T @ found.U, np.eye(count), rtol=0, atol=EXACT)
    np.testing.assert_allclose(found.Vh @ found.Vh.T, np.eye(count), rtol=0, atol=EXACT)
    return np.asarray((found.U * found.values[:count]) @ found.Vh)


class TestPrescribedSpectra:
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    @pytest.mark.parametrize("name", SPECTRA)
    def test_gram(self, name: str, shape: tuple[int, int], generator: torch.Generator) -> None:
        truth = SPECTRA[name](min(shape))
        found = spectrum_of(dense(matrix(truth, shape, generator)), method="gram")
        assert found.complete
        assert 0.0 < found.floor < 2e-7 * truth[0]
        assert (np.abs(found.values - truth) <= gram_error(truth, found.floor)).all()
        # Far above the floor the loss is invisible: 1e-8 of the largest value down to a millionth of it.
        large = truth >= 1e-6
        np.testing.assert_allclose(found.values[large], truth[large], rtol=0, atol=1e-8)

    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    @pytest.mark.parametrize("name", SPECTRA)
    def test_svd(self, name: str, shape: tuple[int, int], generator: torch.Generator) -> None:
        truth = SPECTRA[name](min(shape))
        found = spectrum_of(dense(matrix(truth, shape, generator)), method="svd")
        np.testing.assert_allclose(found.values, truth, rtol=0, atol=EXACT)

    @pytest.mark.parametrize("rank", [1, 5, 20])
    @pytest.mark.parametrize("shape", [(64, 64), (96, 40), (40, 96), (300, 20)], ids=str)
    @pytest.mark.parametrize("name", SPECTRA)
    def test_factors(self, name: str, shape: tuple[int, int], rank: int, generator: torch.Generator) -> None:
        truth = SPECTRA[name](rank)
        (B, A), turn = factors(truth, shape, generator), orthonormal(rank, rank, generator)
        found = spectrum_of(LowRankUpdate(B @ turn, turn.T @ A, scaling=0.25), method="factors")
        assert len(found.values) == found.rank_bound == rank
        np.testing.assert_allclose(found.values, truth / 4, rtol=0, atol=EXACT)

    @pytest.mark.parametrize("shape", [(64, 64), (96, 40), (40, 96)], ids=str)
    @pytest.mark.parametrize("name", SPECTRA)
    def test_randomized(self, name: str, shape: tuple[int, int], generator: torch.Generator) -> None:
        truth = SPECTRA[name](min(shape))
        found = spectrum_of(dense(matrix(truth, shape, generator)), method="randomized", k=8)
        assert len(found.values) == 8
        assert (np.abs(found.values - truth[:8]) <= found.floor).all()
        assert (found.values <= truth[:8] + EXACT).all(), "Ritz values approach from below"

    @pytest.mark.parametrize("rank", [1, 7])
    def test_all_methods_agree_on_factors(self, rank: int, generator: torch.Generator) -> None:
        update = LowRankUpdate(*factors(geometric(rank), (50, 30), generator), gate=torch.linspace(-2, 2, rank))
        exact = singular_values(update.to_dense())[:rank]
        for method in ("auto", "factors", "svd", "randomized"):
            found = spectrum_of(update, method=method)
            assert found.complete
            np.testing.assert_allclose(found.values, exact, rtol=0, atol=EXACT)
            assert math.isclose(found.frobenius_norm, float(np.linalg.norm(exact)), rel_tol=EXACT)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
    def test_a_stored_type_moves_values_by_no_more_than_its_rounding(
        self, dtype: torch.dtype, generator: torch.Generator
    ) -> None:
        truth = power_law(40)
        exact = matrix(truth, (60, 40), generator)
        found = spectrum_of(dense(exact.to(dtype)))
        rounding = torch.linalg.matrix_norm(exact - exact.to(dtype).double(), 2).item()
        assert 0.0 < np.abs(found.values - truth).max() <= rounding + found.floor, "Weyl's bound"

    def test_default_is_gram_for_dense_and_factors_for_factored(self, generator: torch.Generator) -> None:
        assert spectrum_of(dense(white_noise((5, 4), generator))).method == "gram"
        assert spectrum_of(LowRankUpdate(torch.ones(5, 1), torch.ones(1, 4))).method == "factors"


class TestFloor:
    """Where the matrix has rank r, nothing beyond r may stand above the floor."""

    @pytest.mark.parametrize(
        ("shape", "rank"),
        [
            ((64, 64), 16),
            ((512, 2048), 1),
            ((512, 2048), 256),
            ((2048, 512), 16),
            ((1024, 1024), 1),
            ((1024, 1024), 512),
            ((2048, 2048), 1024),
        ],
    )
    def test_of_gram_on_equal_values_the_hardest_spectrum(
        self, shape: tuple[int, int], rank: int, generator: torch.Generator
    ) -> None:
        found = spectrum_of(dense(matrix(flat(rank), shape, generator)))
        assert found.values[rank] < found.floor < 4e-7
        assert numerical_rank(found) == rank

    @pytest.mark.parametrize("size", [64, 768, 2048])
    def test_of_gram_on_a_constant_change_whose_rounding_errors_are_alike(self, size: int) -> None:
        found = spectrum_of(dense(torch.full((size, size), 1e-3)))
        assert numerical_rank(found) == 1
        assert found.values[1] < found.floor < 4e-7 * found.values[0]

    def test_of_gram_on_few_changed_rows(self, generator: torch.Generator) -> None:
        """An embedding of which training touched 37 tokens."""
        base = torch.randn(3000, 256, generator=generator)
        tuned = base.clone()
        tuned[torch.randperm(3000, generator=generator)[:37]] += 0.01 * torch.randn(37, 256, generator=generator)
        found = spectrum_of(DenseUpdate(MemoryMatrix(tuned), MemoryMatrix(base)))
        assert numerical_rank(found) == 37

    @pytest.mark.parametrize("shape", [(200, 80), (80, 200), (128, 128)], ids=str)
    def test_of_svd(self, shape: tuple[int, int], generator: torch.Generator) -> None:
        found = spectrum_of(dense(matrix(deficient(min(shape)), shape, generator)), method="svd")
        assert numerical_rank(found) == min(shape) // 4
        assert found.floor < 1e-13

    def test_of_factors_that_lose_rank(self, generator: torch.Generator) -> None:
        B, A = factors(flat(12), (90, 70), generator)
        mix = orthonormal(12, 12, generator)
        gate = torch.cat([torch.ones(5), torch.zeros(7)]).double()
        found = spectrum_of(LowRankUpdate(B * gate @ mix, mix.T @ A))
        assert found.rank_bound == 12
        assert numerical_rank(found) == 5
        assert found.floor < 1e-13

    @pytest.mark.parametrize("method", ["factors", "svd", "randomized"])
    def test_of_factors_that_cancel(self, method: Method, generator: torch.Generator) -> None:
        """Equal products of other factors: what remains is rounding, and the floor says so."""
        B, A = white_noise((200, 8), generator), white_noise((8, 300), generator)
        turn = orthonormal(8, 8, generator)
        found = spectrum_of(LowRankUpdate(B, A).minus(LowRankUpdate(B @ turn, turn.T @ A)), method=method)
        assert 0.0 < found.values[0] < found.floor < 1e-9
        assert numerical_rank(found) == 0

    def test_of_factors_of_which_one_is_shared(self, generator: torch.Generator) -> None:
        """A frozen A: the change of the product has the rank of the change of B, not twice the rank."""
        A = white_noise((8, 300), generator)
        now, before = white_noise((200, 8), generator), white_noise((200, 8), generator)
        found = spectrum_of(LowRankUpdate(now, A).minus(LowRankUpdate(before, A)))
        assert found.rank_bound == 16
        assert numerical_rank(found) == 8

    @pytest.mark.parametrize("method", ["gram", "svd", "randomized"])
    def test_of_zero_is_zero(self, method: Method) -> None:
        found = spectrum_of(dense(torch.zeros(6, 4)), method=method, vectors=2)
        assert found.zero
        assert (found.complete, found.floor, float(found.values.sum())) == (True, 0.0, 0.0)

    @pytest.mark.parametrize("method", ["factors", "svd", "randomized"])
    def test_factors_without_any_rank_are_zero(self, method: Method) -> None:
        found = spectrum_of(LowRankUpdate(torch.zeros(6, 0), torch.zeros(0, 4)), method=method, vectors=2)
        assert found.zero
        assert found.complete
        assert len(found.values) == 0


class TestVectors:
    @pytest.mark.parametrize("method", ["gram", "svd", "randomized"])
    @pytest.mark.parametrize("transposed", [False, True], ids=["stored as used", "stored transposed"])
    @pytest.mark.parametrize("shape", [(50, 30), (30, 50), (40, 40)], ids=["tall", "wide", "square"])
    def test_reproduce_the_leading_part(
        self, shape: tuple[int, int], transposed: bool, method: Method, generator: torch.Generator
    ) -> None:
        truth = np.geomspace(1.0, 1e-3, 30 if min(shape) == 30 else 40)
        exact = matrix(truth, shape, generator)
        found = spectrum_of(dense(exact, transposed=transposed), method=method, vectors=6, k=10)
        assert found.U is not None
        assert found.Vh is not None
        assert found.U.shape == (shape[0], 6)
        assert found.Vh.shape == (6, shape[1])
        U, values, Vh = np.linalg.svd(exact.numpy(), full_matrices=False)
        leading = (U[:, :6] * values[:6]) @ Vh[:6]
        # Directions are lost by eps over the relative gap of the squares, about 0.3 here; the randomised ones by
        # the decay beyond k, to the power of twice the passes.
        np.testing.assert_allclose(leading_part(found), leading, rtol=0, atol=1e-10)
        np.testing.assert_allclose(exact.numpy() @ found.Vh.T, found.U * found.values[:6], rtol=0, atol=1e-10)

    @pytest.mark.parametrize("shape", [(50, 30), (30, 50)], ids=["tall", "wide"])
    def test_of_factors(self, shape: tuple[int, int], generator: torch.Generator) -> None:
        B, A = white_noise((shape[0], 5), generator), white_noise((5, shape[1]), generator)
        update = LowRankUpdate(B, A, scaling=-3.0, gate=torch.linspace(-1, 2, 5))
        found = spectrum_of(update, vectors=5)
        np.testing.assert_allclose(leading_part(found), update.to_dense().numpy(), rtol=0, atol=EXACT * found.values[0])

    @pytest.mark.parametrize("shape", [(50, 30), (30, 50)], ids=["tall", "wide"])
    @pytest.mark.parametrize("method", ["gram", "svd"])
    def test_stay_orthonormal_beyond_the_rank(
        self, shape: tuple[int, int], method: Method, generator: torch.Generator
    ) -> None:
        exact = matrix(flat(3), shape, generator)
        found = spectrum_of(dense(exact), method=method, vectors=30)
        assert found.Vh is not None
        assert len(found.Vh) == 30
        np.testing.assert_allclose(leading_part(found), exact.numpy(), rtol=0, atol=2 * found.floor)

    @pytest.mark.parametrize("method", ["factors", "svd", "randomized"])
    def test_are_no_more_than_the_rank_bound(self, method: Method, generator: torch.Generator) -> None:
        found = spectrum_of(LowRankUpdate(*factors(flat(3), (9, 7), generator)), method=method, vectors=6)
        assert found.U is not None
        assert found.Vh is not None
        assert (found.U.shape, found.Vh.shape) == ((9, 3), (3, 7))

    @pytest.mark.parametrize("method", ["gram", "svd", "randomized"])
    def test_are_none_unless_asked_for(self, method: Method, generator: torch.Generator) -> None:
        found = spectrum_of(dense(white_noise((6, 5), generator)), method=method)
        assert found.U is None
        assert found.Vh is None


class TestRandomized:
    @pytest.mark.parametrize("seed", range(10))
    def test_floor_is_an_honest_bound_also_where_values_hardly_decay(
        self, seed: int, generator: torch.Generator
    ) -> None:
        truth = np.linspace(1.0, 0.5, 120)
        found = spectrum_of(dense(matrix(truth, (150, 120), generator)), method="randomized", k=10, seed=seed)
        errors = np.abs(found.values - truth[:10])
        assert 1e-6 < errors.max() <= found.floor, "an error that is worth a bound, within it"
        assert found.floor < 0.2, "and the bound says something"

    def test_is_refused_where_the_tail_matters(self, generator: torch.Generator) -> None:
        truth = power_law(100)
        found = spectrum_of(dense(matrix(truth, (120, 100), generator)), method="randomized", k=10)
        assert not found.complete
        assert math.isclose(found.frobenius_norm, float(np.linalg.norm(truth)), rel_tol=EXACT)
        assert math.isclose(stable_rank(found), float(truth @ truth), rel_tol=1e-9)
        assert energy_rank(found, 0.9) == int(np.argmax(np.cumsum(truth**2) >= 0.9 * truth @ truth)) + 1
        with pytest.raises(IncompleteSpectrumError, match=r"effective_rank needs every .* 10 of 100"):
            effective_rank(found)
        with pytest.raises(IncompleteSpectrumError, match=r"energy_rank\(0.99\)"):
            energy_rank(found, 0.99)
        with pytest.raises(IncompleteSpectrumError, match="numerical_rank"):
            numerical_rank(found)
        values = evaluate(found)
        assert {name for name in METRICS if math.isnan(values[name])} == {
            name for name, metric in METRICS.items() if metric.needs == "complete"
        } | {"numerical_rank", "energy_rank_95", "energy_rank_99"}

    def test_repeats_for_a_seed_and_changes_with_it(self, generator: torch.Generator) -> None:
        update = dense(white_noise((60, 50), generator))
        first, again, other = (spectrum_of(update, method="randomized", k=5, seed=seed) for seed in (1, 1, 2))
        np.testing.assert_array_equal(first.values, again.values)
        assert (first.values != other.values).any()

    def test_leaves_the_global_generator_alone(self, generator: torch.Generator) -> None:
        state = torch.random.get_rng_state()
        spectrum_of(dense(white_noise((6, 5), generator)), method="randomized")
        assert torch.equal(torch.random.get_rng_state(), state)

    def test_asked_for_more_than_there_are_gives_all(self, generator: torch.Generator) -> None:
        exact = white_noise((20, 12), generator)
        found = spectrum_of(dense(exact), method="randomized", k=500)
        assert found.complete
        np.testing.assert_allclose(found.values, singular_values(exact), rtol=EXACT)


class TestInvariance:
    @pytest.mark.parametrize("shape", [(50, 30), (30, 50)], ids=["tall", "wide"])
    @pytest.mark.parametrize("method", ["gram", "svd"])
    def test_under_transposition(self, shape: tuple[int, int], method: Method, generator: torch.Generator) -> None:
        exact = white_noise(shape, generator)
        as_is, flagged = (dense(exact, transposed=transposed) for transposed in (False, True))
        other = dense(exact.T.contiguous())
        values = [spectrum_of(update, method=method).values for update in (as_is, flagged, other)]
        assert spectrum_of(as_is).shape == spectrum_of(flagged).shape == shape
        assert spectrum_of(other).shape == shape[::-1]
        np.testing.assert_allclose(values[1], values[0], rtol=EXACT)
        np.testing.assert_allclose(values[2], values[0], rtol=EXACT)

    @pytest.mark.parametrize("shape", [(50, 30), (30, 50), (33, 33)], ids=str)
    @pytest.mark.parametrize("tile_bytes", [1, 1000])
    def test_under_the_size_of_tiles(
        self, shape: tuple[int, int], tile_bytes: int, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tuned, base = white_noise(shape, generator), white_noise(shape, generator)
        update = DenseUpdate(MemoryMatrix(tuned.float()), MemoryMatrix(base.bfloat16()))
        one = [spectrum_of(update, method=method) for method in ("gram", "svd", "randomized")]
        monkeypatch.setattr(update_module, "TILE_BYTES", tile_bytes)
        assert len(list(update.tiles())) > 1
        many = [spectrum_of(update, method=method) for method in ("gram", "svd", "randomized")]
        for whole, tiled in zip(one, many, strict=True):
            np.testing.assert_allclose(tiled.values, whole.values, rtol=EXACT)
            assert math.isclose(tiled.frobenius_norm, whole.frobenius_norm, rel_tol=EXACT)

    @pytest.mark.parametrize("factor", [1e-30, 1e30])
    @pytest.mark.parametrize("method", ["gram", "svd", "randomized"])
    def test_under_scale(self, method: Method, factor: float, generator: torch.Generator) -> None:
        exact = white_noise((30, 20), generator)
        plain, scaled = (spectrum_of(dense(part), method=method) for part in (exact, factor * exact))
        np.testing.assert_allclose(scaled.values, factor * plain.values, rtol=EXACT)
        assert math.isclose(scaled.floor, factor * plain.floor, rel_tol=0.5)


class TestGramMatrix:
    @pytest.mark.parametrize("shape", [(23, 10), (10, 23), (17, 17)], ids=str)
    @pytest.mark.parametrize("transposed", [False, True], ids=["stored as used", "stored transposed"])
    def test_lower_triangle_is_exact_and_nothing_stands_above_its_blocks(
        self, shape: tuple[int, int], transposed: bool, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(decomposition, "_BLOCK", 4)
        monkeypatch.setattr(update_module, "TILE_BYTES", 200)
        exact = integers(shape, generator)
        gram = gram_matrix(dense(exact, transposed=transposed)).numpy()
        short_first = exact if shape[0] < shape[1] or (shape[0] == shape[1] and transposed) else exact.T
        np.testing.assert_array_equal(np.tril(gram), np.tril((short_first @ short_first.T).numpy()))
        block = np.arange(len(gram)) // 4
        assert not gram[block[:, None] < block[None, :]].any()


class TestRefusals:
    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e200])
    @pytest.mark.parametrize("method", ["gram", "svd", "randomized"])
    def test_dense_that_is_not_finite(self, method: Method, bad: float) -> None:
        values = torch.ones(6, 5, dtype=torch.float64)
        values[2, 3] = bad
        with pytest.raises(NonFiniteError, match="NaN or infinite values"):
            spectrum_of(dense(values), method=method)

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    @pytest.mark.parametrize("where", ["B", "A", "scaling", "gate"])
    @pytest.mark.parametrize("method", ["factors", "svd", "randomized"])
    def test_factors_that_are_not_finite(self, method: Method, where: str, bad: float) -> None:
        parts = {"B": torch.ones(6, 2), "A": torch.ones(2, 5), "gate": torch.ones(2), "scaling": torch.ones(1)}
        parts[where].view(-1)[0] = bad
        update = LowRankUpdate(parts["B"], parts["A"], float(parts["scaling"]), parts["gate"])
        with pytest.raises(NonFiniteError, match="earlier checkpoint"):
            spectrum_of(update, method=method)

    def test_a_method_for_the_other_kind(self) -> None:
        with pytest.raises(UnsupportedUpdateError, match="'factors' needs an update that is stored as factors"):
            spectrum_of(dense(torch.ones(3, 2)), method="factors")
        with pytest.raises(UnsupportedUpdateError, match="'gram' is for dense updates"):
            spectrum_of(LowRankUpdate(torch.ones(3, 1), torch.ones(1, 2)), method="gram")

    def test_an_unknown_method_is_not_taken_for_another(self) -> None:
        with pytest.raises(ValueError, match=r"method 'eigh'.*expected one of auto, factors, gram, svd, randomized"):
            spectrum_of(dense(torch.ones(3, 2)), method="eigh")  # type: ignore[arg-type]

    @pytest.mark.parametrize("k", [0, -1])
    def test_no_values_at_all(self, k: int) -> None:
        with pytest.raises(ValueError, match=f"k={k}"):
            spectrum_of(dense(torch.ones(3, 2)), method="randomized", k=k)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: the device's arithmetic is not checked")
@pytest.mark.parametrize("method", ["gram", "svd", "randomized"])
def test_cuda_gives_the_numbers_of_the_cpu(method: Method, generator: torch.Generator) -> None:
    truth = geometric(200)
    for transposed in (False, True):
        update = dense(matrix(truth, (300, 200), generator), transposed=transposed)
        cpu, cuda = (spectrum_of(update, method=method, k=20, vectors=3, device=device) for device in ("cpu", "cuda"))
        np.testing.assert_allclose(cuda.values, cpu.values, rtol=0, atol=cpu.floor + cuda.floor)
        assert (np.abs(cuda.values - truth[: len(cuda.values)]) <= cuda.floor).all()
        np.testing.assert_allclose(leading_part(cuda), leading_part(cpu), rtol=0, atol=1e-9)
