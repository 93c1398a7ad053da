"""From checkpoints to a report: trajectories, resuming, tied weights, bad tensors."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from rank_lab import MeasurementOptions, RankReport, Settings, analyze
from rank_lab.commands import Choices, analyze_runs
from rank_lab.errors import PairingError, RankLabError
from tests.checkpoints import rank_lab

QUERY = "model.layers.{}.self_attn.q_proj.weight"


def checkpoint(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    folder.mkdir(parents=True)
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "model.safetensors")
    return folder


def weights(
    generator: torch.Generator, *, layers: int = 2, shape: tuple[int, int] = (12, 20)
) -> dict[str, torch.Tensor]:
    return {QUERY.format(i): torch.randn(shape, generator=generator) for i in range(layers)}


def moved(tensors: dict[str, torch.Tensor], generator: torch.Generator) -> dict[str, torch.Tensor]:
    return {name: value + 0.01 * torch.randn(value.shape, generator=generator) for name, value in tensors.items()}


@pytest.fixture
def trajectory(tmp_path: Path, generator: torch.Generator) -> tuple[Path, Path, list[dict[str, torch.Tensor]]]:
    states = [weights(generator)]
    base = checkpoint(tmp_path / "base", states[0])
    for step in (5, 10, 100):
        states.append(moved(states[-1], generator))
        checkpoint(tmp_path / "run" / f"checkpoint-{step}", states[-1])
    return tmp_path / "run", base, states


def test_a_trajectory_has_both_deltas_of_every_step(
    trajectory: tuple[Path, Path, list[dict[str, torch.Tensor]]],
) -> None:
    run, base, states = trajectory
    report = analyze(run, base)
    assert set(report.updates["run"]) == {"run"}
    assert len(report.updates) == 2 * 3 * 2
    for index, step in enumerate((5, 10, 100), start=1):
        for delta, start in (("cumulative", 0), ("step", index - 1)):
            expected = (states[index][QUERY.format(1)].double() - states[start][QUERY.format(1)].double()).numpy()
            values = report.values("model.layers.1.self_attn.q_proj", step=step, delta=delta)
            np.testing.assert_allclose(values, np.linalg.svd(expected, compute_uv=False), atol=1e-8 * values[0])


def test_an_adapter_trajectory_subtracts_factors(tmp_path: Path, generator: torch.Generator) -> None:
    products = [np.zeros((12, 20))]
    for step in (1, 2):
        folder = tmp_path / "run" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        A, B = torch.randn(3, 20, generator=generator), torch.randn(12, 3, generator=generator)
        name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
        save_file({name.format("A"): A, name.format("B"): B}, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 3, "lora_alpha": 6}')
        products.append((2.0 * B.double() @ A.double()).numpy())
    report = analyze(tmp_path / "run")
    values = report.values("model.layers.0.self_attn.q_proj", step=2, delta="step")
    assert len(values) == 6
    np.testing.assert_allclose(values, np.linalg.svd(products[2] - products[1], compute_uv=False)[:6], rtol=1e-10)
    first = report.updates[(report.updates["step"] == 1)]
    assert list(first["energy_rank_90"]) == [first["energy_rank_90"].iloc[0]] * 2


def test_workers_do_not_change_a_bit(trajectory: tuple[Path, Path, list[dict[str, torch.Tensor]]]) -> None:
    run, base, _ = trajectory
    one = analyze(run, base, settings=Settings(workers=1))
    two = analyze(run, base, settings=Settings(workers=2))
    pd.testing.assert_frame_equal(one.updates, two.updates, check_exact=True)
    pd.testing.assert_frame_equal(one.spectra, two.spectra, check_exact=True)


def test_a_run_from_the_cache_is_identical(
    trajectory: tuple[Path, Path, list[dict[str, torch.Tensor]]], tmp_path: Path
) -> None:
    run, base, _ = trajectory
    options = MeasurementOptions(cache=tmp_path / "cache")
    fresh, cached, without = (
        analyze(run, base, options=options),
        analyze(run, base, options=options),
        analyze(run, base),
    )
    for table in ("updates", "spectra", "coverage"):
        pd.testing.assert_frame_equal(getattr(fresh, table), getattr(cached, table), check_exact=True)
        pd.testing.assert_frame_equal(getattr(fresh, table), getattr(without, table), check_exact=True)


def test_a_changed_input_is_never_served_from_the_cache(tmp_path: Path, generator: torch.Generator) -> None:
    state = weights(generator)
    base, tuned = checkpoint(tmp_path / "base", state), checkpoint(tmp_path / "tuned", moved(state, generator))
    options = MeasurementOptions(cache=tmp_path / "cache")
    before = analyze(tuned, base, options=options)
    file = tuned / "model.safetensors"
    stamp = file.stat()
    changed = load_file(file)
    changed[QUERY.format(0)][3, 4] += 1.0
    save_file(changed, file)
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # same size, same time
    after = analyze(tuned, base, options=options)
    np.testing.assert_array_equal(before.spectra["values"][1], after.spectra["values"][1])
    expected = (changed[QUERY.format(0)].double() - state[QUERY.format(0)].double()).numpy()
    np.testing.assert_allclose(after.spectra["values"][0], np.linalg.svd(expected, compute_uv=False), atol=1e-8 * 2)


def test_a_killed_run_goes_on_and_gives_the_identical_report(tmp_path: Path, generator: torch.Generator) -> None:
    state = weights(generator, layers=24, shape=(600, 700))
    base, tuned = checkpoint(tmp_path / "base", state), checkpoint(tmp_path / "tuned", moved(state, generator))
    study = tmp_path / "study"
    command = [
        sys.executable,
        "-m",
        "rank_lab",
        "analyze",
        str(tuned),
        "--base",
        str(base),
        "-o",
        str(study),
        "--workers",
        "1",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while len(list((study / ".spectra").glob("*.npz"))) < 6 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {file.name: file.stat().st_mtime_ns for file in (study / ".spectra").glob("*.npz")}
    assert len(done) >= 6
    assert not (study / "tuned.rank").exists(), "the run finished before it could be killed"
    assert rank_lab(*command[3:]).code == 0
    assert {name: (study / ".spectra" / name).stat().st_mtime_ns for name in done} == done
    resumed, straight = RankReport.load(study / "tuned.rank"), analyze(tuned, base)
    for table in ("updates", "spectra", "coverage"):
        pd.testing.assert_frame_equal(getattr(resumed, table), getattr(straight, table), check_exact=True)


def test_a_bad_tensor_costs_its_row_only(tmp_path: Path, generator: torch.Generator) -> None:
    state = weights(generator, layers=3)
    tuned = moved(state, generator)
    tuned[QUERY.format(1)][0, 0] = torch.nan
    report = analyze(checkpoint(tmp_path / "tuned", tuned), checkpoint(tmp_path / "base", state))
    bad = report.updates.iloc[1]
    assert "1 NaN or infinite values in the tuned tensor model.layers.1.self_attn.q_proj.weight" in bad["warning"]
    assert pd.isna(bad["energy_rank_90"])
    assert np.isnan(bad["stable_rank"])
    assert report.updates["energy_rank_90"].notna().tolist() == [True, False, True]
    assert report.coverage["status"].tolist() == ["analysed", "skipped", "analysed"]
    assert report.coverage["failed"].tolist() == [False, True, False]


def test_an_untouched_module_is_identical_not_rank_zero_noise(tmp_path: Path, generator: torch.Generator) -> None:
    state = weights(generator)
    tuned = dict(state) | {QUERY.format(1): state[QUERY.format(1)] + 1.0}
    report = analyze(checkpoint(tmp_path / "tuned", tuned), checkpoint(tmp_path / "base", state))
    assert report.coverage["status"].tolist() == ["identical", "analysed"]
    assert report.updates["identical_fraction"].tolist() == [1.0, 0.0]
    assert report.updates["energy_rank_90"].tolist() == [0, 1]
    assert np.isnan(report.updates["stable_rank"].iloc[0])


def test_a_repeated_head_is_counted_once(tmp_path: Path, generator: torch.Generator) -> None:
    def model(embedding: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"model.embed_tokens.weight": embedding, "lm_head.weight": embedding.clone()}

    embedding = torch.randn(30, 8, generator=generator)
    tuned = model(embedding + torch.randn(30, 8, generator=generator))
    report = analyze(checkpoint(tmp_path / "tuned", tuned), checkpoint(tmp_path / "base", model(embedding)))
    assert report.updates["module"].tolist() == ["model.embed_tokens"]
    assert report.updates["change_share"].tolist() == [pytest.approx(1.0)]
    row = report.coverage.set_index("tensor").loc["lm_head.weight"]
    assert (row["status"], row["reason"]) == ("skipped", "tied: the same bytes as model.embed_tokens, counted there")


def test_steps_that_are_not_told_are_refused(tmp_path: Path, generator: torch.Generator) -> None:
    from rank_lab import Checkpoint

    state = weights(generator)
    opened = [Checkpoint.open(checkpoint(tmp_path / name, state)) for name in ("a", "b")]
    with pytest.raises(PairingError, match="must say their steps"):
        analyze(opened, Checkpoint.open(checkpoint(tmp_path / "base", moved(state, generator))))


def test_progress_ends_at_the_total(trajectory: tuple[Path, Path, list[dict[str, torch.Tensor]]]) -> None:
    run, base, _ = trajectory
    calls: list[tuple[float, float, str]] = []
    analyze(run, base, progress=lambda *call: calls.append(call))
    assert calls[-1][0] == calls[-1][1] > 0
    assert [done for done, _, _ in calls] == sorted(done for done, _, _ in calls)


def test_provenance_names_inputs_versions_and_settings(
    trajectory: tuple[Path, Path, list[dict[str, torch.Tensor]]],
) -> None:
    run, base, _ = trajectory
    provenance = analyze(run, base, settings=Settings(run="mine")).provenance
    assert [source["step"] for source in provenance["tuned"]] == [5, 10, 100]
    assert provenance["base"]["source"] == str(base)
    assert provenance["settings"]["run"] == "mine"
    assert provenance["versions"]["torch"] == torch.__version__


def test_a_checkpoint_alone_does_not_replace_its_trajectory(
    trajectory: tuple[Path, Path, list[dict[str, torch.Tensor]]], tmp_path: Path
) -> None:
    run, base, _ = trajectory
    choices = Choices(workers=1)
    analyze_runs([str(run / "checkpoint-10")], str(base), tmp_path / "study", choices)
    analyze_runs([str(run)], str(base), tmp_path / "study", choices)
    for step in (5, 10):
        with pytest.raises(RankLabError, match="--name"):
            analyze_runs([str(run / f"checkpoint-{step}")], str(base), tmp_path / "study", choices)
    assert RankReport.load(tmp_path / "study" / f"{run.name}.rank").updates["step"].nunique() == 3


def test_a_run_is_named_as_the_user_calls_it(tmp_path: Path, generator: torch.Generator) -> None:
    state = weights(generator)
    base = checkpoint(tmp_path / "base", state)
    folder = checkpoint(tmp_path / "run" / "checkpoint-7", moved(state, generator))
    assert analyze(tmp_path / "run", base).provenance["settings"]["run"] == "run"
    assert analyze(folder, base).provenance["settings"]["run"] == "run"  # as in the trajectory
    assert analyze(folder / "model.safetensors", base).provenance["settings"]["run"] == "model"
    assert analyze(folder, base, settings=Settings(run="mine")).updates["run"].unique().tolist() == ["mine"]
