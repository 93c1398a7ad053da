"""The columns of a report: names, types, order. Files depend on it; raise the version when it changes."""

import pyarrow as pa

from rank_lab.metrics import DENOISED_RANKS, METRICS

__all__ = ["ADDED", "COVERAGE", "DENOISED", "KEY", "RANKS", "SCHEMA_VERSION", "SPECTRA", "UPDATES", "WARNING_SEPARATOR"]

SCHEMA_VERSION = 3

ADDED = {3: ("optimizer", "learning_rate")}
"""Columns of ``updates`` by the version that brought them; a report of an earlier one is read with them empty."""

WARNING_SEPARATOR = " | "
"""Between the warnings of one row, which may hold any other punctuation."""

KEY = ("run", "step", "delta", "module")
"""What identifies a row of ``updates`` and of ``spectra``."""

RANKS = tuple(name for name, metric in METRICS.items() if metric.rank)
"""Quantities that count directions; each stands beside its null."""

DENOISED = tuple(f"{name}_denoised" for name in DENOISED_RANKS)
"""Ranks with the rounding taken out."""

_COUNTS = frozenset({"numerical_rank", "gavish_donoho_rank", "marchenko_pastur_rank"})


def _metric_type(name: str) -> pa.DataType:
    return pa.int64() if name in _COUNTS or name.startswith("energy_rank_") else pa.float64()


UPDATES = pa.schema(
    [
        ("run", pa.string()), ("method", pa.string()), ("optimizer", pa.string()), ("learning_rate", pa.float64()), ("step", pa.int64()), ("delta", pa.string()),
        ("module", pa.string()), ("stack", pa.string()), ("layer", pa.int64()), ("kind", pa.string()), ("expert", pa.int64()),
        ("out_features", pa.int64()), ("in_features", pa.int64()), ("rank_bound", pa.int64()), ("update_kind", pa.string()),
        ("scaling", pa.float64()),
        ("base_dtype", pa.string()), ("tuned_dtype", pa.string()), ("base_grid", pa.string()), ("tuned_grid", pa.string()),
        *((name, _metric_type(name)) for name in METRICS),
        ("relative_frobenius", pa.float64()), ("relative_spectral", pa.float64()), ("change_share", pa.float64()),
        *((f"null_{name}", pa.float64()) for name in RANKS),
        *((f"factor_null_{name}", pa.float64()) for name in RANKS),
        ("identical_fraction", pa.float64()), ("rounding_energy_fraction", pa.float64()), ("noise_edge", pa.float64()), ("noise_regime", pa.string()),
        *((f"{test}{end}", pa.float64()) for test in ("rank_above_rounding", "rank_above_iid", *DENOISED) for end in ("", "_low", "_high")),
        ("spectrum_method", pa.string()), ("spectrum_floor", pa.float64()), ("content", pa.string()), ("warning", pa.string()),
    ]
)  # fmt: skip
"""A row per matrix, step and delta."""

SPECTRA = pa.schema(
    [
        ("run", pa.string()), ("step", pa.int64()), ("delta", pa.string()), ("module", pa.string()),
        ("values", pa.list_(pa.float64())),
    ]
)  # fmt: skip
"""The singular values of each row of ``updates``, descending."""

COVERAGE = pa.schema(
    [
        ("run", pa.string()), ("step", pa.int64()), ("tensor", pa.string()), ("side", pa.string()), ("status", pa.string()),
        ("reason", pa.string()), ("failed", pa.bool_()), ("module", pa.string()), ("shape", pa.string()), ("tuned_dtype", pa.string()), ("base_dtype", pa.string()),
        ("frobenius_norm", pa.float64()), ("change_share", pa.float64()), ("tuned_digest", pa.string()), ("base_digest", pa.string()),
    ]
)  # fmt: skip
"""A row per tensor of either checkpoint and step."""
