"""Spectra of many matrices as bands, with chosen ones on top."""

import pandas as pd
import plotly.graph_objects as go

from rank_lab.figures.captions import caption, place
from rank_lab.figures.figure import Figure
from rank_lab.figures.legends import legend
from rank_lab.figures.over_text import counted
from rank_lab.figures.style import Style, faint, label, log_axis, marks, new_plot, palette
from rank_lab.spectrum_bands import SpectrumBands

__all__ = ["spectrum_bands_plot"]

_FILLS = ((0, 100, 0.16), (5, 95, 0.22), (25, 75, 0.34))


def spectrum_bands_plot(bands: SpectrumBands, style: Style = "light") -> Figure:
    """All spectra of a run and step.

    Parameters
    ----------
    bands
        From :func:`rank_lab.spectrum_bands.spectrum_bands`.
    style
        Of the plot.

    Returns
    -------
    Figure
        Five bands around the median, the median of the nulls in grey, highlighted matrices as lines. A band whose lower
        end is zero goes down to the bottom of the axis.
    """
    title = f"Spectra of {bands.matrices} matrices: {label(place(bands.run, bands.step, bands.delta))}"
    plot = new_plot(
        style, title=title, x="relative index i / q", y="σᵢ / σ₁", height=320 if style == "paper" else 480,
        legend=legend(style),
    )  # fmt: skip
    plot.update_xaxes(**log_axis(bands.bands["relative_index"].min(), 1))
    plot.update_yaxes(**log_axis(_bottom(bands), 1))
    _add_bands(plot, bands, style)
    _add_middle(plot, bands.bands, style)
    _add_floor(plot, bands, style)
    names = list(dict.fromkeys(map(str, bands.highlighted["name"])))
    looks = marks(names, style)
    for name in names:
        points = bands.highlighted[bands.highlighted["name"] == name]
        plot.add_trace(
            go.Scatter(
                x=points["relative_index"],
                y=points["relative_singular_value"],
                mode="lines",
                name=label(name),
                line={"color": looks[name].color, "width": 2, "dash": looks[name].dash},
                hovertemplate="i/q = %{x:.3g}<br>%{y:.4g}<extra>" + label(name) + "</extra>",
            )
        )
    return Figure("spectrum_bands", f"Spectra of {bands.matrices} matrices", plot, _data(bands), _caption(bands), ())


def _add_bands(plot: go.Figure, bands: SpectrumBands, style: Style) -> None:
    colors, table = palette(style), bands.bands
    bottom = _bottom(bands)
    for low, high, opacity in _FILLS:
        lower = table[f"quantile_{low}"].clip(lower=bottom)
        line = {"width": 0, "color": colors.text}
        common = {"x": table["relative_index"], "mode": "lines", "line": line, "hoverinfo": "skip"}
        plot.add_trace(go.Scatter(y=lower, showlegend=False, name=f"{low} %", **common))
        plot.add_trace(
            go.Scatter(
                y=table[f"quantile_{high}"].clip(lower=bottom),
                fill="tonexty",
                fillcolor=faint(colors.text, opacity),
                name="all" if low == 0 else f"middle {high - low} %",
                **common,
            )
        )


def _add_middle(plot: go.Figure, table: pd.DataFrame, style: Style) -> None:
    """Medians of the spectra and of their nulls."""
    colors = palette(style)
    for name, column, line in (
        ("median", "quantile_50", {"color": colors.text, "width": 2}),
        ("null", "null", {"color": colors.null, "width": 1.5, "dash": "dash"}),
    ):
        own = table[table[column] > 0]
        hover = "i/q = %{x:.3g}<br>" + name + ": %{y:.4g}<extra></extra>"
        plot.add_trace(
            go.Scatter(x=own["relative_index"], y=own[column], mode="lines", name=name, line=line, hovertemplate=hover)
        )


def _add_floor(plot: go.Figure, bands: SpectrumBands, style: Style) -> None:
    if bands.floor > 0 and _bottom(bands) <= bands.floor:
        ends, line = [bands.bands["relative_index"].min(), 1], {"color": palette(style).text, "width": 1, "dash": "dot"}
        plot.add_trace(go.Scatter(x=ends, y=[bands.floor] * 2, mode="lines", name="floor", line=line, hoverinfo="skip"))


def _bottom(bands: SpectrumBands) -> float:
    """The smallest number that is drawn: zero has no place on the axis, what is below the floor no meaning."""
    quantiles = bands.bands.filter(like="quantile_").to_numpy()
    positive = quantiles[quantiles > 0]
    return max(float(positive.min()), bands.floor) if positive.size else 1.0


def _data(bands: SpectrumBands) -> pd.DataFrame:
    about = {"run": bands.run, "step": bands.step, "delta": bands.delta}
    frames = [bands.bands.assign(shown="bands", **about)]
    if len(bands.highlighted):
        frames.append(bands.highlighted.assign(shown="matrix", **about))
    data = pd.concat(frames, ignore_index=True)
    return data[["shown", *about, *(name for name in data.columns if name not in {"shown", *about})]]


def _caption(bands: SpectrumBands) -> str:
    table = bands.bands
    cut = bool((table["quantile_0"] < _bottom(bands)).any())
    return caption(
        "Singular values relative to the largest, over the index relative to the largest possible rank q",
        ["Bands: all matrices, the middle 90 % and the middle half of them at each place; line: their median"],
        f"Data: {place(bands.run, bands.step, bands.delta)}; n = {bands.matrices} matrices",
        [
            "Grey, dashed: median of what white noise of each shape (of factors: random factors) shows",
            f"In none of it: {counted(bands.zero, 'matrix', 'matrices')} without any change" if bands.zero else "",
            f"In none of it: {counted(bands.unknown, 'matrix', 'matrices')} without a spectrum"
            if bands.unknown
            else "",
            f"Of {counted(bands.truncated, 'matrix', 'matrices')} the leading values alone are known"
            if bands.truncated
            else "",
            f"Below the floor, {bands.floor:.2g}, a value may mean nothing" if bands.floor > 0 else "",
            "A band that goes to zero or below that floor ends at the bottom" if cut else "",
        ],
    )
