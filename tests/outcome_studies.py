"""Studies made up for tests: reports whose ranks are chosen, and scores with a base."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from rank_lab.report import RankReport
from rank_lab.schema import COVERAGE, RANKS, SPECTRA, UPDATES
from rank_lab.score_row import ScoreRow

MODULES = {"model.layers.0.q_proj": "q", "model.layers.0.up_proj": "up"}


def matrix(run: str, step: int | None, module: str, rank: float, **changes: Any) -> dict[str, Any]:
    """A row of ``updates``: every rank is the same number, and its null 50."""
    row: dict[str, Any] = dict.fromkeys(UPDATES.names)
    row |= {"run": run, "method": "full", "step": step, "delta": "cumulative", "module": module}
    row |= {"kind": MODULES.get(module, "other"), "frobenius_norm": 1.0, "relative_frobenius": 0.1}
    row |= {"change_share": 1 / len(MODULES), "noise_regime": "exact", "warning": ""}
    row |= dict.fromkeys(RANKS, rank) | dict.fromkeys((f"null_{name}" for name in RANKS), 50.0)
    return row | changes


def report(run: str, rows: Sequence[Mapping[str, Any]], training: Mapping[str, Any] | None = None) -> RankReport:
    provenance = {"tuned": [{"source": run}], "base": None, "settings": {"run": run}, "training": training}
    empty = (schema.empty_table().to_pandas() for schema in (SPECTRA, COVERAGE))
    return RankReport(pd.DataFrame(rows, columns=UPDATES.names), *empty, provenance)


def training(method: str, rate: float, seed: int, **choices: Any) -> dict[str, Any]:
    return {
        "method": method, "kind": "causal", "optimizer": "adamw_torch", "learning_rate": rate, "seed": seed,
        "choices": choices, "trainable_parameters": 100, "parameters": 1000, "steps": 20, "batch_size": 8,
    }  # fmt: skip


def scores(run: str, step: int | None, learned: float, forgot: float, *, method: str = "full") -> list[ScoreRow]:
    """Of base scores 0.7 on a source and 0.2 on a target: what was learned and what was forgotten."""
    return [
        ScoreRow(run, method, step, "winogrande", "acc", 0.7 - forgot, 0.01, 1000, "source", 0, 0.5),
        ScoreRow(run, method, step, "gsm8k", "exact_match", 0.2 + learned, 0.01, 1000, "target", 5, 0.0),
    ]


BASE = scores("base", 0, 0.0, 0.0, method="base")
