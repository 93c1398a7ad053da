"""One row for each run and checkpoint: what joins, what does not, and what is said of methods."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from rank_lab.checkpoint_scores import scored_checkpoints, target_name
from rank_lab.errors import DataError, RankLabError, SchemaError
from rank_lab.outcomes import OutcomeChoices, Outcomes, outcomes
from rank_lab.rank_forgetting import Sampling
from rank_lab.rank_summaries import rank_summaries
from rank_lab.run_facts import run_facts
from rank_lab.score_draws import Resampling
from rank_lab.score_row import ScoreRow
from rank_lab.score_table import ScoreTable
from tests.outcome_studies import BASE, MODULES, matrix, report, scores, training

Q, UP = MODULES
TARGET = "gsm8k exact_match 5-shot"
QUICK = OutcomeChoices(resampling=Resampling(200), sampling=Sampling(199, 50))


def study(*parts: list[ScoreRow], reports: Any = ()) -> Outcomes:
    return outcomes(list(reports), ScoreTable.of([*BASE, *(row for part in parts for row in part)]), QUICK)


def one(frame: pd.DataFrame, **where: Any) -> pd.Series:
    for name, value in where.items():
        frame = frame[frame[name] == value]
    assert len(frame) == 1, frame
    return frame.iloc[0]


def test_ranks_of_a_model_by_hand() -> None:
    """Of two matrices with shares 0.75 and 0.25 and ranks 4 and 8: 5 weighted, 6 plain."""
    rows = [
        matrix("r", 10, Q, 4, change_share=0.75, frobenius_norm=3.0, relative_frobenius=0.3),
        matrix("r", 10, UP, 8, change_share=0.25, factor_null_stable_rank=10.0, relative_frobenius=0.1),
        matrix("r", 10, Q, 99, delta="step"),
    ]
    row = rank_summaries(report("r", rows).updates).iloc[0]
    assert (row["matrices"], row["stable_rank"], row["stable_rank_mean"]) == (2, 5.0, 6.0)
    assert row["null_stable_rank"] == 0.75 * 50 + 0.25 * 10
    assert row["null_effective_rank"] == 50
    assert (row["exact_share"], row["unresolved_share"]) == (1.0, 0.0)
    assert row["relative_frobenius"] == pytest.approx(math.sqrt((9 + 1) / (100 + 100)))
    kinds = rank_summaries(report("r", rows).updates, ("run", "step", "kind"))
    assert dict(zip(kinds["kind"], kinds["energy_rank_90"], strict=True)) == {"q": 4, "up": 8}


def test_ranks_that_cannot_be_told_are_in_no_mean() -> None:
    rows = [
        matrix("r", 10, Q, 400, noise_regime="unresolved"),
        matrix("r", 10, UP, 300, noise_regime="partial", stable_rank_denoised=7.0, rank_above_rounding=9.0),
    ]
    row = rank_summaries(report("r", rows).updates).iloc[0]
    assert (row["stable_rank"], row["stable_rank_matrices"], row["numerical_rank"]) == (7.0, 1, 9.0)
    assert math.isnan(row["effective_rank"])
    assert (row["effective_rank_matrices"], row["partial_share"], row["unresolved_share"]) == (0, 0.5, 0.5)


def test_a_row_holds_training_ranks_learning_and_forgetting() -> None:
    reports = [report("a", [matrix("a", 10, Q, 4), matrix("a", 10, UP, 8)], training("lora", 1e-4, 3, rank=8))]
    found = study(scores("a", 10, 0.3, 0.1, method="lora"), reports=reports)
    row = one(found.checkpoints)
    assert row[["run", "step", "method", "optimizer", "learning_rate", "seed"]].tolist() == [
        "a", 10, "lora", "adamw_torch", 1e-4, 3,
    ]  # fmt: skip
    assert (row["trainable_parameters"], row["parameters"], row["stable_rank"]) == (100, 1000, 6.0)
    half = 1.959964 * math.sqrt(2) * 0.01
    assert row[["forgetting", "forgetting_low", "forgetting_high"]].tolist() == pytest.approx(
        [0.1, 0.1 - half, 0.1 + half]
    )
    assert (row["forgetting_how"], row["forgetting_reason"], row["reason"]) == ("unpaired", "", "")
    assert row["forgetting_tasks"] == "winogrande"
    assert row["forgetting_normalised"] == pytest.approx(0.5)
    learned = one(found.learning)
    assert (learned["target"], learned["learning"]) == (TARGET, pytest.approx(0.3))
    assert found.kinds["kind"].tolist() == ["q", "up"]


def test_what_does_not_join_is_a_row_with_a_reason() -> None:
    reports = [report("a", [matrix("a", 10, Q, 4), matrix("a", 20, Q, 4)], training("full", 1e-4, 0))]
    found = study(scores("a", 10, 0.1, 0.1), scores("a", 15, 0.1, 0.1), scores("b", 10, 0.1, 0.1), reports=reports)
    reasons = {(row["run"], row["step"]): row["reason"] for row in found.checkpoints.to_dict(orient="records")}
    assert reasons == {
        ("a", 10): "",
        ("a", 15): "no ranks: they are of steps 10, 20",
        ("a", 20): "no scores: they are of steps 10, 15",
        ("b", 10): "no ranks: no report of this run",
    }
    row = one(found.checkpoints, step=20)
    assert math.isnan(row["forgetting"])
    assert row["forgetting_reason"] == "not measured"
    alone = outcomes([report("c", [matrix("c", None, Q, 4)])], ScoreTable())
    row = one(alone.checkpoints)
    assert pd.isna(row["step"])
    assert (row["method"], row["reason"]) == (
        "full",
        "no scores: none of this run; its report holds no record of a training",
    )
    assert not len(outcomes([], ScoreTable()).checkpoints)


def test_no_base_no_forgetting() -> None:
    found = outcomes([], ScoreTable.of(scores("a", 10, 0.1, 0.1)))
    row = one(found.checkpoints)
    assert math.isnan(row["forgetting"])
    assert row["forgetting_reason"].startswith("winogrande acc: the base has no such score; evaluate the untuned model")
    assert one(found.learning)["learning_reason"].startswith("gsm8k exact_match: the base has no such score")
    assert not found.trade_offs.points["on_front"].any()


def test_a_run_and_step_in_two_reports_is_refused() -> None:
    twice = [report("a", [matrix("a", 10, Q, 4)]), report("a", [matrix("a", 10, Q, 5)])]
    with pytest.raises(SchemaError, match="run 'a' at step 10 is in two reports"):
        outcomes(twice, ScoreTable())


def test_a_source_that_one_checkpoint_lacks_leaves_it_without_a_mean() -> None:
    rows = [replace(row, task="own", metric="acc", role="source") for row in scores("a", 10, 0.1, 0.1)[:1]]
    found = study(
        scores("a", 10, 0.1, 0.1),
        rows,
        scores("b", 10, 0.1, 0.1),
        [replace(rows[0], run="base", method="base", step=0)],
    )
    reasons = {row["run"]: row["forgetting_reason"] for row in found.checkpoints.to_dict(orient="records")}
    assert reasons == {"a": "", "b": "own acc was not measured on this checkpoint"}


def test_which_metric_of_a_source_counts() -> None:
    extra = [
        replace(row, task="hellaswag", metric=name)
        for row in scores("a", 10, 0, 0.2)[:1]
        for name in ("acc", "acc_norm")
    ]
    rows = [*BASE, *(replace(row, run="base", method="base", step=0, value=0.7) for row in extra), *extra]
    checkpoints, left_out = scored_checkpoints(rows)
    assert checkpoints[0].forgetting["forgetting"].tasks == ("hellaswag",)
    assert [(each.name, each.reason) for each in left_out] == [("hellaswag acc", "acc_norm counts as its score")]
    unknown = [replace(row, task="own") for row in rows if row.task == "hellaswag"]
    checkpoints, _ = scored_checkpoints(unknown)
    assert checkpoints[0].forgetting["forgetting"].reason == "own has acc, acc_norm; choose which of them counts"
    checkpoints, _ = scored_checkpoints(unknown, source_metrics={"own": "acc"})
    assert checkpoints[0].forgetting["forgetting"].value == pytest.approx(0.2)
    with pytest.raises(DataError, match="source task 'own' has no metric 'accu'"):
        scored_checkpoints(unknown, source_metrics={"own": "accu"})


def test_texts_and_what_takes_no_part() -> None:
    def text(run: str, metric: str, value: float, role: str = "source") -> ScoreRow:
        method, step = ("base", 0) if run == "base" else ("full", 5)
        return ScoreRow(
            run, method, step, f"{role or 'no'} text", metric, value, 0.01, role=role, higher_is_better=False
        )

    rows = [
        text("base", "cross_entropy", 3.0), text("a", "cross_entropy", 3.4), text("a", "perplexity", 30.0),
        text("base", "cross_entropy", 5.0, "target"), text("a", "cross_entropy", 4.0, "target"),
        text("a", "bits_per_byte", 1.0, "target"), text("a", "kl_from_base", 0.2),
        text("a", "kl_from_base", 0.9, "target"),
        text("a", "cross_entropy", 1.0, ""), text("a", "ter", 1.0), text("a", "unique_of_8_failing", 3.0, "target"),
    ]  # fmt: skip
    checkpoints, left_out = scored_checkpoints(rows)
    (found,) = checkpoints
    assert {name: round(change.value, 9) for name, change in found.forgetting.items()} == {
        "cross_entropy_increase": 0.4, "kl_source": 0.2, "kl_target": 0.9,
    }  # fmt: skip
    assert {name: change.value for name, change in found.learning.items()} == {"target text cross_entropy": 1.0}
    assert {each.name: each.reason.split(",")[0] for each in left_out} == {
        "source text perplexity": "is the cross-entropy of the same text in other units",
        "target text bits_per_byte": "is the cross-entropy of the same text in other units",
        "no text cross_entropy": "has no role; a source measures forgetting",
        "source text ter": "is neither a fraction",
        "target text unique_of_8_failing": "counts how completions differ",
    }
    assert target_name(replace(rows[0], few_shot=0)) == "source text cross_entropy"


def test_scores_that_were_measured_otherwise_stand_in_no_comparison() -> None:
    """The base was scored both ways; two checkpoints are 0-shot, and one is not."""
    base = [replace(row, few_shot=5) for row in BASE[:1]]
    odd = [replace(row, few_shot=5) for row in scores("c", 10, 0.1, 0.1)[:1]]
    newer = [replace(row, harness_version="2") for row in scores("c", 10, 0.1, 0.1)[1:]]
    found = study(base, scores("a", 10, 0.1, 0.1), scores("b", 10, 0.1, 0.1), odd, newer)
    row = one(found.checkpoints, run="c")
    assert math.isnan(row["forgetting"])
    assert row["forgetting_reason"] == (
        "winogrande acc: not as in most other checkpoints: 5 and 0 solved examples in the prompt"
    )
    reason = one(found.learning, run="c")["learning_reason"]
    assert reason.startswith("gsm8k exact_match: not as in most other checkpoints: measured by 2 and by an unknown")
    assert one(found.checkpoints, run="a")["forgetting"] == pytest.approx(0.1)
    twice = [replace(row, few_shot=shots) for row in scores("d", 10, 0.1, 0.1)[1:] for shots in (0, None)]
    found = study([replace(BASE[1], few_shot=0), replace(BASE[1], few_shot=None)], twice)
    assert "is there twice on this checkpoint" in one(found.learning, run="d")["learning_reason"]


def test_targets_and_measures_each_have_a_table() -> None:
    other = [
        replace(row, task="mbpp", metric="pass@1")
        for run in ("base", "a")
        for row in scores(run, 0 if run == "base" else 10, 0.1, 0.1)[1:]
    ]
    other[0] = replace(other[0], method="base", value=0.2)
    found = study(scores("a", 10, 0.3, 0.1), other)
    points = found.trade_offs.points
    assert set(zip(points["target"], points["measure"], strict=True)) == {
        (target, measure)
        for target in (TARGET, "mbpp pass@1 5-shot")
        for measure in ("forgetting", "forgetting_normalised")
    }
    assert one(points, target="mbpp pass@1 5-shot", measure="forgetting")["learning"] == pytest.approx(0.1)


def sweep() -> Outcomes:
    """Two methods, two rates, three seeds, two steps: the better rate of each forgets more."""
    parts, reports = [], []
    for method, ceiling in (("full", 0.4), ("lora", 0.2)):
        for rate in (1e-4, 1e-3):
            for seed in range(3):
                run = f"{method}-{rate}-{seed}"
                most = ceiling * (1.0 if rate == 1e-3 else 0.5) + 0.01 * seed
                parts += [scores(run, step, most * step / 20, most * step / 40, method=method) for step in (10, 20)]
                record = training(method, rate, seed, rank=8)
                reports.append(report(run, [matrix(run, step, Q, step) for step in (10, 20)], record))
    return study(*parts, reports=reports)


def test_groups_over_seeds_and_the_best_rate() -> None:
    found = sweep().trade_offs
    group = one(found.groups, measure="forgetting", method="full", learning_rate=1e-3, step=20)
    values = np.array([0.40, 0.41, 0.42])
    low, high = t.interval(0.95, 2, values.mean(), values.std(ddof=1) / math.sqrt(3))
    assert group[["seeds", "learning", "learning_low", "learning_high"]].tolist() == pytest.approx([3, 0.41, low, high])
    assert group["forgetting"] == pytest.approx(0.205)
    assert group["reason"] == ""
    best = found.groups[found.groups["best_learning_rate"]]
    assert set(best["learning_rate"]) == {1e-3}  # by the target, though the other rate forgets less
    assert set(best["method"]) == {"full", "lora"}
    assert set(best["note"]) == {"the largest or smallest rate tried: the best may lie beyond"}


def test_forgetting_at_equal_learning() -> None:
    """All curves forget half of what they learn; LoRA's most is 0.22, which some runs of either do not reach."""
    found = sweep().trade_offs.equal_learning
    at = sorted(set(found["at_learning"]))
    assert at == pytest.approx([0.11, 0.22])
    row = one(found, measure="forgetting", at_learning=at[0], method="full", learning_rate=1e-4)
    assert (row["seeds"], row["forgetting"], row["reason"]) == (3, pytest.approx(0.055), "")
    assert row["low"] == pytest.approx(row["high"])
    row = one(found, measure="forgetting", at_learning=at[1], method="lora", learning_rate=1e-3)
    assert row["reason"] == "2 of 3 runs do not reach it"
    assert math.isnan(row["forgetting"])


def test_a_rate_that_diverged_was_tried_and_is_not_the_best() -> None:
    """The largest rate has a seed without a value: what its other seed learned is no mean over seeds."""
    parts, reports = [], []
    for rate, learned in ((1e-4, 0.1), (1e-3, 0.2), (1e-2, 0.9)):
        for seed in range(2):
            run = f"{rate}-{seed}"
            value = math.nan if (rate, seed) == (1e-2, 1) else learned
            parts.append(scores(run, 10, value, 0.1))
            reports.append(report(run, [matrix(run, 10, Q, 4)], training("full", rate, seed)))
    groups = study(*parts, reports=reports).trade_offs.groups
    best = groups[groups["best_learning_rate"] & (groups["measure"] == "forgetting")]
    assert best[["learning_rate", "note"]].to_numpy().tolist() == [[1e-3, ""]]


def test_a_method_that_learned_nothing_does_not_hide_the_others() -> None:
    parts = [
        scores(name, 10, learned, 0.1, method=name) for name, learned in (("full", 0.4), ("lora", 0.2), ("ia3", -0.1))
    ]
    equal = study(*parts).trade_offs.equal_learning
    assert sorted(set(equal["at_learning"])) == pytest.approx([0.1, 0.2])
    row = one(equal, measure="forgetting", at_learning=equal["at_learning"].min(), method="ia3")
    assert row["reason"] == "1 of 1 runs do not reach it"
    assert math.isnan(row["forgetting"])
    row = one(equal, measure="forgetting", at_learning=equal["at_learning"].min(), method="full")
    assert row["forgetting"] == pytest.approx(0.025)


def test_areas_share_their_reference() -> None:
    areas = sweep().trade_offs.areas
    own = areas[areas["measure"] == "forgetting"].set_index("method")
    assert own.index.tolist() == ["all methods", "full", "lora"]
    assert set(own["reference_forgetting"].round(9)) == {0.21}
    assert own.loc["all methods", "hypervolume"] >= own["hypervolume"].max()
    assert (own["low"] < own["hypervolume"]).all()


def test_no_interval_from_single_points() -> None:
    reports = [report("a", [matrix("a", 10, Q, 4)], training("full", 1e-4, 0))]
    found = study(scores("a", 10, 0.1, 0.1), scores("b", 10, 0.1, 0.1), reports=reports).trade_offs.groups
    known, unknown = one(found, setting="", measure="forgetting"), one(found, setting="b", measure="forgetting")
    assert known["reason"] == "one seed, which says nothing of the spread"
    assert unknown["reason"] == "no report of this run"
    assert math.isnan(known["learning_low"])
    assert known["best_learning_rate"]
    assert known["note"] == "the only rate: none was searched for"
    assert not unknown["best_learning_rate"]
    twice = [report(run, [matrix(run, 10, Q, 4)], training("full", 1e-4, 0)) for run in ("a", "b")]
    row = one(
        study(scores("a", 10, 0.1, 0.1), scores("b", 10, 0.2, 0.1), reports=twice).trade_offs.groups,
        measure="forgetting",
    )
    assert row["reason"] == "a seed is there twice, so that its runs are not independent"
    assert (row["learning"], math.isnan(row["learning_low"])) == (pytest.approx(0.15), True)


def test_runs_are_told_apart_by_their_settings() -> None:
    records = {
        "a": training("lora", 1e-4, 0, rank=8),
        "b": training("lora", 1e-3, 1, rank=64),
        "c": training("full", 1e-4, 0),
    }
    records["d"] = records["c"] | {"optimizer": "lion_32bit", "data": {"sha256": "1"}}
    facts = run_facts([{"settings": {"run": run}, "training": record} for run, record in records.items()])
    assert [facts[run].setting for run in ("a", "b")] == ["rank 8", "rank 64"]
    assert facts["c"].setting == "data -, optimizer adamw_torch"
    assert facts["d"].setting.endswith("optimizer lion_32bit")
    odd = run_facts([{"settings": {"run": "x"}, "training": {"learning_rate": "fast", "seed": True, "choices": 3}}])[
        "x"
    ]
    assert (math.isnan(odd.learning_rate), odd.seed, odd.setting) == (True, None, "")
    control = {"method": "a\x1b[2J", "learning_rate": 10**400, "seed": 10**30}
    odd = run_facts([{"settings": {"run": "x"}, "training": control}])["x"]
    assert (odd.method, math.isnan(odd.learning_rate), odd.seed) == (r"a\x1b[2J", True, None)


def test_the_rank_that_goes_with_forgetting() -> None:
    generator, parts, reports = np.random.default_rng(0), [], []
    for index in range(16):
        forgot, run = float(generator.uniform(0, 0.15)), f"run{index}"
        rows = [matrix(run, step, Q, round(10 + 1000 * forgot * step / 20)) for step in (10, 20)]
        rows += [matrix(run, step, UP, int(generator.integers(5, 300))) for step in (10, 20)]
        reports.append(report(run, rows, training("full", 1e-4, index)))
        parts += [scores(run, step, float(generator.uniform(0, 0.3)), forgot * step / 20) for step in (10, 20)]
    found = study(*parts, reports=reports).associations
    planted = one(found, measure="forgetting", level="module", item=Q)
    assert planted["runs"] == 16  # each once, though it has two checkpoints
    assert planted["correlation"] > 0.99
    assert planted["p_bh"] < 0.05
    assert planted["partial_p_bh"] < 0.05
    other = one(found, measure="forgetting", level="module", item=UP)
    assert other["p_bh"] > 0.05
    assert one(found, measure="forgetting", level="kind", item="q")["correlation"] == pytest.approx(
        planted["correlation"]
    )
    assert set(found["level"]) == {"module", "kind", "model"}
    few = study(*parts[:6], reports=reports[:3]).associations
    assert set(few["reason"]) == {"3 independent runs, of which 8 at least are needed"}
    with pytest.raises(RankLabError, match="rank 'stable' is not known here"):
        outcomes(reports, ScoreTable.of(BASE), OutcomeChoices(rank="stable"))
