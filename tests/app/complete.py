"""A study with everything in it: runs with steps, scores and an Algorithm-1 run, all made up."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from rank_lab.curve import CURVE_FILE, SCHEDULE_FILE, CurveRow
from rank_lab.report import RankReport
from rank_lab.schema import COVERAGE, SPECTRA, UPDATES
from rank_lab.score_table import SCORES_FILE, ScoreTable
from tests.curve_rows import knee, row
from tests.figure_studies import row as matrix
from tests.figure_studies import tensor
from tests.outcome_studies import BASE, scores, training

STEPS = (10, 20)
SPECTRUM = {"full": (4.0, 2.0, 1.0, 0.5), "lora": (3.0, 1.0)}
SHAPES = {"q": (6, 4), "up": (10, 4)}


def rows(run: str, *, grown: Sequence[int] = STEPS) -> list[tuple[dict[str, Any], list[float]]]:
    """Two layers with two kinds; singular values grow with the step and halve with the layer; up is partly rounding."""
    found = []
    for step in grown:
        for layer in (0, 1):
            for kind, shape in SHAPES.items():
                values = [value * step / 10 / (layer + 1) for value in SPECTRUM[run]]
                known = values + [0.0] * (4 - len(values))
                changes: dict[str, Any] = {"relative_frobenius": values[0] / 100, "update_kind": "dense"}
                if kind == "up":
                    changes |= {"noise_regime": "partial", "rank_above_rounding": 1.0}
                found.append((matrix(known, run=run, step=step, layer=layer, kind=kind, shape=shape, **changes), known))
    return found


def report(run: str, *, grown: Sequence[int] = STEPS, source: str = "/nowhere") -> RankReport:
    """Of one run, which was trained at a rate from a seed."""
    made = rows(run, grown=grown)
    keys = ("run", "step", "delta", "module")
    spectra = [{key: one[key] for key in keys} | {"values": values} for one, values in made]
    coverage = [tensor(run, one["step"], f"{one['module']}.weight", "analysed") for one, _ in made]
    tuned = [{"source": f"{source}/{run}/checkpoint-{step}", "step": step, "files": []} for step in grown]
    provenance = {
        "tuned": tuned, "base": {"source": f"{source}/base"}, "settings": {"run": run},
        "training": training(run, 1e-4, 0),
    }  # fmt: skip
    frames = (
        pd.DataFrame([one for one, _ in made], columns=UPDATES.names), pd.DataFrame(spectra, columns=SPECTRA.names),
        pd.DataFrame(coverage, columns=COVERAGE.names),
    )  # fmt: skip
    return RankReport(*frames, provenance)


def line(stage: CurveRow) -> str:
    return json.dumps(asdict(stage)) + "\n"


def schedule(
    folder: Path, *, thresholds: Sequence[float] = (0.0, 0.5, 1.0), controls: Sequence[str] = ("svd",)
) -> None:
    """What was meant to be run."""
    plan = {"thresholds": thresholds, "target_ranks": [], "target_parameters": [], "controls": controls, "seeds": [0]}
    (folder / SCHEDULE_FILE).write_text(json.dumps({"schedule": plan}))


def curve(folder: Path, stages: Sequence[CurveRow]) -> None:
    (folder / CURVE_FILE).write_text("".join(map(line, stages)))


def complete(folder: Path) -> Path:
    """Two runs at two steps, their scores, and a schedule with a control and knees."""
    folder.mkdir(parents=True, exist_ok=True)
    for run in SPECTRUM:
        report(run).save(folder / f"{run}.rank")
    found = [*BASE]
    for number, run in enumerate(SPECTRUM, 1):
        for step in STEPS:
            found += scores(run, step, 0.01 * step / number, 0.002 * step / number, method=run)
    ScoreTable.of(found).save(folder / SCORES_FILE)
    stages = [row(0), row(1), row(2), row(1, control="svd", threshold=None), row(2, control="svd", threshold=None)]
    curve(folder, stages)
    knees = [knee("sparsity", 0.5, 0.25, 0.75), knee("threshold", 0.5, 0.25, 0.75)]
    (folder / "knees.json").write_text(json.dumps({"rows": len(stages), "knees": knees}))
    schedule(folder)
    return folder
