"""Functional ranks as tables of figures and as figures: what is drawn, and what the caption says."""

from pathlib import Path

import pandas as pd
import pytest

from rank_lab.errors import RankLabError
from rank_lab.figures import STYLES, functional_depth_plot, functional_weight_plot
from rank_lab.functional_choices import functional_choices
from rank_lab.functional_report import FunctionalReport
from rank_lab.functional_summaries import by_kind, told_once
from rank_lab.functional_views import functional_depth, functional_rows, functional_weights
from rank_lab.latex_functional import functional_tables_tex
from rank_lab.study import Study
from rank_lab.study_figures import study_figures
from tests.figure_texts import HOSTILE, is_safe, texts
from tests.functional_studies import LAYERS, made, renamed, report

K90 = "energy_rank_90"


def rows(*reports: FunctionalReport) -> tuple[pd.DataFrame, pd.DataFrame]:
    return functional_rows(reports)


def test_all_methods_are_lines_of_one_plot() -> None:
    found = rows(report("lora"), report("series", "function"), report("prefix", "layer"))
    view = functional_depth(*found, K90)
    assert view.runs == ("lora", "prefix", "series")
    figure = functional_depth_plot(view)
    lines = {trace.name: trace for trace in figure.plot.data if trace.mode == "lines+markers"}
    assert set(lines) == set(view.runs)
    for line in lines.values():
        assert list(line.x) == list(range(LAYERS))
        assert list(line.y) == [3.0, 4.0, 5.0]
        assert list(line.error_y.array) == list(line.error_y.arrayminus) == [1.0] * LAYERS
    (null,) = (trace for trace in figure.plot.data if trace.name == "null")
    assert set(null.y) == {4.5}
    assert "probe probe.jsonl (sha256 a, 20 texts, 500 tokens); n = 9 points" in figure.caption
    assert "do not compare" not in figure.caption
    assert "lora 0.60, prefix 0.60, series 0.60" in figure.caption
    assert len(figure.data) == 3 * LAYERS


def test_an_end_that_cannot_be_told_is_an_arrow_and_no_bar() -> None:
    figure = functional_depth_plot(functional_depth(*rows(report("lora", open_above=True)), K90))
    (line,) = (trace for trace in figure.plot.data if trace.mode == "lines+markers")
    assert list(line.error_y.array) == [0.0] * LAYERS
    (arrows,) = (trace for trace in figure.plot.data if trace.mode == "text")
    assert list(arrows.text) == ["↑"] * LAYERS
    assert "too few texts to tell an upper end" in figure.caption
    assert all("open above" in each for each in line.hovertext)


def test_the_weights_own_rank_stands_beside() -> None:
    figure = functional_weight_plot(functional_weights(*rows(report("lora"), report("series", "function")), K90))
    (dots,) = (trace for trace in figure.plot.data if trace.name == "lora")
    assert set(dots.x) == {5.0}
    assert set(dots.y) == {3.0}
    assert f"Not shown: {2 * LAYERS} modules whose change is no weight update" in figure.caption
    with pytest.raises(RankLabError, match="no module of these runs"):
        functional_weights(*rows(report("prefix", "layer")), K90)


def test_wrong_choices_name_what_there_is() -> None:
    found = rows(report("lora"))
    with pytest.raises(RankLabError, match=r"no functional rank. Nearest: energy_rank_9"):
        functional_depth(*found, "energy_rank_9")
    with pytest.raises(RankLabError, match="nearest: down"):
        functional_depth(*found, K90, scope="module", kind="dwn")
    with pytest.raises(RankLabError, match="no functional ranks of scope 'module'"):
        functional_depth(*rows(report("prefix", "layer")), K90, scope="module")


def test_the_last_step_of_a_run_is_shown() -> None:
    early, late = report("lora", step=5), report("lora", step=20)
    both = FunctionalReport(
        *(pd.concat([getattr(each, name) for each in (early, late)]) for name in ("ranks", "changes", "coverage")),
        provenance=late.provenance,
    )
    assert set(rows(both, report("full", step=None))[0]["step"].dropna()) == {20}
    assert set(by_kind(both.ranks, both.changes)["step"]) == {5, 20}


def test_captions_tell_probes_of_the_same_size_apart() -> None:
    given = {"a": report("a", texts="1111222233"), "b": report("b", texts="4444555566")}
    view = functional_depth(*rows(*given.values()), K90)
    weights = functional_weights(*rows(*given.values()), K90)
    (table,) = functional_tables_tex(given)
    counts = "20 texts, 500 tokens"
    told = f"probe of a: probe.jsonl (sha256 11112222, {counts}); of b: probe.jsonl (sha256 44445555, {counts})"
    for caption in (functional_depth_plot(view).caption, functional_weight_plot(weights).caption, table.caption):
        assert told in caption
        assert "measured on different texts: their values do not compare" in caption
        assert "different bases" not in caption


def test_a_renamed_file_is_the_same_probe_and_another_base_is_told() -> None:
    moved = report("b")
    about = dict(moved.provenance) | {"base": {"source": "/nowhere/other", "sha256": "1"}}
    about["texts"] = dict(about["texts"]) | {"file": "/nowhere/renamed.jsonl"}
    moved = FunctionalReport(moved.ranks, moved.changes, moved.coverage, about)
    found = functional_depth_plot(functional_depth(*rows(report("a"), moved), K90)).caption
    assert "of b: renamed.jsonl (sha256 a," in found
    assert "different texts" not in found
    assert "measured against different bases: their values do not compare" in found


def test_the_tokens_tell_a_probe_apart_where_they_are_known() -> None:
    cut = report("a")
    cut.provenance["texts"]["tokens_sha256"] = "c0ffee0011"
    assert cut.probe == "probe.jsonl (sha256 c0ffee00, 20 texts, 500 tokens)"


def test_the_same_texts_in_inputs_of_other_lengths_say_how_they_would_compare() -> None:
    """A prefix takes places of the context: by default its inputs are shorter than those of other methods."""
    lora, prefix = report("lora"), report("prefix", "layer")
    lora.provenance["texts"].update(tokens_sha256="1", context=128)
    prefix.provenance["texts"].update(tokens_sha256="2", context=108)
    told = "same texts in inputs of at most 108 and 128 tokens: their values compare once all are measured with"
    (warning,) = functional_choices({"lora": lora, "prefix": prefix}).warnings
    (table,) = functional_tables_tex({"lora": lora, "prefix": prefix})
    caption = functional_depth_plot(functional_depth(*rows(lora, prefix), K90)).caption
    for text in (warning, caption, table.caption):
        assert f"Runs got the {told} --max-length 108." in text.replace("-{}-", "--").replace("{}", "")
    prefix.provenance["texts"].update(context=128)
    assert "different tokens of the same texts" in functional_choices({"a": lora, "b": prefix}).warnings[0]


@pytest.mark.parametrize("style", STYLES)
def test_names_from_files_are_no_markup(style: str) -> None:
    given = renamed(report("lora", open_above=True), HOSTILE)
    found = rows(given)
    for figure in (
        functional_depth_plot(functional_depth(*found, K90, scope="module"), style),  # type: ignore[arg-type]
        functional_weight_plot(functional_weights(*found, K90), style),  # type: ignore[arg-type]
    ):
        assert is_safe(figure.plot)
        assert any("&lt;b&gt;" in text for text in texts(figure.plot))


def test_a_study_offers_a_figure_a_kind(tmp_path: Path) -> None:
    found = {each.name: each for each in study_figures(Study(made(tmp_path)))}
    names = {"functional-ranks-layer", "functional-ranks-q", "functional-ranks-down", "functional-against-weight"}
    assert names <= set(found)
    for name in names:
        assert len(found[name].draw("paper").plot.data) > 1


def test_runs_of_other_texts_are_told() -> None:
    same = functional_choices({"a": report("a"), "b": report("b", "layer")})
    assert not same.warnings
    assert list(same.kinds) == ["layer", "module", "weighted"]
    assert same.kinds["module"] == ("q", "down")
    assert same.has_weights
    assert list(same.left_out["module"]) == ["lm_head", "lm_head"]
    other = functional_choices({"a": report("a"), "b": report("b", texts="other", warnings=("few texts",))})
    assert "measured on different texts" in other.warnings[0]
    assert other.warnings[1].startswith("few texts (")


def test_weighted_ranks_are_told_where_they_are_others() -> None:
    given = report("lora")
    assert set(told_once(by_kind(given.ranks, given.changes))["scope"]) == {"layer", "module"}
    biased = given.ranks["value"].where(given.ranks["scope"] != "weighted", given.ranks["value"] - 1)
    other = by_kind(given.ranks.assign(value=biased), given.changes)
    assert set(told_once(other)["scope"]) == {"layer", "module", "weighted"}
