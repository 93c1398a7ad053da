"""Norms and ranks of a spectrum, one function each.

Conventions are in the names: without suffix a quantity is taken on the singular
values, with ``_energy`` on their squares; an energy rank counts squares.
"""

import math

import numpy as np
import numpy.typing as npt

from rank_lab.spectrum import Spectrum

__all__ = [
    "effective_rank",
    "effective_rank_energy",
    "energy_rank",
    "frobenius_norm",
    "intrinsic_dimension",
    "nuclear_norm",
    "nuclear_ratio",
    "numerical_rank",
    "numerical_rank_tolerance",
    "participation_ratio",
    "participation_ratio_energy",
    "spectral_norm",
    "stable_rank",
]

_EPS = float(np.finfo(np.float64).eps)
_TIE = 1e-12  # a cumulated energy that misses its share by rounding alone has reached it


def spectral_norm(spectrum: Spectrum) -> float:
    r"""Largest singular value, :math:`\sigma_1`, in units of the weights; zero for a zero update.

    O(1); needs the leading value only.

    Raises
    ------
    IncompleteSpectrumError
        For a truncated spectrum without values.

    Examples
    --------
    >>> spectral_norm(Spectrum.from_values([3.0, 4.0], shape=(2, 2)))
    4.0
    """
    if not len(spectrum.values):
        spectrum.require_complete("spectral_norm")
        return 0.0
    return float(spectrum.values[0])


def frobenius_norm(spectrum: Spectrum) -> float:
    r"""Frobenius norm, :math:`(\sum_i \sigma_i^2)^{1/2}`, in units of the weights.

    O(1); exact also for a truncated spectrum, since it comes from the stream.

    Examples
    --------
    >>> frobenius_norm(Spectrum.from_values([3.0, 4.0], shape=(2, 2)))
    5.0
    """
    return spectrum.frobenius_norm


def nuclear_norm(spectrum: Spectrum) -> float:
    r"""Nuclear norm, :math:`\sum_i \sigma_i`, in units of the weights.

    O(q); needs all values.

    Raises
    ------
    IncompleteSpectrumError
        For a truncated spectrum.

    Examples
    --------
    >>> nuclear_norm(Spectrum.from_values([3.0, 4.0], shape=(2, 2)))
    7.0
    """
    spectrum.require_complete("nuclear_norm")
    return float(spectrum.values.sum())


def numerical_rank_tolerance(spectrum: Spectrum) -> float:
    r"""Absolute tolerance of :func:`numerical_rank`, :math:`\max(\max(m, n)\,\epsilon\,\sigma_1,\ \mathrm{floor})`.

    :math:`\epsilon` is that of float64, in which the stored values were
    subtracted or multiplied: the question is the rank of what is stored. What
    rounding to the storage type did to it is a question of noise, not of this
    tolerance.

    Examples
    --------
    >>> numerical_rank_tolerance(Spectrum.from_values([1.0], shape=(4, 4))) == 4 * 2.0**-52
    True
    """
    return max(max(spectrum.shape) * _EPS * spectral_norm(spectrum), spectrum.floor)


def numerical_rank(spectrum: Spectrum, *, tolerance: float | None = None) -> int:
    r"""Numerical rank, :math:`\#\{i : \sigma_i > \tau\}`.

    Parameters
    ----------
    spectrum
        All values, or at least all above the tolerance.
    tolerance
        :math:`\tau` in units of the weights; default :func:`numerical_rank_tolerance`,
        the convention of ``numpy.linalg.matrix_rank`` but never below the floor
        of the method.

    Returns
    -------
    int
        In [0, rank_bound]. For a stored full fine-tune it is usually the full
        rank, because rounding alone fills every direction.

    Raises
    ------
    IncompleteSpectrumError
        If a truncated spectrum ends above the tolerance.

    Notes
    -----
    O(q) for q singular values.

    References
    ----------
    .. [1] https://numpy.org/doc/stable/reference/generated/numpy.linalg.matrix_rank.html

    Examples
    --------
    >>> numerical_rank(Spectrum.from_values([1.0, 1e-3, 1e-20], shape=(3, 5)))
    2
    >>> numerical_rank(Spectrum.from_values([1.0, 1e-3, 1e-20], shape=(3, 5)), tolerance=0.01)
    1
    """
    threshold = numerical_rank_tolerance(spectrum) if tolerance is None else tolerance
    count = int((spectrum.values > threshold).sum())
    if count == len(spectrum.values):
        spectrum.require_complete("numerical_rank")
    return count


def energy_rank(spectrum: Spectrum, share: float) -> int:
    r"""Energy rank, :math:`\min\{k : \sum_{i \le k} \sigma_i^2 \ge p \sum_i \sigma_i^2\}`.

    "The rank needed to explain 90 % of the variance" of [1]_ is ``energy_rank(spectrum, 0.9)``.

    Parameters
    ----------
    spectrum
        The leading values suffice if they hold the share.
    share
        :math:`p`, in (0, 1].

    Returns
    -------
    int
        In [1, rank_bound]; 0 for a zero update.

    Raises
    ------
    IncompleteSpectrumError
        If a truncated spectrum does not reach the share.
    ValueError
        If the share is not in (0, 1].

    Notes
    -----
    O(q) for q singular values.

    References
    ----------
    .. [1] Biderman et al. (2024), https://arxiv.org/abs/2405.09673

    Examples
    --------
    >>> spectrum = Spectrum.from_values([3.0, 1.0], shape=(2, 2))
    >>> energy_rank(spectrum, 0.9), energy_rank(spectrum, 0.91)
    (1, 2)
    """
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share is {share}; expected a fraction in (0, 1], such as 0.9.")
    if spectrum.zero:
        return 0
    reached = np.cumsum(spectrum.energy_shares)
    rank = int(np.searchsorted(reached, share * (1.0 - _TIE))) + 1
    if rank > len(spectrum.values):
        spectrum.require_complete(f"energy_rank({share})")
        return len(spectrum.values)
    return rank


def stable_rank(spectrum: Spectrum) -> float:
    r"""Stable rank, :math:`\lVert \Delta W \rVert_F^2 / \sigma_1^2`.

    Between 1 and the rank; unlike the rank it moves continuously with the
    matrix, and noise adds to it slowly.

    Returns
    -------
    float
        In [1, rank_bound]; NaN for a zero update, which has no direction.

    Notes
    -----
    O(1); needs the leading value only. Its relative error is at most twice that of :math:`\sigma_1`.

    References
    ----------
    .. [1] Rudelson & Vershynin (2007), https://doi.org/10.1145/1255443.1255449

    Examples
    --------
    >>> round(stable_rank(Spectrum.from_values([2.0, 1.0, 1.0], shape=(3, 5))), 12)
    1.5
    """
    return math.nan if spectrum.zero else (spectrum.frobenius_norm / spectral_norm(spectrum)) ** 2


def effective_rank(spectrum: Spectrum) -> float:
    r"""Effective rank, :math:`\exp(-\sum_i p_i \ln p_i)` with :math:`p_i = \sigma_i / \sum_j \sigma_j`.

    Very sensitive to noise: a flat tail of tiny values weighs heavily.

    Returns
    -------
    float
        In [1, rank]; NaN for a zero update.

    Raises
    ------
    IncompleteSpectrumError
        For a truncated spectrum.

    Notes
    -----
    O(q) for q singular values.

    References
    ----------
    .. [1] Roy & Vetterli (2007), The effective rank: a measure of effective dimensionality, EUSIPCO

    Examples
    --------
    >>> round(effective_rank(Spectrum.from_values([1.0, 1.0], shape=(2, 2))), 12)
    2.0
    """
    spectrum.require_complete("effective_rank")
    return _exp_entropy(spectrum.values)


def effective_rank_energy(spectrum: Spectrum) -> float:
    r"""Effective rank on energies, :math:`\exp(-\sum_i p_i \ln p_i)` with :math:`p_i = \sigma_i^2 / \sum_j \sigma_j^2`.

    Often called effective rank, too; never larger than :func:`effective_rank`.

    Returns
    -------
    float
        In [1, rank]; NaN for a zero update.

    Raises
    ------
    IncompleteSpectrumError
        For a truncated spectrum.

    Notes
    -----
    O(q) for q singular values.

    Examples
    --------
    >>> round(effective_rank_energy(Spectrum.from_values([1.0, 1.0], shape=(2, 2))), 12)
    2.0
    """
    spectrum.require_complete("effective_rank_energy")
    return _exp_entropy(spectrum.energy_shares)


def participation_ratio(spectrum: Spectrum) -> float:
    r"""Participation ratio of the singular values, :math:`(\sum_i \sigma_i)^2 / \sum_i \sigma_i^2`.

    Returns
    -------
    float
        In [1, rank]; NaN for a zero update.

    Raises
    ------
    IncompleteSpectrumError
        For a truncated spectrum.

    Notes
    -----
    O(q) for q singular values.

    Examples
    --------
    >>> participation_ratio(Spectrum.from_values([3.0, 1.0], shape=(2, 2)))
    1.6
    """
    spectrum.require_complete("participation_ratio")
    return _participation(spectrum.values)


def participation_ratio_energy(spectrum: Spectrum) -> float:
    r"""Participation ratio of the energies, :math:`(\sum_i \sigma_i^2)^2 / \sum_i \sigma_i^4`.

    On white noise about two thirds of :func:`participation_ratio`: papers use
    both, so that the convention must be named.

    Returns
    -------
    float
        In [1, rank]; NaN for a zero update.

    Raises
    ------
    IncompleteSpectrumError
        For a truncated spectrum.

    Notes
    -----
    O(q) for q singular values.

    References
    ----------
    .. [1] Gao et al. (2017), https://doi.org/10.1101/214262

    Examples
    --------
    >>> round(participation_ratio_energy(Spectrum.from_values([3.0, 1.0], shape=(2, 2))), 6)
    1.219512
    """
    spectrum.require_complete("participation_ratio_energy")
    return _participation(spectrum.energy_shares)


def nuclear_ratio(spectrum: Spectrum) -> float:
    r"""Squared ratio of nuclear to Frobenius norm, :math:`(\lVert \Delta W \rVert_* / \lVert \Delta W \rVert_F)^2`.

    By algebra equal to :func:`participation_ratio`; both names are in use.

    Returns
    -------
    float
        In [1, rank]; NaN for a zero update.

    Raises
    ------
    IncompleteSpectrumError
        For a truncated spectrum.

    Notes
    -----
    O(q) for q singular values.

    Examples
    --------
    >>> round(nuclear_ratio(Spectrum.from_values([3.0, 1.0], shape=(2, 2))), 12)
    1.6
    """
    spectrum.require_complete("nuclear_ratio")
    return math.nan if spectrum.zero else (nuclear_norm(spectrum) / spectrum.frobenius_norm) ** 2


def intrinsic_dimension(spectrum: Spectrum) -> float:
    r"""Intrinsic dimension of :math:`(\Delta W^T \Delta W)^{1/2}`, :math:`\lVert \Delta W \rVert_* / \sigma_1`.

    Returns
    -------
    float
        In [stable_rank, rank]; NaN for a zero update.

    Raises
    ------
    IncompleteSpectrumError
        For a truncated spectrum.

    Notes
    -----
    O(q) for q singular values.

    References
    ----------
    .. [1] Ipsen & Saibaba (2024), the stable 1-rank, https://arxiv.org/abs/2407.21594

    Examples
    --------
    >>> intrinsic_dimension(Spectrum.from_values([4.0, 2.0], shape=(2, 2)))
    1.5
    """
    spectrum.require_complete("intrinsic_dimension")
    return math.nan if spectrum.zero else nuclear_norm(spectrum) / spectral_norm(spectrum)


def _exp_entropy(weights: npt.NDArray[np.float64]) -> float:
    total = float(weights.sum())
    if total == 0.0:
        return math.nan
    p = weights[weights > 0] / total
    return float(np.exp(-(p * np.log(p)).sum()))


def _participation(weights: npt.NDArray[np.float64]) -> float:
    largest = weights.max(initial=0.0)
    if largest == 0.0:
        return math.nan
    relative = np.ldexp(weights, -math.frexp(largest)[1])  # exact, and squares of tiny values do not underflow
    return float(relative.sum() ** 2 / (relative @ relative))
