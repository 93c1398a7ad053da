"""Ranks of whole models and of kinds of module: means over matrices, each beside its null."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from rank_lab.errors import SchemaError
from rank_lab.told_ranks import told

__all__ = ["REGIMES", "SUMMARY_RANKS", "rank_summaries"]

SUMMARY_RANKS = ("numerical_rank", "energy_rank_90", "energy_rank_99", "stable_rank", "effective_rank")
"""Ranks that are known without rounding."""

REGIMES = ("exact", "resolved", "partial", "unresolved")
"""What rounding leaves of an update; see :mod:`rank_lab.noise`."""

Values = npt.NDArray[np.float64]


def rank_summaries(updates: pd.DataFrame, by: Sequence[str] = ("run", "step")) -> pd.DataFrame:
    r"""Means of each rank over matrices: :math:`\sum_i w_i r_i / \sum_i w_i` with the shares of the change as weights.

    Parameters
    ----------
    updates
        Of one or more reports; rows of the cumulative change are used.
    by
        Columns that rows of one mean agree in; ``("run", "step", "kind")`` for kinds of module.

    Returns
    -------
    pandas.DataFrame
        A row a group: the columns of ``by``, ``matrices``, the share of matrices in each regime (``exact_share``
        ...), ``relative_frobenius`` of all of them, :math:`\sqrt{\sum \|\Delta W\|^2 / \sum \|W\|^2}`, and of each
        rank R of :data:`SUMMARY_RANKS` ``R`` (weighted), ``R_mean`` (plain), ``null_R`` (weighted alike; of factors
        that of random factors) and ``R_matrices``, of how many. A matrix whose rank cannot be told is in none of the
        means.

    Raises
    ------
    SchemaError
        If a matrix is there twice.
    """
    rows = updates[updates["delta"] == "cumulative"]
    twice = rows[rows.duplicated(["run", "step", "module"])]
    if len(twice):
        first = twice.iloc[0]
        raise SchemaError(
            f"run {first['run']!r} at step {first['step']} is in two reports; give one of them another name (--name)."
        )
    numbers = _numbers(rows)
    found = [
        dict(zip(by, key if isinstance(key, tuple) else (key,), strict=True))
        | _summary(numbers, np.asarray(group, np.intp))
        for key, group in rows.reset_index(drop=True).groupby(list(by), sort=False, dropna=False).indices.items()
    ]
    return pd.DataFrame(found, columns=[*by, *_columns()])


def _columns() -> list[str]:
    of_rank = [name.format(rank) for rank in SUMMARY_RANKS for name in ("{}", "{}_mean", "null_{}", "{}_matrices")]
    return ["matrices", *(f"{regime}_share" for regime in REGIMES), "relative_frobenius", *of_rank]


def _numbers(rows: pd.DataFrame) -> dict[str, Values]:
    """The columns that means are taken of, once for all groups."""
    found: dict[str, Values] = {}
    for regime in REGIMES:
        found[f"{regime}_share"] = np.asarray(rows["noise_regime"] == regime, np.float64)
    for name in ("change_share", "frobenius_norm", "relative_frobenius"):
        found[name] = np.asarray(rows[name], np.float64)
    for rank in SUMMARY_RANKS:
        white, factors = (np.asarray(rows[name], np.float64) for name in (f"null_{rank}", f"factor_null_{rank}"))
        found[rank] = np.asarray(told(rows, rank), np.float64)
        found[f"null_{rank}"] = np.where(np.isfinite(factors), factors, white)
    return found


def _summary(numbers: Mapping[str, Values], group: npt.NDArray[np.intp]) -> dict[str, Any]:
    own = {name: values[group] for name, values in numbers.items()}
    found: dict[str, Any] = {"matrices": len(group)}
    found |= {f"{regime}_share": float(own[f"{regime}_share"].mean()) for regime in REGIMES}
    found["relative_frobenius"] = _relative(own["frobenius_norm"], own["relative_frobenius"])
    for rank in SUMMARY_RANKS:
        values, null = own[rank], own[f"null_{rank}"]
        known = np.isfinite(values)
        found[rank] = _mean(values, own["change_share"], known)
        found[f"{rank}_mean"] = float(values[known].mean()) if known.any() else float("nan")
        found[f"null_{rank}"] = _mean(null, own["change_share"], known & np.isfinite(null))
        found[f"{rank}_matrices"] = int(known.sum())
    return found


def _relative(change: Values, share: Values) -> float:
    known = np.isfinite(change) & np.isfinite(share) & (share > 0)
    weight = change[known] / share[known]
    return float(np.sqrt((change[known] ** 2).sum() / (weight**2).sum())) if known.any() else float("nan")


def _mean(values: Values, weights: Values, known: npt.NDArray[np.bool_]) -> float:
    known = known & np.isfinite(weights) & (weights > 0)
    return float(np.average(values[known], weights=weights[known])) if known.any() else float("nan")
