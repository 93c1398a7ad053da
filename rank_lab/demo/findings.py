"""What each step of the demonstration found, in a line, from the tables that the step has written."""

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from rank_lab.checkpoint_scores import CheckpointScores, scored_checkpoints
from rank_lab.curve import SORA, Curve
from rank_lab.curve_terminal import interval_text
from rank_lab.forgetting import BASE_METHOD, Change
from rank_lab.rank_summaries import rank_summaries
from rank_lab.score_table import ScoreTable
from rank_lab.subspace_report import SubspaceReport
from rank_lab.subspace_terminal import subspace_summary
from rank_lab.training.finetune import Finetuned

__all__ = [
    "MEASURE", "change_text", "ranks_found", "scores_found", "subspaces_found", "sweep_found", "training_found",
    "with_interval",
]  # fmt: skip

MEASURE = "cross_entropy_increase"
"""Of forgetting."""


def training_found(done: Finetuned) -> str:
    """How much was trained, and what that did to the loss on held-out code.

    Parameters
    ----------
    done
        A run that is complete.
    """
    first, last = done.losses[0], done.losses[-1]
    kept = "was trained before; " if done.was_complete else ""
    return (
        f"{kept}{done.record.trainable_parameters:,} of {done.record.parameters:,} parameters, {last.step} steps: loss"
        f" on held-out code {first.validation_loss:.3f} -> {last.validation_loss:.3f}"
    )


def ranks_found(updates: pd.DataFrame) -> str:
    """The rank of the last checkpoint's change beside what noise has, and what the rounding of the files hides.

    Parameters
    ----------
    updates
        Of one run's report.
    """
    summaries = rank_summaries(updates)
    last = summaries[summaries["step"] == summaries["step"].max()].to_dict("records")[0]
    matrices, told = int(last["matrices"]), int(last["energy_rank_90_matrices"])
    hidden = f"; of {matrices - told} rounding hides it" if told < matrices else ""
    return (
        f"k90 {last['energy_rank_90']:.1f}, of noise {last['null_energy_rank_90']:.1f} (means of {told} matrices, by"
        f" their share of the change, at step {int(last['step'])}){hidden}; size of the change"
        f" {last['relative_frobenius']:.1%} of the weights'"
    )


def scores_found(table: ScoreTable, run: str) -> str:
    """What the last checkpoint of a run learned and forgot.

    Parameters
    ----------
    table
        Scores of the run and of the base.
    run
        Its name.
    """
    rows = [row for row in table.rows if row.run == run or row.method == BASE_METHOD]
    checkpoints, _ = scored_checkpoints(rows)
    last = max(checkpoints, key=lambda each: each.step or 0)
    return f"learned {_of_target(last)}, forgot {change_text(last.forgetting.get(MEASURE))} nats a token"


def _of_target(each: CheckpointScores) -> str:
    return ", ".join(change_text(change) for change in each.learning.values()) or "nothing measured"


def change_text(change: Change | None) -> str:
    """A change with its interval.

    Examples
    --------
    >>> change_text(Change(0.5, 0.4, 0.6)), change_text(Change(0.5)), change_text(None)
    ('0.500 (0.400 to 0.600)', '0.500', 'not measured')
    """
    return "not measured" if change is None else with_interval(change.value, change.low, change.high)


def with_interval(value: Any, low: Any, high: Any) -> str:
    """A number with its ends, where there are any.

    Examples
    --------
    >>> with_interval(-0.0001, None, None), with_interval(float("nan"), None, None)
    ('0.000', 'not measured')
    """
    if pd.isna(value):
        return "not measured"
    return f"{value:z.3f}" if pd.isna(low) or pd.isna(high) else f"{value:z.3f} ({low:z.3f} to {high:z.3f})"


def sweep_found(curve: Curve) -> str:
    """What was left of gates, memorization and generalization after the last stage, and where the curves bend.

    Parameters
    ----------
    curve
        Of the sweep.
    """
    rows = curve.rows[curve.rows["control"] == SORA].to_dict("records")
    first, last = rows[0], rows[-1]
    return (
        f"{len(rows)} stages, threshold {first['threshold']:g} to {last['threshold']:.3g}: {first['nonzero_gates']} ->"
        f" {last['nonzero_gates']} gates, memorization {interval_text(last, 'memorization')} %, generalization"
        f" {interval_text(last, 'generalization')} % of stage 0's; {_knees(curve.knees)}"
    )


def subspaces_found(report: SubspaceReport) -> str:
    """How much of the leading directions two updates share, beside random ones.

    Parameters
    ----------
    report
        Of two runs.
    """
    about = subspace_summary(report)
    told = []
    for side in ("left", "right"):
        rows = [row for row in about["similarity"] if row["side"] == side]
        if rows:
            phi, null = (statistics.median(row[name] for row in rows) for name in ("phi", "null"))
            told.append(f"{side} {phi:.3f} (random {null:.3f})")
    runs = " and ".join(about[role]["run"] for role in ("first", "second"))
    matrices = about["coverage"].get("compared", 0)
    shared = ", ".join(told) or "nothing that can be told"
    return f"{runs} share of their leading directions {shared}: φ, medians of {matrices} matrices"


def _knees(knees: Iterable[Mapping[str, Any]]) -> str:
    found = [
        f"{knee['curve']} at {knee['value']:.3g} ({knee['low']:.3g} to {knee['high']:.3g})"
        for knee in knees
        if knee["axis"] == "threshold" and knee["value"] is not None
    ]
    return f"knee of {', of '.join(found)}" if found else "no knee that can be told"
