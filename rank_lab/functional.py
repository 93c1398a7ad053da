r"""Rank of what an update does to real inputs: of the change of outputs, and of the weight's change on the inputs.

With x the inputs of a module on a probe set (uncentred, under the base model), :math:`C = \mathbb{E}[x x^\top]`
their second moment and :math:`\Delta h` the change of what comes out,

.. math:: \sigma_i(\Delta W C^{1/2}) \quad\text{and}\quad
          \sigma_i = \lambda_i(\mathbb{E}[\Delta h\, \Delta h^\top])^{1/2}

are the singular values from which ranks are taken. Of a linear module without a change of its bias
:math:`\Delta h = \Delta W x`, and both are one. A module's change is of the same input through both modules; that of a
hidden state after a layer is of the same tokens through both models, and all methods have it, those without a weight
update as well. Nothing is centred unless asked for: :func:`rank_lab.second_moment.SecondMoment.mean_share` says what
centring takes off. C and the ranks of :math:`\Delta H` follow the caveat of Biderman et al. (2024,
arXiv:2405.09673), that the rank a weight needs is no rank that its outputs need.

On n tokens no such rank exceeds n, and it is too low where n is small: see :mod:`rank_lab.text_intervals`.
"""

import torch
from torch import Tensor

from rank_lab.decomposition import convergence, gram_floor
from rank_lab.errors import NonFiniteError, RankLabError, ShapeMismatchError
from rank_lab.functional_metrics import FUNCTIONAL_RANKS, functional_ranks
from rank_lab.spectrum import Spectrum

__all__ = ["FUNCTIONAL_RANKS", "functional_ranks", "functional_spectrum", "weighted_spectrum"]


def functional_spectrum(moment: Tensor, tokens: int, shape: tuple[int, int]) -> Spectrum:
    r"""Singular values of the change of an activation, :math:`\lambda_i(M / n)^{1/2}`.

    Parameters
    ----------
    moment
        :math:`M = \sum \Delta h\, \Delta h^\top` over the tokens, float64, in any orthonormal basis that holds them.
    tokens
        n.
    shape
        ``(out, in)`` of the change, for the bound on its rank.

    Returns
    -------
    Spectrum
        With ``rank_bound`` the least of tokens, out, in and the size of the basis, root mean square over tokens as
        ``frobenius_norm``, and the floor of a Gram matrix, about 1e-7 of the largest value.

    Raises
    ------
    RankLabError
        If there is no token.
    NonFiniteError
        If the moment is not finite.
    ConvergenceError
        If LAPACK or cuSOLVER gives up.

    Notes
    -----
    O(width^3).

    Examples
    --------
    >>> spectrum = functional_spectrum(torch.diag(torch.tensor([9.0, 1.0]).double()), 2, (2, 5))
    >>> spectrum.values.round(3).tolist(), spectrum.rank_bound
    ([2.121, 0.707], 2)
    """
    if tokens < 1:
        raise RankLabError("no token to tell a functional rank from; give texts that have some.")
    energy = float(torch.diagonal(moment).sum()) / tokens
    if not torch.isfinite(moment).all():
        raise NonFiniteError("a second moment of activations is not finite; did the training diverge?")
    with convergence(tuple(moment.shape)):
        found = torch.linalg.eigvalsh(moment / tokens).flip(0).clamp(min=0.0).sqrt()
    bound = min(tokens, *shape, len(found))
    values = found[:bound].cpu().numpy()
    floor = gram_floor(len(found)) * float(values[0]) if len(values) else 0.0
    # Beyond the bound there is rounding alone: the norm is that of what can be there.
    norm = max(energy, 0.0) ** 0.5 if bound == len(found) else float((values**2).sum() ** 0.5)
    return Spectrum(values, shape, bound, norm, "gram", floor)


def weighted_spectrum(change: Tensor, moment: Tensor, tokens: int) -> Spectrum:
    r"""Singular values of :math:`\Delta W C^{1/2}`, the change of a weight on the inputs that it meets.

    Its energy rank is the least k with
    :math:`\lVert (\Delta W - \Delta W_k) C^{1/2} \rVert_F^2 \le (1 - p) \lVert \Delta W C^{1/2} \rVert_F^2`, where
    :math:`\Delta W_k` is the best of rank k for these inputs.

    Parameters
    ----------
    change
        :math:`\Delta W`, shape ``(out, in)``.
    moment
        :math:`\sum x x^\top` over the tokens, ``(in, in)``; see :meth:`rank_lab.second_moment.SecondMoment.total`.
    tokens
        How many.

    Returns
    -------
    Spectrum
        Its norm is the root mean square of :math:`\lVert \Delta W x \rVert`.

    Raises
    ------
    ShapeMismatchError
        If the moment is not of the weight's inputs.

    Notes
    -----
    O(out in min(out, in)); exact to a Gram matrix's floor, about 1e-7 of the largest value.

    Examples
    --------
    White inputs give the weight's own singular values:

    >>> change = torch.tensor([[3.0, 0.0, 0.0], [0.0, 4.0, 0.0]])
    >>> weighted_spectrum(change, 100 * torch.eye(3), 100).values.tolist()
    [4.0, 3.0]
    """
    out, across = change.shape
    if moment.shape != (across, across):
        raise ShapeMismatchError(
            f"a second moment of shape {tuple(moment.shape)} for a weight with {across} inputs; expected"
            f" ({across}, {across}), of the activations that go into this module."
        )
    wide, inputs = change.double(), moment.double()
    if out <= across:
        reduced = wide @ inputs @ wide.T
    else:  # the smaller side: eigenvalues of C^1/2 (D^T D) C^1/2
        with convergence((across, across)):
            values, vectors = torch.linalg.eigh(inputs)
        root = vectors * values.clamp(min=0.0).sqrt()
        reduced = root.T @ (wide.T @ wide) @ root
    return functional_spectrum((reduced + reduced.T) / 2, tokens, (out, across))
