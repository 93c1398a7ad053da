"""What is measured of one update, and that the cache serves exactly what would be measured again."""

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rank_lab import measurement as measurement_module
from rank_lab.checkpoint import Checkpoint
from rank_lab.errors import CheckpointError
from rank_lab.measurement import Measurement, MeasurementOptions, measure
from rank_lab.names import Identity
from rank_lab.spec import UpdateSpec
from rank_lab.stored_tensor import StoredTensor
from tests.spectra import power_law, singular_values

SHAPE = (12, 9)
PLACE = Identity(stack="layers", layer=0, kind="q")


def write(file: Path, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, StoredTensor]:
    save_file({name: value.contiguous() for name, value in tensors.items()}, file)
    return Checkpoint.open(file).tensors


@pytest.fixture
def dense(tmp_path: Path, generator: torch.Generator) -> UpdateSpec:
    """A float32 difference in files of its own, on a bfloat16 base."""
    base = torch.randn(SHAPE, generator=generator).bfloat16()
    tuned = base.float() + 0.01 * torch.randn(SHAPE, generator=generator)
    tuned[0] = base[0].float()
    stored_base = write(tmp_path / "base.safetensors", {"w": base})["w"]
    stored_tuned = write(tmp_path / "tuned.safetensors", {"w": tuned})["w"]
    sources = (("tuned", stored_tuned), ("base", stored_base))
    return UpdateSpec("layers.0.q", PLACE, "dense", SHAPE, min(SHAPE), sources, weight=stored_base)


@pytest.fixture
def lora(tmp_path: Path, generator: torch.Generator) -> UpdateSpec:
    """Rank 3 with a scaling of one half, on a base weight."""
    tensors = {
        "B": torch.randn(SHAPE[0], 3, generator=generator),
        "A": torch.randn(3, SHAPE[1], generator=generator),
        "w": torch.diag(torch.arange(1.0, 13.0))[:, :9],
    }
    stored = write(tmp_path / "adapter.safetensors", tensors)
    sources = (("B", stored["B"]), ("A", stored["A"]))
    return UpdateSpec("layers.0.q", PLACE, "lora", SHAPE, 3, sources, scaling=0.5, weight=stored["w"])


@pytest.fixture
def options(tmp_path: Path) -> MeasurementOptions:
    return MeasurementOptions(cache=tmp_path / "cache")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of what was computed, and not taken from the cache."""
    made: list[str] = []
    for name in ("spectrum_of", "weight_norms"):
        original = getattr(measurement_module, name)

        def counted(*args: object, _name: str = name, _original: object = original, **kwargs: object) -> object:
            made.append(_name)
            return _original(*args, **kwargs)  # type: ignore[operator]

        monkeypatch.setattr(measurement_module, name, counted)
    measurement_module._digest.cache_clear()
    yield made
    measurement_module._digest.cache_clear()


def same(first: Measurement, second: Measurement) -> bool:
    """Equal to the bit, NaN included."""
    return all(
        np.array_equal(getattr(first, name), getattr(second, name), equal_nan=True)
        if name == "values"
        else repr(getattr(first, name)) == repr(getattr(second, name))
        for name in Measurement.__dataclass_fields__
    )


def rewrite(tensor: StoredTensor, **changed: torch.Tensor) -> StoredTensor:
    """The same file with other bytes, as old as it was."""
    stamp = tensor.file.stat()
    tensors = {name: stored.read() for name, stored in Checkpoint.open(tensor.file).tensors.items()} | changed
    found = write(tensor.file, tensors)[tensor.name]
    os.utime(tensor.file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    return found


class TestWhatIsMeasured:
    def test_of_a_dense_update(self, dense: UpdateSpec) -> None:
        found = measure(dense, MeasurementOptions())
        tuned, base = (dense.required(role).read().double() for role in ("tuned", "base"))
        exact = singular_values(tuned - base)
        np.testing.assert_allclose(found.values, exact, rtol=0, atol=found.floor)
        assert found.frobenius_norm == pytest.approx(float(np.linalg.norm(exact)), rel=1e-12)
        assert (found.method, found.tuned_grid, found.base_grid, found.failure) == ("gram", "float32", "bfloat16", "")
        assert found.identical_fraction == 1 / 12
        assert not found.identical
        assert found.weight.spectral == pytest.approx(singular_values(base)[0], rel=1e-12)
        assert found.weight.frobenius == pytest.approx(float(base.norm()), rel=1e-12)
        assert [role for role, _ in found.source_digests] == ["tuned", "base", "weight"]
        spectrum = found.spectrum(dense)
        assert (spectrum.complete, spectrum.shape, spectrum.floor) == (True, SHAPE, found.floor)

    def test_of_factors(self, lora: UpdateSpec) -> None:
        found = measure(lora, MeasurementOptions(method="gram"))
        exact = singular_values(0.5 * lora.required("B").read().double() @ lora.required("A").read().double())[:3]
        np.testing.assert_allclose(found.values, exact, rtol=1e-12)
        assert found.method == "factors", "gram is a choice about dense updates"
        assert math.isnan(found.identical_fraction)
        assert (found.tuned_grid, found.base_grid) == ("", "")
        assert (found.weight.spectral, found.weight.frobenius) == pytest.approx((9.0, math.sqrt(285.0)))

    def test_of_an_update_without_a_base_weight(self, lora: UpdateSpec) -> None:
        found = measure(replace(lora, weight=None), MeasurementOptions())
        assert found.content == measure(lora, MeasurementOptions()).content, "the update is the same"
        assert math.isnan(found.weight.spectral)
        assert math.isnan(found.weight.frobenius)

    def test_of_identical_matrices_is_zero_without_any_decomposition(self, dense: UpdateSpec, calls: list[str]) -> None:
        base = dense.required("base")
        found = measure(replace(dense, sources=(("tuned", base), ("base", base))), MeasurementOptions())
        assert found.identical
        assert (found.method, found.frobenius_norm, found.floor) == ("identical", 0.0, 0.0)
        assert found.spectrum(dense).zero
        assert calls == ["weight_norms"]

    def test_of_factors_since_equal_factors_is_zero(self, lora: UpdateSpec) -> None:
        spec = replace(lora, previous=lora, rank_bound=6)
        found = measure(spec, MeasurementOptions())
        assert found.spectrum(spec).zero
        assert len(found.values) == 6

    def test_by_the_method_and_number_asked_for(self, dense: UpdateSpec) -> None:
        found = measure(dense, MeasurementOptions(method="randomized", k=2))
        assert (len(found.values), found.method) == (2, "randomized")
        assert not found.spectrum(dense).complete


class TestCache:
    @pytest.mark.parametrize("kind", ["dense", "lora"])
    def test_serves_to_the_bit_what_was_measured(
        self, kind: str, options: MeasurementOptions, calls: list[str], request: pytest.FixtureRequest
    ) -> None:
        spec = request.getfixturevalue(kind)
        first = measure(spec, options)
        assert sorted(calls) == ["spectrum_of", "weight_norms"]
        assert same(measure(spec, options), first)
        assert len(calls) == 2, "nothing was computed again"
        assert same(measure(spec, MeasurementOptions()), first)
        assert len(calls) == 4, "without a cache, everything"

    def test_knows_content_by_its_bytes_wherever_it_lies(
        self, dense: UpdateSpec, options: MeasurementOptions, calls: list[str], tmp_path: Path
    ) -> None:
        first = measure(dense, options)
        copies = {}
        for role, tensor in dense.sources:
            tensors = {"other.name": tensor.read(), "another": torch.zeros(3)}
            copies[role] = write(tmp_path / f"{role}-copy.safetensors", tensors)["other.name"]
        moved = replace(dense, module="elsewhere", sources=tuple(copies.items()), weight=copies["base"])
        assert same(measure(moved, options), first)
        assert len(calls) == 2

    @pytest.mark.parametrize("role", ["tuned", "base"])
    def test_never_serves_changed_bytes(
        self, role: str, dense: UpdateSpec, options: MeasurementOptions, calls: list[str]
    ) -> None:
        first = measure(dense, options)
        changed = dense.required(role).read()
        changed[5, 5] += 1.0
        rewrite(dense.required(role), w=changed)
        second = measure(dense, options)
        assert second.content != first.content
        assert not np.array_equal(first.values, second.values)
        assert same(second, measure(dense, MeasurementOptions()))
        assert (second.weight != first.weight) == (role == "base")

    def test_never_serves_another_type_with_the_same_values(
        self, dense: UpdateSpec, options: MeasurementOptions
    ) -> None:
        first = measure(dense, options)
        base = rewrite(dense.required("base"), w=dense.required("base").read().float())
        wider = replace(dense, sources=(("tuned", dense.required("tuned")), ("base", base)))
        second = measure(wider, options)
        assert second.content != first.content
        np.testing.assert_array_equal(second.values, first.values)

    @pytest.mark.parametrize(
        "change",
        [
            {"scaling": 0.25},
            {"transposed": True, "shape": SHAPE[::-1]},
            {"previous": True, "rank_bound": 6},
        ],
        ids=lambda change: next(iter(change)),
    )
    def test_never_serves_another_combination_of_the_same_factors(
        self, change: dict[str, object], lora: UpdateSpec, options: MeasurementOptions, calls: list[str]
    ) -> None:
        first = measure(lora, options)
        if "previous" in change:
            change = change | {"previous": replace(lora, scaling=0.1)}
        other = replace(lora, **change)  # type: ignore[arg-type]
        second = measure(other, options)
        assert second.content != first.content
        assert calls.count("spectrum_of") == 2
        assert calls.count("weight_norms") == 1, "the weight is the same"
        assert same(second, measure(other, MeasurementOptions()))

    def test_never_serves_the_change_since_another_checkpoint(
        self, lora: UpdateSpec, options: MeasurementOptions
    ) -> None:
        """The factors of the earlier checkpoint, and what scales them, are content, too."""
        since = [replace(lora, previous=replace(lora, scaling=scaling), rank_bound=6) for scaling in (0.1, 0.2)]
        found = [measure(spec, options) for spec in since]
        assert found[0].content != found[1].content
        assert found[0].frobenius_norm / found[1].frobenius_norm == pytest.approx(0.4 / 0.3, rel=1e-6)
        assert [role for role, _ in found[0].source_digests] == [
            f"{when}{role}" for when in ("", "previous.") for role in ("B", "A", "weight")
        ]

    def test_never_serves_swapped_roles_or_other_rows(self, dense: UpdateSpec, options: MeasurementOptions) -> None:
        swapped = replace(dense, sources=(("tuned", dense.required("base")), ("base", dense.required("tuned"))))
        fewer = replace(dense, rows=6, shape=(6, 9), rank_bound=6)
        contents = {measure(spec, options).content for spec in (dense, swapped, fewer)}
        assert len(contents) == 3
        assert len(measure(fewer, options).values) == 6

    def test_never_serves_another_method(self, dense: UpdateSpec, options: MeasurementOptions) -> None:
        choices = [{}, {"method": "svd"}, {"method": "randomized", "k": 2}, {"method": "randomized", "k": 3}]
        found = [measure(dense, replace(options, **choice)) for choice in choices]  # type: ignore[arg-type]
        assert len({each.content for each in found}) == 4
        assert [(each.method, len(each.values)) for each in found] == [
            ("gram", 9),
            ("svd", 9),
            ("randomized", 2),
            ("randomized", 3),
        ]

    def test_never_serves_the_numbers_of_an_older_code(
        self, dense: UpdateSpec, options: MeasurementOptions, calls: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        measure(dense, options)
        monkeypatch.setattr(measurement_module, "_NUMERICS", -1)
        measure(dense, options)
        assert len(calls) == 4

    def test_leaves_no_half_written_file(self, dense: UpdateSpec, options: MeasurementOptions) -> None:
        measure(dense, options)
        assert options.cache is not None
        assert sorted(file.suffix for file in options.cache.iterdir()) == [".npz", ".npz"]


class TestDamagedCache:
    """A file that a crash left, or a disk turned: measured again, never raised, never believed."""

    @pytest.mark.parametrize(
        "damage", [lambda whole: b"", lambda whole: whole[:40], lambda whole: whole[:-30], lambda whole: b"\0" * 900]
    )
    def test_is_measured_again_and_replaced(
        self, damage: object, dense: UpdateSpec, options: MeasurementOptions, calls: list[str]
    ) -> None:
        first = measure(dense, options)
        assert options.cache is not None
        whole = {file: file.read_bytes() for file in options.cache.iterdir()}
        for file, content in whole.items():
            file.write_bytes(damage(content))  # type: ignore[operator]
        assert same(measure(dense, options), first)
        assert len(calls) == 4
        assert same(measure(dense, options), first)
        assert len(calls) == 4, "served from the repaired file"

    def test_no_cut_and_no_flipped_bit_is_believed(self, tmp_path: Path) -> None:
        stored = {"values": power_law(5), "frobenius_norm": 1.25, "method": "gram", "floor": 1e-9}
        measurement_module._store(tmp_path, "key", stored)
        whole = (tmp_path / "key.npz").read_bytes()
        damaged = [whole[:end] for end in range(0, len(whole), 5)]
        for place in range(len(whole)):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << place % 8
            damaged.append(bytes(flipped))
        refused = 0
        for content in damaged:
            (tmp_path / "key.npz").write_bytes(content)
            found = measurement_module._load(tmp_path, "key")
            refused += found is None
            # Bits of the archive's own bookkeeping, such as times, may flip without harm.
            assert found is None or (
                np.array_equal(np.asarray(found.pop("values")), power_law(5))
                and found == {name: value for name, value in stored.items() if name != "values"}
            )
        assert refused > len(damaged) / 2

    def test_what_was_never_stored_is_not_there(self, tmp_path: Path) -> None:
        assert measurement_module._load(tmp_path / "absent", "key") is None
        assert measurement_module._load(None, "key") is None


class TestFailure:
    @pytest.mark.parametrize(("role", "bad"), [("tuned", math.nan), ("base", math.inf)])
    def test_of_a_value_that_is_none_names_the_tensor(
        self, role: str, bad: float, dense: UpdateSpec, options: MeasurementOptions
    ) -> None:
        broken = dense.required(role).read()
        broken[1, 2] = broken[3, 4] = bad
        rewrite(dense.required(role), w=broken)
        found = measure(dense, options)
        assert found.failure.startswith(f"2 NaN or infinite values in the {role} tensor w;")
        assert "\n" not in found.failure
        assert len(found.values) == 0
        assert math.isnan(found.frobenius_norm)

    def test_of_factors_that_are_not_finite(self, lora: UpdateSpec) -> None:
        rewrite(lora.required("A"), A=torch.full((3, SHAPE[1]), math.nan))
        found = measure(lora, MeasurementOptions())
        assert "NaN or infinite values" in found.failure
        assert found.weight.spectral == pytest.approx(9.0), "the weight is not at fault"

    def test_of_a_file_that_is_gone_or_cut(self, dense: UpdateSpec, options: MeasurementOptions) -> None:
        file = dense.required("tuned").file
        whole = file.read_bytes()
        file.write_bytes(whole[:-8])
        assert "ends inside tensor 'w'" in measure(dense, options).failure
        file.unlink()
        assert "No such file" in measure(dense, options).failure

    def test_of_shapes_that_do_not_fit(self, dense: UpdateSpec, tmp_path: Path, options: MeasurementOptions) -> None:
        other = write(tmp_path / "other.safetensors", {"w": torch.zeros(4, 5)})["w"]
        found = measure(replace(dense, sources=(("tuned", other), ("base", dense.required("base")))), options)
        assert found.failure.startswith("tuned is [4, 5] but base is [12, 9]")

    def test_is_not_cached(
        self, dense: UpdateSpec, options: MeasurementOptions, calls: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(*args: object, **kwargs: object) -> None:
            raise CheckpointError("the disk is away")

        with monkeypatch.context() as away:
            away.setattr(measurement_module, "change_statistics", fails)
            away.setattr(measurement_module, "weight_norms", fails)
            failed = measure(dense, options)
        assert failed.failure == "the disk is away"
        assert math.isnan(failed.weight.spectral)
        later = measure(dense, options)
        assert later.failure == ""
        assert later.weight.spectral > 0, "nor is that of the weight"
        assert same(later, measure(dense, MeasurementOptions()))

    @pytest.mark.parametrize("size", [9, 600])
    def test_of_the_weight_costs_the_relative_norms_only(
        self, size: int, lora: UpdateSpec, tmp_path: Path, options: MeasurementOptions
    ) -> None:
        weight = torch.ones(size, size)
        weight[1, 2] = math.nan
        stored = write(tmp_path / "weight.safetensors", {"w": weight})["w"]
        found = measure(replace(lora, weight=stored), options)
        assert found.failure == ""
        assert len(found.values) == 3
        assert math.isnan(found.weight.spectral)
        assert math.isnan(found.weight.frobenius)
