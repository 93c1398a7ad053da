"""Words and tables of :mod:`analyses.learning_vs_forgetting`, from the tables of its study."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from analyses.machine import table
from analyses.trade_off_arms import arms
from rank_lab.outcomes import Outcomes

__all__ = ["MEASURE", "arm_of", "report", "titles"]

MEASURE = "cross_entropy_increase"


def arm_of(run: str) -> str:
    """The arm that a run is of."""
    return run.partition("_lr")[0]


def titles() -> dict[str, str]:
    """Arm to what figures call it."""
    return {arm.name: arm.title for arm in arms(1)}


def report(found: Outcomes, about: dict[str, Any]) -> str:
    """The page that is kept.

    Parameters
    ----------
    found
        Of the study.
    about
        Steps, seeds, seconds, machine and so on.
    """
    parts = [
        "# Learning and forgetting, and the rank of the change",
        _setting(about),
        "![Forgetting over learning and rank over learning, a line a run](trade_off.png)",
        _CAPTION,
        "## At the last step",
        _last(found),
        "## Forgetting at equal learning",
        "Read off each run's curve, never beyond what it reached.",
        _equal(found),
        "## What can be said",
        "\n".join(f"- {line}" for line in _said(found)),
        "## Rank and forgetting over runs",
        _correlations(found),
        _made(about),
    ]
    return "\n\n".join(parts) + "\n"


_CAPTION = (
    "*Left: forgetting over learning. Right: k90 over learning. A line is a run from its first checkpoint to its last;"
    " dotted, solid, dashed: lowest, middle, highest learning rate.*"
)


def _setting(about: dict[str, Any]) -> str:
    return (
        f"Base: {about['base']}, tuned on Python code (held-out code is learned, held-out prose forgotten), AdamW,"
        f" constant rate after a warm-up, {about['steps']} steps of {about['batch']} x {about['context']} tokens, seeds"
        f" {', '.join(map(str, about['seeds']))}. Losses in nats a token. Every line is a method at a learning rate,"
        " mean over seeds with Student's 95 % interval; the best rate of a method is chosen by what it learned, not by"
        " what it forgot."
    )


def _made(about: dict[str, Any]) -> str:
    machine = about["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"Texts {about['texts'][:12]} (they depend on the version of Python). It took {about['seconds']:.0f} s on"
        f" {about['device']}. {machine['processor']}, {machine['cores']} cores, load {machine['load_average']},"
        f" {machine['date']}, Python {machine['python']}, {versions}. Made by `python -m"
        " analyses.learning_vs_forgetting`; all tables lie beside this page."
    )


def _last(found: Outcomes) -> str:
    groups = found.trade_offs.groups
    groups = groups[(groups["measure"] == MEASURE) & (groups["step"] == groups["step"].max())]
    by_run = found.checkpoints[found.checkpoints["step"] == found.checkpoints["step"].max()]
    rows = []
    for arm, title in titles().items():
        for rate in sorted({row["learning_rate"] for row in _of_arm(by_run, arm)}):
            own = [row for row in _of_arm(by_run, arm) if row["learning_rate"] == rate]
            group = groups[(groups["setting"] == own[0]["setting"]) & (groups["learning_rate"] == rate)
                           & (groups["method"] == own[0]["method"])].iloc[0]  # fmt: skip
            rows.append(
                (
                    title,
                    f"{rate:g}" + (" (best)" if group["best_learning_rate"] else ""),
                    f"{own[0]['trainable_parameters']:,}",
                    _interval(group["learning"], group["learning_low"], group["learning_high"]),
                    _interval(group["forgetting"], group["forgetting_low"], group["forgetting_high"]),
                    _mean(own, "kl_source"),
                    f"{_mean(own, 'energy_rank_90', '{:.1f}')} ({_mean(own, 'null_energy_rank_90', '{:.1f}')})",
                    _mean(own, "effective_rank", "{:.1f}"),
                    _mean(own, "relative_frobenius"),
                )
            )
    headings = ("method", "learning rate", "trained parameters", "learned", "forgotten", "KL on prose",
                "k90 (its null)", "effective rank", "size of the change, of the weights'")  # fmt: skip
    return table(headings, rows)


def _of_arm(rows: pd.DataFrame, arm: str) -> list[dict[Any, Any]]:
    return [row for row in rows.to_dict("records") if arm_of(row["run"]) == arm]


def _mean(rows: Sequence[dict[Any, Any]], name: str, form: str = "{:.3f}") -> str:
    values = [row[name] for row in rows]
    return "-" if any(pd.isna(value) for value in values) else form.format(sum(values) / len(values))


def _interval(value: Any, low: Any, high: Any) -> str:
    if pd.isna(value):
        return "-"
    return f"{value:.3f}" if pd.isna(low) else f"{value:.3f} ({low:.3f} to {high:.3f})"


def _equal_rows(found: Outcomes) -> pd.DataFrame:
    equal = found.trade_offs.equal_learning
    equal = equal[equal["measure"] == MEASURE].copy()
    names = {(row["setting"], row["method"]): arm_of(row["run"]) for row in found.checkpoints.to_dict("records")}
    equal["arm"] = [names[key] for key in zip(equal["setting"], equal["method"], strict=True)]
    return equal


def _equal(found: Outcomes) -> str:
    rows = [
        (
            f"{row['at_learning']:.3f}",
            titles()[row["arm"]],
            f"{row['learning_rate']:g}",
            _interval(row["forgetting"], row["low"], row["high"]),
            row["reason"] or "",
        )
        for row in _equal_rows(found).to_dict("records")
    ]
    return table(("learned", "method", "learning rate", "forgotten", "remark"), rows)


def _said(found: Outcomes) -> list[str]:
    """Per level of learning, each arm at the rate with which it learned most; claims only where intervals part."""
    said = []
    groups = found.trade_offs.groups
    groups = groups[(groups["measure"] == MEASURE) & groups["best_learning_rate"]]
    chosen = {(row["method"], row["setting"], row["learning_rate"]) for row in groups.to_dict("records")}
    for level, rows in _equal_rows(found).groupby("at_learning"):
        keys = zip(rows["method"], rows["setting"], rows["learning_rate"], strict=True)
        best = rows[pd.Series([key in chosen for key in keys], rows.index) & rows["low"].notna()]
        missing = [title for arm, title in titles().items() if arm in set(rows["arm"]) - set(best["arm"])]
        if missing and len(best):
            why = "not all runs at its best rate reach it, or there is one seed only"
            said.append(f"At {level:.3f} learned: nothing of {', '.join(missing)} ({why}).")
        ordered = best.sort_values("forgetting").to_dict("records")
        for index, first in enumerate(ordered):
            for second in ordered[index + 1 :]:
                apart = first["high"] < second["low"]
                said.append(
                    f"At {level:.3f} learned, {titles()[first['arm']]} (rate {first['learning_rate']:g}) "
                    + ("forgot less than" if apart else "and")
                    + f" {titles()[second['arm']]} (rate {second['learning_rate']:g})"
                    + (": the intervals over seeds do not meet." if apart else " cannot be told apart by these seeds.")
                )
    if any("forgot less" in line for line in said):
        said.append("Intervals are not widened for the number of pairs that are compared.")
    return said or ["Nothing: with one seed there is no interval, or no level of learning that all methods reach."]


def _correlations(found: Outcomes) -> str:
    rows = found.associations
    rows = rows[(rows["measure"] == MEASURE) & rows["level"].isin(["model", "kind"])]
    told = [
        (
            row["methods"],
            row["item"],
            str(row["runs"]),
            _interval(row["correlation"], row["low"], row["high"]),
            "-" if pd.isna(row["p_bh"]) else f"{row['p_bh']:.3g}",
            _interval(row["partial"], row["partial_low"], row["partial_high"]),
            row["reason"] or row["partial_reason"] or "",
        )
        for row in rows.to_dict("records")
    ]
    headings = ("methods", "of", "runs", "Spearman of k90 and forgetting", "p (Benjamini-Hochberg)",
                "given what was learned", "remark")  # fmt: skip
    return table(headings, told) if told else "None: no run has both ranks and scores."
