"""What is drawn of a spectrum: few points, all of them true, and nothing lost that somebody looks for."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from rank_lab.errors import RankLabError, ShapeMismatchError
from rank_lab.kept_points import kept_points
from rank_lab.null import factor_null, null_ranks, null_spectrum
from rank_lab.spectrum_bands import spectrum_bands
from rank_lab.spectrum_curve import short_names, spectrum_curve
from tests.figure_studies import frame, row
from tests.spectra import SPECTRA

Values = npt.NDArray[np.float64]
POWER = 1.0 / np.arange(1, 4097) ** 0.7
GRADUAL = POWER / np.linalg.norm(POWER)


@pytest.mark.parametrize("law", SPECTRA)
@pytest.mark.parametrize("count", [1, 2, 239, 240, 241, 4096])
def test_no_more_points_than_asked_and_both_ends(law: str, count: int) -> None:
    values = SPECTRA[law](count)
    kept = kept_points(values)
    assert len(kept) <= 240
    assert len(kept) == min(count, 240)
    assert kept[0] == 0
    assert kept[-1] == count - 1
    assert (np.diff(kept) > 0).all()
    assert np.count_nonzero(values > 0) - 1 in kept


def test_both_sides_of_every_place_are_kept() -> None:
    kept = set(kept_points(GRADUAL, [17, 1234.5, 4000.2, 1.0], 64).tolist())
    assert {16, 1233, 1234, 3999, 4000, 0} <= kept


def test_both_sides_of_a_cliff_are_kept_wherever_it_is() -> None:
    for place in (2, 3, 777, 2048, 3999):
        values = GRADUAL.copy()
        values[place:] /= 100
        assert {place - 1, place} <= set(kept_points(values, points=50).tolist())


@pytest.mark.parametrize("law", ["geometric", "power_law", "spike", "deficient", "flat"])
def test_the_drawn_line_stays_with_the_spectrum(law: str) -> None:
    values = SPECTRA[law](4096)
    positive = values[values > 0]
    kept = kept_points(positive)
    index = np.arange(1, len(positive) + 1)
    drawn = np.exp(np.interp(np.log(index), np.log(kept + 1), np.log(positive[kept])))
    assert drawn[kept] == pytest.approx(positive[kept], rel=1e-12)
    assert np.abs(drawn / positive - 1).max() < 0.01


def test_points_are_values_of_the_spectrum_and_the_edge_is_among_them() -> None:
    edge = float((GRADUAL[99] + GRADUAL[100]) / 2)
    curve = spectrum_curve(frame(row(GRADUAL, noise_edge=edge)), GRADUAL)
    points = curve.points
    assert len(points) <= 240
    assert points["singular_value"].to_numpy() == pytest.approx(GRADUAL[points["index"] - 1], rel=0)
    assert points["energy"].to_numpy() == pytest.approx(np.cumsum(GRADUAL**2)[points["index"] - 1], rel=1e-12)
    assert {100, 101} <= set(points["index"])
    assert curve.edge == edge


def test_ranks_lie_on_the_line() -> None:
    curve = spectrum_curve(frame(row(GRADUAL)), GRADUAL)
    ranks = {mark.metric: mark for mark in curve.ranks}
    shares = np.cumsum(GRADUAL**2)
    k90 = int(np.searchsorted(shares, 0.9)) + 1
    assert ranks["energy_rank_90"].index == k90
    assert ranks["energy_rank_90"].singular_value == pytest.approx(GRADUAL[k90 - 1])
    assert ranks["energy_rank_90"].energy == pytest.approx(shares[k90 - 1])
    assert ranks["stable_rank"].index == pytest.approx(1 / GRADUAL[0] ** 2)
    points = curve.points
    for name in ("stable_rank", "effective_rank"):
        mark = ranks[name]
        assert {np.floor(mark.index), np.ceil(mark.index)} <= set(points["index"])
        line = np.interp(np.log(mark.index), np.log(points["index"]), np.log(points["singular_value"]))
        assert mark.singular_value == pytest.approx(float(np.exp(line)), rel=1e-9)
    assert ranks["rank_above_rounding"].state == "missing"


def test_a_rank_of_zero_or_hidden_by_rounding_has_no_place_on_the_line() -> None:
    values = np.linspace(1.0, 0.1, 16)
    one = frame(row(values, noise_regime="unresolved", rank_above_rounding=0.0, noise_edge=2.0))
    ranks = {mark.metric: mark for mark in spectrum_curve(one, values).ranks}
    assert ranks["rank_above_rounding"].index == 0
    assert np.isnan(ranks["rank_above_rounding"].singular_value)
    assert ranks["effective_rank"].state == "unresolved"
    assert np.isnan(ranks["effective_rank"].singular_value)


def test_zeros_are_counted_and_values_below_the_floor_are_told_apart() -> None:
    values = np.array([1.0, 0.5, 1e-9, 1e-10, 0.0, 0.0])
    curve = spectrum_curve(frame(row(values, spectrum_floor=1e-7)), values)
    assert curve.points["singular_value"].tolist() == [1.0, 0.5, 1e-9, 1e-10]
    assert curve.points["state"].tolist() == ["value", "value", "below_floor", "below_floor"]
    assert (curve.zeros, curve.below_floor, curve.known, curve.bound) == (2, 2, 6, 6)


def test_an_update_that_is_zero_has_neither_points_nor_null() -> None:
    curve = spectrum_curve(frame(row(np.zeros(4))), np.zeros(4))
    assert curve.points.empty
    assert curve.null.empty
    assert curve.zeros == 4


def test_white_null_has_the_norm_of_the_update() -> None:
    values = np.linspace(3.0, 0.1, 64)
    curve = spectrum_curve(frame(row(values)), values)
    expected = null_spectrum((64, 64)).values * np.linalg.norm(values)
    assert curve.null_kind == "white noise"
    assert curve.null["singular_value"].to_numpy() == pytest.approx(expected, rel=1e-12)
    assert curve.null["energy"].iloc[-1] == pytest.approx(1.0)


def test_factors_have_the_null_of_random_factors() -> None:
    values = np.array([2.0, 1.0, 0.5, 0.25])
    one = frame(row(values, shape=(32, 48), rank_bound=4, factor_null_effective_rank=3.5))
    curve = spectrum_curve(one, values)
    samples = [sample.values / sample.frobenius_norm for sample in factor_null((32, 48), 4)]
    norm = np.linalg.norm(values)
    assert curve.null_kind == "random factors"
    assert curve.null["singular_value"].to_numpy() == pytest.approx(np.sqrt(np.mean(np.square(samples), axis=0)) * norm)
    assert np.linalg.norm(curve.null["singular_value"]) == pytest.approx(norm)


def test_a_truncated_spectrum_says_how_much_it_holds() -> None:
    values = np.linspace(1.0, 0.5, 64)
    curve = spectrum_curve(frame(row(values)), values[:10])
    assert (curve.known, curve.bound) == (10, 64)
    assert curve.points["energy"].iloc[-1] < 1


def test_values_of_another_matrix_are_refused() -> None:
    values = np.linspace(1.0, 0.5, 8)
    with pytest.raises(ShapeMismatchError, match="norm"):
        spectrum_curve(frame(row(values)), 2 * values)
    with pytest.raises(RankLabError, match="these are 2"):
        spectrum_curve(frame(row(values), row(values, layer=1)), values)


def test_names_tell_apart_and_leave_out_what_is_common() -> None:
    values = np.array([1.0, 0.5])
    curves = [spectrum_curve(frame(row(values, layer=layer, kind="q")), values) for layer in (0, 1)]
    assert short_names(curves) == (("q, layer 0", "q, layer 1"), "run full, step 10")
    runs = [spectrum_curve(frame(row(values, run=run)), values) for run in ("full", "lora")]
    assert short_names(runs) == (("run full", "run lora"), "step 10, q, layer 0")
    same = [spectrum_curve(frame(row(values)), values)] * 2
    assert len(set(short_names(same)[0])) == 2


def test_modules_of_one_kind_and_layer_are_called_by_name() -> None:
    values = np.array([1.0, 0.5])
    curves = [spectrum_curve(frame(row(values, module=name)), values) for name in ("self.q_proj", "cross.q_proj")]
    assert short_names(curves)[0] == ("self.q_proj", "cross.q_proj")


def test_bands_hold_the_stated_shares() -> None:
    rng = np.random.default_rng(0)
    spectra = {f"layers.{i}.q_proj": np.sort(rng.uniform(0.1, 1, 50))[::-1] for i in range(40)}
    rows = frame(*(row(spectra[f"layers.{i}.q_proj"], layer=i) for i in range(40)))
    found = spectrum_bands(rows, spectra)
    relative = np.array([values / values[0] for values in spectra.values()])
    for place in found.bands.to_dict("records"):
        index = int(np.ceil(place["relative_index"] * 50 - 1e-9)) - 1
        for level in (0, 5, 25, 50, 75, 95, 100):
            expected = np.quantile(relative[:, max(index, 0)], level / 100)
            assert place[f"quantile_{level}"] == pytest.approx(expected, rel=1e-12)
    assert found.bands["relative_index"].iloc[[0, -1]].tolist() == pytest.approx([1 / 50, 1.0])
    assert (found.bands["matrices"] == 40).all()
    null = null_spectrum((50, 50)).values
    assert found.bands["null"].iloc[-1] == pytest.approx(null[-1] / null[0])


def test_bands_of_several_shapes_share_one_axis() -> None:
    spectra = {"layers.0.q_proj": np.full(8, 2.0), "layers.0.up_proj": np.linspace(1.0, 0.25, 64)}
    rows = frame(row(spectra["layers.0.q_proj"]), row(spectra["layers.0.up_proj"], kind="up", shape=(64, 128)))
    bands = spectrum_bands(rows, spectra, highlight=["layers.0.up_proj"])
    assert bands.bands["quantile_100"].tolist() == pytest.approx([1.0] * len(bands.bands))
    assert bands.bands["quantile_0"].iloc[-1] == pytest.approx(0.25)
    assert bands.highlighted["relative_index"].tolist() == pytest.approx([i / 64 for i in range(1, 65)])
    assert bands.highlighted["relative_singular_value"].iloc[-1] == pytest.approx(0.25)


def test_bands_count_what_they_leave_out() -> None:
    whole = np.linspace(1.0, 0.5, 16)
    rows = frame(
        row(whole, layer=0), row(np.zeros(16), layer=1), row(whole, layer=2), row(whole, layer=3),
        row(whole, layer=4, frobenius_norm=None, effective_rank=None),
    )  # fmt: skip
    spectra = {"layers.0.q_proj": whole, "layers.1.q_proj": np.zeros(16), "layers.2.q_proj": whole[:4]}
    bands = spectrum_bands(rows, spectra)
    assert (bands.matrices, bands.zero, bands.unknown, bands.truncated) == (2, 1, 2, 1)
    assert bands.bands["matrices"].tolist() == [2 if place <= 0.25 else 1 for place in bands.bands["relative_index"]]


def test_bands_refuse_several_steps_and_unknown_modules() -> None:
    values = np.array([1.0, 0.5])
    with pytest.raises(RankLabError, match="these rows are of 2"):
        spectrum_bands(frame(row(values), row(values, step=20)), {})
    with pytest.raises(RankLabError, match="'nothing' has no spectrum"):
        spectrum_bands(frame(row(values)), {"layers.0.q_proj": values}, highlight=["nothing"])
    assert spectrum_bands(frame(row(values)), {}).bands.empty


def test_bands_make_one_null_a_shape_and_one_curve_a_highlight(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for made in (null_spectrum, spectrum_curve):

        def counted(*given: object, made: Callable[..., object] = made) -> object:
            calls.append(made.__name__)
            return made(*given)

        monkeypatch.setattr(f"rank_lab.spectrum_bands.{made.__name__}", counted)
    one = row(GRADUAL)
    rows = frame(*({**one, "module": str(i), "layer": i} for i in range(100)))
    found = spectrum_bands(rows, {str(i): GRADUAL for i in range(100)}, highlight=["7"])
    assert found.matrices == 100
    assert sorted(calls) == ["null_spectrum", "spectrum_curve"]


def test_the_null_of_a_spectrum_has_the_ranks_of_the_null() -> None:
    values = np.linspace(1.0, 0.5, 512)
    null = spectrum_curve(frame(row(values)), values, points=512).null["singular_value"].to_numpy()
    shares = null / null.sum()
    assert np.exp(-(shares * np.log(shares)).sum()) == pytest.approx(null_ranks((512, 512))["effective_rank"], rel=0.01)
