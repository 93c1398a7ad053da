"""Knees planted into noisy curves are found where they are; straight, flat and other curves have none."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import norm

from rank_lab.errors import RankLabError
from rank_lab.knee import Knee, find_knee, knee_of_predictions, knee_over_seeds
from rank_lab.scores import SCORES
from rank_lab.segments import fit, shapes_over

Array = np.ndarray

CURVES: dict[str, Callable[[Array, float], Array]] = {
    "plateau": lambda x, k: 100 - 20 * np.maximum(x - k, 0) / (1 - k),
    "two_lines": lambda x, k: 100 - 3 * np.minimum(x, k) / k - 17 * np.maximum(x - k, 0) / (1 - k),
    "plateau_fall_floor": lambda x, k: 100 - 20 * np.clip((x - k) / 0.25, 0, 1),
    "line": lambda x, k: 100 - 20 * x,
    "flat": lambda x, k: 100 + 0 * x,
    "falls at once": lambda x, k: 100 - 20 * np.clip(x / 0.35, 0, 1),
    "rises": lambda x, k: 80 + 20 * np.maximum(x - k, 0) / (1 - k),
}


def noise(generator: np.random.Generator, rows: int, points: int, correlation: float) -> Array:
    """Of paired scores: neighbours go together, and the reference is exactly 100."""
    apart = np.abs(np.subtract.outer(np.arange(points), np.arange(points)))
    drawn = generator.standard_normal((rows, points)) @ np.linalg.cholesky(correlation**apart).T
    return drawn - drawn[:, :1]


def searched(
    kind: str, *, points: int = 8, repeats: int = 40, draws: float | None = 1.0, correlation: float = 0.5
) -> list[tuple[float, Knee]]:
    """Planted place and what was found; ``draws``: how much of the noise the draws tell of."""
    generator = np.random.default_rng(17)
    found = []
    for seed in range(repeats):
        x, k = np.linspace(0, 1, points), float(generator.uniform(0.3, 0.6))
        y = CURVES[kind](x, k) + noise(generator, 1, points, correlation)[0]
        told = None if draws is None else draws * noise(generator, 120, points, correlation)
        found.append((k, find_knee(x, y, told, axis="x", resamples=120, seed=seed)))
    return found


@pytest.mark.parametrize("kind", ["plateau", "two_lines", "plateau_fall_floor"])
@pytest.mark.parametrize(
    ("draws", "correlation", "coverage"),
    [(1.0, 0.5, 0.9), (0.5, 0.5, 0.8), (None, 0.0, 0.9)],
    ids=["all", "half", "none"],
)
def test_planted_knees(kind: str, draws: float | None, correlation: float, coverage: float) -> None:
    found = searched(kind, draws=draws, correlation=correlation)
    given = [(k, knee.low, knee.high) for k, knee in found if knee.low is not None and knee.high is not None]
    assert len(given) >= 0.75 * len(found)
    assert np.mean([low <= k <= high for k, low, high in given]) >= coverage
    assert np.median([high - low for _, low, high in given]) < 0.4
    shapes = Counter(knee.shape for _, knee in found if knee.value is not None)
    assert shapes["plateau_fall_floor"] >= 0.9 * len(given) if kind == "plateau_fall_floor" else shapes[kind] > 0


@pytest.mark.parametrize("kind", ["line", "flat", "falls at once", "rises"])
@pytest.mark.parametrize(("draws", "correlation"), [(1.0, 0.5), (None, 0.0)], ids=["all", "none"])
def test_curves_without_a_knee(kind: str, draws: float | None, correlation: float) -> None:
    found = [knee for _, knee in searched(kind, draws=draws, correlation=correlation)]
    refused = Counter(knee.reason for knee in found if knee.value is None)
    assert sum(refused.values()) >= 0.93 * len(found)
    usual = {
        "line": "a straight line fits as well",
        "flat": "flat within its noise" if draws else "a straight line fits as well",
        "falls at once": "it falls from the first point on; add points before",
        "rises": "it does not fall after a plateau or a gentler slope",
    }
    assert refused.most_common(1)[0][0] == usual[kind]


def test_from_predictions() -> None:
    """Stages whose accuracy holds and then falls; hard examples are hard in all of them."""
    generator = np.random.default_rng(3)
    labels, rates = np.ones(500), [0.9, 0.9, 0.9, 0.9, 0.9, 0.8, 0.7, 0.6, 0.5]
    hits = 0
    for seed in range(6):
        hard = generator.standard_normal(500)
        stages = [
            (norm.cdf(0.9**0.5 * hard + 0.1**0.5 * generator.standard_normal(500)) < rate) * 1.0 for rate in rates
        ]
        knee = knee_of_predictions(SCORES["accuracy"], labels, stages, stages[0], range(9), axis="stage", seed=seed)
        assert knee.low is not None, knee.reason
        assert knee.high is not None
        assert knee.high - knee.low < 3
        hits += knee.low <= 4 <= knee.high
    assert hits >= 5
    again = knee_of_predictions(SCORES["accuracy"], labels, stages, stages[0], range(9), axis="stage", seed=seed)
    assert again == knee


def test_the_axis_decides() -> None:
    """Doubling steps: what bends over the steps is straight over their exponential."""
    step = np.arange(9.0)
    y = 100 - 0.1 * 2**step + np.random.default_rng(0).normal(0, 0.05, 9)
    assert find_knee(step, y, axis="log2 threshold").value is not None
    over = find_knee(2**step, y, axis="threshold")
    assert (over.value, over.axis) == (None, "threshold")


def test_a_cliff_between_two_points_lies_anywhere_between_them() -> None:
    y = np.array([100.0, 100.2, 99.9, 100.1, 60.0, 60.1, 59.8, 60.1])
    knee = find_knee(np.arange(8.0), y, axis="stage")
    assert knee.shape == "plateau_fall_floor"
    assert knee.low is not None
    assert knee.high is not None
    assert knee.low <= 3.05
    assert knee.high >= 3.75


def test_unordered_and_equal_places() -> None:
    x = np.linspace(0, 1, 9)
    y = CURVES["plateau"](x, 0.5) + np.random.default_rng(5).normal(0, 0.3, 9)
    draws = y + np.random.default_rng(6).normal(0, 0.3, (200, 9))
    whole = find_knee(x, y, draws, axis="x")
    assert find_knee(x[::-1], y[::-1], draws[:, ::-1], axis="x") == whole
    doubled = np.concatenate([[0, 8], np.arange(1, 8), [0, 8]])
    again = find_knee(x[doubled], y[doubled], draws[:, doubled], axis="x")
    assert (again.value, again.low, again.high, again.points) == pytest.approx((whole.value, whole.low, whole.high, 9))


def test_refused_at_once() -> None:
    line = np.arange(6.0)
    assert find_knee(line[:4], line[:4], axis="x").reason == "4 points, at least 5 are needed"
    assert find_knee(line, np.ones(6), axis="x").reason == "all points are equal"
    assert find_knee(line, [100, 99, np.nan, 98, 80, 50], axis="x").reason == "a point has no value"
    late = find_knee(line, [100.1, 99.9, 100.0, 100.1, 99.9, 50], axis="x")
    assert late.reason == "it falls at the last point only; add points beyond"
    half = np.where(np.arange(20)[:, None] < 10, np.nan, np.random.default_rng(0).normal(size=(20, 6)))
    assert find_knee(line, line, half, axis="x").reason == "more than 5% of the resamples have no value"
    constant = np.ones(50)
    none = knee_of_predictions(SCORES["matthews_correlation"], constant, [constant] * 6, constant, line, axis="x")
    assert none.reason == "a point has no value"


def test_seeds() -> None:
    def knee(value: float | None) -> Knee:
        return Knee(
            value, value, value, "x", "plateau" if value else "", "" if value else "a straight line fits as well"
        )

    both = knee_over_seeds([knee(1.0), knee(2.0)])
    assert both.value == 1.5
    assert both.low == pytest.approx(1.5 - 12.706 * 0.5, abs=1e-3)  # t of one degree of freedom
    assert knee_over_seeds([knee(1.0), knee(2.0), knee(None), knee(1.5)]).points == 3
    assert knee_over_seeds([knee(1.0), knee(2.0), knee(None)]).reason == "2 of 3 seeds have a knee"
    assert knee_over_seeds([knee(1.0)]).reason == "1 of 1 seeds have a knee"
    assert knee_over_seeds([]).value is None
    with pytest.raises(RankLabError, match="knees on the axes x, y"):
        knee_over_seeds([knee(1.0), Knee(1.0, 1.0, 1.0, "y")])


def test_bad_input() -> None:
    with pytest.raises(RankLabError, match="one value a place"):
        find_knee([1, 2], [1], axis="x")
    with pytest.raises(RankLabError, match="expected finite numbers"):
        find_knee([1, np.inf], [1, 2], axis="x")
    with pytest.raises(RankLabError, match="a column for each of 5 points"):
        find_knee(range(5), range(5), np.ones((3, 4)), axis="x")


def test_the_grid_holds_the_best_knot() -> None:
    """Against a fit of every knot on a much finer grid."""
    generator = np.random.default_rng(8)
    x = np.sort(generator.random(7))
    x = (x - x[0]) / (x[-1] - x[0])
    y = CURVES["plateau"](x, 0.4) + generator.normal(0, 0.5, 7)
    found = fit(x, y[None], shapes_over(x)[:1])

    def squares(k: float) -> float:
        design = np.stack([np.ones(7), np.maximum(x - k, 0)], axis=1)
        return float(((y - design @ np.linalg.lstsq(design, y, rcond=None)[0]) ** 2).sum())

    fine = np.linspace(0, x[-2], 5001)
    best = min(fine, key=squares)
    assert found.squares[0] == pytest.approx(squares(float(found.knee[0])))
    assert abs(found.knee[0] - best) < 0.02


def test_a_bend_without_a_fall_is_no_knee() -> None:
    """What a real run showed: it rises above its reference, then comes back by less than its noise."""
    x = np.array([0, 0.2, 0.3, 0.35, 0.4, 0.5, 0.7])
    y = np.array([100, 101.2, 101.9, 102.1, 102.7, 102.5, 102.2])
    draws = y + np.random.default_rng(0).normal(0, 0.3, (1000, 7))
    found = find_knee(x, y, draws, axis="threshold")
    assert found.value is None
    assert found.reason == "it bends, but does not fall beyond its noise"
    steep = find_knee(x, y - 40 * np.clip(x - 0.4, 0, None), draws - 40 * np.clip(x - 0.4, 0, None), axis="threshold")
    assert steep.low is not None
    assert steep.high is not None
    assert steep.low <= 0.4 <= steep.high
