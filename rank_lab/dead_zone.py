r"""How much of an update a grid swallows: the dead zone of rounding a small change of a value on the grid.

Where the base lies on the grid of the tuned file, a change of less than half a spacing is lost: the stored
change is :math:`\mathrm{ulp} \cdot \mathrm{round}(d / \mathrm{ulp})`. Entries of one spacing share one
quantiser, and their share of zeros gives the size of the change, taken for Gaussian with standard deviation
:math:`s` there: :math:`P(|d| < \mathrm{ulp}/2) = \mathrm{erf}(\mathrm{ulp} / (2\sqrt2\, s))`. On average the
quantiser multiplies the change by :math:`\kappa = E[d\, Q(d)] / s^2` (Bussgang), whatever its structure.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import erfinv
from torch import Tensor

from rank_lab.grid import spacing

__all__ = ["SpacingClass", "SwallowedEnergy", "spacing_classes", "swallowed_energy"]

Array = npt.NDArray[np.float64]

_FEW_ZEROS = 0.03  # below, the quantiser is a uniform noise to better than a part in ten thousand
_MOST_ZEROS = 0.99  # above, the tail of the law decides, which nobody knows
_LEVELS = 40


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
        change = tuned.to(torch.float64) - (0.0 if base is None else base.to(torch.float64))
        exponents = torch.frexp(spacing(tuned, grid)).exponent.flatten()
        least = int(exponents.min())
        place = (exponents - least).to(torch.int64)
        columns = (
            torch.bincount(place),
            torch.bincount(place, weights=(change == 0).flatten().to(torch.float64)),
            torch.bincount(place, weights=change.square_().flatten()),
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


def swallowed_energy(classes: Iterable[SpacingClass]) -> SwallowedEnergy:
    """Estimate the true energy and the attenuation from the classes.

    A class in which nearly nothing changed takes the size of the change from the others: that the size
    does not depend on the spacing is the assumption here.

    Parameters
    ----------
    classes
        From :func:`spacing_classes`.

    Examples
    --------
    >>> fine = SpacingClass(1.0, 10_000, 0, 4e6)  # changes of 20 spacings
    >>> found = swallowed_energy([fine])
    >>> round(found.energy), found.attenuation
    (3999167, 1.0)
    """
    kept = [found for found in classes if found.entries]
    counts = np.array([found.entries for found in kept], dtype=np.float64)
    sizes = np.array([_size(found) for found in kept])
    known = np.isfinite(sizes)
    if not known.any():
        return SwallowedEnergy(math.nan, math.nan, math.nan)
    pooled = math.sqrt(float((counts[known] * sizes[known] ** 2).sum() / counts[known].sum()))
    sizes = np.where(known, sizes, pooled)
    factors = np.array([_attenuation(size / found.spacing) for size, found in zip(sizes, kept, strict=True)])
    total = counts.sum()
    return SwallowedEnergy(
        float((counts * sizes**2).sum()),
        float((counts * factors).sum() / total),
        math.sqrt(float((counts * factors**2).sum() / total)),
    )


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
