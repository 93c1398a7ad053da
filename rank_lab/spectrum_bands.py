"""The spectra of many matrices on one axis: bands that hold a stated share of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from rank_lab.errors import RankLabError
from rank_lab.null import factor_null, null_spectrum
from rank_lab.spectrum_curve import SpectrumCurve, short_names, spectrum_curve

__all__ = ["BAND_LEVELS", "SpectrumBands", "spectrum_bands"]

BAND_LEVELS = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
"""Quantiles over the matrices: between neighbours but the median lie five bands."""

_GRID = 128

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SpectrumBands:
    """Spectra of a run and step, ready to be drawn.

    Parameters
    ----------
    run, step, delta
        Of which report's rows.
    bands
        A row a place of the axis: ``relative_index``, ``quantile_0`` ... ``quantile_100`` of the relative singular
        values, ``null`` (the median over the same matrices of what noise would show) and ``matrices``, of how many.
    highlighted
        A row a drawn point of chosen matrices: ``name``, ``module``, ``index``, ``relative_index``,
        ``relative_singular_value``, ``state`` (see :attr:`rank_lab.spectrum_curve.SpectrumCurve.points`).
    matrices
        How many are in the bands.
    zero, unknown
        Matrices that are in none of them: exactly zero, or without a spectrum.
    truncated
        Matrices of which only the leading values are known; they are in the bands as far as those go.
    floor
        The largest relative value below which one of the spectra means nothing.
    """

    run: str
    step: int | None
    delta: str
    bands: pd.DataFrame
    highlighted: pd.DataFrame
    matrices: int
    zero: int
    unknown: int
    truncated: int
    floor: float


def spectrum_bands(
    rows: pd.DataFrame, spectra: Mapping[str, Values], *, highlight: Sequence[str] = ()
) -> SpectrumBands:
    r"""Bands over all spectra of one run and step.

    At relative index :math:`x \in (0, 1]` a matrix with at most q directions has
    :math:`\sigma_{\lceil xq \rceil} / \sigma_1`: a value of its spectrum, never one between two.

    Parameters
    ----------
    rows
        Of a report's ``updates``: of one run, step and delta.
    spectra
        Module to singular values, descending.
    highlight
        Modules that are drawn by themselves, too.

    Returns
    -------
    SpectrumBands
        On 128 places, even in their logarithm, from 1/q of the largest matrix to 1.

    Raises
    ------
    RankLabError
        If the rows are of none or several runs, steps or deltas, or a highlighted module is not there.

    Notes
    -----
    O(128 N log N) for N matrices, whatever their size; a null a shape is computed besides.
    """
    places = rows[["run", "step", "delta"]].drop_duplicates()
    if len(places) != 1:
        raise RankLabError(
            f"bands are those of one run, step and delta; these rows are of {len(places)}: choose one of them."
        )
    zero = rows["frobenius_norm"].astype("float64") == 0
    known = rows["module"].astype(str).isin(spectra.keys()) & rows["frobenius_norm"].notna()
    own = rows[known & ~zero]
    grid = _grid(own)
    relative = _relative(own, spectra, grid)
    bands = _quantiles(relative, _nulls(own, grid), grid)
    counts = [len(spectra[str(module)]) for module in own["module"]]
    truncated = sum(count < bound for count, bound in zip(counts, own["rank_bound"], strict=True))
    floors = (own["spectrum_floor"] / own["spectral_norm"].astype("float64")).astype("float64")
    run, step, delta = places.iloc[0]
    return SpectrumBands(
        str(run), None if pd.isna(step) else int(step), str(delta), bands,
        _highlighted(own, spectra, highlight),
        len(own), int(zero.sum()), int((~known & ~zero).sum()), int(truncated),
        float(floors.max()) if floors.notna().any() else 0.0,
    )  # fmt: skip


def _highlighted(own: pd.DataFrame, spectra: Mapping[str, Values], modules: Sequence[str]) -> pd.DataFrame:
    curves = []
    for module in modules:
        row = own[own["module"] == module]
        if row.empty:
            raise RankLabError(f"module {module!r} has no spectrum that could be highlighted; choose one that has.")
        curves.append(spectrum_curve(row, spectra[module]))
    names, _ = short_names(curves)
    frames = [_relative_points(curve, name) for curve, name in zip(curves, names, strict=True)]
    columns = ["name", "module", "index", "relative_index", "relative_singular_value", "state"]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def _relative_points(curve: SpectrumCurve, name: str) -> pd.DataFrame:
    points, largest = curve.points, curve.points["singular_value"].iloc[0]
    return pd.DataFrame(
        {
            "name": name,
            "module": curve.module,
            "index": points["index"],
            "relative_index": points["index"] / curve.bound,
            "relative_singular_value": points["singular_value"] / largest,
            "state": points["state"],
        }
    )


def _grid(own: pd.DataFrame) -> Values:
    largest = int(own["rank_bound"].max()) if len(own) else 1
    return np.asarray(np.geomspace(1.0 / largest, 1.0, _GRID))


def _index(grid: Values, bound: int) -> npt.NDArray[np.intp]:
    # 1/q is not exact in binary: a whole number may come out a hair too large.
    return np.maximum(np.ceil(grid * bound * (1 - 1e-12)).astype(np.intp) - 1, 0)


def _relative(own: pd.DataFrame, spectra: Mapping[str, Values], grid: Values) -> Values:
    """A row a matrix; NaN where the value is not known."""
    indices = {int(bound): _index(grid, int(bound)) for bound in own["rank_bound"].unique()}
    found = np.full((len(own), len(grid)), math.nan)
    for line, (module, bound) in enumerate(zip(own["module"], own["rank_bound"], strict=True)):
        values = np.asarray(spectra[str(module)], dtype=np.float64)
        index = indices[int(bound)]
        inside = index < len(values)
        found[line, inside] = values[index[inside]] / values[0]
    return found


def _nulls(own: pd.DataFrame, grid: Values) -> Values:
    """What noise would show at each place: the median over the matrices."""
    lines: dict[tuple[tuple[int, int], int, bool], Values] = {}
    factors = own["factor_null_effective_rank"].notna()
    keys = [
        ((int(out), int(into)), int(bound), bool(factored))
        for out, into, bound, factored in zip(
            own["out_features"], own["in_features"], own["rank_bound"], factors, strict=True
        )
    ]
    for key in dict.fromkeys(keys):
        values = _null_values(*key)
        lines[key] = values[_index(grid, len(values))] / values[0]
    return np.median([lines[key] for key in keys], axis=0) if keys else np.full(len(grid), math.nan)


def _null_values(shape: tuple[int, int], bound: int, factors: bool) -> Values:
    if not factors:
        return null_spectrum(shape).values
    samples = [sample.values / sample.frobenius_norm for sample in factor_null(shape, bound)]
    return np.asarray(np.sqrt(np.mean(np.square(samples), axis=0)))


def _quantiles(relative: Values, null: Values, grid: Values) -> pd.DataFrame:
    """Places at which nothing is known are not there."""
    matrices = np.count_nonzero(~np.isnan(relative), axis=0)
    there = matrices > 0
    found = np.nanquantile(relative[:, there], BAND_LEVELS, axis=0) if there.any() else np.zeros((len(BAND_LEVELS), 0))
    columns = {f"quantile_{round(100 * level)}": line for level, line in zip(BAND_LEVELS, found, strict=True)}
    return pd.DataFrame(
        {"relative_index": grid[there], **columns, "null": null[there], "matrices": matrices[there]},
    )
