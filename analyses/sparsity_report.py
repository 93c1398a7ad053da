"""The page of the study of sparsity curves, and its pictures, from the kept tables alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from analyses.kept_results import Kept, kept, told_origin, write_picture
from analyses.machine import table
from analyses.sparsity_claims import (
    CURVES,
    THIRDS,
    against_controls,
    depth_thirds,
    falls,
    halfway_points,
    learned,
    over_seeds,
    tasks_differ,
)
from rank_lab.curve import SORA
from rank_lab.curve_points import CurveAxis, CurvePoints, points_of_rows
from rank_lab.figures.curves_by_task import curves_by_task

__all__ = ["curves_of", "missing", "page", "tell"]

_APART = 0.05 / 4  # both curves over both axes are asked
_CEILING = 105.0  # per cent of the dense stage
_TOGETHER = 0.1  # of the parameters: how near two halfway points are for both curves to fall together
_CONTROLS = {
    "as_shipped": "the published loop (learning rate 0)",
    "one_shot": "one-shot pruning by size",
    "one_shot_importance": "one-shot pruning by importance",
    "svd": "truncated SVD",
}

_ON_LEARNED = (
    "Scores of the dense stage against one answer for all examples, and against the emptiest stage, whose head is still"
    " trained: what lies above that is what the adapter gives. Means over seeds; in brackets Student's 95 % interval."
    " Where an interval covers 0, a curve compares chance with chance, or the head with itself, and the claims leave it"
    " out."
)
_ON_TURNING = (
    "The knee is where a curve begins to fall (mean over seeds; none where fewer than three quarters of the seeds have"
    " one). Halfway is where half of what lies between the dense and the emptiest stage is lost; it exists for every"
    " curve that falls."
)
_ON_FALLING = (
    "Later: the share of parameters gone at the halfway point of generalization less that of memorization. Spearman's"
    " correlation of both scores over a run's stages is told for completeness: any two falling curves have a high one."
)
_ON_DEPTH = (
    "Open gates a module in each third of the layers, at the stage of each task at which nearest to half of all gates"
    " are open."
)
_ON_CONTROLS = (
    "Points of score x 100 that SoRA's stages lie above the control, mean over the stages that are neither dense nor"
    " empty; a control's curve is read at the stage's number of parameters. Controls keep the head of the dense stage"
    " and are not trained: SoRA's stages have had more steps than the dense stage that controls start from."
)

_STARTS = {"normal": "random numbers of N(0, 1), as the published code has it", "ones": "one"}
_PICTURES: tuple[tuple[str, CurveAxis, str | None], ...] = (
    ("curves", "nonzero_parameters", None),
    ("thresholds", "threshold", None),
    ("controls", "nonzero_parameters", "generalization"),
)
_SCALE = 1.3


def tell(folder: Path, pictures: bool) -> None:
    """Write ``README.md`` and the pictures.

    Parameters
    ----------
    folder
        Of the results.
    pictures
        Whether they are wanted.
    """
    found = kept(folder)
    (folder / "README.md").write_text(page(found), encoding="utf-8")
    if not pictures:
        return
    remarks = {
        task: "not testable"
        for task, curves in _testable(learned(found.tables["points"])).items()
        if not curves["generalization"]
    }
    for name, axis, quantity in _PICTURES:
        figure = curves_by_task(curves_of(found, axis), "light", quantity=quantity, remarks=remarks)
        write_picture(figure.plot, folder, name, scale=_SCALE)


def curves_of(found: Kept, axis: CurveAxis) -> list[CurvePoints]:
    """Each task's curve, of all its seeds.

    Parameters
    ----------
    found
        The kept tables.
    axis
        To draw over.
    """
    points, knees = _worded(found.tables["points"], "warning"), _worded(found.tables["knees"], "reason")
    curves = []
    for task, own in points.groupby("task", sort=False):
        whole = [
            {str(name): None if pd.isna(value) else value for name, value in record.items()}
            for record in knees[knees["task"] == task].to_dict("records")
        ]
        rows = own[own[axis].notna()] if axis == "threshold" else own
        curves.append(points_of_rows(rows, whole, axis, where=str(task)))
    return curves


def _worded(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """With empty texts, which a CSV does not tell from missing values."""
    return frame.assign(**{column: ["" if pd.isna(each) else str(each) for each in frame[column]]})


def missing(found: Kept) -> list[str]:
    """Tasks and seeds of the study that are not in the tables.

    Parameters
    ----------
    found
        The kept tables.
    """
    settings, points = found.about["settings"], found.tables["points"]
    there = set(zip(points["task"], points["seed"].astype(int), strict=True))
    return [
        f"{task} seed {seed}" for task in settings["tasks"] for seed in settings["seeds"] if (task, seed) not in there
    ]


def page(found: Kept) -> str:
    """All that is told, in Markdown.

    Parameters
    ----------
    found
        The kept tables.
    """
    points, gates = _worded(found.tables["points"], "warning"), found.tables["gates"]
    known, half, together = learned(points), halfway_points(points), falls(points)
    depth, controls, testable = depth_thirds(points, gates), against_controls(points), _testable(known)
    absent = missing(found)
    parts = [
        "# Sparsity curves: SoRA's Figure 3 task by task",
        _about(found, points),
        *([f"**Not done yet, and in no table here: {', '.join(absent)}.**"] if absent else []),
        "## What was found",
        _claims(half, together, depth, controls, testable) + _short(points),
        "## Curves",
        "![Memorization and generalization over non-zero parameters](curves.png)",
        "![The same over the threshold](thresholds.png)",
        "## What there is to lose",
        _ON_LEARNED,
        _learned_table(known),
        "## Turning points",
        _ON_TURNING,
        _turning_table(found.tables["knees"], half, testable),
        "## Do both curves fall together?",
        _ON_FALLING,
        _together_table(together, testable),
        "## Shallow and deep layers",
        _ON_DEPTH,
        _depth_table(depth),
        "## SoRA against its controls with as many parameters",
        _ON_CONTROLS,
        "![Generalization beside the controls](controls.png)",
        _controls_table(controls, testable),
        "## Origin",
        told_origin(found.about),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _about(found: Kept, points: pd.DataFrame) -> str:
    settings = found.about["settings"]
    seeds = points.groupby("task")["seed"].nunique()
    told = f"{seeds.min()}" if seeds.nunique() == 1 else f"{seeds.min()} to {seeds.max()}"
    thresholds = ", ".join(f"{each:g}" for each in settings["thresholds"])
    sizes = [
        (task, each["max_length"], own["train_examples"].iloc[0], own["validation_examples"].iloc[0],
         each["train"] or "all", each["batch"], each["dense_steps"], each["stage_steps"])
        for task, each in settings["tasks"].items() if len(own := points[points["task"] == task])
    ]  # fmt: skip
    return (
        f"{points['model'].iloc[0]}, SoRA of rank {settings['rank']} on {settings['targets'].replace(',', ', ')}, gates"
        f" that start at {_STARTS[settings['gate_init']]}, learning rate {settings['learning_rate']:g} and"
        f" {settings['gate_rate']:g} for gates, thresholds {thresholds} (times the gates' rate, as in the paper),"
        f" a head that is trained, {told} seeds a task. Every stage takes the number of steps below, so that the"
        " published loop subtracts as much.\n\n"
        + table(
            ("task", "tokens", "memorization examples", "validation examples", "training examples", "batch",
             "dense steps", "steps a stage"), sizes,
        )
    )  # fmt: skip


def _testable(known: pd.DataFrame) -> dict[str, dict[str, bool]]:
    """By task and curve."""
    return {
        str(task): {str(row["curve"]): bool(row["testable"]) for row in own.to_dict("records")}
        for task, own in known.groupby("task", sort=False)
    }


def _claims(
    half: pd.DataFrame, together: pd.DataFrame, depth: pd.DataFrame, controls: pd.DataFrame,
    testable: Mapping[str, Mapping[str, bool]],
) -> str:  # fmt: skip
    both = [task for task, curves in testable.items() if all(curves.values())]
    lines = [f"1. **Turning points differ between tasks.** {_differ(half, testable)}"]
    lines.append(f"2. **Memorization and generalization fall together.** {_fall_words(together, both)}")
    lines.append(f"3. **Shallow layers become sparser.** {_depth_words(depth, testable)}")
    lines += [
        f"{number}. **SoRA beats {_CONTROLS[name]}.** {_control_words(controls[controls['control'] == name], testable)}"
        for number, name in enumerate((name for name in _CONTROLS if name in set(controls["control"])), start=4)
    ]
    chance = [task for task, curves in testable.items() if not curves["generalization"]]
    if chance:
        lines.append(
            f"\nGeneralization on {_names(chance)} says nothing here: over so many seeds the dense stage cannot be told"
            " from one answer for all, or from its own head."
        )
    return "\n".join(lines)


def _short(points: pd.DataFrame) -> str:
    """Tasks whose dense stage was not trained to its end."""
    own = points[points["control"] == SORA].groupby(["task", "seed"])["generalization"].max().groupby("task").mean()
    above = [f"{task} ({best:.0f} %)" for task, best in own.items() if best > _CEILING]
    if not above:
        return ""
    return (
        f"\n\nOn {_names(above)} the best stage generalizes better than the dense one, mean over seeds: training went"
        " on through the stages, 100 % is no ceiling, and what lies above untrained controls is partly more training."
    )


def _differ(half: pd.DataFrame, testable: Mapping[str, Mapping[str, bool]]) -> str:
    words = []
    for name in CURVES:
        tasks = [task for task, curves in testable.items() if curves[name]]
        for axis in ("sparsity", "threshold"):
            own = half[(half["curve"] == name) & (half["axis"] == axis) & half["task"].isin(tasks)]
            found = tasks_differ(own)
            verdict = (
                "not testable" if pd.isna(found["p"]) else "seen" if found["p"] < _APART else "cannot be told apart"
            )
            means = own.groupby("task")["value"].mean()
            ends = f", task means {means.min():.2f} to {means.max():.2f}" if len(means) else ""
            told = "" if pd.isna(found["p"]) else f" (F test, p = {found['p']:.2g}, {found['tasks']} tasks{ends})"
            words.append(f"{name.capitalize()} over {_AXES[axis]}: {verdict}{told}.")
    return " ".join(words)


_AXES = {"sparsity": "the share of parameters gone", "threshold": "the threshold"}


def _fall_words(together: pd.DataFrame, both: list[str]) -> str:
    own = together[together["task"].isin(both)]
    if own.empty:
        return "Not testable: there is no task in which both curves have something to lose."
    sides = {
        "generalization later": own[own["later_low"] > 0], "memorization later": own[own["later_high"] < 0],
        "cannot be told apart": own[(own["later_low"] <= 0) & (own["later_high"] >= 0)],
        "no interval": own[own["later_low"].isna()],
    }  # fmt: skip
    told = [f"{words}: {_names(list(part['task']))}" for words, part in sides.items() if len(part)]
    apart = len(sides["generalization later"]) + len(sides["memorization later"])
    near = bool(((own["later_low"] > -_TOGETHER) & (own["later_high"] < _TOGETHER)).all())
    verdict = "Not seen" if apart else f"Seen, within {_TOGETHER:g} of the parameters" if near else "Not told"
    return (
        f"{verdict}, by halfway points ({'; '.join(told)}). Over the stages both go the same way, Spearman's"
        f" correlation {own['spearman'].min():.2f} to {own['spearman'].max():.2f} by task."
    )


def _depth_words(depth: pd.DataFrame, testable: Mapping[str, Mapping[str, bool]]) -> str:
    own = depth[depth["task"].isin([task for task in testable if testable[task]["memorization"]])]
    return _sided(own, "deep_less_shallow", "deep_less_shallow_low", "deep_less_shallow_high",
                  ("Seen in", "the opposite in", "cannot be told in"))  # fmt: skip


def _control_words(own: pd.DataFrame, testable: Mapping[str, Mapping[str, bool]]) -> str:
    words = []
    for name in CURVES:
        part = own[(own["curve"] == name) & own["task"].isin([task for task in testable if testable[task][name]])]
        sides = ("better in", "worse in", "cannot be told apart in")
        words.append(f"{name.capitalize()}: {_sided(part, 'points', 'low', 'high', sides)}")
    return " ".join(words)


def _sided(rows: pd.DataFrame, value: str, low: str, high: str, words: tuple[str, str, str]) -> str:
    groups = (rows[rows[low] > 0], rows[rows[high] < 0], rows[~((rows[low] > 0) | (rows[high] < 0))])
    told = [
        f"{word} {', '.join(_mean(row, value, low, high) for row in part.to_dict('records'))}"
        for word, part in zip(words, groups, strict=True) if len(part)
    ]  # fmt: skip
    return "; ".join(told) + "." if told else "not testable."


def _mean(row: Mapping[Any, Any], value: str, low: str, high: str) -> str:
    return f"{row['task']} {_interval(row, value, low, high, '{:+.1f}')}"


def _interval(row: Mapping[Any, Any], value: str, low: str, high: str, form: str) -> str:
    if pd.isna(row[value]):
        return "-"
    ends = "no interval" if pd.isna(row[low]) else f"{form.format(row[low])} to {form.format(row[high])}"
    return f"{form.format(row[value])} ({ends})"


def _names(tasks: list[str]) -> str:
    return ", ".join(tasks)


def _learned_table(known: pd.DataFrame) -> str:
    rows = [
        (row["task"], row["curve"], row["score"], f"{row['dense']:.3f}", f"{row['chance']:.3f}", f"{row['empty']:.3f}",
         _interval(row, "above_chance", "above_chance_low", "above_chance_high", "{:.3f}"),
         _interval(row, "above_empty", "above_empty_low", "above_empty_high", "{:.3f}"),
         "yes" if row["testable"] else "**no**")
        for row in known.to_dict("records")
    ]  # fmt: skip
    return table(
        ("task", "curve", "score", "dense", "one answer", "emptiest", "dense less one answer", "dense less emptiest",
         "testable"), rows,
    )  # fmt: skip


def _turning_table(knees: pd.DataFrame, half: pd.DataFrame, testable: Mapping[str, Mapping[str, bool]]) -> str:
    rows = []
    for (task, curve, axis), own in half.groupby(["task", "curve", "axis"], sort=False):
        if not testable[str(task)][str(curve)]:
            continue
        knee = knees[(knees["task"] == task) & (knees["curve"] == curve) & (knees["axis"] == axis)]
        together = knee[knee["seed"].isna()].to_dict("records")
        each = [f"{value:.2f}" if pd.notna(value) else "none" for value in knee.loc[knee["seed"].notna(), "value"]]
        told = _interval(together[0], "value", "low", "high", "{:.2f}") if together else "-"
        halfway = _interval(over_seeds(own["value"]), "mean", "low", "high", "{:.2f}")
        rows.append((task, curve, _AXES[str(axis)], told, ", ".join(each), halfway))
    return table(("task", "curve", "over", "knee", "knee of each seed", "halfway"), rows)


def _together_table(together: pd.DataFrame, testable: Mapping[str, Mapping[str, bool]]) -> str:
    rows = [
        (row["task"], _interval(row, "later", "later_low", "later_high", "{:+.2f}"),
         _spearman(row),
         "yes" if all(testable[row["task"]].values()) else "**no**")
        for row in together.to_dict("records")
    ]  # fmt: skip
    return table(("task", "later", "Spearman (seeds)", "testable"), rows)


def _spearman(row: Mapping[Any, Any]) -> str:
    """Of a score that is the same at all stages there is none."""
    if pd.isna(row["spearman"]):
        return "- (constant in a seed)"
    return f"{row['spearman']:.2f} ({row['spearman_smallest']:.2f} to {row['spearman_largest']:.2f})"


def _depth_table(depth: pd.DataFrame) -> str:
    rows = [
        (row["task"], row["stage"], *(f"{row[name]:.2f}" for name in THIRDS),
         _interval(row, "deep_less_shallow", "deep_less_shallow_low", "deep_less_shallow_high", "{:+.2f}"))
        for row in depth.to_dict("records")
    ]  # fmt: skip
    return table(("task", "stage", *THIRDS, "deep less shallow"), rows)


def _controls_table(controls: pd.DataFrame, testable: Mapping[str, Mapping[str, bool]]) -> str:
    rows = [
        (row["task"], _CONTROLS[row["control"]], row["curve"], _interval(row, "points", "low", "high", "{:+.1f}"),
         "yes" if testable[row["task"]][row["curve"]] else "**no**")
        for row in controls.to_dict("records")
    ]  # fmt: skip
    return table(("task", "control", "curve", "SoRA less control", "testable"), rows)
