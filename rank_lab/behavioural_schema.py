"""The columns of a report on a behavioural rank. Files depend on it; raise the version when it changes."""

import pyarrow as pa

__all__ = ["BEHAVIOURAL_SCHEMA_VERSION", "BEHAVIOURAL_TABLES"]

BEHAVIOURAL_SCHEMA_VERSION = 1

_TEXT, _COUNT, _NUMBER, _TRUTH = pa.string(), pa.int64(), pa.float64(), pa.bool_()


def _columns(names: str, type_: pa.DataType) -> list[tuple[str, pa.DataType]]:
    return [(name, type_) for name in names.split()]


def _intervals(names: str) -> list[tuple[str, pa.DataType]]:
    return [(f"{name}{end}", _NUMBER) for name in names.split() for end in ("", "_low", "_high")]


BEHAVIOURAL_TABLES = {
    "ranks": pa.schema(
        [
            *_columns("task", _TEXT),
            *_columns("share", _NUMBER),
            *_intervals("learned"),
            *_columns("rank rank_low rank_high tried_below lasting_rank", _COUNT),
            *_columns("reason", _TEXT),
            *_columns("random_rank random_tried_below", _COUNT),
            *_columns("random_reason", _TEXT),
            *_columns("rank_bound energy_rank_90", _COUNT),
            *_columns("energy_at_rank", _NUMBER),
            *_intervals("share_at_rank shrunk_at_rank tail_at_rank"),
            *_intervals("forgotten forgotten_at_rank spared"),
            *_columns("forgotten_reason", _TEXT),
            *_intervals("share_of_vectors share_without_vectors"),
        ]
    ),
    "points": pa.schema(
        [
            *_columns("how", _TEXT),
            *_columns("k", _COUNT),
            *_columns("vectors", _TRUTH),
            *_columns("directions", _COUNT),
            *_columns("energy", _NUMBER),
            *_columns("role task", _TEXT),
            *_columns("value", _NUMBER),
            *_intervals("change share"),
            *_columns("reason", _TEXT),
        ]
    ),
    "matrices": pa.schema(
        [
            *_columns("module parameter", _TEXT),
            *_columns("layer", _COUNT),
            *_columns("kind status", _TEXT),
            *_columns("out_features in_features rank_bound", _COUNT),
            *_columns("update_kind", _TEXT),
            *_columns("frobenius_norm change_share energy_rank_90 null_energy_rank_90", _NUMBER),
            *_columns("effective_rank null_effective_rank", _NUMBER),
            *_intervals("rank_above_rounding"),
            *_columns("noise_regime", _TEXT),
        ]
    ),
    "scores": pa.schema(
        [
            *_columns("how", _TEXT),
            *_columns("k", _COUNT),
            *_columns("vectors", _TRUTH),
            *_columns("task role metric", _TEXT),
            *_columns("value stderr", _NUMBER),
            *_columns("n", _COUNT),
            *_columns("higher_is_better", _TRUTH),
            *_columns("set_sha256", _TEXT),
            *_columns("examples", pa.list_(_NUMBER)),
        ]
    ),
}
r"""Tables by name.

``ranks``
    A row per target, and one of an empty ``task`` for the mean of several. ``rank``: the least number of directions of
    each matrix that keeps ``share`` of what was ``learned``; ``lasting_rank``: from which on all larger ones that were
    tried do; ``random_rank``: the same of random directions of the update. ``energy_rank_90``: the least number of
    directions of each matrix that hold 90 % of the squared norm of all updates together, and ``energy_at_rank`` what
    ``rank`` directions hold. Of what was learned ``share_at_rank`` is what they keep, ``shrunk_at_rank`` what the whole
    update keeps that is made as small as they are, ``tail_at_rank`` what all other directions keep. ``forgotten``: by
    the tuned model; ``forgotten_at_rank``: by the truncated one; ``spared``: the first less the second.
    ``share_of_vectors``: what norms and biases keep without any matrix, ``share_without_vectors`` what all matrices
    keep without them; missing where no vector changed.
``points``
    A row per truncation and task, and one of an empty ``task`` for the mean of several tasks of a role. ``change``:
    what was gained (role ``target``) or lost (``source``), ``share``: of the tuned model's.
``matrices``
    A row per matrix, and per other parameter that changed: ``truncated``, ``unchanged``, ``vector kept``, ``vector
    left out``. The ranks of its update in weight space beside what noise of that shape has.
``scores``
    What all of it was computed from: per model (``how`` is ``base``, ``tuned`` or one of
    :data:`rank_lab.truncated_update.TRUNCATIONS`) and task the score with one value an example.
"""
