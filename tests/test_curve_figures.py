"""What figures of an Algorithm-1 curve draw: traces, bars, knees, controls, gates."""

import math
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

from rank_lab.curve_points import CURVE_AXES, curve_points
from rank_lab.errors import RankLabError
from rank_lab.figures import STYLES, gate_map, gates_over_stages, memorization_curve
from rank_lab.figures.cell_map import CELLS, TEXTS
from rank_lab.figures.memorization_curve import CONTROLS
from rank_lab.gate_tables import gate_table, gates_along_stages
from rank_lab.uncertainty import student_interval
from tests.curve_rows import MODULES, curve, knee, row
from tests.figure_texts import HOSTILE, is_safe, texts


def traces(plot: go.Figure, **wanted: Any) -> list[Any]:
    return [each for each in plot.data if all(getattr(each, name) == value for name, value in wanted.items())]


def stages(plot: go.Figure, measure: str) -> Any:
    return next(each for each in plot.data if each.legendgroup == "sora" and each.meta == measure)


def test_one_seed_is_drawn_with_the_intervals_of_its_rows(tmp_path: Path) -> None:
    rows = [row(stage) for stage in (2, 0, 1)]
    figure = memorization_curve(curve_points(curve(tmp_path, rows)))
    drawn = stages(figure.plot, "memorization")
    assert list(drawn.x) == [400, 600, 800]
    assert list(drawn.y) == [98.0, 99.0, 100.0]
    assert list(drawn.error_y.array) == [3.0] * 3
    assert list(drawn.error_y.arrayminus) == [2.0] * 3
    assert list(stages(figure.plot, "generalization").y) == [92.0, 91.0, 90.0]
    assert list(stages(figure.plot, "generalization").error_y.array) == [None] * 3
    assert "A point without a bar has no interval" in figure.caption
    assert "paired bootstrap over examples" in figure.caption
    assert "n = 50 training and 20 validation examples, 3 stages" in figure.caption
    assert len(figure.data) == 3


def test_both_panels_share_the_axis_that_is_named(tmp_path: Path) -> None:
    figure = memorization_curve(curve_points(curve(tmp_path, [row(0)])))
    assert stages(figure.plot, "memorization").yaxis == "y"
    assert stages(figure.plot, "generalization").yaxis == "y2"
    assert figure.plot.layout.xaxis.title.text == "non-zero parameters"
    assert figure.plot.layout.yaxis.domain[0] > figure.plot.layout.yaxis2.domain[1]


def test_several_seeds_are_their_mean_with_students_interval(tmp_path: Path) -> None:
    rows = [row(1, seed=seed, memorization=value) for seed, value in enumerate((90.0, 91.0, 95.0))]
    rows = [*rows, row(2, seed=0, memorization=80.0)]
    figure = memorization_curve(curve_points(curve(tmp_path, rows)))
    drawn = stages(figure.plot, "memorization")
    mean, low, high = student_interval([90.0, 91.0, 95.0])
    assert list(drawn.y) == [80.0, mean]
    assert drawn.error_y.array[0] is None  # one seed says nothing of others
    assert drawn.error_y.array[1] == pytest.approx(high - mean)
    assert drawn.error_y.arrayminus[1] == pytest.approx(mean - low)
    assert "Student's 95 % interval over seeds" in figure.caption
    (each,) = [line for line in traces(figure.plot, name="each seed") if line.meta == "memorization"]
    assert list(each.y) == [80.0, 90.0, None, 91.0, None, 95.0, None]
    alone = memorization_curve(curve_points(curve(tmp_path, rows), seed=1))
    assert list(stages(alone.plot, "memorization").y) == [91.0]
    assert "seed 1" in alone.caption


def test_controls_are_other_marks_of_their_own(tmp_path: Path) -> None:
    rows = [row(0), row(1), *(row(1, control=name, threshold=None) for name in (*CONTROLS, "of a newer version"))]
    figure = memorization_curve(curve_points(curve(tmp_path, rows)))
    controls = [each for each in figure.plot.data if each.meta == "memorization" and each.legendgroup != "sora"]
    assert {each.name for each in controls} == {*CONTROLS.values(), "of a newer version"}
    looks = {(each.marker.color, each.marker.symbol) for each in controls}
    assert len(looks) == len(controls)
    assert all(CONTROLS[name][1:] in figure.caption for name in CONTROLS)  # a sentence begins with a capital


def test_rows_without_a_threshold_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [row(0), row(1), row(1, control="svd", threshold=None)]
    figure = memorization_curve(curve_points(curve(tmp_path, rows), "threshold"))
    assert not traces(figure.plot, name=CONTROLS["svd"])
    assert "1 rows have no threshold" in figure.caption


def test_stages_that_did_not_converge_are_hollow(tmp_path: Path) -> None:
    rows = [row(0, stop="max_steps", converged=False), row(1), row(2, stop="not_trained", converged=None)]
    drawn = stages(memorization_curve(curve_points(curve(tmp_path, rows), "threshold")).plot, "memorization")
    assert [symbol.endswith("-open") for symbol in drawn.marker.symbol] == [True, False, False]


def test_the_knee_is_on_the_axis_that_is_shown(tmp_path: Path) -> None:
    knees = [
        knee("threshold", 0.75, 0.5, 1.0), knee("sparsity", 0.25, 0.125, 0.5),
        knee("sparsity", None, None, None, curve="generalization"), knee("sparsity", 0.9, 0.8, 1.0, seed=None),
    ]  # fmt: skip
    found = curve(tmp_path, [row(stage) for stage in range(4)], knees)
    plot = memorization_curve(curve_points(found, "threshold")).plot
    shapes = {shape.name: (shape.x0, shape.x1) for shape in plot.layout.shapes}
    assert shapes == {"knee interval memorization": (0.5, 1.0), "knee memorization": (0.75, 0.75)}
    figure = memorization_curve(curve_points(found))
    shapes = {shape.name: (shape.x0, shape.x1) for shape in figure.plot.layout.shapes}
    assert shapes == {"knee interval memorization": (400.0, 700.0), "knee memorization": (600.0, 600.0)}
    assert "Knee of memorization, dashed with its interval as a band: 600 (400 to 700)" in figure.caption
    assert "Knee of generalization: none (flat within its noise)" in figure.caption


def test_a_run_that_goes_on_has_no_knee_yet(tmp_path: Path) -> None:
    found = curve(tmp_path, [row(0)], [knee("sparsity", 0.25, 0.1, 0.4)])
    figure = memorization_curve(curve_points(curve(tmp_path, [*found.records, row(1)])))  # a row since the knees
    assert not figure.plot.layout.shapes
    assert "No knee is known" in figure.caption


def test_a_knee_of_seeds_that_differ_in_size_is_told_as_a_share(tmp_path: Path) -> None:
    rows = [row(0, seed=0), row(0, seed=1, nonzero_parameters=900)]
    points = curve_points(curve(tmp_path, rows, [knee("sparsity", 0.25, 0.1, 0.4, seed=None)]))
    assert math.isnan(points.knees.iloc[0]["value"])
    assert "25.0%" in points.knees.iloc[0]["reason"]


def test_thresholds_over_decades_have_a_logarithmic_axis_with_room_for_zero(tmp_path: Path) -> None:
    rows = [row(stage, threshold=value) for stage, value in enumerate((0.0, 1e-4, 1e-3, 1e-2))]
    figure = memorization_curve(curve_points(curve(tmp_path, rows), "threshold"))
    assert list(stages(figure.plot, "memorization").x) == pytest.approx([-5.0, -4.0, -3.0, -2.0])
    assert list(figure.plot.layout.xaxis.ticktext) == ["0", "0.0001", "0.001", "0.01"]
    assert "logarithmic above λ = 0.0001" in figure.caption


def test_warnings_are_told_and_names_are_text(tmp_path: Path) -> None:
    rows = [row(stage, model=HOSTILE, warning=f"reason {stage}") for stage in range(4)]
    control = HOSTILE.translate({ord(sign): "" for sign in "/\\"})  # it names a folder, too
    rows += [row(4, control=control, model=HOSTILE, warning="reason 4"), row(5, model=HOSTILE, warning="reason 5")]
    figure = memorization_curve(curve_points(curve(tmp_path, rows)))
    assert "Warning: seed 0, sora, stage 1: reason 1" in figure.caption
    assert "1 more warnings" in figure.caption
    assert is_safe(figure.plot)
    assert any("&lt;b&gt;x" in text for text in texts(figure.plot))


def test_curves_without_what_is_asked_for_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RankLabError, match="no stage is done yet"):
        curve_points(curve(tmp_path, []))
    with pytest.raises(RankLabError, match="no row of seed 3; it has 0"):
        curve_points(curve(tmp_path, [row(0)]), seed=3)
    with pytest.raises(RankLabError, match="draw the curve over nonzero_parameters"):
        curve_points(curve(tmp_path, [row(0, threshold=None)]), "threshold")
    with pytest.raises(RankLabError, match="expected one of nonzero_parameters, threshold"):
        curve_points(curve(tmp_path, [row(0)]), "steps")  # type: ignore[arg-type]


def heat(plot: go.Figure) -> dict[tuple[str, str], Any]:
    found = plot.data[0]
    return {(y, x): found.z[i][j] for i, y in enumerate(found.y) for j, x in enumerate(found.x)}


def test_gates_by_layer_and_kind(tmp_path: Path) -> None:
    counts = dict(zip(MODULES, (5, 0, 3), strict=True))
    rows = [row(0), row(1, nonzero_by_module=counts, nonzero_gates=8)]
    figure = gate_map(gate_table(curve(tmp_path, rows)))
    assert heat(figure.plot) == {("q", "0"): 5, ("q", "1"): 3, ("up", "0"): None, ("up", "1"): None}
    (texts,) = traces(figure.plot, name=TEXTS)
    assert dict(zip(zip(texts.y, texts.x, strict=True), texts.text, strict=True)) == {
        ("q", "0"): "5", ("q", "1"): "3", ("up", "0"): "0",
    }  # fmt: skip
    (cells,) = traces(figure.plot, name=CELLS)
    assert list(cells.customdata[0]) == ["q", "0", MODULES[0]]
    assert "stage 1 (λ = 0.5): 8 of 24 gates are not zero" in figure.caption
    assert "no gate is left" in figure.caption


def test_gates_of_several_seeds_are_their_mean_at_the_last_stage_that_all_have(tmp_path: Path) -> None:
    rows = [row(0, seed=0), row(0, seed=1), row(1, seed=0), row(1, seed=1), row(2, seed=0)]
    rows[3] = row(1, seed=1, nonzero_by_module=dict.fromkeys(MODULES, 2), nonzero_gates=6)
    table = gate_table(curve(tmp_path, rows))
    assert (table.stage, table.seeds, table.nonzero) == (1, (0, 1), 12.0)
    assert set(table.cells["value"]) == {4.0}
    assert set(table.cells["low"]) == {2}
    assert "mean over seeds" in gate_map(table).caption
    assert set(gate_table(curve(tmp_path, rows), 2).cells["value"]) == {4.0}


@pytest.mark.parametrize(("by", "expected"), [("kind", ("q", "up")), ("layer", ("0", "1"))])
def test_gates_along_stages(tmp_path: Path, by: str, expected: tuple[str, ...]) -> None:
    table = gates_along_stages(curve(tmp_path, [row(stage) for stage in range(3)]), by=by)
    figure = gates_over_stages(table)
    assert table.rows == expected
    assert [heat(figure.plot)[expected[0], str(stage)] for stage in range(3)] == [8.0, 6.0, 4.0]
    assert list(figure.plot.layout.xaxis.ticktext) == ["0", "0.5", "1"]
    assert figure.data["threshold"].tolist() == [0.0, 0.0, 0.5, 0.5, 1.0, 1.0]


def test_gates_without_a_stage_say_what_there_is(tmp_path: Path) -> None:
    found = curve(tmp_path, [row(0)])
    with pytest.raises(RankLabError, match="sora has no stage 7; it has 0"):
        gate_table(found, 7)
    with pytest.raises(RankLabError, match="no row of svd yet; it has sora seed 0"):
        gate_table(found, control="svd")
    with pytest.raises(RankLabError, match="no stage at all"):
        gates_along_stages(curve(tmp_path, []))
    with pytest.raises(RankLabError, match="expected 'kind' or 'layer'"):
        gates_along_stages(found, by="depth")


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("axis", CURVE_AXES)
def test_every_style_is_drawn(tmp_path: Path, style: Any, axis: Any) -> None:
    found = curve(tmp_path, [row(stage, seed=seed) for stage in range(3) for seed in (0, 1)])
    figure = memorization_curve(curve_points(found, axis), style)
    assert (figure.plot.layout.title.text is None) == (style == "paper")
    assert figure.plot.to_dict()["data"]
