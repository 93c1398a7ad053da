"""LaTeX tables of what runs learned and forgot, and of the curve of a schedule."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from rank_lab.bands import bands
from rank_lab.checkpoint_scores import MEASURES
from rank_lab.curve import SORA, Curve
from rank_lab.latex_numbers import Shown, setting, shown, significant
from rank_lab.latex_symbols import SYMBOLS
from rank_lab.latex_table import Column, LatexTable, Missing
from rank_lab.latex_text import latex_text
from rank_lab.outcomes import Outcomes

__all__ = ["curve_tables", "outcome_tables"]

_HEADS = {
    "forgetting": "forgetting",
    "forgetting_normalised": "forgetting, normalised",
    "cross_entropy_increase": r"$\Delta$ cross-entropy (nat)",
    "kl_source": r"$\mathrm{KL}$, source (nat)",
    "kl_target": r"$\mathrm{KL}$, target (nat)",
}
_UNTOLD = "not measured"
_EXAMPLES = (
    r"In brackets: 95\,\% interval over examples, which says nothing of other seeds; paired where both models were"
    r" scored on the same examples."
)


def outcome_tables(found: Outcomes) -> list[LatexTable]:
    """A table for each target, and one of forgetting at equal learning where there is any.

    Parameters
    ----------
    found
        Of a study.
    """
    targets = list(found.learning["target"].unique()) or [None]
    tables = [_outcomes(found, target, number) for number, target in enumerate(targets, 1) if len(found.checkpoints)]
    equal = found.trade_offs.equal_learning
    return tables + ([_equal_learning(equal)] if len(equal) else [])


def curve_tables(curve: Curve) -> list[LatexTable]:
    """Every stage and control with its intervals, and, of several seeds, their means.

    Parameters
    ----------
    curve
        Of a study, with a row at least.
    """
    rows = curve.rows
    several = rows["seed"].nunique() > 1
    return [_stages(rows), *([_bands(rows)] if several else [])]


def _outcomes(found: Outcomes, target: str | None, number: int) -> LatexTable:
    measures = [name for name in MEASURES if name in found.checkpoints.columns]
    learned = {_place(row): row for row in _records(found.learning) if row["target"] == target}
    rows: list[tuple[Any, ...]] = []
    for row in _records(found.checkpoints):
        rate = row["learning_rate"]
        cells: list[Any] = [row["run"], row["method"], _whole(row["step"], "the step is not known")]
        cells.append(Missing("not recorded") if pd.isna(rate) else Shown(setting(rate)))
        for rank in ("energy_rank_90", "effective_rank"):
            told = pd.notna(row[rank])
            cells.append(Shown(f"{row[rank]:.1f}") if told else Missing(row["reason"] or "no rank can be told"))
            null = row[f"null_{rank}"]
            cells.append(Shown(f"{null:.1f}") if told and pd.notna(null) else Missing())
        if target is not None:
            cells.append(_change(learned.get(_place(row)), "learning", row["reason"]))
        cells += [_change(row, name, row["reason"]) for name in measures]
        rows.append(tuple(cells))
    heads = [Column("run"), Column("method"), Column("step", "number"), Column("learning rate", "number")]
    for rank in ("energy_rank_90", "effective_rank"):
        heads += [Column(rf"$\overline{{{SYMBOLS[rank]}}}$", "number"), Column(r"$\circ$", "number")]
    heads += [Column("learning", "interval")] if target is not None else []
    heads += [Column(_HEADS[name], "interval") for name in measures]
    measured = "; ".join(f"{_HEADS[name]}: {latex_text(MEASURES[name])}" for name in measures)
    caption = (
        "Learning and forgetting" if target is None else f"Learning of {latex_text(target)} and forgetting"
    ) + f". Learning: gained over the base. {measured or 'No measure of forgetting'}. {_EXAMPLES}"
    note = (
        r"Ranks: means over matrices by their share of the squared change; $\circ$: the same of white noise, of factors"
        r" that of a product of random factors of their rank."
    )
    label = "outcomes" if number == 1 else f"outcomes-{number}"
    return LatexTable(label, caption, tuple(heads), tuple(rows), (note,))


def _equal_learning(equal: pd.DataFrame) -> LatexTable:
    rows, groups = [], []
    for _, own in equal.groupby(["target", "measure", "at_learning"], sort=False):
        for row in _records(own):
            rate = row["learning_rate"]
            cells: list[Any] = [row["target"], row["measure"].replace("_", " "), Shown(significant(row["at_learning"]))]
            cells += [row["method"], Missing("not recorded") if pd.isna(rate) else Shown(setting(rate))]
            cells += [Shown(str(int(row["seeds"]))), _valued(row["forgetting"], row["low"], row["high"], row["reason"])]
            rows.append(tuple(cells))
        groups.append(len(own))
    columns = (
        Column("target"), Column("measure"), Column("at learning", "number"), Column("method"),
        Column("learning rate", "number"), Column("seeds", "number"), Column("forgetting", "interval"),
    )  # fmt: skip
    caption = (
        "Forgetting at equal learning, read off straight lines along each run; mean over seeds. In brackets:"
        r" Student's 95\,\% interval over seeds, none of a single seed."
    )
    return LatexTable("equal-learning", caption, columns, tuple(rows), groups=tuple(groups))


def _stages(rows: pd.DataFrame) -> LatexTable:
    cells, groups = [], []
    for _, part in rows.groupby(["seed", "control"], sort=False):
        for row in _records(part):
            threshold = (
                Missing("a control has no threshold") if pd.isna(row["threshold"]) else Shown(setting(row["threshold"]))
            )
            counts = (row["nonzero_gates"], row["nonzero_parameters"])
            line: list[Any] = [row["control"], *(_whole(row[name], "") for name in ("seed", "stage")), threshold]
            line += [Shown(str(int(count))) for count in counts]
            for name in ("memorization", "generalization"):
                line.append(_valued(row[name], row[f"{name}_low"], row[f"{name}_high"], "the score has no value"))
            line.append(shown(row["validation_loss"], default=4))
            cells.append(tuple(line))
        groups.append(len(part))
    columns = (
        Column("control"), Column("seed", "number"), Column("stage", "number"), Column(r"$\lambda$", "number"),
        Column("gates", "number"), Column("parameters", "number"), Column(r"memorization (\%)", "interval"),
        Column(r"generalization (\%)", "interval"), Column("validation loss (nat)", "number"),
    )  # fmt: skip
    first = rows.iloc[0]
    against = "stage 0" if first["reference"] == "stage_0" else "the best stage so far"
    caption = (
        f"Sparsity schedule of {latex_text(str(first['model']))} on {latex_text(str(first['task']))}. Memorization and"
        f" generalization: 100 times {latex_text(str(first['score']))} on {int(first['train_examples'])} training and"
        f" {int(first['validation_examples'])} validation examples, divided by that of {against}. In brackets: 95\\,\\%"
        r" interval of a paired bootstrap over examples. $\lambda$: sparsity threshold; gates, parameters: those that"
        rf" are not zero; {latex_text(SORA)}: the schedule itself, the others stand beside it."
    )
    return LatexTable("curve", caption, columns, tuple(cells), groups=tuple(groups), long=True)


def _bands(rows: pd.DataFrame) -> LatexTable:
    names = ("nonzero_parameters", "memorization", "generalization")
    found = bands(rows, names)
    cells = []
    for (control, stage), part in found.groupby(["control", "stage"], sort=False):
        of = {row["quantity"]: row for row in _records(part)}
        line: list[Any] = [str(control), Shown(str(stage)), Shown(str(min(row["seeds"] for row in of.values())))]
        ends = ((of[name]["mean"], of[name]["low"], of[name]["high"]) for name in names)
        line += [
            _valued(*each, "no seed has a value", whole=name == names[0])
            for name, each in zip(names, ends, strict=True)
        ]
        cells.append(tuple(line))
    columns = (
        Column("control"), Column("stage", "number"), Column("seeds", "number"), Column("parameters", "interval"),
        Column(r"memorization (\%)", "interval"), Column(r"generalization (\%)", "interval"),
    )  # fmt: skip
    caption = r"Sparsity schedule, means over seeds. In brackets: Student's 95\,\% interval over seeds."
    return LatexTable("curve-bands", caption, columns, tuple(cells))


def _change(row: Mapping[str, Any] | None, name: str, otherwise: str) -> Shown | Missing:
    if row is None:
        return Missing(otherwise or _UNTOLD)
    told = row[f"{name}_reason"]
    reason = otherwise if told in ("", _UNTOLD) else told
    return _valued(row[name], row[f"{name}_low"], row[f"{name}_high"], reason or _UNTOLD)


def _valued(value: Any, low: Any, high: Any, reason: str, *, whole: bool = False) -> Shown | Missing:
    found = shown(value, low, high, whole=whole)
    return found if found.value else Missing(reason)


def _whole(value: Any, reason: str) -> Shown | Missing:
    return Missing(reason) if pd.isna(value) else Shown(str(int(value)))


def _place(row: Mapping[str, Any]) -> tuple[str, int | None]:
    return str(row["run"]), None if pd.isna(row["step"]) else int(row["step"])


def _records(frame: pd.DataFrame) -> Sequence[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict(orient="records")]
