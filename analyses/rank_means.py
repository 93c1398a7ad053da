"""Ranks at 90 % of the energy, with null and noise, as means over the matrices of a kind or a layer."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from rank_lab.shown_values import shown_values

__all__ = ["PLACES", "by_kind", "by_layer", "by_place", "of_matrices"]

PLACES = {"q": "attention", "k": "attention", "v": "attention", "o": "attention", "qkv": "attention",
          "gate": "MLP", "up": "MLP", "gate_up": "MLP", "down": "MLP"}  # fmt: skip
"""Of the kinds of module that the paper looks at."""

_RANK = "energy_rank_90"
_MATRIX = (
    "step", "kind", "rank_bound", "frobenius_norm", _RANK, f"null_{_RANK}", f"{_RANK}_denoised",
    f"{_RANK}_denoised_low", f"{_RANK}_denoised_high", "rank_above_rounding", "noise_regime",
)  # fmt: skip
_MEANS = {
    "rounding_energy": "rounding_energy_fraction", "identical": "identical_fraction",
    "above_rounding": "rank_above_rounding", "relative": "relative_frobenius",
}  # fmt: skip


def by_place(updates: pd.DataFrame, form: str) -> list[dict[str, Any]]:
    """A row a step and place; of float32 changes since the checkpoint before, too.

    Parameters
    ----------
    updates
        Of one run.
    form
        How its checkpoints are stored.

    Returns
    -------
    list of dict
        ``raw`` and ``raw_over_null`` are of the stored difference as it is; ``told_over_null`` without rounding, over
        the ``known`` matrices of which that can be told; counts of ``partial`` and ``unresolved`` matrices; means of
        the shares that are rounding's and identical, of the directions above rounding, and of the relative size.
    """
    own = _of_places(updates)
    return list(_rows(own if form == "float32" else own[own["delta"] == "cumulative"], form, ["place"], whole=True))


def by_kind(updates: pd.DataFrame, form: str) -> list[dict[str, Any]]:
    """A row a step and kind of module, of the change since the base; shorter than those of :func:`by_place`.

    Parameters
    ----------
    updates, form
        As of :func:`by_place`.
    """
    own = updates[(updates["delta"] == "cumulative") & (updates["step"] > 0)]
    return list(_rows(own, form, ["kind"], whole=False))


def by_layer(updates: pd.DataFrame, form: str) -> list[dict[str, Any]]:
    """A row a step, layer and place, of the change since the base; shorter than those of :func:`by_place`.

    Parameters
    ----------
    updates, form
        As of :func:`by_place`.
    """
    own = _of_places(updates)
    return list(_rows(own[own["delta"] == "cumulative"], form, ["layer", "place"], whole=False))


def of_matrices(updates: pd.DataFrame, form: str) -> list[dict[str, Any]]:
    """What a figure of single matrices needs of the change since the base; matrices by layer and kind.

    Parameters
    ----------
    updates, form
        As of :func:`by_place`.
    """
    own = _of_places(updates)
    own = own[(own["delta"] == "cumulative") & (own["step"] > 0)]
    module = own["layer"].astype(str) + "." + own["kind"]
    rows = own[list(_MATRIX)].assign(format=form, module=module)
    return [{str(name): _plain(value) for name, value in row.items()} for row in rows.to_dict("records")]


def _of_places(updates: pd.DataFrame) -> pd.DataFrame:
    own = updates[updates["kind"].isin(PLACES)]
    return own.assign(place=own["kind"].map(PLACES))


def _rows(own: pd.DataFrame, form: str, groups: Sequence[str], *, whole: bool) -> Iterator[dict[str, Any]]:
    raw, shown = own[_RANK].astype("float64"), shown_values(own, _RANK)
    values = own.assign(
        raw=raw, raw_over_null=raw / shown["null"], told=shown["value"],
        told_over_null=shown["value"] / shown["null"],
    )  # fmt: skip
    means = {name: name for name in ("raw", "raw_over_null", "told_over_null")} | (_MEANS if whole else {})
    for key, group in values.groupby([*(["delta"] if whole else []), "step", *groups], sort=False):
        names = (*(["delta"] if whole else []), "step", *groups)
        counts = {regime: int((group["noise_regime"] == regime).sum()) for regime in ("partial", "unresolved")}
        about = {"matrices": len(group), "known": int(group["told"].notna().sum()), **counts}
        found = {name: _plain(group[column].astype("float64").mean()) for name, column in means.items()}
        where = {name: _plain(value) for name, value in zip(names, key, strict=True)}
        yield {"format": form} | where | (about if whole else {}) | found


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if pd.isna(value):
        return None
    return value.item() if hasattr(value, "item") else value
