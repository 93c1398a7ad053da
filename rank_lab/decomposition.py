r"""From an update to its spectrum: factors, Gram matrix, SVD, randomised.

Exact by default. Thin factors are reduced by QR to an r x r core; a streamed
difference is reduced to the float64 Gram matrix of its short side, whose
eigenvalues are the squared singular values. The Gram route is faster than an
SVD and never needs the matrix in memory; its price is a floor at about
:math:`10^{-7} \sigma_1`, below which a value cannot be told from zero.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from rank_lab.errors import ConvergenceError, NonFiniteError, UnsupportedUpdateError
from rank_lab.spectrum import METHODS, Method, Spectrum
from rank_lab.update import DenseUpdate, LowRankUpdate, Update, return_freed_memory
from rank_lab.whitening import Whitening

__all__ = ["convergence", "gram_floor", "gram_matrix", "other_side", "refuse_non_finite", "spectrum_of"]

_EPS = float(np.finfo(np.float64).eps)
# Rounding errors of an eigenvalue add up like a random walk, to about sqrt(q) eps of the largest. Seen in zero
# eigenvalues, up to 4096: 0.8 of that for random matrices, 5 for constant ones; the margin covers both.
_GRAM_MARGIN = 9.0
_BLOCK = 256
_DEFAULT_K = 64
_OVERSAMPLING = 10
_POWER_ITERATIONS = 4


def spectrum_of(
    update: Update,
    *,
    method: Method = "auto",
    k: int | None = None,
    vectors: int = 0,
    device: str = "cpu",
    seed: int = 0,
) -> Spectrum:
    r"""Singular values of an update.

    Parameters
    ----------
    update
        Dense or factored.
    method
        ``"auto"``: ``"factors"`` for factored updates, ``"gram"`` for dense ones.
        ``"svd"`` materialises the update and runs a float64 SVD, for values below
        the Gram floor. ``"randomized"`` gives the ``k`` largest by subspace
        iteration [1]_ with the residual of each as its accuracy.
    k
        How many values ``"randomized"`` is asked for; default 64.
    vectors
        How many leading singular vectors to return as ``U`` and ``Vh``, at most ``rank_bound``.
    device
        ``"cpu"`` or ``"cuda"``; the numbers agree to rounding.
    seed
        Of the random start of ``"randomized"``.

    Returns
    -------
    Spectrum
        With ``floor``: for gram :math:`3 q^{1/4} \sqrt\epsilon\, \sigma_1`, 1e-7 to 4e-7 of
        the largest value; for svd :math:`\max(m, n)\, \epsilon\, \sigma_1`; for factors the
        same with :math:`\lVert B \rVert \lVert A \rVert` for :math:`\sigma_1`, since they may
        cancel; and for ``"randomized"`` the largest residual
        :math:`\lVert \Delta W v_i - \sigma_i u_i \rVert` beside that.

    Raises
    ------
    NonFiniteError
        If the update holds NaN or infinity.
    ConvergenceError
        If LAPACK or cuSOLVER gives up.
    UnsupportedUpdateError
        If the method does not apply to this kind of update.
    ValueError
        If there is no such method, or ``k`` is less than one.

    Notes
    -----
    For ``(m, n)`` with ``q = min(m, n)``: factors O((m + n) r^2); gram O(m n q)
    for the Gram matrix, half of it thanks to symmetry, and O(q^3) for its
    eigenvalues, with two ``q x q`` float64 matrices in memory; svd O(m n q) with
    a much larger constant; randomized O(m n k) per pass, twelve passes.

    References
    ----------
    .. [1] Halko, Martinsson & Tropp (2011), https://doi.org/10.1137/090771806

    Examples
    --------
    >>> import torch
    >>> update = LowRankUpdate(torch.eye(4)[:, :2], torch.diag(torch.tensor([3.0, 2.0])))
    >>> [float(round(v, 12)) for v in spectrum_of(update).values]
    [3.0, 2.0]
    """
    if method not in METHODS or (k is not None and k < 1):
        raise ValueError(f"method {method!r} with k={k}; expected one of {', '.join(METHODS)}, and k of at least 1.")
    vectors = min(vectors, update.rank_bound)
    if method == "auto":
        method = "factors" if isinstance(update, LowRankUpdate) else "gram"
    with convergence(update.shape):
        if method == "factors":
            return _from_factors(_factored(update), vectors, device)
        if method == "svd":
            return _from_svd(update, vectors, device)
        if method == "randomized":
            return _randomized(update, k=k or _DEFAULT_K, vectors=vectors, device=device, seed=seed)
        return _from_gram(_dense(update), vectors, device)


@contextmanager
def convergence(shape: tuple[int, ...]) -> Iterator[None]:
    """Tell a decomposition that does not converge from a fault of the program.

    Parameters
    ----------
    shape
        Of what is decomposed, for the message.

    Raises
    ------
    ConvergenceError
        In the place of torch's own kind.
    """
    try:
        yield
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise ConvergenceError(
            f"the decomposition of {shape[0]} x {shape[1]} failed ({str(error).splitlines()[0]}); try another --method,"
            " or --device cpu."
        ) from error


def _factored(update: Update) -> LowRankUpdate:
    if not isinstance(update, LowRankUpdate):
        raise UnsupportedUpdateError(
            "method 'factors' needs an update that is stored as factors; this one is dense: use 'gram'."
        )
    return update


def _dense(update: Update) -> DenseUpdate:
    if not isinstance(update, DenseUpdate):
        raise UnsupportedUpdateError(
            "method 'gram' is for dense updates; this one is stored as factors: use 'factors', which is exact."
        )
    return update


def gram_matrix(update: DenseUpdate, *, device: str = "cpu", whitening: Whitening | None = None) -> Tensor:
    """Lower triangle of the float64 Gram matrix of the update's short side.

    Parameters
    ----------
    update
        Streamed tile by tile along its long side.
    device
        Where the products are taken.
    whitening
        Scalings of stored rows and columns, applied first.

    Returns
    -------
    torch.Tensor
        ``(q, q)``; above the diagonal blocks it is zero, not symmetric.
    """
    rows, columns = update.stored_shape
    axis: Literal[0, 1] = 0 if rows >= columns else 1
    size = min(rows, columns)
    gram = torch.zeros(size, size, dtype=torch.float64, device=device)
    for part, tile in update.tiles(axis, device=device):
        if whitening is not None:
            whitening.scaled(part, tile, axis)
        short_first = tile.T if axis == 0 else tile
        for start in range(0, size, _BLOCK):
            stop = min(start + _BLOCK, size)
            gram[start:stop, :stop].addmm_(short_first[start:stop], short_first[:stop].T)
        del tile, short_first  # before the next one is read
    return_freed_memory()
    return gram


def gram_floor(size: int) -> float:
    r"""Share of the largest singular value below which a Gram matrix of that size tells none from zero.

    Examples
    --------
    >>> 2e-7 < gram_floor(2048) < 4e-7
    True
    """
    return float((_GRAM_MARGIN * size**0.5 * _EPS) ** 0.5)


def _from_gram(update: DenseUpdate, vectors: int, device: str) -> Spectrum:
    gram = gram_matrix(update, device=device)
    energy = float(gram.diagonal().sum())
    refuse_non_finite(energy)
    if vectors:
        eigenvalues, eigenvectors = torch.linalg.eigh(gram, UPLO="L")
        leading = eigenvectors[:, -vectors:].flip(1).clone()
    else:
        eigenvalues, leading = torch.linalg.eigvalsh(gram, UPLO="L"), None
    del gram
    return_freed_memory()
    values = eigenvalues.flip(0).clamp_(min=0.0).sqrt_().cpu().numpy()
    U, Vh = (None, None) if leading is None else other_side(update, leading)
    floor = gram_floor(len(values)) * float(values[0])
    return Spectrum(values, update.shape, update.rank_bound, energy**0.5, "gram", floor, U, Vh)


def other_side(update: DenseUpdate, short: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Singular vectors of both sides from those of the short one.

    Parameters
    ----------
    update
        Streamed once.
    short
        In columns, ``(q, k)``, by descending value.

    Returns
    -------
    U, Vh
        ``(out, k)`` and ``(k, in)``.
    """
    rows, columns = update.stored_shape
    short_is_right = (rows >= columns) != update.transposed
    product = update.matmul(short) if short_is_right else update.transpose_matmul(short)
    # QR rather than division: columns whose value is at the floor stay orthonormal.
    other, triangle = torch.linalg.qr(product)
    other = other * torch.where(triangle.diagonal() < 0, -1.0, 1.0)
    left, right = (other, short) if short_is_right else (short, other)
    return left.cpu().numpy(), right.T.contiguous().cpu().numpy()


def _from_factors(update: LowRankUpdate, vectors: int, device: str) -> Spectrum:
    left, across = update.factors(device=device)
    refuse_non_finite(float(left.square().sum()) + float(across.square().sum()))
    left_q, left_r = torch.linalg.qr(left)
    right_q, right_r = torch.linalg.qr(across.T)
    core_u, values, core_vh = torch.linalg.svd(left_r @ right_r.T, full_matrices=False)
    U = (left_q @ core_u[:, :vectors]).cpu().numpy() if vectors else None
    Vh = (core_vh[:vectors] @ right_q.T).cpu().numpy() if vectors else None
    return _exact(update, values, "factors", U, Vh)


def _from_svd(update: Update, vectors: int, device: str) -> Spectrum:
    dense = update.to_dense().to(device)
    refuse_non_finite(float(dense.square().sum()))
    if not vectors:
        values = torch.linalg.svdvals(dense)[: update.rank_bound]
        return _exact(update, values, "svd", None, None)
    left, values, right = torch.linalg.svd(dense, full_matrices=False)
    U, Vh = left[:, :vectors].cpu().numpy(), right[:vectors].cpu().numpy()
    return _exact(update, values[: update.rank_bound], "svd", U, Vh)


def _exact(update: Update, values: Tensor, method: str, U: np.ndarray | None, Vh: np.ndarray | None) -> Spectrum:
    array, norm = values.cpu().numpy(), float(torch.linalg.vector_norm(values))
    return Spectrum(array, update.shape, update.rank_bound, norm, method, _rounding(update, array), U, Vh)


def _rounding(update: Update, values: np.ndarray) -> float:
    """What the rounding of one float64 product can leave where a singular value is zero."""
    largest = float(values.max(initial=0.0))
    if isinstance(update, LowRankUpdate) and update.rank_bound:
        left, across = update.factors()
        grams = left.T @ left, across @ across.T
        largest = math.sqrt(math.prod(float(torch.linalg.eigvalsh(gram)[-1]) for gram in grams))
    return max(update.shape) * _EPS * largest


def _randomized(update: Update, *, k: int, vectors: int, device: str, seed: int) -> Spectrum:
    norm = update.frobenius_norm()
    refuse_non_finite(norm)
    k = min(k, update.rank_bound)
    width = min(k + _OVERSAMPLING, *update.shape)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(update.shape[1], width, dtype=torch.float64, generator=generator).to(device)
    basis = torch.linalg.qr(update.matmul(start)).Q
    for _ in range(_POWER_ITERATIONS):
        basis = torch.linalg.qr(update.transpose_matmul(basis)).Q
        basis = torch.linalg.qr(update.matmul(basis)).Q
    right, values, core_uh = torch.linalg.svd(update.transpose_matmul(basis), full_matrices=False)
    left, right, values = (basis @ core_uh.T)[:, :k], right[:, :k], values[:k]
    residual = torch.linalg.vector_norm(update.matmul(right) - left * values, dim=0)
    U = left[:, :vectors].cpu().numpy() if vectors else None
    Vh = right[:, :vectors].T.contiguous().cpu().numpy() if vectors else None
    array = values.cpu().numpy()
    floor = max(residual.tolist(), default=0.0) + _rounding(update, array)
    return Spectrum(array, update.shape, update.rank_bound, norm, "randomized", floor, U, Vh)


def refuse_non_finite(total: float) -> None:
    """Refuse a matrix by the sum of its squares.

    Raises
    ------
    NonFiniteError
        If that is NaN or infinite.
    """
    if not np.isfinite(total):
        raise NonFiniteError(
            "the update holds NaN or infinite values (or squares that overflow); look for a diverged step and take an"
            " earlier checkpoint."
        )
