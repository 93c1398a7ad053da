"""The spectrum of one matrix as it is drawn: few points, its noise, its null, and where its ranks lie on it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from rank_lab.errors import RankLabError
from rank_lab.kept_points import MAX_POINTS, kept_points
from rank_lab.null import factor_null, null_spectrum
from rank_lab.shown_values import quantity_label, shown_arrays
from rank_lab.spectrum import Spectrum

__all__ = ["MARKED", "RankMark", "SpectrumCurve", "short_names", "spectrum_curve"]

MARKED = ("energy_rank_90", "stable_rank", "effective_rank", "rank_above_rounding")
"""Ranks that are marked on a spectrum."""

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RankMark:
    """Where a rank lies on a spectrum.

    Parameters
    ----------
    metric, symbol
        Of the rank.
    index
        The rank itself, perhaps fractional; NaN where it has no value.
    singular_value, energy
        Of the drawn line at that place: between two indices both change evenly with the logarithm of the index (of the
        singular value, its logarithm does). NaN where the place is not on the line: a rank of 0, or beyond what is
        positive and known.
    state
        One of :data:`rank_lab.shown_values.STATES`.
    """

    metric: str
    symbol: str
    index: float
    singular_value: float
    energy: float
    state: str


@dataclass(frozen=True, eq=False)
class SpectrumCurve:
    """One spectrum, ready to be drawn.

    Parameters
    ----------
    run, step, delta, module, kind, layer
        Of which matrix.
    points
        A row a point that is drawn: ``index`` (from 1), ``singular_value``, ``energy`` (share of the squared norm up to
        there), ``state`` (``value``, or ``below_floor``: the arithmetic cannot tell it from zero).
    null
        The same columns but ``state``, of what noise of that norm would show.
    null_kind
        ``white noise``, or ``random factors`` of an adapter's rank.
    ranks
        Where they lie.
    norm, floor, edge
        Frobenius norm; value below which singular values mean nothing (0 if none); largest value that rounding explains
        (NaN if not looked at).
    noise_regime
        Empty if there is none.
    known, bound, zeros, below_floor
        How many singular values the report holds, how many there can be, and how many of those that it holds are
        exactly zero or not zero but below the floor.
    """

    run: str
    step: int | None
    delta: str
    module: str
    kind: str
    layer: int | None
    points: pd.DataFrame
    null: pd.DataFrame
    null_kind: str
    ranks: tuple[RankMark, ...]
    norm: float
    floor: float
    edge: float
    noise_regime: str
    known: int
    bound: int
    zeros: int
    below_floor: int


def spectrum_curve(row: pd.DataFrame, values: Values, *, points: int = MAX_POINTS) -> SpectrumCurve:
    r"""One spectrum, its null and its ranks as they are drawn.

    Parameters
    ----------
    row
        The matrix' row of a report's ``updates``, as a frame of one row.
    values
        Its singular values, descending.
    points
        The most that are drawn; see :func:`rank_lab.kept_points.kept_points`. What is drawn are values of the spectrum,
        and both sides of the noise edge, of the floor and of every rank are among them.

    Returns
    -------
    SpectrumCurve
        The null has the norm of the update: white noise of its shape, or the root mean square, value by value, of 16
        products of random factors where its rank is bounded by its factors.

    Raises
    ------
    RankLabError
        If ``row`` is not one row.
    ShapeMismatchError
        If these are not the values of that row: too many, unsorted, or of another norm.

    Notes
    -----
    O(q) for q values; the null of factors of rank r costs :math:`16\,O(r^3)` once.
    """
    if len(row) != 1:
        raise RankLabError(f"a spectrum is that of one row of updates; these are {len(row)}: choose one.")
    one = row.iloc[0]
    shape = (int(one["out_features"]), int(one["in_features"]))
    floor, edge = float(one["spectrum_floor"]), float(one["noise_edge"])
    floor = 0.0 if math.isnan(floor) else floor
    spectrum = Spectrum(values, shape, int(one["rank_bound"]), float(one["frobenius_norm"]), floor=floor)
    energy = np.cumsum(spectrum.energy_shares)
    ranks = tuple(_mark(row, metric, spectrum.values, energy) for metric in MARKED)
    crossed = [np.count_nonzero(spectrum.values > level) + 0.5 for level in (edge, floor) if level > 0]
    drawn = _points(spectrum.values, energy, [*crossed, *(mark.index for mark in ranks if mark.index >= 1)], points)
    drawn["state"] = np.where(drawn["singular_value"] < floor, "below_floor", "value")
    null, null_kind = _null(spectrum, factors=bool(pd.notna(one["factor_null_effective_rank"])), points=points)
    zeros = int(np.count_nonzero(spectrum.values == 0))
    return SpectrumCurve(
        str(one["run"]), _whole(one["step"]), str(one["delta"]), str(one["module"]), str(one["kind"]),
        _whole(one["layer"]), drawn, null, null_kind, ranks, spectrum.frobenius_norm, floor, edge,
        "" if pd.isna(one["noise_regime"]) else str(one["noise_regime"]), len(spectrum.values), spectrum.rank_bound,
        zeros, int(np.count_nonzero(spectrum.values < floor)) - (zeros if floor > 0 else 0),
    )  # fmt: skip


def short_names(curves: Sequence[SpectrumCurve]) -> tuple[tuple[str, ...], str]:
    """What tells spectra apart, and what they have in common.

    Parameters
    ----------
    curves
        That are drawn together.

    Returns
    -------
    tuple of str
        A distinct name for each.
    str
        What all of them share; empty if nothing.

    Notes
    -----
    A matrix is called by its kind and layer where no other of the spectra is called so.
    """
    matrices = {curve.module: _matrix(curve) for curve in curves}
    if len(set(matrices.values())) < len(matrices):
        matrices = {module: module for module in matrices}
    parts = [
        (
            f"run {curve.run}",
            "" if curve.step is None else f"step {curve.step}",
            "change since the checkpoint before" if curve.delta == "step" else "",
            matrices[curve.module],
        )
        for curve in curves
    ]
    same = [len({part[place] for part in parts}) == 1 for place in range(4)]
    names = [", ".join(text for text, shared in zip(part, same, strict=True) if text and not shared) for part in parts]
    common = ", ".join(text for text, shared in zip(parts[0], same, strict=True) if text and shared) if parts else ""
    named = [name or matrices[curve.module] for name, curve in zip(names, curves, strict=True)]
    twice = {name for name in named if named.count(name) > 1}
    return tuple(f"{name} ({place})" if name in twice else name for place, name in enumerate(named, 1)), common


def _matrix(curve: SpectrumCurve) -> str:
    return f"{curve.kind}, layer {curve.layer}" if curve.layer is not None else curve.module


def _points(values: Values, energy: Values, places: Sequence[float], points: int) -> pd.DataFrame:
    """What is kept of the positive values: a logarithmic axis has no place for the others."""
    positive = values[values > 0]
    kept = kept_points(positive, places, points) if len(positive) else np.zeros(0, dtype=np.intp)
    return pd.DataFrame({"index": kept + 1, "singular_value": positive[kept], "energy": energy[kept]})


def _mark(row: pd.DataFrame, metric: str, values: Values, energy: Values) -> RankMark:
    shown = shown_arrays(row, metric)
    rank = float(shown["value"][0])
    height = share = math.nan
    positive = int(np.count_nonzero(values > 0))
    if 1 <= rank <= positive:
        below = min(math.floor(rank), positive)
        above = min(below + 1, positive)
        way = math.log(rank / below) / math.log(above / below) if above > below else 0.0
        height = float(values[below - 1] ** (1 - way) * values[above - 1] ** way)
        share = float((1 - way) * energy[below - 1] + way * energy[above - 1])
    return RankMark(metric, quantity_label(metric), rank, height, share, str(shown["state"][0]))


def _null(spectrum: Spectrum, *, factors: bool, points: int) -> tuple[pd.DataFrame, str]:
    if factors:
        samples = [sample.values / sample.frobenius_norm for sample in factor_null(spectrum.shape, spectrum.rank_bound)]
        unit = np.sqrt(np.mean(np.square(samples), axis=0))
    else:
        unit = null_spectrum(spectrum.shape).values
    values = unit if spectrum.zero else unit * spectrum.frobenius_norm
    drawn = _points(values, np.cumsum(unit**2), (), points)
    return drawn.iloc[:0] if spectrum.zero else drawn, "random factors" if factors else "white noise"


def _whole(number: object) -> int | None:
    return None if pd.isna(number) else int(number)  # type: ignore[call-overload]
