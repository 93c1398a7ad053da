"""How many of the leading directions of an update stand above the rounding of its files."""

import math

from rank_lab.change import change_statistics
from rank_lab.noise import MARGIN, above_rounding
from rank_lab.null import white_edge
from rank_lab.spectrum import Spectrum
from rank_lab.update import DenseUpdate, Update

__all__ = ["directions", "resolved_directions"]

_FINELY_STORED = 1e-6  # share of rounding in the energy up to which its edge needs no whitening
_EPS = 2.0**-52


def directions(spectrum: Spectrum) -> int:
    """How many of the first singular vectors are of values that the arithmetic can tell from zero.

    Parameters
    ----------
    spectrum
        With vectors.

    Examples
    --------
    >>> import numpy as np
    >>> directions(Spectrum(np.array([2.0, 0.0]), (2, 2), 2, 2.0, U=np.eye(2), Vh=np.eye(2)))
    1
    """
    vectors = 0 if spectrum.U is None else spectrum.U.shape[1]
    least = max(spectrum.floor, max(spectrum.shape) * _EPS * float(spectrum.values.max(initial=0.0)))
    return int((spectrum.values[:vectors] > least).sum())


def resolved_directions(
    update: Update, spectrum: Spectrum, *, stored: bool, base_rounded: bool = False, device: str = "cpu"
) -> int:
    r"""How many leading directions are not those of rounding.

    The tested count of :func:`rank_lab.noise.above_rounding`, taken for the first so many of the plain
    singular vectors: exact where rounding is alike all over the matrix. Where rounding holds less than a
    millionth of the energy, the values above :math:`s (\sqrt m + \sqrt n)` of its mean variance :math:`s^2`.

    Parameters
    ----------
    update
        Dense or factored.
    spectrum
        Its leading vectors.
    stored
        Whether it is the difference of two stored matrices; what is formed here in float64 has no rounding.
    base_rounded
        Whether the base was rounded from the same run, too.
    device
        Where to compute.

    Returns
    -------
    int
        From 0 to :func:`directions`.

    Notes
    -----
    For a stored difference two passes or more, and a Gram matrix unless rounding is that small.

    Examples
    --------
    >>> import torch
    >>> from rank_lab.leading_vectors import leading_vectors
    >>> from rank_lab.update import LowRankUpdate
    >>> update = LowRankUpdate(torch.eye(4)[:, :2], torch.eye(4)[:2])
    >>> resolved_directions(update, leading_vectors(update, 4), stored=False)
    2
    """
    there = directions(spectrum)
    if not stored or not isinstance(update, DenseUpdate) or update.base is None or not there:
        return there
    statistics = change_statistics(update)
    if statistics.recast:
        return 0
    both = base_rounded or statistics.both_rounded
    variance = statistics.tuned_rounding + (statistics.base_rounding if both else 0.0)
    if variance > _FINELY_STORED * spectrum.frobenius_norm**2:
        count = above_rounding(update, statistics, base_rounded=base_rounded, device=device).value
        return min(int(count), there)
    edge = MARGIN * white_edge(update.shape) * math.sqrt(variance / math.prod(update.shape))
    return min(int((spectrum.values > edge).sum()), there)
