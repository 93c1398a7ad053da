"""The studies of SoRA's Figures 3 and 4 tell of planted runs what was planted, and go on where they stopped."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analyses import kept_results, rank_allocation, sparsity_curves, sparsity_report
from analyses.allocation_claims import agreement, allocations, by_kind, dispersion, of_task_or_seed, pairs_of
from analyses.sparsity_claims import (
    against_controls,
    depth_thirds,
    falls,
    half_open_stages,
    halfway_points,
    learned,
    tasks_differ,
)
from analyses.sparsity_run import QUICK
from rank_lab.errors import RankLabError
from rank_lab.figures.curves_by_task import curves_by_task
from tests.sparsity_runs import EACH, MODULES, RANK, Planted, tables

DEEP = tuple(4.0 if ".layer.5." in name or ".layer.4." in name else 1.0 for name in MODULES)
VALUES = tuple(6.0 if name.endswith("value") else 1.0 for name in MODULES)
TASKS = {
    "early": Planted(0.3, 0.3, preferred=DEEP, over_controls=0.05),
    "late": Planted(0.7, 0.5, preferred=VALUES),
    "chance": Planted(gain=0.0),
}
FOUND = tables(TASKS)
POINTS, GATES = FOUND["points"], FOUND["gates"]


def test_a_task_that_was_not_learned_is_not_testable() -> None:
    known = learned(POINTS).set_index(["task", "curve"])
    assert known["testable"].groupby("task").all().to_dict() == {"chance": False, "early": True, "late": True}
    assert known.loc[("early", "memorization"), "above_empty"] == pytest.approx(0.3, abs=0.02)


def test_the_halfway_point_is_where_it_was_planted() -> None:
    half = halfway_points(POINTS)
    found = half[half["axis"] == "sparsity"].groupby(["task", "curve"])["value"].mean()
    assert found["early", "memorization"] == pytest.approx(0.3, abs=0.03)
    assert found["late", "memorization"] == pytest.approx(0.7, abs=0.03)
    assert found["late", "generalization"] == pytest.approx(0.5, abs=0.03)


def test_tasks_that_differ_are_told_from_those_that_do_not() -> None:
    values = pd.DataFrame({"task": list("aaabbbccc"), "value": [1, 1.1, 1.2, 2, 2.1, 2.2, 3, 3.1, 3.2]})
    assert tasks_differ(values)["p"] < 1e-4
    assert tasks_differ(values.assign(value=[1, 2, 3, 1.1, 2.1, 3.1, 1.2, 2.2, 3.2]))["p"] > 0.5
    assert np.isnan(tasks_differ(values.head(3))["p"])


def test_a_curve_that_falls_later_is_seen() -> None:
    found = falls(POINTS).set_index("task")
    assert found.loc["late", "later"] == pytest.approx(-0.2, abs=0.04)
    assert found.loc["late", "later_high"] < 0
    assert found.loc["early", "later_low"] < 0 < found.loc["early", "later_high"]


def test_layers_that_keep_more_gates_are_seen() -> None:
    found = depth_thirds(POINTS, GATES).set_index("task")
    assert found.loc["early", "deep_less_shallow_low"] > 1
    assert found.loc["late", "deep_less_shallow_low"] < 0 < found.loc["late", "deep_less_shallow_high"]


def test_what_lies_above_a_control_is_measured_at_equal_parameters() -> None:
    found = against_controls(POINTS).set_index(["task", "curve"])
    assert found.loc[("early", "generalization"), "points"] == pytest.approx(5, abs=0.7)
    assert found.loc[("early", "generalization"), "low"] > 0
    assert found.loc[("late", "generalization"), "points"] == pytest.approx(0, abs=0.7)


def test_a_control_with_other_numbers_of_parameters_is_read_between_its_points() -> None:
    rows = [("sora", 0, 8, 1.0), ("sora", 1, 4, 0.9), ("sora", 2, 0, 0.5), ("svd", 1, 6, 0.8), ("svd", 2, 2, 0.6)]
    points = pd.DataFrame(
        [
            {"task": "t", "seed": 0, "control": control, "stage": stage, "nonzero_gates": count,
             "nonzero_parameters": count * EACH, "train_score": score, "validation_score": score}
            for control, stage, count, score in rows
        ]
    )  # fmt: skip
    assert against_controls(points)["points"].tolist() == pytest.approx([20, 20])  # 0.9 against 0.7


def test_a_run_that_ended_after_its_dense_stage_says_nothing_and_breaks_nothing() -> None:
    ended = POINTS[(POINTS["task"] == "early") | (POINTS["stage"] == 0)]
    assert half_open_stages(ended).keys() == {"early"}
    assert set(falls(ended)["task"]) == set(depth_thirds(ended, GATES)["task"]) == {"early"}
    assert not learned(ended).set_index("task").loc["late", "testable"].any()


def planted_gates(preferred: Sequence[Sequence[float]]) -> pd.DataFrame:
    tasks = {name: Planted(preferred=weights) for name, weights in zip("abc", preferred, strict=True)}
    found = tables(tasks)
    return allocations(found["points"], found["gates"])


def test_an_allocation_that_belongs_to_the_task_is_told_from_one_that_belongs_to_nothing() -> None:
    weights = np.random.default_rng(0).permuted(np.tile(np.geomspace(0.2, 20, len(MODULES)), (3, 1)), axis=1)
    found = planted_gates(weights.tolist())
    known = agreement(pairs_of(found)).set_index("group")["mean"]
    assert known["same task, other seed"] > known["other task, other seed"] + 0.3
    assert of_task_or_seed(found)["p"] < 0.05
    assert of_task_or_seed(found)["least"] == pytest.approx(1 / 36)
    assert of_task_or_seed(found.query("task != 'c'"))["least"] == pytest.approx(1 / 4)
    assert of_task_or_seed(planted_gates([[1.0] * len(MODULES)] * 3))["p"] > 0.05
    assert of_task_or_seed(planted_gates([weights[0].tolist()] * 3))["p"] > 0.05  # of the model, not of a task


def test_gates_drawn_from_all_alike_are_as_uneven_as_chance() -> None:
    even = planted_gates([[1.0] * len(MODULES)] * 3)
    ratios = [dispersion(own.to_numpy(float), RANK)["ratio"] for _, own in even.iterrows()]
    assert np.mean(ratios) == pytest.approx(1, abs=0.3)
    uneven = planted_gates([VALUES] * 3)
    found = dispersion(uneven.iloc[0].to_numpy(float), RANK)
    assert found["ratio"] > 1.2 * found["high"]
    assert found["p"] < 0.01
    kinds = by_kind(uneven).set_index(["task", "kind"])
    assert kinds.loc[("a", "v"), "low"] > 1
    assert np.isnan(dispersion(np.full(4, 8.0), RANK)["ratio"])


def kept(folder: Path, name: str) -> Path:
    settings = vars(QUICK) | {"tasks": {task: vars(QUICK.tasks["rte"]) for task in TASKS}, "seeds": [0, 1, 2, 3]}
    settings |= {"rank": RANK}
    kept_results.keep(folder / name, settings, FOUND, 1.0)
    return folder / name


def test_the_page_of_curves_marks_claims_and_names_what_is_missing(tmp_path: Path) -> None:
    folder = kept(tmp_path, "sparsity_curves")
    sparsity_report.tell(folder, pictures=False)
    text = (folder / "README.md").read_text()
    assert "Not done yet, and in no table here: early seed 3, late seed 3, chance seed 3." in text
    claims = text.split("## What was found")[1].split("## Curves")[0]
    assert "**Turning points differ between tasks.** Memorization over the share of parameters gone: seen" in claims
    assert "Not seen, by halfway points (memorization later: late; cannot be told apart: early)" in claims
    assert "**Shallow layers become sparser.** Seen in early" in claims
    assert "**SoRA beats truncated SVD.** Memorization: better in early" in claims
    assert "Generalization on chance says nothing here" in claims
    assert "chance +" not in claims  # as a finding
    before = text
    sparsity_report.tell(folder, pictures=False)
    assert (folder / "README.md").read_text() == before


@pytest.mark.parametrize("quantity", [None, "generalization"])
def test_curves_of_all_tasks_stand_side_by_side(tmp_path: Path, quantity: str | None) -> None:
    curves = sparsity_report.curves_of(kept_results.kept(kept(tmp_path, "curves")), "nonzero_parameters")
    figure = curves_by_task(curves, "paper", quantity=quantity, remarks={"chance": "not <testable>"})
    drawn = [trace for trace in figure.plot.data if trace.x[0] is not None]
    assert len(drawn) == 3 * 2  # two curves, or SoRA and one control
    assert {trace.xaxis for trace in drawn} == {"x", "x2", "x3"}
    own = POINTS[(POINTS["task"] == "late") & (POINTS["control"] == "sora")]
    measured = "memorization" if quantity is None else quantity
    line = next(trace for trace in drawn if trace.xaxis == "x2" and trace.meta == measured)
    means = own.groupby("stage")[measured].mean()
    assert list(line.y) == pytest.approx(means.sort_index(ascending=False).tolist(), rel=1e-5)
    assert len(figure.plot.layout.shapes) == (0 if quantity else 6)
    assert any("not &lt;testable&gt;" in note.text for note in figure.plot.layout.annotations)
    assert set(figure.data["task"]) == set(TASKS)
    far = [replace(each, points=each.points.assign(generalization_low=-1e4)) for each in curves]
    low, high = curves_by_task(far, quantity=quantity).plot.layout.yaxis.range
    assert low > 0
    assert low < min(line.y) <= max(line.y) < high
    with pytest.raises(RankLabError, match="0 curves to draw side by side"):
        curves_by_task([])


def test_the_page_of_allocations_tells_what_was_planted(tmp_path: Path) -> None:
    folder = kept(tmp_path, "rank_allocation")
    rank_allocation.tell(folder, pictures=False)
    text = (folder / "README.md").read_text()
    assert "9 of 9 runs" not in text  # the third task has no preferred modules
    assert "v on late +" in text
    assert "| late |" in text
    rows = rank_allocation.rows_with_gates(kept_results.kept(folder))
    first = rows.iloc[0]
    assert sum(first["nonzero_by_module"].values()) == first["nonzero_gates"] == RANK * len(MODULES)


def options(folder: Path, data: Path) -> argparse.Namespace:
    return argparse.Namespace(
        study=folder / "study", out=folder / "out", data=data, seeds=(0,), tasks=["rte"], quick=True, full=False,
        device="cpu", as_far=False,
    )  # fmt: skip


def test_both_studies_are_of_the_same_runs_and_go_on(tmp_path: Path, shared_data: Path) -> None:
    chosen = options(tmp_path, shared_data)
    chosen.as_far = True
    sparsity_curves.make(chosen)
    with pytest.raises(RankLabError, match="no cell is done yet"):
        sparsity_curves.keep(chosen)
    chosen.as_far = False
    sparsity_curves.make(chosen)
    cell = tmp_path / "study" / "cells" / "rte-seed0.json"
    before = cell.read_text()
    sparsity_curves.keep(chosen)
    sparsity_report.tell(chosen.out, pictures=False)
    assert "| rte | 16 | 12 | 12 | 24 | 8 | 2 | 2 |" in (chosen.out / "README.md").read_text()
    points = pd.read_csv(chosen.out / "points.csv")
    assert set(points["control"]) == {"sora", *QUICK.controls}
    chosen.out = tmp_path / "allocation"
    rank_allocation.make(chosen)
    rank_allocation.keep(chosen)
    rank_allocation.tell(chosen.out, pictures=False)
    assert cell.read_text() == before
    gates = pd.read_csv(chosen.out / "gates.csv")
    own = points[points["control"] == "sora"]
    assert (
        gates.drop(columns=["task", "seed", "control", "stage"]).sum(axis=1).tolist() == own["nonzero_gates"].tolist()
    )
    chosen.quick, chosen.full = False, True
    with pytest.raises(RankLabError, match="of another configuration"):
        sparsity_curves.make(chosen)
