"""Which number is shown of a matrix, and what is said where there is none."""

import numpy as np
import pytest

from rank_lab.errors import RankLabError
from rank_lab.schema import RANKS
from rank_lab.shown_values import SHOWN, quantity_label, shown_values
from tests.figure_studies import frame, noisy, row

VALUES = np.linspace(1.0, 0.2, 12)


def test_an_exact_matrix_shows_what_was_measured() -> None:
    one = frame(row(VALUES, shape=(12, 20)))
    for metric in RANKS:
        found = shown_values(one, metric).iloc[0]
        assert found["value"] == one.iloc[0][metric]
        assert found["null"] == one.iloc[0][f"null_{metric}"]
        assert (found["bound"], found["state"]) == (12, "value")
        assert np.isnan(found["low"])


@pytest.mark.parametrize("regime", ["partial", "unresolved"])
@pytest.mark.parametrize("metric", [name for name in RANKS if name != "numerical_rank"])
def test_a_rank_that_rounding_blurs_is_never_shown_raw(metric: str, regime: str) -> None:
    found = shown_values(frame(noisy(VALUES, regime)), metric).iloc[0]
    assert np.isnan(found["value"])
    assert found["state"] == "unresolved"


def test_a_rank_without_rounding_is_shown_with_its_interval() -> None:
    measured = {"energy_rank_90_denoised": 3.0, "energy_rank_90_denoised_low": 2.0, "energy_rank_90_denoised_high": 4.0}
    for regime in ("resolved", "partial"):
        rows = frame(noisy(VALUES, regime, rank_above_rounding=5.0, **measured))
        found = shown_values(rows, "energy_rank_90").iloc[0]
        assert [found[name] for name in ("value", "low", "high", "state")] == [3.0, 2.0, 4.0, "value"]


def test_the_numerical_rank_is_what_stands_above_rounding() -> None:
    counts = {"rank_above_rounding": 4.0, "rank_above_rounding_low": 3.0, "rank_above_rounding_high": 6.0}
    for metric in ("numerical_rank", "rank_above_rounding"):
        found = shown_values(frame(noisy(VALUES, "partial", **counts)), metric).iloc[0]
        assert [found[name] for name in ("value", "low", "high")] == [4.0, 3.0, 6.0]


@pytest.mark.parametrize("over", ["bound", "null"])
def test_everything_is_divided_alike(over: str) -> None:
    measured = {"effective_rank_denoised": 3.0, "effective_rank_denoised_low": 2.0, "effective_rank_denoised_high": 4.0}
    rows = frame(noisy(VALUES, "partial", rank_above_rounding=5.0, **measured))
    plain, divided = shown_values(rows, "effective_rank").iloc[0], shown_values(rows, "effective_rank", over).iloc[0]  # type: ignore[arg-type]
    for name in ("value", "low", "high", "null", "bound"):
        assert divided[name] == pytest.approx(plain[name] / plain[over])
    assert divided[over] == pytest.approx(1)


def test_factors_are_held_against_random_factors() -> None:
    found = shown_values(frame(row(VALUES, factor_null_effective_rank=7.5)), "effective_rank", "null").iloc[0]
    raw = frame(row(VALUES)).iloc[0]["effective_rank"]
    assert found["value"] == pytest.approx(raw / 7.5)


def test_a_null_of_zero_divides_nothing() -> None:
    found = shown_values(frame(row(VALUES)), "marchenko_pastur_rank", "null").iloc[0]
    assert np.isnan(found["value"])
    assert found["state"] == "missing"


@pytest.mark.parametrize("regime", ["exact", "unresolved"])
def test_a_zero_update_is_zero_whatever_rounding_says(regime: str) -> None:
    rows = frame(row(np.zeros(4), noise_regime=regime))
    count, entropy = (shown_values(rows, name).iloc[0] for name in ("energy_rank_90", "effective_rank"))
    assert (count["value"], count["state"]) == (0, "zero")
    assert np.isnan(entropy["value"])  # no direction, so no number of them
    assert entropy["state"] == "zero"


def test_what_was_not_measured_is_missing_and_not_unresolved() -> None:
    failed = frame(row(VALUES, noise_regime=None, frobenius_norm=None, effective_rank=None))
    assert shown_values(failed, "effective_rank").iloc[0]["state"] == "missing"
    assert shown_values(frame(row(VALUES)), "rank_above_iid").iloc[0]["state"] == "missing"


def test_quantities_that_count_nothing_have_neither_null_nor_bound() -> None:
    one = frame(row(VALUES, relative_frobenius=0.1))
    for metric in SHOWN:
        if metric not in RANKS:
            found = shown_values(one, metric).iloc[0]
            assert np.isnan(found["null"])
            assert np.isnan(found["bound"])
            with pytest.raises(RankLabError, match="neither bound nor null"):
                shown_values(one, metric, "null")


def test_the_norm_is_shown_however_blurred_the_ranks_are() -> None:
    found = shown_values(frame(noisy(VALUES, "unresolved")), "frobenius_norm").iloc[0]
    assert found["value"] == pytest.approx(np.linalg.norm(VALUES))


def test_the_index_of_the_rows_is_kept() -> None:
    rows = frame(row(VALUES), row(VALUES, layer=1), row(VALUES, layer=2)).iloc[[2, 0]]
    assert shown_values(rows, "effective_rank").index.tolist() == [2, 0]


def test_unknown_quantities_are_refused_with_the_nearest() -> None:
    with pytest.raises(RankLabError, match="effective_rank"):
        shown_values(frame(row(VALUES)), "efective_rank")
    with pytest.raises(RankLabError, match="'half'"):
        shown_values(frame(row(VALUES)), "effective_rank", "half")  # type: ignore[arg-type]
    with pytest.raises(RankLabError, match="counts no directions"):
        quantity_label("spectral_norm", "bound")
    assert all(quantity_label(metric) for metric in SHOWN)
