"""The tables that :mod:`analyses.parameter_efficiency` keeps, from the rows of its cells and the runs' records."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analyses.efficiency_arms import Arm
from analyses.efficiency_numbers import (
    MARGIN,
    Estimate,
    Values,
    averaged,
    chosen_rates,
    compared,
    estimated,
    verdict,
)
from analyses.efficiency_runs import halves
from rank_lab.fairness import fairness
from rank_lab.glue import GLUE
from rank_lab.scores import SCORES, Score
from rank_lab.training_record import TrainingRecord
from rank_lab.uncertainty import bootstrap_draws, percentile_interval

__all__ = ["AVERAGE", "PAIRS", "differences_of", "effort_of", "fairness_of", "runs_of", "scores_of"]

AVERAGE = "average"
PAIRS = (
    ("sora-r8", "lora-r8"), ("sora-r4", "lora-r4"), ("sora-r2", "lora-r2"), ("sora-r16", "lora-r16"),
    ("sora-fixed-r8", "lora-r8"), ("lora-r4", "lora-r8"), ("lora-r2", "lora-r8"), ("sora-r8", "adalora-r6"),
    ("adalora-r6", "lora-r8"), ("bitfit", "lora-r8"), ("series-b16", "lora-r8"), ("lora-r8", "full"),
)  # fmt: skip
"""What is compared, the first of the claim."""

_OF_EXAMPLES = ["predictions", "labels"]


def runs_of(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a run, without its predictions.

    Parameters
    ----------
    rows
        Of all cells.
    """
    return rows.drop(columns=_OF_EXAMPLES)


def scores_of(rows: pd.DataFrame, arms: Sequence[Arm]) -> pd.DataFrame:
    """Parameters and score of each arm on each task, and on average where there are several.

    Parameters
    ----------
    rows
        Of all cells.
    arms
        Of the study.
    """
    found = []
    tasks = list(rows["task"].unique())
    for arm in arms:
        parts = {task: _reported(rows, task, arm.name) for task in tasks}
        estimates = {task: estimated(*_known(part), _predictions(part)) for task, part in parts.items()}
        for task, estimate in _with_average(estimates):
            part = pd.concat(list(parts.values())) if task == AVERAGE else parts[task]
            one_answer = np.nan if task == AVERAGE else _one_answer(part)
            row = {"task": task, "arm": arm.name} | _sizes(part) | _told(estimate)
            found.append(row | {"seeds": int(part["seed"].nunique()), "one_answer": one_answer})
    return pd.DataFrame(found).astype({"published_count": "Int64"})


def _one_answer(part: pd.DataFrame) -> float:
    """The best score of one answer for all examples: what has learned nothing of them reaches it."""
    score, labels = _known(part)
    return np.nan if score.constant is None else 100 * score.constant(labels)


def _sizes(part: pd.DataFrame) -> dict[str, Any]:
    """Whole numbers, which are kept to the last digit; what closes differs from seed to seed by a gate or two."""
    counts = {name: round(float(part[name].mean())) for name in ("trained", "nonzero", "head", "base")}
    published = part["published_count"].astype(float).mean()
    whole = None if np.isnan(published) else round(published)
    return counts | {"published_count": whole, "share_of_full": counts["nonzero"] / counts["base"]}


def differences_of(rows: pd.DataFrame, arms: Sequence[Arm]) -> pd.DataFrame:
    """Of each pair, by how many points the first scores higher, and whether it is worse.

    Parameters
    ----------
    rows
        Of all cells.
    arms
        Of the study; pairs of others are left out.
    """
    names, found = {arm.name for arm in arms}, []
    for first, second in PAIRS:
        if not {first, second} <= names:
            continue
        estimates: dict[str, Estimate] = {}
        parameters: dict[str, float] = {}
        for task in rows["task"].unique():
            one, other = _reported(rows, task, first), _reported(rows, task, second)
            estimates[task] = compared(*_known(one), _predictions(one), _predictions(other))
            parameters[task] = one["nonzero"].mean() / other["nonzero"].mean()
        for task, estimate in _with_average(estimates):
            share = float(np.mean(list(parameters.values()))) if task == AVERAGE else parameters[task]
            found.append(
                {"task": task, "first": first, "second": second, "parameters": share}
                | _told(estimate)
                | {"margin": MARGIN, "verdict": verdict(*estimate.interval())}
            )
    return pd.DataFrame(found)


def effort_of(rows: pd.DataFrame, arms: Sequence[Arm]) -> pd.DataFrame:
    """What choosing a rate changed: the score that is reported at the chosen rate, and at the registry's, first seed.

    Parameters
    ----------
    rows
        Of all cells.
    arms
        Of the study.
    """
    every = rows[rows["stage"] == "choice"]
    chosen = chosen_rates(every).set_index(["task", "arm"])["learning_rate"]
    tried = every[every["seed"] == every["seed"].min()]
    return pd.DataFrame(
        [
            _effort(tried, str(task), arm, float(chosen[task, arm.name]))
            for task in rows["task"].unique()
            for arm in arms
        ]
    )


def _effort(tried: pd.DataFrame, task: str, arm: Arm, rate: float) -> dict[str, Any]:
    own = tried[(tried["task"] == task) & (tried["arm"] == arm.name)].set_index("learning_rate")
    row = {
        "task": task, "arm": arm.name, "rates_tried": len(own), "chosen_rate": rate, "default_rate": arm.default_rate,
        "at_edge": rate in (min(own.index), max(own.index)), "chosen_score": 100 * own["report_score"][rate],
    }  # fmt: skip
    if arm.default_rate not in own.index:
        return row | dict.fromkeys(("default_score", "gain", "gain_low", "gain_high"))
    score, labels = _known(own)
    best, default = (_predictions(own.loc[[each]])[0] for each in (rate, arm.default_rate))
    gain = 100 * (score.of(labels, best) - score.of(labels, default))
    low, high = 0.0, 0.0
    if rate != arm.default_rate:
        interval = percentile_interval(gain, 100 * (bootstrap_draws(score, labels, best)
                                                    - bootstrap_draws(score, labels, default)))  # fmt: skip
        low, high = (np.nan if end is None else end for end in (interval.low, interval.high))
    shown = 100 * score.of(labels, default)
    return row | {"default_score": shown, "gain": gain, "gain_low": low, "gain_high": high}


def fairness_of(records: Mapping[tuple[str, str], Sequence[TrainingRecord]], rates: pd.DataFrame) -> pd.DataFrame:
    """What rank_lab's own rules of fair comparison find in these runs, task by task.

    Parameters
    ----------
    records
        Of all runs, by task and arm.
    rates
        Of :func:`chosen_rates`.
    """
    chosen = rates.set_index(["task", "arm"])["learning_rate"]
    found: list[dict[str, str]] = []
    for task in dict.fromkeys(task for task, _ in records):
        every = [record for (of, _), runs in records.items() if of == task for record in runs]
        found += [{"task": task, "arm": ""} | dataclasses.asdict(finding) for finding in fairness(every)]
        for (of, arm), runs in records.items():
            if of == task:
                best = {runs[0].method: float(chosen[task, arm])}
                edges = [each for each in fairness(runs, best_rates=best) if each.rule == "best at the edge"]
                found += [{"task": task, "arm": arm} | dataclasses.asdict(edge) for edge in edges]
    return pd.DataFrame(found, columns=["task", "arm", "rule", "text", "source"])


def _reported(rows: pd.DataFrame, task: Any, arm: str) -> pd.DataFrame:
    """The runs that are reported on, in the order of their seeds."""
    own = (rows["task"] == task) & (rows["arm"] == arm) & (rows["stage"] == "report")
    part: pd.DataFrame = rows.loc[own].sort_values("seed")
    return part


def _known(part: pd.DataFrame) -> tuple[Score, Values]:
    """The task's score, and the labels that the choice has not seen."""
    labels = np.asarray(part["labels"].iloc[0], np.float64)
    return SCORES[GLUE[str(part["task"].iloc[0])].score], labels[halves(len(labels))[1]]


def _predictions(part: pd.DataFrame) -> list[Values]:
    every = [np.asarray(values, np.float64) for values in part["predictions"]]
    return [values[halves(len(values))[1]] for values in every]


def _with_average(estimates: Mapping[str, Estimate]) -> Iterator[tuple[str, Estimate]]:
    yield from estimates.items()
    if len(estimates) > 1:
        yield AVERAGE, averaged(list(estimates.values()))


def _told(estimate: Estimate) -> dict[str, float]:
    low, high = estimate.interval()
    return {
        "value": estimate.value, "low": low, "high": high, "example_error": estimate.example_variance**0.5,
        "seed_error": estimate.seed_variance**0.5,
    }  # fmt: skip
