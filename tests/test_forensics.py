"""What the files betray: wrong base, merged adapters, re-casts, untrained adapters, frozen modules."""

from pathlib import Path

import pytest
import torch

from rank_lab import RankReport, Settings, analyze
from rank_lab.measurement import MeasurementOptions
from tests.checkpoints import Tensors, factors, llama, rank_lab, save, save_adapter

WIDTH = 96


@pytest.fixture
def state(generator: torch.Generator) -> Tensors:
    return {name: 0.02 * value for name, value in llama(generator, width=WIDTH, vocabulary=120).items()}


def cast(tensors: Tensors, dtype: torch.dtype) -> Tensors:
    return {name: value.to(dtype) for name, value in tensors.items()}


def with_low_rank(tensors: Tensors, generator: torch.Generator, rank: int, *, size: float = 2e-3) -> Tensors:
    changed = dict(tensors)
    for name, value in tensors.items():
        if "layers" in name and value.ndim == 2:
            left, right = (torch.randn(length, rank, generator=generator) for length in value.shape)
            changed[name] = value + size / rank**0.5 * left @ right.T
    return changed


def report(tmp_path: Path, tuned: Tensors, base: Tensors) -> RankReport:
    return analyze(save(tmp_path / "tuned", tuned), save(tmp_path / "base", base))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_merged_adapter_is_told(
    tmp_path: Path, state: Tensors, generator: torch.Generator, dtype: torch.dtype
) -> None:
    base = cast(state, dtype)
    tuned = cast(with_low_rank(cast(base, torch.float32), generator, 6), dtype)
    found = report(tmp_path, tuned, base).updates
    layers = found[found["layer"].notna()]
    assert (layers["rank_above_rounding"] == 6).all()
    assert layers["warning"].str.contains("a merged adapter of rank 6").all()
    assert not found.loc[found["layer"].isna(), "warning"].str.contains("merged").any()


def test_full_fine_tuning_is_not_called_merged(tmp_path: Path, state: Tensors, generator: torch.Generator) -> None:
    tuned = {name: value + 1e-3 * torch.randn(value.shape, generator=generator) for name, value in state.items()}
    assert not report(tmp_path, cast(tuned, torch.bfloat16), state).updates["warning"].str.contains("merged").any()


def test_a_recast_is_told_and_has_no_rank(tmp_path: Path, state: Tensors) -> None:
    found = report(tmp_path, cast(state, torch.bfloat16), state).updates
    assert (found["rank_above_rounding"] == 0).all()
    assert (found["energy_rank_90_denoised"] == 0).all()
    assert (found["noise_regime"] == "unresolved").all()
    assert found["warning"].str.contains("re-cast: every value is the base's, rounded to bfloat16").all()


def test_frozen_modules_are_told(tmp_path: Path, state: Tensors, generator: torch.Generator) -> None:
    tuned = with_low_rank(state, generator, 3)
    found = report(tmp_path, tuned, state).updates
    frozen = found[found["layer"].isna()]
    assert len(frozen) == 2
    assert frozen["warning"].str.startswith("identical: frozen").all()


def test_an_unrelated_base_is_told(tmp_path: Path, state: Tensors, generator: torch.Generator) -> None:
    other = {name: 0.02 * value for name, value in llama(generator, width=WIDTH, vocabulary=120).items()}
    found = report(tmp_path, other, state).updates
    assert found["warning"].str.contains("1.4 times as large as the weight: is the base").all()


def test_an_untrained_adapter_is_told(tmp_path: Path, generator: torch.Generator) -> None:
    tensors = {name: value * ("lora_A" in name) for name, value in factors(generator).items()}
    found = analyze(save_adapter(tmp_path / "adapter", tensors)).updates
    assert found["warning"].tolist() == [
        "the update is zero: an adapter that was not trained (B = 0) or whose gates are all shut"
    ]
    assert found["noise_regime"].tolist() == ["exact"]


def test_the_terminal_says_it_once_and_prints_no_blurred_rank(
    tmp_path: Path, state: Tensors, generator: torch.Generator
) -> None:
    base = cast(state, torch.bfloat16)
    tuned = cast(with_low_rank(cast(base, torch.float32), generator, 4, size=1e-7), torch.bfloat16)
    files = save(tmp_path / "tuned", tuned), save(tmp_path / "base", base)
    done = rank_lab("analyze", files[0], "--base", files[1], "-o", tmp_path / "study")
    assert done.code == 0, done.err
    assert done.out.count("warning: unresolved") == 1
    for line in done.out.splitlines():
        if "unresolved" in line and "x" in line.split()[2:3]:
            assert line.count(" - / ") >= 4, line


def test_noise_is_an_option(tmp_path: Path, state: Tensors, generator: torch.Generator) -> None:
    base = cast(state, torch.bfloat16)
    tuned = cast(with_low_rank(cast(base, torch.float32), generator, 4), torch.bfloat16)
    files = save(tmp_path / "tuned", tuned), save(tmp_path / "base", base)
    tables = {
        mode: analyze(*files, options=MeasurementOptions(noise=mode)).updates  # type: ignore[arg-type]
        for mode in ("off", "rounding", "full")
    }
    layers = {mode: table[table["layer"].notna()] for mode, table in tables.items()}
    assert layers["off"]["rank_above_rounding"].isna().all()
    assert layers["rounding"]["rank_above_iid"].isna().all()
    assert (layers["full"]["rank_above_iid"] > 0).all()
    assert (layers["full"]["rank_above_rounding"] == 4).all()
    refused = rank_lab("analyze", files[0], "--base", files[1], "-o", tmp_path / "study", "--noise", "loud")
    assert refused.code == 2
    assert "off, rounding, full" in refused.err


def test_two_casts_of_one_model_have_learned_nothing(tmp_path: Path, state: Tensors) -> None:
    found = report(tmp_path, cast(state, torch.float16), cast(state, torch.bfloat16)).updates
    assert (found["rank_above_rounding"] == 0).sum() >= len(found) - 1, "one in twenty may be a false alarm"
    assert (found["noise_regime"] == "unresolved").sum() >= len(found) - 1
    assert found["warning"].str.contains("both files look like casts of one").all()


def test_a_base_that_was_rounded_later_is_an_option(tmp_path: Path, state: Tensors, generator: torch.Generator) -> None:
    """Both files are bfloat16 copies: their rounding is twice that of one, and is not taken for directions."""
    moved = {name: value + 2e-5 * torch.randn(value.shape, generator=generator) for name, value in state.items()}
    files = save(tmp_path / "tuned", cast(moved, torch.bfloat16)), save(tmp_path / "base", cast(state, torch.bfloat16))
    one, both = (analyze(*files, settings=Settings(base_rounded=rounded)).updates for rounded in (False, True))
    assert (both["rounding_energy_fraction"] >= one["rounding_energy_fraction"]).all()
    assert both["rank_above_rounding"].sum() <= one["rank_above_rounding"].sum()
    done = rank_lab("analyze", files[0], "--base", files[1], "-o", tmp_path / "study", "--base-rounded")
    assert done.code == 0, done.err
