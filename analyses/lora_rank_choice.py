"""Which matrices LoRA should adapt, at which rank, what that saves, and what its updates of different ranks share.

``python -m analyses.lora_rank_choice`` adapts a base that has read prose to Python code: six choices of matrices at
ranks from 1 to 64, the rows of the LoRA paper's Table 5 (https://arxiv.org/abs/2106.09685) at one budget, and full
fine-tuning. Each choice of matrices has its own sweep of four learning rates, chosen by one half of held-out code; the
loss is that of the other half. Gradients and optimizer states are counted of the tensors; a step is timed beside full
fine-tuning's, arms taking turns. Subspaces are compared between ranks and seeds as in the paper's section 7.

``--only speed`` does the cells whose names begin so, of which timing wants a quiet machine. ``--full --device cuda
--base FOLDER`` takes four times the steps of longer and more blocks, for a larger base and a GPU; it was not run.
Costs at the shape of a Llama of 1 B parameters: :mod:`analyses.llama_step_cost`.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

from analyses.code_runs import CodeData, Recipe, base_of, base_record, code_data, reported_loss, trained
from analyses.kept_results import keep
from analyses.lora_rank_arms import NORMAL, QUICK, Arm, Plan
from analyses.lora_rank_cost import memory_row, step_ratios
from analyses.lora_rank_report import tell
from analyses.lora_rank_subspaces import gaussian_phi, subspace_rows
from analyses.study_cells import Cell, Work, open_study, rows_of, seconds_of, work_off
from analyses.study_options import run_study, study_parser
from analyses.swept_rates import chosen_rates, finish
from rank_lab.demo.task_files import texts_sha256
from rank_lab.errors import NonFiniteError
from rank_lab.training.validation import TargetBatches

__all__ = ["keep_tables", "main", "make_cells", "parsed"]

_NAME = "lora_rank_choice"
_FULL = replace(NORMAL, steps=200, batch=8, context=256, pieces=200)


def _plan(options: argparse.Namespace) -> Plan:
    return QUICK if options.quick else _FULL if options.full else NORMAL


@dataclass(frozen=True)
class _Study:
    """What all cells share."""

    options: argparse.Namespace
    plan: Plan
    base: Path
    data: CodeData

    def last(self, arm: Arm, rate: float, seed: int) -> Path:
        """Where the last checkpoint of a run is, or will be."""
        name = f"{arm.name}_lr{rate:g}_seed{seed}"
        return Path(self.options.study, "runs", name, f"checkpoint-{self.plan.steps}")

    def run(self, cell: Cell, _: Path) -> list[dict[str, Any]]:
        """Train, and measure on the half that no choice sees."""
        settings = cell.settings
        arm, rate, seed = Arm(settings["matrices"], settings["rank"]), settings["learning_rate"], settings["seed"]
        checkpoint, device = self.last(arm, rate, seed), self.options.device
        recipe = Recipe(self.plan.steps, self.plan.batch, rate, seed, device=device)
        try:
            done = trained(self.base, arm.method, arm.choices, recipe, self.data, checkpoint.parent)
        except NonFiniteError:
            return [{"table": "runs", "validation_loss": None, "loss": None}]
        loss = reported_loss(checkpoint, self.base, self.data, device=device)
        return [{"table": "runs", "validation_loss": done.losses[-1].validation_loss, "loss": loss}]

    def pair(self, cell: Cell, _: Path) -> list[dict[str, Any]]:
        """Subspaces of two runs of q and v, which are done: several pairs may look at one at a time."""
        settings, runs = cell.settings, {}
        for rank, seed in ((settings["rank"], settings["seed"]), (settings["other_rank"], settings["other_seed"])):
            runs[f"r{rank}-seed{seed}"] = self.last(Arm("q, v", rank), settings["learning_rate"], seed)
        first = set(self.options.seeds[:2]) >= {settings["seed"], settings["other_seed"]}
        mapped = first and settings["pair"] != "amplified" and self.options.seeds[0] == settings["seed"]
        layer = base_record(self.base)["num_hidden_layers"] // 2
        k = max(settings["rank"], settings["other_rank"])
        rows = subspace_rows(runs, self.base, k, layer if mapped else None)
        return [row for row in rows if row["table"] == "amplification" or settings["pair"] != "amplified"]

    def gaussian(self, *_: Any) -> list[dict[str, Any]]:
        """The control of the maps."""
        return gaussian_phi(*self.plan.compared, base_record(self.base)["hidden_size"])

    def memory(self, *_: Any) -> list[dict[str, Any]]:
        """Bytes of every arm."""
        return [
            {"table": "memory", "arm": arm.name, "matrices": arm.matrices, "rank": arm.rank}
            | memory_row(self.base, arm, self.batch())
            for arm in self.plan.arms()
        ]

    def speed(self, *_: Any) -> list[dict[str, Any]]:
        """Seconds of a step of some arms, in turns."""
        found = step_ratios(self.base, self.plan.timed(), self.batch(), self.plan.rounds)
        return [{"table": "speed"} | row for row in found]

    def batch(self) -> Mapping[str, Any]:
        """The first blocks of code."""
        task = self.data.task
        rows = [task.train[index] for index in range(self.plan.batch)]
        columns = ("input_ids", "attention_mask", "labels")
        made = TargetBatches(task.collator, "causal")([{name: row[name] for name in columns} for row in rows])
        return {name: value.to(self.options.device) for name, value in made.items()}


def _cell(kind: str, arm: Arm, rate: float, seed: int) -> Cell:
    settings = {"matrices": arm.matrices, "rank": arm.rank, "learning_rate": rate, "seed": seed}
    return Cell(f"{kind}-{arm.name}-lr{rate:g}-seed{seed}", settings)


def _sweep(options: argparse.Namespace) -> list[Cell]:
    plan, seed = _plan(options), options.seeds[0]
    return [_cell("rate", arm, rate, seed) for arm in plan.swept() for rate in plan.rates(arm)]


def _chosen(options: argparse.Namespace) -> pd.DataFrame:
    return chosen_rates(rows_of(options.study, _sweep(options)), ["matrices"])


def _runs(options: argparse.Namespace) -> list[Cell]:
    rates = _chosen(options).set_index("matrices")["learning_rate"]
    arms = _plan(options).arms()
    return [_cell("run", arm, float(rates[arm.matrices]), seed) for seed in options.seeds for arm in arms]


def _pairs(options: argparse.Namespace) -> list[Cell]:
    plan, seeds = _plan(options), options.seeds
    rate = float(_chosen(options).set_index("matrices")["learning_rate"]["q, v"])
    small, large = plan.compared
    wanted = [
        *(("ranks", small, large, seed, seed) for seed in seeds),
        *(("seeds", large, large, *both) for both in combinations(seeds, 2)),
        *(("amplified", plan.amplified, large, seed, seed) for seed in seeds),
    ]
    names = ("pair", "rank", "other_rank", "seed", "other_seed")
    cells = [dict(zip(names, row, strict=True)) | {"learning_rate": rate} for row in wanted]
    return [Cell("pair-{pair}-seed{seed}-seed{other_seed}".format_map(each), each) for each in cells]


_BESIDE = ("speed", "memory", "gaussian")
"""Cells that need no run."""


def _beside() -> list[Cell]:
    return [Cell(name, {"pair": name}) for name in _BESIDE]


def _stated(options: argparse.Namespace) -> dict[str, Any]:
    return asdict(_plan(options)) | {"base": base_record(base_of(options)), "texts": texts_sha256()}


def make_cells(options: argparse.Namespace) -> None:
    """Costs, sweeps, runs at the chosen rates, and pairs of them.

    Parameters
    ----------
    options
        Of the command line.
    """
    open_study(options.study, _stated(options))
    plan, base = _plan(options), base_of(options)
    data = code_data(options.study / "data", base, context=plan.context, pieces=plan.pieces, documents=plan.documents)
    study = _Study(options, plan, base, data)
    beside: dict[str, Work] = {"speed": study.speed, "memory": study.memory, "gaussian": study.gaussian}
    for cell in _beside():
        if cell.name.startswith(options.only):
            work_off(options.study, [cell], beside[cell.name])
    if options.only:
        return
    finish(options.study, _sweep(options), study.run)
    finish(options.study, _runs(options), study.run)
    finish(options.study, _pairs(options), study.pair)


def keep_tables(options: argparse.Namespace) -> None:
    """From the cells to small tables.

    Parameters
    ----------
    options
        Of the command line.
    """
    beside = _beside()
    sweep, runs, pairs = _sweep(options), _runs(options), _pairs(options)
    rows = rows_of(options.study, [*runs, *pairs, *beside])
    tables = {
        str(name): own.drop(columns="table").dropna(axis=1, how="all").reset_index(drop=True)
        for name, own in rows.groupby("table", sort=False)
    }
    tables["rates"] = rows_of(options.study, sweep).drop(columns="table")
    tables["chosen"] = _chosen(options)
    settings = _stated(options) | {"seeds": list(options.seeds)}
    keep(options.out, settings, tables, seconds_of(options.study, [*sweep, *runs, *pairs, *beside]))


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = study_parser(__doc__ or "", _NAME)
    parser.add_argument("--base", type=Path, help="folder of a model in one file; default studies/base")
    parser.add_argument("--only", choices=_BESIDE, default="", help="make this part alone, and write no results")
    parser.set_defaults(seeds=[0, 1, 2])
    options = parser.parse_args(arguments)
    options.only_make = options.only_make or bool(options.only)
    return options


def main() -> None:
    """Train, measure, keep, tell."""
    run_study(_NAME, parsed(), make_cells, keep_tables, tell)


if __name__ == "__main__":
    main()
