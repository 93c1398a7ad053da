"""The demonstration: all of it from end to end, stopped and gone on with, and words that its tables bear out."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch

from rank_lab import pictures
from rank_lab.curve import SORA, Curve
from rank_lab.demo import one_run, run
from rank_lab.demo.demo_plan import SETTINGS_FILE, DemoPlan
from rank_lab.demo.findings import subspaces_found
from rank_lab.demo.run import EXPORT, SUMMARY_FILE, run_demo
from rank_lab.demo.summary import summary_of
from rank_lab.errors import RankLabError
from rank_lab.score_table import SCORES_FILE, ScoreTable
from rank_lab.study import Study
from rank_lab.study_outcomes import study_outcomes
from rank_lab.subspace_report import SubspaceReport, subspace_reports_of
from tests.checkpoints import rank_lab
from tests.demo_study import NAMES, PLAN

pytestmark = pytest.mark.timeout(900)  # the study is made by one process, for which another may wait


@pytest.fixture(scope="module", autouse=True)
def one_thread_and_no_pictures() -> Iterator[None]:
    """Pictures are tested by themselves, and take seconds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "find_browser", lambda: None)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def made(demo_study: Path) -> Path:
    return demo_study


def test_a_demo_is_a_study_of_six_runs_with_scores_and_a_curve(made: Path) -> None:
    study = Study(made)
    assert study.problems() == []
    assert sorted(entry.run for entry in study.reports()) == sorted(NAMES)
    updates = study.updates()
    assert set(updates["step"]) == {PLAN.steps}
    assert updates["energy_rank_90"].notna().all()
    assert updates["rank_above_iid"].notna().any()  # both tests were made
    curve = study.curve()
    assert curve is not None
    assert set(curve.rows["control"]) == {SORA, "one_shot_importance", "svd"}
    assert len(curve.rows[curve.rows["control"] == SORA]) == len(PLAN.sweep.thresholds)
    outcomes = study.outcomes()
    assert outcomes is not None
    points = outcomes.trade_offs.points
    assert sorted(points.loc[points["measure"] == "cross_entropy_increase", "run"]) == sorted(NAMES)
    assert points["learning_low"].notna().all()  # base and runs were scored on the same texts
    assert set(points["learning_how"]) == {"paired"}


def test_its_export_holds_tables_and_figures(made: Path) -> None:
    export = made / EXPORT
    assert {"README.md", "updates.csv", "tables.tex", "references.bib", "curve.csv", "outcomes.csv"} <= {
        file.name for file in export.iterdir()
    }
    page = (export / "figures" / "figures.html").read_text(encoding="utf-8")
    for figure in ("layers-k90-sora-2e-3", "curve-over-threshold", "phi-full-1e-4-lora-5e-4", "rank-budget-full-4e-4"):
        assert f'<section id="{figure}">' in page
    assert "trade-off-" in page


def test_subspaces_of_full_and_lora_are_compared(made: Path) -> None:
    (folder,) = subspace_reports_of(made)
    report = SubspaceReport.load(folder)
    assert [report.provenance[role]["run"] for role in ("first", "second")] == ["full-1e-4", "lora-5e-4"]
    assert (report.coverage["status"] == "compared").sum() == 28
    said = subspaces_found(report)
    phi, null = (float(number) for number in re.findall(r"left ([\d.]+) \(random ([\d.]+)\)", said)[0])
    assert 0 <= null < phi <= 1  # the same text pulls both the same way


def test_no_dashboard_is_opened_where_output_is_no_terminal(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[Path] = []
    monkeypatch.setattr(run, "dashboard_and_wait", opened.append)
    monkeypatch.setattr(run, "_made", lambda *_: "nothing anew")
    run_demo(made, PLAN, browser=True)
    assert opened == []
    assert f"rank_lab dashboard {made}" in " ".join(capsys.readouterr().out.split())
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    run_demo(made, PLAN, browser=True)
    assert opened == [made]


def test_each_method_is_trained_at_two_rates(made: Path) -> None:
    records = {name: json.loads((made / name / "training.json").read_text()) for name in NAMES}
    assert [(each["method"], each["learning_rate"]) for each in records.values()] == [
        ("full", 1e-4), ("full", 4e-4), ("lora", 5e-4), ("lora", 2e-3), ("sora", 5e-4), ("sora", 2e-3)
    ]  # fmt: skip
    assert {each["seed"] for each in records.values()} == {0}


def test_run_again_it_makes_nothing_anew_and_says_the_same(
    made: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def kept() -> dict[str, bytes]:
        files = [*made.glob("*/checkpoint-*/*.safetensors"), *made.glob("seed-0/stage-*/*"), made / "curve.jsonl"]
        return {str(file): file.read_bytes() for file in files if file.is_file()}

    before, times = kept(), {file: Path(file).stat().st_mtime_ns for file in kept()}
    words = (made / SUMMARY_FILE).read_text(encoding="utf-8")
    exported: list[Path] = []
    monkeypatch.setattr(run, "write_export", lambda _, out, formats: exported.append(out) or [])  # tested by itself
    run_demo(made, PLAN)
    assert exported == [made / EXPORT]
    assert kept() == before
    assert {file: Path(file).stat().st_mtime_ns for file in before} == times
    said = capsys.readouterr().out
    assert said.count("was trained before") == len(NAMES)
    assert (made / SUMMARY_FILE).read_text(encoding="utf-8") == words


def test_a_demo_that_was_stopped_ends_as_one_that_was_not(made: Path, tmp_path: Path) -> None:
    """Of one run, to the last bit; the mechanisms of the others are tested by themselves."""
    plan = PLAN
    name = NAMES[0]
    shutil.copytree(made / "text", tmp_path / "text")
    from transformers import AutoTokenizer

    from rank_lab.demo import BASE
    from rank_lab.tasks import encoded

    data = encoded(run._CODE, made / "text", AutoTokenizer.from_pretrained(BASE), max_length=128, packed=True)
    one_run.train(plan.runs[0], plan, data, tmp_path, lambda done, total: None)
    checkpoint = f"checkpoint-{plan.steps}/model.safetensors"
    assert (tmp_path / name / checkpoint).read_bytes() == (made / name / checkpoint).read_bytes()


def test_the_words_are_those_of_the_tables(made: Path) -> None:
    text = (made / SUMMARY_FILE).read_text(encoding="utf-8")
    points = study_outcomes(made).trade_offs.points
    points = points[points["measure"] == "cross_entropy_increase"].set_index("run")
    told = re.findall(r"learned (\S+) \((\S+) to (\S+)\) and forgot (\S+) \((\S+) to ([^\s)]+)\)", text)
    columns = [f"{name}{end}" for name in ("learning", "forgetting") for end in ("", "_low", "_high")]
    expected = [[f"{points.loc[name, column]:z.3f}" for column in columns] for name in NAMES]
    assert [list(numbers) for numbers in told] == expected
    ranks = study_outcomes(made).checkpoints.set_index("run")
    for name in NAMES:
        row = ranks.loc[name]
        assert f"{name} {row['energy_rank_90']:.1f} ({row['null_energy_rank_90']:.1f})" in text
    last = Curve.load(made).rows.query("control == 'sora'").iloc[-1]
    assert f"{last['nonzero_gates']} of {last['gates']} gates" in text
    assert f"generalization {last['generalization']:.1f} (" in text


def test_the_words_say_what_cannot_be_concluded(made: Path) -> None:
    not_shown = (made / SUMMARY_FILE).read_text(encoding="utf-8").split("What they do not show.")[1]
    assert "one seed each" in not_shown
    assert "the better of full, lora and sora is the largest or smallest that was tried" in not_shown
    assert re.search(r"6 .*runs, of which 8 at least are needed", not_shown)  # no correlation of ranks and forgetting
    assert "935,040 parameters" in not_shown


def test_what_was_not_learned_is_not_said_to_be(made: Path) -> None:
    """With an interval that holds 0, and one that does not."""
    found = study_outcomes(made)
    points = found.trade_offs.points
    own = points["run"] == "full-1e-4"
    for low, said in ((-0.1, True), (0.1, False)):
        points.loc[own, "learning_low"] = low
        text = summary_of(found, Curve.load(made), PLAN).text()
        assert bool(re.search("It is not shown that .*full-1e-4.* learned anything", text)) == said


def test_equal_learning_is_read_from_its_table(made: Path) -> None:
    found = study_outcomes(made)
    table = found.trade_offs.equal_learning
    table = table[table["measure"] == "cross_entropy_increase"]
    text = summary_of(found, Curve.load(made), PLAN).text()
    if table.empty:
        assert "No run learned anything" in text
        return
    level = table["at_learning"].max()
    assert f"Where {level:.3f} was learned" in text
    for row in table[table["at_learning"] == level].to_dict("records"):
        name = next(r.name for r in PLAN.runs if (r.method, r.learning_rate) == (row["method"], row["learning_rate"]))
        shown = f"{name} {row['forgetting']:z.3f}" in text
        assert shown == pd.notna(row["forgetting"])


def test_other_steps_are_refused_in_words(made: Path) -> None:
    done = rank_lab("demo", "-o", made, "--steps", "3", "--no-browser")
    assert done.code == 2
    assert "holds a demo of steps 2, not 3; go on with it by --steps 2" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("content", [None, "{}", '{"full": {"method": "full"}, "lora": {}}', "[1]", "{"])
def test_a_foreign_folder_is_left_alone(tmp_path: Path, content: str | None) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    if content is not None:
        (tmp_path / SETTINGS_FILE).write_text(content)
    before = {file.name: file.read_text() for file in tmp_path.iterdir()}
    done = rank_lab("demo", "-o", tmp_path, "--steps", "1", "--no-browser")
    assert done.code == 2, done.out
    assert str(tmp_path) in done.err
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == before


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study").write_text("a file")
    done = rank_lab("demo", "-o", tmp_path / "study", "--no-browser")
    assert (done.code, "is a file" in done.err) == (2, True)


def test_the_text_of_another_python_is_not_mixed_in(made: Path, tmp_path: Path) -> None:
    settings = json.loads((made / SETTINGS_FILE).read_text())
    (tmp_path / SETTINGS_FILE).write_text(json.dumps(settings | {"texts_sha256": "0" * 64}))
    with pytest.raises(RankLabError, match="text of another Python"):
        run_demo(tmp_path, PLAN)


@pytest.mark.parametrize("name", ["steps", "checkpoints", "pieces", "documents", "blocks"])
def test_a_plan_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(RankLabError, match=f"{name} 0: expected 1 or more"):
        DemoPlan(**{name: 0})


@pytest.mark.parametrize("steps", [1, 7, 100, 333])
def test_gates_close_as_far_in_any_number_of_steps(steps: int) -> None:
    """Rate x threshold, summed over the steps, is the same."""
    plan = DemoPlan(steps=steps)
    sora = plan.runs[-1].choices
    assert (sora.gate_lr or 0) * sora.threshold * steps == pytest.approx(1.2, rel=1e-3)
    shrunk = [threshold * plan.sweep.stage_steps * plan.sweep.gate_rate for threshold in plan.sweep.thresholds]
    assert sum(shrunk) == pytest.approx(3.6)
    assert plan.sweep.dense_steps % plan.sweep.check_steps == plan.sweep.stage_steps % plan.sweep.check_steps == 0


def test_scores_hold_every_text(made: Path) -> None:
    rows = [row for row in ScoreTable.load(made / SCORES_FILE).rows if row.metric == "cross_entropy"]
    assert {(row.task, row.role) for row in rows} == {("prose", "source"), ("code", "target")}
    assert {row.run for row in rows} == {"base", *NAMES}
    assert {row.n for row in rows} == {PLAN.pieces}
