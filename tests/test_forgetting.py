"""Learning and forgetting against cases counted by hand, and intervals that hold the truth as often as they say."""

import math
from dataclasses import replace

import numpy as np
import pytest

from rank_lab.errors import RankLabError, ShapeMismatchError
from rank_lab.forgetting import (
    PAIRED,
    SOURCES,
    UNPAIRED,
    base_of,
    divergence,
    learning,
    score_loss,
    source_forgetting,
)
from rank_lab.score_draws import Resampling, are_paired, score_draws, standard_error
from rank_lab.score_row import ScoreRow
from rank_lab.sequences import average_forgetting, backward_transfer, sequence_interval

Z = 1.959963984540054
NAMES = {"hellaswag": "acc_norm", "arc_challenge": "acc_norm", "winogrande": "acc"}


def scores(run: str, values: tuple[float, ...], error: float | None = 0.01) -> list[ScoreRow]:
    method = "base" if run == "base" else "full"
    return [
        ScoreRow(run, method, 0 if run == "base" else 10, task, metric, value, error, 1000, "source", 0)
        for (task, metric), value in zip(NAMES.items(), values, strict=True)
    ]


BASE = scores("base", (0.76, 0.46, 0.69))


def examples(run: str, values: np.ndarray, task: str = "a", sha: str = "1") -> ScoreRow:
    return ScoreRow(
        run, "base" if run == "base" else "m", 0, task, "acc", float(np.mean(values)),
        n=len(values), set_sha256=sha * 64, examples=tuple(values.tolist()),
    )  # fmt: skip


def test_source_average() -> None:
    """The paper's three tasks: (0.76 - 0.70 + 0.46 - 0.43 + 0.69 - 0.66) / 3 = 0.04, errors 0.01 each."""
    change = source_forgetting(scores("r", (0.70, 0.43, 0.66)), BASE)
    assert change.value == pytest.approx(0.04)
    half = Z * math.sqrt(6 * 0.01**2) / 3
    assert (change.low, change.high) == pytest.approx((0.04 - half, 0.04 + half))
    assert (change.how, change.reason, change.tasks) == (UNPAIRED, "", tuple(NAMES))
    assert {task: metric for task, (metric, _) in SOURCES.items()} == NAMES


def test_normalised_for_chance() -> None:
    """Of 0.51, 0.21 and 0.19 beyond chance, 0.45, 0.18 and 0.16 are kept."""
    change = source_forgetting(scores("r", (0.70, 0.43, 0.66)), BASE, normalised=True)
    kept = (0.45 / 0.51, 0.18 / 0.21, 0.16 / 0.19)
    assert change.value == pytest.approx(1 - sum(kept) / 3)
    errors = [0.01 * math.hypot(1, k) / known for k, known in zip(kept, (0.51, 0.21, 0.19), strict=True)]
    assert change.high == pytest.approx(change.value + Z * math.hypot(*errors) / 3)
    everything = source_forgetting(scores("r", (0.25, 0.25, 0.5)), BASE, normalised=True)
    assert everything.value == pytest.approx(1.0)
    stated = [replace(row, chance=0.0) for row in scores("r", (0.38, 0.23, 0.345))]
    assert source_forgetting(stated, BASE, normalised=True).value == pytest.approx(0.5)


def test_nothing_to_normalise() -> None:
    base = scores("base", (0.25, 0.46, 0.69))
    change = source_forgetting(scores("r", (0.3, 0.4, 0.6)), base, normalised=True)
    assert math.isnan(change.value)
    assert change.reason == "hellaswag acc_norm: the base scores 0.25, no more than a guess, 0.25"
    odd = ScoreRow("r", "m", 1, "own", "acc", 0.5)
    change = source_forgetting([odd], [replace(odd, run="base")], normalised=True)
    assert change.reason == "own acc: the score of a guess is not known; give its chance"
    loss = replace(odd, metric="cross_entropy", higher_is_better=False, chance=1.0)
    assert "smaller is better" in source_forgetting([loss], [loss], normalised=True).reason


def test_cross_entropy_and_learning_have_their_signs() -> None:
    tuned = ScoreRow("r", "m", 9, "wiki", "cross_entropy", 3.5, 0.03, higher_is_better=False)
    base = ScoreRow("base", "base", 0, "wiki", "cross_entropy", 3.0, 0.04, higher_is_better=False)
    assert score_loss(tuned, [base]).value == 0.5
    gained = learning(replace(tuned, value=2.0), [base])
    assert gained.value == 1.0
    assert (gained.low, gained.high) == pytest.approx((1 - Z * 0.05, 1 + Z * 0.05))
    assert gained.draws is not None
    assert gained.draws.mean() == pytest.approx(1.0, abs=0.01)


def test_divergence_needs_no_base() -> None:
    row = ScoreRow("r", "m", 9, "wiki", "kl_from_base", 0.2, 0.05, higher_is_better=False)
    change = divergence([row])
    assert (change.value, change.low, change.high) == pytest.approx((0.2, 0.2 - Z * 0.05, 0.2 + Z * 0.05))
    known = replace(row, value=2.0, stderr=None, examples=(1.0, 2.0, 3.0), set_sha256="1" * 64)
    assert divergence([known]).how == PAIRED
    assert divergence([replace(row, stderr=None)]).reason.startswith("wiki: neither a standard error nor scores")
    both = divergence([row, replace(row, task="books", value=0.4)])
    assert (both.value, both.high) == pytest.approx((0.3, 0.3 + Z * math.hypot(0.05, 0.05) / 2))
    assert "wiki is there twice" in divergence([row, row]).reason


def test_pairs_make_the_interval_narrower_and_agree_with_counting() -> None:
    """Ten answers of a hundred are lost and none won: nine tenths of the resamples lie between 5 and 15 of them."""
    generator = np.random.default_rng(0)
    known = (generator.random(100) < 0.7) * 1.0
    lost = known.copy()
    lost[np.flatnonzero(known)[:10]] = 0
    base, tuned = examples("base", known), examples("r", lost)
    change = score_loss(tuned, [base])
    assert change.value == pytest.approx(0.1)
    assert change.how == PAIRED
    assert (change.low, change.high) == (pytest.approx(0.04, abs=0.011), pytest.approx(0.16, abs=0.011))
    unpaired = score_loss(replace(tuned, set_sha256=""), [replace(base, set_sha256="")])
    assert unpaired.how == UNPAIRED
    spread = math.sqrt(known.var(ddof=1) / 100 + lost.var(ddof=1) / 100)
    assert unpaired.high == pytest.approx(0.1 + Z * spread)


def test_all_models_share_the_resamples_of_a_set() -> None:
    generator = np.random.default_rng(1)
    first, second = (examples(run, generator.random(50)) for run in ("r", "s"))
    drawn = [score_draws(row, Resampling()) for row in (first, second)]
    total = replace(
        first, run="t", value=first.value + second.value, examples=tuple(np.add(first.examples, second.examples))
    )
    np.testing.assert_allclose(score_draws(total, Resampling()), drawn[0] + drawn[1])  # type: ignore[operator]
    elsewhere = score_draws(replace(first, set_sha256="2" * 64), Resampling())
    assert abs(np.corrcoef(drawn[0], elsewhere)[0, 1]) < 0.15  # type: ignore[arg-type]


def held(trials: int, paired: bool) -> float:
    """Of an accuracy that falls from 0.7 to 0.6; where paired, answers of both models go together."""
    found, generator = 0, np.random.default_rng(2)
    for trial in range(trials):
        known = (generator.random(400) < 0.7) * 1.0
        lost, won = (0.8, 0.4 / 3) if paired else (0.6, 0.6)
        kept = (generator.random(400) < np.where(known, lost, won)) * 1.0
        base, tuned = examples("base", known), examples("r", kept)
        if not paired:
            base, tuned = (
                replace(row, set_sha256="", examples=None, stderr=standard_error(row)) for row in (base, tuned)
            )
        change = score_loss(tuned, [base], Resampling(300 if paired else 1, seed=trial))
        assert change.how == (PAIRED if paired else UNPAIRED)
        assert change.low is not None
        assert change.high is not None
        found += change.low <= 0.1 <= change.high
    return found / trials


def test_intervals_hold_the_truth() -> None:
    assert 0.91 <= held(200, paired=True) <= 0.99
    assert 0.935 <= held(1500, paired=False) <= 0.965


def test_without_errors_there_is_a_value_and_no_interval() -> None:
    change = source_forgetting(scores("r", (0.7, 0.4, 0.6), None), BASE)
    assert change.value == pytest.approx(0.07)
    assert (change.low, change.how) == (None, "")
    assert change.reason == "hellaswag: neither a standard error nor scores of the same examples"
    known = examples("base", np.array([1.0, 0.0]))
    assert (
        score_loss(replace(known, run="r"), [known]).reason
        == "all 1000 resamples agree, which says nothing of the spread"
    )


def test_a_value_that_is_not_the_mean_of_its_examples_is_not_paired() -> None:
    row = examples("base", np.array([1.0, 0.0, 1.0, 1.0]))
    other = replace(row, run="r", value=0.6)
    assert not are_paired(row, other)
    assert standard_error(other) is None
    assert standard_error(row) == pytest.approx(0.25)
    assert score_loss(other, [row]).reason == "a: neither a standard error nor scores of the same examples"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"few_shot": 10}, "10 and 0 solved examples in the prompt"),
        ({"few_shot": None}, "None and 0 solved examples in the prompt"),
        ({"harness": "lm-eval", "harness_version": "0.4.2"}, "measured by lm-eval 0.4.2 and by an unknown harness"),
        ({"n": 500}, "measured on 500 and on 1000 examples"),
        ({"higher_is_better": False}, "a larger value is better in one and worse in the other"),
        ({"metric": "acc"}, "the base has no such score; evaluate the untuned model"),
    ],
)
def test_what_cannot_be_compared(change: dict[str, object], reason: str) -> None:
    rows = scores("r", (0.7, 0.4, 0.6))
    mixed = [replace(rows[0], **change), *rows[1:]]  # type: ignore[arg-type]
    found = source_forgetting(mixed, BASE)
    assert math.isnan(found.value)
    assert found.reason.startswith("hellaswag")
    assert reason in found.reason
    assert found.draws is None


def test_what_has_no_base_or_two() -> None:
    rows = scores("r", (0.7, 0.4, 0.6))
    assert "the base has no such score" in source_forgetting(rows, []).reason
    assert "the base has 2 such scores (base, other)" in base_of(rows[0], [*BASE, replace(BASE[0], run="other")])[1]
    assert source_forgetting([], BASE).reason == "no score with the role 'source'"
    twice = source_forgetting([rows[0], replace(rows[0], metric="acc")], [BASE[0], replace(BASE[0], metric="acc")])
    assert twice.reason == "hellaswag is there twice (acc_norm, 0-shot; acc, 0-shot); choose one"
    sets = [examples("base", np.array([0.0, 1.0])), examples("r", np.array([0.0, 1.0]), sha="2")]
    assert score_loss(sets[1], sets[:1]).reason == "a acc: tuned model and base differ: measured on different examples"
    assert base_of(replace(rows[0], metric="acc_norm,none"), BASE)[0] == BASE[0]


def test_scores_that_are_not_finite() -> None:
    rows = scores("r", (math.nan, 0.4, 0.6))
    change = source_forgetting(rows, BASE)
    assert math.isnan(change.value)
    assert change.reason == "a score is not finite"


def test_sequences_by_hand() -> None:
    R = np.array([[0.9, 0.2, 0.1], [0.7, 0.8, 0.3], [0.5, 0.85, 0.7]])
    assert backward_transfer(R) == pytest.approx(((0.5 - 0.9) + (0.85 - 0.8)) / 2)
    assert average_forgetting(R) == pytest.approx(((0.9 - 0.5) + (0.8 - 0.85)) / 2)
    np.testing.assert_allclose(backward_transfer(np.stack([R, R + 1])), backward_transfer(R))
    for wrong in ([[1.0]], [[1.0, 2.0]], [1.0, 2.0]):
        with pytest.raises(ShapeMismatchError, match="expected a square"):
            backward_transfer(wrong)


def test_interval_of_a_sequence() -> None:
    """Of backward transfer the spread is known: each difference has sqrt(2) of the error, and there are two."""
    R, errors = np.full((3, 3), 0.5), np.full((3, 3), 0.02)
    found = sequence_interval(backward_transfer, R, errors, resamples=4000)
    assert found.value == 0
    assert found.high == pytest.approx(Z * 0.02, rel=0.1)
    with pytest.raises(ShapeMismatchError, match="expected one each"):
        sequence_interval(backward_transfer, R, errors[:2])


def test_resampling_that_gives_no_interval() -> None:
    for wrong in ({"resamples": 0}, {"level": 1.0}):
        with pytest.raises(RankLabError, match="expected 1 at least"):
            Resampling(**wrong)  # type: ignore[arg-type]
