r"""Singular values that stand out of white noise: how many there are, how large they were, how far they fluctuate.

For :math:`X = S + N` of shape :math:`m \times n` with independent noise of unit variance, a singular value
:math:`\theta > (mn)^{1/4}` of :math:`S` shows in :math:`X` as

.. math:: y^2 = \theta^2 + m + n + \frac{mn}{\theta^2},

above the edge :math:`\sqrt m + \sqrt n`; smaller ones drown in the noise [1]_.

References
----------
.. [1] Benaych-Georges & Nadakuditi (2012), https://arxiv.org/abs/1103.2221
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse.linalg import ArpackError, eigsh
from torch import Tensor

from rank_lab.null import marchenko_pastur_quadrature

__all__ = ["Leading", "count_above", "debiased", "fluctuation", "largest", "leading", "overlaps", "shown", "undiffused"]

Array = npt.NDArray[np.float64]

_DENSE_UP_TO = 256
_BLOCK = 256
_FEW = 8  # of so many values one: above, all eigenvalues cost less than the leading ones
_MOST_VECTORS = 64


@dataclass(frozen=True, eq=False)
class Leading:
    """Eigenvalues of a Gram matrix above a threshold.

    Parameters
    ----------
    values
        Their square roots: singular values, descending.
    vectors
        Eigenvectors in columns, or None where there are too many to want them.
    """

    values: Array
    vectors: Tensor | None


def debiased(values: Array, shape: tuple[int, int]) -> Array:
    r"""What singular values were before unit noise was added.

    .. math:: \theta^2 = \tfrac12 \left(y^2 - m - n + \sqrt{(y^2 - m - n)^2 - 4mn}\right)

    Parameters
    ----------
    values
        Observed :math:`y`.
    shape
        Of the matrix.

    Returns
    -------
    numpy.ndarray
        :math:`\theta`, in the same order; zero at and below the edge.

    Examples
    --------
    >>> float(debiased(shown(np.array([100.0]), (256, 1024)), (256, 1024))[0].round(9))
    100.0
    """
    middle = np.asarray(values, dtype=np.float64) ** 2 - sum(shape)
    inside = middle**2 - 4.0 * math.prod(shape)
    visible = (inside > 0) & (middle > 0)
    return np.asarray(np.sqrt(np.where(visible, middle + np.sqrt(np.where(visible, inside, 0.0)), 0.0) / 2.0))


def shown(values: Array, shape: tuple[int, int]) -> Array:
    r"""What a singular value :math:`\theta` shows as under unit noise; the edge where it drowns.

    Parameters
    ----------
    values
        True :math:`\theta`.
    shape
        Of the matrix.

    Examples
    --------
    >>> shown(np.array([0.0]), (256, 1024))
    array([48.])
    """
    visible = np.maximum(np.asarray(values, dtype=np.float64), math.prod(shape) ** 0.25) ** 2
    return np.asarray(np.sqrt(visible + sum(shape) + math.prod(shape) / visible))


def overlaps(values: Array, shape: tuple[int, int]) -> tuple[Array, Array]:
    r"""Squared cosines between the noisy and the true singular vectors, left and right.

    .. math:: c_u^2 = 1 - \frac{m (n + \theta^2)}{\theta^2 (\theta^2 + m)},\qquad
              c_v^2 = 1 - \frac{n (m + \theta^2)}{\theta^2 (\theta^2 + n)}

    Parameters
    ----------
    values
        True :math:`\theta`.
    shape
        Of the matrix, ``(m, n)``.

    Examples
    --------
    >>> left, right = overlaps(np.array([1e3, 10.0]), (100, 100))
    >>> left.round(3).tolist(), bool((left == right).all())
    ([1.0, 0.0], True)
    """
    rows, columns = shape
    square = np.maximum(np.asarray(values, dtype=np.float64), math.prod(shape) ** 0.25) ** 2
    left = 1.0 - rows * (columns + square) / (square * (square + rows))
    right = 1.0 - columns * (rows + square) / (square * (square + columns))
    return np.maximum(left, 0.0), np.maximum(right, 0.0)


def undiffused(values: Array, shape: tuple[int, int], std: float) -> Array:
    r"""All singular values of an update before little white noise was added, when most of them stand out.

    Singular values of :math:`S + \sqrt t N` repel each other as Dyson's Brownian motion [1]_; one step back,

    .. math:: \sigma_i \leftarrow \sigma_i - \frac{s^2}{2} \left(\frac{|m - n|}{\sigma_i}
              + \sum_{j \ne i} \frac{2 \sigma_i}{\sigma_i^2 - \sigma_j^2}\right),

    takes the noise out, its energy :math:`s^2 m n` with it. Neighbours closer than the noise moves them
    are told apart by that much.

    Parameters
    ----------
    values
        All observed values, descending.
    shape
        Of the matrix.
    std
        Of one entry's noise, :math:`s`; its energy should be a small part of the whole.

    Notes
    -----
    O(q^2).

    References
    ----------
    .. [1] Benaych-Georges & Nadakuditi (2012), https://arxiv.org/abs/1103.2221, for the sum at one spike.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> true = rng.standard_normal((200, 300))
    >>> noisy = np.linalg.svd(true + 0.3 * rng.standard_normal((200, 300)), compute_uv=False)
    >>> found = undiffused(noisy, (200, 300), 0.3)
    >>> exact = np.linalg.svd(true, compute_uv=False)
    >>> bool(np.abs(found - exact).mean() < 0.2 < 0.7 < np.abs(noisy - exact).mean())
    True
    """
    sigma = np.asarray(values, dtype=np.float64)
    if not std > 0:  # nothing to take out; a value of zero would be divided by zero below
        return sigma
    repulsion = (
        2.0 * sigma * np.concatenate([_pull(part, sigma, std) for part in np.split(sigma, range(64, len(sigma), 64))])
    )
    drift = abs(shape[0] - shape[1]) / np.maximum(sigma, std) + repulsion
    return np.sort(np.maximum(sigma - 0.5 * std**2 * drift, 0.0))[::-1]


def _pull(part: Array, sigma: Array, std: float) -> Array:
    gap = part[:, None] ** 2 - sigma**2
    blur = std * (part[:, None] + sigma)
    return np.asarray((gap / np.maximum(gap**2 + blur**2, np.finfo(np.float64).tiny)).sum(axis=1))


def fluctuation(values: Array, shape: tuple[int, int]) -> Array:
    r"""Standard deviation of what a singular value shows as, over the noise.

    First-order expansion of the secular equation :math:`1/\theta = b + \sqrt{a c}` of a rank-one matrix
    in Gaussian noise, with Haar singular vectors, whose quadratic forms :math:`a, c` and bilinear form
    :math:`b` have variances that are Marchenko-Pastur integrals. One for a large :math:`\theta`; zero at
    the edge, where the fluctuation is Tracy and Widom's, of a smaller order.

    Parameters
    ----------
    values
        True :math:`\theta`.
    shape
        Of the matrix.

    Examples
    --------
    >>> float(fluctuation(np.array([1e4]), (256, 1024))[0].round(3))
    1.0
    """
    short, long = min(shape), max(shape)
    theta = np.maximum(np.asarray(values, dtype=np.float64), 1.0001 * math.prod(shape) ** 0.25)
    y = shown(theta, shape)
    x, weights = marchenko_pastur_quadrature(shape)
    gap = y[:, None] ** 2 - long * x
    first, second = (1.0 / gap) @ weights, (1.0 / gap**2) @ weights
    padded = (short * first + (long - short) / y**2) / long, (short * second + (long - short) / y**4) / long
    quadratic = (
        padded[0] / first * (second - first**2) / short + first / padded[0] * (padded[1] - padded[0] ** 2) / long
    )
    bilinear = ((long * x) / gap**2) @ weights / long
    slope = theta * (theta - math.prod(shape) / theta**3) / y * theta
    return np.asarray(np.sqrt(bilinear + 0.5 * y**2 * np.maximum(quadratic, 0.0)) * slope)


def count_above(gram: Tensor, threshold: float) -> int:
    r"""How many eigenvalues of a symmetric matrix exceed a threshold, by inertia.

    By Sylvester's law :math:`G - \tau I = L D L^T` has as many positive eigenvalues as :math:`D`; one
    factorisation costs about a third of all eigenvalues.

    Parameters
    ----------
    gram
        Lower triangle, float64.
    threshold
        Of the eigenvalues.

    Examples
    --------
    >>> count_above(torch.diag(torch.tensor([5.0, 3.0, 1.0], dtype=torch.float64)), 2.0)
    2
    """
    if gram.device.type != "cpu":
        return int((torch.linalg.eigvalsh(gram, UPLO="L") > threshold).sum())
    diagonal = gram.diagonal().clone()
    gram.diagonal().sub_(threshold)  # in place, and put back: a copy would be one Gram matrix more
    factors, pivots, _ = torch.linalg.ldl_factor_ex(gram)
    gram.diagonal().copy_(diagonal)
    single, signs = pivots > 0, factors.diagonal() > 0
    del factors
    # A pair of negative pivots is a two by two block, which is indefinite by the choice of the pivot.
    return int(signs[single].sum()) + int((~single).sum()) // 2


def leading(gram: Tensor, edge: float, *, vectors: bool = True) -> Leading:
    """Singular values above the edge, with their vectors while they are few.

    Parameters
    ----------
    gram
        Lower triangle of the Gram matrix of the short side, float64; its upper triangle is overwritten.
    edge
        Of the singular values.
    vectors
        Whether they are wanted.

    Notes
    -----
    A count by inertia, then Lanczos for that many; above an eighth of all, all eigenvalues. Vectors of at
    most 64.
    """
    count = count_above(gram, edge**2)
    if count == 0:
        return Leading(np.zeros(0), None)
    vectors = vectors and count <= min(max(len(gram) // _FEW, 1), _MOST_VECTORS)
    if len(gram) <= _DENSE_UP_TO and vectors:
        eigenvalues, eigenvectors = torch.linalg.eigh(gram, UPLO="L")
        return Leading(_roots(eigenvalues[-count:]), eigenvectors[:, -count:].flip(1).contiguous())
    if len(gram) > _DENSE_UP_TO and count <= len(gram) // _FEW:
        found = _lanczos(gram, count, edge)
        if found is not None:
            return found if vectors else Leading(found.values, None)
    return Leading(_roots(torch.linalg.eigvalsh(gram, UPLO="L")[-count:]), None)


def largest(gram: Tensor, count: int) -> Leading | None:
    """The largest singular values with their vectors, by Lanczos; None where it does not converge.

    Parameters
    ----------
    gram
        Lower triangle of the Gram matrix of the short side, float64; its upper triangle is overwritten.
    count
        How many; less than its size.

    Notes
    -----
    O(q^2) for each of some multiples of ``count`` products, against O(q^3) of all eigenvalues.

    Examples
    --------
    >>> found = largest(torch.diag(torch.tensor([4.0, 9.0, 1.0], dtype=torch.float64)), 2)
    >>> found.values.round(9).tolist(), found.vectors.abs().round(decimals=6).T.tolist()
    ([3.0, 2.0], [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    """
    whole = gram.cpu()
    for first in range(0, len(whole), _BLOCK):
        rows = slice(first, first + _BLOCK)
        whole[rows, first:] = torch.tril(whole[first:, rows]).T + torch.tril(whole[rows, first:], -1)
    start = np.random.default_rng(0).standard_normal(len(gram))
    try:
        eigenvalues, vectors = eigsh(whole.numpy(), k=count, which="LA", v0=start, tol=1e-10)
    except ArpackError:
        return None
    order = np.argsort(eigenvalues)[::-1].copy()
    return Leading(np.sqrt(np.maximum(eigenvalues[order], 0.0)), torch.from_numpy(vectors[:, order].copy()))


def _lanczos(gram: Tensor, count: int, edge: float) -> Leading | None:
    """None where Lanczos did not find as many as inertia counted."""
    found = largest(gram, count)
    return None if found is None or len(found.values) < count or found.values.min() <= edge else found


def _roots(ascending: Tensor) -> Array:
    return np.asarray(ascending.flip(0).clamp_min(0.0).sqrt().cpu().numpy(), dtype=np.float64)
