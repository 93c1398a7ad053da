"""What the LoRA paper says of ranks and matrices, asked of the tables of :mod:`analyses.lora_rank_choice`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analyses.lora_rank_subspaces import MAP_SIDE
from analyses.paired_seeds import Difference, difference

__all__ = ["Claim", "by_seed", "claims"]

Tables = Mapping[str, pd.DataFrame]


@dataclass(frozen=True)
class Claim:
    """A claim, and the difference that it says to be above zero.

    Parameters
    ----------
    claim, measure
        In words.
    found
        Over seeds.
    """

    claim: str
    measure: str
    found: Difference


def by_seed(runs: pd.DataFrame, matrices: str, rank: int, column: str = "loss") -> dict[int, float]:
    """Of one arm.

    Parameters
    ----------
    runs
        The table.
    matrices, rank
        Of the arm.
    column
        What is taken.
    """
    own = runs[(runs["matrices"] == matrices) & (runs["rank"] == rank)]
    return {int(seed): float(value) for seed, value in zip(own["seed"], own[column], strict=True)}


def claims(tables: Tables, settings: Mapping[str, Any]) -> list[Claim]:
    """All that can be asked.

    Parameters
    ----------
    tables
        Of the results.
    settings
        Of the study.
    """
    return [*_losses(tables["runs"], settings), *_phi(tables["phi"]), *_amplified(tables["amplification"], settings)]


def _losses(runs: pd.DataFrame, settings: Mapping[str, Any]) -> Iterator[Claim]:
    budget = [(str(matrices), int(rank)) for matrices, rank in settings["budget"]]
    most = max(budget, key=lambda row: (row[0].count(","), row[0] == "q, v"))
    single = [row for row in budget if "," not in row[0]]
    for matrices, rank in single:
        measure = f"loss, {matrices} at rank {rank} less {most[0]} at rank {most[1]}"
        yield Claim("at one budget, more matrices at a lower rank are better than one at a higher", measure,
                    difference(by_seed(runs, matrices, rank), by_seed(runs, *most)))  # fmt: skip
    ranks = sorted(settings["ranks"])
    for matrices in settings["grid"]:
        measure = f"loss, {matrices} at rank {ranks[0]} less rank {ranks[-1]}"
        yield Claim(f"rank {ranks[-1]} is better than {ranks[0]} (the paper, of q, v: {ranks[0]} suffices)", measure,
                    difference(by_seed(runs, matrices, ranks[0]), by_seed(runs, matrices, ranks[-1])))  # fmt: skip


def _phi(phi: pd.DataFrame) -> Iterator[Claim]:
    """Over layers, less the null of random spans."""
    own = phi[phi["side"] == MAP_SIDE]
    ranks = own[own["pair"] == "ranks"]
    for kind in sorted(ranks["kind"].unique()):
        excess = _excess(ranks[(ranks["kind"] == kind) & (ranks["i"] == 1)])
        yield Claim("the top direction is shared between ranks", f"φ(1, 1) of {kind} between ranks, less its null",
                    difference(excess))  # fmt: skip
    seeds = own[own["pair"] == "seeds"]
    if seeds.empty:
        return
    middle = sorted(seeds["i"].unique())[len(seeds["i"].unique()) // 2]
    sides = [_excess(seeds[(seeds["kind"] == kind) & (seeds["i"] == middle)], "other") for kind in ("q", "v")]
    yield Claim("q has more directions in common between seeds than v",
                f"φ({middle}, {middle}) between seeds less its null, q less v, over pairs of seeds, which share runs",
                difference(sides[0], sides[1]))  # fmt: skip


def _excess(rows: pd.DataFrame, pair: str = "") -> dict[int, float]:
    """φ less its null, mean over layers, by seed or by pair of seeds."""
    key = rows["seed"] * 1000 + rows["other_seed"] if pair else rows["seed"]
    means = (rows["phi"] - rows["null"]).groupby(key).mean()
    return dict(zip(means.index.astype(int).tolist(), means.tolist(), strict=True))


def _amplified(amplification: pd.DataFrame, settings: Mapping[str, Any]) -> Iterator[Claim]:
    """At the rank of the run, over layers."""
    small, large = settings["amplified"], settings["compared"][1]
    own = amplification[(amplification["pair"] == "amplified") & (amplification["kind"] == "q")]
    sides = [amplification_of(own, rank) for rank in (small, large)]
    yield Claim("a small rank amplifies more than a large one", f"amplification of q, rank {small} less rank {large}",
                difference(sides[0], sides[1]))  # fmt: skip
    known = own[(own["r"] == small) & own["run"].str.startswith(f"r{small}-")]
    ratio = (known["projected_norm"] / known["random_projected_norm"] - 1).groupby(known["seed"]).mean()
    yield Claim("what is amplified is in the weight more than random directions are",
                f"norm of W in the update's directions over that in random ones, q at rank {small}, less 1",
                difference(list(ratio)))  # fmt: skip


def amplification_of(rows: pd.DataFrame, rank: int, column: str = "amplification") -> dict[int, float]:
    """Of runs of one rank at that many directions, mean over layers, by seed.

    Parameters
    ----------
    rows
        Of one kind.
    rank
        Of the runs.
    column
        What is taken.
    """
    own = rows[(rows["r"] == rank) & rows["run"].str.startswith(f"r{rank}-")]
    means = own.groupby("seed")[column].mean()
    return dict(zip(means.index.astype(int).tolist(), means.tolist(), strict=True))
