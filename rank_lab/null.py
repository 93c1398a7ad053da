r"""What white noise of the same shape would show: the null beside every rank.

The squared singular values of an :math:`m \times n` matrix of independent
entries follow the Marchenko-Pastur law. With :math:`q = \min(m, n)`,
:math:`\beta = q / \max(m, n)` and entries of variance :math:`1/\max(m, n)`,

.. math:: x(\theta) = 1 + \beta + 2 \sqrt\beta \cos\theta,\qquad
          w(\theta) = \frac{2 \sin^2\theta}{\pi\, x(\theta)},\qquad 0 \le \theta \le \pi,

gives the eigenvalue and its density, from the largest at 0 to the smallest at
:math:`\pi`; the integrands are smooth, so that Gauss-Legendre quadrature is exact
to rounding, and to a share of 1e-5 for the steep end of nearly square matrices.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

from rank_lab.spectrum import Spectrum

__all__ = [
    "factor_null",
    "marchenko_pastur_median",
    "marchenko_pastur_quadrature",
    "null_ranks",
    "null_spectrum",
    "white_edge",
]

Array = npt.NDArray[np.float64]

_NODES = 400
_FACTOR_SAMPLES = 16
_TRACY_WIDOM_95 = 0.9793  # upper 5 % point of the Tracy-Widom law of order one


def null_ranks(shape: tuple[int, int]) -> dict[str, float]:
    """Expected ranks of a white-noise matrix, by exact Marchenko-Pastur integrals.

    Parameters
    ----------
    shape
        ``(out, in)``, in either order.

    Returns
    -------
    dict
        Name of the quantity to its value for large white noise of that shape.
        Finite matrices differ by a fluctuation of order one in a rank.

    Notes
    -----
    O(1) and cached.

    References
    ----------
    .. [1] Marchenko & Pastur (1967), https://doi.org/10.1070/SM1967v001n04ABEH001994

    Examples
    --------
    >>> round(null_ranks((4096, 4096))["energy_rank_90"])
    2088
    """
    return dict(_null_ranks(min(shape), max(shape)))


@lru_cache(maxsize=1024)
def _null_ranks(q: int, longer: int) -> tuple[tuple[str, float], ...]:
    beta = q / longer
    x, w = _quadrature(beta, 0.0, np.pi)
    sigma = np.sqrt(x)
    mean, top = float(w @ sigma), 1.0 + np.sqrt(beta)
    share, energy = sigma / mean, x  # the mean of x is one
    entropy = float(w @ _xlogx(share))
    entropy_energy = float(w @ _xlogx(energy))
    ranks = {f"energy_rank_{percent}": q * _upper_share(beta, percent / 100) for percent in (50, 90, 95, 99)}
    return tuple(
        {
            "numerical_rank": float(q),
            **ranks,
            "stable_rank": q / top**2,
            "effective_rank": q * float(np.exp(-entropy)),
            "effective_rank_energy": q * float(np.exp(-entropy_energy)),
            "participation_ratio": q * mean**2,
            "participation_ratio_energy": q / float(w @ x**2),
            "nuclear_ratio": q * mean**2,
            "intrinsic_dimension": q * mean / top,
            "gavish_donoho_rank": 0.0,
            "marchenko_pastur_rank": 0.0,
        }.items()
    )


def null_spectrum(shape: tuple[int, int]) -> Spectrum:
    """The white-noise spectrum of that shape, scaled to a Frobenius norm of one.

    Parameters
    ----------
    shape
        ``(out, in)``.

    Returns
    -------
    Spectrum
        The ``i``-th value is the Marchenko-Pastur quantile at ``(i - 1/2) / q``.

    Examples
    --------
    >>> spectrum = null_spectrum((768, 768))
    >>> len(spectrum.values), round(spectrum.frobenius_norm, 12)
    (768, 1.0)
    """
    q, beta = min(shape), min(shape) / max(shape)
    theta = np.linspace(0.0, np.pi, 20001)
    x = _eigenvalue(beta, theta)
    mass = _cumulative(_density(beta, theta), theta)
    values = np.sqrt(np.interp((np.arange(q) + 0.5) / q, mass / mass[-1], x))
    return Spectrum.from_values(values / np.linalg.norm(values), shape=shape)


def marchenko_pastur_median(shape: tuple[int, int]) -> float:
    """Median of the eigenvalues for entries of variance ``1 / max(shape)``.

    Examples
    --------
    >>> round(marchenko_pastur_median((100, 100)), 4)
    0.6528
    """
    return _median(min(shape) / max(shape))


def marchenko_pastur_quadrature(shape: tuple[int, int]) -> tuple[Array, Array]:
    """Nodes and weights for means over the eigenvalues, for entries of variance ``1 / max(shape)``.

    Examples
    --------
    >>> x, weights = marchenko_pastur_quadrature((100, 300))
    >>> float(weights.sum().round(9)), float((weights @ x).round(9))
    (1.0, 1.0)
    """
    return _quadrature(min(shape) / max(shape), 0.0, np.pi)


def white_edge(shape: tuple[int, int]) -> float:
    r"""Largest singular value of white noise of unit variance, at the 95 % point of its fluctuation.

    Its square lies near :math:`(\sqrt{n - 1} + \sqrt{m})^2` with Tracy-Widom fluctuations of scale
    :math:`(\sqrt{n - 1} + \sqrt{m}) (1/\sqrt{n - 1} + 1/\sqrt{m})^{1/3}`, with m the shorter side.

    Parameters
    ----------
    shape
        Of the matrix, in either order.

    References
    ----------
    .. [1] Johnstone (2001), https://doi.org/10.1214/aos/1009210544

    Examples
    --------
    >>> round(white_edge((1024, 1024)), 2)
    64.18
    """
    first, second = float(np.sqrt(max(max(shape) - 1, 1))), float(np.sqrt(min(shape)))
    center, scale = (first + second) ** 2, (first + second) * (1 / first + 1 / second) ** (1 / 3)
    return float(np.sqrt(center + _TRACY_WIDOM_95 * scale))


@lru_cache(maxsize=1024)
def _median(beta: float) -> float:
    theta = brentq(lambda t: float(_quadrature(beta, 0.0, t)[1].sum()) - 0.5, 1e-9, np.pi)
    return float(_eigenvalue(beta, np.asarray(theta)))


@lru_cache(maxsize=1024)
def factor_null(shape: tuple[int, int], rank: int) -> tuple[Spectrum, ...]:
    r"""Spectra of :math:`B A` with independent Gaussian factors: the null of a low-rank update.

    A product of thin factors can never have the rank of white noise, so that a
    second null says what an adapter of this rank shows without any structure.

    Parameters
    ----------
    shape
        ``(out, in)``.
    rank
        Inner dimension of the factors, at most the smaller side.

    Returns
    -------
    tuple of Spectrum
        Independent samples from a fixed seed, through the triangular QR factors
        (Bartlett) of size ``rank``, so that nothing of size ``shape`` is drawn.
    """
    rng = np.random.default_rng(0)
    samples = []
    for _ in range(_FACTOR_SAMPLES):
        left, right = (_triangle(rng, length, rank) for length in shape)
        values = np.asarray(np.linalg.svd(left @ right.T, compute_uv=False), dtype=np.float64)
        samples.append(Spectrum.from_values(values, shape=shape, rank_bound=rank))
    return tuple(samples)


def _triangle(rng: np.random.Generator, length: int, rank: int) -> Array:
    upper = np.triu(rng.standard_normal((rank, rank)), 1)
    return np.asarray(upper + np.diag(np.sqrt(rng.chisquare(length - np.arange(rank)))))


def _eigenvalue(beta: float, theta: Array) -> Array:
    return np.asarray(1.0 + beta + 2.0 * np.sqrt(beta) * np.cos(theta))


def _density(beta: float, theta: Array) -> Array:
    x = _eigenvalue(beta, theta)
    # A square matrix has x = 0 at pi, where sin^2 / x tends to 2.
    safe = np.where(x > 1e-14, x, 1.0)
    return np.asarray(np.where(x > 1e-14, 2.0 * np.sin(theta) ** 2 / (np.pi * safe), 2.0 / np.pi))


@lru_cache(maxsize=1)
def _nodes() -> tuple[Array, Array]:
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return np.asarray(nodes), np.asarray(weights)


def _quadrature(beta: float, low: float, high: float) -> tuple[Array, Array]:
    nodes, weights = _nodes()
    theta = low + (high - low) * (nodes + 1.0) / 2.0
    return _eigenvalue(beta, theta), np.asarray(weights * (high - low) / 2.0 * _density(beta, theta))


def _upper_share(beta: float, energy: float) -> float:
    """Share of the eigenvalues that the largest need to hold that share of the energy."""
    # The energy above theta is (theta - sin theta cos theta) / pi, whatever beta is.
    theta = brentq(lambda t: (t - np.sin(t) * np.cos(t)) / np.pi - energy, 0.0, np.pi)
    return float(_quadrature(beta, 0.0, theta)[1].sum())


def _cumulative(density: Array, theta: Array) -> Array:
    steps = (density[1:] + density[:-1]) / 2.0 * np.diff(theta)
    return np.concatenate([[0.0], np.cumsum(steps)])


def _xlogx(x: Array) -> Array:
    return np.asarray(np.where(x > 0, x * np.log(np.where(x > 0, x, 1.0)), 0.0))
