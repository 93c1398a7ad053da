"""Subspaces of LoRA's updates of q and v: between two ranks, between seeds, beside Gaussian matrices."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from rank_lab.module_comparison import ComparisonOptions
from rank_lab.planned import RunSource, Settings
from rank_lab.subspace import phi
from rank_lab.subspace_analysis import compare_runs

__all__ = ["MAP_SIDE", "gaussian_phi", "map_from", "subspace_rows"]

MAP_SIDE = "A"
"""Right singular vectors of LoRA's matrix A, as the paper takes them."""

Array = npt.NDArray[np.float64]


def subspace_rows(runs: Mapping[str, Path], base: Path, k: int, drawn: int | None) -> list[dict[str, Any]]:
    """Similarity of two runs' updates, and the amplification of each.

    Parameters
    ----------
    runs
        Names of the two runs and their checkpoints.
    base
        Of both.
    k
        Directions that are looked at.
    drawn
        Layer of which the whole map is kept; None for no map.

    Returns
    -------
    list of dict
        Rows of the tables ``phi`` (as many directions i = j of both), ``maps`` and ``amplification``.
    """
    first, second = (RunSource(str(path), Settings(run=name)) for name, path in runs.items())
    found = compare_runs(first, second, base, options=ComparisonOptions(k=k, intruders=False))
    rows = found.phi[found.phi["side"].isin([MAP_SIDE, "right"])]
    powers = rows[(rows["i"] == rows["j"]) & rows["i"].isin([2**n for n in range(k.bit_length())])]
    names = ["layer", "kind", "side", "i", "phi", "null"]
    kept = [{"table": "phi"} | _plain(row) for row in powers[names].to_dict("records")]
    own = rows[(rows["side"] == MAP_SIDE) & (rows["layer"] == drawn)]
    for kind, cells in own.groupby("kind"):
        grid = cells.pivot(index="i", columns="j", values="phi").to_numpy(np.float64)
        kept += _map_rows(str(kind), grid)
    told = ["run", "layer", "kind", "r", "amplification", "update_norm", "projected_norm", "own_projected_norm",
            "random_projected_norm"]  # fmt: skip
    return kept + [{"table": "amplification"} | _plain(row) for row in found.amplification[told].to_dict("records")]


def gaussian_phi(first: int, second: int, dimension: int, seed: int = 0) -> list[dict[str, Any]]:
    """The map of two Gaussian matrices of such ranks: what LoRA's would show if they had nothing in common.

    Parameters
    ----------
    first, second
        Rows of the matrices.
    dimension
        Columns.
    seed
        Of both.
    """
    rng = np.random.default_rng(seed)
    spans = [
        np.linalg.svd(rng.standard_normal((rank, dimension)), full_matrices=False)[2].T for rank in (first, second)
    ]
    return list(_map_rows("Gaussian", phi(*spans)))


def _map_rows(kind: str, grid: Array) -> list[dict[str, Any]]:
    """A row of the map each; three digits, as no eye sees more."""
    return [
        {"table": "maps", "kind": kind, "i": i + 1}
        | {f"j{j + 1}": round(float(value), 3) for j, value in enumerate(row)}
        for i, row in enumerate(grid)
    ]


def map_from(rows: pd.DataFrame) -> Array:
    """The map of such rows.

    Parameters
    ----------
    rows
        Of one pair and kind.
    """
    columns = [name for name in rows.columns if name[0] == "j" and name[1:].isdigit()]
    grid = rows.sort_values("i")[columns].to_numpy(np.float64)
    return np.asarray(grid[:, ~np.isnan(grid).all(axis=0)])


def _plain(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(name): value.item() if hasattr(value, "item") else value for name, value in row.items()}
