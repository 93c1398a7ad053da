"""What was measured at places of a model, as rows of a report's tables."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from rank_lab.functional_metrics import FUNCTIONAL_RANKS
from rank_lab.functional_schema import FUNCTIONAL_TABLES
from rank_lab.names import identify
from rank_lab.place_change import PlaceChange
from rank_lab.uncertainty import Interval

__all__ = ["functional_tables"]


def functional_tables(
    places: Iterable[PlaceChange], left_out: Mapping[str, str], model: Mapping[str, Any]
) -> dict[str, pd.DataFrame]:
    """Tables of one model.

    Parameters
    ----------
    places
        What was measured.
    left_out
        Modules that were not, with the reason.
    model
        Its ``run``, ``method`` and ``step``.

    Returns
    -------
    dict
        By the names of :data:`rank_lab.functional_schema.FUNCTIONAL_TABLES`.
    """
    found = list(places)
    measured = list(dict.fromkeys(each.name for each in found if each.scope == "module"))
    coverage = [dict(model) | _module(name) | {"status": "measured", "reason": ""} for name in measured]
    coverage += [dict(model) | _module(name) | _left_out(reason) for name, reason in left_out.items()]
    rows = {
        "ranks": [row for each in found for row in _ranks(each, model)],
        "changes": [_change(each, model) for each in found],
        "coverage": coverage,
    }
    return {name: pd.DataFrame(rows[name], columns=schema.names) for name, schema in FUNCTIONAL_TABLES.items()}


def _left_out(reason: str) -> dict[str, str]:
    same = reason == "identical"
    return {"status": "identical" if same else "left out", "reason": "" if same else reason}


def _module(name: str) -> dict[str, Any]:
    identity = identify(name)
    return {"module": name, "layer": identity.layer, "kind": identity.kind}


def _place(place: PlaceChange, model: Mapping[str, Any]) -> dict[str, Any]:
    own = _module(place.name) | ({"kind": "layer"} if place.scope == "layer" else {})
    if place.scope == "layer" and own["layer"] is None:
        own["layer"] = int(place.name.rpartition(".")[2])
    return dict(model) | {"scope": place.scope} | own | {"form": place.form}


def _ranks(place: PlaceChange, model: Mapping[str, Any]) -> list[dict[str, Any]]:
    key, rows = _place(place, model), []
    for name in FUNCTIONAL_RANKS:
        rank = place.ranks[name]
        numbers = {"value": rank.value, "low": rank.low, "high": rank.high, "shift": rank.shift}
        beside = {"null": place.null[name], "bound": place.spectrum.rank_bound, "weight": place.weight.get(name)}
        rows.append(key | {"metric": name, "open_above": rank.open_above} | numbers | beside)
    return rows


def _change(place: PlaceChange, model: Mapping[str, Any]) -> dict[str, Any]:
    return (
        _place(place, model)
        | {
            "out_features": place.shape[0], "in_features": place.shape[1], "tokens": place.tokens, "texts": place.texts,
            "change_norm": place.spectrum.frobenius_norm, "relative_change": place.relative_change,
            "mean_share": place.mean_share, "first_token_share": place.first_token_share,
            "linear_share_null": place.linear_share_null, "spectrum": place.spectrum.values.tolist(),
            "spectrum_floor": place.spectrum.floor, "warning": "; ".join(place.warnings),
        }
        | _share("linear_share", place.linear_share)
        | _share("linear_share_centered", place.linear_share_centered)
    )  # fmt: skip


def _share(name: str, interval: Interval) -> dict[str, Any]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
