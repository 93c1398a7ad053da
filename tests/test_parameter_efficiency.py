"""The study of parameters and scores: equal effort, exact counts, and no claim that its intervals do not carry."""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from transformers import get_scheduler

from analyses import parameter_efficiency
from analyses.efficiency_arms import ADAPTER_RATES, FULL_RATES, KEPT, arms, more_arms, stated, titles, warmed_linear
from analyses.efficiency_numbers import MARGIN, Estimate, averaged, chosen_rates, compared, estimated, verdict
from analyses.efficiency_picture import draw
from analyses.efficiency_report import claims
from analyses.efficiency_runs import halves, parameters_of
from analyses.efficiency_tables import AVERAGE, differences_of, effort_of, scores_of
from rank_lab.base_model import load_base
from rank_lab.demo import BASE
from rank_lab.errors import RankLabError
from rank_lab.scores import SCORES
from rank_lab.sora.gates import gate_parameters
from rank_lab.training.method import MethodChoices
from rank_lab.training.methods import METHODS

ACCURACY = SCORES["accuracy"]
_EXAMPLES = 400
LABELS = np.arange(_EXAMPLES) % 2.0


def with_errors(count: int, start: int = 0) -> npt.NDArray[np.float64]:
    """Predictions that are wrong on so many examples in a row."""
    wrong = np.isin(np.arange(_EXAMPLES), (start + np.arange(count)) % _EXAMPLES)
    return np.where(wrong, 1 - LABELS, LABELS)


def test_effort_is_equal_and_every_default_is_among_the_rates() -> None:
    found = more_arms(80)
    assert [arm.name for arm in found[: len(arms(80))]] == [arm.name for arm in arms(80)]
    assert len({arm.name for arm in found}) == len(found)
    assert {len(arm.learning_rates) for arm in found} == {len(FULL_RATES)} == {len(ADAPTER_RATES)}
    assert all(arm.default_rate in arm.learning_rates for arm in found)
    assert {arm["name"] for arm in stated(found)} == set(titles())
    assert {arm.keep for arm in found if arm.method == "sora" and arm.choices.threshold == 0} == {KEPT}


@pytest.mark.parametrize(("steps", "warmup"), [(80, 0.06), (7, 0.0), (12, 0.5)])
def test_rates_of_a_schedule_are_those_of_transformers(steps: int, warmup: float) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    plan = get_scheduler("linear", optimizer, num_warmup_steps=math.ceil(steps * warmup), num_training_steps=steps)
    taken = []
    for _ in range(steps):
        taken.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        plan.step()
    assert warmed_linear(steps, warmup) == pytest.approx(taken)


def test_the_fixed_threshold_closes_with_the_last_step_a_gate_that_nothing_holds() -> None:
    for steps in (80, 1000):
        choices = next(arm for arm in more_arms(steps) if arm.name == "sora-fixed-r8").choices
        assert choices.gate_lr is not None
        assert choices.threshold * choices.gate_lr * sum(warmed_linear(steps)) == pytest.approx(1.0, rel=1e-3)


def test_rates_are_chosen_by_the_half_that_chooses_and_of_equal_ones_the_smallest() -> None:
    tried = [(0.1, 0.5, 0.9), (0.2, 0.7, 0.1), (0.4, 0.7, 0.8), (0.8, math.nan, 1.0)]
    rows = pd.DataFrame(tried, columns=["learning_rate", "choice_score", "report_score"]).assign(task="t", arm="a")
    assert chosen_rates(rows.iloc[::-1])["learning_rate"].tolist() == [0.2]
    again = rows.assign(choice_score=[0.6, 0.1, 0.6, 1.0])  # what one seed alone could do is not chosen
    assert chosen_rates(pd.concat([rows, again]))["learning_rate"].tolist() == [0.4]
    chosen, reported = halves(101)
    assert not set(chosen) & set(reported)
    assert len(chosen) + len(reported) == 101


def test_a_difference_is_paired_by_example_and_by_seed() -> None:
    first = [with_errors(40 + 10 * seed) for seed in range(3)]
    second = [with_errors(48 + 10 * seed) for seed in range(3)]  # wrong on the same examples and eight more
    found = compared(ACCURACY, LABELS, first, second)
    assert found.value == pytest.approx(2.0)
    assert found.seed_variance == pytest.approx(0.0, abs=1e-12)
    expected = 0.02 * 0.98 / _EXAMPLES / 3  # the eight are others with each seed: only they move it, in 10 of 8 places
    assert found.example_variance == pytest.approx(1e4 * expected, rel=0.15)
    assert verdict(*found.interval()) == "better"
    alone = estimated(ACCURACY, LABELS, second)
    assert alone.example_variance > 3 * found.example_variance
    mixed = compared(ACCURACY, LABELS, first, second[::-1])
    assert mixed.value == pytest.approx(2.0)
    assert mixed.seed_variance > 1


def test_intervals_are_students_over_seeds_and_normal_over_examples() -> None:
    low, high = Estimate(80.0, 0.25, 0.0, 2).interval()
    assert (low, high) == pytest.approx((80 - 0.98, 80 + 0.98), abs=1e-3)
    assert Estimate(80.0, 0.0, 0.25, 1).interval()[1] == pytest.approx(80 + 12.7062 * 0.5, abs=1e-3)
    both = averaged([Estimate(80.0, 0.0, 1.0, 2), Estimate(90.0, 0.0, 1.0, 2)])
    assert (both.value, both.seed_variance, both.freedom) == pytest.approx((85.0, 0.5, 4.0))
    assert all(map(math.isnan, estimated(ACCURACY, LABELS, [LABELS]).interval()))  # one seed


def test_the_interval_covers_a_difference_of_zero_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = []
    for _ in range(120):
        labels = (generator.random(150) < 0.5).astype(float)
        hard = generator.random(150)  # examples are of different hardness, and seeds of different luck
        runs = [[np.where(hard + generator.normal(0, 0.15, 150) + generator.normal(0, 0.03) < 0.8, labels, 1 - labels)
                 for _ in range(3)] for _ in range(2)]  # fmt: skip
        low, high = compared(ACCURACY, labels, *runs).interval()
        covered.append(low <= 0 <= high)
    assert np.mean(covered) > 0.92


def rows_of_study(accuracies: dict[str, float], parameters: dict[str, int]) -> pd.DataFrame:
    """Rows of cells as a run gives them: SST-2, two rates, three seeds to report."""
    rows = []
    for arm, accuracy in accuracies.items():
        for seed, rate in ((0, 0.001), (0, 0.004), (1, 0.004), (2, 0.004), (3, 0.004)):
            wrong = round((1 - accuracy) * _EXAMPLES) + (20 if rate == 0.001 else 0)
            predictions = with_errors(wrong)
            chosen, reported = halves(_EXAMPLES)
            rows.append(
                {
                    "task": "sst2", "arm": arm, "learning_rate": rate, "seed": seed,
                    "stage": "report" if seed else "choice", "trained": parameters[arm],
                    "nonzero": parameters[arm] * (KEPT if arm.startswith("sora") else 1),
                    "published_count": None, "head": 770, "base": 10**7,
                    "choice_score": ACCURACY.of(LABELS[chosen], predictions[chosen]),
                    "report_score": ACCURACY.of(LABELS[reported], predictions[reported]),
                    "predictions": predictions.tolist(), "labels": LABELS.tolist(),
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def test_tables_and_claims_of_planted_scores() -> None:
    chosen = [arm for arm in arms(80) if arm.name in {"lora-r8", "sora-r8", "lora-r4"}]
    rows = rows_of_study(
        {"lora-r8": 0.9, "sora-r8": 0.9, "lora-r4": 0.8}, {"lora-r8": 12345678, "sora-r8": 1000, "lora-r4": 500}
    )
    scores = scores_of(rows, chosen).set_index("arm")
    assert scores.loc["lora-r8", "value"] == pytest.approx(90, abs=3)  # of one half
    assert scores.loc["sora-r8", "share_of_full"] == pytest.approx(7e-5)
    assert scores.loc["sora-r8", "one_answer"] == pytest.approx(50, abs=5)
    assert scores["seeds"].tolist() == [3, 3, 3]
    assert scores["trained"].tolist() == [12345678, 1000, 500]  # whole, so that a table keeps each digit
    differences = differences_of(rows, chosen).set_index(["first", "second"])
    claim = differences.loc["sora-r8", "lora-r8"]
    assert (claim["value"], claim["verdict"], claim["parameters"]) == (0.0, "not worse", pytest.approx(700 / 12345678))
    assert differences.loc["lora-r4", "lora-r8"]["verdict"] == "worse"
    told = {line[0]: line[1] for line in claims(scores.reset_index(), differences.reset_index())}
    assert told["SoRA with about 70% of LoRA's parameters is not worse"] == "seen"
    assert told["SoRA scores higher than LoRA, by 0.98 on average"] == "not seen"
    assert told["the same at other largest ranks (Table 2)"] == "not run"
    effort = effort_of(rows, chosen).set_index("arm")
    assert effort["chosen_rate"].tolist() == [0.004] * 3
    assert effort["at_edge"].all()
    assert effort["default_score"].isna().all()  # no default among these rates
    figure = draw(scores.reset_index())
    points = {trace.name: trace for trace in figure.data if trace.name}
    assert list(points["LoRA"].x) == [500, 12345678]
    floor = draw(scores.reset_index().assign(low=50.0, one_answer=51.0)).data[-1]
    assert (floor.name, list(floor.y), list(floor.x)) == ("one answer for all", [51.0, 51.0], [500, 12345678])
    assert list(points["SoRA, 70 % kept"].x) == pytest.approx([700])


@pytest.mark.parametrize(
    ("value", "half", "not_worse", "ahead"),
    [
        (0.0, 0.5, "seen", "not seen"),
        (0.0, 3.0, "cannot be told apart", "cannot be told apart"),
        (-4.0, 1.0, "not seen", "not seen"),
        (1.0, 0.5, "seen", "seen"),
        (-0.5, 0.4, "seen", "not seen"),  # worse, and by less than the margin
    ],
)
def test_claims_say_what_intervals_carry(value: float, half: float, not_worse: str, ahead: str) -> None:
    low, high = value - half, value + half
    row = {"task": AVERAGE, "first": "sora-r8", "second": "lora-r8", "parameters": 0.7, "value": value, "low": low,
           "high": high, "margin": MARGIN, "verdict": verdict(low, high)}  # fmt: skip
    scores = pd.DataFrame({"arm": ["sora-r8", "lora-r8"], "low": [70.0, 60.0], "one_answer": [51.0, 51.0]})
    found = claims(scores, pd.DataFrame([row]))
    assert [line[1] for line in found[:2]] == [not_worse, ahead]
    scores["low"] = [50.0, 60.0]
    for line in claims(scores, pd.DataFrame([row]))[:2]:
        assert line[1] == "not testable here"
        assert line[2].endswith("not above one answer for all examples: SoRA, r at most 8, 70% kept")


def adapted(method: str, **choices: Any) -> Any:
    return METHODS[method].adapt(load_base(BASE, "causal", dtype="float32"), MethodChoices(**choices), "causal")


def test_parameters_are_counted_exactly() -> None:
    lora, sora = adapted("lora", rank=2), adapted("sora", rank=2)
    counts = parameters_of(lora, 5)
    size = counts["trained"]
    assert counts == {"trained": size, "nonzero": size, "published_count": None, "head": 5, "base": counts["base"]}
    original = load_base(BASE, "causal", dtype="float32")
    assert counts["base"] == sum(value.numel() for value in original.parameters())
    gates = gate_parameters(sora)
    name, gate = next((name, gate) for name, gate in gates.items() if "down_proj" in name)
    with torch.no_grad():
        gate[0] = 0.0
    layer = original.get_submodule(name.removeprefix("base_model.model.").partition(".lora_gate")[0])
    found = parameters_of(sora, 0)
    assert found["trained"] == size + sum(each.numel() for each in gates.values())
    assert found["nonzero"] == size - layer.in_features - layer.out_features
    assert found["published_count"] == size - 2 * original.config.hidden_size


def test_directions_that_adalora_cut_are_not_counted() -> None:
    model = adapted("adalora", rank=2, steps=10)  # begins with three
    module = next(module for module in model.modules() if hasattr(module, "lora_E"))
    with torch.no_grad():
        for name, values in model.named_parameters():
            if ".lora_E." in name:
                values.fill_(1.0)
        module.lora_E["default"][1:] = 0.0
    counts = parameters_of(model, 0)
    one = module.lora_A["default"].shape[1] + module.lora_B["default"].shape[0] + 1
    assert counts["nonzero"] == counts["trained"] - 2 * one


def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *further: str) -> argparse.Namespace:
    words = ("good", "fine", "bad", "poor")
    folder = tmp_path / "data" / "sst2"
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", 64), ("validation", 24)):
        lines = [json.dumps({"sentence": f"{words[n % 4]} film {n}", "label": int(n % 4 < 2)}) for n in range(count)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    where = ["--data", str(tmp_path / "data"), "--study", str(tmp_path / "study"), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["analyses/parameter_efficiency.py", "--quick", *where, *further])
    return parameter_efficiency.parsed()


def test_the_study_runs_from_scratch_and_again_from_its_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = quick(tmp_path, monkeypatch)
    parameter_efficiency.make(options)
    cells = {file.stem: file.stat().st_mtime_ns for file in (options.study / "cells").glob("*.json")}
    assert len(cells) == 2 * (2 + 1)
    assert not list(options.study.rglob("checkpoint-*"))
    parameter_efficiency.make(options)  # nothing is left to do
    assert cells == {file.stem: file.stat().st_mtime_ns for file in (options.study / "cells").glob("*.json")}
    parameter_efficiency.keep(options)
    parameter_efficiency.tell(options.out, False)
    page = (options.out / "README.md").read_text(encoding="utf-8")
    runs = pd.read_csv(options.out / "runs.csv")
    sora = runs[runs["arm"] == "sora-r8"]
    lora = runs.loc[runs["arm"] == "lora-r8", "trained"].iloc[0]
    largest = 128 + 384  # of one direction of the demo's base
    assert ((sora["nonzero"] <= KEPT * lora) & (sora["nonzero"] > KEPT * lora - largest)).all()
    assert "rate not swept" in set(pd.read_csv(options.out / "fairness.csv")["rule"])  # two rates: it says so
    assert "one seed: no interval" in page
    (options.out / "README.md").unlink()
    parameter_efficiency.tell(options.out, False)
    assert (options.out / "README.md").read_text(encoding="utf-8") == page
    assert page in capsys.readouterr().out


def test_a_study_that_is_not_done_or_of_other_arms_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = quick(tmp_path, monkeypatch, "--arms", "lora-r8")
    assert [arm.name for arm in options.arms] == ["lora-r8"]
    options.study.mkdir()
    with pytest.raises(RankLabError, match=r"2 of 2 cells are not done, the first is sst2_lora-r8_lr0\.0008_seed0"):
        parameter_efficiency.keep(options)
    with pytest.raises(RankLabError, match="arm 'lora-r9' is not of this study; its arms are lora-r8, sora-r8"):
        quick(tmp_path, monkeypatch, "--arms", "lora-r9")
