r"""One update cut to k directions, in the ways that are compared: leading, all but these, random, and merely shrunk.

With the singular value decomposition :math:`\Delta = U \Sigma V^T`, of rank bound q:

``leading``
    :math:`\Delta_k = \sum_{i \le k} \sigma_i u_i v_i^T`, the best of rank k.
``tail``
    :math:`\Delta - \Delta_k`: what that leaves.
``random``
    :math:`\Delta P_k` (or :math:`P_k \Delta`) with :math:`P_k` onto k random dimensions of the q that the update
    has on its short side: what any k directions hold. They are the span of k Gaussian vectors of the space of inputs
    (or outputs), projected on those q dimensions: uniform among subspaces of that dimension, and the same whatever
    signs and order a decomposition gives its vectors, so on every device. Those of a larger k contain those of a
    smaller one. It is one draw: another seed gives another.
``shrunk``
    :math:`\sqrt{e_k}\, \Delta` with :math:`e_k` the share of the squared norm in :math:`\Delta_k`: the whole update,
    made as small as the truncated one. A truncation that is no better keeps its share by its size, not by its
    directions.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rank_lab.decomposition import convergence, gram_floor, gram_matrix, refuse_non_finite, spectrum_of
from rank_lab.errors import RankLabError
from rank_lab.spectrum import Spectrum
from rank_lab.update import DenseUpdate, LowRankUpdate, Update, return_freed_memory

__all__ = ["RANDOM_DRAW", "TRUNCATIONS", "TruncatedUpdate", "Truncation", "decomposed"]

Truncation = Literal["leading", "tail", "random", "shrunk"]
TRUNCATIONS: tuple[Truncation, ...] = get_args(Truncation)
"""In the order in which they are told."""

RANDOM_DRAW = 2
"""How random directions are drawn, to be kept beside what they gave. 1 was in coordinates of the singular vectors,
whose signs differ from machine to machine."""


@dataclass(frozen=True, eq=False)
class TruncatedUpdate:
    """An update with the basis in which it is cut.

    Parameters
    ----------
    update
        What is cut.
    spectrum
        All of its singular values.
    basis
        Of a dense update: singular vectors of its short side, ``(q, q)`` in columns by descending value, in float32.
        Of factors: the left ones times their values, ``(out, q)``, and the right ones, ``(q, in)``.

    Notes
    -----
    Beside the update a dense one keeps q x q numbers; a truncation is two products of m n k.
    """

    update: Update
    spectrum: Spectrum
    basis: tuple[Tensor, ...]

    @property
    def bound(self) -> int:
        """The largest rank: from there on a truncation is the update itself."""
        return self.spectrum.rank_bound

    @cached_property
    def energies(self) -> npt.NDArray[np.float64]:
        """Share of the squared norm in the first k directions, k from 0 to :attr:`bound`; zero of no update."""
        energy = np.concatenate([[0.0], np.cumsum(self.spectrum.values**2)])
        return energy / energy[-1] if energy[-1] > 0 else energy

    def cut(self, k: int, how: Truncation = "leading", *, seed: int | Sequence[int] = 0, device: str = "cpu") -> Tensor:
        """The truncated update, ``(out, in)`` in float32, on that device.

        Parameters
        ----------
        k
            Directions; more than :attr:`bound` are that many.
        how
            One of :data:`TRUNCATIONS`.
        seed
            Of random directions, one number or several; matrices of one model need different ones.
        device
            Where to multiply.

        Raises
        ------
        RankLabError
            If the rank is negative, or there is no such way.
        """
        if k < 0 or how not in TRUNCATIONS:
            raise RankLabError(f"rank {k}, {how!r}: expected one of 0 or more, and one of {', '.join(TRUNCATIONS)}.")
        k = min(k, self.bound)
        cuts: dict[Truncation, Callable[[], Tensor]] = {
            "leading": lambda: self._onto(k, device),
            "tail": lambda: self._whole(device) - self._onto(k, device),
            "random": lambda: self._onto(k, device, self._random(k, seed)),
            "shrunk": lambda: self._whole(device) * math.sqrt(self.energies[k]),
        }
        return cuts[how]()

    def _whole(self, device: str) -> Tensor:
        return self.update.to_dense().to(device=device, dtype=torch.float32)

    def _random(self, k: int, seed: int | Sequence[int]) -> Tensor:
        """Orthonormal, in float64, ``(q, k)`` in the basis of factors and ``(short side, k)`` of a dense update."""
        factored = isinstance(self.update, LowRankUpdate)
        width = self.update.shape[1] if factored else len(self.basis[0])
        drawn = torch.from_numpy(np.random.default_rng(seed).standard_normal((k, width))).T  # row after row
        if factored:  # of a dense update the q dimensions are all that its short side has
            drawn = self.basis[1].double() @ drawn
        orthonormal: Tensor = torch.linalg.qr(drawn).Q
        return orthonormal

    def _onto(self, k: int, device: str, chosen: Tensor | None = None) -> Tensor:
        """On the first k directions, or on those that were chosen."""
        parts = [part.to(device) for part in self.basis]
        if isinstance(self.update, LowRankUpdate):
            left, right = parts
            if chosen is None:
                return (left[:, :k] @ right[:k]).to(torch.float32)
            chosen = chosen.to(left)
            return ((left @ chosen) @ (chosen.T @ right)).to(torch.float32)
        (basis,) = parts
        chosen = basis[:, :k] if chosen is None else chosen.to(basis)
        whole = self._whole(device)
        if self._short_is_right:
            return (whole @ chosen) @ chosen.T
        return chosen @ (chosen.T @ whole)

    @property
    def _short_is_right(self) -> bool:
        out, across = self.update.shape
        return across == len(self.basis[0]) and (out > across or self._right_if_square)

    @property
    def _right_if_square(self) -> bool:
        """Which side the Gram matrix is of, of a square update: the columns as stored."""
        return isinstance(self.update, DenseUpdate) and not self.update.transposed


def decomposed(update: Update, *, device: str = "cpu") -> TruncatedUpdate:
    r"""The singular value decomposition of an update, as far as truncating it needs.

    Parameters
    ----------
    update
        Dense or factored.
    device
        Where to decompose.

    Raises
    ------
    NonFiniteError
        If it holds NaN or infinity.

    Notes
    -----
    A dense update costs its Gram matrix and the eigenvectors of that, O(m n q + q^3), and no SVD. Directions whose
    value is below the floor, about 1e-7 of the largest, are arbitrary among themselves.

    Examples
    --------
    >>> from rank_lab.update import MemoryMatrix
    >>> found = decomposed(DenseUpdate(MemoryMatrix(torch.diag(torch.tensor([3.0, 2.0, 1.0])))))
    >>> found.cut(1).diagonal().tolist(), found.cut(1, "tail").diagonal().tolist()
    ([3.0, 0.0, 0.0], [0.0, 2.0, 1.0])
    >>> [round(float(share), 3) for share in found.energies]
    [0.0, 0.643, 0.929, 1.0]
    """
    if isinstance(update, LowRankUpdate):
        spectrum = spectrum_of(update, vectors=update.rank_bound, device=device)
        left, right = torch.as_tensor(spectrum.U), torch.as_tensor(spectrum.Vh)
        values = torch.as_tensor(spectrum.values.copy())
        return TruncatedUpdate(update, spectrum, (left * values, right))
    gram = gram_matrix(update, device=device)
    energy = float(gram.diagonal().sum())
    refuse_non_finite(energy)
    with convergence(update.shape):
        eigenvalues, vectors = torch.linalg.eigh(gram, UPLO="L")
    del gram
    values_ = eigenvalues.flip(0).clamp_(min=0.0).sqrt_().cpu().numpy()
    basis = vectors.flip(1).to("cpu", torch.float32)
    del vectors
    return_freed_memory()
    floor = gram_floor(len(values_)) * float(values_[0])
    spectrum = Spectrum(values_, update.shape, update.rank_bound, energy**0.5, "gram", floor)
    return TruncatedUpdate(update, spectrum, (basis,))
