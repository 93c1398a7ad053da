"""Correlations of rank with forgetting: as scipy has them, found where planted, no more of them than chance allows."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binomtest, false_discovery_control, rankdata, spearmanr

from rank_lab.errors import RankLabError, ShapeMismatchError
from rank_lab.rank_forgetting import MIN_RUNS, Sampling, associations, holm, rank_correlation

QUICK = Sampling(permutations=399, resamples=50)


def test_the_value_is_spearmans() -> None:
    generator = np.random.default_rng(0)
    for _ in range(5):
        first, second = generator.integers(0, 9, (2, 20)).astype(float)
        found = rank_correlation(first, second, sampling=QUICK)
        assert found.value == pytest.approx(spearmanr(first, second).statistic)


def test_the_p_value_is_that_of_all_exchanges() -> None:
    first, second = np.arange(8.0), np.array([1.0, 0, 3, 2, 7, 4, 6, 5])
    observed = spearmanr(first, second).statistic
    ranks = first - first.mean()
    exact = np.mean(
        [
            abs(ranks[list(p)] @ ranks) >= abs(observed) * (ranks @ ranks) - 1e-9
            for p in itertools.permutations(range(8))
        ]
    )
    found = rank_correlation(first, second, sampling=Sampling(permutations=20_000))
    assert found.p == pytest.approx(exact, abs=0.003)


def test_the_partial_correlation_by_its_formula() -> None:
    first, second, third = np.random.default_rng(1).standard_normal((3, 30)) + np.linspace(0, 3, 30)
    r = np.corrcoef([rankdata(each) for each in (first, second, third)])
    expected = (r[0, 1] - r[0, 2] * r[1, 2]) / math.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2))
    assert rank_correlation(first, second, third, sampling=QUICK).value == pytest.approx(expected)


def test_more_training_moves_both() -> None:
    """Rank and forgetting follow learning, and have nothing else in common: only the plain correlation is there."""
    generator = np.random.default_rng(2)
    plain = partial = 0
    for seed in range(100):
        learning = generator.standard_normal(20)
        rank, forgetting = learning + 0.7 * generator.standard_normal((2, 20))
        sampling = Sampling(399, 50, seed)
        plain += rank_correlation(rank, forgetting, sampling=sampling).p <= 0.05
        partial += rank_correlation(rank, forgetting, learning, sampling=sampling).p <= 0.05
    assert plain >= 80
    assert binomtest(partial, 100, 0.05, alternative="greater").pvalue > 0.001


@pytest.mark.parametrize("with_learning", [False, True])
def test_the_null_gives_no_more_than_the_nominal_share(with_learning: bool) -> None:
    """Twelve items in 150 studies, correlated with one another and not with forgetting."""
    generator, called, any_called = np.random.default_rng(3), 0, 0
    for seed in range(150):
        shared, forgetting, learning = generator.standard_normal((3, 12))
        items = {f"layer {i}": shared + generator.standard_normal(12) for i in range(12)}
        found = associations(items, forgetting, learning if with_learning else None, sampling=Sampling(399, 2, seed))
        bh = [each.partial_p_bh if with_learning else each.p_bh for each in found]
        strict = [each.partial_p_holm if with_learning else each.p_holm for each in found]
        called += min(bh) <= 0.05
        any_called += min(strict) <= 0.05
    for count in (called, any_called):
        assert binomtest(count, 150, 0.05, alternative="greater").pvalue > 0.001


def test_the_planted_layer_is_found() -> None:
    generator = np.random.default_rng(4)
    forgetting, learning = generator.standard_normal((2, 24))
    items = {f"layer {i}": generator.standard_normal(24) for i in range(20)}
    items["layer 7"] = forgetting + 0.4 * generator.standard_normal(24)
    found = associations(items, forgetting, learning)
    assert [each.item for each in found if each.p_bh < 0.05] == ["layer 7"]
    assert [each.item for each in found if each.partial_p_holm < 0.05] == ["layer 7"]
    planted = next(each for each in found if each.item == "layer 7")
    assert planted.correlation.low is not None
    assert 0.5 < planted.correlation.low < planted.correlation.value < planted.correlation.high <= 1  # type: ignore[operator]
    p = np.array([each.correlation.p for each in found])
    np.testing.assert_allclose([each.p_bh for each in found], false_discovery_control(p))
    np.testing.assert_allclose([each.p_holm for each in found], holm(p))


def test_intervals_hold_the_truth() -> None:
    """Of normal values with correlation 0.6, whose Spearman's is 6/pi asin(0.3)."""
    truth, generator, held = 6 / math.pi * math.asin(0.3), np.random.default_rng(5), 0
    for seed in range(200):
        first, second = generator.standard_normal((2, 25))
        found = rank_correlation(first, 0.6 * first + 0.8 * second, sampling=Sampling(1, 400, seed))
        held += found.low <= truth <= found.high  # type: ignore[operator]
    assert 0.89 <= held / 200 <= 0.99


def test_too_few_runs_and_values_that_are_missing() -> None:
    values = np.arange(9.0)
    few = rank_correlation(values[:7], values[:7])
    assert few.reason == f"7 independent runs, of which {MIN_RUNS} at least are needed"
    assert math.isnan(few.value)
    assert math.isnan(few.p)
    gap = values.copy()
    gap[3] = math.nan
    assert rank_correlation(gap, values, sampling=QUICK).runs == 8
    gap[4] = math.inf
    assert "7 independent runs" in rank_correlation(gap, values).reason
    assert rank_correlation(np.ones(9), values).reason == "a quantity is the same in all runs"
    assert "nothing is left" in rank_correlation(values, np.roll(values, 1), values).reason
    found = associations({"a": values, "b": gap}, values, sampling=QUICK)
    assert found[0].p_bh == pytest.approx(found[0].correlation.p)
    assert math.isnan(found[1].p_bh)
    assert found[1].partial is None


def test_wrong_shapes_and_p_values() -> None:
    with pytest.raises(ShapeMismatchError, match="one entry a run"):
        rank_correlation([1.0, 2.0], [1.0])
    with pytest.raises(RankLabError, match=r"not in \[0, 1\]"):
        holm([0.5, 1.5])
    assert holm([0.9, 0.8]).tolist() == [1.0, 1.0]
