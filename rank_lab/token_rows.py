"""Trained rows of an embedding (PEFT's trainable tokens): exact factors, one rank per token."""

import json
import re
from collections.abc import Mapping
from typing import Any

from rank_lab.checkpoint import Checkpoint
from rank_lab.coverage import CoverageRow, unreadable
from rank_lab.key_space import canonical
from rank_lab.names import identify
from rank_lab.saved_whole import Fate, base_weights
from rank_lab.spec import UpdateSpec
from rank_lab.stored_tensor import StoredTensor

__all__ = ["TOKENS", "is_token_rows", "plan_token_rows"]

TOKENS = "trainable_tokens_delta"

_NAME = re.compile(rf"(?P<module>.+?)(?P<beside>\.token_adapter)?\.{TOKENS}(\.\w+)?")


def is_token_rows(name: str) -> bool:
    """Whether a tensor holds trained rows of an embedding.

    Examples
    --------
    >>> is_token_rows("base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta")
    True
    """
    return f".{TOKENS}" in name


def plan_token_rows(
    tensors: Mapping[str, StoredTensor], config: Mapping[str, Any], tuned: Checkpoint, base: Checkpoint | None
) -> list[Fate]:
    """Updates of embeddings of which some rows were trained.

    Parameters
    ----------
    tensors
        Those of :func:`is_token_rows`, by their names in the file.
    config
        The adapter's, which says which rows they are.
    tuned, base
        The adapter, and the model whose rows were replaced; without it there is a row with the reason.
    """
    found = []
    for name, tensor in canonical(tensors, tuned.source).items():
        match = _NAME.fullmatch(name)
        row = CoverageRow(tensor.name, "tuned", "skipped", tuned=tensor)
        if match is None:
            found.append(Fate(row.but("skipped", "not a name that PEFT gives to trained rows", failed=True)))
            continue
        rows = _rows(config, match["module"])
        if reason := _unfit(tensor, rows):
            found.append(Fate(row.but("skipped", reason, failed=True)))
        elif base is None:
            found.append(Fate(row.but("skipped", "rows of an embedding, trained: their change needs --base")))
        else:
            found.append(_fate(match["module"], match["beside"] is not None, tensor, rows, row, base))
    return found


def _fate(module: str, beside: bool, tensor: StoredTensor, rows: list[int], row: CoverageRow, base: Checkpoint) -> Fate:
    weight = base_weights([module], [], base).get(f"{module}.weight")
    if weight is None:
        return Fate(row.but("skipped", "the base stores no weight of this tied head", failed=True))
    if text := unreadable(weight):
        return Fate(row.but("skipped", f"the base's {weight.name}: {text}", failed=True))
    if len(weight.shape) != 2 or weight.shape[1] != tensor.shape[1] or max(rows) >= weight.shape[0]:
        shapes = (
            f"rows {min(rows)} to {max(rows)} of width {tensor.shape[1]}, the base's weight is {list(weight.shape)}"
        )
        return Fate(row.but("skipped", f"{shapes}: not the model that the adapter was trained on", failed=True))
    path = f"{module}.token_adapter" if beside else module
    spec = UpdateSpec(
        module=path,
        identity=identify(module),
        update_kind="merged",
        shape=(weight.shape[0], weight.shape[1]),
        rank_bound=min(len(rows), *weight.shape),
        sources=(("tokens", tensor), ("base", weight)),
        weight=weight,
        recipe=json.dumps({"tokens": rows}),
        note=f"{len(rows)} rows were trained, the others are as they were",
    )
    return Fate(CoverageRow(tensor.name, "tuned", "analysed", "", path, tensor), spec)


def _rows(config: Mapping[str, Any], module: str) -> list[int]:
    """Indices of the rows, in the order of the file; empty if the config has none for this module."""
    given = config.get("token_indices") or config.get("trainable_token_indices")
    if isinstance(given, Mapping):
        named = [rows for name, rows in given.items() if f".{module}".endswith(f".{name}")]
        given = named[0] if len(named) == 1 else None
    if not isinstance(given, list) or not all(isinstance(row, int) and row >= 0 for row in given):
        return []
    return given


def _unfit(tensor: StoredTensor, rows: list[int]) -> str:
    if text := unreadable(tensor):
        return text
    if len(tensor.shape) != 2 or len(rows) != tensor.shape[0] or len(set(rows)) != len(rows):
        return (
            f"shape {list(tensor.shape)}, but the config names {len(set(rows))} tokens of this module: restore the"
            " adapter_config.json that was saved with it"
        )
    return ""
