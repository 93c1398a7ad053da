"""Ranks at 90 % of the energy, with null and noise, as means over the matrices of a kind or a layer."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from rank_lab.shown_values import shown_values

__all__ = ["PLACES", "by_kind", "by_layer", "of_matrices"]

PLACES = {"q": "attention", "k": "attention", "v": "attention", "o": "attention", "qkv": "attention",
          "gate": "MLP", "up": "MLP", "gate_up": "MLP", "down": "MLP"}  # fmt: skip
"""Of the kinds of module that the paper looks at."""

_RANK = "energy_rank_90"
_MATRIX = (
    "run", "step", "delta", "module", "layer", "kind", "rank_bound", "frobenius_norm", _RANK, f"null_{_RANK}",
    f"factor_null_{_RANK}", f"{_RANK}_denoised", f"{_RANK}_denoised_low", f"{_RANK}_denoised_high",
    "rank_above_rounding", "rounding_energy_fraction", "identical_fraction", "noise_regime",
)  # fmt: skip


def by_kind(updates: pd.DataFrame, form: str) -> list[dict[str, Any]]:
    """A row a step and kind of module; changes since the checkpoint before of float32 alone.

    Parameters
    ----------
    updates
        Of one run.
    form
        How its checkpoints are stored.

    Returns
    -------
    list of dict
        ``raw`` and ``raw_over_null`` are of the stored difference as it is; ``told`` without rounding, over the
        ``known`` matrices of which that can be told; counts of ``partial`` and ``unresolved`` matrices; means of the
        shares that are rounding's and identical, of the directions above rounding, and of the relative size.
    """
    return list(_rows(updates, form, ["kind"]))


def by_layer(updates: pd.DataFrame, form: str) -> list[dict[str, Any]]:
    """A row a step, layer and place, of the change since the base.

    Parameters
    ----------
    updates, form
        As of :func:`by_kind`.
    """
    own = updates[updates["kind"].isin(PLACES) & (updates["delta"] == "cumulative")]
    return list(_rows(own.assign(place=own["kind"].map(PLACES)), form, ["layer", "place"]))


def of_matrices(updates: pd.DataFrame, form: str) -> list[dict[str, Any]]:
    """What a figure of single matrices needs of the change since the base.

    Parameters
    ----------
    updates, form
        As of :func:`by_kind`.
    """
    own = updates[(updates["delta"] == "cumulative") & updates["kind"].isin(PLACES)]
    rows = own[list(_MATRIX)].assign(format=form)
    return [{str(name): _plain(value) for name, value in row.items()} for row in rows.to_dict("records")]


def _rows(updates: pd.DataFrame, form: str, groups: Sequence[str]) -> Iterator[dict[str, Any]]:
    own = updates if form == "float32" else updates[updates["delta"] == "cumulative"]
    raw = own[_RANK].astype("float64")
    shown = shown_values(own, _RANK)
    values = own.assign(
        raw=raw, raw_over_null=raw / shown["null"], null=shown["null"], told=shown["value"],
        told_over_null=shown["value"] / shown["null"],
    )  # fmt: skip
    means = {
        "raw": "raw", "raw_over_null": "raw_over_null", "null": "null", "told": "told",
        "told_over_null": "told_over_null", "rounding_energy": "rounding_energy_fraction",
        "identical": "identical_fraction", "above_rounding": "rank_above_rounding", "relative": "relative_frobenius",
    }  # fmt: skip
    for key, group in values.groupby(["delta", "step", *groups], sort=False):
        row = dict(zip(("delta", "step", *groups), key, strict=True))
        counts = {regime: int((group["noise_regime"] == regime).sum()) for regime in ("partial", "unresolved")}
        found = {name: group[column].astype("float64").mean() for name, column in means.items()}
        yield {
            "format": form,
            **{name: _plain(value) for name, value in row.items()},
            "matrices": len(group),
            "known": int(group["told"].notna().sum()),
            **counts,
            **{name: _plain(value) for name, value in found.items()},
        }


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if pd.isna(value):
        return None
    return value.item() if hasattr(value, "item") else value
