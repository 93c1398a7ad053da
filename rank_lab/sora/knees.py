"""The knees of a run's curves: where memorization and generalization begin to fall, seed by seed and over seeds."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from rank_lab.curve import KNEES_FILE, SORA, Curve, CurveRow
from rank_lab.durable import write_whole
from rank_lab.knee import Knee, knee_of_predictions, knee_over_seeds
from rank_lab.scores import Score
from rank_lab.sora.predictions import predictions_table
from rank_lab.sora.stage_row import SETS

__all__ = ["knees_of", "save_knees"]

_CURVES = dict(zip(("memorization", "generalization"), SETS, strict=True))


def knees_of(curve: Curve, score: Score) -> list[dict[str, Any]]:
    """The knee of each curve of a run, or why there is none.

    Over the threshold, where stages have one, and over the share of non-zero
    parameters that is gone; each relative to stage 0, examples resampled jointly.

    Parameters
    ----------
    curve
        Of a study whose stages have kept their predictions.
    score
        Of its rows.

    Returns
    -------
    list of dict
        ``curve``, ``seed`` (None: over all seeds) and the fields of :class:`rank_lab.knee.Knee`.
    """
    stages = [row for row in curve.records if row.control == SORA]
    seeds = sorted({row.seed for row in stages})
    found: list[dict[str, Any]] = []
    for name in _CURVES:
        for axis in _axes(stages):
            knees = [_knee(curve, score, [row for row in stages if row.seed == seed], name, axis) for seed in seeds]
            found += [{"curve": name, "seed": seed} | asdict(knee) for seed, knee in zip(seeds, knees, strict=True)]
            if len(seeds) > 1:
                found.append({"curve": name, "seed": None} | asdict(knee_over_seeds(knees)))
    return found


def save_knees(curve: Curve, score: Score) -> None:
    """Write ``knees.json`` beside the curve, with the number of rows that it speaks of.

    Parameters
    ----------
    curve, score
        See :func:`knees_of`.
    """
    content = {"rows": len(curve.records), "knees": knees_of(curve, score)}
    write_whole(curve.file.parent / KNEES_FILE, json.dumps(content, indent=1) + "\n")


def _axes(rows: Sequence[CurveRow]) -> tuple[str, ...]:
    driven = any(row.target_kind is not None for row in rows)
    return ("sparsity",) if driven else ("threshold", "sparsity")


def _knee(curve: Curve, score: Score, rows: Sequence[CurveRow], name: str, axis: str) -> Knee:
    places = _places(rows, axis)
    distinct = _distinct(places)
    tables = {row.stage: _read(curve, row, _CURVES[name]) for row in rows if row.stage in distinct}
    return knee_of_predictions(
        score,
        tables[0]["label"],
        [tables[stage]["prediction"] for stage in distinct],
        tables[0]["prediction"],
        [places[stage] for stage in distinct],
        axis=axis,
    )


def _places(rows: Sequence[CurveRow], axis: str) -> dict[int, float]:
    if axis == "threshold":
        return {row.stage: float(row.threshold or 0.0) for row in rows}
    dense = max(row.nonzero_parameters for row in rows)
    return {row.stage: 1 - row.nonzero_parameters / max(dense, 1) for row in rows}


def _distinct(places: Mapping[int, float]) -> list[int]:
    """The stages in the order of their places; of several at one place the first, which was trained least."""
    kept: dict[float, int] = {}
    for stage in sorted(places):
        kept.setdefault(places[stage], stage)
    return [kept[place] for place in sorted(kept)]


def _read(curve: Curve, row: CurveRow, name: str) -> pd.DataFrame:
    return predictions_table(curve.stage_folder(row.seed, row.stage), name)
