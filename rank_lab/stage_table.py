"""The rows of an Algorithm-1 run as a table to be read: stages first, each control beneath."""

import pandas as pd

from rank_lab.curve import SORA, Curve

__all__ = ["STAGE_COLUMNS", "controls_of", "seeds_of", "stage_table", "stages_of"]

_INTERVALS = tuple(f"{name}{end}" for name in ("memorization", "generalization") for end in ("", "_low", "_high"))

STAGE_COLUMNS = (
    "seed", "control", "stage", "threshold", "steps", "stop", "nonzero_gates", "gates", "nonzero_parameters",
    "effective_rank", *_INTERVALS, "train_loss", "validation_loss", "seconds", "warning",
)  # fmt: skip
"""Columns of the table, as in ``curve.jsonl``."""


def stage_table(curve: Curve, *, seed: int | None = None) -> pd.DataFrame:
    """A row a stage or control.

    Parameters
    ----------
    curve
        Of a study, perhaps without a row.
    seed
        One of its seeds; None for all.

    Returns
    -------
    pandas.DataFrame
        Columns of :data:`STAGE_COLUMNS`, by seed, the algorithm's stages before the controls; what was not measured is
        missing. ``target`` and ``target_reached`` follow the threshold where stages were driven to one.

    Examples
    --------
    >>> from pathlib import Path
    >>> stage_table(Curve(Path("study/curve.jsonl"))).empty
    True
    """
    rows = curve.rows
    own = rows if seed is None else rows[rows["seed"] == seed]
    columns = list(STAGE_COLUMNS)
    if own["target"].notna().any():
        columns[columns.index("steps") : columns.index("steps")] = ["target", "target_reached"]
    order = own.assign(first=own["control"] != SORA)
    names = list(dict.fromkeys(own["control"]))
    order["place"] = order["control"].map({name: place for place, name in enumerate(names)})
    ordered = order.sort_values(["seed", "first", "place", "stage"], kind="stable")
    return ordered[columns].reset_index(drop=True)


def seeds_of(curve: Curve) -> tuple[int, ...]:
    """Seeds that have a row."""
    return tuple(sorted({row.seed for row in curve.records}))


def controls_of(curve: Curve) -> tuple[str, ...]:
    """The algorithm itself, where a stage of it is done, and the controls that have a row."""
    names = dict.fromkeys(row.control for row in curve.records)
    return tuple(sorted(names, key=lambda name: name != SORA))


def stages_of(curve: Curve, control: str = SORA) -> tuple[int, ...]:
    """Stages of the algorithm or of a control that have a row, the last first."""
    return tuple(sorted({row.stage for row in curve.records if row.control == control}, reverse=True))
