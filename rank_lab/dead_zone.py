r"""How much of an update a grid swallows: the dead zone of rounding a small change of a value on the grid.

Where the base lies on the grid of the tuned file, a change of less than half a spacing is lost: the stored
change is :math:`\mathrm{ulp} \cdot \mathrm{round}(d / \mathrm{ulp})`. Entries of one spacing share one
quantiser, which on average multiplies the change by :math:`\kappa = E[d\, Q(d)] / E[d^2]`, whatever its
structure (Bussgang). How changes are distributed is read off the entries of the finest spacings, which
hold them to some per cent, and taken for that of all entries. Where there are too few of these, each
spacing's share of zeros gives the size of a Gaussian change,
:math:`P(|d| < \mathrm{ulp}/2) = \mathrm{erf}(\mathrm{ulp} / (2\sqrt2\, s))`.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import erfinv
from torch import Tensor

from rank_lab.grid import spacing

__all__ = ["SpacingClass", "SwallowedEnergy", "fine_changes", "spacing_classes", "swallowed_energy"]

Array = npt.NDArray[np.float64]

_FEW_ZEROS = 0.03  # below, the quantiser is a uniform noise to better than a part in ten thousand
_MOST_ZEROS = 0.99  # above, the tail of the law decides, which nobody knows
_LEVELS = 40
_FINE = 3.0  # spacings in a change of typical size
_ENOUGH, _SAMPLE = 200, 100_000


@dataclass(frozen=True)
class SpacingClass:
    """Entries whose stored values have one spacing: how many, how many unchanged, and their stored energy."""

    spacing: float
    entries: int
    unchanged: int
    energy: float


@dataclass(frozen=True)
class SwallowedEnergy:
    r"""The energy of an update before rounding, and what the quantiser leaves of its directions.

    Parameters
    ----------
    energy
        Estimate of the squared norm of the true change.
    attenuation
        Mean of :math:`\kappa`, by which a direction that lies across all spacings is multiplied.
    attenuation_rms
        Root mean square of it: for directions that follow the spacings.
    """

    energy: float
    attenuation: float
    attenuation_rms: float


def spacing_classes(pairs: Iterable[tuple[slice, Tensor, Tensor | None]], grid: torch.dtype) -> list[SpacingClass]:
    """Count entries by spacing of the tuned values, in one pass.

    Parameters
    ----------
    pairs
        Tiles of tuned and base; see :meth:`rank_lab.update.DenseUpdate.pieces`.
    grid
        Of the tuned values.
    """
    totals: dict[int, list[float]] = {}
    for _, tuned, base in pairs:
        change, steps = _weights(tuned, base, grid)
        if not len(change):
            continue
        exponents = torch.frexp(steps).exponent
        least = int(exponents.min())
        place = (exponents - least).to(torch.int64)
        columns = (
            torch.bincount(place),
            torch.bincount(place, weights=(change == 0).to(torch.float64)),
            torch.bincount(place, weights=change.square_()),
        )
        for index, row in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
            found = totals.setdefault(least + index, [0.0, 0.0, 0.0])
            for at, value in enumerate(row):
                found[at] += value
    return [
        SpacingClass(2.0 ** (exponent - 1), int(count), int(zeros), energy)
        for exponent, (count, zeros, energy) in sorted(totals.items())
        if count
    ]


def _weights(tuned: Tensor, base: Tensor | None, grid: torch.dtype) -> tuple[Tensor, Tensor]:
    """Changes and spacings of the entries that are weights: a zero was pruned, and loses nothing."""
    steps = spacing(tuned, grid)
    if base is None:
        return tuned.to(torch.float64).flatten(), steps.flatten()
    there = base != 0
    return tuned[there].to(torch.float64) - base[there].to(torch.float64), steps[there]


def fine_changes(
    pairs: Iterable[tuple[slice, Tensor, Tensor | None]], grid: torch.dtype, classes: Sequence[SpacingClass]
) -> Array:
    """Changes of entries whose spacing is fine against them; empty where there are too few to stand for all.

    Parameters
    ----------
    pairs, grid
        As for :func:`spacing_classes`.
    classes
        Which it found.
    """
    fine = [found for found in classes if math.sqrt(found.energy / found.entries) > _FINE * found.spacing]
    count = sum(found.entries for found in fine)
    if count < _ENOUGH:
        return np.zeros(0)
    limit, every = max(found.spacing for found in fine), max(1, count // _SAMPLE)
    kept = []
    for _, tuned, base in pairs:
        change, steps = _weights(tuned, base, grid)
        kept.append(change[steps <= limit][::every])
    return np.asarray(torch.cat(kept).numpy(), dtype=np.float64)


def swallowed_energy(classes: Sequence[SpacingClass], changes: Array) -> SwallowedEnergy:
    """Estimate the true energy and the attenuation.

    Parameters
    ----------
    classes
        From :func:`spacing_classes`.
    changes
        From :func:`fine_changes`; empty to take changes for Gaussian, class by class.

    Examples
    --------
    >>> coarse = SpacingClass(1.0, 1000, 500, 500.0)
    >>> found = swallowed_energy([coarse], np.array([0.4, -0.6]))
    >>> round(found.energy, 3), round(found.attenuation, 3)
    (260.0, 1.154)
    """
    kept = [found for found in classes if found.entries]
    counts = np.array([found.entries for found in kept], dtype=np.float64)
    if len(changes):
        mean = float((changes**2).mean())
        factors = np.array([_measured_attenuation(changes, found.spacing) for found in kept])
        energy = float(counts.sum() * mean)
    else:
        sizes = np.array([_size(found) for found in kept])
        known = np.isfinite(sizes)
        if not known.any():
            return SwallowedEnergy(math.nan, math.nan, math.nan)
        pooled = math.sqrt(float((counts[known] * sizes[known] ** 2).sum() / counts[known].sum()))
        sizes = np.where(known, sizes, pooled)
        factors = np.array([_attenuation(size / found.spacing) for size, found in zip(sizes, kept, strict=True)])
        energy = float((counts * sizes**2).sum())
    total = counts.sum()
    return SwallowedEnergy(
        energy, float((counts * factors).sum() / total), math.sqrt(float((counts * factors**2).sum() / total))
    )


def _measured_attenuation(changes: Array, step: float) -> float:
    energy = float((changes**2).sum())
    return float((changes * step * np.round(changes / step)).sum() / energy) if energy else 0.0


def _size(found: SpacingClass) -> float:
    """Root mean square of the change; NaN where nearly all of it was swallowed."""
    zeros = found.unchanged / found.entries
    if zeros > _MOST_ZEROS:
        return math.nan
    if zeros < _FEW_ZEROS:
        return math.sqrt(max(found.energy / found.entries - found.spacing**2 / 12.0, 0.0))
    return found.spacing / (2.0 * math.sqrt(2.0) * float(erfinv(zeros)))


def _attenuation(size: float) -> float:
    r"""Factor :math:`\kappa = E[d\, Q(d)] / s^2` of a Gaussian change of that size in spacings.

    By parts it is the density at all thresholds, :math:`\sum_k \phi((k - 1/2) / s) / s` on both sides.
    """
    if size <= 0.0:
        return 0.0
    if size > _LEVELS / 8:
        return 1.0
    thresholds = np.arange(_LEVELS) + 0.5
    return float(2.0 * (np.exp(-0.5 * (thresholds / size) ** 2)).sum() / (size * math.sqrt(2.0 * math.pi)))
