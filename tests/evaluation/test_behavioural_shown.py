"""Behavioural ranks in everything that shows a study: reader, terminal, export, paper, figure, verify."""

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rank_lab.behavioural_report import BehaviouralReport, load_behavioural
from rank_lab.behavioural_schema import BEHAVIOURAL_TABLES
from rank_lab.behavioural_summaries import beside_energy_rank, curve_of, rank_words, text_sets_in_words, weight_ranks
from rank_lab.behavioural_terminal import behavioural_summary, render_behavioural
from rank_lab.behavioural_view import behavioural_targets, behavioural_view
from rank_lab.console import console
from rank_lab.errors import SchemaError
from rank_lab.figures import STYLES, behavioural_curve
from rank_lab.latex_behavioural import behavioural_tables
from rank_lab.study import Study
from rank_lab.study_export import study_bibtex, study_data, study_latex
from rank_lab.study_figures import study_figures
from tests.checkpoints import rank_lab
from tests.evaluation.behavioural_studies import made
from tests.figure_texts import HOSTILE

Row = dict[str, Any]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("made")).parent


@pytest.fixture(scope="module")
def report(home: Path) -> BehaviouralReport:
    return load_behavioural(home / "study")["lora"]


@pytest.fixture
def study(home: Path, tmp_path: Path) -> Path:
    """Its own copy for a test; inputs are found beside it, where they were moved with it."""
    shutil.copytree(home, tmp_path / "home")
    head = tmp_path / "home" / "study" / "lora.behavioural" / "behavioural.json"
    head.write_text(head.read_text().replace(str(home), str(tmp_path / "home")))
    return tmp_path / "home" / "study"


def checks(study: Path, *arguments: object, code: int) -> dict[str, Row]:
    done = rank_lab("verify", study, *arguments, "--json")
    assert done.code == code, done.err + done.out
    return {row["row"]: row for row in json.loads(done.out)}


def changed(study: Path, table: str, **values: Any) -> None:
    """Columns of a table changed behind the report's back."""
    folder = study / "lora.behavioural"
    report = BehaviouralReport.load(folder)
    dataclasses.replace(report, **{table: getattr(report, table).assign(**values)}).save(folder)


# -- terminal ---------------------------------------------------------------------------------------------------------


def test_show_tells_the_rank_beside_its_controls(study: Path, report: BehaviouralReport) -> None:
    done = rank_lab("show", study)
    assert done.code == 0, done.err
    (row,) = report.ranks.to_dict("records")
    assert "behavioural rank of lora" in done.out
    assert f"{row['rank']} ({row['rank_low']} to {row['rank_high']})" in done.out
    for words in ("random", "shrunk", "tail", "k90", "in weight space", "noise", "forgotten"):
        assert words in done.out
    assert "model.layers.0.self_attn.q_proj" not in done.out
    assert "model.layers.0.self_attn.q_proj" in rank_lab("show", study, "--modules").out


def test_json_has_all_but_the_single_scores(study: Path, report: BehaviouralReport) -> None:
    (found,) = json.loads(rank_lab("show", study, "--json").out)
    assert found["run"] == "lora"
    assert {"ranks", "points", "matrices", "weight_ranks"} < set(found)
    assert "scores" not in found
    assert len(found["points"]) == len(report.points)
    expected = json.loads(json.dumps(behavioural_summary(report)))
    assert found | {"tuned": ""} == expected | {"tuned": ""}  # where that was copied to


def test_ranks_of_the_spectrum_are_weighted_by_the_change(report: BehaviouralReport) -> None:
    rows = report.matrices[report.matrices["status"] == "truncated"]
    assert rows["change_share"].sum() == pytest.approx(1.0)
    first = weight_ranks(report)[0]
    assert first.value == pytest.approx(float((rows["energy_rank_90"] * rows["change_share"]).sum()))
    assert first.value <= first.null <= 4
    assert first.matrices == (len(rows), len(rows))
    assert weight_ranks(report)[2].resolved


def test_the_rank_stands_beside_that_of_the_squared_norm(report: BehaviouralReport) -> None:
    (row,) = report.ranks.to_dict("records")
    found = beside_energy_rank(report, "items")
    assert found.value == row["energy_rank_90"]
    assert found.ratio == row["rank"] / row["energy_rank_90"]
    assert found.kept is not None  # the search measures it
    learned = curve_of(report, "leading", "target", "items").set_index("k")
    assert found.kept["share"] == learned.loc[found.value, "share"]
    assert learned.loc[found.value, "energy"] >= 0.9
    shown = _printed(report)
    assert f"at k90 {found.value} (the rank is {found.ratio:.2g} of it): so many directions keep" in shown
    assert f"these directions hold {row['energy_at_rank']:.3f} of the squared norm and keep" in shown
    caption = behavioural_curve(behavioural_view(report, "items")).caption
    assert f"of 4 at most, beside k90 {found.value}: {found.ratio:.2g} times as many" in caption
    untried = report.points[report.points["k"] != found.value]
    assert beside_energy_rank(dataclasses.replace(report, points=untried), "items").kept is None
    none = report.ranks.assign(rank=None, reason="nothing was learned")
    assert math.isnan(beside_energy_rank(dataclasses.replace(report, ranks=none), "items").ratio)


def test_texts_of_one_name_are_told_apart(report: BehaviouralReport) -> None:
    other = [dict(each) | {"sha256": "feedc0de" * 8} for each in report.provenance["texts"]]
    moved = dataclasses.replace(report, provenance=dict(report.provenance) | {"texts": other})
    told = text_sets_in_words({"a": report, "b": moved})
    digest = report.provenance["texts"][0]["sha256"][:8]
    assert told.startswith(f"Texts of a: items (sha256 {digest}, 12 texts), prose (sha256 ")
    assert "; of b: items (sha256 feedc0de, 12 texts)" in told
    assert "sha256 feedc0de" in behavioural_tables({"a": report, "b": moved})[0].tex()
    assert "12 texts of items (sha256 feedc0de)" in behavioural_curve(behavioural_view(moved, "items")).caption


def test_a_rank_between_two_that_were_tried_says_so(report: BehaviouralReport) -> None:
    table = report.ranks.assign(rank=8, tried_below=4, lasting_rank=16, rank_low=5, rank_high=8)
    assert rank_words(table.to_dict("records")[0]) == "5 to 8 (5 to 8)"
    shown = _printed(dataclasses.replace(report, ranks=table))
    assert "a larger one keeps less again; from 16 on all keep it" in shown


def test_a_rank_that_is_not_there_says_why(report: BehaviouralReport) -> None:
    none = dict.fromkeys(("rank", "rank_low", "rank_high", "lasting_rank", "tried_below", "energy_at_rank"))
    table = report.ranks.assign(**none, reason="nothing was learned: 0.01 (-0.1 to 0.1)")
    empty = dataclasses.replace(report, ranks=table)
    assert "items: no rank: nothing was learned" in _printed(empty)
    (latex, kept) = behavioural_tables({"lora": empty})
    for each in (latex, kept):
        assert "nothing was learned" in each.tex()
    figure = behavioural_curve(behavioural_view(empty, "items"))
    assert "No rank: nothing was learned" in figure.caption
    assert not [trace for trace in figure.plot.data if str(trace.name).startswith("behavioural rank")]


def _printed(report: BehaviouralReport) -> str:
    shown = console()
    with shown.capture() as captured:
        shown.print(render_behavioural(report))
    return " ".join(captured.get().split())


# -- export -----------------------------------------------------------------------------------------------------------


def test_export_writes_tables_latex_and_the_figure(study: Path, report: BehaviouralReport, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = rank_lab("export", study, "-o", out, "-f", "csv", "-f", "latex", "-f", "html")
    assert done.code == 0, done.err
    for table in BEHAVIOURAL_TABLES:
        frame = pd.read_csv(out / f"behavioural_{table}.csv")
        assert set(frame["run"]) == {"lora"}
    scores = pd.read_csv(out / "behavioural_scores.csv")
    rows = scores[(scores["how"] == "tuned") & (scores["task"] == "items")]
    assert rows["example"].tolist() == list(range(1, 13))
    stored = report.scores[(report.scores["how"] == "tuned") & (report.scores["task"] == "items")].iloc[0]
    assert rows["value"].mean() == pytest.approx(stored["value"])
    assert json.loads((out / "behavioural_provenance.json").read_text())[0]["report"] == "lora"
    assert "tab:behavioural-rank" in (out / "table_behavioural_rank.tex").read_text()
    (page,) = out.rglob("*.html")
    assert "Behavioural rank: the least k that keeps 0.9 of what was learned" in page.read_text()
    assert "eckart1936approximation" in (out / "references.bib").read_text()
    readme = (out / "README.md").read_text()
    assert "lora, behavioural rank" in readme
    assert "items (target)" in readme
    assert report.provenance["texts"][0]["sha256"][:16] in readme


def test_an_open_study_gives_the_same(study: Path, report: BehaviouralReport) -> None:
    opened = Study(study)
    before = opened.signature()
    assert opened.behavioural()["lora"].points.equals(report.points)
    assert not opened.problems()
    assert {f"behavioural_{table}" for table in BEHAVIOURAL_TABLES} <= set(study_data(opened))
    assert {"behavioural-rank", "behavioural-kept"} <= set(study_latex(opened))
    assert "eckart1936approximation" in study_bibtex(opened)
    assert [each.name for each in study_figures(opened)] == ["behavioural-lora-items"]
    (study / "lora.behavioural" / "points.parquet").write_bytes(b"damaged")
    assert opened.signature() != before
    assert opened.behavioural() == {}
    assert [problem.part for problem in opened.problems()] == ["lora.behavioural"]


def test_a_link_out_of_the_study_is_not_followed(study: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.parquet"
    inside = study / "lora.behavioural" / "ranks.parquet"
    shutil.move(inside, outside)
    inside.symlink_to(outside)
    (problem,) = Study(study).problems()
    assert "is a link out of the study" in problem.message


# -- figure -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", STYLES)
def test_the_figure_draws_what_the_report_holds(style: Any, report: BehaviouralReport) -> None:
    view = behavioural_view(report, "items")
    figure = behavioural_curve(view, style)
    (row,) = report.ranks.to_dict("records")
    traces = {trace.meta: trace for trace in figure.plot.data}
    learned = curve_of(report, "leading", "target", "items")
    drawn = learned[learned["k"] > 0]
    assert list(traces["learned"].x) == drawn["k"].astype(float).tolist()
    assert list(traces["learned"].y) == drawn["share"].tolist()
    assert set(traces["behavioural"].x) == {float(row["rank"])}
    assert set(traces["k90"].x) == {float(row["energy_rank_90"])}
    assert {"random", "shrunk", "tail", "forgotten", "rank interval", "share"} <= set(traces)
    assert figure.plot.layout.xaxis.type == "log"
    assert f"Rank {row['rank']} (" in figure.caption
    assert "12 texts of items (sha256 " in figure.caption
    assert " and 18 texts of prose (sha256 " in figure.caption
    assert "random directions are needed" in figure.caption
    assert "nested, one draw" in figure.caption
    assert len(figure.data) == len(view.points)


def test_what_has_no_share_has_no_place_in_the_legend(report: BehaviouralReport) -> None:
    source = report.points["role"] == "source"
    none = report.points.assign(share=report.points["share"].mask(source), reason="nothing was forgotten")
    figure = behavioural_curve(behavioural_view(dataclasses.replace(report, points=none), "items"))
    assert "forgotten" not in {trace.meta for trace in figure.plot.data}
    assert "Without a share: " in figure.caption
    assert figure.plot.layout.xaxis.tickvals == (1, 2, 4)


def test_an_unknown_target_is_named(report: BehaviouralReport) -> None:
    assert behavioural_targets(report) == ["items"]
    with pytest.raises(SchemaError, match="no target 'item'"):
        behavioural_view(report, "item")


def test_names_from_files_are_no_markup(report: BehaviouralReport) -> None:
    tables = {
        "ranks": report.ranks.assign(task=HOSTILE), "matrices": report.matrices.assign(module=HOSTILE),
        "points": report.points.assign(task=HOSTILE), "scores": report.scores.assign(task=HOSTILE),
    }  # fmt: skip
    told = dict(report.provenance) | {"settings": dict(report.provenance["settings"]) | {"run": HOSTILE}}
    hostile = dataclasses.replace(report, **tables, provenance=told)
    shown = console()
    with shown.capture() as captured:
        shown.print(render_behavioural(hostile, modules=True))
    assert "\x1b[2J" not in captured.get()
    figure = behavioural_curve(behavioural_view(hostile, HOSTILE))
    assert "<b>" not in figure.plot.to_json().replace("\\u003c", "<").replace("&lt;b&gt;", "")
    for table in behavioural_tables({HOSTILE: hostile}):
        assert table.tex().isascii()


# -- verify -----------------------------------------------------------------------------------------------------------


def test_what_was_measured_holds(study: Path, report: BehaviouralReport) -> None:
    found = checks(study, "--sample", 3, code=0)
    assert {row["result"] for row in found.values()} == {"holds"}
    assert "ranks and points" in found
    assert len(found) == 4
    assert len(report.scores[["how", "k", "vectors"]].drop_duplicates()) > 4


def test_random_directions_that_were_drawn_in_another_way_are_not_told_as_different(study: Path) -> None:
    folder = study / "lora.behavioural"
    report = BehaviouralReport.load(folder)
    settings = {key: value for key, value in report.provenance["settings"].items() if key != "random_draw"}
    dataclasses.replace(report, provenance=dict(report.provenance) | {"settings": settings}).save(folder)
    found = checks(study, "--sample", 0, code=0)
    random = {row["result"] for words, row in found.items() if words.startswith("random")}
    others = {row["result"] for words, row in found.items() if not words.startswith("random")}
    assert (random, others) == ({"not recomputable"}, {"holds"})
    assert all("in another way" in row["reason"] for words, row in found.items() if words.startswith("random"))


def test_changed_ranks_and_scores_show(study: Path) -> None:
    changed(study, "ranks", rank=1)
    found = checks(study, "--sample", 1, code=1)
    assert found["ranks and points"]["difference"]["column"] == "rank of items"
    report = BehaviouralReport.load(study / "lora.behavioural")
    changed(study, "scores", value=report.scores["value"] + 0.01)
    found = checks(study, "--sample", 2, code=1)
    assert {"differs"} == {row["result"] for row in found.values()}


def test_changed_inputs_show(study: Path) -> None:
    (study.parent / "items.jsonl").write_text('{"text": "another"}\n')
    found = checks(study, "--sample", 1, code=1)
    assert [row["result"] for row in found.values()] == ["holds", "input changed"]
    (study.parent / "items.jsonl").unlink()
    found = checks(study, "--sample", 1, code=1)
    assert [row["result"] for row in found.values()] == ["holds", "input missing"]


def test_texts_that_no_file_holds_cannot_be_read_again(study: Path) -> None:
    head = study / "lora.behavioural" / "behavioural.json"
    told = json.loads(head.read_text())
    for each in told["provenance"]["texts"]:
        del each["file"]
    head.write_text(json.dumps(told))
    found = checks(study, "--sample", 1, code=0)
    assert [row["result"] for row in found.values()] == ["holds", "not recomputable"]


def test_a_report_by_itself_is_verified(study: Path) -> None:
    rows = checks(study / "lora.behavioural", "--sample", 1, code=0)
    assert {row["result"] for row in rows.values()} == {"holds"}
