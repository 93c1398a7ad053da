"""The last words of the demonstration: what its runs show and what they do not, from the tables of its study."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from rank_lab.curve import SORA, Curve
from rank_lab.curve_terminal import interval_text
from rank_lab.demo.demo_plan import DemoPlan, DemoRun
from rank_lab.demo.findings import MEASURE, with_interval
from rank_lab.outcomes import Outcomes

__all__ = ["Summary", "summary_of"]

_Row = Mapping[Any, Any]


@dataclass(frozen=True)
class Summary:
    """Sentences.

    Parameters
    ----------
    shown
        By these runs, with their numbers.
    not_shown
        What must not be concluded from them, and why.
    """

    shown: tuple[str, ...]
    not_shown: tuple[str, ...]

    def text(self) -> str:
        """Both, as lists."""
        shown = "\n".join(f"- {line}" for line in self.shown)
        return (
            "What these runs show. Learned: loss on held-out code that went; forgot: loss on held-out prose that\n"
            f"came; nats a token, with 95 % intervals over texts where there are any.\n{shown}\n\n"
            "What they do not show.\n" + "\n".join(f"- {line}" for line in self.not_shown)
        )


def summary_of(found: Outcomes, curve: Curve, plan: DemoPlan) -> Summary:
    """What can be said of a demo.

    Parameters
    ----------
    found
        Of its study.
    curve
        Of its sweep.
    plan
        Of the demo.
    """
    last = _last(found, plan)
    shown = (*_methods(last, plan), *_ranks(found, plan), *_rates(last, plan), *_equal(found, plan), _sweep(curve))
    return Summary(shown, (*_of_seeds(plan), *_of_rates(found), *_of_ranks(found), *_of_size(found, plan, curve)))


def _last(found: Outcomes, plan: DemoPlan) -> dict[str, _Row]:
    """Run to its learning and forgetting at the last step."""
    points = found.trade_offs.points
    rows = points[(points["measure"] == MEASURE) & (points["step"] == plan.steps)]
    return {row["run"]: row for row in rows.to_dict("records")}


def _pairs(plan: DemoPlan) -> list[tuple[DemoRun, DemoRun]]:
    """Of each method, the run of the lower rate and that of the higher."""
    return list(zip(plan.runs[::2], plan.runs[1::2], strict=True))


def _methods(last: dict[str, _Row], plan: DemoPlan) -> list[str]:
    lines = []
    for lower, higher in _pairs(plan):
        first, second = last[lower.name], last[higher.name]
        lines.append(
            f"{_start(lower.title)} at the lower rate ({lower.learning_rate:g}) learned {_value(first, 'learning')} and"
            f" forgot {_value(first, 'forgetting')}; at the higher ({higher.learning_rate:g}) it learned"
            f" {_value(second, 'learning')} and forgot {_value(second, 'forgetting')}."
        )
    nothing = [name for name, row in last.items() if not row["learning_low"] > 0]
    if nothing:
        lines.append(f"It is not shown that {_listed(nothing)} learned anything: the intervals hold 0.")
    return lines


def _value(row: _Row, name: str) -> str:
    return with_interval(row[name], row[f"{name}_low"], row[f"{name}_high"])


def _ranks(found: Outcomes, plan: DemoPlan) -> list[str]:
    table = found.checkpoints[found.checkpoints["step"] == plan.steps]
    rows = {row["run"]: row for row in table.to_dict("records")}
    told = [
        f"{run.name} {rows[run.name]['energy_rank_90']:.1f} ({rows[run.name]['null_energy_rank_90']:.1f})"
        for run in plan.runs
        if run.name in rows and pd.notna(rows[run.name]["energy_rank_90"])
    ]
    if not told:
        return []
    return [
        (
            f"Directions that hold 90 % of the change, and in brackets what noise has: {', '.join(told)}. Means over"
            " matrices by their share of the change; the noise is white for full fine-tuning and a product of random"
            " factors for adapters, which bound the rank themselves."
        )
    ]


def _rates(last: dict[str, _Row], plan: DemoPlan) -> list[str]:
    """How far rates and methods part, side by side: which is larger is for the numbers to say."""
    pairs = _pairs(plan)
    forgot = {name: row["forgetting"] for name, row in last.items()}
    within = [(abs(forgot[high.name] - forgot[low.name]), low.title) for low, high in pairs]
    best = [max(pair, key=lambda run: last[run.name]["learning"]).name for pair in pairs]
    between = max(forgot[name] for name in best) - min(forgot[name] for name in best)
    largest, title = max(within)
    return [
        (
            f"The choice of rate moves forgetting by up to {largest:.3f} ({title}), the choice of method by"
            f" {between:.3f}, each at that of its two rates with which it learned most ({_listed(best)})."
        )
    ]


def _equal(found: Outcomes, plan: DemoPlan) -> list[str]:
    table = found.trade_offs.equal_learning
    table = table[table["measure"] == MEASURE]
    if table.empty:
        return ["No run learned anything, so that there is no level of learning at which to compare forgetting."]
    level = table["at_learning"].max()
    rows = {
        (row["method"], row["learning_rate"]): row for row in table[table["at_learning"] == level].to_dict("records")
    }
    told, missed = [], []
    for run in plan.runs:
        row = rows[run.method, run.learning_rate]
        if pd.isna(row["forgetting"]):
            missed.append(run.name)
        else:
            told.append((row["forgetting"], f"{run.name} {row['forgetting']:z.3f}"))
    forgot = ", ".join(text for _, text in sorted(told))
    below = f"; {_listed(missed)} did not come so far" if missed else ""
    return [f"Where {level:.3f} was learned, read off the curves: forgot {forgot}{below}."]


def _sweep(curve: Curve) -> str:
    rows = curve.rows[curve.rows["control"] == SORA].to_dict("records")
    last = rows[-1]
    return (
        f"With the threshold up to {last['threshold']:.3g}, {last['nonzero_gates']} of {last['gates']} gates were left,"
        f" memorization {interval_text(last, 'memorization')} % and generalization"
        f" {interval_text(last, 'generalization')} % of stage 0's ({last['train_examples']} blocks of learned code,"
        f" {last['validation_examples']} of held-out code; intervals over blocks)."
    )


def _of_seeds(plan: DemoPlan) -> list[str]:
    return [
        (
            "How much of this is chance of the training: one seed each. Intervals are over the"
            f" {plan.pieces} texts of either kind, not over seeds; other seeds may differ by more."
        ),
    ]


def _of_rates(found: Outcomes) -> list[str]:
    groups = found.trade_offs.groups
    best = groups[(groups["measure"] == MEASURE) & groups["best_learning_rate"] & (groups["note"] != "")]
    methods = list(dict.fromkeys(best["method"]))
    if not methods:
        return []
    return [
        (
            f"Which method is better: two rates each, and the better of {_listed(methods)} is the largest or smallest"
            " that was tried, so that a better one may lie beyond. It was chosen on the texts that it is shown on."
        )
    ]


def _of_ranks(found: Outcomes) -> list[str]:
    """Why there is no correlation, in the words of the table that has none."""
    table = found.associations
    table = table[(table["measure"] == MEASURE) & (table["level"] == "model")]
    if table.empty or table["correlation"].notna().any():
        return []
    return [f"Whether rank goes with forgetting: {table['reason'].iloc[0]}."]


def _of_size(found: Outcomes, plan: DemoPlan, curve: Curve) -> list[str]:
    parameters = int(found.checkpoints["parameters"].dropna().min())
    unconverged = int((curve.rows["converged"] == False).sum())  # noqa: E712  None where nothing was trained
    lines = [
        (
            f"Anything of large models: this one has {parameters:,} parameters and was trained for {plan.steps} steps"
            " on the source of the standard library."
        )
    ]
    if unconverged:
        lines.append(
            f"Where stages of the sweep come to rest: {unconverged} ended with their number of steps, before that was"
            " seen; a stage that learned on may score above stage 0."
        )
    return lines


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _start(title: str) -> str:
    return title[:1].upper() + title[1:]
