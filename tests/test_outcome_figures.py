"""What figures of learning, forgetting and rank draw: points, bars, fronts, curves, correlations, refusals."""

from typing import Any

import plotly.graph_objects as go
import pytest

from rank_lab.errors import RankLabError
from rank_lab.figures import STYLES, association_plot, outcome_trajectory, rank_and_forgetting, trade_off
from rank_lab.figures.trade_off import FRONT
from rank_lab.outcome_steps import outcome_steps
from rank_lab.outcomes import OutcomeChoices, Outcomes, outcomes
from rank_lab.rank_forgetting import Sampling
from rank_lab.rank_points import association_points, rank_points
from rank_lab.score_draws import Resampling
from rank_lab.score_table import ScoreTable
from rank_lab.trade_off_points import trade_off_points
from rank_lab.uncertainty import student_interval
from tests.figure_texts import HOSTILE, is_safe, texts
from tests.outcome_studies import BASE, MODULES, matrix, report, scores, training

QUICK = OutcomeChoices(resampling=Resampling(200), sampling=Sampling(199, 50))
TARGET = "gsm8k exact_match 5-shot"
RUNS = 9


@pytest.fixture(scope="module")
def found() -> Outcomes:
    """Nine seeds of LoRA: rank grows with the seed, forgetting as well, and twice as much at step 20."""
    rows, reports = [*BASE], []
    for seed in range(RUNS):
        run = f"run{seed}"
        updates = [matrix(run, step, name, 10 + seed) for step in (10, 20) for name in MODULES]
        reports.append(report(run, updates, training("lora", 1e-4, seed)))
        for step in (10, 20):
            rows += scores(run, step, 0.01 * step + 0.001 * seed, 0.001 * step * (seed + 1), method="lora")
    return outcomes(reports, ScoreTable.of(rows), QUICK)


@pytest.fixture(scope="module")
def odd() -> Outcomes:
    """One run with a hostile name at one step, without a report; scores refuse what cannot be printed themselves."""
    name = HOSTILE.replace("\x1b", "")
    return outcomes([], ScoreTable.of([*BASE, *scores(name, 5, 0.1, 0.05, method=name)]), QUICK)


def named(plot: go.Figure, name: str, mode: str = "markers") -> Any:
    return next(each for each in plot.data if each.name == name and each.mode == mode and each.x[0] is not None)


def test_checkpoints_with_intervals_both_ways(found: Outcomes) -> None:
    view = trade_off_points(found.trade_offs)
    figure = trade_off(view)
    drawn = named(figure.plot, "lora")
    assert len(drawn.x) == 2 * RUNS
    assert drawn.x[:2] == pytest.approx([0.1, 0.2])
    assert drawn.y[:2] == pytest.approx([0.01, 0.02])
    first = view.points.iloc[0]
    assert drawn.error_x.array[0] == pytest.approx(first["learning_high"] - first["learning"])
    assert drawn.error_y.arrayminus[0] == pytest.approx(first["forgetting"] - first["forgetting_low"])
    assert drawn.error_y.visible
    assert "95 % interval over examples" in figure.caption
    assert f"n = {2 * RUNS} checkpoints of {RUNS} runs" in figure.caption
    assert "Hypervolume" in figure.caption


def test_the_front_is_marked_and_joined(found: Outcomes) -> None:
    view = trade_off_points(found.trade_offs)
    plot = trade_off(view).plot
    on = view.points[view.points["on_front"]].sort_values("learning")
    assert 0 < len(on) < len(view.points)
    line = next(each for each in plot.data if each.name == FRONT)
    assert (list(line.x), list(line.y)) == (on["learning"].tolist(), on["forgetting"].tolist())
    assert line.line.shape == "vh"  # what is given up for one more learned lies above, not between
    drawn = named(plot, "lora")
    hollow = [symbol.endswith("-open") for symbol in drawn.marker.symbol]
    assert hollow == [not each for each in view.points["on_front"]]
    shares = view.points["front_share"].fillna(0.0)
    assert drawn.marker.size[int(shares.argmax())] == max(drawn.marker.size)


def test_runs_start_at_the_base_and_are_apart(found: Outcomes) -> None:
    way = named(trade_off(trade_off_points(found.trade_offs)).plot, "lora, along training", "lines")
    assert way.x[:4] == pytest.approx((0.0, 0.1, 0.2, None))
    assert sum(each is None for each in way.x) == RUNS


def test_equal_learning_is_an_upright_line_with_what_was_forgotten_there(found: Outcomes) -> None:
    view = trade_off_points(found.trade_offs)
    plot = trade_off(view).plot
    levels = sorted(view.equal_learning["at_learning"].unique())
    assert [shape.x0 for shape in plot.layout.shapes] == levels
    drawn = named(plot, "lora, at equal learning")
    known = view.equal_learning.dropna(subset="forgetting")
    assert (list(drawn.x), list(drawn.y)) == (known["at_learning"].tolist(), known["forgetting"].tolist())
    assert drawn.error_y.array == pytest.approx((known["high"] - known["forgetting"]).tolist())


def test_means_over_seeds_have_students_interval(found: Outcomes) -> None:
    figure = trade_off(trade_off_points(found.trade_offs, of="seeds"))
    drawn = named(figure.plot, "lora")
    mean, low, high = student_interval([0.001 * 10 * (seed + 1) for seed in range(RUNS)])
    assert drawn.y[0] == pytest.approx(mean)
    assert drawn.error_y.array[0] == pytest.approx(high - mean)
    assert drawn.error_y.arrayminus[0] == pytest.approx(mean - low)
    assert len(drawn.x) == 2
    assert "Student's 95 % interval over seeds" in figure.caption
    assert not [each for each in figure.plot.data if each.name == FRONT]


def test_many_points_go_without_bars_and_say_so(found: Outcomes) -> None:
    rows = [*BASE]
    for seed in range(31):
        rows += [row for step in (10, 20) for row in scores(f"r{seed}", step, 0.01 * step, 0.001 * (seed + 1))]
    figure = trade_off(trade_off_points(outcomes([], ScoreTable.of(rows), QUICK).trade_offs))
    assert not named(figure.plot, "full").error_y.visible
    assert "they are not drawn, but in the data" in figure.caption
    assert figure.data["forgetting_low"].notna().any()


def test_learning_and_forgetting_along_training(found: Outcomes) -> None:
    figure = outcome_trajectory(outcome_steps(found))
    drawn = named(figure.plot, "lora", "lines+markers")  # nine runs: more than are told apart
    assert drawn.x[:4] == (10.0, 20.0, None, 10.0)
    assert drawn.y[:3] == pytest.approx((0.1, 0.2, None))
    assert (len(drawn.x), drawn.customdata[2][0]) == (3 * RUNS - 1, None)
    assert drawn.error_y.array[2] is None
    assert drawn.error_y.array[0] > 0
    assert figure.plot.layout.xaxis.title.text == "optimizer step"
    lost = outcome_trajectory(outcome_steps(found, "forgetting"))
    assert named(lost.plot, "lora", "lines+markers").y[:2] == pytest.approx((0.01, 0.02))
    assert "measured on winogrande" in lost.caption


def test_few_runs_are_told_apart(odd: Outcomes) -> None:
    figure = outcome_trajectory(outcome_steps(odd))
    assert len(figure.plot.data) == 1
    assert figure.plot.data[0].name.startswith("&lt;b&gt;")


def test_rank_beside_forgetting(found: Outcomes) -> None:
    figure = rank_and_forgetting(rank_points(found))
    drawn = named(figure.plot, "lora")
    assert drawn.x[:4] == (10.0, 10.0, 11.0, 11.0)
    assert drawn.y[:2] == pytest.approx((0.01, 0.02))
    assert [symbol.endswith("-open") for symbol in drawn.marker.symbol[:4]] == [True, False, True, False]
    assert "all methods: 1" in figure.caption
    assert f"{RUNS} runs" in figure.caption
    assert figure.data["null"].tolist() == [50.0] * 2 * RUNS
    divided = rank_and_forgetting(rank_points(found, over_null=True))
    assert named(divided.plot, "lora").x[0] == 10.0 / 50.0
    assert divided.plot.layout.xaxis.title.text.startswith("k90 / null")


def test_a_correlation_of_another_rank_is_not_told_as_this_one(found: Outcomes) -> None:
    assert "of another rank than stable_rank" in rank_and_forgetting(rank_points(found, "stable_rank")).caption


def test_correlations_with_too_few_runs_are_refused() -> None:
    rows, reports = [*BASE], []
    for seed in range(3):
        run = f"run{seed}"
        reports.append(
            report(run, [matrix(run, 10, name, 10 + seed) for name in MODULES], training("lora", 1e-4, seed))
        )
        rows += scores(run, 10, 0.1, 0.01 * (seed + 1), method="lora")
    few = outcomes(reports, ScoreTable.of(rows), QUICK)
    assert "none (3 independent runs, of which 8 at least are needed)" in rank_and_forgetting(rank_points(few)).caption
    with pytest.raises(RankLabError, match="3 independent runs, of which 8 at least are needed"):
        association_points(few)


def test_associations_are_dots_with_intervals(found: Outcomes) -> None:
    figure = association_plot(association_points(found))
    drawn = named(figure.plot, "p (BH) ≤ 0.05")
    assert sorted(drawn.y) == ["q", "up"]
    assert drawn.x == pytest.approx((1.0, 1.0))
    assert "2 of 2 are called" in figure.caption
    assert f"n = {RUNS} runs" in figure.caption
    modules = association_points(found, level="module")
    assert sorted(association_plot(modules).plot.data[0].y) == sorted(MODULES)


def test_an_association_without_an_interval_has_no_bar(found: Outcomes) -> None:
    view = association_points(found)
    view.points.loc[0, ["low", "high"]] = None
    figure = association_plot(view)
    drawn = figure.plot.data[0]
    assert [each is None for each in drawn.error_x.array] == [True, False]
    assert "1 have no interval" in figure.caption


def test_what_is_not_there_is_refused_by_name(found: Outcomes) -> None:
    nothing = outcomes([], ScoreTable(), QUICK)
    with pytest.raises(RankLabError, match="evaluate a target and a source task"):
        trade_off_points(nothing.trade_offs)
    with pytest.raises(RankLabError, match="evaluate a task with the role 'target'"):
        outcome_steps(nothing)
    with pytest.raises(RankLabError, match="evaluate a task with the role 'source'"):
        outcome_steps(nothing, "forgetting")
    with pytest.raises(RankLabError, match="evaluate a task with the role 'source'"):
        rank_points(nothing)
    with pytest.raises(RankLabError, match="analyze and evaluate the same steps"):
        association_points(nothing)
    with pytest.raises(RankLabError, match=r"no target 'gsm9k' in this study\. Nearest: gsm8k"):
        trade_off_points(found.trade_offs, "gsm9k")
    with pytest.raises(RankLabError, match="no methods 'full' here"):
        association_points(found, methods="full")


def test_no_rank_is_refused_with_the_reason(odd: Outcomes) -> None:
    with pytest.raises(RankLabError, match="no report of this run"):
        rank_points(odd)


@pytest.mark.parametrize("style", STYLES)
def test_names_are_text_in_every_style(odd: Outcomes, style: Any) -> None:
    for figure in (trade_off(trade_off_points(odd.trade_offs), style), outcome_trajectory(outcome_steps(odd), style)):
        assert is_safe(figure.plot)
        assert any("&lt;b&gt;x" in text for text in texts(figure.plot))
        assert (figure.plot.layout.title.text is None) == (style == "paper")
