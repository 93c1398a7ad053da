"""What stands out of the bulk of a spectrum, and how its tail falls."""

import math

import numpy as np
import numpy.typing as npt

from rank_lab.errors import UnsupportedUpdateError
from rank_lab.null import marchenko_pastur_median, white_edge
from rank_lab.quantities import numerical_rank_tolerance
from rank_lab.spectrum import Spectrum

__all__ = ["gavish_donoho_rank", "marchenko_pastur_rank", "tail_exponent"]

_MIN_TAIL_VALUES = 50
_MIN_TAIL_FIT = 10


def gavish_donoho_rank(spectrum: Spectrum, *, noise_std: float | None = None) -> int:
    r"""Values above the optimal hard threshold of Gavish and Donoho.

    With known noise :math:`\tau = \lambda(\beta) \sqrt{\max(m, n)}\, s`, else
    :math:`\tau = \lambda(\beta)\, \mu_\beta^{-1/2}\, \mathrm{median}(\sigma)` with the
    Marchenko-Pastur median :math:`\mu_\beta`, and
    :math:`\lambda(\beta)^2 = 2(\beta + 1) + 8\beta / (\beta + 1 + \sqrt{\beta^2 + 14\beta + 1})`.

    It minimises the error of denoising in white noise; it is no test of
    significance, and rounding noise, whose size follows the weights', breaks it.
    Values within :func:`rank_lab.quantities.numerical_rank_tolerance` are never counted, so
    that an update of exactly low rank, whose median is zero, has that rank.

    Parameters
    ----------
    spectrum
        Complete.
    noise_std
        Standard deviation of one entry's noise, if known. The median stands for
        it only where the update could have full rank.

    Returns
    -------
    int
        In [0, min(m, n)].

    Raises
    ------
    IncompleteSpectrumError
        For a truncated spectrum.
    UnsupportedUpdateError
        For a factored update without ``noise_std``: the median of its few
        values is signal, not noise.

    Notes
    -----
    O(q) for q singular values.

    References
    ----------
    .. [1] Gavish & Donoho (2014), https://doi.org/10.1109/TIT.2014.2323359

    Examples
    --------
    >>> gavish_donoho_rank(Spectrum.from_values([9.0, 1.0, 1.0, 1.0], shape=(4, 4)))
    1
    """
    spectrum.require_complete("gavish_donoho_rank")
    beta = min(spectrum.shape) / max(spectrum.shape)
    coefficient = math.sqrt(2 * (beta + 1) + 8 * beta / (beta + 1 + math.sqrt(beta * beta + 14 * beta + 1)))
    std = _noise_std(spectrum, "gavish_donoho_rank") if noise_std is None else noise_std
    return _count_above(spectrum, coefficient * math.sqrt(max(spectrum.shape)) * std)


def marchenko_pastur_rank(spectrum: Spectrum, *, noise_std: float | None = None) -> int:
    r"""Values above the edge of white noise, at the 95 % point of its fluctuation.

    Values above :func:`rank_lab.null.white_edge` times the noise's standard deviation are
    counted, but none within :func:`rank_lab.quantities.numerical_rank_tolerance`.

    Parameters
    ----------
    spectrum
        Complete.
    noise_std
        Standard deviation of one entry's noise; default from the median value
        (valid only where few values are signal and entries are alike).

    Returns
    -------
    int
        In [0, min(m, n)].

    Raises
    ------
    IncompleteSpectrumError
        For a truncated spectrum.
    UnsupportedUpdateError
        For a factored update without ``noise_std``.

    Notes
    -----
    O(q) for q singular values.

    References
    ----------
    .. [1] Johnstone (2001), https://doi.org/10.1214/aos/1009210544

    Examples
    --------
    >>> marchenko_pastur_rank(Spectrum.from_values([9.0, 1.0, 1.0, 1.0], shape=(4, 4)), noise_std=1.0)
    1
    """
    spectrum.require_complete("marchenko_pastur_rank")
    std = _noise_std(spectrum, "marchenko_pastur_rank") if noise_std is None else noise_std
    return _count_above(spectrum, std * white_edge(spectrum.shape))


def tail_exponent(spectrum: Spectrum) -> float:
    r"""Power-law exponent :math:`\alpha` of the tail of the squared singular values.

    Maximum likelihood, :math:`\hat\alpha = 1 + n / \sum_i \ln(x_i / x_{\min})` over the
    :math:`n` values from :math:`x_{\min}` up, where :math:`x_{\min}` minimises the
    Kolmogorov-Smirnov distance.

    Returns
    -------
    float
        Above 1. A fit always returns a number; it does not show that the tail
        is a power law.

    Raises
    ------
    UnsupportedUpdateError
        For factored updates, for fewer than 50 values above the tolerance and for
        equal values: there is no tail to fit.
    IncompleteSpectrumError
        For a truncated spectrum.

    Notes
    -----
    O(q^2).

    References
    ----------
    .. [1] Clauset, Shalizi & Newman (2009), https://doi.org/10.1137/070710111

    Examples
    --------
    >>> u = (np.arange(2000) + 0.5) / 2000
    >>> spectrum = Spectrum.from_values((u ** (-1 / (3.0 - 1))) ** 0.5, shape=(2000, 2000))
    >>> 2.5 < tail_exponent(spectrum) < 4.5
    True
    """
    if not spectrum.full_rank_bound:
        raise UnsupportedUpdateError(
            f"tail_exponent: the update has rank at most {spectrum.rank_bound} of {min(spectrum.shape)}; it has no"
            " tail. Use it on dense updates."
        )
    spectrum.require_complete("tail_exponent")
    energies = spectrum.values[spectrum.values > numerical_rank_tolerance(spectrum)] ** 2
    if len(energies) < _MIN_TAIL_VALUES:
        raise UnsupportedUpdateError(
            f"tail_exponent: {len(energies)} singular values; a fit of the tail needs {_MIN_TAIL_VALUES}."
        )
    if energies[0] == energies[-1]:
        raise UnsupportedUpdateError("tail_exponent: all singular values are equal; a power law has none such.")
    return _fit_tail(np.log(energies))


def _fit_tail(logs: npt.NDArray[np.float64]) -> float:
    """Exponent at the start that minimises the Kolmogorov-Smirnov distance; ``logs`` descend."""
    best, exponent = math.inf, math.nan
    for count in range(_MIN_TAIL_FIT, len(logs) + 1):
        tail = logs[:count] - logs[count - 1]
        total = float(tail.sum())
        if total <= 0.0:
            continue
        slope = count / total
        model = -np.expm1(-slope * tail)  # share of the law below each value, descending
        steps = np.arange(count, 0, -1) / count
        distance = float(max(np.abs(model - steps).max(), np.abs(model - steps + 1 / count).max()))
        if distance < best:
            best, exponent = distance, 1.0 + slope
    return exponent


def _count_above(spectrum: Spectrum, threshold: float) -> int:
    return int((spectrum.values > max(threshold, numerical_rank_tolerance(spectrum))).sum())


def _noise_std(spectrum: Spectrum, quantity: str) -> float:
    if not spectrum.full_rank_bound:
        raise UnsupportedUpdateError(
            f"{quantity}: the update has rank at most {spectrum.rank_bound} of {min(spectrum.shape)}, so that its"
            " median singular value is signal, not noise. Give noise_std, or use it on dense updates."
        )
    return float(np.median(spectrum.values)) / math.sqrt(max(spectrum.shape) * marchenko_pastur_median(spectrum.shape))
