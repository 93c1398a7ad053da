"""What the paper claims of ranks along training, asked of the tables of :mod:`analyses.rank_over_training`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandas as pd

from analyses.paired_seeds import Difference, difference
from analyses.rank_means import PLACES

__all__ = ["Claim", "claims", "of_optimizers", "place_values"]

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


def place_values(kinds: pd.DataFrame, column: str, *, form: str = "float32", delta: str = "cumulative") -> pd.DataFrame:
    """Means over attention and over MLP, of each run and step.

    Parameters
    ----------
    kinds
        The table.
    column
        What the mean is taken of.
    form, delta
        Storage, and since when.

    Returns
    -------
    pandas.DataFrame
        ``optimizer``, ``seed``, ``step``, ``place``, ``value``; a place of which a kind has no value has none.
    """
    own = kinds[(kinds["format"] == form) & (kinds["delta"] == delta) & kinds["kind"].isin(PLACES)]
    own = own.assign(place=own["kind"].map(PLACES), value=own[column] if column in own else float("nan"))
    groups = own.groupby(["optimizer", "seed", "step", "place"], sort=False)["value"]
    return groups.agg(lambda values: values.mean(skipna=False)).reset_index()


def claims(tables: Tables) -> list[Claim]:
    """All of them, of every optimizer.

    Parameters
    ----------
    tables
        Of the results.
    """
    return [claim for optimizer in tables["losses"]["optimizer"].unique() for claim in _of(tables, optimizer)]


def _of(tables: Tables, optimizer: str) -> Iterator[Claim]:
    kinds = tables["kinds"]
    for form, words in (("float32", "in float32"), ("bfloat16", "as stored in bfloat16, rounding left in")):
        early, late = (_mean(place_values(kinds, "raw_over_null", form=form), optimizer, end) for end in ("min", "max"))
        yield Claim("the rank grows with data", f"k90 / null, last less first, {words}", optimizer,
                    difference(late, early))  # fmt: skip
    for column, words in (("raw", "k90"), ("raw_over_null", "k90 / null")):
        places = place_values(kinds, column)
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
    places, found = place_values(tables["kinds"], "raw_over_null"), []
    for other in [name for name in places["optimizer"].unique() if name != "lion"]:
        for end, words in (("min", "first"), ("max", "last")):
            sides = (_mean(places, name, end) for name in ("lion", other))
            measure = f"k90 / null, Lion less {other}, {words} step"
            found.append(Claim("a sign-like optimizer raises ranks", measure, f"lion, {other}", difference(*sides)))
    return found


def _mean(places: pd.DataFrame, optimizer: str, end: str) -> dict[int, float]:
    """Of the places together, by seed, at the first or the last step."""
    own = places[places["optimizer"] == optimizer]
    own = own[own["step"] == getattr(own["step"], end)()]
    return _by_seed(own, "value")


def _layers(layers: pd.DataFrame, optimizer: str) -> tuple[dict[int, float], dict[int, float]]:
    """By seed, over places: of the inner layers, and of the first and the last; of two layers there are no inner."""
    own = layers[(layers["optimizer"] == optimizer) & (layers["format"] == "float32")]
    own = own[own["step"] == own["step"].max()]
    outer = own["layer"].isin([own["layer"].min(), own["layer"].max()])
    return _by_seed(own[~outer], "raw_over_null"), _by_seed(own[outer], "raw_over_null")


def _by_seed(rows: pd.DataFrame, column: str) -> dict[int, float]:
    means = rows.groupby("seed")[column].mean()
    return dict(zip(means.index.astype(int).tolist(), means.tolist(), strict=True))
