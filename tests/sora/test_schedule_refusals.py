"""Schedules that cannot be run: refused by name, before anything is trained."""

import math
from pathlib import Path
from typing import Any

import pytest

from rank_lab.errors import RankLabError
from rank_lab.scores import SCORES
from rank_lab.sora import Schedule
from tests.sora.schedules import arguments, maker, plan, rows, run

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "few examples": (
        {"schedule": plan(subset=41)},
        r"has 40 examples, fewer than .* of 41.*40 or less",
    ),
    "empty": ({"validation": rows("classification", 24).select([])}, "validation set is empty"),
    "no labels": ({"train": rows().remove_columns("labels")}, "training set has columns .* but no labels"),
    "a threshold of its own": ({"make_model": maker(threshold=0.5)}, r"threshold=0.5\): each stage has its own"),
    "no adapter": ({"make_model": lambda: maker()().get_base_model()}, "returned a BertForSequenceClassification"),
    "fp16": ({"arguments": arguments(fp16=True)}, r"fp16=True\): not supported"),
    "names": ({"names": {"set": "x"}}, r"names \['set'\]: expected model and task"),
    "classes": ({"score": SCORES["f1"]}, "f1: class 2 among labels"),
    "kind": ({"score": SCORES["pearson"]}, r"regression: outputs \[\d+, 3\].*num_labels=1"),
    "warm-up": ({"arguments": arguments(warmup_steps=9)}, "min_steps 8 lies within warm-up"),
    "late start": (
        {"make_model": maker(prox_start_step=9)},
        "stage 1: min_steps 8 lies before prox_start_step 9, up to which no gate is shrunk",
    ),
    "target": ({"schedule": plan(thresholds=(), target_ranks=(5,))}, "target rank 5 comes to 15 gates"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name(tmp_path: Path, case: str) -> None:
    options, message = REFUSED[case]
    with pytest.raises(RankLabError, match=message):
        run(tmp_path, **options)
    assert not [*tmp_path.rglob("stage-*")]


def test_many_processes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = arguments()
    monkeypatch.setenv("WORLD_SIZE", "2")
    for options in (given, None):
        with pytest.raises(RankLabError, match=r"2 processes or GPUs: .* each seed as a process"):
            run(tmp_path, arguments=options)


def test_what_is_trained_but_not_saved_is_refused(tmp_path: Path) -> None:
    def make() -> Any:
        model = maker()()
        model.get_base_model().bert.embeddings.LayerNorm.weight.requires_grad_(True)
        return model

    with pytest.raises(RankLabError, match=r"1 parameters are trained but not saved .*LayerNorm.*modules_to_save"):
        run(tmp_path, make_model=make)


PLANS: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "no thresholds given"),
    "two": ({"thresholds": (0, 1), "target_ranks": (1,)}, "thresholds and target_ranks given"),
    "not increasing": ({"thresholds": (0.0, 2.0, 1.0)}, r"thresholds\[2\] 1 is not above thresholds\[1\] 2"),
    "negative": ({"thresholds": (-1.0,)}, r"thresholds\[0\] -1.0: expected a finite number, 0 or more"),
    "nan": ({"thresholds": (0.0, math.nan)}, r"thresholds\[1\] nan"),
    "targets": ({"target_ranks": (2, 3)}, r"target_ranks\[1\] 3 is not below"),
    "zero target": ({"target_parameters": (0,)}, r"target_parameters\[0\] 0: expected"),
    "reference": ({"thresholds": (0,), "reference": "last"}, "reference 'last'"),
    "control": ({"thresholds": (0,), "controls": ("magic",)}, "control 'magic'"),
    "shipped": ({"target_ranks": (2,), "controls": ("as_shipped",)}, "leave it out of controls"),
    "seeds": ({"thresholds": (0,), "seeds": (1, 1)}, r"seeds \(1, 1\): one is there twice"),
    "no seeds": ({"thresholds": (0,), "seeds": ()}, "no seeds"),
    "subset": ({"thresholds": (0,), "subset": 0}, "subset 0"),
}


@pytest.mark.parametrize("case", PLANS)
def test_a_schedule_that_is_none(case: str) -> None:
    options, message = PLANS[case]
    with pytest.raises(RankLabError, match=message):
        Schedule(**options)
