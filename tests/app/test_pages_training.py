"""The page Training: the numbers of its table, its choices, and what it says where something is not there."""

from pathlib import Path

import numpy as np
import pytest

from rank_lab.score_table import SCORES_FILE, ScoreTable
from tests.app.complete import SPECTRUM, STEPS, report, rows
from tests.app.conftest import Shown
from tests.app.texts import calm, figures, said, table
from tests.outcome_studies import BASE, scores


def test_a_row_a_run_and_step_with_the_median_over_matrices(shown: Shown, whole: Path) -> None:
    test = shown(whole, "training", metric="σ₁")
    calm(test)
    found = table(test, "line", "value").set_index(["run", "step"])["value"]
    assert len(found) == len(SPECTRUM) * len(STEPS)
    for run in SPECTRUM:
        for step in STEPS:
            largest = [max(values) for one, values in rows(run) if one["step"] == step]
            assert found[run, step] == pytest.approx(np.median(largest))
    assert len(figures(test)) == 3  # ranks, learning, forgetting


def test_lines_of_single_matrices_begin_with_those_that_changed_most(shown: Shown, whole: Path) -> None:
    test = shown(whole, "training", lines="a matrix", runs="full")
    chosen = test.multiselect(key="modules")
    assert chosen.value[0].startswith("layers.0.")  # of layer 1 all is half as large
    chosen.set_value(["layers.1.up_proj"]).run()
    calm(test)
    assert set(table(test, "line", "value")["line"]) == {"layers.1.up_proj"}
    assert set(table(test, "line", "value")["noise_regime"]) == {"partial 1"}


def test_choices_come_back_from_the_address(shown: Shown, whole: Path) -> None:
    test = shown(whole, "training", runs=["lora"], lines="a kind of module", log_steps="true", metric="stable rank")
    assert test.multiselect(key="runs").value == ["lora"]
    assert test.toggle(key="log_steps").value is True
    assert set(table(test, "line", "value")["line"]) == {"q", "up"}


def test_runs_that_are_not_there_fall_back(shown: Shown, whole: Path) -> None:
    test = shown(whole, "training", runs=["absent"], lines="nonsense")
    assert test.multiselect(key="runs").value == list(SPECTRUM)
    calm(test)


def test_scores_without_ranks_are_shown(shown: Shown, tmp_path: Path) -> None:
    ScoreTable.of([*BASE, *scores("full", 5, 0.1, 0.05), *scores("full", 9, 0.2, 0.1)]).save(tmp_path / SCORES_FILE)
    test = shown(tmp_path, "training")
    assert len(figures(test)) == 2
    assert "rank-lab analyze" in said(test)


def test_no_scores_give_the_command_with_the_paths_of_the_reports(shown: Shown, tmp_path: Path) -> None:
    report("full", source="/checkpoints").save(tmp_path / "full.rank")
    text = said(shown(tmp_path, "training"))
    assert "rank-lab evaluate /checkpoints/full --base /checkpoints/base --source-text NAME=FILE" in text
    assert str(tmp_path) in text


def test_one_step_says_how_to_get_more(shown: Shown, tmp_path: Path) -> None:
    report("full", grown=(10,)).save(tmp_path / "full.rank")
    assert "One step alone" in said(shown(tmp_path, "training"))


def test_broken_scores_are_named_and_ranks_are_shown(shown: Shown, tmp_path: Path) -> None:
    report("full").save(tmp_path / "full.rank")
    (tmp_path / SCORES_FILE).write_bytes(b"PAR1 this is none")
    test = shown(tmp_path, "training")
    (error,) = test.error
    assert SCORES_FILE in error.value.replace("\\", "")
    assert len(figures(test)) == 1


def test_an_empty_study(shown: Shown, tmp_path: Path) -> None:
    text = said(shown(tmp_path, "training"))
    assert "This study is empty" in text
    assert "no scores" in text
