r"""What a change without any structure does to the same inputs: the null beside a functional rank."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from rank_lab.decomposition import gram_floor
from rank_lab.errors import ShapeMismatchError
from rank_lab.functional_metrics import FUNCTIONAL_RANKS, functional_ranks
from rank_lab.spectrum import Spectrum

__all__ = ["random_change_ranks"]

Values = npt.NDArray[np.float64]


def random_change_ranks(
    eigenvalues: Values, shape: tuple[int, int], rank: int, *, draws: int = 4, seed: int = 0
) -> dict[str, float]:
    r"""Mean ranks of :math:`G\, C^{1/2}` with a random change G of the same shape and rank.

    G has independent Gaussian entries or, where its rank is at most half of what its shape allows (an adapter), is a
    product of two such factors.
    Only the eigenvalues of C matter, as a rotation of G is as likely as G. C is that of the sample: where its n tokens
    are few, the null has no more directions than they have. The norm of G is of no consequence to a rank.

    Parameters
    ----------
    eigenvalues
        Of C, shape (in,), in any order.
    shape
        ``(out, in)`` of the change.
    rank
        Of the change that is compared with it.
    draws, seed
        How many, and where their randomness starts.

    Returns
    -------
    dict
        A mean for each of :data:`rank_lab.functional_metrics.FUNCTIONAL_RANKS`.

    Raises
    ------
    ShapeMismatchError
        If there are not as many eigenvalues as inputs, or the rank is not in [1, min(out, in)].

    Notes
    -----
    O(draws rank^2 (in + rank)); nothing of size out is drawn (Bartlett).

    Examples
    --------
    White inputs and a large random matrix: what Marchenko and Pastur's law says.

    >>> from rank_lab.null import null_ranks
    >>> found = random_change_ranks(np.ones(200), (300, 200), 200)
    >>> abs(found["energy_rank_90"] - null_ranks((300, 200))["energy_rank_90"]) < 2
    True
    """
    out, across = shape
    if len(eigenvalues) != across or not 1 <= rank <= min(shape):
        raise ShapeMismatchError(
            f"{len(eigenvalues)} eigenvalues and rank {rank} for a change of shape {shape}; expected {across}"
            f" eigenvalues and a rank of 1 to {min(shape)}."
        )
    ordered = np.sort(np.clip(np.asarray(eigenvalues, np.float64), 0.0, None))[::-1]
    top = ordered[0] if ordered[0] > 0 else 1.0
    return dict(_means(tuple((ordered / top).round(12).tolist()), out, rank, draws, seed))


@lru_cache(maxsize=256)
def _means(eigenvalues: tuple[float, ...], out: int, rank: int, draws: int, seed: int) -> tuple[tuple[str, float], ...]:
    rng = np.random.default_rng(seed)
    root = np.sqrt(np.asarray(eigenvalues))
    found = [functional_ranks(_drawn(rng, root, out, rank)) for _ in range(draws)]
    return tuple((name, float(np.mean([each[name] for each in found]))) for name in FUNCTIONAL_RANKS)


def _drawn(rng: np.random.Generator, root: Values, out: int, rank: int) -> Spectrum:
    across = len(root)
    if 2 * rank <= min(out, across):
        change = _triangle(rng, out, rank) @ (rng.standard_normal((rank, across)) * root)
    elif out < across:
        change = rng.standard_normal((out, across)) * root
    else:
        change = _triangle(rng, out, across) * root
    gram = change @ change.T if len(change) <= across else change.T @ change
    squares = np.linalg.eigvalsh(gram)
    values = np.sqrt(np.clip(squares, 0.0, None))
    values[values < gram_floor(len(gram)) * values[-1]] = 0.0  # which the arithmetic cannot tell from zero
    return Spectrum.from_values(values, shape=(out, across))


def _triangle(rng: np.random.Generator, length: int, width: int) -> Values:
    """R of the QR decomposition of a Gaussian matrix (Bartlett)."""
    upper = np.triu(rng.standard_normal((width, width)), 1)
    return np.asarray(upper + np.diag(np.sqrt(rng.chisquare(length - np.arange(width)))))
