"""Whether intervals hold the truth as often as they say, and are paired, repeatable and refused where they must be."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from rank_lab.errors import RankLabError, ShapeMismatchError
from rank_lab.scores import SCORES
from rank_lab.uncertainty import (
    Interval,
    bootstrap_draws,
    bootstrap_interval,
    paired_test,
    percentile_interval,
    ratio_draws,
    ratio_interval,
)

ACCURACY, MATTHEWS, PEARSON = SCORES["accuracy"], SCORES["matthews_correlation"], SCORES["pearson"]


def held(intervals: list[Interval], truth: float) -> float:
    """Share of the intervals that hold the truth, of those that were given."""
    given = [each for each in intervals if each.low is not None and each.high is not None]
    assert len(given) >= 0.98 * len(intervals)
    return sum(each.low <= truth <= each.high for each in given) / len(given)  # type: ignore[operator]


@pytest.mark.parametrize(("truth", "n"), [(0.6, 138), (0.9, 277), (0.9, 1000)])
def test_coverage_of_an_accuracy(truth: float, n: int) -> None:
    generator = np.random.default_rng(1)
    intervals = [
        bootstrap_interval(ACCURACY, np.ones(n), (generator.random(n) < truth) * 1.0, resamples=500, seed=i)
        for i in range(400)
    ]
    assert 0.92 <= held(intervals, truth) <= 0.98


def test_coverage_of_a_correlation() -> None:
    generator = np.random.default_rng(2)
    intervals = []
    for i in range(400):
        labels, noise = generator.standard_normal((2, 138))
        intervals.append(bootstrap_interval(PEARSON, labels, 0.8 * labels + 0.6 * noise, resamples=500, seed=i))
    assert 0.92 <= held(intervals, 0.8) <= 0.98


def stages(generator: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, a stage, and its reference: the stage changes one in ten of the reference's answers."""
    labels = (generator.random(n) < 0.7) * 1.0
    reference = np.where(generator.random(n) < 0.9, labels, 1 - labels)
    return labels, np.where(generator.random(n) < 0.9, reference, 1 - reference), reference


@pytest.mark.parametrize("name", ["accuracy", "matthews_correlation"])
def test_coverage_of_a_ratio(name: str) -> None:
    labels, stage, reference = stages(np.random.default_rng(0), 2_000_000)
    truth = 100 * SCORES[name].of(labels, stage) / SCORES[name].of(labels, reference)
    generator = np.random.default_rng(3)
    intervals = [
        ratio_interval(SCORES[name], *stages(generator, 277), resamples=400, seed=i)  # the size of RTE's validation set
        for i in range(300)
    ]
    assert 0.92 <= held(intervals, truth) <= 0.98


def test_pairing_makes_the_interval_narrower() -> None:
    labels, stage, reference = stages(np.random.default_rng(4), 277)
    paired = ratio_draws(MATTHEWS, labels, stage, reference)
    other = bootstrap_draws(MATTHEWS, labels, reference, seed=99)
    unpaired = 100 * bootstrap_draws(MATTHEWS, labels, stage) / other
    assert paired.std() < 0.8 * unpaired.std()


def test_draws_are_the_plain_score_of_each_resample() -> None:
    labels, stage, reference = stages(np.random.default_rng(4), 60)
    rows = np.random.default_rng(8).integers(0, 60, size=(50, 60))
    for name in ("accuracy", "matthews_correlation", "f1"):
        draws = ratio_draws(SCORES[name], labels, stage, reference, resamples=50, seed=8)
        plain = [100 * SCORES[name].of(labels[r], stage[r]) / SCORES[name].of(labels[r], reference[r]) for r in rows]
        np.testing.assert_allclose(draws, plain, rtol=1e-12)


def test_the_same_resamples_whatever_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, stage, _ = stages(np.random.default_rng(4), 101)
    whole = bootstrap_draws(MATTHEWS, labels, stage, resamples=64, seed=3)
    monkeypatch.setattr("rank_lab.uncertainty._MOST_ENTRIES", 700)
    assert bootstrap_draws(MATTHEWS, labels, stage, resamples=64, seed=3).tolist() == whole.tolist()
    assert bootstrap_draws(MATTHEWS, labels, stage, resamples=9, seed=3).tolist() == whole[:9].tolist()
    assert bootstrap_draws(MATTHEWS, labels, stage, resamples=64, seed=4).tolist() != whole.tolist()


def test_the_reference_is_100() -> None:
    labels, _, reference = stages(np.random.default_rng(4), 60)
    assert ratio_interval(MATTHEWS, labels, reference, reference) == Interval(100.0, 100.0, 100.0)


def test_no_interval_where_there_is_none() -> None:
    labels = np.array([0.0, 1.0] * 20)
    constant = ratio_interval(MATTHEWS, labels, labels, np.ones(40))
    assert math.isnan(constant.value)
    assert constant.reason == "the reference's matthews_correlation is 0, not above 0"
    undefined = ratio_interval(PEARSON, labels, labels, np.ones(40))
    assert undefined.reason == "the reference's pearson is nan, not above 0"
    perfect = bootstrap_interval(ACCURACY, labels, labels)
    assert (perfect.value, perfect.low, perfect.high) == (1.0, None, None)
    assert "all 1000 resamples agree" in perfect.reason
    rare = np.array([1.0] + [0.0] * 39)  # a third of all resamples holds no positive: F1 of the reference is then 0
    many = ratio_interval(SCORES["f1"], rare, np.array([1.0, 1.0] + [0.0] * 38), rare)
    assert many.low is None
    assert 250 < many.undefined < 500
    assert f"{many.undefined} of 1000 resamples have no value" in many.reason
    few = percentile_interval(1.0, np.array([math.nan, *np.linspace(0, 2, 99)]))
    assert few.undefined == 1
    assert few.low == pytest.approx(0.05)


def test_the_paired_test_of_accuracies_is_mcnemars() -> None:
    labels = np.ones(100)
    first, second = np.ones(100), np.ones(100)
    first[:5] = 0
    second[5:20] = 0
    exact = binomtest(5, 20).pvalue
    assert paired_test(ACCURACY, labels, first, second) == pytest.approx(exact, abs=0.01)
    assert paired_test(ACCURACY, labels, first, first) == 1.0
    assert math.isnan(paired_test(PEARSON, labels, first, second))


def test_the_paired_test_errs_as_often_as_it_says() -> None:
    generator = np.random.default_rng(6)
    p_values = []
    for i in range(300):
        labels, noise, other = generator.standard_normal((3, 60))
        p_values.append(paired_test(PEARSON, labels, labels + noise, labels + other, permutations=199, seed=i))
    assert 0.02 <= np.mean(np.array(p_values) <= 0.05) <= 0.08


def test_bad_input() -> None:
    with pytest.raises(RankLabError, match="0 examples"):
        bootstrap_interval(ACCURACY, [], [])
    with pytest.raises(RankLabError, match="0 resamples of 2"):
        bootstrap_draws(ACCURACY, [0, 1], [0, 1], resamples=0)
    with pytest.raises(ShapeMismatchError, match="of the same examples"):
        bootstrap_draws(ACCURACY, [1, 2], [1])
    with pytest.raises(RankLabError, match="level 95"):
        bootstrap_interval(ACCURACY, [0, 1], [0, 1], level=95)
