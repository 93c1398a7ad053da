"""What the terminal shows: coverage first, every rank beside its null."""

from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from rank_lab import RankReport, analyze
from rank_lab.terminal import render, summary


@pytest.fixture
def report(tmp_path: Path, generator: torch.Generator) -> RankReport:
    base = {f"model.layers.{i}.mlp.up_proj.weight": torch.randn(16, 8, generator=generator) for i in range(11)}
    tuned = {name: value + 0.1 * torch.randn(16, 8, generator=generator) for name, value in base.items()}
    tuned["model.layers.3.mlp.up_proj.weight"][0, 0] = torch.inf
    tuned["score.weight"] = torch.ones(3, 8)
    save_file(base, tmp_path / "base.safetensors")
    save_file(tuned, tmp_path / "tuned.safetensors")
    return analyze(tmp_path / "tuned.safetensors", tmp_path / "base.safetensors")


def text(report: RankReport, *, modules: bool = False) -> str:
    console = Console(width=150, record=True, file=None, quiet=False)
    with console.capture() as captured:
        console.print(render(report, modules=modules))
    return captured.get()


def test_coverage_comes_first_and_failures_before_matters_of_course(report: RankReport) -> None:
    shown = text(report)
    lines = [line for line in shown.splitlines() if line.strip()]
    (first,) = [index for index, line in enumerate(lines) if line.startswith("coverage: 1 skipped  1 new  10 analysed")]
    assert "1 NaN or infinite values" in lines[first + 1]
    assert "only in the tuned checkpoint - score.weight" in shown
    assert shown.index("NaN") < shown.index("only in the tuned") < shown.index("k90")


def test_ranks_stand_beside_their_nulls(report: RankReport) -> None:
    row = next(line for line in text(report).splitlines() if line.startswith("up "))
    assert "16x8" in row
    for name in ("energy_rank_90", "stable_rank", "effective_rank"):
        assert f"/ {report.updates[f'null_{name}'].iloc[0]:.0f}" in row


@pytest.mark.parametrize(("rate", "shown"), [(1e-4, "full, adamw_torch at 0.0001"), (None, "full, adamw_torch\n")])
def test_what_trained_is_said_as_far_as_it_is_known(report: RankReport, rate: float | None, shown: str) -> None:
    updates = report.updates.assign(optimizer="adamw_torch", learning_rate=rate)
    found = text(RankReport(updates, report.spectra, report.coverage, report.provenance))
    assert shown in "\n".join(line.rstrip() for line in found.splitlines())


def test_modules_are_in_natural_order(report: RankReport) -> None:
    shown = text(report, modules=True)
    places = [shown.index(f"model.layers.{i}.mlp") for i in (0, 2, 10)]
    assert places == sorted(places)


def test_summary_is_plain_values(report: RankReport) -> None:
    found = summary(report)
    assert found["coverage"] == {"analysed": 10, "skipped": 1, "new": 1}
    assert [entry["tensor"] for entry in found["failures"]] == ["model.layers.3.mlp.up_proj.weight"]
    assert found["updates"][3]["energy_rank_90"] is None
    assert isinstance(found["updates"][0]["energy_rank_90"], int)
