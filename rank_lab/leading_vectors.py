"""Leading singular vectors of an update or a weight, without all of its spectrum where that is large."""

from rank_lab.decomposition import convergence, gram_floor, gram_matrix, other_side, refuse_non_finite, spectrum_of
from rank_lab.spectrum import Spectrum
from rank_lab.spikes import largest
from rank_lab.update import LowRankUpdate, Update, return_freed_memory

__all__ = ["leading_vectors"]

_ALL_UP_TO = 512
_FEW = 8  # of so many values one: above, all eigenvectors cost less than the leading ones


def leading_vectors(update: Update, k: int, *, device: str = "cpu") -> Spectrum:
    r"""The ``k`` leading singular vectors, and one value more, which tells the gap behind them.

    Parameters
    ----------
    update
        Factors stay factors (exact, by QR). A streamed matrix is reduced to the Gram matrix of its
        short side and that to its leading eigenvectors by Lanczos; up to a short side of 512, or for more than
        an eighth of all directions, all are computed.
    k
        At most ``rank_bound`` are returned.
    device
        ``"cpu"`` or ``"cuda"``.

    Returns
    -------
    Spectrum
        ``U`` and ``Vh`` of ``min(k, rank_bound)`` vectors, with at least so many values; all of them where
        all were computed. Vectors of values below ``floor`` mean nothing.

    Raises
    ------
    NonFiniteError
        If the matrix holds NaN or infinity.
    ConvergenceError
        If LAPACK or cuSOLVER gives up.

    Notes
    -----
    For a matrix of 4096 x 4096 the Gram matrix is most of it; see :func:`rank_lab.decomposition.spectrum_of`.
    Vectors whose values lie close are those of some basis of their common span.

    Examples
    --------
    >>> import torch
    >>> from rank_lab.update import DenseUpdate, MemoryMatrix
    >>> found = leading_vectors(DenseUpdate(MemoryMatrix(torch.diag(torch.tensor([1.0, 3.0, 2.0])))), 1)
    >>> abs(found.U).round(6).T.tolist(), float(found.values[1].round(6))
    ([[0.0, 1.0, 0.0]], 2.0)
    """
    size, k = min(update.shape), min(k, update.rank_bound)
    if isinstance(update, LowRankUpdate) or size <= _ALL_UP_TO or _FEW * (k + 1) > size or device != "cpu":
        return spectrum_of(update, vectors=k, device=device)
    gram = gram_matrix(update, device=device)
    energy = float(gram.diagonal().sum())
    refuse_non_finite(energy)
    with convergence(update.shape):
        found = largest(gram, k + 1) if energy > 0.0 else None
    del gram
    return_freed_memory()
    if found is None or found.vectors is None:
        return spectrum_of(update, vectors=k, device=device)
    U, Vh = other_side(update, found.vectors[:, :k])
    floor = gram_floor(size) * float(found.values[0])
    return Spectrum(found.values, update.shape, update.rank_bound, energy**0.5, "lanczos", floor, U, Vh)
