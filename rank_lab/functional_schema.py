"""The columns of a report of functional ranks. Files depend on it; raise the version when it changes."""

import pyarrow as pa

__all__ = ["FUNCTIONAL_SCHEMA_VERSION", "FUNCTIONAL_TABLES"]

FUNCTIONAL_SCHEMA_VERSION = 1

_KEY = [("run", pa.string()), ("method", pa.string()), ("step", pa.int64())]
_PLACE = [
    *_KEY, ("scope", pa.string()), ("module", pa.string()), ("layer", pa.int64()), ("kind", pa.string()),
    ("form", pa.string()),
]  # fmt: skip

FUNCTIONAL_TABLES = {
    "ranks": pa.schema(
        [
            *_PLACE, ("metric", pa.string()), ("value", pa.float64()), ("low", pa.float64()), ("high", pa.float64()),
            ("open_above", pa.bool_()), ("shift", pa.float64()), ("null", pa.float64()), ("bound", pa.int64()),
            ("weight", pa.float64()),
        ]
    ),
    "changes": pa.schema(
        [
            *_PLACE, ("out_features", pa.int64()), ("in_features", pa.int64()),
            ("tokens", pa.int64()), ("texts", pa.int64()),
            ("change_norm", pa.float64()), ("relative_change", pa.float64()), ("mean_share", pa.float64()),
            ("first_token_share", pa.float64()),
            ("linear_share", pa.float64()), ("linear_share_low", pa.float64()), ("linear_share_high", pa.float64()),
            ("linear_share_null", pa.float64()),
            ("linear_share_centered", pa.float64()), ("linear_share_centered_low", pa.float64()),
            ("linear_share_centered_high", pa.float64()),
            ("spectrum", pa.list_(pa.float64())), ("spectrum_floor", pa.float64()), ("warning", pa.string()),
        ]
    ),
    "coverage": pa.schema(
        [
            *_KEY, ("module", pa.string()), ("layer", pa.int64()), ("kind", pa.string()), ("status", pa.string()),
            ("reason", pa.string()),
        ]
    ),
}  # fmt: skip
r"""Tables by name.

``ranks``
    A row per place and metric. ``scope``: ``layer`` (hidden state after a layer, same tokens through both models),
    ``module`` (output of a module, same input through both), ``weighted`` (:math:`\Delta W C^{1/2}`). ``low`` and
    ``high``: 95 % interval over texts, missing where texts are too few; ``open_above``: the upper end could not be told
    and is ``bound``, the least of tokens, out, in; ``shift``: mean of the resamples less the value. ``null``: a
    random linear change of this shape and rank on the same inputs (centred, where the change is). ``weight``: the same
    metric of the weight update itself, where there is one.
``changes``
    A row per place: sizes, shares, what a linear map of the input explains of it on texts that it was not fitted on;
    ``form`` ``layer``, ``affine`` (the update is a matrix and a bias) or ``function``. ``change_norm`` is the root mean
    square over tokens, ``spectrum`` its singular values.
``coverage``
    A row per linear module of the base: ``measured``, ``identical`` or ``left out``, with the reason.
"""
