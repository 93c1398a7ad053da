"""Rows of an Algorithm-1 curve made up for tests."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rank_lab.curve import CURVE_FILE, KNEES_FILE, Curve, CurveRow

MODULES = ("model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj", "model.layers.1.self_attn.q_proj")


def row(stage: int, *, seed: int = 0, control: str = "sora", **changes: Any) -> CurveRow:
    """Stage n keeps 8 - 2n gates in each module, has 100 (8 - 2n) parameters and memorizes 100 - n."""
    gates = max(8 - 2 * stage, 0)
    values: dict[str, Any] = {
        "model": "tiny", "task": "rte", "seed": seed, "control": control, "stage": stage, "threshold": stage / 2,
        "threshold_mode": "lr", "operator": "soft", "target": None, "target_kind": None, "target_reached": None,
        "steps": 10, "lr_start": 0.1, "lr_peak": 0.1, "lr_end": 0.1, "stop": "converged", "converged": True,
        "hook_calls": 10, "seconds": 1.0, "gates": 24, "nonzero_gates": 3 * gates,
        "nonzero_by_module": dict.fromkeys(MODULES, gates), "nonzero_parameters": 100 * gates,
        "published_parameters": None, "effective_rank": 1.0, "train_loss": 0.1, "validation_loss": 0.2,
        "score": "accuracy", "train_score": 0.9, "validation_score": 0.6, "train_examples": 50,
        "validation_examples": 20, "memorization": 100.0 - stage, "memorization_low": 98.0 - stage,
        "memorization_high": 103.0 - stage, "generalization": 90.0 + stage, "generalization_low": None,
        "generalization_high": None, "reference": "stage_0", "train_reference": 0.9, "validation_reference": 0.6,
    }  # fmt: skip
    return CurveRow(**(values | changes))


def curve(folder: Path, rows: Sequence[CurveRow], knees: Sequence[Mapping[str, Any]] = ()) -> Curve:
    if knees:
        (folder / KNEES_FILE).write_text(json.dumps({"rows": len(rows), "knees": list(knees)}))
    return Curve(folder / CURVE_FILE, tuple(rows))


def knee(axis: str, value: float | None, low: float | None, high: float | None, **changes: Any) -> dict[str, Any]:
    reason = "" if value is not None else "flat within its noise"
    return {
        "curve": "memorization", "seed": 0, "axis": axis, "value": value, "low": low, "high": high, "reason": reason,
    } | changes  # fmt: skip
