"""Exported tables hold what the report holds, for programs that know nothing of it."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from rank_lab import RankReport, analyze
from rank_lab.export import FORMATS, export_reports


@pytest.fixture
def reports(tmp_path: Path, generator: torch.Generator) -> list[RankReport]:
    made = []
    for name in ("one", "two"):
        base = {"h.0.q_proj.weight": torch.randn(5, 7, generator=generator), "h.1.q_proj.weight": torch.zeros(4, 4)}
        tuned = {key: value + torch.randn(value.shape, generator=generator) for key, value in base.items()}
        save_file(base, tmp_path / "base.safetensors")
        save_file(tuned, tmp_path / f"{name}.safetensors")
        made.append(analyze(tmp_path / f"{name}.safetensors", tmp_path / "base.safetensors"))
    return made


def test_all_formats_hold_the_same_numbers(reports: list[RankReport], tmp_path: Path) -> None:
    files = export_reports(reports, tmp_path / "out", formats=list(FORMATS))
    assert sorted(file.name for file in files) == sorted(
        [f"{table}.{kind}" for table in ("updates", "coverage", "spectra") for kind in FORMATS] + ["provenance.json"]
    )
    csv = pd.read_csv(tmp_path / "out" / "updates.csv")
    rows = pd.DataFrame(json.loads((tmp_path / "out" / "updates.json").read_text()))
    parquet = pd.read_parquet(tmp_path / "out" / "updates.parquet")
    for table in (csv, rows, parquet):
        assert table["run"].tolist() == ["one", "one", "two", "two"]
        np.testing.assert_allclose(table["effective_rank"], parquet["effective_rank"], rtol=1e-12)
        assert table["energy_rank_90"].tolist() == parquet["energy_rank_90"].tolist()


def test_spectra_are_one_row_per_value(reports: list[RankReport], tmp_path: Path) -> None:
    export_reports(reports, tmp_path / "out", formats=["csv"])
    table = pd.read_csv(tmp_path / "out" / "spectra.csv")
    assert list(table.columns) == ["run", "step", "delta", "module", "index", "singular_value"]
    one = table[(table["run"] == "two") & (table["module"] == "h.0.q_proj")]
    assert one["index"].tolist() == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(one["singular_value"], reports[1].values("h.0.q_proj"), rtol=1e-12)


def test_provenance_goes_along(reports: list[RankReport], tmp_path: Path) -> None:
    export_reports(reports, tmp_path / "out", formats=["csv"])
    content = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert [entry["settings"]["run"] for entry in content] == ["one", "two"]
