"""The page of functional ranks: what it shows of good, broken and missing reports."""

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from tests.app.conftest import Shown
from tests.evaluation import behavioural_studies
from tests.figure_texts import HOSTILE
from tests.functional_studies import made, renamed, report


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("function"))


def said(test: AppTest) -> str:
    kinds = (test.title, test.subheader, test.markdown, test.caption, test.error, test.warning, test.info, test.code)
    return "\n".join(element.value for kind in kinds for element in kind).replace("\\", "")


def test_it_shows_what_the_address_chooses(shown: Shown, study: Path) -> None:
    test = shown(study, "function", functional_metric="stable_rank", scope="module", functional_kind="down")
    assert not test.error
    assert not test.exception
    assert len(test.get("plotly_chart")) == 2
    table = next(frame.value for frame in test.dataframe if "open_above" in frame.value)
    assert set(table["metric"]) == {"stable_rank"}
    assert set(table["kind"]) == {"down"}
    assert set(table["run"]) == {"lora", "series"}
    assert "lm_head" in next(frame.value for frame in test.dataframe if "reason" in frame.value)["module"].tolist()


def test_fewer_runs_can_be_chosen(shown: Shown, study: Path) -> None:
    test = shown(study, "function")
    test.multiselect[0].set_value(["prefix"]).run()
    assert not test.exception
    table = next(frame.value for frame in test.dataframe if "open_above" in frame.value)
    assert set(table["run"]) == {"prefix"}
    assert len(test.get("plotly_chart")) == 1  # no weight update, nothing beside it


def test_a_study_without_any_says_how_they_come(shown: Shown, tmp_path: Path) -> None:
    test = shown(tmp_path, "function")
    assert "rank-lab functional TUNED --base BASE --texts probe.jsonl" in said(test)
    assert not test.exception


def test_beside_a_broken_report_the_others_are_shown(shown: Shown, tmp_path: Path) -> None:
    made(tmp_path)
    (tmp_path / "lora.functional" / "ranks.parquet").write_bytes(b"no table")
    test = shown(tmp_path, "function")
    assert not test.exception
    table = next(frame.value for frame in test.dataframe if "open_above" in frame.value)
    assert set(table["run"]) == {"series", "prefix"}


def test_names_from_files_and_other_texts(shown: Shown, tmp_path: Path) -> None:
    renamed(report("a", texts="other"), HOSTILE).save(tmp_path / "a.functional")
    report("b").save(tmp_path / "b.functional")
    test = shown(tmp_path, "function")
    assert not test.exception
    assert "measured on different texts" in said(test)
    assert "\x1b" not in said(test)


def test_how_many_directions_do_it_stands_there_without_functional_ranks_too(shown: Shown, tmp_path: Path) -> None:
    test = shown(behavioural_studies.made(tmp_path), "function", target="items")
    assert not test.exception
    assert not test.error
    assert "rank-lab functional" in said(test)
    assert "How many directions do it" in said(test)
    assert len(test.get("plotly_chart")) == 1
    ranks = next(frame.value for frame in test.dataframe if "random_rank" in frame.value)
    assert ranks[["run", "task"]].to_dict("records") == [{"run": "lora", "task": "items"}]
