"""Tables that figures show: medians, pairs and counts that are worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from rank_lab.coverage_overview import NOT_MEASURED, coverage_overview
from rank_lab.depth_table import depth_table
from rank_lab.errors import RankLabError, SchemaError
from rank_lab.kind_table import kind_table
from rank_lab.run_comparison import run_comparison
from rank_lab.training_table import training_table
from tests.figure_studies import frame, noisy, row, tensor

ONES = np.ones(4)


def of_rank(rank: int, bound: int = 8) -> np.ndarray:
    """Singular values of which every rank is ``rank``."""
    return np.concatenate([np.ones(rank), np.zeros(bound - rank)])


def test_depth_of_one_run_is_a_line_a_kind() -> None:
    rows = frame(
        *(row(of_rank(layer + 1), layer=layer, kind=kind) for layer in (10, 2, 0) if layer < 8 for kind in ("up", "q")),
        row(of_rank(8), layer=10, kind="q"), row(of_rank(3), layer=None, kind="embed"),
    )  # fmt: skip
    table = depth_table(rows, "effective_rank")
    assert table.lines == ("q", "up")
    q = table.points[table.points["line"] == "q"]
    assert q["layer"].tolist() == [0, 2, 10]
    assert q["value"].tolist() == pytest.approx([1, 3, 8])
    assert q["null"].notna().all()
    assert table.outside == 1


def test_depth_of_several_runs_is_a_line_a_run() -> None:
    rows = frame(*(row(of_rank(2 + layer), run=run, layer=layer) for run in ("lora", "full") for layer in (0, 1)))
    table = depth_table(rows, "effective_rank", over="bound", kinds=["q"])
    assert table.lines == ("lora", "full")
    assert table.places == (("lora", 10), ("full", 10))
    assert table.points["value"].tolist() == pytest.approx([2 / 8, 3 / 8] * 2)
    again = depth_table(frame(row(ONES), row(ONES, step=20)), "effective_rank")
    assert again.lines == ("full, step 10", "full, step 20")


def test_depth_tells_values_that_are_not_there() -> None:
    rows = frame(
        row(ONES),
        noisy(ONES, "unresolved", layer=1),
        row(np.zeros(4), layer=2),
        row(ONES, layer=3, effective_rank=None),
    )
    points = depth_table(rows, "effective_rank").points
    assert points["state"].tolist() == ["value", "unresolved", "zero", "missing"]
    assert points["value"].isna().tolist() == [False, True, True, True]
    counted = depth_table(rows, "energy_rank_90").points
    assert counted["value"].iloc[2] == 0


def test_depth_refuses_a_kind_that_is_not_there() -> None:
    with pytest.raises(RankLabError, match="of kind 'router'"):
        depth_table(frame(row(ONES)), "effective_rank", kinds=["router"])


def test_training_takes_the_median_of_what_is_known() -> None:
    ranks = {10: (1, 2, 3, 8), 20: (2, 4, 6, 8)}
    rows = frame(
        *(row(of_rank(rank), step=step, layer=layer) for step, own in ranks.items() for layer, rank in enumerate(own)),
        noisy(of_rank(8), "unresolved", step=20, layer=9),
    )
    points = training_table(rows, "effective_rank").points
    assert points["step"].tolist() == [10, 20]
    assert points["value"].tolist() == pytest.approx([2.5, 5.0])
    assert points["lower"].tolist() == pytest.approx([1.75, 3.5])
    assert points["upper"].tolist() == pytest.approx([4.25, 6.5])
    assert points["matrices"].tolist() == [4, 5]
    assert points["known"].tolist() == [4, 4]
    assert points["unresolved"].tolist() == [0, 1]
    assert points["noise_regime"].tolist() == ["exact 4", "exact 4, unresolved 1"]


def test_training_of_one_matrix_has_its_own_interval() -> None:
    measured = {"effective_rank_denoised": 3.0, "effective_rank_denoised_low": 2.0, "effective_rank_denoised_high": 5.0}
    rows = frame(noisy(of_rank(8), "partial", rank_above_rounding=3.0, **measured))
    point = training_table(rows, "effective_rank", by="module").points.iloc[0]
    assert (point["line"], point["value"], point["low"], point["high"]) == ("layers.0.q_proj", 3.0, 2.0, 5.0)
    assert np.isnan(point["lower"])


def test_training_by_kind_of_several_runs_has_lines_for_each() -> None:
    rows = frame(*(row(ONES, run=run, kind=kind) for run in ("b", "a") for kind in ("up", "q")))
    table = training_table(rows, "effective_rank", by="kind")
    assert table.lines == ("b: q", "a: q", "b: up", "a: up")
    assert table.runs == ("b", "a")


def test_training_shows_the_delta_that_was_asked_for() -> None:
    rows = frame(row(of_rank(2)), row(of_rank(5), delta="step"), row(of_rank(5), step=None, layer=4, delta="step"))
    assert training_table(rows, "effective_rank").points["value"].tolist() == pytest.approx([2])
    steps = training_table(rows, "effective_rank", delta="step")
    assert steps.points["value"].tolist() == pytest.approx([5])
    assert steps.without_step == 1


def test_training_refuses_single_checkpoints_unknown_lines_and_doubles() -> None:
    with pytest.raises(RankLabError, match="single checkpoints"):
        training_table(frame(row(ONES, step=None)), "effective_rank")
    with pytest.raises(RankLabError, match="none with delta 'step'"):
        training_table(frame(row(ONES)), "effective_rank", delta="step")
    with pytest.raises(RankLabError, match="expected one of 'run'"):
        training_table(frame(row(ONES)), "effective_rank", by="colour")  # type: ignore[arg-type]
    with pytest.raises(SchemaError, match="two reports"):
        training_table(pd.concat([frame(row(ONES))] * 2), "effective_rank")


def test_comparison_pairs_by_name_and_counts_the_rest() -> None:
    rows = frame(
        row(of_rank(2), layer=1), row(of_rank(4), layer=0), row(of_rank(8), layer=7),
        row(of_rank(6), run="lora", layer=0), row(of_rank(5), run="lora", layer=1),
        row(ONES, run="lora", layer=None, kind="embed"),
    )  # fmt: skip
    found = run_comparison(rows, [("full", 10), ("lora", 10)], "effective_rank")
    table = found.table
    assert table["module"].tolist() == ["layers.1.q_proj", "layers.0.q_proj"]
    assert table["value_1"].tolist() == pytest.approx([2, 4])
    assert table["value_2"].tolist() == pytest.approx([5, 6])
    assert table["difference_2"].tolist() == pytest.approx([3, 2])
    assert table["ratio_2"].tolist() == pytest.approx([2.5, 1.5])
    assert table["null_1"].notna().all()
    assert found.only.to_dict("list") == {"module": ["layers.7.q_proj", "embed"], "runs": ["1", "2"]}


def test_comparison_of_three_places_and_two_steps_of_one_run() -> None:
    rows = frame(row(of_rank(2)), row(of_rank(4), step=20), row(of_rank(8), run="lora", step=None))
    found = run_comparison(rows, [("full", 10), ("full", 20), ("lora", None)], "effective_rank")
    one = found.table.iloc[0]
    assert (one["value_1"], one["value_2"], one["value_3"]) == pytest.approx((2, 4, 8))
    assert one["ratio_3"] == pytest.approx(4)


def test_comparison_invents_no_number_where_one_is_missing_or_zero() -> None:
    rows = frame(
        row(np.zeros(4)), row(ONES, run="b"),
        noisy(ONES, "unresolved", layer=1), row(ONES, run="b", layer=1),
    )  # fmt: skip
    table = run_comparison(rows, [("full", 10), ("b", 10)], "numerical_rank").table
    assert table["ratio_2"].isna().all()
    assert table["difference_2"].isna().tolist() == [False, True]
    assert table["state_1"].tolist() == ["zero", "unresolved"]


def test_comparison_with_nothing_in_common_is_an_empty_table() -> None:
    found = run_comparison(frame(row(ONES), row(ONES, run="b", layer=5)), [("full", 10), ("b", 10)], "effective_rank")
    assert found.table.empty
    assert "ratio_2" in found.table.columns
    assert found.only["runs"].tolist() == ["1", "2"]


def test_comparison_of_runs_that_pair_in_full_leaves_nothing() -> None:
    found = run_comparison(frame(row(ONES), row(ONES, run="b")), [("full", 10), ("b", 10)], "effective_rank")
    assert found.only.empty
    assert found.only["runs"].str.split().empty


def test_comparison_of_very_many_runs() -> None:
    rows = frame(*(row(of_rank(1 + number % 8), run=str(number)) for number in range(30)))
    one = run_comparison(rows, [(str(number), 10) for number in range(30)], "effective_rank").table.iloc[0]
    assert one["difference_30"] == pytest.approx(29 % 8)
    assert one["ratio_2"] == pytest.approx(2)


def test_comparison_says_what_is_wrong_with_its_places() -> None:
    rows = frame(row(ONES), row(ONES, step=20))
    with pytest.raises(RankLabError, match="two or more"):
        run_comparison(rows, [("full", 10)], "effective_rank")
    with pytest.raises(RankLabError, match="two or more"):
        run_comparison(rows, [("full", 10), ("full", 10)], "effective_rank")
    with pytest.raises(RankLabError, match=r"at step 30 .* steps 10, 20"):
        run_comparison(rows, [("full", 10), ("full", 30)], "effective_rank")
    with pytest.raises(SchemaError, match="two reports"):
        run_comparison(pd.concat([rows, rows]), [("full", 10), ("full", 20)], "effective_rank")


def test_kinds_are_summed_up_by_run() -> None:
    rows = frame(
        *(row(of_rank(rank), layer=rank, kind="q") for rank in (1, 2, 3, 4, 5)),
        noisy(ONES, "unresolved", layer=6), row(of_rank(7), run="lora", kind="up"),
    )  # fmt: skip
    table = kind_table(rows, [("full", 10), ("lora", 10)], "effective_rank")
    assert table.kinds == ("q", "up")
    full, lora = table.summary.to_dict("records")
    assert [full[name] for name in ("minimum", "lower", "median", "upper", "maximum")] == pytest.approx([1, 2, 3, 4, 5])
    assert (full["matrices"], full["known"], full["unresolved"]) == (6, 5, 1)
    assert (lora["name"], lora["kind"], lora["median"]) == ("lora", "up", pytest.approx(7))
    assert len(table.points) == 7


def test_the_table_of_kinds_has_their_order() -> None:
    rows = frame(*(row(of_rank(2), kind=kind, run=run) for run in ("one", "two") for kind in ("up", "q", "o")))
    summary = kind_table(rows, [("two", 10), ("one", 10)], "effective_rank").summary
    assert list(summary["kind"]) == ["q", "q", "o", "o", "up", "up"]
    assert list(summary["name"]) == ["two", "one"] * 3


def test_kinds_refuse_runs_that_are_not_there() -> None:
    with pytest.raises(RankLabError, match="run 'sora' has no matrices at step 3"):
        kind_table(frame(row(ONES)), [("sora", 3)], "effective_rank")
    with pytest.raises(RankLabError, match="0 runs"):
        kind_table(frame(row(ONES)), [], "effective_rank")


def test_overview_counts_what_became_of_each_tensor() -> None:
    updates = frame(
        row(ONES, change_share=0.5), noisy(ONES, "unresolved", layer=1, change_share=0.25),
        row(ONES, layer=2, noise_regime=None, change_share=None),
        row(ONES, delta="step", layer=5), row(ONES, run="b", step=None, change_share=1.0),
    )  # fmt: skip
    coverage = pd.DataFrame(
        [
            tensor("full", 10, "a", "analysed"), tensor("full", 10, "b", "analysed"),
            tensor("full", 10, "n", "vector", change_share=0.25), tensor("full", 10, "i", "identical"),
            tensor("full", 10, "s", "skipped", reason="a buffer"),
            tensor("full", 10, "t", "skipped", reason="a buffer"),
            tensor("full", 10, "f", "skipped", reason="NaN", failed=True), tensor("b", None, "a", "analysed"),
        ]
    )  # fmt: skip
    found = coverage_overview(updates, coverage)
    full = found.statuses[found.statuses["run"] == "full"].set_index("status")
    assert full["tensors"].to_dict() == {"analysed": 2, "identical": 1, "vector": 1, "skipped": 2, "failed": 1}
    assert full["share"].sum() == pytest.approx(1)
    assert full.loc["analysed", "change_share"] == pytest.approx(0.75)
    assert full.loc["vector", "change_share"] == pytest.approx(0.25)
    assert np.isnan(full.loc["skipped", "change_share"])
    regimes = found.regimes[found.regimes["run"] == "full"].set_index("noise_regime")
    assert regimes["matrices"].to_dict() == {"exact": 1, "unresolved": 1, NOT_MEASURED: 1}
    assert regimes.loc["unresolved", "change_share"] == pytest.approx(0.25)
    other = found.statuses[found.statuses["run"] == "b"].iloc[0]
    assert (other["tensors"], other["change_share"]) == (1, 1.0)
    reasons = found.reasons.set_index("reason")
    assert reasons["tensors"].to_dict() == {"a buffer": 2, "NaN": 1}
    assert reasons.loc["a buffer", "example"] == "s"
    assert found.places[["tensors", "matrices"]].to_numpy().tolist() == [[7, 3], [1, 1]]


def test_overview_of_nothing_is_empty() -> None:
    found = coverage_overview(frame(), pd.DataFrame([tensor("a", 1, "x", "analysed")]).iloc[:0])
    assert found.places.empty
    assert found.statuses.empty
    assert found.reasons.empty
