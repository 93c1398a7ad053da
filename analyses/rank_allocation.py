"""Final rank of each layer and matrix, per task: Figure 4 of arXiv 2311.11696, with its agreement and its null.

``python -m analyses.rank_allocation --data FOLDER`` reads the gates of the runs of ``analyses.sparsity_curves`` (the
same ``--study``; what is not trained there yet is trained) at the stage of each task that leaves about half of all
gates open. It tells whether the allocation belongs to the task or to the seed, and how far it is from a uniform one.
Tables, page and maps are kept in ``results/rank_allocation``.
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analyses.allocation_claims import agreement, allocations, by_kind, dispersion, of_task_or_seed, pairs_of
from analyses.kept_results import Kept, kept, told_origin, write_picture
from analyses.kept_results import keep as keep_tables
from analyses.machine import table
from analyses.sparsity_curves import done, gates_of, make, options_of
from analyses.sparsity_run import setting_of
from analyses.study_options import run_study
from rank_lab.curve import SORA
from rank_lab.figures.gate_map import gate_map
from rank_lab.gate_tables import gate_table_of_rows

__all__ = ["keep", "main", "page", "rows_with_gates", "tell"]

_NAME = "rank_allocation"
_POINTS = ["model", "task", "seed", "control", "stage", "threshold", "gates", "nonzero_gates", "nonzero_parameters"]
_P = 0.05
_ON_STAGE = (
    "The stage of each task is the one at which the mean share of open gates over seeds is nearest to one half (0.2 to"
    " 0.8; other tasks are left out): with nearly all or nearly none open there is no allocation, and allocations can"
    " be compared at equal sparsity only."
)
_ON_MAPS = "Open gates, mean over seeds; layers across, kinds down (o: the attention's output; up, down: feed-forward)."
_ON_AGREEMENT = (
    "Spearman's correlation over modules of the open gates of two runs. Runs of one seed start from the same factors;"
    " the test compares pairs of different seeds only, and permutes the names of tasks within each seed."
)
_ON_NULL = (
    "Variance of the open gates over modules against that of as many gates drawn from all alike (1: no more uneven than"
    " chance); in brackets the middle 95 % of that null."
)
_ON_KINDS = "Open gates a module of a kind less the mean of all modules; mean and Student's 95 % interval over seeds."


def keep(options: argparse.Namespace) -> None:
    """Write the gates of SoRA's own stages.

    Parameters
    ----------
    options
        Of the command line.
    """
    rows, seconds = done(options)
    own = rows[(rows["kind"] == "point") & (rows["control"] == SORA)]
    points = own[_POINTS].reset_index(drop=True)
    settings = asdict(setting_of(options)) | {"seeds": options.seeds}
    keep_tables(options.out, settings, {"points": points, "gates": gates_of(own)}, seconds)


def tell(folder: Path, pictures: bool) -> None:
    """Write ``README.md``, and a map for each task.

    Parameters
    ----------
    folder
        Of the results.
    pictures
        Whether they are wanted.
    """
    found = kept(folder)
    chosen = allocations(found.tables["points"], found.tables["gates"])
    (folder / "README.md").write_text(page(found, chosen), encoding="utf-8")
    if not pictures:
        return
    rows = rows_with_gates(found)
    for task, stage in _stages(chosen).items():
        figure = gate_map(gate_table_of_rows(rows[rows["task"] == task], stage, where=task), "light")
        figure.plot.update_layout(width=470, title={"text": task})
        write_picture(figure.plot, folder, task, scale=1)


def rows_with_gates(found: Kept) -> pd.DataFrame:
    """The kept stages as rows of a curve, with their gates module by module.

    Parameters
    ----------
    found
        The kept tables.
    """
    keys = ["task", "seed", "control", "stage"]
    gates = found.tables["gates"].set_index(keys)
    by_module = pd.Series(gates.to_dict("records"), index=gates.index, name="nonzero_by_module")
    return found.tables["points"].join(by_module, on=keys)


def page(found: Kept, chosen: pd.DataFrame) -> str:
    """All that is told, in Markdown.

    Parameters
    ----------
    found
        The kept tables.
    chosen
        From :func:`analyses.allocation_claims.allocations`.
    """
    settings, points = found.about["settings"], found.tables["points"]
    left_out = [task for task in settings["tasks"] if task not in _stages(chosen)]
    seeds = sorted({int(seed) for seed in points["seed"]})
    parts = [
        "# Rank allocation: SoRA's Figure 4 per task",
        f"{points['model'].iloc[0]}, {settings['rank']} gates a module, seeds {', '.join(map(str, seeds))}: the runs of"
        " [sparsity curves](../sparsity_curves/README.md), read at one stage. " + _ON_STAGE,
        *([f"No such stage, or not done yet: {', '.join(left_out)}."] if left_out else []),
    ]
    if len(chosen):
        parts += _findings(chosen, int(settings["rank"]))
    return "\n\n".join([*parts, "## Origin", told_origin(found.about)]) + "\n"


def _findings(chosen: pd.DataFrame, rank: int) -> list[str]:
    pairs = pairs_of(chosen)
    spread = pd.DataFrame(
        [
            {"task": task, "seed": seed} | dispersion(counts, rank)
            for (task, seed, _), counts in zip(chosen.index, chosen.to_numpy(np.float64), strict=True)
        ]
    )
    kinds = by_kind(chosen)
    return [
        "## What was found",
        "\n".join(f"{number}. {words}" for number, words in enumerate(_claims(chosen, pairs, spread, kinds), 1)),
        "## Maps",
        _ON_MAPS,
        _pictures(chosen),
        "## Task or seed",
        _ON_AGREEMENT,
        _agreement_table(pairs),
        "## Against a uniform allocation",
        _ON_NULL,
        _spread_table(spread),
        "## Kinds of matrix",
        _ON_KINDS,
        _kind_table(kinds),
    ]


def _claims(chosen: pd.DataFrame, pairs: pd.DataFrame, spread: pd.DataFrame, kinds: pd.DataFrame) -> list[str]:
    test = of_task_or_seed(chosen)
    if not test["least"] < _P:
        task = "**The allocation belongs to the task.** Not testable: so few runs cannot tell, whatever they show."
    else:
        verdict = (
            "Seen" if test["p"] < _P else "Not seen: runs of one task agree no more than those of two, as far as told"
        )
        task = (
            f"**The allocation belongs to the task.** {verdict} (correlation of the same task less that of other tasks"
            f" {test['apart']:+.2f}, one-sided permutation p = {test['p']:.2g}, of {test['least']:.2g} or more)."
        )
    known = agreement(pairs)
    told = "; ".join(
        f"{row['group']} {row['mean']:.2f}" for row in known.to_dict("records") if row["pairs"]
    )  # fmt: skip
    apart = [
        f"{row['kind']} on {row['task']} {row['mean']:+.1f}"
        for row in kinds.to_dict("records") if row["low"] > 0 or row["high"] < 0
    ]  # fmt: skip
    kinds_told = f"Intervals over seeds without 0: {', '.join(apart)}." if apart else "Not seen: all intervals cover 0."
    return [
        task,
        f"**How much any two runs agree.** Mean correlation: {told or 'no pair'}.",
        _uneven(spread),
        f"**Kinds of matrix differ.** {kinds_told}",
    ]


def _uneven(spread: pd.DataFrame) -> str:
    above = int((spread["p"] < _P).sum())
    return (
        f"**The allocation is not uniform.** {above} of {len(spread)} runs lie above what as many gates drawn from all"
        f" alike would give (p < {_P:g}); the variance over modules is {spread['ratio'].median():.1f} times chance's in"
        " the median."
    )


def _stages(chosen: pd.DataFrame) -> dict[str, int]:
    return {str(task): int(stage) for task, _, stage in chosen.index}


def _pictures(chosen: pd.DataFrame) -> str:
    cells = [f"![{task}: open gates at stage {stage}]({task}.png)" for task, stage in _stages(chosen).items()]
    rows = [cells[start : start + 2] for start in range(0, len(cells), 2)]
    return table(("", ""), [[*row, ""][:2] for row in rows])


def _agreement_table(pairs: pd.DataFrame) -> str:
    rows = [
        (row["group"], row["pairs"], *(_number(row[name]) for name in ("mean", "smallest", "largest")))
        for row in agreement(pairs).to_dict("records")
    ]
    return table(("pairs of runs", "pairs", "mean", "smallest", "largest"), rows)


def _spread_table(spread: pd.DataFrame) -> str:
    rows = [
        (row["task"], row["seed"], f"{_number(row['ratio'])} ({_number(row['low'])} to {_number(row['high'])})",
         f"{row['p']:.2g}")
        for row in spread.to_dict("records")
    ]  # fmt: skip
    return table(("task", "seed", "variance over that of chance", "p"), rows)


def _kind_table(kinds: pd.DataFrame) -> str:
    names = list(dict.fromkeys(kinds["kind"]))
    cells: dict[tuple[Any, Any], str] = {(row["task"], row["kind"]): _ended(row) for row in kinds.to_dict("records")}
    rows = [(task, *(cells.get((task, name), "-") for name in names)) for task in dict.fromkeys(kinds["task"])]
    return table(("task", *names), rows)


def _ended(row: dict[Any, Any]) -> str:
    ends = "no interval" if pd.isna(row["low"]) else f"{row['low']:+.1f} to {row['high']:+.1f}"
    return f"{row['mean']:+.1f} ({ends})"


def _number(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:.2f}"


def main() -> None:
    """Read the runs' gates, keep them, tell where they are."""
    run_study(_NAME, options_of(__doc__, _NAME), make, keep, tell)


if __name__ == "__main__":
    main()
