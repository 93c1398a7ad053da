"""The map of a model: every matrix in its cell, and none twice."""

import numpy as np
import pandas as pd
import pytest

from rank_lab.errors import RankLabError
from rank_lab.figures import layer_map
from rank_lab.figures.layer_map import CLICKED
from rank_lab.figures.style import STYLES, Style, palette
from rank_lab.layer_table import NO_LAYER, layer_table
from tests.figure_studies import frame, noisy, row

VALUES = np.linspace(1.0, 0.2, 12)
EVIL = "<b>evil</b>$x$.q_proj"


def mixed() -> pd.DataFrame:
    return frame(
        row(VALUES, layer=None, kind="embed"), row(VALUES, layer=10, kind="up"), row(VALUES, layer=2, kind="q"),
        noisy(VALUES, "unresolved", layer=10, kind="q"), row(np.zeros(12), layer=2, kind="up"),
        row(VALUES, layer=0, kind="q", noise_regime=None, effective_rank=None), row(VALUES, layer=1, module=EVIL),
    )  # fmt: skip


def test_layers_are_in_order_and_kinds_too() -> None:
    table = layer_table(mixed(), "effective_rank")
    assert table.columns == (NO_LAYER, "0", "1", "2", "10")
    assert table.rows == ("q", "up", "embed")
    assert (table.run, table.step, table.delta) == ("full", 10, "cumulative")
    assert len(table.cells) == 7


def test_a_step_that_nothing_says_is_none() -> None:
    assert layer_table(frame(row(VALUES, step=None)), "effective_rank").step is None


def test_experts_share_a_cell_and_show_the_median_of_what_is_known() -> None:
    values = [np.concatenate([np.ones(rank), np.zeros(8 - rank)]) for rank in (2, 4, 8)]
    rows = frame(
        *(row(one, expert=number, module=f"experts.{number}", kind="up") for number, one in enumerate(values)),
        noisy(values[2], "unresolved", expert=3, module="experts.3", kind="up"),
    )
    (cell,) = layer_table(rows, "effective_rank").cells.to_dict("records")
    assert cell["value"] == pytest.approx(4)
    assert (cell["matrices"], cell["known"], cell["state"], cell["noise_regime"]) == (4, 3, "value", "mixed")
    assert cell["modules"] == tuple(f"experts.{number}" for number in range(4))
    assert np.isnan(cell["low"])


def test_experts_that_are_all_hidden_have_no_value() -> None:
    rows = frame(*(noisy(VALUES, "unresolved", expert=number, module=str(number)) for number in range(2)))
    (cell,) = layer_table(rows, "effective_rank").cells.to_dict("records")
    assert cell["state"] == "unresolved"
    assert np.isnan(cell["value"])


def test_stacks_are_named_where_there_are_several() -> None:
    both = frame(row(VALUES, stack="encoder", module="e"), row(VALUES, stack="decoder", module="d"))
    assert layer_table(both, "effective_rank").rows == ("decoder: q", "encoder: q")
    with_embedding = frame(row(VALUES, stack="model.layers"), row(VALUES, layer=None, kind="embed", stack=""))
    assert layer_table(with_embedding, "effective_rank").rows == ("q", "embed")


def test_modules_of_one_kind_in_one_layer_have_rows_of_their_own() -> None:
    rows = frame(
        row(VALUES, module="l.0.other_a", kind="other"), row(VALUES, module="l.0.other_b", kind="other"),
        row(VALUES, module="l.0.q_proj"),
    )  # fmt: skip
    assert layer_table(rows, "effective_rank").rows == ("q", "other (other_a)", "other (other_b)")


def test_a_map_refuses_several_steps_and_a_delta_that_is_not_there() -> None:
    with pytest.raises(RankLabError, match="these rows are of 2"):
        layer_table(frame(row(VALUES), row(VALUES, step=20)), "effective_rank")
    with pytest.raises(RankLabError, match="no matrices with delta 'step'"):
        layer_table(frame(row(VALUES)), "effective_rank", delta="step")


@pytest.mark.parametrize("style", STYLES)
def test_the_map_draws_values_as_colours_and_the_rest_as_signs(style: Style) -> None:
    plot = layer_map(layer_table(mixed(), "effective_rank"), style).plot
    heat = plot.data[0]
    assert list(heat.x) == [NO_LAYER, "0", "1", "2", "10"]
    drawn = {(row_, column): value for row_, line in zip(heat.y, heat.z, strict=True)
             for column, value in zip(heat.x, line, strict=True) if value is not None}  # fmt: skip
    assert set(drawn) == {("embed", NO_LAYER), ("up", "10"), ("q", "2"), ("q", "1")}
    assert drawn["q", "2"] == pytest.approx(mixed().iloc[2]["effective_rank"])
    signs = {trace.text[0]: (list(trace.x), list(trace.y), trace.marker.color) for trace in plot.data if trace.text}
    assert signs["?"][:2] == (["10"], ["q"])
    assert signs["0"][:2] == (["2"], ["up"])
    assert signs["–"][:2] == (["0"], ["q"])
    assert {color for _, _, color in signs.values()} == {palette(style).empty}


def test_a_click_finds_the_matrix_in_every_cell() -> None:
    table = layer_table(mixed(), "effective_rank")
    squares = next(trace for trace in layer_map(table).plot.data if trace.name == CLICKED)
    found = {(one[0], one[1]): one[2] for one in squares.customdata}
    assert found["q", "1"] == EVIL
    assert found["embed", NO_LAYER] == "embed"
    assert len(found) == 7


def test_names_from_files_are_no_markup_on_the_map() -> None:
    evil = frame(row(VALUES, module=EVIL, run="<i>run</i>"), row(VALUES, module="other$y$", layer=0, run="<i>run</i>"))
    figure = layer_map(layer_table(evil, "effective_rank"), "light")
    shown = [figure.plot.layout.title.text, *figure.plot.layout.yaxis.ticktext]
    shown += [text for trace in figure.plot.data if trace.name == CLICKED for text in trace.hovertext]
    for text in shown:
        assert "<b>" not in text
        assert "<i>" not in text
        assert "$" not in text
    assert any("&lt;b&gt;evil&lt;/b&gt;" in text for text in shown)
    assert set(figure.data["modules"]) == {EVIL, "other$y$"}  # as it is, for those who look it up


def test_no_layer_has_a_column_that_says_so() -> None:
    axis = layer_map(layer_table(mixed(), "effective_rank")).plot.layout.xaxis
    assert dict(zip(axis.tickvals, axis.ticktext, strict=True))[NO_LAYER] == "no<br>layer"


def test_the_caption_says_what_how_many_and_what_the_signs_mean() -> None:
    figure = layer_map(layer_table(mixed(), "effective_rank", over="null"))
    for part in (
        "divided by what white noise",
        "entropy",
        "run full, step 10",
        "n = 7 matrices",
        "0:",
        "?:",
        "–:",
        "Blank",
    ):
        assert part in figure.caption
    plain = layer_map(layer_table(frame(row(VALUES)), "effective_rank"))
    for part in ("0:", "?:", "–:", "blank"):
        assert part not in plain.caption
    assert figure.metrics == ("effective_rank",)
    assert figure.data["value"].notna().sum() == 4


def test_every_layer_of_a_deep_model_is_drawn_and_some_are_labelled() -> None:
    rows = frame(*(row(VALUES, layer=layer) for layer in range(96)))
    plot = layer_map(layer_table(rows, "effective_rank")).plot
    assert len(plot.data[0].x) == 96
    assert len(plot.layout.xaxis.tickvals) <= 24


def test_hover_tells_value_interval_and_null() -> None:
    measured = {"effective_rank_denoised": 3.0, "effective_rank_denoised_low": 2.0, "effective_rank_denoised_high": 4.0}
    rows = frame(noisy(VALUES, "partial", rank_above_rounding=5.0, **measured), row(np.zeros(12), layer=1))
    squares = next(trace for trace in layer_map(layer_table(rows, "effective_rank")).plot.data if trace.name == CLICKED)
    assert "erank: 3 (2 to 4)" in squares.hovertext[0]
    assert "null: " in squares.hovertext[0]
    assert "rounding: partial" in squares.hovertext[0]
    assert "erank: zero" in squares.hovertext[1]
