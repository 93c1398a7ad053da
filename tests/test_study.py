"""A study is read as it is now: what changed is seen, what is broken is said, and the rest is there."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from rank_lab.commands import show_study
from rank_lab.errors import SchemaError
from rank_lab.report import RankReport
from rank_lab.schema import SCHEMA_VERSION
from rank_lab.score_table import ScoreTable
from rank_lab.study import Study
from tests.app.complete import curve
from tests.curve_rows import row as stage
from tests.figure_studies import report, row, tensor
from tests.outcome_studies import BASE, scores

VALUES = np.linspace(1.0, 0.2, 6)


def write(study: Path, name: str, values: np.ndarray = VALUES, layers: int = 2, run: str | None = None) -> Path:
    rows = [row(values, run=run or name, layer=layer) for layer in range(layers)]
    tensors = [tensor(run or name, 10, f"layers.{layer}.q_proj.weight", "analysed") for layer in range(layers)]
    spectra = {f"layers.{layer}.q_proj": values for layer in range(layers)}
    return report(rows, spectra, tensors).save(study / f"{name}.rank")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("full", "lora"):
        write(tmp_path, name)
    return tmp_path


def newer(file: Path) -> None:
    """As if written a second later, however coarse the clock of the file system is."""
    found = file.stat()
    os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns + 1_000_000_000))


def test_all_of_a_study_is_there(folder: Path) -> None:
    study = Study(folder)
    assert [entry.run for entry in study.reports()] == ["full", "lora"]
    assert study.updates()["run"].tolist() == ["full"] * 2 + ["lora"] * 2
    assert len(study.coverage()) == 4
    np.testing.assert_array_equal(study.values("lora", "layers.1.q_proj", step=10), VALUES)
    assert list(study.all_values("full", step=10)) == ["layers.0.q_proj", "layers.1.q_proj"]
    assert study.problems() == []
    assert study.curve() is None
    assert study.outcomes() is None
    assert study.name == folder.name


def test_nothing_is_read_again_that_has_not_changed(folder: Path) -> None:
    study = Study(folder)
    first = study.reports()[0], study.updates()
    assert study.reports()[0] is first[0]
    assert study.updates() is first[1]


def test_what_changes_is_seen(folder: Path) -> None:
    study = Study(folder)
    assert len(study.updates()) == 4
    before = study.signature()
    assert study.signature() == before
    write(folder, "full", VALUES / 2, layers=3)
    for file in (folder / "full.rank").iterdir():
        newer(file)
    assert study.signature() != before
    assert len(study.updates()) == 5
    np.testing.assert_array_equal(study.values("full", "layers.2.q_proj", step=10), VALUES / 2)
    write(folder, "sora")
    assert [entry.run for entry in study.reports()] == ["full", "lora", "sora"]
    for file in (folder / "lora.rank").iterdir():
        file.unlink()
    (folder / "lora.rank").rmdir()
    assert [entry.run for entry in study.reports()] == ["full", "sora"]


def test_a_report_alone_is_a_study(folder: Path) -> None:
    study = Study(folder / "lora.rank")
    assert [entry.run for entry in study.reports()] == ["lora"]
    assert study.problems() == []
    (folder / "lora.rank" / "updates.parquet").write_bytes(b"")
    assert [problem.part for problem in Study(folder / "lora.rank").problems()] == ["lora.rank"]


@pytest.mark.parametrize("table", ["updates", "coverage"])
def test_a_half_written_table_is_a_problem_and_the_other_report_is_there(folder: Path, table: str) -> None:
    file = folder / "full.rank" / f"{table}.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    study = Study(folder)
    assert [entry.run for entry in study.reports()] == ["lora"]
    assert study.updates()["run"].tolist() == ["lora"] * 2
    (problem,) = study.problems()
    assert problem.part == "full.rank"
    assert f"{table}.parquet" in problem.message
    with pytest.raises(SchemaError, match="no report of run 'full'"):
        study.values("full", "layers.0.q_proj", step=10)
    file.write_bytes(whole)
    newer(file)
    assert study.problems() == []
    assert len(study.reports()) == 2


def test_half_written_spectra_leave_the_tables(folder: Path) -> None:
    file = folder / "full.rank" / "spectra.parquet"
    file.write_bytes(file.read_bytes()[:100])
    study = Study(folder)
    assert len(study.updates()) == 4
    with pytest.raises(SchemaError, match=r"spectra\.parquet: cannot be read"):
        study.values("full", "layers.0.q_proj", step=10)
    np.testing.assert_array_equal(study.values("lora", "layers.0.q_proj", step=10), VALUES)


def test_a_newer_schema_is_a_problem_that_says_which(folder: Path) -> None:
    head = folder / "full.rank" / "report.json"
    head.write_text(json.dumps(json.loads(head.read_text()) | {"schema_version": SCHEMA_VERSION + 1}))
    study = Study(folder)
    (problem,) = study.problems()
    assert f"schema version {SCHEMA_VERSION + 1}" in problem.message
    assert [entry.run for entry in study.reports()] == ["lora"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"schema_version": 3}', '{"schema_version": []}', "\0", "9" * 5000]
)
def test_a_head_that_is_none_is_a_problem(folder: Path, text: str) -> None:
    (folder / "full.rank" / "report.json").write_text(text)
    study = Study(folder)
    assert [problem.part for problem in study.problems()] == ["full.rank"]
    assert [entry.run for entry in study.reports()] == ["lora"]


@pytest.mark.parametrize("kind", ["rank", "subspace", "behavioural", "functional"])
def test_a_report_that_is_only_begun_is_a_problem(folder: Path, kind: str) -> None:
    (folder / f"new.{kind}").mkdir()
    study = Study(folder)
    (problem,) = study.problems()
    assert problem.part == f"new.{kind}"
    assert "make one with 'rank-lab" in problem.message
    assert [entry.run for entry in study.reports()] == ["full", "lora"]


@pytest.mark.parametrize("kind", ["subspace", "behavioural", "functional"])
def test_in_a_terminal_a_report_that_is_only_begun_is_an_error(folder: Path, kind: str) -> None:
    (folder / f"new.{kind}").mkdir()
    with pytest.raises(SchemaError, match=rf"new\.{kind}.*not the head of a"):
        show_study(folder, modules=False, as_json=False)


def test_an_empty_folder_and_a_report_without_matrices(tmp_path: Path) -> None:
    study = Study(tmp_path)
    assert study.reports() == []
    assert study.problems() == []
    assert study.updates().empty
    assert "effective_rank" in study.updates().columns
    assert study.coverage().empty
    report([]).save(tmp_path / "empty.rank")
    assert [entry.run for entry in study.reports()] == ["empty"]
    assert study.updates().empty
    assert study.all_values("empty", step=None) == {}


def test_no_folder_and_a_file_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for path in (tmp_path / "nothing", file):
        with pytest.raises(SchemaError, match="is no folder"):
            Study(path)


def test_a_folder_without_permission_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(SchemaError, match=r"may not be read .Permission denied"):
        Study(folder)


def test_a_report_without_permission_is_a_problem(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.parent.name == "full.rank":
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    study = Study(folder)
    assert [entry.run for entry in study.reports()] == ["lora"]
    (problem,) = study.problems()
    assert "Permission denied" in problem.message


def test_a_link_out_of_the_study_is_not_followed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = write(tmp_path_factory.mktemp("outside"), "secret")
    (folder / "linked.rank").symlink_to(outside)
    (folder / "lora.rank" / "spectra.parquet").unlink()
    (folder / "lora.rank" / "spectra.parquet").symlink_to(outside / "spectra.parquet")
    study = Study(folder)
    assert [entry.run for entry in study.reports()] == ["full"]
    assert {problem.part for problem in study.problems()} == {"linked.rank", "lora.rank"}
    assert all("link out of the study" in problem.message for problem in study.problems())


def test_what_lies_beside_a_curve_is_followed_and_stays_inside(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    curve(folder, [stage(0)])
    study = Study(folder)
    assert study.curve() is not None
    before = study.signature()
    outside = tmp_path_factory.mktemp("outside") / "knees.json"
    outside.write_text('{"rows": 1, "knees": []}')
    (folder / "knees.json").symlink_to(outside)
    assert study.signature() != before
    assert study.curve() is None
    assert ["link out of the study" in problem.message for problem in study.problems()] == [True]


def test_a_study_behind_a_link_and_links_inside_it_are_read(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (folder / "again.rank").symlink_to(folder / "full.rank")
    link = tmp_path_factory.mktemp("links") / "study"
    link.symlink_to(folder)
    assert len(Study(link).reports()) == 3


def test_a_run_that_is_there_twice_is_a_problem_and_no_spectrum_is_guessed(folder: Path) -> None:
    write(folder, "other", VALUES / 2, run="full")
    study = Study(folder)
    (problem,) = study.problems()
    assert "full.rank and other.rank" in problem.message
    with pytest.raises(SchemaError, match="both are of run 'full'"):
        study.values("full", "layers.0.q_proj", step=10)
    assert len(study.all_values("lora", step=10)) == 2


def test_a_broken_curve_and_broken_scores_are_problems(folder: Path) -> None:
    (folder / "curve.jsonl").write_text('{"not": "a row"}\n')
    (folder / "scores.parquet").write_bytes(b"PAR1 not at all")
    study = Study(folder)
    assert study.curve() is None
    assert study.outcomes() is None
    assert {problem.part for problem in study.problems()} == {"curve.jsonl", "scores.parquet"}
    assert len(study.updates()) == 4
    (folder / "curve.jsonl").write_text("")
    newer(folder / "curve.jsonl")
    assert study.curve() is None
    assert {problem.part for problem in study.problems()} == {"scores.parquet"}


def test_outcomes_are_there_beside_a_broken_report_and_read_no_spectra(folder: Path) -> None:
    table = ScoreTable((*BASE, *scores("full", 10, 0.2, 0.1), *scores("lora", 10, 0.1, 0.05, method="lora")))
    table.save(folder / "scores.parquet")
    (folder / "full.rank" / "spectra.parquet").write_bytes(b"broken")
    (folder / "lora.rank" / "updates.parquet").write_bytes(b"broken")
    study = Study(folder)
    found = study.outcomes()
    assert found is not None
    assert [problem.part for problem in study.problems()] == ["lora.rank"]
    write(folder, "lora")
    for file in (folder / "lora.rank").iterdir():
        newer(file)
    assert study.outcomes() is not found


def test_what_is_read_is_what_the_report_holds(folder: Path) -> None:
    stored = RankReport.load(folder / "full.rank")
    entry = Study(folder).reports()[0]
    assert entry.updates.equals(stored.updates)
    assert entry.coverage.equals(stored.coverage)
    assert entry.provenance == stored.provenance
    assert stored.values("layers.0.q_proj") == list(VALUES)
