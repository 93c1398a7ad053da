"""Figures of ranks and spectra show the numbers of their tables: told from the traces, in every style."""

import re
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from rank_lab import figures
from rank_lab.coverage_overview import coverage_overview
from rank_lab.depth_table import depth_table
from rank_lab.errors import RankLabError
from rank_lab.figures import (
    STYLES,
    Figure,
    Style,
    method_against_method,
    noise_and_coverage,
    rank_along_depth,
    rank_along_training,
    rank_by_kind,
    spectrum,
    spectrum_bands_plot,
)
from rank_lab.figures.style import palette
from rank_lab.kind_table import kind_table
from rank_lab.run_comparison import run_comparison
from rank_lab.spectrum_bands import SpectrumBands, spectrum_bands
from rank_lab.spectrum_curve import SpectrumCurve, spectrum_curve
from rank_lab.training_table import training_table
from tests.figure_studies import frame, noisy, row, tensor

DECAY = 1.0 / np.arange(1, 65)
ONES = np.ones(8)
EVIL = "<b>evil</b>$x$"
DENOISED = {"effective_rank_denoised": 3.0, "effective_rank_denoised_low": 2.0, "effective_rank_denoised_high": 5.0}


def of_rank(rank: int) -> np.ndarray:
    return np.concatenate([np.ones(rank), np.zeros(8 - rank)])


def updates(run: str = "full", other: str = "lora") -> pd.DataFrame:
    return frame(
        *(row(of_rank(1 + layer), run=run, layer=layer, kind=kind) for layer in range(4) for kind in ("q", "up")),
        *(row(of_rank(5), run=other, layer=layer, kind=kind) for layer in range(4) for kind in ("q", "up")),
        noisy(ONES, "unresolved", run=run, layer=0, kind="o"), row(of_rank(7), run=run, layer=1, kind="o"),
        row(of_rank(7), run=other, layer=0, kind="o"), row(of_rank(7), run=other, layer=1, kind="o"),
        row(np.zeros(8), run=run, layer=0, kind="k"), row(of_rank(2), run=run, layer=None, kind="embed"),
        *(row(of_rank(2), run=run, step=20, layer=layer) for layer in range(4)),
    )  # fmt: skip


def coverage(run: str = "full") -> pd.DataFrame:
    return pd.DataFrame(
        [
            tensor(run, 10, "a", "analysed"), tensor(run, 10, "b", "vector", change_share=0.1),
            tensor(run, 10, "c", "skipped", reason=f"{EVIL} is a buffer"),
            tensor(run, 10, "d", "skipped", reason="NaN", failed=True),
        ]
    )  # fmt: skip


def first_step(run: str = "full", other: str = "lora") -> pd.DataFrame:
    rows = updates(run, other)
    return rows[rows["step"] == 10]


def of_run(run: str = "full") -> pd.DataFrame:
    return first_step(run)[first_step(run)["run"] == run]


def a_curve(**changes: object) -> SpectrumCurve:
    return spectrum_curve(frame(row(DECAY, **changes)), DECAY)


def the_bands(run: str = "full") -> SpectrumBands:
    rows = frame(*(row(DECAY ** (1 + layer / 4), run=run, layer=layer) for layer in range(5)))
    spectra = {f"layers.{layer}.q_proj": DECAY ** (1 + layer / 4) for layer in range(5)}
    return spectrum_bands(rows, spectra, highlight=["layers.3.q_proj"])


MAKERS: dict[str, Callable[[Style, str], Figure]] = {
    "spectrum": lambda style, run: spectrum([a_curve(run=run, noise_edge=0.1), a_curve(run="b")], style),
    "spectrum_bands": lambda style, run: spectrum_bands_plot(the_bands(run), style),
    "rank_along_depth": lambda style, run: rank_along_depth(depth_table(of_run(run), "effective_rank"), style),
    "rank_along_training": lambda style, run: rank_along_training(
        training_table(updates(run), "effective_rank"), style
    ),
    "method_against_method": lambda style, run: method_against_method(
        run_comparison(updates(run), [(run, 10), ("lora", 10)], "effective_rank"), style
    ),
    "rank_by_kind": lambda style, run: rank_by_kind(
        kind_table(updates(run), [(run, 10), ("lora", 10)], "effective_rank"), style
    ),
    "noise_and_coverage": lambda style, run: noise_and_coverage(coverage_overview(updates(run), coverage(run)), style),
}


def traces(figure: Figure, name: str) -> list:
    return [trace for trace in figure.plot.data if trace.name == name]


def shown_texts(figure: Figure) -> list[str]:
    """All that a browser would render."""
    found = [figure.plot.layout.title.text or ""]
    for axis in [*figure.plot.select_xaxes(), *figure.plot.select_yaxes()]:
        found += [axis.title.text or "", *(axis.ticktext or ()), *(axis.categoryarray or ())]
    for trace in figure.plot.data:
        hover = trace.hovertext if trace.hovertext is not None else ()
        found += [trace.name or "", trace.hovertemplate or "", *([hover] if isinstance(hover, str) else hover)]
        found += list(getattr(trace, "text", None) or ())
        if trace.type == "bar":
            found += list(trace.y)
    return [str(text) for text in found]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", MAKERS)
def test_every_figure_has_all_that_belongs_to_it(name: str, style: Style) -> None:
    figure = MAKERS[name](style, "full")
    assert figure.name == name
    assert re.fullmatch(r"[\w-]+", figure.name)
    assert len(figure.data)
    assert re.search(r"n = \d+", figure.caption)
    assert "Data: " in figure.caption
    assert figure.plot.layout.paper_bgcolor == palette(style).background
    assert (figure.plot.layout.title.text is None) == (style == "paper")
    assert {trace.type for trace in figure.plot.data} <= {"scatter", "bar"}
    titles = [axis.title.text for axis in figure.plot.select_xaxes()]
    assert any(titles)
    figure.data.to_csv()


@pytest.mark.parametrize("name", MAKERS)
def test_names_from_files_are_no_markup(name: str) -> None:
    figure = MAKERS[name]("light", EVIL)
    texts = shown_texts(figure)
    assert not [text for text in texts if "<b>" in text or "$" in text]
    assert any("&lt;b&gt;evil&lt;/b&gt;" in text for text in texts)
    assert EVIL in figure.data.to_csv()  # as it is, for those who look it up
    assert "&lt;" not in figure.caption  # plain text, not markup


def test_all_figures_are_public() -> None:
    assert set(MAKERS) - {"spectrum_bands"} <= set(figures.__all__)
    assert "spectrum_bands_plot" in figures.__all__
    assert all(hasattr(figures, name) for name in figures.__all__)


def test_depth_draws_values_and_signs_what_is_not_there() -> None:
    figure = rank_along_depth(depth_table(of_run(), "effective_rank"))
    (q,) = traces(figure, "q")
    assert list(q.x) == [0, 1, 2, 3]
    assert list(q.y) == pytest.approx([1, 2, 3, 4])
    (o,) = traces(figure, "o")
    assert np.isnan(o.y[0])
    assert o.y[1] == pytest.approx(7)
    assert o.connectgaps is False
    signs = {tuple(trace.text): list(trace.x) for trace in figure.plot.data if trace.meta and "signs" in trace.meta}
    assert signs == {(" ?",): [0], (" 0",): [0]}
    assert figure.plot.layout.yaxis.title.text == "erank"
    assert figure.plot.layout.xaxis.title.text == "layer"
    for part in ("?: hidden", "0: the update is exactly zero", "1 matrix outside of the layers", "n = 11 matrices"):
        assert part in figure.caption
    (null,) = traces(figure, "null")
    assert set(null.meta["null_of"]) == {"q", "k", "o", "up"}
    assert null.line.color == palette("light").null


def test_depth_shows_intervals_and_zero_as_an_open_symbol() -> None:
    rows = frame(noisy(ONES, "partial", rank_above_rounding=3.0, **DENOISED), row(of_rank(3), layer=1))
    (line,) = traces(rank_along_depth(depth_table(rows, "effective_rank")), "q")
    assert line.error_y.array[0] == pytest.approx(2)
    assert line.error_y.arrayminus[0] == pytest.approx(1)
    assert np.isnan(line.error_y.array[1])
    counted = rank_along_depth(depth_table(frame(row(ONES), row(np.zeros(8), layer=1)), "energy_rank_90"))
    (line,) = traces(counted, "q")
    assert list(line.y) == [8, 0]
    assert [symbol.endswith("-open") for symbol in line.marker.symbol] == [False, True]
    assert "Open symbol" in counted.caption


def test_depth_of_runs_is_a_line_a_run() -> None:
    figure = rank_along_depth(depth_table(first_step(), "effective_rank", over="bound", kinds=["q"]))
    (lora,) = traces(figure, "lora")
    assert list(lora.y) == pytest.approx([5 / 8] * 4)
    assert figure.plot.layout.yaxis.title.text == "erank / bound"
    assert "largest rank that shape and factors allow" in figure.caption


def test_training_draws_medians_quartiles_and_nulls() -> None:
    rows = updates()
    figure = rank_along_training(training_table(rows[rows["kind"] == "q"], "effective_rank"))
    line = next(trace for trace in traces(figure, "full") if trace.mode == "lines+markers")
    assert list(line.x) == [10, 20]
    assert list(line.y) == pytest.approx([2.5, 2])
    band = next(trace for trace in traces(figure, "full") if trace.meta and "quartiles" in trace.meta)
    assert list(band.x) == [10, 20, 20, 10]
    assert list(band.y) == pytest.approx([3.25, 2, 2, 1.75])
    assert traces(figure, "null")
    assert figure.plot.layout.xaxis.title.text == "optimizer step"
    assert "medians over matrices; bands: their quartiles" in figure.caption


def test_training_opens_symbols_where_rounding_rules_and_signs_what_is_hidden() -> None:
    rows = frame(
        *(noisy(ONES, "unresolved", step=10, layer=layer) for layer in range(2)),
        row(ONES, step=20),
        noisy(ONES, "unresolved", step=20, layer=1), row(ONES, step=30), row(ONES, step=30, layer=1),
    )  # fmt: skip
    figure = rank_along_training(training_table(rows, "effective_rank"))
    line = next(trace for trace in figure.plot.data if trace.mode == "lines+markers")
    assert [symbol.endswith("-open") for symbol in line.marker.symbol] == [True, True, False]
    assert np.isnan(line.y[0])
    (signs,) = (trace for trace in figure.plot.data if trace.meta and "signs" in trace.meta)
    assert (list(signs.x), list(signs.text)) == ([10], [" ?"])
    assert "3 values hidden by the rounding" in figure.caption


def test_a_logarithmic_axis_of_steps_has_no_step_zero() -> None:
    rows = frame(*(row(of_rank(3), step=step) for step in (0, 1, 10, 100)))
    table = training_table(rows, "effective_rank")
    line = next(trace for trace in rank_along_training(table).plot.data if trace.mode == "lines+markers")
    assert list(line.x) == [0, 1, 10, 100]
    figure = rank_along_training(table, log_steps=True)
    line = next(trace for trace in figure.plot.data if trace.mode == "lines+markers")
    assert list(line.x) == [1, 10, 100]
    assert figure.plot.layout.xaxis.type == "log"
    assert "1 point" in figure.caption
    assert 0 in set(figure.data["step"])


def test_many_lines_have_no_bands_but_their_quartiles_in_the_data() -> None:
    rows = frame(
        *(row(of_rank(1 + layer), kind=kind, layer=layer) for kind in ("q", "k", "v", "o") for layer in (0, 1))
    )
    figure = rank_along_training(training_table(rows, "effective_rank", by="kind"))
    assert not [trace for trace in figure.plot.data if trace.meta and "quartiles" in trace.meta]
    assert figure.data["upper"].notna().all()
    assert "quartiles are in the data" in figure.caption


def test_pairs_are_drawn_at_both_values_and_the_rest_is_counted() -> None:
    comparison = run_comparison(updates(), [("full", 10), ("lora", 10)], "effective_rank")
    figure = method_against_method(comparison)
    (q,) = traces(figure, "q")
    assert list(q.x) == pytest.approx([1, 2, 3, 4])
    assert list(q.y) == pytest.approx([5] * 4)
    (o,) = traces(figure, "o")
    assert (list(o.x), list(o.y)) == ([pytest.approx(7)], [pytest.approx(7)])
    (equal,) = traces(figure, "equal")
    assert list(equal.x) == list(equal.y)
    (null,) = traces(figure, "null")
    assert len(null.x) == 1
    layout = figure.plot.layout
    assert (layout.xaxis.title.text, layout.yaxis.title.text) == ("erank, full", "erank, lora")
    assert "n = 9 modules that both have" in figure.caption
    assert "1 module not drawn: unresolved and value" in figure.caption
    assert "2 modules of run full, step 10" in figure.caption
    assert len(figure.data) == 12


def test_the_third_run_can_be_put_against_the_first() -> None:
    comparison = run_comparison(updates(), [("full", 10), ("lora", 10), ("full", 20)], "effective_rank")
    figure = method_against_method(comparison, other=3, log=True)
    (q,) = traces(figure, "q")
    assert list(q.y) == pytest.approx([2] * 4)
    assert figure.plot.layout.yaxis.title.text == "erank, full, step 20"
    assert figure.plot.layout.xaxis.type == "log"
    with pytest.raises(RankLabError, match="run number 4"):
        method_against_method(comparison, other=4)


def test_runs_that_pair_in_full_have_nothing_to_count() -> None:
    rows = frame(row(ONES), row(ONES, run="b"))
    figure = method_against_method(run_comparison(rows, [("full", 10), ("b", 10)], "effective_rank"))
    assert "Not in all" not in figure.caption
    assert len(figure.data) == 1


def test_nothing_in_common_is_an_empty_plot() -> None:
    rows = frame(row(ONES), row(ONES, run="b", layer=5))
    figure = method_against_method(run_comparison(rows, [("full", 10), ("b", 10)], "effective_rank"))
    assert "n = 0 modules" in figure.caption
    assert len(figure.data) == 2


def test_kinds_have_boxes_medians_and_every_matrix() -> None:
    figure = rank_by_kind(kind_table(updates(), [("full", 10), ("lora", 10)], "effective_rank"))
    full = {trace.meta["part"]: trace for trace in traces(figure, "full")}
    assert full["median"].y[0] == pytest.approx(2.5)
    assert sorted({round(y, 9) for y in full["box"].y if y is not None}) == [1.75, 3.25]
    assert {round(y, 9) for y in full["whiskers"].y if y is not None} == {1, 1.75, 3.25, 4}
    assert len(full["matrices"].y) == 10
    axis = figure.plot.layout.xaxis
    assert list(axis.ticktext) == ["q", "k", "o", "up", "embed"]
    assert max(full["matrices"].x) == pytest.approx(axis.tickvals[-1] - 0.2)
    for x, kind in zip(full["median"].x, ["q", "o", "up", "embed"], strict=True):
        assert round(x + 0.2) == list(axis.ticktext).index(kind)
    assert traces(figure, "null")
    assert "1 matrix hidden by the rounding" in figure.caption
    assert "1 matrix without any change" in figure.caption


def test_very_many_matrices_are_boxes_alone() -> None:
    one = row(of_rank(3))
    rows = frame(*({**one, "module": str(number)} for number in range(3001)))
    figure = rank_by_kind(kind_table(rows, [("full", 10)], "effective_rank"))
    full = {trace.meta["part"]: trace for trace in traces(figure, "full")}
    assert list(full["matrices"].y) == [None]
    assert "symbols" not in figure.caption
    assert len(figure.data) == 3001


def test_coverage_and_regimes_are_stacked_to_the_whole() -> None:
    figure = noise_and_coverage(coverage_overview(updates(), coverage()))
    bars = {(trace.meta["panel"], trace.name): trace for trace in figure.plot.data}
    assert bars["tensors", "analysed"].x[0] == pytest.approx(0.25)
    assert bars["tensors", "failed"].x[0] == pytest.approx(0.25)
    assert bars["tensors", "failed"].marker.color == palette("light").edge
    totals = pd.DataFrame(
        [(panel, place, share) for (panel, _), bar in bars.items() for place, share in zip(bar.y, bar.x, strict=True)]
    ).groupby([0, 1])[2].sum()  # fmt: skip
    assert totals.to_numpy() == pytest.approx(np.ones(len(totals)))
    assert list(figure.plot.layout.yaxis.categoryarray) == ["full, step 20", "lora, step 10", "full, step 10"]
    assert len({(bar.marker.color, bar.marker.pattern.shape) for bar in bars.values()}) == len(bars)
    reasons = figure.data[figure.data["shown"] == "reason"]
    assert set(reasons["reason"]) == {f"{EVIL} is a buffer", "NaN"}
    assert "To be mended: 1 tensor" in figure.caption
