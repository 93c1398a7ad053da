"""Runs of Algorithm 1 with known curves and gates, as the studies' tables have them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

MODULES = tuple(
    f"bert.encoder.layer.{layer}.{name}"
    for layer in range(6)
    for name in ("attention.self.query", "attention.self.value", "output.dense")
)
RANK = 8
STAGES = 6
EACH = 1000  # parameters of a gate


@dataclass(frozen=True)
class Planted:
    """A task's curves: both scores over the share of gates that are gone.

    Parameters
    ----------
    train_half, validation_half
        Share gone at which half of what there is to lose is lost.
    gain
        What the dense stage scores above the emptiest, and above one answer for all.
    over_controls
        What SoRA's stages between score above the controls.
    preferred
        Weight of each module when gates are shut: the heavier, the longer they stay open.
    """

    train_half: float = 0.5
    validation_half: float = 0.5
    gain: float = 0.3
    over_controls: float = 0.0
    preferred: Sequence[float] = (1.0,) * len(MODULES)


def tables(tasks: Mapping[str, Planted], seeds: Sequence[int] = (0, 1, 2), noise: float = 0.004) -> dict[str, Any]:
    """``points``, ``gates`` and ``knees`` of all tasks and seeds."""
    points, gates = [], []
    for number, (task, planted) in enumerate(tasks.items()):
        for seed in seeds:
            generator = np.random.default_rng([number, seed])
            for stage in range(STAGES):
                for control in ("sora", "svd") if stage else ("sora",):
                    counts = open_gates(planted, stage, generator)
                    gates.append({"task": task, "seed": seed, "control": control, "stage": stage} | counts)
                    points.append(point(task, seed, control, stage, planted, sum(counts.values()), generator, noise))
    frame = pd.DataFrame(points)
    return {"points": frame, "gates": pd.DataFrame(gates), "knees": knees(frame)}


def open_gates(planted: Planted, stage: int, generator: np.random.Generator) -> dict[str, int]:
    """As many as the stage has, those of preferred modules more likely."""
    total = round(len(MODULES) * RANK * (1 - stage / (STAGES - 1)))
    weights = np.repeat(np.array(planted.preferred, float), RANK)
    kept = generator.choice(len(weights), total, replace=False, p=weights / weights.sum())
    counts = np.bincount(kept // RANK, minlength=len(MODULES))
    return {module: int(count) for module, count in zip(MODULES, counts, strict=True)}


def point(
    task: str, seed: int, control: str, stage: int, planted: Planted, count: int, generator: np.random.Generator,
    noise: float,
) -> dict[str, Any]:  # fmt: skip
    """A row of a curve that falls evenly over 0.2 around its halfway place."""
    gone = stage / (STAGES - 1)
    less = planted.over_controls if control != "sora" and 0 < gone < 1 else 0.0
    row: dict[str, Any] = {"model": "m", "task": task, "seed": seed, "control": control, "stage": stage,
                           "threshold": float(stage) if control == "sora" else None,
                           "steps": 30, "stop": "max_steps", "converged": False if control == "sora" else None,
                           "gates": len(MODULES) * RANK, "nonzero_gates": count, "nonzero_parameters": count * EACH,
                           "score": "accuracy", "reference": "stage_0", "warning": ""}  # fmt: skip
    for part, name, half in (
        ("train", "memorization", planted.train_half), ("validation", "generalization", planted.validation_half),
    ):  # fmt: skip
        kept = float(np.clip(0.5 - (gone - half) / 0.4, 0, 1))
        score = 0.5 + planted.gain * kept - less + noise * generator.standard_normal()
        per_cent = 100 * score / (0.5 + planted.gain)
        row |= {f"{part}_score": score, f"{part}_chance": 0.5, f"{part}_examples": 300, name: per_cent,
                f"{name}_low": per_cent - 1, f"{name}_high": per_cent + 1}  # fmt: skip
    return row


def knees(points: pd.DataFrame) -> pd.DataFrame:
    """A knee for each task, curve, axis and seed, and over seeds."""
    rows = [
        {"task": task, "curve": curve, "axis": axis, "seed": seed, "value": value, "low": None, "high": None,
         "shape": "plateau", "reason": "", "p_value": 0.01, "points": STAGES}
        for task in points["task"].unique() for curve in ("memorization", "generalization")
        for axis, value in (("sparsity", 0.4), ("threshold", 2.0)) for seed in (*points["seed"].unique(), None)
    ]  # fmt: skip
    return pd.DataFrame(rows)
