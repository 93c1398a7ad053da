r"""What rounding did to the energy of an update: how much it added, how much it swallowed.

Off the grid, rounding adds its variances,
:math:`E \lVert \Delta W \rVert_F^2 = \lVert S \rVert_F^2 + \sum_{ij} V_{ij}`.
On the grid it swallows small changes and attenuates all directions alike (:mod:`rank_lab.dead_zone`).
"""

import math
from dataclasses import dataclass

from rank_lab.change import ChangeStatistics
from rank_lab.dead_zone import fine_changes, spacing_classes, swallowed_energy
from rank_lab.update import DenseUpdate

__all__ = ["FEW_ZEROS", "RoundingEnergy", "added_energy", "swallowed_or_added"]

_MODEL_ERROR = 0.003  # of the rounding variance, by which the uniform law may be wrong
_NARROW = 0.1  # of the energy: doubt below which the added noise alone says enough
_MEASURED_ERROR = 0.05  # of the true energy, beside the scatter of the sample; up to 0.03 was seen on real updates
FEW_ZEROS = 0.03
"""Share of unchanged entries up to which rounding is an added noise."""


@dataclass(frozen=True)
class RoundingEnergy:
    """The energy of an update before it was rounded, as far as the files tell.

    Parameters
    ----------
    low, value, high
        Squared norm of the true update: estimate and bounds.
    attenuation, attenuation_rms
        By which the stored directions are smaller than the true ones: at most, and at least.
    whitened
        Whether rows and columns are scaled as by the whitening. There all entries count alike, so that it
        is known far better where some rows are rounded much more coarsely than others.
    """

    low: float
    value: float
    high: float
    attenuation: float = 1.0
    attenuation_rms: float = 1.0
    whitened: bool = False

    @property
    def swallowed(self) -> bool:
        """Whether changes too small for the grid were lost in a share that matters."""
        return self.attenuation != 1.0

    def diffuse(self, held: float) -> tuple[float, float, float]:
        """Energy that the counted directions do not hold, as shares of what they hold.

        Parameters
        ----------
        held
            Squared norm of the denoised directions, scaled as this energy is.

        Returns
        -------
        least, likely, most
        """
        least = max(self.low * self.attenuation**2 / held - 1.0, 0.0)
        likely = max(self.value * self.attenuation**2 / held - 1.0, 0.0)
        return least, likely, max(self.high * self.attenuation_rms**2 / held - 1.0, likely)


def added_energy(stored: float, added: float, added_square: float, zeros: float, *, whitened: bool) -> RoundingEnergy:
    """The true energy where rounding added its variances.

    Parameters
    ----------
    stored
        Squared norm of the stored difference.
    added, added_square
        Sum of the rounding variances, and of their squares.
    zeros
        Share of entries that did not change: there less was added.
    whitened
        Whether all of these are of the whitened difference.
    """
    signal = max(stored - added, 0.0)
    # A uniform error of variance V has a square of variance 0.8 V^2; the cross term takes the weighted mean of V.
    spread = math.sqrt(0.8 * added_square + 4.0 * signal * (added_square / added if added else 0.0))
    doubt = _MODEL_ERROR * added + 3.0 * spread + (zeros * added if zeros > FEW_ZEROS else 0.0)
    return RoundingEnergy(max(signal - doubt, 0.0), signal, signal + doubt, whitened=whitened)


def swallowed_or_added(
    update: DenseUpdate, added: RoundingEnergy, statistics: ChangeStatistics, *, base_rounded: bool
) -> RoundingEnergy:
    """What was added, or what was swallowed where that says more.

    Parameters
    ----------
    update, statistics
        The stored difference and what was measured of it.
    added
        From :func:`added_energy`.
    base_rounded
        Whether the base was rounded from the same run; see :func:`rank_lab.noise.noise_of`.
    """
    narrow = added.high - added.value <= _NARROW * added.value
    if narrow or base_rounded or statistics.swallowed_fraction <= FEW_ZEROS:
        return added
    grid = statistics.tuned_type
    classes = spacing_classes(update.pieces(), grid)
    changes = fine_changes(update.pieces(), grid, classes)
    swallowed = swallowed_energy(classes, changes)
    if math.isnan(swallowed.energy):
        return added
    if not len(changes):  # the Gaussian law was wrong by a factor of three on real updates: no lower bound
        return RoundingEnergy(0.0, 0.0, 3.0 * swallowed.energy, swallowed.attenuation, swallowed.attenuation_rms)
    squares = changes**2
    error = _MEASURED_ERROR + 2.0 * float(squares.std() / squares.mean()) / math.sqrt(len(changes))
    low, high = (1.0 - error) * swallowed.energy, (1.0 + error) * swallowed.energy
    return RoundingEnergy(low, swallowed.energy, high, swallowed.attenuation, swallowed.attenuation_rms)
