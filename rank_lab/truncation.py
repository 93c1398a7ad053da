r"""The best factors of a given rank, and the error of factors against the update itself.

The truncated SVD is the best approximation of its rank (Eckart & Young 1936,
https://doi.org/10.1007/BF02288367). What it leaves is measured on the update, tile by tile, and not taken from
the singular values: :math:`\lVert \Delta W - B A \rVert_F` is then a certificate whatever the factors came from.
"""

import math

import torch

from rank_lab.decomposition import gram_floor, spectrum_of
from rank_lab.spectrum import Spectrum
from rank_lab.update import DenseUpdate, LowRankUpdate, Update

__all__ = ["error_tolerance", "residual_and_norm", "residual_norm", "truncated_factors"]

RELATIVE_TOLERANCE = 1e-4
"""Of an error: how far above the optimum factors may be."""

_THIN, _LARGE = 16, 512  # the short side, in ranks and in all, from which randomised iteration is tried


def residual_norm(update: Update, factors: LowRankUpdate) -> float:
    r""":math:`\lVert \Delta W - B A \rVert_F`, in float64, by one pass over the update.

    Parameters
    ----------
    update
        Dense or factored.
    factors
        Of the same shape.

    Examples
    --------
    >>> from rank_lab.update import MemoryMatrix
    >>> update = DenseUpdate(MemoryMatrix(torch.diag(torch.tensor([3.0, 2.0]))))
    >>> residual_norm(update, LowRankUpdate(torch.tensor([[3.0], [0.0]]), torch.tensor([[1.0, 0.0]])))
    2.0
    """
    return residual_and_norm(update, factors)[0]


def residual_and_norm(update: Update, factors: LowRankUpdate) -> tuple[float, float]:
    """The same, and the norm of the update itself, in one pass."""
    if isinstance(update, LowRankUpdate):
        return update.minus(factors).frobenius_norm(), update.frobenius_norm()
    left, right = factors.factors()
    if update.transposed:
        left, right = right.T, left.T
    residual = norm = 0.0
    for part, tile in update.tiles():
        norm += float(torch.linalg.vector_norm(tile)) ** 2
        residual += float(torch.linalg.vector_norm(tile.addmm_(left[part], right, alpha=-1.0))) ** 2
    return math.sqrt(residual), math.sqrt(norm)


def error_tolerance(shape: tuple[int, int]) -> float:
    r"""Share of the norm to which an error is known: :math:`\sqrt q` values, each to the floor of the Gram route.

    Examples
    --------
    >>> 1e-6 < error_tolerance((128, 128)) < 1e-5
    True
    """
    size = min(shape)
    return gram_floor(size) * math.sqrt(size)


def truncated_factors(update: Update, rank: int, optimum: float, *, device: str = "cpu") -> tuple[LowRankUpdate, str]:
    r"""Factors of that rank whose error is the least possible.

    Parameters
    ----------
    update
        Dense or factored.
    rank
        At most the update's ``rank_bound``.
    optimum
        The least possible :math:`\lVert \Delta W - B A \rVert_F`, from the spectrum.
    device
        Where to compute.

    Returns
    -------
    factors, method
        :math:`B = U \Sigma^{1/2}` and :math:`A = \Sigma^{1/2} V^T` in float64; ``factors``, ``gram`` or
        ``randomized``.

    Notes
    -----
    A dense update whose short side is far above the rank is first taken by randomised subspace iteration; where its
    measured error is not the optimum, the Gram route follows.
    """
    if isinstance(update, DenseUpdate) and max(rank * _THIN, _LARGE) <= update.rank_bound:
        found = _factors(spectrum_of(update, method="randomized", k=rank, vectors=rank, device=device))
        residual, norm = residual_and_norm(update, found)
        if residual <= optimum * (1.0 + RELATIVE_TOLERANCE) + error_tolerance(update.shape) * norm:
            return found, "randomized"
    spectrum = spectrum_of(update, vectors=rank, device=device)
    return _factors(spectrum, rank), spectrum.method


def _factors(spectrum: Spectrum, rank: int | None = None) -> LowRankUpdate:
    left, right = torch.as_tensor(spectrum.U), torch.as_tensor(spectrum.Vh)
    roots = torch.as_tensor(spectrum.values[:rank].copy()).sqrt()
    return LowRankUpdate(left * roots[: left.shape[1]], roots[: len(right), None] * right)
