"""The page Forgetting: points, tables, refusals with their reason, and names from strangers."""

import dataclasses
from pathlib import Path

import pytest

from rank_lab.score_table import SCORES_FILE, ScoreTable
from tests.app.complete import report
from tests.app.conftest import Shown
from tests.app.studies import HOSTILE_RUN
from tests.app.texts import figures, is_literal, said, table
from tests.outcome_studies import BASE, scores


def test_points_tables_and_what_cannot_be_told(shown: Shown, whole: Path) -> None:
    test = shown(whole, "forgetting")
    assert not test.error
    assert len(figures(test)) == 2  # two runs are too few for a correlation
    (warning,) = test.warning
    assert "8 at least are needed" in warning.value
    points = table(test, "learning", "front_share").set_index(["run", "step"])
    assert points.loc[("full", 20), "learning"] == pytest.approx(0.2)
    assert points.loc[("lora", 20), "forgetting"] == pytest.approx(0.02)
    equal = table(test, "at_learning")
    assert equal["at_learning"].max() == pytest.approx(0.1)  # the most that both methods reached
    assert len(table(test, "hypervolume")) == 3  # of all, and of each method
    assert "Every score took part" in said(test)


def test_choices_come_back_from_the_address(shown: Shown, whole: Path) -> None:
    test = shown(
        whole, "forgetting", points="the mean over seeds", rank="effective rank", over_null="true", level="matrix"
    )
    assert test.selectbox(key="points").value == "seeds"
    assert test.toggle(key="over_null").value is True
    assert test.selectbox(key="level").value == "module"
    assert not test.error


def test_no_scores_give_the_command_with_the_paths_of_the_reports(shown: Shown, tmp_path: Path) -> None:
    report("full", source="/check points").save(tmp_path / "full.rank")
    text = said(shown(tmp_path, "forgetting"))
    assert "no scores" in text
    assert "rank-lab evaluate '/check points/full' --base '/check points/base'" in text


def test_scores_of_the_base_alone(shown: Shown, tmp_path: Path) -> None:
    ScoreTable.of(BASE).save(tmp_path / SCORES_FILE)
    test = shown(tmp_path, "forgetting")
    assert not test.error
    assert not figures(test)
    assert any("evaluate a target and a source task" in each.value for each in test.warning)


def test_a_score_that_took_no_part_stands_with_its_reason(shown: Shown, tmp_path: Path) -> None:
    lost = [one for one in scores("full", 5, 0.1, 0.05) if one.task == "winogrande"]
    ScoreTable.of([*BASE, *lost, *scores("other", 5, 0.1, 0.05)[:1]]).save(tmp_path / SCORES_FILE)
    test = shown(tmp_path, "forgetting")
    assert not test.error
    assert any("evaluate a target" in each.value for each in test.warning)


def test_broken_scores_are_named(shown: Shown, tmp_path: Path) -> None:
    (tmp_path / SCORES_FILE).write_bytes(b"PAR1")
    test = shown(tmp_path, "forgetting")
    assert "make one with 'rank-lab evaluate'" in said(test)


def test_hostile_names_are_text(shown: Shown, tmp_path: Path) -> None:
    found = [*BASE, *scores(HOSTILE_RUN, 5, 0.1, 0.05, method=HOSTILE_RUN)]
    odd = [dataclasses.replace(one, task=HOSTILE_RUN) if one.task == "gsm8k" else one for one in found]
    ScoreTable.of(odd).save(tmp_path / SCORES_FILE)
    test = shown(tmp_path, "forgetting")
    assert not test.error
    assert is_literal(test, HOSTILE_RUN)
