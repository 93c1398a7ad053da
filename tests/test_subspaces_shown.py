"""Comparisons of subspaces in everything that shows a study: reader, terminal, export, paper, verify."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from rank_lab.citations import cited_by
from rank_lab.errors import SchemaError
from rank_lab.latex_export import export_latex
from rank_lab.latex_subspaces import subspace_tables
from rank_lab.study import Study
from rank_lab.study_parts import StudyParts
from rank_lab.subspace_analysis import compare_runs
from rank_lab.subspace_choices import compare_command, subspace_choices
from rank_lab.subspace_report import SubspaceReport, comparison_name, load_subspaces
from rank_lab.subspace_schema import SUBSPACE_TABLES
from rank_lab.subspace_summaries import at_epsilon, in_directions, similarity
from rank_lab.subspace_verification import verify_subspaces
from tests.checkpoints import rank_lab
from tests.figure_texts import HOSTILE
from tests.subspace_studies import Q, hostile, made

Check = dict[str, Any]
TABLES = tuple(part for kind in ("csv", "json", "parquet", "latex") for part in ("-f", kind))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("made")).parent


@pytest.fixture
def study(home: Path, tmp_path: Path) -> Path:
    """Its own copy of all that for a test, which the comparisons name as their inputs."""
    shutil.copytree(home, tmp_path / "home")
    for head in (tmp_path / "home").glob("study/*.subspace/subspace.json"):
        head.write_text(head.read_text().replace(str(home), str(tmp_path / "home")))
    return tmp_path / "home" / "study"


def rewritten(file: Path, column: str, change: Any) -> None:
    """A column of a Parquet file changed behind the report's back."""
    table = pq.read_table(file)
    values = [change(value) for value in table[column].to_pylist()]
    at = table.schema.get_field_index(column)
    pq.write_table(table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type)), file)


def checks(study: Path, *arguments: object, code: int) -> list[Check]:
    done = rank_lab("verify", study, *arguments, "--json")
    assert done.code == code, done.err + done.out
    found: list[Check] = json.loads(done.out)
    return found


class TestReader:
    def test_comparisons_are_read_once_and_again_when_they_change(self, study: Path) -> None:
        opened = Study(study)
        first = opened.subspaces()
        assert list(first) == ["full-one", "one-two"]
        assert first["one-two"] is opened.subspaces()["one-two"]
        assert opened.problems() == []
        assert opened.reports() == []
        before = opened.signature()
        rewritten(study / "one-two.subspace" / "phi.parquet", "phi", lambda value: value / 2)
        assert opened.signature() != before
        halved = opened.subspaces()["one-two"].phi["phi"]
        assert halved.tolist() == pytest.approx((first["one-two"].phi["phi"] / 2).tolist())

    def test_a_new_one_appears_and_a_deleted_one_goes(self, study: Path) -> None:
        opened = Study(study)
        before = opened.signature()
        shutil.copytree(study / "one-two.subspace", study / "again.subspace")
        assert opened.signature() != before
        assert list(opened.subspaces()) == ["again", "full-one", "one-two"]
        shutil.rmtree(study / "again.subspace")
        assert opened.signature() == before

    def test_a_broken_one_is_a_problem_and_the_others_are_there(self, study: Path) -> None:
        file = study / "full-one.subspace" / "angles.parquet"
        file.write_bytes(file.read_bytes()[:40])
        opened = Study(study)
        assert list(opened.subspaces()) == ["one-two"]
        (problem,) = opened.problems()
        assert problem.part == "full-one.subspace"
        assert "run 'rank-lab subspace' again" in problem.message

    def test_one_comparison_is_a_study_of_its_own(self, study: Path) -> None:
        assert list(Study(study / "one-two.subspace").subspaces()) == ["one-two"]
        assert comparison_name(Path("a.b.subspace")) == "a.b"
        assert load_subspaces(study / "nothing") == {}


class TestShow:
    def test_a_study_of_comparisons_alone_is_shown(self, study: Path) -> None:
        done = rank_lab("show", study)
        assert done.code == 0, done.err
        for text in ("full", "against one", "φ / random", "amplification", "intruders / noise", "9 only"):
            assert text in done.out
        assert Q in rank_lab("show", study, "--modules").out

    def test_json_has_them(self, study: Path) -> None:
        found = json.loads(rank_lab("show", study, "--json").out)
        assert [each["name"] for each in found] == ["full-one", "one-two"]
        assert {row["side"] for row in found[1]["similarity"]} == {"left", "right", "A"}
        assert found[0]["coverage"] == {"only": 9, "compared": 1}

    def test_they_stand_beside_reports(self, study: Path, tmp_path: Path) -> None:
        assert rank_lab("analyze", tmp_path / "home" / "one", "-o", study).code == 0
        found = json.loads(rank_lab("show", study, "--json").out)
        assert [each.get("run", each.get("name")) for each in found] == ["one", "full-one", "one-two"]

    def test_names_are_no_controls(self, study: Path) -> None:
        hostile(load_subspaces(study)["one-two"]).save(study / "x.subspace")
        assert "\x1b" not in rank_lab("show", study / "x.subspace", "--modules").out

    def test_a_broken_one_is_one_line(self, study: Path) -> None:
        (study / "one-two.subspace" / "phi.parquet").write_bytes(b"PAR1")
        for verb in (("show",), ("verify",), ("export", "-o", study / "out")):
            done = rank_lab(verb[0], study, *verb[1:])
            assert (done.code, done.out) == (2, "")
            assert "phi.parquet: cannot be read" in done.err
            assert len(done.err.strip().splitlines()) == 1


class TestSummaries:
    def test_phi_is_that_of_what_both_have_above_rounding(self) -> None:
        key = {"run": "a", "step": 1, "other_run": "b", "other_step": 1, "module": "m", "layer": 0, "kind": "q"}
        phi = [key | {"side": "left", "i": i, "j": j, "phi": 0.1 * i + 0.01 * j, "null": 0.0, "resolved_a": 2,
                      "resolved_b": 3} for i in (1, 2, 3) for j in (1, 2, 3)]  # fmt: skip
        angles = [
            key | {"side": "left", "index": i, "angle": 0.1 * i, "cosine": 0.9, "null_cosine": 0.2} for i in (1, 2)
        ]
        rows = {"phi": phi, "angles": angles}
        tables = {
            name: pd.DataFrame(rows.get(name, []), columns=schema.names) for name, schema in SUBSPACE_TABLES.items()
        }
        (row,) = similarity(SubspaceReport(**tables, provenance={})).to_dict("records")
        assert (row["k"], row["phi"], row["angle"]) == (2, pytest.approx(0.22), pytest.approx(0.1))

    def test_what_the_weight_holds_elsewhere(self) -> None:
        table = pd.DataFrame(
            {"projected_norm": [2.0, 0.0], "own_projected_norm": [6.0, 1.0], "random_projected_norm": [1.0, 1.0]}
        )
        found = in_directions(table)
        assert found["own"].tolist()[:1] == [3.0]
        assert found["random"].tolist()[:1] == [0.5]
        assert found[["own", "random"]].iloc[1].isna().all()
        assert at_epsilon(pd.DataFrame({"epsilon": []}), 0.5).empty


class TestExport:
    def test_every_format_has_every_row_with_its_comparison(self, study: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        assert rank_lab("export", study, "-o", out, *TABLES).code == 0
        reports = load_subspaces(study)
        for name in SUBSPACE_TABLES:
            tables = {
                "csv": pd.read_csv(out / f"subspace_{name}.csv"),
                "json": pd.DataFrame(json.loads((out / f"subspace_{name}.json").read_text())),
                "parquet": pd.read_parquet(out / f"subspace_{name}.parquet"),
            }
            for table in tables.values():
                assert list(table.columns) == ["comparison", *SUBSPACE_TABLES[name].names]
                counts = {each: len(getattr(report, name)) for each, report in reports.items()}
                assert table["comparison"].value_counts().to_dict() == counts
        stored = np.concatenate([report.phi["phi"] for report in reports.values()])
        assert np.array_equal(pd.read_parquet(out / "subspace_phi.parquet")["phi"], stored)
        told = json.loads((out / "subspace_provenance.json").read_text())
        assert [each["comparison"] for each in told] == list(reports)

    def test_the_readme_tells_of_each_file_and_of_the_inputs(self, study: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        rank_lab("export", study, "-o", out, *TABLES)
        text = (out / "README.md").read_text(encoding="utf-8")
        for file in out.iterdir():
            assert file.name in ("README.md", "captions.md") or f"| `{file.name}` |" in text
        assert "a table of the study" not in text  # each is told by its own words
        assert "### full-one" in text
        assert f"`{study.parent / 'full'}`" in text
        assert "None: the study" not in text

    def test_only_what_is_there_is_cited(self, study: Path, tmp_path: Path) -> None:
        reports = load_subspaces(study)
        keys = cited_by(StudyParts(subspaces=reports))
        assert keys == ["hu2022lora", "biderman2024lora", "shuttleworth2024illusion", "bjorck1973angles"]
        home = study.parent
        bare = compare_runs(home / "one", home / "two")
        assert cited_by(StudyParts(subspaces={"bare": bare})) == ["hu2022lora", "bjorck1973angles"]
        rank_lab("export", study, "-o", tmp_path / "out", "-f", "latex")
        text = (tmp_path / "out" / "references.bib").read_text()
        assert re.findall(r"^@\w+\{(\w+),$", text, flags=re.MULTILINE) == keys


class TestPaper:
    def test_amplification_stands_beside_random_and_own_directions(self, study: Path) -> None:
        report = load_subspaces(study)["one-two"]
        table = next(each for each in subspace_tables({"one-two": report}) if each.label == "subspace-amplification")
        text = table.tex()
        rows = report.amplification[(report.amplification["run"] == "two") & (report.amplification["r"] == 2)]
        (row,) = rows.to_dict("records")
        cells = " & ".join(
            f"{row[name]:#.3g}".rstrip(".")
            for name in (
                "update_norm",
                "projected_norm",
                "own_projected_norm",
                "random_projected_norm",
                "amplification",
            )
        )
        assert rf"q & 1 & 2 & {cells} \\" in text
        assert r"\textsuperscript{1}~the checkpoint does not say its step" in text

    def test_intruders_state_k_and_epsilon_and_noise(self, study: Path) -> None:
        report = load_subspaces(study)["full-one"]
        report.intruders.loc[report.intruders["run"] == "one", ["intruders", "null"]] = [3, 0.25]
        table = next(each for each in subspace_tables({"x": report}) if each.label == "subspace-intruders")
        assert re.search(r"x & one & .* & q & left & 1 & 8 & 0\.5 & 3 & 0\.25 & \d+ & \d", table.tex())

    def test_similarity_and_coverage_of_all_comparisons(self, study: Path) -> None:
        reports = load_subspaces(study)
        tables = {each.label: each.tex() for each in subspace_tables(reports)}
        phi = reports["one-two"].phi
        at = phi[(phi["side"] == "A") & (phi["i"] == 2) & (phi["j"] == 2)]["phi"].item()
        assert (
            rf"one-two & q & A & 1 & 2 & {at:.3f} & 0.250 & {{--\textsuperscript{{1}}}}"
            in tables["subspace-similarity"]
        )
        assert r"full-one & 10 & 1 & 0 & 9 & 0 & 0 & 0 \\" in tables["subspace-coverage"]

    def test_without_a_base_there_are_fewer_tables(self, study: Path) -> None:
        home = study.parent
        bare = compare_runs(home / "one", home / "two")
        labels = [table.label for table in subspace_tables({"x": bare})]
        assert labels == ["subspace-similarity", "subspace-coverage"]
        assert subspace_tables({}) == []

    @pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on PATH")
    def test_hostile_names_compile(self, study: Path, tmp_path: Path) -> None:
        if not subprocess.run(["kpsewhich", "siunitx.sty"], capture_output=True, check=False).stdout:
            pytest.skip("this TeX lacks siunitx")
        reports = {HOSTILE: hostile(load_subspaces(study)["one-two"])}
        export_latex(StudyParts(subspaces=reports), tmp_path, command="c")
        call = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "tables.tex"]
        done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
        assert done.returncode == 0, done.stdout[-2000:]


class TestVerify:
    def test_a_fresh_study_holds_in_every_module(self, study: Path) -> None:
        found = checks(study, "--sample", 0, code=0)
        assert len(found) == 12
        assert {(check["table"], check["result"]) for check in found} == {("subspaces", "holds")}
        shown = rank_lab("verify", study / "one-two.subspace").out
        assert "one-two.subspace: 2 of 2 rows" in shown
        assert "2 holds" in shown

    @pytest.mark.parametrize(
        ("table", "column", "change"),
        [
            ("phi", "phi", lambda value: value * 0.999),
            ("phi", "null", lambda value: value + 0.01),
            ("angles", "angle", lambda value: value + 1e-4),
            ("angles", "null_cosine", lambda value: value + 1e-4),
            ("angles", "resolved_a", lambda value: value + 1),
            ("amplification", "amplification", lambda value: value * 1.01),
            ("amplification", "own_projected_norm", lambda value: value * 1.001),
            ("intruders", "intruders", lambda value: value + 1),
            ("coverage", "status", lambda value: "refused"),
        ],
    )
    def test_a_number_that_was_edited_is_named(self, study: Path, table: str, column: str, change: Any) -> None:
        rewritten(study / "one-two.subspace" / f"{table}.parquet", column, change)
        found = checks(study / "one-two.subspace", "--sample", 0, code=1)
        (wrong,) = [check for check in found if check["row"] == Q]
        assert wrong["result"] == "differs"
        assert wrong["difference"]["column"].startswith(f"{column} of {table}")
        assert "no digests" in wrong["reason"]

    def test_a_row_that_is_gone_is_missed(self, study: Path) -> None:
        file = study / "one-two.subspace" / "amplification.parquet"
        pq.write_table(pq.read_table(file).slice(1), file)
        (wrong,) = [check for check in checks(study / "one-two.subspace", "--sample", 0, code=1) if check["row"] == Q]
        assert wrong["result"] == "differs"

    def test_changed_and_missing_inputs_are_no_wrong_numbers(self, study: Path) -> None:
        home = study.parent
        file = home / "two" / "adapter_model.safetensors"
        save_file({name: value for name, value in load_file(file).items() if "layers.0" in name}, file)
        shutil.rmtree(home / "full")
        found = {check["run"]: check for check in checks(study, "--sample", 0, code=1)}
        assert found["one-two"]["result"] == "input changed"
        assert "the second run: adapter_model.safetensors had" in found["one-two"]["reason"]
        assert found["full-one"]["result"] == "input missing"
        assert "the first run is not at" in found["full-one"]["reason"]

    def test_another_input_of_the_same_size_is_said_to_be_possible(self, study: Path) -> None:
        file = study.parent / "two" / "adapter_model.safetensors"
        save_file({name: value.flip(0).contiguous() for name, value in load_file(file).items()}, file)
        (wrong,) = [check for check in checks(study / "one-two.subspace", "--sample", 0, code=1) if check["difference"]]
        assert (wrong["row"], wrong["result"]) == (Q, "differs")
        assert "no digests of its inputs: they may have changed" in wrong["reason"]

    def test_a_study_that_was_moved_is_verified_where_it_is(self, study: Path, tmp_path: Path) -> None:
        shutil.move(study.parent, tmp_path / "elsewhere")
        assert {check["result"] for check in checks(tmp_path / "elsewhere" / "study", code=0)} == {"holds"}

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"device": "tpu"}, "compared on tpu, which this machine does not have"),
            ({"epsilons": "all"}, "does not say with which options"),
            ({"intruder_ks": None}, "does not say with which options"),
        ],
    )
    def test_what_cannot_be_computed_again_says_why(self, study: Path, change: dict[str, Any], reason: str) -> None:
        report = load_subspaces(study)["one-two"]
        settings = dict(report.provenance["settings"]) | change
        told = SubspaceReport(
            **{name: getattr(report, name) for name in SUBSPACE_TABLES},
            provenance=dict(report.provenance) | {"settings": settings},
        )
        found = verify_subspaces("x", told, study)
        assert {check.result for check in found} == {"not recomputable"}
        assert re.search(reason, found[0].reason)

    def test_a_sample_takes_few(self, study: Path) -> None:
        found = checks(study / "full-one.subspace", "--sample", 3, code=0)
        assert len(found) == 3
        assert Q in {check["row"] for check in found}  # the only one that is in both


class TestChoices:
    def test_what_can_be_chosen(self, study: Path) -> None:
        found = subspace_choices(load_subspaces(study)["full-one"])
        assert found.modules == (Q,)
        assert found.sides == ("left", "right")
        assert list(found.updates) == ["full", "one"]
        assert found.ranks == (8, 4, 2, 1)
        assert found.epsilons[0] == 0.5
        assert found.counts == {"compared": 1, "only": 9}
        assert set(found.told["status"]) == {"only"}

    def test_two_steps_of_one_run_are_two_updates(self, study: Path) -> None:
        report = load_subspaces(study)["full-one"]
        for name in ("amplification", "intruders"):
            table = getattr(report, name)
            table["step"] = table["run"].map({"full": 5, "one": 10}).astype("Int64")
            table["run"] = "both"
        found = subspace_choices(report).updates
        assert list(found) == ["both, step 5", "both, step 10"]
        assert [len(rows) for rows, _ in found.values()] == [4, 2]

    def test_nothing_compared_is_shown_as_that(self, study: Path, tmp_path: Path) -> None:
        report = load_subspaces(study)["full-one"]
        tables = {name: getattr(report, name).iloc[:0] for name in SUBSPACE_TABLES}
        refused = report.coverage.assign(status="refused", reason="a reason", failed=True)
        empty = SubspaceReport(**tables | {"coverage": refused}, provenance=report.provenance)
        found = subspace_choices(empty)
        assert (found.modules, dict(found.updates), found.ranks, found.epsilons) == ((), {}, (), ())
        assert len(found.told) == len(refused)
        assert [table.label for table in subspace_tables({"x": empty})] == ["subspace-coverage"]
        empty.save(tmp_path / "alone" / "x.subspace")
        assert rank_lab("export", tmp_path / "alone", "-o", tmp_path / "out", *TABLES).code == 0
        assert pd.read_csv(tmp_path / "out" / "subspace_phi.csv").empty
        assert "10 refused" in rank_lab("show", tmp_path / "alone").out

    def test_the_command_names_what_the_study_has(self, study: Path) -> None:
        assert compare_command(Study(study)).startswith("rank-lab subspace FIRST SECOND --base BASE -o ")
        rank_lab("analyze", study.parent / "one", "--base", study.parent / "base", "-o", study)
        assert f"subspace {study.parent / 'one'} SECOND --base {study.parent / 'base'}" in compare_command(Study(study))


def test_nothing_to_verify_is_still_refused(tmp_path: Path) -> None:
    (tmp_path / "half.subspace").mkdir()
    assert rank_lab("verify", tmp_path).code == 2
    with pytest.raises(SchemaError):
        SubspaceReport.load(tmp_path / "half.subspace")
