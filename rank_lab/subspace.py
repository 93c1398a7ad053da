r"""How two subspaces lie to each other: principal angles, distances, and LoRA's subspace similarity.

All functions take orthonormal columns, ``(d, k)``, such as leading singular vectors. A single singular
vector is unique only as far as its singular value is far from its neighbours; the span of the first
``k`` is unique where there is a gap between the ``k``-th value and the next, whatever lies within.
Hence every table states that gap (:func:`relative_gap`).
"""

import numpy as np
import numpy.typing as npt
from scipy.linalg import svdvals

__all__ = [
    "chordal_distance",
    "geodesic_distance",
    "phi",
    "phi_null",
    "principal_angles",
    "relative_gap",
]

Array = npt.NDArray[np.float64]


def principal_angles(first: Array, second: Array) -> Array:
    r"""Principal angles between two subspaces, :math:`\cos\theta_i = \sigma_i(Q_1^T Q_2)`.

    Each comes from its cosine and its sine, a singular value of :math:`(I - Q_1 Q_1^T) Q_2` [1]_ [2]_: a cosine
    cannot tell angles below 1e-8 from zero, nor a sine those near a right angle from it.

    Parameters
    ----------
    first, second
        Orthonormal columns, ``(d, k)`` and ``(d, l)``.

    Returns
    -------
    numpy.ndarray
        ``min(k, l)`` angles in radians, in [0, pi/2], the smallest first.

    Raises
    ------
    ValueError
        If the two are not of one space.

    Notes
    -----
    O(d (k + l)^2). ``scipy.linalg.subspace_angles`` (1.17) takes the cosine of a small angle wherever another one is
    beyond 45 degrees, and answers 0 for (1e-10, 1.0, 1.2).

    References
    ----------
    .. [1] Bjorck & Golub (1973), https://doi.org/10.1090/S0025-5718-1973-0348991-3
    .. [2] Knyazev & Argentati (2002), https://doi.org/10.1137/S1064827500377332

    Examples
    --------
    >>> tilt = 1e-12
    >>> first, second = np.eye(3)[:, :1], np.array([[np.cos(tilt)], [np.sin(tilt)], [0.0]])
    >>> principal_angles(first, second)
    array([1.e-12])
    """
    _refuse_other_space(first, second)
    if not min(first.shape[1], second.shape[1]):
        return np.zeros(0)
    large, small = (first, second) if first.shape[1] >= second.shape[1] else (second, first)
    across = large.T @ small
    sines = svdvals(small - large @ across)[::-1]
    return np.asarray(np.arctan2(sines, svdvals(across)), dtype=np.float64)


def geodesic_distance(angles: Array) -> float:
    r"""Distance along the Grassmann manifold, :math:`(\sum_i \theta_i^2)^{1/2}`.

    Parameters
    ----------
    angles
        Principal angles in radians.

    Returns
    -------
    float
        In [0, pi/2 sqrt(k)]; radians.

    References
    ----------
    .. [1] Edelman, Arias & Smith (1998), https://doi.org/10.1137/S0895479895290954

    Examples
    --------
    >>> geodesic_distance(np.array([0.3, 0.4]))
    0.5
    """
    return float(np.linalg.norm(angles))


def chordal_distance(angles: Array) -> float:
    r"""Chordal distance (projection F-norm), :math:`(\sum_i \sin^2 \theta_i)^{1/2}`.

    For subspaces of equal dimension :math:`\lVert P_1 - P_2 \rVert_F / \sqrt2` of their projections.

    Parameters
    ----------
    angles
        Principal angles in radians.

    Returns
    -------
    float
        In [0, sqrt(k)].

    References
    ----------
    .. [1] Edelman, Arias & Smith (1998), https://doi.org/10.1137/S0895479895290954

    Examples
    --------
    >>> chordal_distance(np.array([0.0, np.pi / 2]))
    1.0
    """
    return float(np.linalg.norm(np.sin(angles)))


def phi(first: Array, second: Array) -> Array:
    r"""LoRA's subspace similarity, :math:`\phi(i, j) = \lVert U_{1,i}^T U_{2,j} \rVert_F^2 / \min(i, j)`.

    Parameters
    ----------
    first, second
        Orthonormal columns ``(d, k)`` and ``(d, l)``, of which the first ``i`` and ``j`` are taken.

    Returns
    -------
    numpy.ndarray
        ``(k, l)``, of ``phi(i, j)`` at ``[i - 1, j - 1]``; in [0, 1]. One where one span holds the other.

    Raises
    ------
    ValueError
        If the two are not of one space.

    Notes
    -----
    O(d k l) for the whole grid. The paper takes the right singular vectors of the adaptation matrix
    :math:`A`, which are not those of :math:`\Delta W = B A`. Two runs from one seed share the start of
    :math:`A`: where it hardly moved, their similarity is that of the seed.

    References
    ----------
    .. [1] Hu et al. (2021), equation 4, https://arxiv.org/abs/2106.09685

    Examples
    --------
    >>> phi(np.eye(4)[:, :2], np.eye(4)[:, [1, 2]]).tolist()
    [[0.0, 0.0], [1.0, 0.5]]
    """
    _refuse_other_space(first, second)
    energy = np.square(first.T @ second).cumsum(axis=0).cumsum(axis=1)
    smaller = np.minimum.outer(np.arange(1, first.shape[1] + 1), np.arange(1, second.shape[1] + 1))
    return np.asarray(np.clip(energy / smaller, 0.0, 1.0), dtype=np.float64)


def phi_null(i: int, j: int, dimension: int) -> float:
    r"""Mean of :func:`phi` over random subspaces, :math:`\max(i, j) / d`.

    Each entry of :math:`U_1^T U_2` has mean square :math:`1/d` where one of the two is uniformly
    random: :math:`ij / d` in all, over :math:`\min(i, j)`. Exact for every ``d``.

    Examples
    --------
    >>> round(phi_null(64, 8, 768), 3)
    0.083
    """
    return max(i, j) / dimension


def relative_gap(values: Array, k: int) -> float:
    r"""Gap after the ``k``-th singular value, :math:`(\sigma_k - \sigma_{k+1}) / \sigma_k`, in [0, 1].

    A perturbation of norm :math:`\epsilon` turns the span of the first ``k`` singular vectors by at most
    about :math:`\epsilon / (\sigma_k - \sigma_{k+1})` [1]_: near zero the span is not unique.

    Parameters
    ----------
    values
        Descending; a value beyond the last is zero, so that give one more than ``k`` of a truncated spectrum.
    k
        From 1 on.

    References
    ----------
    .. [1] Wedin (1972), https://doi.org/10.1007/BF01932678

    Examples
    --------
    >>> relative_gap(np.array([4.0, 3.0]), 1), relative_gap(np.array([4.0, 3.0]), 2)
    (0.25, 1.0)
    """
    following = float(values[k]) if k < len(values) else 0.0
    return float((values[k - 1] - following) / values[k - 1]) if values[k - 1] > 0 else 0.0


def _refuse_other_space(first: Array, second: Array) -> None:
    if first.ndim != 2 or second.ndim != 2 or first.shape[0] != second.shape[0]:
        raise ValueError(f"vectors of shape {first.shape} and {second.shape}; expected columns of one length.")
