"""The page of subspaces: what it shows of good, broken and missing comparisons, and that it never fails."""

from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from rank_lab.subspace_analysis import compare_runs
from rank_lab.subspace_report import SubspaceReport, load_subspaces
from rank_lab.subspace_schema import SUBSPACE_TABLES
from tests.app.conftest import Shown
from tests.subspace_studies import Q, hostile, made

Opened = Callable[..., AppTest]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("subspaces"))


@pytest.fixture
def opened(shown: Shown) -> Opened:
    return lambda folder, **choices: shown(folder, "subspaces", **choices)


def boxes(test: AppTest) -> dict[str, object]:
    return {box.label: box.value for box in test.selectbox}


def said(test: AppTest) -> str:
    kinds = (test.title, test.subheader, test.markdown, test.caption, test.error, test.warning, test.info, test.code)
    return "\n".join(element.value for kind in kinds for element in kind)


def test_it_shows_what_the_address_chooses(opened: Opened, study: Path) -> None:
    test = opened(study, comparison="one-two", module=Q, r="1", epsilon="0.8", update="two")
    assert not test.error
    assert not test.warning
    shown = boxes(test)
    assert (shown["Comparison"], shown["Matrix"], shown["Directions r"], shown["Largest cosine, ε"]) == (
        "one-two", Q, 1, "0.8",
    )  # fmt: skip
    assert shown["Update"] == "two"
    assert len(test.get("plotly_chart")) == 4
    amplification = next(frame.value for frame in test.dataframe if "random_amplification" in frame.value)
    assert set(amplification["run"]) == {"two"}
    assert set(amplification["r"]) == {1}
    report = load_subspaces(study)["one-two"]
    rows = report.amplification[(report.amplification["run"] == "two") & (report.amplification["r"] == 1)]
    assert amplification["amplification"].tolist() == rows["amplification"].tolist()


def test_other_choices_show_other_rows(opened: Opened, study: Path) -> None:
    test = opened(study, comparison="one-two")
    next(box for box in test.selectbox if box.label == "Side").select("A").run()
    assert not test.exception
    assert "right singular vectors of A" in said(test)
    assert "Of the matrix A alone there are no angles" in said(test).replace("\\", "")
    next(box for box in test.selectbox if box.label == "Comparison").select("full-one").run()
    assert not test.exception
    assert boxes(test)["Side"] == "left"  # this one has no A
    assert boxes(test)["Update"] == "one"  # which is in both
    frames = [frame.value for frame in test.dataframe]
    assert {"only"} in [set(frame["status"]) for frame in frames if "status" in frame]


def test_choices_that_are_not_there_fall_back(opened: Opened, study: Path) -> None:
    test = opened(
        study, comparison="nothing", module="none", side="up", r="77", epsilon="2", intruder_k="x", update="?"
    )
    assert not test.error
    assert boxes(test)["Comparison"] == "full-one"


def test_a_study_without_one_gets_the_command(opened: Opened, tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    test = opened(tmp_path / "study")
    assert "no comparison of two updates" in test.info[0].value
    assert test.code[0].value.startswith("rank-lab subspace FIRST SECOND")


def test_without_a_base_the_page_says_what_is_missing(opened: Opened, study: Path, tmp_path: Path) -> None:
    compare_runs(study.parent / "one", study.parent / "two").save(tmp_path / "study" / "bare.subspace")
    test = opened(tmp_path / "study")
    assert len(test.get("plotly_chart")) == 2
    assert "Compared without a base" in test.info[0].value


def test_nothing_compared_is_a_page_with_the_reasons(opened: Opened, study: Path, tmp_path: Path) -> None:
    report = load_subspaces(study)["full-one"]
    tables = {name: getattr(report, name).iloc[:0] for name in SUBSPACE_TABLES}
    refused = report.coverage.assign(status="refused", reason="shapes differ", failed=True)
    SubspaceReport(**tables | {"coverage": refused}, provenance=report.provenance).save(tmp_path / "s" / "x.subspace")
    test = opened(tmp_path / "s")
    assert "10 refused" in said(test)
    assert set(test.dataframe[0].value["reason"]) == {"shapes differ"}
    assert not test.get("plotly_chart")


def test_a_broken_one_is_told(opened: Opened, study: Path, tmp_path: Path) -> None:
    folder = load_subspaces(study)["one-two"].save(tmp_path / "study" / "x.subspace")
    (folder / "phi.parquet").write_bytes(b"PAR1")
    test = opened(tmp_path / "study")
    assert "cannot be read" in test.error[0].value
    assert not test.info


def test_names_are_no_markup(opened: Opened, study: Path, tmp_path: Path) -> None:
    hostile(load_subspaces(study)["one-two"]).save(tmp_path / "study" / "<b>x</b> $y$.subspace")
    test = opened(tmp_path / "study")
    assert not test.error
    text = said(test)
    assert "\x1b" not in text
    assert "<b>" not in text.replace("\\<b\\>", "")


def test_it_is_a_page_of_the_dashboard(monkeypatch: pytest.MonkeyPatch, study: Path) -> None:
    monkeypatch.setattr("sys.argv", ["main.py", str(study)])
    main = Path(__file__).parents[2] / "app" / "main.py"
    test = AppTest.from_file(str(main), default_timeout=60).run()
    assert not test.exception
    guide = (main.parent / "guide" / "subspaces.md").read_text(encoding="utf-8")
    assert guide.startswith("# Subspaces\n")
