"""Ranks of an update once its rounding is taken out, with intervals by parametric bootstrap."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rank_lab.change import ChangeStatistics
from rank_lab.metrics import DENOISED_RANKS
from rank_lab.rounding_energy import FEW_ZEROS, RoundingEnergy, added_energy, swallowed_or_added
from rank_lab.scaled_gram import Moments, mostly_noise, scaled_gram
from rank_lab.spectrum import Spectrum
from rank_lab.spikes import debiased, fluctuation, overlaps, shown, undiffused
from rank_lab.update import DenseUpdate
from rank_lab.whitening import Whitening

__all__ = ["UNKNOWN", "Denoised", "Estimate", "Whitened", "count_interval", "denoised_ranks"]

Array = npt.NDArray[np.float64]

_DRAWS = 200
_PERCENT = (2.5, 97.5)
_NEGLIGIBLE = 0.01
_WHITE_MARGIN, _SWALLOWED_MARGIN = 0.05, 0.15
_UNEQUAL, _UNEQUAL_ENERGY = 2.0, 0.05  # spread of the rounding over rows, and its energy, from which it is not white
_OPEN = 1.3  # upper over lower bound, above which a rank is left open
_LITTLE = 0.1  # rounding in the energy: above, the scaling back is less exact than the draws say


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; NaN where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan


UNKNOWN = Estimate(math.nan)
"""Not measured, or not to be had."""


@dataclass(frozen=True, eq=False)
class Whitened:
    """A stored difference once its rounding was made white.

    Parameters
    ----------
    whitening
        The scalings.
    energy
        Squared norm of the scaled difference.
    values
        Its singular values above the edge.
    vectors
        Those of the short side, or None where there are too many.
    """

    whitening: Whitening
    energy: float
    values: Array
    vectors: Tensor | None


@dataclass(frozen=True)
class Denoised:
    """Denoised ranks by name, and whether energy above rounding is left that no counted direction holds."""

    ranks: dict[str, Estimate]
    diffuse: bool


def count_interval(values: Array, shape: tuple[int, int], edge: float) -> Estimate:
    """How many values are above the edge, with the interval over the noise.

    Parameters
    ----------
    values
        Whitened singular values above the edge.
    shape
        Of the matrix.
    edge
        That they were counted by.

    Examples
    --------
    >>> count_interval(np.array([400.0, 200.0]), (100, 100), 20.4)
    Estimate(value=2.0, low=2.0, high=2.0)
    """
    count = len(values)
    if not count:
        return Estimate(0.0, 0.0, 0.0)
    drawn = (_drawn(debiased(values, shape), shape) > edge).sum(axis=1)
    low, high = np.percentile(drawn, _PERCENT, method="inverted_cdf")
    return Estimate(float(count), min(float(low), count), max(float(high), count))


def denoised_ranks(
    update: DenseUpdate,
    spectrum: Spectrum,
    statistics: ChangeStatistics,
    whitened: Whitened,
    *,
    base_rounded: bool = False,
    device: str = "cpu",
) -> Denoised:
    r"""Ranks of the update that the counted directions make, rounding taken out.

    Each whitened value is debiased, the directions are scaled back, and the true energy of the update is
    estimated without them: what it has over the counted directions is diffuse (many directions, each below
    the edge). A rank that would need it has no value, only a bound.

    Parameters
    ----------
    update, spectrum, statistics
        The stored difference and what was measured of it.
    whitened
        What stood above the edge once it was whitened.
    base_rounded
        See :func:`rank_lab.noise.noise_of`.
    device
        Where to compute.

    Notes
    -----
    While vectors are at hand (few directions), 200 draws of the values from their asymptotic law give the
    intervals, whose upper end allows for all diffuse energy that the files do not exclude. With more than 64
    directions above the edge, or an eighth of all, the rounding is taken for white and taken out of all values
    at once (:func:`rank_lab.spikes.undiffused`); the interval is then that of the energy, 5 % wider (15 % where
    changes were swallowed), and there are no ranks if rows are rounded very unequally. Stable and
    effective rank have no interval where energy may be hidden, and no value where that matters.
    """
    few = whitened.vectors is not None
    noisy = whitened.whitening.total_variance > _UNEQUAL_ENERGY * spectrum.frobenius_norm**2
    if not few and (not spectrum.complete or (noisy and whitened.whitening.spread > _UNEQUAL)):
        return Denoised({}, diffuse=False)
    energy = swallowed_or_added(
        update, _added(spectrum, whitened, statistics.swallowed_fraction), statistics, base_rounded=base_rounded
    )
    if few:
        values, drawn, seen = _scaled_back(update, whitened, swallowed=energy.swallowed, device=device)
    else:
        noise = spectrum.frobenius_norm**2 - energy.attenuation**2 * energy.value
        std = math.sqrt(max(noise, 0.0) / math.prod(spectrum.shape))
        values = undiffused(spectrum.values, spectrum.shape, std)[: len(whitened.values)]
        drawn, seen = values[None], values
    held = float((values**2).sum())
    if not held:
        return Denoised({}, diffuse=False)
    counted = seen if energy.whitened else values
    least, likely, most = (share * held for share in energy.diffuse(float((counted**2).sum())))
    if few and not least:
        likely = 0.0  # few directions hold all energy until the files exclude it
    little = whitened.whitening.total_variance <= _LITTLE * spectrum.frobenius_norm**2
    certain = few and little and statistics.swallowed_fraction <= FEW_ZEROS and most <= _NEGLIGIBLE * held
    ranks = {
        name: _estimate(name, value, _samples(drawn, name, (least, most)), spectrum, len(whitened.values))
        for name, value in _ranks(values, likely).items()
    }
    if not few:
        margin = _SWALLOWED_MARGIN if energy.swallowed else _WHITE_MARGIN
        bound = spectrum.rank_bound
        ranks |= {name: _wider(ranks[name], margin, bound) for name in ("energy_rank_90", "energy_rank_99")}
    ranks["stable_rank"] = _stable(
        float(values.max()), held, (least, likely, most), ranks["stable_rank"] if certain else None
    )
    if not certain:
        ranks["effective_rank"] = _effective(values, most, spectrum.rank_bound)
    return Denoised(ranks, likely > _NEGLIGIBLE * held)


def _added(spectrum: Spectrum, whitened: Whitened, zeros: float) -> RoundingEnergy:
    """The energy without the rounding variances: of the whitened difference where that is what is debiased."""
    if whitened.vectors is not None:
        variance = float(math.prod(spectrum.shape))
        return added_energy(whitened.energy, variance, variance, zeros, whitened=True)
    total, square = whitened.whitening.total_variance, whitened.whitening.total_square
    return added_energy(spectrum.frobenius_norm**2, total, square, zeros, whitened=False)


def _scaled_back(
    update: DenseUpdate, whitened: Whitened, *, swallowed: bool, device: str
) -> tuple[Array, Array, Array]:
    """Denoised singular values in the original scale, draws of them, and the whitened values that they are made of.

    Directions whose vectors would be mostly noise once they are scaled back are left out, and count as diffuse.
    """
    shape, whitening = update.stored_shape, whitened.whitening
    theta = debiased(whitened.values, shape)
    # Where changes were swallowed, coarse rows hold less noise than their variance says: nothing to correct.
    cosines = (np.ones_like(theta),) * 2 if swallowed else overlaps(theta, shape)
    scales = _inverted(whitening.rows), _inverted(whitening.columns)
    sides = _moments(update, whitened, scales, device)
    hidden = [mostly_noise(*side).numpy() for side in zip(sides, scales, cosines, strict=True)]
    kept = ~(hidden[0] | hidden[1])
    theta = theta[kept]
    left, right = (
        scaled_gram(side.only(torch.from_numpy(kept)), scale, cosine[kept])
        for side, scale, cosine in zip(sides, scales, cosines, strict=True)
    )
    values = torch.from_numpy(np.concatenate([theta[None], debiased(_drawn(theta, shape), shape)]))
    rng = np.random.default_rng(1)
    left_root, right_root = (gram.root(gram.drawn(_DRAWS, rng)) for gram in (left, right))
    spectra = torch.linalg.svdvals((left_root * values[:, None, :]) @ right_root.mT).numpy()
    return spectra[0], spectra[1:], theta


def _moments(
    update: DenseUpdate, whitened: Whitened, scales: tuple[Tensor, Tensor], device: str
) -> tuple[Moments, Moments]:
    """Of the rows' and of the columns' vectors; those of the long side come and go with the tiles."""
    if whitened.vectors is None:
        raise ValueError("no vectors were kept: more directions than are scaled back one by one.")
    short, values = whitened.vectors, torch.from_numpy(whitened.values.copy())
    rows, columns = update.stored_shape
    axis: Literal[0, 1] = 0 if rows >= columns else 1
    zeros = torch.zeros(len(values), len(values), dtype=torch.float64)
    long = Moments(zeros, zeros)
    for part, tile in update.tiles(axis, device=device):
        scaled = whitened.whitening.scaled(part, tile, axis)
        product = (scaled if axis == 0 else scaled.T) @ short.to(tile.device)
        long += Moments.of(product.cpu() / values, scales[axis][part])
        del tile, scaled, product  # before the next one is read
    own = Moments.of(short.cpu(), scales[1 - axis])
    return (long, own) if axis == 0 else (own, long)


def _inverted(scale: Tensor) -> Tensor:
    return torch.where(scale > 0, 1.0 / scale.clamp_min(torch.finfo(torch.float64).tiny), 0.0)


def _drawn(theta: Array, shape: tuple[int, int]) -> Array:
    """Draws of what values show as, ``(draws, values)``."""
    noise = np.random.default_rng(0).standard_normal((_DRAWS, len(theta)))
    return np.asarray(shown(theta, shape) + fluctuation(theta, shape) * noise)


def _ranks(values: Array, diffuse: float) -> dict[str, float]:
    energies = np.sort(values**2)[::-1]
    held = float(energies.sum())
    total = held + diffuse
    if held <= 0.0:
        return dict.fromkeys(DENOISED_RANKS, math.nan)
    reached = np.cumsum(energies) / total
    whole = diffuse <= _NEGLIGIBLE * total
    return {
        "energy_rank_90": _first(reached, 0.90),
        "energy_rank_99": _first(reached, 0.99),
        "stable_rank": total / float(energies[0]),
        "effective_rank": _entropy_rank(values) if whole else math.nan,
    }


def _first(reached: Array, share: float) -> float:
    at = int(np.searchsorted(reached, share * (1.0 - 1e-12)))
    return float(at + 1) if at < len(reached) else math.nan


def _wider(found: Estimate, margin: float, bound: int) -> Estimate:
    """With what taking unequal rounding for white may cost."""
    low, high = math.floor((1.0 - margin) * found.low), math.ceil((1.0 + margin) * found.high)
    return Estimate(found.value, float(max(low, 1)), float(min(high, bound)))


def _stable(largest: float, held: float, diffuse: tuple[float, float, float], drawn: Estimate | None) -> Estimate:
    """The stable rank; without an interval where energy may be hidden, and none where that leaves it open."""
    if drawn is not None:
        return drawn
    low, value, high = ((held + energy) / largest**2 for energy in diffuse)
    return Estimate(value) if high <= _OPEN * low else UNKNOWN


def _effective(values: Array, most: float, bound: int) -> Estimate:
    """The effective rank, up to what all energy that may be hidden would add if it were spread evenly."""
    rest = bound - len(values)
    hidden = np.full(rest, math.sqrt(most / rest)) if rest and most > 0.0 else np.zeros(0)
    low, high = (_entropy_rank(found) for found in (values, np.append(values, hidden)))
    return Estimate(low) if high <= _OPEN * low else UNKNOWN


def _entropy_rank(values: Array) -> float:
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _samples(drawn: Array, name: str, diffuse: tuple[float, float]) -> tuple[Array, Array]:
    """Draws of a rank with the least and with the most diffuse energy."""
    least, most = (np.array([_ranks(row, energy)[name] for row in drawn]) for energy in diffuse)
    return least, most


def _estimate(name: str, value: float, samples: tuple[Array, Array], spectrum: Spectrum, counted: int) -> Estimate:
    """A rank that needs more energy than the counted directions hold is above their number, and has no other bound."""
    ends = float(min(counted + 1, spectrum.rank_bound)), float(spectrum.rank_bound)
    if name == "effective_rank" and math.isnan(value):
        return UNKNOWN
    method: Any = "inverted_cdf" if name.startswith("energy") else "linear"
    low, high = (
        float(np.percentile(np.where(np.isnan(drawn), end, drawn), percent, method=method))
        for drawn, percent, end in zip(samples, _PERCENT, ends, strict=True)
    )
    if math.isnan(value):
        return Estimate(value, low, high)
    return Estimate(value, min(low, value), max(high, value))
