"""Scores and curves computed again from what was kept beside them: scores of examples, predictions, references."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from rank_lab.curve import Curve, CurveRow
from rank_lab.errors import CheckpointError, RankLabError
from rank_lab.evaluation.standard_error import standard_error
from rank_lab.score_row import ScoreRow
from rank_lab.scores import SCORES
from rank_lab.sora.predictions import PREDICTIONS_FILE, predictions_table
from rank_lab.sora.stage_row import SETS
from rank_lab.verification import Check, Difference, numbers_differ, stratified_sample

__all__ = ["verify_curve", "verify_scores"]

_MEASURES = dict(zip(SETS, ("memorization", "generalization"), strict=True))


def verify_scores(rows: Sequence[ScoreRow], *, sample: int = 8, seed: int = 0) -> list[Check]:
    r"""Means and standard errors, :math:`\bar x` and :math:`s / \sqrt n`, again from the scores of the examples.

    Parameters
    ----------
    rows
        Of a study.
    sample, seed
        Rows, spread over tasks and metrics; 0 for all.

    Returns
    -------
    list of Check
        One for each row of the sample; one whose examples were not kept, or whose value is no mean of theirs, cannot
        be computed again.

    Examples
    --------
    >>> verify_scores([ScoreRow("a", "lora", 1, "rte", "acc", 0.5, examples=(0, 1))])[0].result
    'holds'
    >>> verify_scores([ScoreRow("a", "lora", 1, "rte", "acc", 0.75, 0.5, examples=(0, 1))])[0].difference
    Difference(column='value', stored='0.75', found='0.5')
    """
    ordered = sorted(rows, key=lambda row: tuple(map(str, row.key)))
    chosen = stratified_sample([(row.task, row.metric) for row in ordered], sample, seed)
    return [_score(ordered[at]) for at in chosen]


def verify_curve(curve: Curve, *, sample: int = 8, seed: int = 0) -> list[Check]:
    """Scores of a curve again from the kept predictions, memorization and generalization from their references.

    Parameters
    ----------
    curve
        Of a study.
    sample, seed
        Stages and controls, spread over seeds and controls; 0 for all.

    Returns
    -------
    list of Check
        One for each of the sample.
    """
    chosen = stratified_sample([(row.seed, row.control) for row in curve.records], sample, seed)
    return [_stage(curve, curve.records[at]) for at in chosen]


def _score(row: ScoreRow) -> Check:
    place = ", ".join([row.task, row.metric, *([] if row.step is None else [f"step {row.step}"])])
    check = Check("scores", row.run, place, "holds")
    if not row.examples:
        return replace(check, result="not recomputable", reason="the scores of its examples were not kept")
    if not all(map(math.isfinite, row.examples)):
        return replace(check, result="not recomputable", reason="a score of an example is not finite")
    mean = math.fsum(row.examples) / len(row.examples)
    found: dict[str, Any] = {"value": mean, "n": len(row.examples)}
    stored: dict[str, Any] = {"value": row.value, "n": row.n if row.n is not None else len(row.examples)}
    spread = standard_error(row.examples)
    if row.stderr is not None and spread is not None:
        found, stored = found | {"stderr": spread}, stored | {"stderr": row.stderr}
    if numbers_differ(row.value, mean) and row.metric in _NO_MEANS:
        reason = f"{row.metric} is no mean over examples, and labels are not kept with scores"
        return replace(check, result="not recomputable", reason=reason)
    return _compared(check, stored, found)


_NO_MEANS = frozenset({"perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte"}) | {
    name for name, score in SCORES.items() if score.name != "accuracy"
}
"""Metrics whose value is made of the examples otherwise than as their mean."""


def _stage(curve: Curve, row: CurveRow) -> Check:
    place = f"{row.control}, stage {row.stage}"
    check = Check("curve", f"seed {row.seed}", place, "holds")
    stored: dict[str, Any] = {}
    found: dict[str, Any] = {}
    for name, measure in _MEASURES.items():
        score, reference = getattr(row, f"{name}_score"), getattr(row, f"{name}_reference")
        if score is not None and reference is not None:
            stored[measure] = getattr(row, measure)
            found[measure] = 100 * score / reference if reference > 0 else None
    reason = ""
    folder = curve.stage_folder(row.seed, row.stage, row.control)
    if not (folder / PREDICTIONS_FILE).is_file():
        reason = f"its predictions are not in {folder}"
    else:
        try:
            again = {name: _score_of(row, predictions_table(folder, name)) for name in SETS}
        except (CheckpointError, RankLabError) as error:
            return replace(check, result="input changed", reason=str(error))
        for name, (value, count) in again.items():
            stored |= {
                f"{name}_score": getattr(row, f"{name}_score"),
                f"{name}_examples": getattr(row, f"{name}_examples"),
            }
            found |= {f"{name}_score": value, f"{name}_examples": count}
    if not found:
        return replace(check, result="not recomputable", reason=reason or "it has no scores")
    compared = _compared(check, stored, found)
    if reason and compared.result == "holds":
        return replace(compared, result="input missing", reason=f"{reason}; its percentages fit its scores")
    return compared


def _score_of(row: CurveRow, table: pd.DataFrame) -> tuple[float | None, int]:
    if row.score not in SCORES:
        raise RankLabError(f"score {row.score!r} is not known here")
    value = SCORES[row.score].of(table["label"].to_numpy(), table["prediction"].to_numpy())
    return (value if math.isfinite(value) else None), len(table)


def _compared(check: Check, stored: Mapping[str, Any], found: Mapping[str, Any]) -> Check:
    for name, value in found.items():
        if numbers_differ(stored[name], value):
            return replace(check, result="differs", difference=Difference(name, _text(stored[name]), _text(value)))
    return check


def _text(value: Any) -> str:
    return "missing" if value is None else f"{value:.9g}"
