"""What is truncated: every matrix of a model with the ranks of its update in weight space, and every vector."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from rank_lab.change import change_statistics
from rank_lab.evaluation.truncated_models import CutMatrix, TruncatedModel
from rank_lab.names import identify
from rank_lab.noise import noise_of
from rank_lab.null import factor_null, null_ranks
from rank_lab.quantities import effective_rank, energy_rank
from rank_lab.truncated_update import TruncatedUpdate
from rank_lab.update import DenseUpdate

__all__ = ["common_energy_rank", "matrix_rows"]

_SHARE = 0.9


def common_energy_rank(model: TruncatedModel, share: float = _SHARE) -> int:
    """The least number of directions of each matrix that hold a share of the squared norm of all updates together.

    Parameters
    ----------
    model
        Decomposed.
    share
        Of the energy.
    """
    low, high = 0, model.bound  # the energy rises with the rank
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if model.energy(middle) >= share else (middle + 1, high)
    return low


def matrix_rows(model: TruncatedModel, *, vectors: bool, stored: bool) -> Iterator[dict[str, Any]]:
    """Rows of the table ``matrices``.

    Parameters
    ----------
    model
        Decomposed.
    vectors
        Whether vectors that changed are kept as tuned.
    stored
        Whether the tuned values were read from a file, which rounded them, and so are tested against rounding; those
        of a merged adapter were not, and are exact.
    """
    norms = [each.cut.spectrum.frobenius_norm for each in model.matrices if each.cut is not None]
    total = math.fsum(norm**2 for norm in norms)
    for matrix in model.matrices:
        row: dict[str, Any] = {
            "module": matrix.module, "parameter": matrix.parameter, "layer": matrix.identity.layer,
            "kind": matrix.identity.kind, "status": "unchanged", "out_features": matrix.shape[0],
            "in_features": matrix.shape[1],
        }  # fmt: skip
        if matrix.cut is not None:
            share = matrix.cut.spectrum.frobenius_norm**2 / total
            row |= {"status": "truncated", "change_share": share} | _ranks(matrix, matrix.cut)
            row |= _rounding(matrix.cut) if stored else {"noise_regime": "exact"}
        yield row
    for name in model.vectors:
        path = name.rpartition(".")[0]
        norm = float((model.tuned[name].double() - model.base[name].double()).norm())
        yield {
            "module": path, "parameter": name, "layer": identify(path).layer, "kind": identify(path).kind,
            "status": "vector kept" if vectors else "vector left out", "frobenius_norm": norm,
        }  # fmt: skip


def _ranks(matrix: CutMatrix, cut: TruncatedUpdate) -> dict[str, Any]:
    spectrum = cut.spectrum
    if matrix.factored and cut.bound < min(matrix.shape):
        drawn = factor_null(matrix.shape, cut.bound)
        null = {
            "energy_rank_90": float(np.mean([energy_rank(each, _SHARE) for each in drawn])),
            "effective_rank": float(np.mean([effective_rank(each) for each in drawn])),
        }
    else:
        null = null_ranks(matrix.shape)
    return {
        "rank_bound": cut.bound, "update_kind": "factors" if matrix.factored else "dense",
        "frobenius_norm": spectrum.frobenius_norm,
        "energy_rank_90": energy_rank(spectrum, _SHARE), "null_energy_rank_90": null["energy_rank_90"],
        "effective_rank": effective_rank(spectrum), "null_effective_rank": null["effective_rank"],
    }  # fmt: skip


def _rounding(cut: TruncatedUpdate) -> dict[str, Any]:
    """Test T1 of :mod:`rank_lab.noise`."""
    if not isinstance(cut.update, DenseUpdate):
        return {}
    noise = noise_of(cut.update, cut.spectrum, change_statistics(cut.update))
    above = noise.above_rounding
    return {
        "rank_above_rounding": above.value, "rank_above_rounding_low": above.low,
        "rank_above_rounding_high": above.high, "noise_regime": noise.regime,
    }  # fmt: skip
