"""Identical entries, true grids and weight norms, on matrices where all three are known."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rank_lab import change as change_module
from rank_lab import update as update_module
from rank_lab.change import ChangeStatistics, change_statistics, vector_change_norm, weight_norms
from rank_lab.checkpoint import Checkpoint
from rank_lab.errors import NonFiniteError, ShapeMismatchError
from rank_lab.stored_tensor import StoredTensor
from rank_lab.update import DenseUpdate, MemoryMatrix
from tests.spectra import Array, factors, flat, geometric, matrix, power_law, singular_values, white_noise

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def statistics(tuned: torch.Tensor, base: torch.Tensor | None = None, **layout: object) -> ChangeStatistics:
    update = DenseUpdate(
        MemoryMatrix(tuned),
        None if base is None else MemoryMatrix(base),
        **layout,  # type: ignore[arg-type]
    )
    return change_statistics(update)


class TestIdenticalFraction:
    @pytest.mark.parametrize("transposed", [False, True])
    @pytest.mark.parametrize("tile_bytes", [64 << 20, 1])
    @pytest.mark.parametrize("changed", [0, 1, 7, 60])
    def test_counts_entries(
        self,
        changed: int,
        tile_bytes: int,
        transposed: bool,
        generator: torch.Generator,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(update_module, "TILE_BYTES", tile_bytes)
        base = torch.randn(6, 10, generator=generator)
        tuned = base.clone()
        tuned.view(-1)[torch.randperm(60, generator=generator)[:changed]] += 1.0
        assert statistics(tuned, base, transposed=transposed).identical_fraction == 1 - changed / 60

    def test_sees_the_smallest_change_that_a_type_can_store(self) -> None:
        for dtype in DTYPES:
            base = torch.ones(2, 2, dtype=dtype)
            tuned = base.clone()
            tuned[0, 0] += torch.finfo(dtype).eps
            assert statistics(tuned, base).identical_fraction == 0.75

    def test_compares_values_across_types(self, generator: torch.Generator) -> None:
        base = torch.randn(4, 5, generator=generator).bfloat16()
        assert statistics(base.float(), base).identical_fraction == 1.0
        assert statistics(base.double() * (1 + 1e-9), base).identical_fraction == 0.0

    def test_compares_common_rows_only(self) -> None:
        assert statistics(torch.ones(5, 2), torch.ones(3, 2), rows=3).identical_fraction == 1.0

    def test_nothing_is_identical_to_no_base(self) -> None:
        found = statistics(torch.zeros(3, 2))
        assert (found.identical_fraction, found.base_grid, found.base_non_finite) == (0.0, "", 0)


class TestGrid:
    @pytest.mark.parametrize("stored", DTYPES[:2], ids=str)
    @pytest.mark.parametrize("grid", DTYPES, ids=str)
    def test_is_found_in_a_wider_file(self, grid: torch.dtype, stored: torch.dtype, generator: torch.Generator) -> None:
        values = torch.randn(30, 20, generator=generator, dtype=torch.float64)
        narrower = grid if grid != torch.float64 else stored
        found = statistics(values.to(grid).to(stored), values.to(stored))
        assert found.tuned_grid == str(narrower).removeprefix("torch.")
        assert found.base_grid == str(stored).removeprefix("torch.")

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_of_a_file_that_uses_its_type(self, dtype: torch.dtype, generator: torch.Generator) -> None:
        found = statistics(white_noise((30, 20), generator).to(dtype), white_noise((30, 20), generator).to(dtype))
        assert found.tuned_grid == found.base_grid == str(dtype).removeprefix("torch.")

    def test_one_value_off_the_grid_decides(self, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(update_module, "TILE_BYTES", 1)
        values = torch.randn(30, 20, generator=generator).bfloat16().float()
        values[17, 5] += 2.0**-20
        assert statistics(values).tuned_grid == "float32"

    def test_tiles_must_agree_on_one_grid(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The first row is on the bfloat16 grid only, the second on the float16 grid only: together on neither."""
        monkeypatch.setattr(update_module, "TILE_BYTES", 1)
        wide, fine = 2.0**100, 1.0 + 2.0**-10
        assert statistics(torch.tensor([[wide, 1.0]])).tuned_grid == "bfloat16"
        assert statistics(torch.tensor([[fine, 1.0]])).tuned_grid == "float16"
        assert statistics(torch.tensor([[wide, 1.0], [fine, 1.0]])).tuned_grid == "float32"


class TestNonFinite:
    @pytest.mark.parametrize("tile_bytes", [64 << 20, 1])
    def test_is_counted_on_each_side(self, tile_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(update_module, "TILE_BYTES", tile_bytes)
        tuned, base = torch.ones(4, 3), torch.ones(4, 3)
        tuned[0, 0], tuned[3, 2] = math.nan, math.inf
        base[1, 1] = -math.inf
        found = statistics(tuned, base)
        assert (found.tuned_non_finite, found.base_non_finite) == (2, 1)
        assert found.identical_fraction == 9 / 12, "NaN and infinity are not identical to one"


class TestWeightNorms:
    """Exact to 1e-12 by the Gram matrix up to 512; beyond, float32 products and a Krylov space: 1e-6 where the
    leading values stand apart, 1e-4 where they hardly differ, and never above the true value but by rounding."""

    @pytest.mark.parametrize("shape", [(40, 30), (30, 200), (512, 600)], ids=str)
    @pytest.mark.parametrize("spectrum", [flat, power_law, geometric])
    def test_are_exact_for_small_weights(
        self, spectrum: Callable[[int], Array], shape: tuple[int, int], generator: torch.Generator
    ) -> None:
        values = 3.0 * spectrum(min(shape))
        norms = weight_norms(MemoryMatrix(matrix(values, shape, generator)))
        assert norms.spectral == pytest.approx(3.0, rel=1e-12)
        assert norms.frobenius == pytest.approx(float(np.linalg.norm(values)), rel=1e-12)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    @pytest.mark.parametrize("shape", [(520, 520), (520, 900), (900, 520)], ids=["square", "wide", "tall"])
    @pytest.mark.parametrize("spectrum", [flat, power_law, geometric])
    def test_of_large_weights(
        self, spectrum: Callable[[int], Array], shape: tuple[int, int], dtype: torch.dtype, generator: torch.Generator
    ) -> None:
        values = 0.02 * spectrum(520)
        norms = weight_norms(MemoryMatrix(matrix(values, shape, generator, dtype=dtype)))
        assert norms.spectral == pytest.approx(0.02, rel=1e-6)
        assert norms.frobenius == pytest.approx(float(np.linalg.norm(values)), rel=1e-6)

    @pytest.mark.parametrize("shape", [(520, 520), (520, 900), (900, 520)], ids=["square", "wide", "tall"])
    def test_of_noise_whose_largest_values_hardly_differ(
        self, shape: tuple[int, int], generator: torch.Generator
    ) -> None:
        weight = white_noise(shape, generator).float()
        exact = singular_values(weight)
        norms = weight_norms(MemoryMatrix(weight))
        assert -1e-4 < norms.spectral / exact[0] - 1 < 1e-6
        assert norms.frobenius == pytest.approx(float(np.linalg.norm(exact)), rel=1e-9)

    @pytest.mark.parametrize("rank", [1, 2, 5, 8, 9, 20])
    @pytest.mark.parametrize("shape", [(520, 520), (520, 900), (900, 520)], ids=["square", "wide", "tall"])
    def test_of_low_rank_are_not_exceeded(self, shape: tuple[int, int], rank: int, generator: torch.Generator) -> None:
        """Where the Krylov space is exhausted, directions made up by rounding must not count twice."""
        B, A = factors(flat(rank), shape, generator)
        norms = weight_norms(MemoryMatrix((B @ A).float()))
        assert norms.spectral == pytest.approx(1.0, rel=1e-6)
        assert norms.frobenius == pytest.approx(math.sqrt(rank), rel=1e-6)

    @pytest.mark.parametrize("shape", [(3, 5), (520, 530)], ids=str)
    def test_of_zero_are_zero(self, shape: tuple[int, int]) -> None:
        norms = weight_norms(MemoryMatrix(torch.zeros(shape)))
        assert (norms.frobenius, norms.spectral) == (0.0, 0.0)

    @pytest.mark.parametrize("shape", [(520, 530), (2200, 520)], ids=["kept in memory", "read again"])
    def test_do_not_depend_on_tiles(
        self, shape: tuple[int, int], generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        weight = MemoryMatrix(matrix(power_law(520), shape, generator, dtype=torch.float32))
        whole = weight_norms(weight)
        for module in (change_module, update_module):
            monkeypatch.setattr(module, "TILE_BYTES", 100_000)
        kept = change_module._Tiles(weight)._kept is not None
        assert kept == (shape == (520, 530)), "both ways of reading are tried"
        tiled = weight_norms(weight)
        assert tiled.spectral == pytest.approx(whole.spectral, rel=1e-6)
        assert tiled.frobenius == pytest.approx(whole.frobenius, rel=1e-12)

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    @pytest.mark.parametrize("shape", [(30, 20), (520, 530)], ids=["small", "large"])
    def test_of_what_is_not_finite_are_refused(self, shape: tuple[int, int], bad: float) -> None:
        weight = torch.ones(shape)
        weight[2, 3] = bad
        with pytest.raises(NonFiniteError, match="NaN or infinite"):
            weight_norms(MemoryMatrix(weight))

    def test_of_nothing_are_refused(self) -> None:
        with pytest.raises(ShapeMismatchError, match=r"stored shape \[0, 5\]"):
            weight_norms(MemoryMatrix(torch.zeros(0, 5)))


class TestVectorChange:
    @pytest.fixture
    def tensors(self, tmp_path: Path) -> dict[str, StoredTensor]:
        stored = {
            "base": torch.tensor([1.0, 2.0, 3.0]).bfloat16(),
            "tuned": torch.tensor([1.0, 5.0, 7.0]),
            "bad": torch.tensor([1.0, math.nan, 7.0]),
            "endless": torch.tensor([1.0, math.inf, 7.0]),
            "kernel": torch.full((2, 3, 1, 2), 0.5),
            "scalar": torch.tensor(-2.0),
        }
        save_file(stored, tmp_path / "model.safetensors")
        return dict(Checkpoint.open(tmp_path / "model.safetensors").tensors)

    def test_is_the_euclidean_norm_in_float64(self, tensors: dict[str, StoredTensor]) -> None:
        assert vector_change_norm(tensors["tuned"], tensors["base"]) == 5.0
        assert vector_change_norm(tensors["base"], tensors["base"]) == 0.0
        assert vector_change_norm(tensors["kernel"], None) == math.sqrt(3.0)
        assert vector_change_norm(tensors["scalar"], None) == 2.0

    def test_is_not_a_number_where_a_value_is_none(self, tensors: dict[str, StoredTensor]) -> None:
        for name in ("bad", "endless"):
            assert math.isnan(vector_change_norm(tensors[name], tensors["base"]))
            assert math.isnan(vector_change_norm(tensors[name], None))
