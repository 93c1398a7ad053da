"""From a measured update to the rows of a report."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from rank_lab.coverage import CoverageRow
from rank_lab.forensics import suspicions
from rank_lab.measurement import Measurement
from rank_lab.metrics import evaluate
from rank_lab.noise import Noise
from rank_lab.null import factor_null, null_ranks
from rank_lab.schema import RANKS, UPDATES, WARNING_SEPARATOR
from rank_lab.spec import UpdateSpec

__all__ = ["coverage_record", "settled", "update_record"]

Record = dict[str, Any]


def update_record(
    spec: UpdateSpec,
    measurement: Measurement,
    key: Mapping[str, Any],
    merged: int | None = None,
    warnings: Sequence[str] = (),
) -> Record:
    """One row of ``updates``.

    Parameters
    ----------
    spec, measurement
        The update and what was measured of it.
    key
        ``run``, ``method``, ``optimizer``, ``learning_rate``, ``step`` and ``delta``.
    merged
        Rank of the adapter that the whole file looks like a merge of; see :func:`rank_lab.forensics.merged_rank`.
    warnings
        Of the whole training.

    Returns
    -------
    dict
        A value for every column of the schema but ``change_share``; None or NaN where there is none.
    """
    record: Record = dict.fromkeys(UPDATES.names)
    tuned, base = spec.source("tuned") or spec.source("A"), spec.source("base") or spec.weight
    record |= dict(key) | {
        "module": spec.module,
        "stack": spec.identity.stack,
        "layer": spec.identity.layer,
        "kind": spec.identity.kind,
        "expert": spec.identity.expert,
        "out_features": spec.shape[0],
        "in_features": spec.shape[1],
        "rank_bound": spec.rank_bound,
        "update_kind": spec.update_kind,
        "scaling": spec.scaling if spec.factored else math.nan,
        "tuned_dtype": None if tuned is None else tuned.dtype,
        "base_dtype": None if base is None else base.dtype,
        "tuned_grid": measurement.tuned_grid or None,
        "base_grid": measurement.base_grid or None,
        "identical_fraction": measurement.identical_fraction,
        "noise_regime": None if measurement.failure else "exact",
        "content": measurement.content,
        "warning": WARNING_SEPARATOR.join(
            text for text in (spec.note, measurement.failure, *_warnings(spec, measurement, merged), *warnings) if text
        ),
    }
    if measurement.noise is not None:
        record |= _noise(measurement.noise)
    if measurement.failure:
        return record
    return record | _quantities(spec, measurement) | _nulls(spec)


def _warnings(spec: UpdateSpec, measurement: Measurement, merged: int | None) -> list[str]:
    found = suspicions(spec, measurement)
    if merged is not None and measurement.noise is not None and measurement.noise.above_rounding.value == merged:
        found.append(
            f"exactly {merged} directions above rounding and nothing beside them, as in nearly all matrices of this"
            f" file: a merged adapter of rank {merged}, not full fine-tuning?"
        )
    return found


def _noise(noise: Noise) -> Record:
    found = {"rank_above_rounding": noise.above_rounding, "rank_above_iid": noise.above_iid}
    found |= {f"{name}_denoised": estimate for name, estimate in noise.ranks.items()}
    record: Record = {
        "noise_regime": noise.regime,
        "rounding_energy_fraction": noise.energy_fraction,
        "noise_edge": noise.edge,
    }
    for name, estimate in found.items():
        record |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    return record


def _quantities(spec: UpdateSpec, measurement: Measurement) -> Record:
    values = evaluate(measurement.spectrum(spec))
    quantities: Record = {name: None if math.isnan(value) else value for name, value in values.items()}
    quantities |= {
        "relative_frobenius": _ratio(values["frobenius_norm"], measurement.weight.frobenius),
        "relative_spectral": _ratio(values["spectral_norm"], measurement.weight.spectral),
        "spectrum_method": measurement.method,
        "spectrum_floor": measurement.floor,
    }
    return quantities


def _ratio(value: float, of: float) -> float:
    return value / of if of and not math.isnan(of) else math.nan


def _nulls(spec: UpdateSpec) -> Record:
    white = null_ranks(spec.shape)
    nulls: Record = {f"null_{name}": white[name] for name in RANKS}
    if spec.rank_bound < min(spec.shape):
        nulls |= _factor_nulls(spec.shape, spec.rank_bound)
    return nulls


@lru_cache(maxsize=256)
def _factor_nulls(shape: tuple[int, int], rank: int) -> Record:
    samples = [evaluate(sample) for sample in factor_null(shape, rank)]
    return {f"factor_null_{name}": float(np.mean([sample[name] for sample in samples])) for name in RANKS}


def settled(row: CoverageRow, measurements: Mapping[str, Measurement], norms: Mapping[str, float]) -> CoverageRow:
    """The row of a tensor once its update was measured.

    Parameters
    ----------
    row
        As planned.
    measurements
        By module.
    norms
        Norm of the change of each vector, by tensor.
    """
    if row.status == "vector":
        norm = norms.get(row.tensor, math.nan)
        if math.isnan(norm):
            return row.but("skipped", "NaN or infinite values", failed=True)
        return replace(row, status="identical" if norm == 0.0 else "vector", frobenius_norm=norm)
    measured = measurements.get(row.module)
    if row.status != "analysed" or measured is None:
        return row
    if measured.failure:
        return row.but("skipped", measured.failure, failed=True)
    # The factors of an adapter share one norm, which stands in the updates table.
    whole = row.tuned is not None and "tuned" in dict(measured.source_digests)
    norm = measured.frobenius_norm if whole else math.nan
    return replace(row, status="identical" if measured.identical else "analysed", frobenius_norm=norm)


def coverage_record(
    row: CoverageRow, digests: Mapping[str, str], key: Mapping[str, Any], total_energy: float
) -> Record:
    """One row of ``coverage``.

    Parameters
    ----------
    row
        Settled.
    digests
        Role to digest of the update that the tensor belongs to.
    key
        ``run`` and ``step``.
    total_energy
        Squared norm of the whole change of this step.
    """
    shape = (row.tuned or row.base).shape if row.tuned or row.base else None  # type: ignore[union-attr]
    return dict(key) | {
        "tensor": row.tensor,
        "side": row.side,
        "status": row.status,
        "reason": row.reason,
        "failed": row.failed,
        "module": row.module,
        "shape": None if shape is None else "x".join(map(str, shape)),
        "tuned_dtype": None if row.tuned is None else row.tuned.dtype,
        "base_dtype": None if row.base is None else row.base.dtype,
        "frobenius_norm": row.frobenius_norm,
        "change_share": row.frobenius_norm**2 / total_energy if total_energy > 0 else math.nan,
        "tuned_digest": digests.get("tuned") or None,
        "base_digest": digests.get("base") or None,
    }
