"""What the paper claims of ranks along training, asked of the tables of :mod:`analyses.rank_over_training`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandas as pd

from analyses.paired_seeds import Difference, difference

__all__ = ["TITLES", "Claim", "claims", "of_optimizers", "place_values"]

TITLES = {"sgd": "SGD, momentum 0.9", "adamw": "AdamW", "lion": "Lion"}
"""Optimizers in words."""

Tables = Mapping[str, pd.DataFrame]


@dataclass(frozen=True)
class Claim:
    """A claim, of one optimizer.

    Parameters
    ----------
    claim, measure
        What is said, and the difference that it says to be above zero.
    optimizer
        Of the runs.
    found
        That difference.
    """

    claim: str
    measure: str
    optimizer: str
    found: Difference


def place_values(
    places: pd.DataFrame, column: str, *, form: str = "float32", delta: str = "cumulative"
) -> pd.DataFrame:
    """One quantity of attention and of MLP, of each run and step from the first change on.

    Parameters
    ----------
    places
        The table.
    column
        The quantity.
    form, delta
        Storage, and since when.

    Returns
    -------
    pandas.DataFrame
        ``optimizer``, ``seed``, ``step``, ``place``, ``value``.
    """
    own = places[(places["format"] == form) & (places["delta"] == delta) & (places["step"] > 0)]
    return own[["optimizer", "seed", "step", "place"]].assign(value=own[column])


def claims(tables: Tables) -> list[Claim]:
    """All of them, of every optimizer.

    Parameters
    ----------
    tables
        Of the results.
    """
    return [claim for optimizer in tables["losses"]["optimizer"].unique() for claim in _of(tables, optimizer)]


def _of(tables: Tables, optimizer: str) -> Iterator[Claim]:
    table = tables["places"]
    for form, words in (("float32", "in float32"), ("bfloat16", "as stored in bfloat16, rounding left in")):
        early, late = (_mean(place_values(table, "raw_over_null", form=form), optimizer, end) for end in ("min", "max"))
        yield Claim("the rank grows with data", f"k90 / null, last less first, {words}", optimizer,
                    difference(late, early))  # fmt: skip
    for column, words in (("raw", "k90"), ("raw_over_null", "k90 / null")):
        places = place_values(table, column)
        mlp, attention = (_mean(places[places["place"] == place], optimizer, "max") for place in ("MLP", "attention"))
        yield Claim("MLP is above attention", f"{words}, MLP less attention, last step", optimizer,
                    difference(mlp, attention))  # fmt: skip
    inner, outer = _layers(tables["layers"], optimizer)
    yield Claim("first and last layers are below the others", "k90 / null, inner layers less first and last, last step",
                optimizer, difference(inner, outer))  # fmt: skip


def of_optimizers(tables: Tables) -> list[Claim]:
    """Whether the sign-like optimizer has higher ranks than each other one; a question of this study.

    Parameters
    ----------
    tables
        Of the results.
    """
    places, found = place_values(tables["places"], "raw_over_null"), []
    for other in [name for name in places["optimizer"].unique() if name != "lion"]:
        for end, words in (("min", "first"), ("max", "last")):
            sides = (_mean(places, name, end) for name in ("lion", other))
            measure = f"k90 / null, Lion less {TITLES[other]}, {words} step"
            found.append(Claim("a sign-like optimizer raises ranks", measure, "lion", difference(*sides)))
    return found


def _mean(places: pd.DataFrame, optimizer: str, end: str) -> dict[int, float]:
    """Of the places together, by seed, at the first or the last step."""
    own = places[places["optimizer"] == optimizer]
    own = own[own["step"] == getattr(own["step"], end)()]
    return _by_seed(own, "value")


def _layers(layers: pd.DataFrame, optimizer: str) -> tuple[dict[int, float], dict[int, float]]:
    """By seed, over places: of the inner layers, and of the first and the last; of two layers there are no inner."""
    own = layers[layers["optimizer"] == optimizer]
    own = own[own["step"] == own["step"].max()]
    outer = own["layer"].isin([own["layer"].min(), own["layer"].max()])
    return _by_seed(own[~outer], "raw_over_null"), _by_seed(own[outer], "raw_over_null")


def _by_seed(rows: pd.DataFrame, column: str) -> dict[int, float]:
    means = rows.groupby("seed")[column].mean()
    return dict(zip(means.index.astype(int).tolist(), means.tolist(), strict=True))
