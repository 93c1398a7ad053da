"""A comparison's files: what was saved is loaded, what cannot be trusted is refused."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from rank_lab.errors import SchemaError
from rank_lab.subspace_analysis import compare_runs
from rank_lab.subspace_report import SubspaceReport, subspace_reports_of
from rank_lab.subspace_schema import SUBSPACE_SCHEMA_VERSION, SUBSPACE_TABLES
from tests.checkpoints import factors, llama, save, save_adapter


@pytest.fixture
def report(tmp_path: Path, generator: torch.Generator) -> SubspaceReport:
    """Of two adapters on their base, one of which has a module more."""
    base = save(tmp_path / "base", llama(generator))
    one = save_adapter(tmp_path / "one", factors(generator))
    two = save_adapter(tmp_path / "two", factors(generator) | factors(generator, "model.layers.1.self_attn.q_proj"))
    return compare_runs(one, two, base)


def rewritten(folder: Path, change: dict[str, Any]) -> None:
    head = json.loads((folder / "subspace.json").read_text())
    (folder / "subspace.json").write_text(json.dumps(head | change))


def test_what_was_saved_is_loaded(report: SubspaceReport, tmp_path: Path) -> None:
    folder = report.save(tmp_path / "study" / "one-two.subspace")
    loaded = SubspaceReport.load(folder)
    assert loaded == report
    assert sorted(file.name for file in folder.iterdir()) == sorted(
        ["subspace.json", *(f"{name}.parquet" for name in SUBSPACE_TABLES)]
    )
    assert all(len(getattr(loaded, name)) for name in SUBSPACE_TABLES)
    assert report != SubspaceReport(
        **{name: getattr(report, name).iloc[1:] for name in SUBSPACE_TABLES}, provenance=report.provenance
    )
    assert report.save(folder) == folder  # again, over itself


def test_comparisons_of_a_study_are_found(report: SubspaceReport, tmp_path: Path) -> None:
    study = tmp_path / "study"
    assert subspace_reports_of(study) == []
    study.mkdir()
    assert subspace_reports_of(study) == []
    folders = [report.save(study / f"{name}.subspace") for name in ("b", "a")]
    assert subspace_reports_of(study) == sorted(folders)
    (study / "half.subspace").mkdir()  # no head: still being written, or given up; whoever reads it is told
    assert subspace_reports_of(study) == sorted([*folders, study / "half.subspace"])
    assert subspace_reports_of(folders[0]) == folders[:1]


def test_every_table_begins_with_its_key() -> None:
    key = ["run", "step", "other_run", "other_step", "module", "layer", "kind"]
    promised = {
        "angles": {"side", "index", "cosine", "angle", "null_cosine", "resolved_a", "resolved_b"},
        "phi": {"side", "i", "j", "phi", "null", "resolved_a", "resolved_b"},
        "intruders": {"side", "k", "epsilon", "intruders", "projected", "null"},
        "amplification": {
            "r", "amplification", "update_norm", "projected_norm", "own_projected_norm", "random_projected_norm",
        },
        "coverage": {"status", "reason", "failed"},
    }  # fmt: skip
    for name, schema in SUBSPACE_TABLES.items():
        assert schema.names[: len(key)] == key
        assert promised[name] <= set(schema.names)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": SUBSPACE_SCHEMA_VERSION + 1}, "schema version 2, this rank_lab reads 1"),
        ({"schema_version": "\x1b[2J"}, r"schema version \\x1b\[2J"),
        ({"provenance": {"first": {}}}, "does not say what was compared"),
        ({"provenance": None}, "does not say what was compared"),
    ],
)
def test_a_head_that_is_not_ours_is_refused(
    report: SubspaceReport, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    folder = report.save(tmp_path / "x.subspace")
    rewritten(folder, change)
    with pytest.raises(SchemaError, match=message):
        SubspaceReport.load(folder)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("versions",), "newest"),
        (("command",), 3),
        (("first", "files"), 5),
        (("first", "files"), ["model.safetensors"]),
        (("second", "step"), "last"),
        (("second", "steps_in_run"), 3),
        (("base",), {"source": "base"}),
    ],
)
def test_what_others_show_of_its_provenance_is_of_the_right_kind(
    report: SubspaceReport, tmp_path: Path, place: tuple[str, ...], value: Any
) -> None:
    folder = report.save(tmp_path / "x.subspace")
    told = json.loads((folder / "subspace.json").read_text())["provenance"]
    inner = told
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    rewritten(folder, {"provenance": told})
    with pytest.raises(SchemaError, match="does not say what was compared"):
        SubspaceReport.load(folder)


@pytest.mark.parametrize("name", SUBSPACE_TABLES)
def test_a_half_written_or_missing_table_is_refused(report: SubspaceReport, tmp_path: Path, name: str) -> None:
    folder = report.save(tmp_path / "x.subspace")
    file = folder / f"{name}.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(SchemaError, match=f"{name}.parquet: cannot be read .*; run 'rank-lab subspace' again"):
        SubspaceReport.load(folder)
    file.unlink()
    with pytest.raises(SchemaError, match="cannot be read"):
        SubspaceReport.load(folder)


def test_a_folder_without_a_head_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="not the head of a subspace report"):
        SubspaceReport.load(tmp_path)


def test_a_table_of_another_kind_is_refused(report: SubspaceReport, tmp_path: Path) -> None:
    folder = report.save(tmp_path / "x.subspace")
    pd.DataFrame({"run": ["a"]}).to_parquet(folder / "phi.parquet")
    with pytest.raises(SchemaError, match=r"phi.parquet: lacks columns \['step', 'other_run', 'other_step'\]"):
        SubspaceReport.load(folder)


def test_a_table_that_unpacks_without_end_is_refused(report: SubspaceReport, tmp_path: Path) -> None:
    folder = report.save(tmp_path / "x.subspace")
    pd.DataFrame({"run": ["a" * 1000] * 200_000}).to_parquet(
        folder / "phi.parquet", compression="zstd", use_dictionary=False
    )
    with pytest.raises(SchemaError, match="bytes once unpacked"):
        SubspaceReport.load(folder)


def test_names_that_a_terminal_would_obey_are_written_out(report: SubspaceReport, tmp_path: Path) -> None:
    phi = report.phi.assign(module="q\x1b[2J")
    provenance = dict(report.provenance) | {"command": ["rank-lab", "\x1b[31m"]}
    tables = {name: getattr(report, name) for name in SUBSPACE_TABLES} | {"phi": phi}
    folder = SubspaceReport(**tables, provenance=provenance).save(tmp_path / "x.subspace")
    loaded = SubspaceReport.load(folder)
    assert set(loaded.phi["module"]) == {r"q\x1b[2J"}
    assert loaded.provenance["command"] == ["rank-lab", r"\x1b[31m"]
