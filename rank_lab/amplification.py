r"""How much of an update the weight already has: LoRA's amplification factor and what it is compared with."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from rank_lab.spectrum import Spectrum
from rank_lab.update import Update

__all__ = ["Amplification", "amplifications", "projected_cores", "random_projected_norm"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Amplification:
    r"""One row of LoRA's Table 7.

    Parameters
    ----------
    r
        How many leading directions of the update span the projection.
    amplification
        :math:`\lVert \Delta W \rVert_F / \lVert U^T W V \rVert_F`; NaN where the projection is zero.
    update_norm
        :math:`\lVert \Delta W \rVert_F`, of the whole update.
    top_norm
        Of its first ``r`` directions: less than ``update_norm`` where the update has a higher rank.
    projected_norm
        :math:`\lVert U^T W V \rVert_F` for the update's own ``r`` leading directions.
    own_projected_norm
        The same for those of ``W``: the largest that any ``r`` directions can give.
    random_projected_norm
        The same for random ones.
    """

    r: int
    amplification: float
    update_norm: float
    top_norm: float
    projected_norm: float
    own_projected_norm: float
    random_projected_norm: float


def random_projected_norm(weight_norm: float, r: int, shape: tuple[int, int]) -> float:
    r"""Root mean square of :math:`\lVert U^T W V \rVert_F` over random subspaces.

    It is :math:`\lVert W \rVert_F\, r / \sqrt{m n}`, exactly:
    :math:`E[U U^T] = (r / m) I` and :math:`E[V V^T] = (r / n) I`, independently.

    Parameters
    ----------
    weight_norm
        Frobenius norm of ``W``.
    r
        Directions on each side.
    shape
        ``(m, n)``; square in the paper, :math:`\lVert W \rVert_F\, r / d`.

    Examples
    --------
    >>> [round(random_projected_norm(61.95, r, (12288, 12288)), 4) for r in (4, 64)]  # Table 7: 0.02 and 0.33
    [0.0202, 0.3227]
    """
    return weight_norm * r / math.sqrt(math.prod(shape))


def projected_cores(weight: Update, spectrum: Spectrum) -> Array:
    r"""The weight between the singular vectors of an update, :math:`U^T W V`.

    Parameters
    ----------
    weight
        Streamed once.
    spectrum
        Of the update, with its ``k`` vectors.

    Returns
    -------
    numpy.ndarray
        ``(k, k)``, whose upper left ``(r, r)`` is that of the first ``r``.

    Notes
    -----
    O(m n k).
    """
    if spectrum.U is None or spectrum.Vh is None:
        raise ValueError("the spectrum has no vectors; compute it with vectors=k.")
    across = weight.matmul(torch.from_numpy(np.ascontiguousarray(spectrum.Vh.T)))
    return np.asarray(spectrum.U.T @ across.cpu().numpy(), dtype=np.float64)


def amplifications(
    update: Spectrum, weight: Spectrum, core: Array, ranks: tuple[int, ...]
) -> tuple[Amplification, ...]:
    r"""Amplification of an update at several ``r``, each beside the weight's own and random directions.

    Parameters
    ----------
    update
        Its spectrum.
    weight
        That of ``W``, with at least as many values as the largest ``r``.
    core
        From :func:`projected_cores`.
    ranks
        Each at most the size of ``core``.

    Notes
    -----
    The factor depends on the scale of the update (alpha / r must be applied) and on ``r``: compare rows of
    one ``r`` only.

    References
    ----------
    .. [1] Hu et al. (2021), section 7.3 and Table 7, https://arxiv.org/abs/2106.09685

    Examples
    --------
    >>> weight = Spectrum.from_values([4.0, 2.0, 1.0], shape=(3, 3))
    >>> update = Spectrum.from_values([3.0], shape=(3, 3), rank_bound=1)
    >>> amplifications(update, weight, np.array([[1.0]]), (1,))[0].amplification
    3.0
    """
    rows = []
    for r in ranks:
        projected = float(np.linalg.norm(core[:r, :r]))
        rows.append(
            Amplification(
                r,
                update.frobenius_norm / projected if projected > 0.0 else math.nan,
                update.frobenius_norm,
                float(np.linalg.norm(update.values[:r])),
                projected,
                float(np.linalg.norm(weight.values[:r])),
                random_projected_norm(weight.frobenius_norm, r, weight.shape),
            )
        )
    return tuple(rows)
