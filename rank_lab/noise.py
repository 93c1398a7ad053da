r"""Is it learning or rounding? Tests of a stored difference against the rounding of its files.

A checkpoint is stored rounded. The difference of two of them holds the rounding errors, whose variances
are known from the stored values (:mod:`rank_lab.grid`). Biwhitened (:mod:`rank_lab.whitening`), that noise
has the edge of white noise, and what stands above it was not made by rounding. Two tests:

T1
    whitened by the rounding variances: is it above rounding?
T2
    whitened by its own squares: is it structure above independent entries of its own size [1]_?

Both take rounding for rounding to nearest: stochastic rounding has up to twice the variance and shows above it.

References
----------
.. [1] Landa & Kluger (2025), The Dyson equalizer, https://doi.org/10.1093/imaiai/iaae036
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from rank_lab.change import ChangeStatistics
from rank_lab.decomposition import gram_floor, gram_matrix
from rank_lab.denoised import UNKNOWN, Estimate, Whitened, count_interval, denoised_ranks
from rank_lab.grid import rounding_variance
from rank_lab.null import white_edge
from rank_lab.spectrum import Spectrum
from rank_lab.spikes import leading
from rank_lab.update import DenseUpdate, return_freed_memory
from rank_lab.whitening import Whitening, whitening_of

__all__ = ["NOISE_MODES", "Noise", "NoiseMode", "Regime", "above_rounding", "noise_from", "noise_of", "regime_of"]

NoiseMode = Literal["off", "rounding", "full"]
NOISE_MODES: tuple[NoiseMode, ...] = ("off", "rounding", "full")

Regime = Literal["exact", "resolved", "partial", "unresolved"]

MARGIN = 1.02
"""Factor on the white edge: float16 values rounded to bfloat16 have 1.03 times the variance of the uniform law."""

_PLAINLY_RESOLVED = 1e-6  # share of rounding in the energy below which no rank but the numerical one feels it
_RESOLVED_SWALLOWED, _UNRESOLVED_SWALLOWED = 0.35, 0.85
_RESOLVED_ENERGY = 0.1
_LOW_RANK_SHARE = 0.25
_RECAST: dict[str, Estimate] = dict.fromkeys(
    ("energy_rank_90", "energy_rank_99", "stable_rank", "effective_rank"), Estimate(0.0, 0.0, 0.0)
)


@dataclass(frozen=True)
class Noise:
    """What rounding leaves of a stored difference.

    Parameters
    ----------
    regime
        ``exact``: no rounding in it. ``resolved``: the energy is the update's. ``partial``: directions can
        be counted and denoised, raw ranks mislead. ``unresolved``: nothing can be told.
    energy_fraction
        Share of the squared norm that rounding explains, in [0, 1].
    edge
        Largest singular value that rounding alone explains; NaN if it was not looked at.
    above_rounding, above_iid
        Counts of T1 and T2.
    ranks
        Denoised ranks by name; empty where none can be given.
    diffuse
        Whether more energy is above rounding than the counted directions hold.
    """

    regime: Regime
    energy_fraction: float = 0.0
    edge: float = math.nan
    above_rounding: Estimate = UNKNOWN
    above_iid: Estimate = UNKNOWN
    ranks: dict[str, Estimate] = field(default_factory=dict)
    diffuse: bool = False


def noise_from(stored: dict[str, Any]) -> Noise:
    """Read back what ``dataclasses.asdict`` made of it.

    Raises
    ------
    TypeError, KeyError
        If it was not that.
    """
    estimates = {name: Estimate(**stored[name]) for name in ("above_rounding", "above_iid")}
    ranks = {str(name): Estimate(**value) for name, value in stored["ranks"].items()}
    return Noise(**{**stored, **estimates, "ranks": ranks})


def noise_of(
    update: DenseUpdate,
    spectrum: Spectrum,
    statistics: ChangeStatistics,
    *,
    mode: NoiseMode = "rounding",
    base_rounded: bool = False,
    device: str = "cpu",
) -> Noise:
    """Test a stored difference against the rounding of its files.

    Parameters
    ----------
    update, spectrum, statistics
        The difference and what was measured of it.
    mode
        ``"off"``: the regime from one pass alone. ``"rounding"``: T1 where it could matter: not where
        rounding is less than a millionth of the energy, unless the rest of the spectrum looks like
        rounding. ``"full"``: both tests, always.
    base_rounded
        Whether the base was rounded from the same parent, too, as an earlier checkpoint of the run was: its
        rounding is then part of the difference. What training started from is exact. Taken for granted
        where the change is no larger than the rounding of both files.
    device
        Where to compute.

    Returns
    -------
    Noise

    Notes
    -----
    Each test: a few passes for the whitening, a Gram matrix, and a count by inertia with Lanczos for what
    is above the edge.

    Examples
    --------
    >>> from rank_lab.change import change_statistics
    >>> from rank_lab.decomposition import spectrum_of
    >>> from rank_lab.update import MemoryMatrix
    >>> generator = torch.Generator().manual_seed(0)
    >>> base = 0.02 * torch.randn(256, 256, generator=generator)
    >>> change = 1e-4 * torch.randn(256, 2, generator=generator) @ torch.randn(2, 256, generator=generator)
    >>> tuned = (base + change).to(torch.bfloat16)
    >>> update = DenseUpdate(MemoryMatrix(tuned), MemoryMatrix(base))
    >>> found = noise_of(update, spectrum_of(update), change_statistics(update))
    >>> found.regime, found.above_rounding.value, found.ranks["energy_rank_90"].value
    ('resolved', 2.0, 2.0)
    """
    base_rounded = base_rounded or statistics.both_rounded
    variance = statistics.tuned_rounding + (statistics.base_rounding if base_rounded else 0.0)
    energy = spectrum.frobenius_norm**2
    if spectrum.zero:
        return Noise("unresolved", math.nan)
    if statistics.recast:
        return Noise("unresolved", 1.0, above_rounding=Estimate(0.0, 0.0, 0.0), ranks=dict(_RECAST))
    fraction = min(variance / energy, 1.0)
    early = regime_of(statistics.swallowed_fraction, fraction)
    if mode == "off" or (mode == "rounding" and not _matters(spectrum, fraction, variance)):
        found = Noise("exact" if variance == 0.0 else early, fraction)
    else:
        found = _above_rounding(update, spectrum, statistics, base_rounded=base_rounded, device=device)
    if mode == "full":
        found = _with_iid(found, update, device)
    return found


def regime_of(swallowed_fraction: float, energy_fraction: float, above_rounding: float | None = None) -> Regime:
    """What a stored difference can tell.

    Calibrated by ``python -m analyses.noise_tables``: planted directions are found in the first two
    regimes and their ranks are right once denoised; in the last they are not.

    Parameters
    ----------
    swallowed_fraction
        Share of entries that did not change, where rounding can be the reason.
    energy_fraction
        Share of the squared norm that rounding explains.
    above_rounding
        Count of T1, if it was made.

    Examples
    --------
    >>> regime_of(0.04, 0.001), regime_of(0.69, 1.0, 16), regime_of(0.97, 1.0, 0), regime_of(0.0, 1.0, 0)
    ('resolved', 'partial', 'unresolved', 'unresolved')
    """
    nothing = above_rounding == 0 if above_rounding is not None else energy_fraction >= 1.0
    if nothing or swallowed_fraction > _UNRESOLVED_SWALLOWED:
        return "unresolved"
    resolved = swallowed_fraction < _RESOLVED_SWALLOWED and energy_fraction <= _RESOLVED_ENERGY
    return "resolved" if resolved else "partial"


def _matters(spectrum: Spectrum, fraction: float, variance: float) -> bool:
    if fraction > _PLAINLY_RESOLVED:
        return True
    # A merged adapter in float32: few directions, and a rest that rounding explains.
    kept = spectrum.values[: max(1, int(_LOW_RANK_SHARE * spectrum.rank_bound))]
    rest = spectrum.frobenius_norm**2 - float((kept**2).sum())
    return variance > 0.0 and rest <= 4.0 * variance + spectrum.floor**2 * spectrum.rank_bound


def above_rounding(
    update: DenseUpdate, statistics: ChangeStatistics, *, base_rounded: bool = False, device: str = "cpu"
) -> Estimate:
    """Count of T1 alone: directions of a stored difference above its rounding, with its interval.

    Parameters
    ----------
    update, statistics, base_rounded, device
        As :func:`noise_of` takes them.

    Notes
    -----
    A few passes for the whitening, a Gram matrix, a count by inertia.

    Examples
    --------
    >>> from rank_lab.change import change_statistics
    >>> from rank_lab.update import MemoryMatrix
    >>> generator = torch.Generator().manual_seed(0)
    >>> base = 0.02 * torch.randn(256, 256, generator=generator)
    >>> change = 1e-3 * torch.randn(256, 2, generator=generator) @ torch.randn(2, 256, generator=generator)
    >>> update = DenseUpdate(MemoryMatrix((base + change).to(torch.bfloat16)), MemoryMatrix(base))
    >>> above_rounding(update, change_statistics(update)).value
    2.0
    """
    whitening = _rounding_whitening(update, statistics, base_rounded=base_rounded or statistics.both_rounded)
    found, shape = _whitened(update, whitening, device), update.stored_shape
    return count_interval(found.values, shape, MARGIN * white_edge(shape))


def _rounding_whitening(update: DenseUpdate, statistics: ChangeStatistics, *, base_rounded: bool) -> Whitening:
    def variances() -> Iterator[tuple[slice, Tensor]]:
        for part, tuned, base in update.pieces():
            tile = rounding_variance(tuned, statistics.tuned_type)
            if base_rounded and base is not None:
                tile += rounding_variance(base, statistics.base_type)
            yield part, tile

    return whitening_of(variances, update.stored_shape)


def _above_rounding(
    update: DenseUpdate, spectrum: Spectrum, statistics: ChangeStatistics, *, base_rounded: bool, device: str
) -> Noise:
    whitening = _rounding_whitening(update, statistics, base_rounded=base_rounded)
    found = _whitened(update, whitening, device)
    shape = update.stored_shape
    count = count_interval(found.values, shape, MARGIN * white_edge(shape))
    fraction = min(whitening.total_variance / spectrum.frobenius_norm**2, 1.0)
    regime = regime_of(statistics.swallowed_fraction, fraction, count.value)
    noise = Noise(regime, fraction, whitening.norm_bound, count)
    if regime == "unresolved":
        return noise
    denoised = denoised_ranks(update, spectrum, statistics, found, base_rounded=base_rounded, device=device)
    return Noise(regime, fraction, whitening.norm_bound, count, ranks=denoised.ranks, diffuse=denoised.diffuse)


def _with_iid(noise: Noise, update: DenseUpdate, device: str) -> Noise:
    def squares() -> Iterator[tuple[slice, Tensor]]:
        for part, tuned, base in update.pieces():
            change = tuned.to(torch.float64, copy=True)
            yield part, (change if base is None else change.sub_(base)).square_()

    whitening = whitening_of(squares, update.stored_shape)
    shape = update.stored_shape
    gram = gram_matrix(update, device=device, whitening=whitening)
    edge = white_edge(shape)
    found = leading(gram, edge, vectors=False)
    del gram
    return_freed_memory()
    values = dict(vars(noise)) | {"above_iid": count_interval(found.values, shape, edge)}
    return Noise(**values)


def _whitened(update: DenseUpdate, whitening: Whitening, device: str) -> Whitened:
    """What is above the edge, and above what the arithmetic can tell from zero."""
    gram = gram_matrix(update, device=device, whitening=whitening)
    energy = float(gram.diagonal().sum())
    edge = max(MARGIN * white_edge(update.stored_shape), gram_floor(len(gram)) * math.sqrt(energy))
    found = leading(gram, edge)
    del gram
    return_freed_memory()
    return Whitened(whitening, energy, found.values, found.vectors)
