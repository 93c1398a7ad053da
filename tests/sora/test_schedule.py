"""Algorithm 1: what every stage does, what its row says, and what is refused."""

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import TrainingArguments, default_data_collator

from rank_lab import analyze
from rank_lab.curve import Curve
from rank_lab.errors import NonFiniteError, RankLabError, SchemaError
from rank_lab.scores import Score
from rank_lab.sora import StopRule
from rank_lab.sora.adapter_files import load_adapter
from rank_lab.sora.predictions import predictions_of, read_predictions
from rank_lab.sora.stage_row import EvaluationSets
from tests.sora.schedules import KINDS, SCORE, adapter, arguments, maker, plan, rows, run, timeless

CONTROLS = ("as_shipped", "one_shot", "one_shot_importance", "svd")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Curve]:
    """A finished run with all controls that other tests look at and do not change."""
    out = tmp_path_factory.mktemp("study")
    return out, run(out, schedule=plan(controls=CONTROLS))


def stages(curve: Curve) -> pd.DataFrame:
    return curve.rows.query("control == 'sora'").reset_index(drop=True)


def test_one_row_a_stage_and_control(study: tuple[Path, Curve]) -> None:
    out, curve = study
    assert [row.key for row in curve.records] == [(0, "sora", stage) for stage in range(3)] + [
        (0, control, stage) for control in CONTROLS for stage in (1, 2)
    ]
    assert Curve.load(out) == curve
    found = stages(curve)
    assert found["threshold"].tolist() == [0.0, 1.0, 2.0]
    assert (found["steps"] == 16).all()
    assert (found["hook_calls"] == found["steps"]).all()
    assert set(found["stop"]) == {"max_steps"}
    assert not found["converged"].any()
    assert (found["seconds"] > 0).all()
    assert set(found["model"]) == {"tiny"}
    gates = found["nonzero_gates"].tolist()
    assert gates[0] == found["gates"][0] == 12
    assert gates[0] > gates[1] > gates[2]
    assert [*out.rglob("training")] == [out / "seed-0" / "stage-02" / "training"]  # for thresholds that are added


def test_the_learning_rate_starts_again_and_weights_move_in_every_stage(study: tuple[Path, Curve]) -> None:
    """The published script trains nothing after its first stage."""
    out, curve = study
    found = stages(curve)
    assert found["lr_start"].tolist() == [0.0] * 3
    assert found["lr_peak"].tolist() == found["lr_end"].tolist() == [0.02] * 3
    before = adapter(out / "seed-0" / "stage-00")
    for stage in (1, 2):
        now = adapter(out / "seed-0" / f"stage-{stage:02d}")
        assert {name.split(".")[-2] for name in now} >= {"lora_A", "lora_B", "classifier"}
        for name, value in now.items():
            if "lora_gate" not in name:
                assert not torch.equal(value, before[name]), name
        before = now


def test_rates_that_fall_start_again_too(tmp_path: Path) -> None:
    found = run(tmp_path, arguments=arguments(lr_scheduler_type="linear")).rows
    assert found["lr_peak"].tolist() == [0.02] * 3
    assert found["lr_end"].tolist() == pytest.approx([0.02 / 14] * 3)


def test_analyze_reads_a_stage_as_it_is(study: tuple[Path, Curve]) -> None:
    out, curve = study
    for row in curve.records:
        folder = out / "seed-0" / ("" if row.control == "sora" else row.control) / f"stage-{row.stage:02d}"
        report = analyze(folder)
        assert not report.coverage["failed"].any()
        ranks = dict(zip(report.updates["module"], report.updates["numerical_rank"], strict=True))
        assert ranks == row.nonzero_by_module
        effective = report.updates["effective_rank"].fillna(0.0)
        assert row.effective_rank == pytest.approx(effective.mean(), rel=1e-9)
        width = (report.updates["in_features"] + report.updates["out_features"]) * report.updates["numerical_rank"]
        assert row.nonzero_parameters == width.sum()
        config = json.loads((folder / "adapter_config.json").read_text())
        expected = row.threshold if row.control in ("sora", "as_shipped") else None
        assert config["threshold"] == expected


def test_scores_are_those_of_the_saved_predictions(study: tuple[Path, Curve]) -> None:
    out, curve = study
    subset = json.loads((out / "memorization_subset.json").read_text())
    assert len(subset["indices"]) == 30
    labels, intervals = rows()["labels"], 0
    for row in curve.records:
        folder = out / "seed-0" / ("" if row.control == "sora" else row.control) / f"stage-{row.stage:02d}"
        table = pd.read_parquet(folder / "predictions.parquet")
        train, validation = (table[table["set"] == name] for name in ("train", "validation"))
        assert train["index"].tolist() == subset["indices"]
        assert train["label"].tolist() == [labels[index] for index in subset["indices"]]
        assert row.train_score == (train["label"] == train["prediction"]).mean()
        assert row.validation_score == (validation["label"] == validation["prediction"]).mean()
        assert row.memorization == pytest.approx(100 * row.train_score / row.train_reference)
        first = curve.find(0, "sora", 0)
        assert first is not None
        assert (row.train_reference, row.validation_reference) == (first.train_score, first.validation_score)
        if row.memorization_low is not None and row.memorization_high is not None:
            assert row.memorization_low <= row.memorization <= row.memorization_high
            intervals += 1
    assert intervals >= 5  # of 11; stage 0 is 100 exactly, and so is what differs from it in no example


def test_controls_keep_the_parameters_of_the_stage_beside_them(study: tuple[Path, Curve]) -> None:
    out, curve = study
    dense = adapter(out / "seed-0" / "stage-00")
    for row in curve.records:
        if row.control == "sora":
            continue
        beside = curve.find(0, "sora", row.stage)
        assert beside is not None
        assert (row.stop, row.steps, row.seconds, row.converged) == ("not_trained", 0, None, None)
        if row.control != "as_shipped":
            assert row.nonzero_parameters <= beside.nonzero_parameters
            assert beside.nonzero_parameters - row.nonzero_parameters < 40
        now = adapter(out / "seed-0" / row.control / f"stage-{row.stage:02d}")
        head = [name for name in dense if "classifier" in name]
        assert head
        assert all(torch.equal(now[name], dense[name]) for name in head)
    total = 0.02 * (0.5 + 14)  # of stage 1: rates 0, 0.01, 0.02, 0.02 ...
    shipped = adapter(out / "seed-0" / "as_shipped" / "stage-01")
    for name in (name for name in dense if "lora_gate" in name):
        torch.testing.assert_close(shipped[name], dense[name].sign() * (dense[name].abs() - total).clamp(min=0.0))


def test_controls_without_a_gate_are_one_model_that_is_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure, calls = EvaluationSets.predicted, []

    def counted(sets: EvaluationSets, model: Any) -> Any:
        calls.append(model)
        return measure(sets, model)

    monkeypatch.setattr(EvaluationSets, "predicted", counted)
    curve = run(tmp_path, schedule=plan(thresholds=(0.0, 300.0, 400.0), controls=("as_shipped", "svd")))
    beside = [row for row in curve.records if row.control != "sora"]
    assert len(beside) == 4
    assert {row.nonzero_gates for row in beside} == {0}
    assert len(calls) == 3 + 1
    model = maker()()
    load_adapter(model, tmp_path / "seed-0" / "svd" / "stage-02")
    found = predictions_of(model, rows("classification", 24, 9), default_data_collator, "classification", 8)
    assert [row.validation_loss for row in beside] == pytest.approx([found.loss] * 4)
    kept = read_predictions(tmp_path / "seed-0" / "svd" / "stage-02", "validation")
    assert kept.tolist() == found.predictions.tolist()


def test_losses_hold_no_penalty_and_no_dropout(tmp_path: Path) -> None:
    make = maker(l1_weight=10.0)
    curve = run(tmp_path, make_model=make, schedule=plan(thresholds=(0.0,)))
    torch.manual_seed(0)
    loaded = make().eval()
    load_adapter(loaded, tmp_path / "seed-0" / "stage-00")
    batch = default_data_collator([*rows("classification", 24, 9)])
    with torch.no_grad():
        plain = float(loaded(**batch).loss)
    assert curve.records[0].validation_loss == pytest.approx(plain, rel=1e-5)
    progress = tmp_path / "seed-0" / "stage-00" / "progress.jsonl"
    logged = [json.loads(line) for line in progress.read_text().splitlines()]
    assert min(line["loss"] for line in logged) > 5.0  # there it is


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model(tmp_path: Path, kind: str) -> None:
    schedule = plan(thresholds=(0.0, 4.0), controls=CONTROLS, reference="best", seeds=(0, 3))
    curve = run(tmp_path, kind, schedule)
    assert [row.key[:2] for row in curve.records if row.control == "sora"] == [(0, "sora")] * 2 + [(3, "sora")] * 2
    assert len(curve.records) == 2 * (2 + 4)
    assert set(curve.rows["score"]) == {SCORE[kind]}
    assert np.isfinite(curve.rows[["train_loss", "validation_loss", "effective_rank"]].to_numpy()).all()
    first, other = (adapter(tmp_path / f"seed-{seed}" / "stage-00") for seed in (0, 3))
    assert not any(torch.equal(value, other[name]) for name, value in first.items() if "lora_A" in name)
    for row in curve.records:
        best = max(
            each.train_score or -1.0
            for each in curve.records
            if (each.seed, each.control) == (row.seed, "sora") and each.stage <= row.stage
        )
        assert (row.train_reference or -1.0) == best


def test_the_mode_adam_starts_after_warmup(tmp_path: Path) -> None:
    make = maker(threshold_mode="adam")
    schedule = plan(thresholds=(0.0, 0.05), controls=("as_shipped",))
    curve = run(tmp_path, make_model=make, schedule=schedule)
    config = json.loads((tmp_path / "seed-0" / "stage-01" / "adapter_config.json").read_text())
    assert config["prox_start_step"] == 2
    assert curve.records[1].nonzero_gates < 12
    assert [row.control for row in curve.records] == ["sora", "sora", "as_shipped"]
    with pytest.raises(RankLabError, match="give warm-up"):
        run(tmp_path / "other", make_model=make, schedule=schedule, arguments=arguments(warmup_steps=0))


def test_moments_go_along_or_not(tmp_path: Path) -> None:
    kept, reset = (run(tmp_path / str(keep), schedule=plan(keep_moments=keep)) for keep in (True, False))
    assert timeless(kept)[0] == timeless(reset)[0]
    first, second = (adapter(tmp_path / str(keep) / "seed-0" / "stage-01") for keep in (True, False))
    assert not all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize("targets", [{"target_ranks": (2, 1)}, {"target_parameters": (200, 100)}])
def test_stages_that_are_driven_to_targets(tmp_path: Path, targets: dict[str, Any]) -> None:
    stop = StopRule(min_steps=12, max_steps=40, check_steps=4, patience=2, tolerance=0.05)
    curve = run(tmp_path, schedule=plan(thresholds=(), controls=None, stop=stop, **targets))
    found = stages(curve)
    assert found["target_reached"].tolist() == [None, True, True]
    kind = "rank" if "target_ranks" in targets else "parameters"
    assert set(found["target_kind"][1:]) == {kind}
    counts = found["nonzero_gates"] / 3 if kind == "rank" else found["nonzero_parameters"]
    for count, target in zip(counts[1:], found["target"][1:], strict=True):
        assert target - 40 < count <= target
    if kind == "rank":
        assert counts.tolist()[1:] == [2, 1]
    assert (found["threshold"][1:] > 0).all()
    assert {row.control for row in curve.records} == {"sora", "one_shot", "one_shot_importance", "svd"}


def test_a_target_that_is_not_reached_says_so(tmp_path: Path) -> None:
    stop = StopRule(min_steps=4, max_steps=8, check_steps=4)
    linear = arguments(warmup_steps=0, learning_rate=0.0)
    dense = StopRule(min_steps=0, max_steps=16, check_steps=4)
    schedule = plan(thresholds=(), target_ranks=(1,), stop=stop, dense_stop=dense, controls=(), reference="best")
    row = run(tmp_path, schedule=schedule, arguments=linear).records[1]
    assert (row.stop, row.target_reached, row.converged) == ("target_not_reached", False, False)


def test_predictions_leave_the_model_and_the_random_state_alone() -> None:
    torch.manual_seed(1)
    model = maker()().train()
    state = torch.random.get_rng_state()
    one, other = (predictions_of(model, rows(), default_data_collator, "classification", size) for size in (7, 40))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.training
    assert one.loss == pytest.approx(other.loss, rel=1e-5)
    assert one.labels.tolist() == rows()["labels"]
    assert one.predictions.tolist() == other.predictions.tolist()


def test_target_tokens_are_counted_where_they_stand() -> None:
    torch.manual_seed(1)
    model = maker("causal")().eval()
    ids = torch.tensor(rows("causal", 3)["input_ids"])
    labels = ids.clone()
    labels[:, :3] = -100
    labels[1] = -100
    data = [{"input_ids": list(a), "labels": list(b)} for a, b in zip(ids.tolist(), labels.tolist(), strict=True)]
    found = predictions_of(model, data, default_data_collator, "causal", 2)
    assert found.labels.tolist() == [3.0, 0.0, 3.0]
    with torch.no_grad():
        logits = model(input_ids=ids).logits
    right = (logits[:, :-1].argmax(-1) == labels[:, 1:]).sum(dim=1)
    assert found.predictions.tolist() == right.tolist()
    losses = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert found.loss == pytest.approx(float(losses), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_of_a_model_in_half_precision(kind: str) -> None:
    """They are read where and as the outputs are, which numpy has no type for."""
    torch.manual_seed(1)
    model = maker(kind)().bfloat16().eval()
    data = rows(kind)
    found = predictions_of(model, data, default_data_collator, kind, 40)
    with torch.no_grad():
        logits = model(**default_data_collator([*data])).logits.float()
    if kind == "regression":
        assert found.predictions.tolist() == logits[:, 0].tolist()
    elif kind == "classification":
        assert found.predictions.tolist() == logits.argmax(-1).tolist()
    else:
        targets = torch.tensor(data["labels"][:])[:, 1:]
        assert found.predictions.tolist() == (logits[:, :-1].argmax(-1) == targets).sum(1).tolist()


def test_a_reference_that_knows_nothing_is_warned_of(tmp_path: Path) -> None:
    curve = run(tmp_path, arguments=arguments(learning_rate=0.0), schedule=plan(thresholds=(0.0, 1.0)))
    for row in curve.records:
        assert row.train_score is not None
        assert row.train_score <= 0.5
        for name in ("train", "validation"):
            assert (f"{name}: accuracy" in row.warning) is (row.stage == 0)


def nothing_right(labels: Any, predictions: Any) -> float:
    return 0.0


def undefined(labels: Any, predictions: Any) -> float:
    return math.nan


@pytest.mark.parametrize(("function", "value"), [(nothing_right, "0.0"), (undefined, "None")])
def test_a_reference_that_nothing_can_be_divided_by(tmp_path: Path, function: Any, value: str) -> None:
    score = Score("strange", "classification", function, "here")
    for _ in range(2):  # again: nothing is trained, the same is said
        with pytest.raises(RankLabError, match=rf"after stage 0 the train strange is {value}, .*dense_stop"):
            run(tmp_path, score=score)
        row = Curve.load(tmp_path).records[0]
        assert len(Curve.load(tmp_path).records) == 1
        assert row.memorization is None
        assert "not above 0" in row.warning
    curve = run(tmp_path / "best", score=score, schedule=plan(reference="best", thresholds=(0.0, 1.0)))
    assert [row.memorization for row in curve.records] == [None, None]


def breaking(after: int) -> Callable[[], Any]:
    """A model whose loss is infinite after so many batches of training."""

    def make() -> Any:
        model = maker()()
        calls, base = {"n": 0}, model.get_base_model()
        whole = base.forward

        @functools.wraps(whole)  # peft 0.20 calls it without the module's hooks
        def forward(*arguments: Any, **named: Any) -> Any:
            output = whole(*arguments, **named)
            calls["n"] += base.training
            if calls["n"] > after:
                output["loss"] = output["loss"] * math.inf
            return output

        base.forward = forward
        return model

    return make


def test_a_stage_that_diverges_keeps_what_was_before(tmp_path: Path) -> None:
    expected = r"seed 0, stage 1 \(threshold 1\): step 5: the training loss is (inf|nan): .* lower the learning rate"
    with pytest.raises(NonFiniteError, match=expected):
        run(tmp_path, make_model=breaking(after=16 + 5))
    assert [row.stage for row in Curve.load(tmp_path).records] == [0]
    assert (tmp_path / "seed-0" / "stage-00" / "adapter_model.safetensors").is_file()
    assert len(run(tmp_path).records) == 3  # without the fault it goes on


def test_a_loss_that_is_read_at_checks_only_names_the_first_bad_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rank_lab.sora.divergence._is_read_at_once", lambda loss: False)
    told: list[str] = []
    with pytest.raises(NonFiniteError, match=r"stage 1 \(threshold 1\): step 5: the training loss is inf"):
        run(tmp_path, make_model=breaking(after=16 + 5), watch=told.append)
    assert told[-1].startswith("seed 0, stage 1 (threshold 1): step 4:")  # of the check at step 8 nothing is kept
    assert len((tmp_path / "seed-0" / "stage-01" / "progress.jsonl").read_text().splitlines()) == 1


def test_values_that_are_not_finite_are_found_before_they_are_saved(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match=r"stage 0 .*step \d+: .* (nan|inf): training diverges"):
        run(tmp_path, arguments=arguments(learning_rate=1e38, max_grad_norm=0.0))
    assert Curve.to_continue(tmp_path).records == ()


def test_the_published_count_stands_beside_the_exact_one(study: tuple[Path, Curve]) -> None:
    _, curve = study
    for row in curve.records:
        every = 4 * (16 + 16) * 2 + 4 * (16 + 24)
        assert row.published_parameters == every - (12 - row.nonzero_gates) * 2 * 16


def test_half_precision_is_the_users(tmp_path: Path) -> None:
    curve = run(tmp_path, schedule=plan(thresholds=(0.0, 2.0)), arguments=arguments(bf16=True))
    assert [row.steps for row in curve.records] == [16, 16]
    again = run(tmp_path / "again", schedule=plan(thresholds=(0.0, 2.0)), arguments=arguments(bf16=True))
    assert timeless(again) == timeless(curve)


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[str] = []
    rows_told: list[Any] = []
    schedule = plan(thresholds=(0.0, 1.0), controls=("svd",))
    curve = run(tmp_path, schedule=schedule, watch=told.append, progress=rows_told.append)
    assert told[0].startswith("seed 0, stage 0 (threshold 0): step 4: loss ")
    assert told[-1].startswith("seed 0, stage 1 (threshold 1): step 16: loss ")
    assert len(told) == 4 * 2
    assert tuple(rows_told) == curve.records


def test_the_default_arguments_keep_the_rate(tmp_path: Path) -> None:
    stop = StopRule(min_steps=4, max_steps=4, check_steps=4)
    row = run(tmp_path, schedule=plan(thresholds=(0.0,), stop=stop), arguments=None).records[0]
    assert row.lr_peak == row.lr_end == 1e-3
    recorded = json.loads((tmp_path / "schedule.json").read_text())
    assert recorded["arguments"]["lr_scheduler_type"] == "constant_with_warmup"
    assert recorded["schedule"]["thresholds"] == [0.0]
    assert recorded["adapter"]["threshold_mode"] == "lr"
    assert recorded["data"]["train"]["rows"] == 40
    assert recorded["environments"][0]["device_type"] == TrainingArguments("unused").device.type


def test_a_row_of_another_schema(study: tuple[Path, Curve], tmp_path: Path) -> None:
    lines = (study[0] / "curve.jsonl").read_text().splitlines()
    for changed, message in (
        (lines[0].replace('"schema": 1', '"schema": 2'), "line 1: a row of schema 2"),
        (lines[0].replace('"steps"', '"stops"'), "line 1 lacks or adds steps, stops"),
        ("{" + lines[0], "line 1 is no JSON"),
        (lines[0] + "\n" + lines[0], "two rows of seed 0, sora, stage 0"),
    ):
        (tmp_path / "curve.jsonl").write_text(changed + "\n")
        with pytest.raises(SchemaError, match=message):
            Curve.load(tmp_path)
