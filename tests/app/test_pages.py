"""Pages without a browser: what they show of good, broken, empty and growing studies, and that they never fail."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from rank_lab import RankReport
from rank_lab.schema import COVERAGE, SPECTRA, UPDATES
from tests.app.conftest import Shown
from tests.app.studies import CONTROLS, HOSTILE_MODULE, hostile, save_study

PAGES = ("overview", "layers", "spectra", "compare")


@pytest.fixture
def study(tmp_path: Path, reports: dict[str, RankReport]) -> Path:
    return save_study(tmp_path / "study", reports)


def said(test: AppTest) -> str:
    """All text of a page."""
    kinds = (test.title, test.subheader, test.markdown, test.caption, test.error, test.warning, test.info, test.code)
    return "\n".join(element.value for kind in kinds for element in kind)


def boxes(test: AppTest) -> dict[str, object]:
    return {box.label: box.value for box in test.selectbox}


def test_overview_tells_what_is_there_and_what_is_not(shown: Shown, study: Path) -> None:
    test = shown(study)
    assert test.title[0].value == "study"
    frames = {tuple(frame.value.columns)[:2]: frame.value for frame in test.dataframe}
    without = next(frame for columns, frame in frames.items() if columns == ("run", "step"))
    assert set(without.loc[without["run"] == "full", "step"]) == {10}  # the last alone
    assert "score.weight" in set(without["example"])
    assert list(without["status"]) == sorted(
        without["status"], key=("failed", "skipped", "new", "vector", "identical").index
    )
    runs = next(frame for columns, frame in frames.items() if columns == ("run", "method"))
    assert list(runs["run"]) == ["full", "lora"]
    assert list(runs["steps"]) == ["5, 10", ""]
    assert not [each for each in test.expander if "cannot be read" in each.label]


def test_layers_shows_the_numbers_of_the_chosen_matrix(
    shown: Shown, study: Path, reports: dict[str, RankReport]
) -> None:
    module = "model.layers.1.self_attn.q_proj"
    test = shown(study, "layers", run="full", step="10", module=module, metric="stable_rank")
    assert boxes(test)["Matrix"] == module
    numbers = test.dataframe[0].value.set_index("quantity")
    updates = reports["full"].updates
    row = updates[(updates["module"] == module) & (updates["step"] == 10) & (updates["delta"] == "cumulative")].iloc[0]
    assert numbers.loc["spectral_norm", "value"] == row["spectral_norm"]
    assert numbers.loc["stable_rank", "null"] == row["null_stable_rank"]


def test_choices_of_the_address_that_are_not_there_fall_back(shown: Shown, study: Path) -> None:
    test = shown(study, "layers", run="absent", step="77", metric="nonsense", module="nothing")
    assert boxes(test)["Run"] == "full"
    assert boxes(test)["Step"] == 10
    assert not test.error


def test_an_adapter_without_steps_can_be_looked_at(shown: Shown, study: Path) -> None:
    test = shown(study, "layers", run="lora")
    assert "Step" not in boxes(test)
    assert not test.error
    assert not test.warning


def test_compare_puts_runs_side_by_side(shown: Shown, study: Path) -> None:
    test = shown(study, "compare")
    assert test.multiselect[0].value == ["full, step 10", "lora"]
    test.multiselect[0].set_value(["full, step 10", "full, step 5"]).run()
    differences = next(frame.value for frame in test.dataframe if "difference_2" in frame.value)
    assert (differences["difference_2"] == differences["value_2"] - differences["value_1"]).all()
    assert not test.error
    test.multiselect[0].set_value(["lora"]).run()
    assert "Choose a second run" in said(test)


def test_spectra_say_which_runs_lack_a_matrix(shown: Shown, study: Path) -> None:
    test = shown(study, "spectra")
    assert "run lora has no matrix" in said(test).replace("\\", "")
    assert not test.error
    assert not test.warning


@pytest.mark.parametrize("page", PAGES)
def test_an_empty_study_says_what_to_do(shown: Shown, tmp_path: Path, page: str) -> None:
    text = said(shown(tmp_path, page))
    assert "This study is empty" in text
    assert f"rank-lab analyze TUNED --base BASE -o {tmp_path.name}" in text


@pytest.mark.parametrize("page", PAGES)
def test_a_report_of_no_matrix_says_so(shown: Shown, tmp_path: Path, reports: dict[str, RankReport], page: str) -> None:
    empty = {schema: schema.empty_table().to_pandas() for schema in (UPDATES, SPECTRA)}
    lora = reports["lora"]
    RankReport(empty[UPDATES], empty[SPECTRA], lora.coverage, lora.provenance).save(tmp_path / "none.rank")
    test = shown(tmp_path, page)
    assert "its reports analysed none" in said(test)
    assert not test.error


def test_a_report_without_a_single_row_is_shown(shown: Shown, tmp_path: Path, reports: dict[str, RankReport]) -> None:
    empty = [schema.empty_table().to_pandas() for schema in (UPDATES, SPECTRA, COVERAGE)]
    RankReport(*empty, reports["lora"].provenance).save(tmp_path / "none.rank")
    assert "its reports analysed none" in said(shown(tmp_path, "overview"))


def newer(folder: Path) -> None:
    head = json.loads((folder / "report.json").read_text())
    (folder / "report.json").write_text(json.dumps(head | {"schema_version": 99}))


def half(folder: Path) -> None:
    file = folder / "updates.parquet"
    file.write_bytes(file.read_bytes()[:2000])


def headless(folder: Path) -> None:
    (folder / "report.json").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [(newer, "schema version 99"), (half, "cannot be read"), (headless, "not the head of a report")],
)
def test_a_broken_report_is_named_and_the_rest_is_shown(
    shown: Shown, study: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(study / "full.rank")
    test = shown(study)
    (expander,) = [each for each in test.expander if each.label != "How to read this page"]
    assert expander.label == "1 part of this study cannot be read"
    text = said(test).replace("\\", "")
    assert "full.rank" in text
    assert message in text
    assert any("run" in frame.value and list(frame.value["run"]) == ["lora"] for frame in test.dataframe)


def test_only_broken_reports(shown: Shown, study: Path) -> None:
    for folder in study.glob("*.rank"):
        half(folder)
    assert "No report of this study can be read" in said(shown(study, "layers"))


def test_half_written_spectra_leave_the_map_and_the_numbers(shown: Shown, study: Path) -> None:
    file = study / "full.rank" / "spectra.parquet"
    file.write_bytes(file.read_bytes()[:1000])
    test = shown(study, "layers", run="full")
    (warning,) = test.warning
    assert "cannot be read" in warning.value
    assert len(test.dataframe) == 1
    assert not test.error


def test_a_folder_without_permission(shown: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refused)
    test = shown(tmp_path, "overview")
    (error,) = test.error
    assert "may not be read" in error.value
    assert "give yourself the right" in error.value


def test_a_study_that_goes_away_and_one_that_grows(shown: Shown, study: Path) -> None:
    shutil.move(study / "lora.rank", study.parent / "lora.later")
    test = shown(study, "layers")
    assert list(test.selectbox(key="run").options) == ["full"]
    shutil.move(study.parent / "lora.later", study / "lora.rank")
    test.run()
    assert list(test.selectbox(key="run").options) == ["full", "lora"]
    test.selectbox(key="run").set_value("lora").run()
    shutil.rmtree(study / "lora.rank")
    test.run()
    assert boxes(test)["Run"] == "full"
    shutil.rmtree(study)
    test.run()
    assert not test.exception
    assert "empty" in said(test)


@pytest.mark.parametrize("page", PAGES)
def test_hostile_names_are_text(shown: Shown, tmp_path: Path, reports: dict[str, RankReport], page: str) -> None:
    hostile(reports["full"]).save(tmp_path / "hostile.rank")
    test = shown(tmp_path, page)
    assert not test.error
    assert not test.warning
    text = said(test)
    assert re.search(r"(?<!\\)[<$`\[]", text) is None  # each stands escaped
    assert "\x1b" not in text
    if page == "layers":
        assert test.selectbox(key="module").value == HOSTILE_MODULE
        assert any("\\$\\\\frac" in heading.value for heading in test.subheader)
        assert CONTROLS.encode("unicode_escape").decode() in test.selectbox(key="module").options
