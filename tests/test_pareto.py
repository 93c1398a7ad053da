"""Fronts, areas and equal learning against cases counted by hand, and laws that hold for any points."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rank_lab.errors import RankLabError, ShapeMismatchError
from rank_lab.forgetting import Change
from rank_lab.pareto import TradeOff, forgetting_at, front_of, front_shares, hypervolume, nondominated

POINTS = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=12)
NAN = math.nan


def split(points: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    array = np.array(points, float)
    return array[:, 0], array[:, 1]


def test_a_front_by_hand() -> None:
    #          beats all left below  tie      equal pair  dominated  no value
    learning = [3.0, 2.0, 2.0, 1.0, 1.0, 0.5, NAN, 9.0]
    forgetting = [0.5, 0.2, 0.3, 0.1, 0.1, 0.1, 0.0, NAN]
    assert nondominated(learning, forgetting).tolist() == [True, True, False, True, True, False, False, False]
    assert nondominated([1.0], [1.0]).tolist() == [True]
    assert nondominated([], []).tolist() == []


@given(POINTS)
def test_a_point_is_on_the_front_unless_another_beats_it(points: list[tuple[int, int]]) -> None:
    expected = [
        not any(a >= gained and b <= lost and (a, b) != (gained, lost) for a, b in points) for gained, lost in points
    ]
    assert nondominated(*split(points)).tolist() == expected


@given(POINTS)
def test_an_area_counted_in_squares(points: list[tuple[int, int]]) -> None:
    reference = (2, 7)
    squares = {(x, y) for gained, lost in points for x in range(2, gained) for y in range(lost, 7)}
    assert hypervolume(*split(points), reference) == len(squares)


@given(POINTS, st.tuples(st.integers(0, 8), st.integers(0, 8)))
def test_areas_grow_with_points_and_are_those_of_the_front(
    points: list[tuple[int, int]], more: tuple[int, int]
) -> None:
    learning, forgetting = split(points)
    area = hypervolume(learning, forgetting, (0, 8))
    assert hypervolume(*split([*points, more]), (0, 8)) >= area
    front = nondominated(learning, forgetting)
    assert hypervolume(learning[front], forgetting[front], (0, 8)) == area


def test_areas_of_nothing() -> None:
    assert hypervolume([2.0, NAN], [1.0, 1.0], (0.0, 3.0)) == 4.0
    assert hypervolume([-1.0], [1.0], (0.0, 3.0)) == 0.0
    assert hypervolume([1.0], [4.0], (0.0, 3.0)) == 0.0
    assert math.isnan(hypervolume([NAN], [1.0], (0.0, 3.0)))
    with pytest.raises(RankLabError, match="expected finite"):
        hypervolume([1.0], [1.0], (0.0, math.inf))
    for function in (nondominated, lambda a, b: hypervolume(a, b, (0.0, 1.0)), lambda a, b: forgetting_at(a, b, 1.0)):
        with pytest.raises(ShapeMismatchError, match="one entry a point"):
            function([1.0], [1.0, 2.0])
    with pytest.raises(ShapeMismatchError, match=r"expected \(points, resamples\)"):
        front_shares([1.0], [1.0])


def test_forgetting_at_equal_learning() -> None:
    curve = [0.0, 1.0, 3.0], [0.0, 0.2, 1.0]
    assert forgetting_at(*curve, 2.0) == pytest.approx(0.6)
    assert forgetting_at(*curve, 1.0) == 0.2
    assert forgetting_at(*curve, 3.0) == 1.0
    assert forgetting_at(*curve, 3.1) is None
    assert forgetting_at(*curve, -0.1) is None
    assert forgetting_at([1.0], [0.5], 1.0) == 0.5
    assert forgetting_at([1.0], [0.5], 0.9) is None
    assert forgetting_at([0.0, 2.0, 0.0], [0.0, 0.4, 0.9], 1.0) == pytest.approx(
        0.2
    )  # reached twice: the first costs less
    assert forgetting_at([0.0, NAN, 2.0], [0.0, 0.1, 0.4], 1.0) is None
    assert forgetting_at([0.0, 2.0], [0.0, NAN], 1.0) is None
    assert forgetting_at([], [], 1.0) is None


@given(st.lists(st.tuples(st.floats(0, 9), st.floats(0, 9)), min_size=2, max_size=6), st.floats(-1, 10))
def test_nothing_is_extrapolated(points: list[tuple[float, float]], level: float) -> None:
    learning, forgetting = zip(*points, strict=True)
    found = forgetting_at(learning, forgetting, level)
    assert (found is not None) == (min(learning) <= level <= max(learning))
    assert found is None or min(forgetting) - 1e-9 <= found <= max(forgetting) + 1e-9


def drawn(values: list[float], spread: float, seed: int) -> list[Change]:
    noise = np.random.default_rng(seed).standard_normal((len(values), 4000)) * spread
    return [Change(value, draws=value + row) for value, row in zip(values, noise, strict=True)]


def test_shares_of_resamples() -> None:
    """The second is behind by one standard deviation in both: it is off the front where it is behind in both."""
    gained, lost = drawn([1.0, 1.0 - 0.1 * math.sqrt(2), 0.0], 0.1, 0), drawn([0.0, 0.1 * math.sqrt(2), 5.0], 0.1, 1)
    front = front_of([TradeOff(*pair) for pair in zip(gained, lost, strict=True)])
    assert front.on_front == (True, False, False)
    behind = 0.841344746  # of a normal, below one standard deviation
    assert front.share == pytest.approx((1 - (1 - behind) ** 2, 1 - behind**2, 0.0), abs=0.02)
    assert front.reference == (0.0, 5.0)
    assert front.hypervolume.value == pytest.approx(5.0)
    assert front.hypervolume.low is not None
    assert front.hypervolume.low < 5.0 < front.hypervolume.high  # type: ignore[operator]
    assert front.reason == ""


def test_fronts_without_resamples_and_without_values() -> None:
    known = TradeOff(drawn([1.0], 0.1, 0)[0], drawn([0.5], 0.1, 1)[0])
    front = front_of([known, TradeOff(Change(2.0), Change(0.7))], reference=(0.0, 1.0))
    assert front.on_front == (True, True)
    assert np.isnan(front.share).all()
    assert front.reason == front.hypervolume.reason == "1 of 2 models have no resamples"
    assert front.hypervolume.value == pytest.approx(1 * 0.2 + 2 * 0.3)
    missing = front_of([known, TradeOff(Change(NAN), Change(0.7))])
    assert missing.on_front == (True, False)
    assert missing.share[0] == 1.0
    assert math.isnan(missing.share[1])
    nothing = front_of([TradeOff(Change(NAN), Change(NAN))])
    assert (nothing.on_front, nothing.reason) == ((False,), "no model has both values")
    with pytest.raises(RankLabError, match="a front of no models"):
        front_of([])


@settings(deadline=None)
@given(POINTS)
def test_one_point_of_each_resample_at_least_is_on_the_front(points: list[tuple[int, int]]) -> None:
    learning, forgetting = split(points)
    noise = np.random.default_rng(0).standard_normal((2, len(points), 5))
    shares = front_shares(learning[:, None] + noise[0], forgetting[:, None] + noise[1])
    assert shares.sum() >= 1
    assert ((shares >= 0) & (shares <= 1)).all()
