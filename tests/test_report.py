"""A report is what was saved, nothing else passes as one."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from rank_lab import RankReport, analyze
from rank_lab.errors import SchemaError
from rank_lab.report import reports_of
from rank_lab.schema import COVERAGE, SPECTRA, UPDATES


@pytest.fixture
def report(tmp_path: Path, generator: torch.Generator) -> RankReport:
    base = {f"model.layers.{i}.self_attn.q_proj.weight": torch.randn(6, 9, generator=generator) for i in range(3)}
    tuned = {name: value + 0.1 * torch.randn(6, 9, generator=generator) for name, value in base.items()}
    tuned["model.norm.weight"], base["model.norm.weight"] = torch.ones(6), torch.zeros(6)
    tuned["score.weight"] = torch.ones(2, 6)
    save_file(base, tmp_path / "base.safetensors")
    save_file(tuned, tmp_path / "tuned.safetensors")
    return analyze(tmp_path / "tuned.safetensors", tmp_path / "base.safetensors")


def test_load_gives_what_was_saved(report: RankReport, tmp_path: Path) -> None:
    assert RankReport.load(report.save(tmp_path / "a.rank")) == report


def test_files_have_the_schema_and_read_without_rank_lab(report: RankReport, tmp_path: Path) -> None:
    folder = report.save(tmp_path / "a.rank")
    for name, schema in (("updates", UPDATES), ("spectra", SPECTRA), ("coverage", COVERAGE)):
        stored = pq.read_schema(folder / f"{name}.parquet")
        assert stored.names == schema.names
        assert [field.type for field in stored] == [field.type for field in schema]
    plain = pd.read_parquet(folder / "spectra.parquet")
    assert np.allclose(plain["values"].iloc[0], report.spectra["values"].iloc[0])


def test_saving_twice_gives_the_same_bytes(report: RankReport, tmp_path: Path) -> None:
    first, second = report.save(tmp_path / "a.rank"), report.save(tmp_path / "b.rank")
    for file in sorted(first.iterdir()):
        assert file.read_bytes() == (second / file.name).read_bytes(), file.name


def test_every_rank_stands_beside_its_null(report: RankReport) -> None:
    ranks = [name for name in report.updates.columns if name.startswith("null_")]
    assert len(ranks) >= 12
    for null in ranks:
        assert null.removeprefix("null_") in report.updates.columns
        assert report.updates[null].notna().all()


def test_shares_of_the_change_sum_to_one(report: RankReport) -> None:
    total = (
        report.updates["change_share"].sum()
        + report.coverage.loc[report.coverage["status"] == "vector", "change_share"].sum()
    )
    assert total == pytest.approx(1.0, abs=1e-12)


def test_values_of_a_module(report: RankReport) -> None:
    values = report.values("model.layers.1.self_attn.q_proj")
    assert len(values) == 6
    assert values == sorted(values, reverse=True)
    with pytest.raises(KeyError, match="no spectrum of 'absent'"):
        report.values("absent")


def test_columns_beside_the_schema_are_refused(report: RankReport) -> None:
    with pytest.raises(SchemaError, match=r"lacks columns \['scaling'\]"):
        dataclasses.replace(report, updates=report.updates.drop(columns="scaling"))
    with pytest.raises(SchemaError, match=r"unknown columns \['surprise'\]"):
        dataclasses.replace(report, updates=report.updates.assign(surprise=1))


def test_a_key_that_is_there_twice_is_refused(report: RankReport) -> None:
    with pytest.raises(SchemaError, match="is there twice"):
        dataclasses.replace(report, updates=pd.concat([report.updates, report.updates.iloc[:1]]))


def test_other_schema_versions_are_refused(report: RankReport, tmp_path: Path) -> None:
    folder = report.save(tmp_path / "a.rank")
    head = json.loads((folder / "report.json").read_text())
    (folder / "report.json").write_text(json.dumps(head | {"schema_version": 99}))
    with pytest.raises(SchemaError, match="schema version 99"):
        RankReport.load(folder)


def test_a_report_of_version_2_is_read_with_its_missing_columns_empty(report: RankReport, tmp_path: Path) -> None:
    folder = report.save(tmp_path / "a.rank")
    table = pq.read_table(folder / "updates.parquet").drop_columns(["optimizer", "learning_rate"])
    pq.write_table(table, folder / "updates.parquet")
    with pytest.raises(SchemaError, match="lacks columns"):
        RankReport.load(folder)
    head = json.loads((folder / "report.json").read_text())
    (folder / "report.json").write_text(json.dumps(head | {"schema_version": 2}))
    read = RankReport.load(folder)
    assert read == report
    assert read.updates[["optimizer", "learning_rate"]].isna().all(axis=None)


@pytest.mark.parametrize("name", ["updates.parquet", "spectra.parquet", "coverage.parquet"])
def test_a_cut_table_is_one_line(report: RankReport, tmp_path: Path, name: str) -> None:
    folder = report.save(tmp_path / "a.rank")
    (folder / name).write_bytes((folder / name).read_bytes()[:50])
    with pytest.raises(SchemaError, match=f"{name}: cannot be read") as caught:
        RankReport.load(folder)
    assert "\n" not in str(caught.value)


def test_a_study_names_its_reports(report: RankReport, tmp_path: Path) -> None:
    report.save(tmp_path / "b.rank")
    report.save(tmp_path / "a.rank")
    assert [folder.name for folder in reports_of(tmp_path)] == ["a.rank", "b.rank"]
    assert reports_of(tmp_path / "a.rank") == [tmp_path / "a.rank"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(SchemaError, match="holds no report"):
        reports_of(tmp_path / "empty")
    with pytest.raises(SchemaError, match="is no folder"):
        reports_of(tmp_path / "absent")
