"""The columns of a comparison of two updates' subspaces. Files depend on it; raise the version when it changes."""

import pyarrow as pa

__all__ = ["SUBSPACE_SCHEMA_VERSION", "SUBSPACE_TABLES"]

SUBSPACE_SCHEMA_VERSION = 1

_KEY = [
    ("run", pa.string()), ("step", pa.int64()), ("other_run", pa.string()), ("other_step", pa.int64()),
    ("module", pa.string()), ("layer", pa.int64()), ("kind", pa.string()),
]  # fmt: skip
_BOTH = [("resolved_a", pa.int64()), ("resolved_b", pa.int64()), ("gap_a", pa.float64()), ("gap_b", pa.float64())]

SUBSPACE_TABLES = {
    "angles": pa.schema(
        [
            *_KEY, ("side", pa.string()), ("index", pa.int64()), ("cosine", pa.float64()), ("angle", pa.float64()),
            ("null_cosine", pa.float64()), ("null_cosine_high", pa.float64()),
            ("k_a", pa.int64()), ("k_b", pa.int64()), ("dimension", pa.int64()), *_BOTH,
            ("geodesic", pa.float64()), ("null_geodesic", pa.float64()), ("chordal", pa.float64()), ("null_chordal", pa.float64()),
        ]
    ),
    "phi": pa.schema(
        [
            *_KEY, ("side", pa.string()), ("i", pa.int64()), ("j", pa.int64()), ("phi", pa.float64()), ("null", pa.float64()),
            ("dimension", pa.int64()), *_BOTH,
        ]
    ),
    "intruders": pa.schema(
        [
            *_KEY, ("side", pa.string()), ("k", pa.int64()), ("epsilon", pa.float64()), ("intruders", pa.int64()), ("projected", pa.int64()),
            ("null", pa.float64()), ("null_projected", pa.float64()), ("span", pa.int64()), ("gap", pa.float64()), ("smallest_gap", pa.float64()),
            ("relative_frobenius", pa.float64()),
        ]
    ),
    "amplification": pa.schema(
        [
            *_KEY, ("r", pa.int64()), ("amplification", pa.float64()), ("update_norm", pa.float64()), ("top_norm", pa.float64()),
            ("projected_norm", pa.float64()), ("own_projected_norm", pa.float64()), ("random_projected_norm", pa.float64()),
            ("resolved", pa.int64()), ("gap", pa.float64()),
        ]
    ),
    "coverage": pa.schema(
        [
            *_KEY, ("status", pa.string()), ("reason", pa.string()), ("failed", pa.bool_()),
            ("out_features", pa.int64()), ("in_features", pa.int64()), ("update_kind", pa.string()), ("other_update_kind", pa.string()),
        ]
    ),
}  # fmt: skip
r"""Tables by name.

``angles``
    A row per principal angle between the spans of the first ``k_a`` and ``k_b`` singular vectors; the
    distances are of the whole spans, the same in each row of a side.
``phi``
    A row per ``i`` and ``j``; side ``A`` is the right singular vectors of LoRA's matrix A, as in the paper.
``intruders``, ``amplification``
    Of one update and its weight: the other run is empty.
``coverage``
    A row per module of either run: ``compared``, ``zero``, ``only`` (in one run), ``refused``, and per
    tensor that could not be read, ``unread``.

``resolved_a`` and ``resolved_b`` say how many of the directions stand above the rounding of the files: what
is said of any beyond these is said of noise.
"""
