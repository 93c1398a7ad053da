"""Figures of spectra: one by one and as bands, on their trace data."""

import numpy as np
import pytest

from rank_lab.errors import RankLabError
from rank_lab.figures import (
    spectrum,
    spectrum_bands_plot,
)
from rank_lab.spectrum_bands import spectrum_bands
from rank_lab.spectrum_curve import spectrum_curve
from tests.figure_studies import frame, row
from tests.test_figures_of_ranks import DECAY, a_curve, of_rank, the_bands, traces


def test_a_spectrum_is_drawn_point_by_point_with_its_energy() -> None:
    figure = spectrum([a_curve()])
    above, below = traces(figure, "q, layer 0")
    assert list(above.x) == list(range(1, 65))
    assert list(above.y) == pytest.approx(DECAY)
    assert list(below.y) == pytest.approx(np.cumsum(DECAY**2) / np.sum(DECAY**2))
    assert (below.xaxis, below.yaxis) == ("x2", "y2")
    layout = figure.plot.layout
    assert (layout.xaxis.type, layout.yaxis.type, layout.xaxis2.type) == ("log", "log", "log")
    assert (layout.yaxis.title.text, layout.xaxis2.title.text) == ("σᵢ", "index i")
    assert layout.xaxis.matches == "x2"


def test_a_spectrum_bears_its_null_edge_and_ranks() -> None:
    curve = a_curve(noise_edge=0.1, rank_above_rounding=10.0, noise_regime="resolved")
    figure = spectrum([curve])
    (edge,) = traces(figure, "rounding edge")
    assert list(edge.y) == [0.1, 0.1]
    null = traces(figure, "white noise")[0]
    assert np.linalg.norm(null.y) == pytest.approx(np.linalg.norm(DECAY))
    marks = {(trace.meta["rank"], trace.yaxis): (trace.x[0], trace.y[0])
             for trace in figure.plot.data if trace.meta and "rank" in trace.meta}  # fmt: skip
    assert marks["rank_above_rounding", "y"] == (10.0, pytest.approx(0.1))
    assert marks["rank_above_rounding", "y2"][1] == pytest.approx(np.sum(DECAY[:10] ** 2) / np.sum(DECAY**2))
    assert len([trace for trace in figure.plot.data if trace.name == "above rounding = 10" and trace.showlegend]) == 1
    assert "0.1" in figure.caption
    assert "Rounding: resolved" in figure.caption


def test_an_edge_decades_below_all_values_is_named_and_does_not_squeeze_them() -> None:
    figure = spectrum([a_curve(noise_edge=1e-9)])
    (edge,) = (trace for trace in figure.plot.data if (trace.name or "").startswith("rounding edge"))
    assert edge.name == "rounding edge: 1.0e-09, below the axis"
    assert list(edge.y) == [None]
    low, high = figure.plot.layout.yaxis.range
    assert high - low < np.log10(DECAY.max() / DECAY.min()) + 2
    assert "1e-09. It lies decades below all values and off the axis" in figure.caption
    near = spectrum([a_curve(noise_edge=float(DECAY.min()) / 10)]).plot.layout.yaxis.range
    assert near[0] < np.log10(DECAY.min() / 10) < low + 1.5


def test_values_below_the_floor_look_different_and_zeros_are_counted() -> None:
    values = np.array([1.0, 0.5, 1e-9, 1e-10, 0.0, 0.0])
    figure = spectrum([spectrum_curve(frame(row(values, spectrum_floor=1e-7)), values)])
    drawn = {trace.meta["state"]: trace for trace in traces(figure, "q, layer 0") if trace.yaxis == "y"}
    assert list(drawn["value"].y) == [1.0, 0.5]
    assert list(drawn["below_floor"].y) == [1e-9, 1e-10]
    assert drawn["below_floor"].line.dash == "dot" != drawn["value"].line.dash
    assert drawn["below_floor"].marker.symbol == "circle-open" != drawn["value"].marker.symbol
    assert "2 values that are exactly zero" in figure.caption
    assert "2 values below" in figure.caption
    assert list(traces(figure, "floor")[0].y) == [1e-7, 1e-7]
    assert not traces(spectrum([a_curve(spectrum_floor=1e-7)]), "floor")


def test_a_spectrum_of_zeros_is_an_empty_plot_that_says_so() -> None:
    figure = spectrum([spectrum_curve(frame(row(np.zeros(8))), np.zeros(8))])
    assert "8 values that are exactly zero" in figure.caption
    with pytest.raises(RankLabError, match="no spectrum"):
        spectrum([])


def test_a_rank_that_rounding_hides_is_not_marked() -> None:
    figure = spectrum([a_curve(noise_regime="unresolved")])
    assert not [trace for trace in figure.plot.data if trace.meta and "rank" in trace.meta]
    assert "hidden by the rounding" in figure.caption


def test_large_spectra_are_few_points() -> None:
    values = 1.0 / np.arange(1, 4097)
    figure = spectrum([spectrum_curve(frame(row(values)), values)] * 5)
    assert max(len(trace.x) for trace in figure.plot.data if trace.x is not None) <= 240
    assert len({trace.name for trace in figure.plot.data if trace.meta and trace.meta.get("state") == "value"}) == 5


def test_bands_are_filled_between_their_quantiles() -> None:
    bands = the_bands()
    figure = spectrum_bands_plot(bands)
    (half,) = traces(figure, "middle 50 %")
    assert list(half.y) == pytest.approx(bands.bands["quantile_75"].tolist())
    lower = figure.plot.data[list(figure.plot.data).index(half) - 1]
    assert list(lower.y) == pytest.approx(bands.bands["quantile_25"].tolist())
    assert half.fill == "tonexty"
    (median,), (null,) = traces(figure, "median"), traces(figure, "null")
    assert list(median.y) == pytest.approx(bands.bands["quantile_50"].tolist())
    assert list(null.y) == pytest.approx(bands.bands["null"].tolist())
    (one,) = traces(figure, "q, layer 3")
    assert list(one.y) == pytest.approx(DECAY**1.75)
    assert list(one.x) == pytest.approx(np.arange(1, 65) / 64)
    assert len(figure.plot.data) < 12


def test_a_band_that_reaches_zero_ends_at_the_bottom_and_says_so() -> None:
    values = {"layers.0.q_proj": of_rank(8), "layers.1.q_proj": of_rank(4)}
    rows = frame(*(row(one, layer=layer) for layer, one in enumerate(values.values())))
    figure = spectrum_bands_plot(spectrum_bands(rows, values))
    assert min(min(trace.y) for trace in figure.plot.data) > 0
    assert "goes to zero" in figure.caption
