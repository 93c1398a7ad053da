r"""Principal angles between random subspaces: the null beside every angle and distance.

For independent subspaces of dimensions ``k`` and ``l`` of :math:`R^d`, one of them uniformly random, the
cosines are the singular values of a ``k`` x ``l`` block of a Haar-distributed matrix [1]_. With Gaussian
:math:`G = (X; Y)`, of which ``X`` has ``k`` rows and ``Y`` the others, they are those of the upper block of
its orthonormal factor; ``Y`` acts by its triangular factor alone (Bartlett), so that nothing of size ``d`` is drawn.

References
----------
.. [1] Absil, Edelman & Koev (2006), On the largest principal angle between random subspaces,
   https://doi.org/10.1016/j.laa.2005.10.004
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

__all__ = ["RandomAngles", "random_angles"]

Array = npt.NDArray[np.float64]

_SAMPLES = 200


@dataclass(frozen=True, eq=False)
class RandomAngles:
    """What random subspaces show.

    Parameters
    ----------
    cosines
        Mean of each cosine, descending.
    high
        Its upper 5 % point.
    geodesic, chordal
        Mean distances.
    """

    cosines: Array
    high: Array
    geodesic: float
    chordal: float


@lru_cache(maxsize=1024)
def random_angles(dimension: int, k: int, other: int) -> RandomAngles:
    r"""Means over 200 draws of random subspaces, from a fixed seed.

    Parameters
    ----------
    dimension
        ``d``.
    k, other
        Dimensions of the two subspaces, at most ``d``.

    Notes
    -----
    The mean of all squared cosines together is exactly :math:`k l / d`. O(200 (k + l) l^2), cached.

    Raises
    ------
    ValueError
        If a subspace is larger than the space.

    Examples
    --------
    >>> random_angles(64, 1, 64).cosines.round(12).tolist()
    [1.0]
    >>> bool(abs(random_angles(4096, 4, 4).cosines[0] - 0.047) < 0.003)
    True
    """
    if not 0 < min(k, other) <= max(k, other) <= dimension:
        raise ValueError(
            f"subspaces of {k} and {other} dimensions of a space of {dimension}; expected 1 to {dimension}."
        )
    rng = np.random.default_rng(0)
    upper = rng.standard_normal((_SAMPLES, k, other))
    basis = np.linalg.qr(np.concatenate([upper, _rest(rng, dimension - k, other)], axis=1)).Q
    cosines = np.clip(np.linalg.svd(basis[:, :k], compute_uv=False), 0.0, 1.0)
    angles = np.arccos(cosines)
    return RandomAngles(
        cosines.mean(axis=0),
        np.quantile(cosines, 0.95, axis=0),
        float(np.linalg.norm(angles, axis=1).mean()),
        float(np.linalg.norm(np.sin(angles), axis=1).mean()),
    )


def _rest(rng: np.random.Generator, rows: int, columns: int) -> Array:
    """Matrices with the Gram matrix of Gaussian ones of so many rows."""
    if rows <= columns:
        return np.asarray(rng.standard_normal((_SAMPLES, rows, columns)))
    triangle = np.triu(rng.standard_normal((_SAMPLES, columns, columns)), 1)
    diagonal = np.sqrt(rng.chisquare(rows - np.arange(columns), size=(_SAMPLES, columns)))
    triangle[:, np.arange(columns), np.arange(columns)] = diagonal
    return np.asarray(triangle)
