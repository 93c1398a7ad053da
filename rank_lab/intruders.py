r"""Intruder dimensions: singular vectors of the tuned weight that the base weight does not have.

A leading singular vector :math:`y_j` of :math:`W + \Delta W` is an intruder if
:math:`\max_i |\cos(u_i, y_j)| < \epsilon` over all singular vectors :math:`u_i` of :math:`W` [1]_. (The paper's
definition has no modulus; its code has, as it must: the sign of a singular vector means nothing.)

Singular values that lie close make this fragile: any small perturbation, rounding included, mixes the
vectors of a nearly degenerate group, so that none is like a single old one although their span is
untouched. Hence the count stands beside what white noise of the same norm does to the same weight, beside
the gaps, and beside a form that looks at the span of the first ``K`` old vectors instead,
:math:`\lVert P_{U_K} y_j \rVert < \epsilon`.

References
----------
.. [1] Shuttleworth et al. (2024), LoRA vs full fine-tuning: an illusion of equivalence, https://arxiv.org/abs/2410.21228
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rank_lab.decomposition import convergence, gram_floor, gram_matrix, refuse_non_finite
from rank_lab.spectrum import Spectrum
from rank_lab.subspace import relative_gap
from rank_lab.update import DenseUpdate, LowRankUpdate, return_freed_memory

__all__ = [
    "EPSILONS",
    "IntruderCount",
    "Side",
    "WeightDirections",
    "intruder_counts",
    "mitigation",
    "weight_directions",
]

Array = npt.NDArray[np.float64]
Side = Literal["left", "right"]
SIDES: tuple[Side, ...] = ("left", "right")

EPSILONS = tuple(round(0.1 * tenth, 1) for tenth in range(1, 10))
"""The thresholds that the paper sweeps."""

_SPAN = (
    2  # K over k: a vector that noise has mixed with its neighbours, some of them just beyond the k-th, stays inside
)


@dataclass(frozen=True, eq=False)
class WeightDirections:
    """All singular vectors of a weight's short side, from which those of the long side follow.

    Parameters
    ----------
    weight
        Streamed.
    values
        All singular values, descending.
    short
        Singular vectors of the short side in columns, ``(q, q)``.
    frobenius_norm
        Of the weight.
    """

    weight: DenseUpdate
    values: Array
    short: Tensor
    frobenius_norm: float

    @property
    def short_side(self) -> Side:
        """Which side that is."""
        rows, columns = self.weight.stored_shape
        return "right" if (rows >= columns) != self.weight.transposed else "left"

    @property
    def spectrum(self) -> Spectrum:
        """The singular values, without the vectors."""
        floor = gram_floor(len(self.values)) * float(self.values[0])
        return Spectrum(self.values, self.weight.shape, len(self.values), self.frobenius_norm, "gram", floor)

    def cosines(self, vectors: Array, side: Side) -> Array:
        r"""Cosines of unit vectors with every singular vector of the weight.

        Parameters
        ----------
        vectors
            In columns, ``(m, k)`` on the left or ``(n, k)`` on the right.
        side
            Of both.

        Returns
        -------
        numpy.ndarray
            ``(q, k)``, in [-1, 1]. Directions whose singular value is below the floor of the arithmetic are no
            singular vectors of the weight: on the long side zeros.

        Notes
        -----
        On the long side :math:`u_i^T y = v_i^T W^T y / \sigma_i`: one pass over the weight, and no vector of
        that side is ever held.
        """
        given = torch.from_numpy(np.ascontiguousarray(vectors)).to(self.short)
        if side == self.short_side:
            return _bounded(self.short.T @ given)
        product = self.weight.transpose_matmul(given) if side == "left" else self.weight.matmul(given)
        values = torch.from_numpy(self.values.copy()).to(self.short)
        known = values > gram_floor(len(values)) * values[0]
        inverse = torch.where(known, 1.0 / torch.where(known, values, 1.0), 0.0)
        return _bounded((self.short.T @ product) * inverse[:, None])


def weight_directions(weight: DenseUpdate, *, device: str = "cpu") -> WeightDirections:
    """All singular directions of a weight.

    Parameters
    ----------
    weight
        As an update of nothing: ``DenseUpdate(matrix)``.
    device
        Where to compute.

    Raises
    ------
    NonFiniteError
        If the weight holds NaN or infinity.
    ConvergenceError
        If LAPACK or cuSOLVER gives up.

    Notes
    -----
    The costly part of intruders: the Gram matrix, O(m n q), and all of its eigenvectors, about 9 q^3
    operations, with four ``q x q`` float64 matrices in memory.
    """
    gram = gram_matrix(weight, device=device)
    energy = float(gram.diagonal().sum())
    refuse_non_finite(energy)
    with convergence(weight.shape):
        eigenvalues, vectors = torch.linalg.eigh(gram, UPLO="L")
    del gram
    values = eigenvalues.flip(0).clamp_(min=0.0).sqrt_().cpu().numpy()
    short = vectors.flip(1)
    del vectors
    return_freed_memory()
    return WeightDirections(weight, np.asarray(values, dtype=np.float64), short, energy**0.5)


@dataclass(frozen=True)
class IntruderCount:
    r"""Intruders among the first ``k`` singular vectors of a tuned weight.

    Parameters
    ----------
    side
        ``"left"`` (the paper's) or ``"right"``.
    k, epsilon
        Of the definition; a count without both says nothing.
    intruders
        :math:`\#\{j \le k : \max_i |\cos(u_i, y_j)| < \epsilon\}`.
    projected
        :math:`\#\{j \le k : \lVert P_{U_K} y_j \rVert < \epsilon\}`. A random direction keeps
        :math:`\sqrt{K / d}` of its length: where that is above the threshold, it cannot count.
    span
        ``K``: twice ``k``, at most all.
    gap, smallest_gap
        :func:`rank_lab.subspace.relative_gap` of the tuned weight after its ``k``-th value, and the smallest within
        the first ``k``: near zero single vectors there are not unique.
    """

    side: Side
    k: int
    epsilon: float
    intruders: int
    projected: int
    span: int
    gap: float
    smallest_gap: float


def intruder_counts(
    weight: WeightDirections, tuned: Spectrum, *, ks: tuple[int, ...], epsilons: tuple[float, ...] = EPSILONS
) -> tuple[IntruderCount, ...]:
    """Count intruders on both sides, for every ``k`` and threshold.

    Parameters
    ----------
    weight
        All directions of the base weight.
    tuned
        Spectrum of the tuned weight, with as many vectors as the largest ``k``; the update must stand in it
        with its scale.
    ks
        How many leading vectors to look at; those beyond what there is are cut to it.
    epsilons
        Thresholds in (0, 1].

    Notes
    -----
    O(q^2 k) once ``weight`` is known.

    Examples
    --------
    >>> from rank_lab.leading_vectors import leading_vectors
    >>> from rank_lab.update import MemoryMatrix
    >>> base = torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0]))
    >>> tuned = base.clone()
    >>> tuned[:, 0] += 9.0 * torch.tensor([0.5, 0.5, 0.5, 0.5])
    >>> found = leading_vectors(DenseUpdate(MemoryMatrix(tuned)), 1)
    >>> counts = intruder_counts(weight_directions(DenseUpdate(MemoryMatrix(base))), found, ks=(1,), epsilons=(0.9,))
    >>> [(count.side, count.intruders) for count in counts]
    [('left', 1), ('right', 0)]
    """
    if tuned.U is None or tuned.Vh is None:
        raise ValueError("the spectrum has no vectors; compute it with leading_vectors.")
    counts = []
    for side, vectors in zip(SIDES, (tuned.U, tuned.Vh.T), strict=True):
        cosines = np.abs(weight.cosines(vectors, side))
        highest, inside = cosines.max(axis=0), np.sqrt(np.square(cosines).cumsum(axis=0))
        for k in dict.fromkeys(min(k, vectors.shape[1]) for k in ks):
            span = min(_SPAN * k, len(weight.values))
            gaps = [relative_gap(tuned.values, position) for position in range(1, k + 1)]
            for epsilon in epsilons:
                few = int((highest[:k] < epsilon).sum())
                outside = int((inside[span - 1, :k] < epsilon).sum())
                counts.append(IntruderCount(side, k, epsilon, few, outside, span, gaps[-1], min(gaps)))
    return tuple(counts)


def mitigation(tuned: Spectrum, directions: tuple[int, ...], factor: float) -> LowRankUpdate:
    r"""The change that scales singular directions of a tuned weight, :math:`(\lambda - 1) \sum_j y_j \sigma_j z_j^T`.

    Parameters
    ----------
    tuned
        Spectrum of the tuned weight with its vectors.
    directions
        Which, from 0 on: intruders.
    factor
        :math:`\lambda`: one leaves them, zero removes them.

    Returns
    -------
    LowRankUpdate
        To be added to the tuned weight.

    References
    ----------
    .. [1] Shuttleworth et al. (2024), section 5, https://arxiv.org/abs/2410.21228

    Examples
    --------
    >>> tuned = Spectrum(np.array([2.0]), (2, 2), 1, 2.0, U=np.eye(2)[:, :1], Vh=np.eye(2)[:1])
    >>> float(mitigation(tuned, (0,), 0.0).to_dense()[0, 0])
    -2.0
    """
    if tuned.U is None or tuned.Vh is None:
        raise ValueError("the spectrum has no vectors; compute it with leading_vectors.")
    chosen = list(directions)
    left = tuned.U[:, chosen] * tuned.values[chosen]
    return LowRankUpdate(torch.from_numpy(left), torch.from_numpy(tuned.Vh[chosen].copy()), scaling=factor - 1.0)


def _bounded(cosines: Tensor) -> Array:
    return np.asarray(cosines.clamp(-1.0, 1.0).cpu().numpy(), dtype=np.float64)
