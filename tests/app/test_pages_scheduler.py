"""The page Scheduler: a run as it grows, its table, gates and gaps, and files that are torn, broken or hostile."""

import json
from pathlib import Path

from rank_lab.curve import CURVE_FILE, PROGRESS_FILE, SCHEDULE_FILE
from tests.app.complete import curve, line, schedule
from tests.app.conftest import Shown
from tests.app.studies import HOSTILE_MODULE, HOSTILE_RUN
from tests.app.texts import calm, figures, is_literal, said, table
from tests.curve_rows import row


def metrics(test: object) -> dict[str, str]:
    return {each.label: each.value for each in test.metric}  # type: ignore[attr-defined]


def test_a_whole_run(shown: Shown, whole: Path) -> None:
    test = shown(whole, "scheduler")
    calm(test)
    assert metrics(test) == {"Stages done": "3 of 3", "Rows of controls": "2 of 2", "State": "done"}
    assert len(figures(test)) == 3
    stages = table(test, "control", "stage")
    assert list(stages["control"]) == ["sora", "sora", "sora", "svd", "svd"]
    assert list(stages["nonzero_parameters"]) == [800, 600, 400, 600, 400]
    assert list(stages["memorization_low"]) == [98.0, 97.0, 96.0, 97.0, 96.0]
    assert "One seed" in said(test)


def test_choices_come_back_from_the_address(shown: Shown, whole: Path) -> None:
    test = shown(whole, "scheduler", axis="threshold λ", seed="0", stage="1", by="layer")
    assert test.selectbox(key="axis").value == "threshold"
    assert test.selectbox(key="seed").value == 0
    assert test.selectbox(key="stage").value == 1
    assert test.selectbox(key="by").value == "layer"
    calm(test)


def test_a_stage_that_is_written_between_reruns_is_seen(shown: Shown, tmp_path: Path) -> None:
    schedule(tmp_path)
    curve(tmp_path, [row(0)])
    test = shown(tmp_path, "scheduler")
    assert metrics(test)["Stages done"] == "1 of 3"
    with (tmp_path / CURVE_FILE).open("a") as file:
        file.write(line(row(1)) + line(row(2))[:40])  # the last line is still being written
    test.run()
    assert metrics(test)["Stages done"] == "2 of 3"
    assert len(table(test, "control", "stage")) == 2
    text = said(test)
    assert "1 of 3 rows of stages are not done, first seed 0, stage 2" in text
    assert "run the same command again" in text
    assert not test.error


def test_a_run_that_has_no_row_yet_tells_how_far_it_is(shown: Shown, tmp_path: Path) -> None:
    schedule(tmp_path)
    folder = tmp_path / "seed-0" / "stage-00"
    folder.mkdir(parents=True)
    (folder / PROGRESS_FILE).write_text(
        '{"step": 20, "loss": 0.5}\n{"step": 40, "loss": 0.25, "nonzero_gates": 7}\n{"st'
    )
    test = shown(tmp_path, "scheduler")
    text = said(test)
    assert metrics(test)["Stages done"] == "0 of 3"
    assert "Seed 0, sora, stage 0: step 40, loss 0.25, nonzero_gates 7" in text
    assert not figures(test)


def test_no_run_gives_the_command(shown: Shown, tmp_path: Path) -> None:
    text = said(shown(tmp_path, "scheduler"))
    assert "no Algorithm-1 run" in text
    assert "rank-lab schedule BASE --task TASK" in text


def test_a_line_that_is_no_row_is_named(shown: Shown, tmp_path: Path) -> None:
    (tmp_path / CURVE_FILE).write_text(line(row(0)) + "{}\n")
    test = shown(tmp_path, "scheduler")
    (error,) = test.error
    assert "line 2" in error.value.replace("\\", "")


def test_a_curve_without_its_schedule_or_with_broken_knees_is_shown(shown: Shown, tmp_path: Path) -> None:
    curve(tmp_path, [row(0), row(1)])
    (tmp_path / "knees.json").write_text("[1]")
    test = shown(tmp_path, "scheduler")
    text = said(test)
    assert "How many stages are meant is not known" in text
    assert "holds no knees" in text
    assert len(table(test, "control", "stage")) == 2
    (tmp_path / SCHEDULE_FILE).write_text(json.dumps({"schedule": {"thresholds": 3}}))
    assert "How many stages are meant is not known" in said(shown(tmp_path, "scheduler"))


def test_shortcomings_are_said(shown: Shown, tmp_path: Path) -> None:
    curve(tmp_path, [row(0), row(1, converged=False, stop="max_steps"), row(2, target_reached=False)])
    schedule(tmp_path, controls=())
    text = said(shown(tmp_path, "scheduler"))
    assert "Not converged in their steps (hollow marks), so that more training may move them: stage 1." in text
    assert "The target was not reached: stage 2." in text
    assert "No controls are meant" in text


def test_hostile_names_are_text(shown: Shown, tmp_path: Path) -> None:
    odd = {"model": HOSTILE_RUN, "nonzero_by_module": {HOSTILE_MODULE: 3}, "warning": HOSTILE_RUN}
    curve(tmp_path, [row(0, **odd), row(1, **odd), row(1, control=HOSTILE_RUN, **odd)])
    test = shown(tmp_path, "scheduler")
    assert is_literal(test, HOSTILE_RUN)
