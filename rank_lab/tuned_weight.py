"""The weight that an update is added to, and what it becomes: both as matrices that are streamed."""

import math
from dataclasses import dataclass, replace

from rank_lab.checkpoint import Checkpoint
from rank_lab.composed_matrix import FactorMatrix, MatrixSum
from rank_lab.orientation import stored_transposed
from rank_lab.spec import BASE_CHANGED, UpdateSpec
from rank_lab.stored_tensor import StoredTensor
from rank_lab.update import DenseUpdate, Matrix, Update

__all__ = ["WeightPlace", "tuned_weight", "weight_place"]


@dataclass(frozen=True)
class WeightPlace:
    """Where the base weight of an update is.

    Parameters
    ----------
    weight
        As a matrix; None for a stored difference, which brings its own, and where there is none.
    transposed
        Whether it is stored ``(in, out)``.
    reason
        Why the update cannot be seen in its weight; empty if it can.
    """

    weight: StoredTensor | None = None
    transposed: bool = False
    reason: str = ""


def weight_place(spec: UpdateSpec, sources: tuple[Checkpoint, ...]) -> WeightPlace:
    """Find the base weight of an update, from headers and configs alone.

    Parameters
    ----------
    spec
        From :func:`rank_lab.pairing.plan_updates`.
    sources
        Checkpoints whose config may name the architecture, best first: base, tuned.

    Notes
    -----
    A square weight whose orientation nobody knows is refused: the wrong one would give numbers, too.
    """
    taken_out = spec.previous is not None or spec.source("original") is not None
    if BASE_CHANGED in spec.note and not taken_out:
        return WeightPlace(reason="the update is that of a changed base, which no file holds")
    if spec.source("base") is not None and not spec.factored:
        return WeightPlace()
    if spec.weight is None:
        lacking = "the base stores no weight of this module" if len(sources) > 1 else "no base weight: give --base"
        return WeightPlace(reason=lacking)
    weight = spec.weight
    if len(weight.shape) > 2:
        weight = weight.view((weight.shape[0], math.prod(weight.shape[1:])))
    transposed, unknown = stored_transposed(spec.module, sources)
    if weight.shape not in {spec.shape, spec.shape[::-1]}:
        return WeightPlace(reason=f"the base weight is {list(weight.shape)}, the update {list(spec.shape)}")
    if spec.shape[0] != spec.shape[1]:
        return WeightPlace(weight, transposed=weight.shape != spec.shape)
    whole = sources[0].tensors.get(weight.name)
    stacked = spec.identity.expert is not None and (whole is None or len(whole.shape) > 2)  # the stack's own matter
    if unknown or stacked:
        return WeightPlace(reason="the base weight is square and nobody says which of its sides is the input")
    return WeightPlace(weight, transposed)


def tuned_weight(place: WeightPlace, update: Update) -> tuple[DenseUpdate, DenseUpdate]:
    """The base weight and the tuned one, each as the difference of it and nothing.

    Parameters
    ----------
    place
        Without a ``reason``.
    update
        What is added, with its scale: exact in float64, where a merge would round.

    Returns
    -------
    base, tuned
        ``(out, in)``, streamed; a dense update's are its own two matrices.

    Raises
    ------
    ValueError
        If there is no weight.
    """
    if isinstance(update, DenseUpdate) and update.base is not None:
        base = DenseUpdate(update.base, transposed=update.transposed, rows=update.rows)
        return base, replace(base, tuned=update.tuned)
    if place.weight is None:
        raise ValueError(place.reason or "no weight was found for this update.")
    base = DenseUpdate(place.weight, transposed=place.transposed)
    return base, replace(base, tuned=MatrixSum(place.weight, _as_stored(update, transposed=place.transposed)))


def _as_stored(update: Update, *, transposed: bool) -> Matrix:
    if isinstance(update, DenseUpdate):
        return update.tuned
    left, across = update.factors()
    return FactorMatrix(across.T.contiguous(), left.T.contiguous()) if transposed else FactorMatrix(left, across)
