"""The contract of every kind of update: the same numbers as its dense float64 matrix.

Entries are small integers and scalings powers of two, so that products and sums
are exact in every type and most comparisons are for equality.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from rank_lab import update as update_module
from rank_lab.errors import ShapeMismatchError
from rank_lab.update import DenseUpdate, LowRankUpdate, MemoryMatrix, Update
from tests.spectra import integers

Array = npt.NDArray[np.float64]
Case = tuple[Update, Array]
"""An update and what it must be."""

SHAPES = [(7, 4), (4, 7), (6, 6), (1, 5), (5, 1), (1, 1)]
RANKS = ["zero", "one", "deficient", "full"]


def stored(values: Tensor, dtype: torch.dtype = torch.float32) -> MemoryMatrix:
    return MemoryMatrix(values.to(dtype).contiguous())


def product_factors(shape: tuple[int, int], rank: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    inner = {"zero": 2, "one": 1, "deficient": 2, "full": min(shape)}[rank]
    left, right = integers((shape[0], inner), generator), integers((inner, shape[1]), generator)
    return left, torch.zeros_like(right) if rank == "zero" else right


def dense(left: Tensor, right: Tensor, generator: torch.Generator) -> Case:
    base = integers((left.shape[0], right.shape[1]), generator, largest=9)
    tuned = base + left @ right
    return DenseUpdate(stored(tuned), stored(base)), tuned.numpy() - base.numpy()


def dense_transposed(left: Tensor, right: Tensor, generator: torch.Generator) -> Case:
    base = integers((right.shape[1], left.shape[0]), generator, largest=9)
    tuned = base + (left @ right).T
    return DenseUpdate(stored(tuned), stored(base), transposed=True), (tuned.numpy() - base.numpy()).T


def dense_common_rows(left: Tensor, right: Tensor, generator: torch.Generator) -> Case:
    rows, columns = left.shape[0], right.shape[1]
    base = integers((rows + 3, columns), generator, largest=9)
    tuned = base[:rows] + left @ right
    return DenseUpdate(stored(tuned), stored(base), rows=rows), tuned.numpy() - base[:rows].numpy()


def dense_common_rows_transposed(left: Tensor, right: Tensor, generator: torch.Generator) -> Case:
    rows = right.shape[1]
    base = integers((rows, left.shape[0]), generator, largest=9)
    tuned = torch.cat([base + (left @ right).T, integers((2, left.shape[0]), generator)])
    update = DenseUpdate(stored(tuned), stored(base), transposed=True, rows=rows)
    return update, (tuned[:rows].numpy() - base.numpy()).T


def dense_without_base(left: Tensor, right: Tensor, generator: torch.Generator) -> Case:
    return DenseUpdate(stored(left @ right)), left.numpy() @ right.numpy()


def low_rank(left: Tensor, right: Tensor, generator: torch.Generator) -> Case:
    return LowRankUpdate(left.float(), right.bfloat16(), scaling=0.5), 0.5 * left.numpy() @ right.numpy()


def low_rank_gated(left: Tensor, right: Tensor, generator: torch.Generator) -> Case:
    gate = integers((right.shape[0],), generator)
    truth = 2.0 * np.einsum("or,r,ri->oi", left.numpy(), gate.numpy(), right.numpy())
    return LowRankUpdate(left.half(), right, scaling=2.0, gate=gate.float()), truth


def low_rank_difference(left: Tensor, right: Tensor, generator: torch.Generator) -> Case:
    other_left, other_right = integers((left.shape[0], 2), generator), integers((2, right.shape[1]), generator)
    now = LowRankUpdate(left, right, scaling=4.0, gate=torch.full((right.shape[0],), 0.5))
    before = LowRankUpdate(other_left, other_right, scaling=-1.0)
    return now.minus(before), 2.0 * left.numpy() @ right.numpy() + other_left.numpy() @ other_right.numpy()


KINDS: dict[str, Callable[[Tensor, Tensor, torch.Generator], Case]] = {
    build.__name__: build
    for build in (
        dense,
        dense_transposed,
        dense_common_rows,
        dense_common_rows_transposed,
        dense_without_base,
        low_rank,
        low_rank_gated,
        low_rank_difference,
    )
}
DENSE_KINDS = [name for name in KINDS if name.startswith("dense")]


@pytest.fixture(params=[64 << 20, 100], ids=["one tile", "many tiles"])
def tile_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(update_module, "TILE_BYTES", request.param)
    return int(request.param)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("kind", KINDS)
class TestContract:
    """What every kind promises, for every shape and rank."""

    @pytest.fixture
    def case(self, kind: str, rank: str, shape: tuple[int, int], generator: torch.Generator) -> Case:
        return KINDS[kind](*product_factors(shape, rank, generator), generator)

    def test_shape_and_a_rank_bound_that_holds(self, case: Case, shape: tuple[int, int]) -> None:
        update, truth = case
        assert update.shape == shape == truth.shape
        assert np.linalg.matrix_rank(truth) <= update.rank_bound <= min(shape)

    def test_dense_matrix(self, case: Case, tile_bytes: int) -> None:
        update, truth = case
        found = update.to_dense()
        assert found.dtype == torch.float64
        np.testing.assert_array_equal(found.numpy(), truth)

    def test_products_from_both_sides(self, case: Case, tile_bytes: int, generator: torch.Generator) -> None:
        update, truth = case
        out_features, in_features = truth.shape
        for count in (1, 3):
            right, left = integers((in_features, count), generator), integers((out_features, count), generator)
            for dtype in (torch.float32, torch.float64):
                product, transposed = update.matmul(right.to(dtype)), update.transpose_matmul(left.to(dtype))
                assert product.dtype == transposed.dtype == torch.float64
                np.testing.assert_array_equal(product.numpy(), truth @ right.numpy())
                np.testing.assert_array_equal(transposed.numpy(), truth.T @ left.numpy())

    def test_frobenius_norm(self, case: Case, tile_bytes: int) -> None:
        update, truth = case
        # Factored norms go through QR, which is exact to a few eps of the factors' norms, also where those cancel.
        np.testing.assert_allclose(update.frobenius_norm(), np.linalg.norm(truth), rtol=1e-14, atol=1e-13)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", DENSE_KINDS)
def test_tiles_cover_the_stored_matrix_once_and_in_order(
    kind: str, shape: tuple[int, int], axis: int, tile_bytes: int, generator: torch.Generator
) -> None:
    update, truth = KINDS[kind](*product_factors(shape, "full", generator), generator)
    assert isinstance(update, DenseUpdate)
    as_stored = truth.T if update.transposed else truth
    assert update.stored_shape == as_stored.shape
    end, pieces = 0, []
    for part, tile in update.tiles(axis):  # type: ignore[arg-type]
        assert part.start == end
        assert tile.shape[axis] == part.stop - part.start
        assert tile.numel() * 8 <= tile_bytes or tile.shape[axis] == 1, "a tile is larger than it may be"
        end = part.stop
        pieces.append(tile.numpy())
    assert end == as_stored.shape[axis]
    np.testing.assert_array_equal(np.concatenate(pieces, axis=axis), as_stored)


def test_a_small_limit_gives_many_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update_module, "TILE_BYTES", 2 * 4 * 8)
    update = DenseUpdate(MemoryMatrix(torch.ones(7, 4)))
    assert [part for part, _ in update.tiles(0)] == [slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 7)]
    assert [part for part, _ in update.tiles(1)] == [slice(0, 1), slice(1, 2), slice(2, 3), slice(3, 4)]


@pytest.mark.parametrize("tuned_dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("base_dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_differences_of_any_two_types_are_taken_in_float64(
    tuned_dtype: torch.dtype, base_dtype: torch.dtype, generator: torch.Generator
) -> None:
    tuned = (torch.randn(5, 6, generator=generator) * 1e-3 + 1).to(tuned_dtype)
    base = (torch.randn(5, 6, generator=generator) * 1e-3 + 1).to(base_dtype)
    truth = tuned.to(torch.float64).numpy() - base.to(torch.float64).numpy()
    np.testing.assert_array_equal(DenseUpdate(MemoryMatrix(tuned), MemoryMatrix(base)).to_dense().numpy(), truth)


def test_one_step_of_each_type_is_not_rounded_away() -> None:
    """The smallest change that a type can store is an update, exactly."""
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        one = torch.ones(1, 1, dtype=dtype)
        step = torch.finfo(dtype).eps
        update = DenseUpdate(MemoryMatrix(one + step), MemoryMatrix(one))
        assert update.to_dense().item() == step


def test_measuring_leaves_the_matrices_as_they_were(generator: torch.Generator) -> None:
    tuned, base = integers((4, 5), generator), integers((4, 5), generator)
    copies = tuned.clone(), base.clone()
    update = DenseUpdate(MemoryMatrix(tuned), MemoryMatrix(base))
    first = update.frobenius_norm()
    assert update.frobenius_norm() == first
    for _, tile in DenseUpdate(MemoryMatrix(tuned)).tiles():
        tile.zero_()
    assert torch.equal(tuned, copies[0])
    assert torch.equal(base, copies[1])


def test_the_difference_of_equal_factors_is_exactly_zero(generator: torch.Generator) -> None:
    B, A = torch.randn(30, 4, generator=generator), torch.randn(4, 50, generator=generator)
    difference = LowRankUpdate(B, A, 0.3).minus(LowRankUpdate(B.clone(), A.clone(), 0.3))
    assert difference.frobenius_norm() == 0.0
    assert not difference.to_dense().any()
    assert difference.rank_bound == 8
    assert LowRankUpdate(B, A, 0.3).minus(LowRankUpdate(B, A, 0.4)).frobenius_norm() > 0.1


def test_rank_bound_of_a_difference_is_the_sum_within_the_shape(generator: torch.Generator) -> None:
    def update(rank: int) -> LowRankUpdate:
        return LowRankUpdate(integers((9, rank), generator), integers((rank, 5), generator))

    assert update(2).minus(update(1)).rank_bound == 3
    assert update(4).minus(update(4)).rank_bound == 5


def test_factors_of_rank_none_are_a_zero_update() -> None:
    update = LowRankUpdate(torch.zeros(4, 0), torch.zeros(0, 3))
    assert (update.shape, update.rank_bound, update.frobenius_norm()) == ((4, 3), 0, 0.0)
    np.testing.assert_array_equal(update.to_dense().numpy(), np.zeros((4, 3)))


def test_factors_hold_scaling_and_gate() -> None:
    update = LowRankUpdate(torch.ones(2, 2), torch.ones(2, 3), scaling=0.5, gate=torch.tensor([2.0, 0.0]))
    left, across = update.factors()
    np.testing.assert_array_equal(left.numpy(), [[1.0, 0.0], [1.0, 0.0]])
    np.testing.assert_array_equal(across.numpy(), np.ones((2, 3)))
    assert left.dtype == across.dtype == torch.float64


def difference(tuned: tuple[int, ...], base: tuple[int, ...] | None = None, rows: int | None = None) -> DenseUpdate:
    zeros = None if base is None else MemoryMatrix(torch.zeros(base))
    return DenseUpdate(MemoryMatrix(torch.zeros(tuned)), zeros, rows=rows)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: difference((3,)), r"a matrix, but the tuned tensor has shape \[3\]"),
        (lambda: difference((3, 4), (4, 3)), r"tuned is \[3, 4\] but base is \[4, 3\]"),
        (lambda: difference((3, 4), (4, 4)), r"tuned is \[3, 4\] but base is \[4, 4\]"),
        (lambda: difference((3, 4), (3, 5), rows=2), r"tuned is \[3, 4\] but base is \[3, 5\]"),
        # One base row would be subtracted from every row, were it not refused.
        (lambda: difference((3, 4), (1, 4), rows=3), r"stored shape \[3, 4\].* 1 common rows"),
        (lambda: difference((3, 4), (5, 4), rows=4), r"stored shape \[4, 4\].* 3 common rows"),
        (lambda: difference((3, 4), rows=0), r"stored shape \[0, 4\]"),
        (lambda: difference((0, 4)), r"stored shape \[0, 4\]"),
        (lambda: difference((4, 0), (4, 0)), r"stored shape \[4, 0\]"),
        (lambda: LowRankUpdate(torch.zeros(3, 2), torch.zeros(3, 4)), r"B is \[3, 2\] and A is \[3, 4\]"),
        (lambda: LowRankUpdate(torch.zeros(3), torch.zeros(3, 4)), r"B is \[3\]"),
        (lambda: LowRankUpdate(torch.zeros(3, 2), torch.zeros(2, 4), gate=torch.ones(3)), r"gate is \[3\]"),
        (lambda: LowRankUpdate(torch.zeros(3, 2), torch.zeros(2, 4), gate=torch.ones(1, 2)), r"gate is \[1, 2\]"),
        (
            lambda: LowRankUpdate(torch.zeros(3, 2), torch.zeros(2, 4)).minus(
                LowRankUpdate(torch.zeros(3, 2), torch.zeros(2, 5))
            ),
            r"\(3, 4\) and \(3, 5\)",
        ),
    ],
)
def test_matrices_that_do_not_fit_are_refused(build: Callable[[], Update], message: str) -> None:
    with pytest.raises(ShapeMismatchError, match=message):
        build()
