"""An archive holds what the command writes, and the study is not written to."""

import io
import zipfile
from pathlib import Path

import pytest

from rank_lab.citations import cited_by_figures
from rank_lab.errors import RankLabError
from rank_lab.export_command import write_export
from rank_lab.latex_export import BIBLIOGRAPHY
from rank_lab.next_commands import export_command, extract_command, plan_command, schedule_command, steps_command
from rank_lab.study import Study
from rank_lab.study_export import export_archive, study_bibtex, study_data, study_latex
from rank_lab.study_figures import StudyFigure, study_figures
from tests.app.complete import complete, report


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return complete(tmp_path_factory.mktemp("export") / "study")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_the_archive_is_what_the_command_writes(study: Path, tmp_path: Path) -> None:
    before = contents(study)
    archive = zipfile.ZipFile(io.BytesIO(export_archive(Study(study), ["csv", "latex"])))
    assert contents(study) == before
    write_export(study, tmp_path, ["csv", "latex"], called="export")
    written = contents(tmp_path)
    assert {f"export/{name}" for name in written} == set(archive.namelist())
    assert {name: archive.read(f"export/{name}") for name in written} == written
    assert b"rank-lab export" in written["README.md"]
    assert str(tmp_path).encode() not in written["README.md"]


def test_the_same_study_gives_the_same_bytes(study: Path) -> None:
    assert export_archive(Study(study), ["csv"]) == export_archive(Study(study), ["csv"])


def test_tables_and_references_are_those_of_the_archive(study: Path) -> None:
    opened = Study(study)
    archive = zipfile.ZipFile(io.BytesIO(export_archive(opened, ["csv", "latex"])))
    for name in study_data(opened):
        assert f"export/{name}.csv" in archive.namelist()
    for label, table in study_latex(opened).items():
        assert archive.read(f"export/table_{label.replace('-', '_')}.tex").decode() == table.tex()
    assert archive.read(f"export/{BIBLIOGRAPHY}.bib").decode() == study_bibtex(opened)


def test_references_hold_what_figures_rest_on(study: Path, tmp_path: Path) -> None:
    opened = Study(study)
    drawn = {name for each in study_figures(opened) for name in _metrics(each)}
    files = write_export(study, tmp_path, ["html"])
    assert tmp_path / f"{BIBLIOGRAPHY}.bib" in files
    text = (tmp_path / f"{BIBLIOGRAPHY}.bib").read_text(encoding="ascii")
    cited = cited_by_figures(drawn)
    assert "eckart1936approximation" in cited  # of the rank budget: no table names it
    assert all(f"{{{key}," in text for key in cited)
    assert "-f html" in (tmp_path / "README.md").read_text(encoding="utf-8")


def _metrics(each: StudyFigure) -> tuple[str, ...]:
    try:
        return each.draw("light").metrics
    except RankLabError:
        return ()


def test_an_unknown_format_and_a_broken_part_are_refused(tmp_path: Path) -> None:
    report("full").save(tmp_path / "full.rank")
    with pytest.raises(RankLabError, match="expected one of csv"):
        export_archive(Study(tmp_path), ["docx"])
    (tmp_path / "full.rank" / "updates.parquet").write_bytes(b"PAR1")
    with pytest.raises(RankLabError, match=r"updates\.parquet"):
        export_archive(Study(tmp_path))


def test_a_link_out_of_the_study_is_not_exported(tmp_path: Path) -> None:
    outside = report("full").save(tmp_path / "outside" / "full.rank")
    report("lora").save(tmp_path / "study" / "lora.rank")
    (tmp_path / "study" / "full.rank").symlink_to(outside)
    with pytest.raises(RankLabError, match="link out of the study"):
        export_archive(Study(tmp_path / "study"), ["csv"])


def test_commands_hold_the_paths_of_the_reports_quoted(study: Path) -> None:
    opened = Study(study)
    assert extract_command(opened, "full", 10, {"rank": 4}) == (
        "rank-lab extract /nowhere/full/checkpoint-10 --base /nowhere/base --rank 4 -o full-extracted"
    )
    assert plan_command(opened, "full", 20, {"budget": 60, "most": None, "with-rounding": True}) == (
        f"rank-lab plan {study} --run full --step 20 --budget 60 --with-rounding"
    )
    assert steps_command(opened) == f"rank-lab analyze /nowhere/full --base /nowhere/base -o {study}"
    assert schedule_command(opened).startswith("rank-lab schedule /nowhere/base --task TASK")
    assert export_command(opened, ["csv"]) == f"rank-lab export {study} -o export -f csv"


def test_a_command_is_one_line_whatever_the_names_are(tmp_path: Path) -> None:
    report("full", source="/a b; rm -rf x\n\x1b[2J$(y)").save(tmp_path / "full.rank")
    command = steps_command(Study(tmp_path))
    assert command.isprintable()
    assert "'/a b; rm -rf x\\n\\x1b[2J$(y)/full'" in command
