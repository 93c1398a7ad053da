"""From measured updates to the tables of a report, one point of a training after another."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from rank_lab.change import vector_change_norm
from rank_lab.coverage import CoverageRow, Plan
from rank_lab.errors import RankLabError
from rank_lab.forensics import merged_rank
from rank_lab.joined import joined
from rank_lab.measurement import Measurement
from rank_lab.rows import coverage_record, settled, update_record
from rank_lab.schema import COVERAGE, SPECTRA, UPDATES
from rank_lab.spec import UpdateSpec
from rank_lab.trained_with import TrainedWith

__all__ = ["Point", "Records", "frames", "records"]

Records = dict[str, list[dict[str, Any]]]
"""Rows of ``updates``, ``spectra`` and ``coverage``."""


@dataclass(frozen=True)
class Point:
    """One checkpoint, or one moment of a training.

    Parameters
    ----------
    step
        Optimizer steps taken; None where nothing says it.
    plan
        What is compared since the base.
    deltas
        ``cumulative`` and perhaps ``step``, each with its updates.
    trained
        Method and optimizer that stand beside every row.
    """

    step: int | None
    plan: Plan
    deltas: tuple[tuple[str, tuple[UpdateSpec, ...]], ...]
    trained: TrainedWith


def records(points: Sequence[Point], measured: Mapping[UpdateSpec, Measurement], run: str) -> Records:
    """Rows of the tables of a report.

    Parameters
    ----------
    points
        In the order of their steps.
    measured
        Every update of every delta.
    run
        Name of the run.
    """
    found: Records = {"updates": [], "spectra": [], "coverage": []}
    for point in points:
        tied = _tied(point.plan.specs, measured)
        for delta, specs in point.deltas:
            kept = [spec for spec in specs if spec.module not in tied]
            vectors = _vector_norms(point.plan) if delta == "cumulative" else {}
            energy = _energy(kept, measured, vectors)
            merged = merged_rank((spec, measured[spec]) for spec in kept) if delta == "cumulative" else None
            key = {"run": run, "step": point.step, "delta": delta}
            for spec in kept:
                one = measured[spec]
                record = update_record(spec, one, _told(key, point.trained), merged, point.trained.warnings)
                record["change_share"] = one.frobenius_norm**2 / energy if energy > 0 else math.nan
                found["updates"].append(record)
                found["spectra"].append(key | {"module": spec.module, "values": one.values})
            if delta == "cumulative":
                found["coverage"] += _coverage_records(point, measured, tied, vectors, energy=energy, run=run)
    return found


def frames(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, pd.DataFrame]:
    """The tables of a report from their rows; see :func:`records`."""
    schemas = {"updates": UPDATES, "spectra": SPECTRA, "coverage": COVERAGE}
    return {name: pd.DataFrame(rows[name], columns=schema.names) for name, schema in schemas.items()}


def _told(key: Mapping[str, Any], trained: TrainedWith) -> dict[str, Any]:
    return dict(key) | {
        "method": trained.method,
        "optimizer": trained.optimizer,
        "learning_rate": trained.learning_rate,
    }


def _vector_norms(plan: Plan) -> dict[str, float]:
    norms = {}
    for vector in plan.vectors:
        try:
            norms[vector.tensor] = abs(vector.scaling) * vector_change_norm(vector.tuned, vector.base)
        except (RankLabError, OSError):
            norms[vector.tensor] = math.nan
    return norms


def _energy(
    specs: Sequence[UpdateSpec], measured: Mapping[UpdateSpec, Measurement], vectors: Mapping[str, float]
) -> float:
    norms = [measured[spec].frobenius_norm for spec in specs] + list(vectors.values())
    return math.fsum(norm**2 for norm in norms if not math.isnan(norm))  # whatever the order of the tensors


def _tied(specs: Sequence[UpdateSpec], measured: Mapping[UpdateSpec, Measurement]) -> dict[str, str]:
    """Heads whose bytes equal an embedding's on both sides: module to the module that it is tied to."""
    embeddings = {
        measured[spec].source_digests: spec.module
        for spec in specs
        if spec.identity.kind == "embed" and spec.update_kind == "dense" and measured[spec].is_of_bytes
    }
    return {
        spec.module: embeddings[measured[spec].source_digests]
        for spec in specs
        if spec.identity.kind == "head" and measured[spec].source_digests in embeddings
    }


def _coverage_records(
    point: Point,
    measured: Mapping[UpdateSpec, Measurement],
    tied: Mapping[str, str],
    vectors: Mapping[str, float],
    *,
    energy: float,
    run: str,
) -> list[dict[str, Any]]:
    by_module = {spec.module: measured[spec] for spec in point.plan.specs}
    by_module |= {
        row.module: joined([by_module[part] for part in row.parts]) for row in point.plan.coverage if row.parts
    }
    records = []
    for row in point.plan.coverage:
        final = _untied(settled(row, by_module, vectors), tied)
        digests = dict(by_module[row.module].source_digests) if row.module in by_module else {}
        records.append(coverage_record(final, digests, {"run": run, "step": point.step}, energy))
    return records


def _untied(row: CoverageRow, tied: Mapping[str, str]) -> CoverageRow:
    if row.module not in tied:
        return row
    text = f"tied: the same bytes as {tied[row.module]}, counted there"
    return replace(row.but("skipped", text), frobenius_norm=math.nan)
