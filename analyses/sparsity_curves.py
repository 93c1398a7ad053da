"""Memorization and generalization as SoRA's threshold rises, on six tasks: Figure 3 of arXiv 2311.11696, with controls.

``python -m analyses.sparsity_curves --data FOLDER`` adapts the MiniLM encoder that the development environment carries
to each of six tasks of GLUE by SoRA, raises the threshold stage by stage (Algorithm 1), and sets beside each curve what
one-shot pruning and SVD truncation reach with as many parameters, and the published script's loop (learning rate 0) in
as many steps. FOLDER holds one folder of JSON lines for each task; without it they come from the hub. A run that was
stopped goes on; the tables, the page and its pictures are kept in ``results/sparsity_curves``. The runs' gates are what
``analyses.rank_allocation`` reads, from the same ``--study``.

``--full`` takes the paper's model, RoBERTa-large, all examples and more thresholds, for a GPU; it was not run.
"""

import argparse
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from analyses.kept_results import keep as keep_tables
from analyses.sparsity_report import tell
from analyses.sparsity_run import cells_of, run, setting_of
from analyses.study_cells import Cell, Row, finished, open_study, rows_of, seconds_of, work_off
from analyses.study_options import DATA, run_study, study_parser
from rank_lab.errors import RankLabError
from rank_lab.knee import Knee, knee_over_seeds

__all__ = ["SEEDS", "done", "gates_of", "keep", "knees_of", "main", "make", "options_of", "points_of"]

SEEDS = (0, 1, 2)
_NAME = "sparsity_curves"
_NOT_KEPT = ["kind", "nonzero_by_module", "schema", "threshold_mode", "operator", "target", "target_kind",
             "target_reached", "lr_start", "lr_peak", "lr_end", "hook_calls"]  # fmt: skip


def options_of(doc: str, name: str) -> argparse.Namespace:
    """The command line of both studies of these runs.

    Parameters
    ----------
    doc, name
        Of the study.
    """
    parser = study_parser(doc, name)
    parser.set_defaults(study=Path("studies", _NAME))
    parser.add_argument("--data", type=Path, default=DATA if DATA.is_dir() else None, help="default the hub, or beside")
    parser.add_argument("--tasks", nargs="+", help="only these; the others are left to another process")
    parser.add_argument(
        "--as-far", action="store_true", help="train nothing, keep what is done; the page says what is not"
    )
    options = parser.parse_args()
    options.seeds = tuple(options.seeds or ((0, 1) if options.quick else SEEDS))
    return options


def make(options: argparse.Namespace) -> None:
    """Train what is not trained yet.

    Parameters
    ----------
    options
        Of the command line.
    """
    if options.as_far:
        return
    setting = setting_of(options)

    def work(cell: Cell, scratch: Path) -> list[Row]:
        return run(cell, scratch, setting, options.data, options.device)

    open_study(options.study, asdict(setting))
    work_off(options.study, _cells(options), work)


def done(options: argparse.Namespace) -> tuple[pd.DataFrame, float]:
    """Rows of all cells that are done, and the seconds that they took.

    Parameters
    ----------
    options
        Of the command line.

    Raises
    ------
    RankLabError
        If none is.
    """
    cells = finished(options.study, _cells(options))
    if not cells:
        raise RankLabError(f"{options.study}: no cell is done yet; run the command again, it goes on.")
    return rows_of(options.study, cells), seconds_of(options.study, cells)


def keep(options: argparse.Namespace) -> None:
    """Write the tables that the page is made of: of the cells that are done, the page names the others.

    Parameters
    ----------
    options
        Of the command line.
    """
    rows, seconds = done(options)
    tables = {"points": points_of(rows), "gates": gates_of(rows), "knees": knees_of(rows)}
    keep_tables(options.out, asdict(setting_of(options)) | {"seeds": options.seeds}, tables, seconds)


def _cells(options: argparse.Namespace) -> list[Cell]:
    setting = setting_of(options)
    wanted = options.tasks or list(setting.tasks)
    return [cell for cell in cells_of(setting, options.seeds) if cell.settings["task"] in wanted]


def points_of(rows: pd.DataFrame) -> pd.DataFrame:
    """The stages and controls, without what all share and without their gates module by module.

    Parameters
    ----------
    rows
        Of all cells.
    """
    points = rows[rows["kind"] == "point"]
    known = [name for name in points if points[name].notna().any() and name not in _NOT_KEPT]
    return points[known].reset_index(drop=True)


def gates_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Open gates: a row a stage or control, a column a module.

    Parameters
    ----------
    rows
        Of all cells.
    """
    points = rows[rows["kind"] == "point"].reset_index(drop=True)
    wide = pd.DataFrame(list(points["nonzero_by_module"])).astype(int)
    return pd.concat([points[["task", "seed", "control", "stage"]].astype({"stage": int}), wide], axis=1)


def knees_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Knees of each seed, as its run found them, and over seeds.

    Parameters
    ----------
    rows
        Of all cells.
    """
    columns = ["task", "curve", "axis", "seed", "value", "low", "high", "shape", "reason", "p_value", "points"]
    knees = rows.loc[rows["kind"] == "knee", columns].reset_index(drop=True)
    together = []
    for (task, curve, axis), own in knees.groupby(["task", "curve", "axis"], sort=False):
        each = [
            Knee(None if pd.isna(row["value"]) else float(row["value"]), None, None, str(axis), str(row["shape"] or ""))
            for row in own.to_dict("records")
        ]
        found = knee_over_seeds(each)
        together.append({"task": task, "curve": curve} | asdict(found))
    return pd.concat([knees, pd.DataFrame(together, columns=columns)], ignore_index=True)


def main() -> None:
    """Run every task, keep its curves, tell what they show."""
    run_study(_NAME, options_of(__doc__, _NAME), make, keep, tell)


if __name__ == "__main__":
    main()
