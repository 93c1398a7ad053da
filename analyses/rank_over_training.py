"""How the rank of full fine-tuning's change grows, by module, storage and optimizer; and what noise alone would show.

``python -m analyses.rank_over_training`` tunes a base that has read prose on Python code by SGD with momentum, by AdamW
and by Lion, the optimizer of "LoRA Learns Less and Forgets Less" (https://arxiv.org/abs/2405.09673), whose Figures 6
and 7 are asked about. Each has its own sweep of four learning rates, chosen by one half of held-out code. Checkpoints
stand to the last as the paper's do, from 1/80 on. Their ranks are measured of float32 and of the same checkpoints
stored as published ones are, each beside its null and its regime of noise.

``--full --device cuda --base FOLDER`` takes ten times the steps of longer blocks, for a larger base and a GPU: the
studies' wider one (:mod:`analyses.pretrain_study_base`), or one such as Llama-3.2-1B; it was not run.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analyses.code_runs import CodeData, Recipe, base_of, base_record, code_data, reported_loss, trained
from analyses.kept_results import keep
from analyses.published_ranks import noise_share_table, published_table, white_noise_table
from analyses.rank_means import by_kind, by_layer, by_place, of_matrices
from analyses.rank_over_training_report import tell
from analyses.stored_formats import FORMATS, half_precision_base, stored
from analyses.study_cells import Cell, open_study, rows_of, seconds_of
from analyses.study_options import run_study, study_parser
from analyses.swept_rates import chosen_rates, finish
from rank_lab import MeasurementOptions, analyze
from rank_lab.demo.task_files import texts_sha256
from rank_lab.errors import NonFiniteError
from rank_lab.planned import Settings
from rank_lab.training.finetune import Finetuned
from rank_lab.training.method import MethodChoices

__all__ = ["OPTIMIZERS", "PARTS", "SHOWN", "keep_tables", "main", "make_cells", "parsed"]

_NAME = "rank_over_training"
PARTS = (1, 2, 4, 8, 16, 32, 64, 80)
"""Steps of checkpoints, of 80: the paper's are at .25, .5, 1, 2, 4, 8, 16 and 20 billion tokens."""

SHOWN = "lion"
"""The optimizer whose single matrices are kept: the paper's."""


@dataclass(frozen=True)
class Optimizer:
    """What a run is trained with.

    Parameters
    ----------
    title
        In words.
    settings
        Of transformers' ``TrainingArguments``.
    rates
        That are tried, ascending.
    """

    title: str
    settings: tuple[tuple[str, Any], ...]
    rates: tuple[float, ...]


OPTIMIZERS = {
    "sgd": Optimizer("SGD, momentum 0.9", (("optim", "sgd"), ("optim_args", "momentum=0.9")), (0.01, 0.03, 0.1, 0.3)),
    "adamw": Optimizer("AdamW", (("optim", "adamw_torch"),), (1e-4, 3e-4, 1e-3, 3e-3)),
    "lion": Optimizer("Lion", (("optim", "lion_32bit"), ("adam_beta2", 0.95)), (3e-5, 1e-4, 3e-4, 1e-3)),
}


def _sizes(options: argparse.Namespace) -> dict[str, Any]:
    """Of a study: optimizer steps in 80 parts, blocks a step, tokens a block, held-out pieces, files of code."""
    if options.quick:
        return {"steps": 2, "batch": 2, "context": 16, "pieces": 4, "documents": 4}
    if options.full:
        return {"steps": 1600, "batch": 8, "context": 256, "pieces": 200, "documents": None}
    return {"steps": 160, "batch": 8, "context": 128, "pieces": 64, "documents": None}


def _optimizers(options: argparse.Namespace) -> dict[str, Optimizer]:
    if not options.quick:
        return OPTIMIZERS
    few = {"adamw": slice(1, 2), "lion": slice(1, 3)}
    chosen = {name: OPTIMIZERS[name] for name in few}
    return {name: Optimizer(one.title, one.settings, one.rates[few[name]]) for name, one in chosen.items()}


@dataclass(frozen=True)
class _Study:
    """What all cells share."""

    options: argparse.Namespace
    base: Path
    data: CodeData

    def run(self, settings: Mapping[str, Any]) -> Finetuned:
        """Train, or what is left of it; runs lie beside the cells, as one serves two of them."""
        sizes = _sizes(self.options)
        saved = sorted({max(1, sizes["steps"] * part // PARTS[-1]) for part in PARTS})
        recipe = Recipe(
            steps=sizes["steps"],
            batch=sizes["batch"],
            learning_rate=settings["learning_rate"],
            seed=settings["seed"],
            optimizer=OPTIMIZERS[settings["optimizer"]].settings,
            save_at=tuple(saved),
            device=self.options.device,
        )
        return trained(self.base, "full", MethodChoices(), recipe, self.data, self.folder(settings))

    def folder(self, settings: Mapping[str, Any]) -> Path:
        name = "{optimizer}_lr{learning_rate:g}_seed{seed}".format_map(settings)
        return Path(self.options.study / "runs" / name)

    def loss(self, model: Path) -> float:
        """On the half that no choice saw."""
        return reported_loss(model, self.base, self.data, device=self.options.device)

    def swept(self, cell: Cell, _: Path) -> list[dict[str, Any]]:
        """A rate of a sweep: what it learned, and the ranks of its last checkpoint."""
        try:
            done = self.run(cell.settings)
        except NonFiniteError:
            return [{"table": "rates", "validation_loss": None}]
        last = self.folder(cell.settings) / f"checkpoint-{done.record.steps}"
        losses = {"validation_loss": done.losses[-1].validation_loss, "loss": self.loss(last)}
        rows = by_place(analyze(last, self.base).updates, "float32")
        return [{"table": "rates"} | losses | row for row in rows]

    def measured(self, cell: Cell, scratch: Path) -> list[dict[str, Any]]:
        """A run at its chosen rate: its losses, and its ranks along training in every format of storage."""
        done, run = self.run(cell.settings), self.folder(cell.settings)
        rows = [
            {"table": "losses", "step": row.step, "tokens": row.tokens, "validation_loss": row.validation_loss}
            | {"loss": self.loss(run / f"checkpoint-{row.step}" if row.step else self.base)}
            for row in done.losses
        ]
        for form in FORMATS:
            rows += self.tables(self.updates(run, form, scratch), form, cell.settings)
        return rows

    def updates(self, run: Path, form: str, scratch: Path) -> pd.DataFrame:
        """Of the files as they would be stored; in float32 of the changes between checkpoints, too."""
        copies, base = stored(run, self.base, form, scratch)
        options, settings = MeasurementOptions(device=self.options.device), Settings(run=f"{run.name}-{form}")
        if form == "float32":
            report = analyze(copies, base, options=options, settings=settings)
            report.save(self.options.study / f"{run.name}.rank")
            return report.updates
        checkpoints = sorted(copies.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
        found = [analyze(each, base, options=options, settings=settings).updates for each in checkpoints]
        return pd.concat(found, ignore_index=True)

    def tables(self, updates: pd.DataFrame, form: str, settings: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        yield from ({"table": "places"} | row for row in by_place(updates, form))
        yield from ({"table": "kinds"} | row for row in by_kind(updates, form))
        if form == "float32":
            yield from ({"table": "layers"} | row for row in by_layer(updates, form))
        if form != "bfloat16-grid" and settings["optimizer"] == SHOWN and settings["seed"] == self.options.seeds[0]:
            yield from ({"table": "matrices"} | row for row in of_matrices(updates, form))


def _stated(options: argparse.Namespace) -> dict[str, Any]:
    rates = {name: list(one.rates) for name, one in _optimizers(options).items()}
    optimizers = {name: dict(one.settings) for name, one in _optimizers(options).items()}
    about = {"base": base_record(base_of(options)), "texts": texts_sha256()}
    return _sizes(options) | about | {"rates": rates, "optimizers": optimizers}


def _cell(optimizer: str, rate: float, seed: int, kind: str) -> Cell:
    settings = {"optimizer": optimizer, "learning_rate": rate, "seed": seed}
    return Cell(f"{kind}-{optimizer}-lr{rate:g}-seed{seed}", settings)


def _sweep(options: argparse.Namespace) -> list[Cell]:
    first = options.seeds[0]
    return [_cell(name, rate, first, "rate") for name, one in _optimizers(options).items() for rate in one.rates]


def _chosen(options: argparse.Namespace) -> pd.DataFrame:
    rates = rows_of(options.study, _sweep(options))
    return chosen_rates(rates.drop_duplicates(["optimizer", "learning_rate"]), ["optimizer"])


def _measured(options: argparse.Namespace) -> list[Cell]:
    chosen = _chosen(options).to_dict("records")
    return [_cell(row["optimizer"], row["learning_rate"], seed, "run") for seed in options.seeds for row in chosen]


def make_cells(options: argparse.Namespace) -> None:
    """Sweeps, then runs at the chosen rates.

    Parameters
    ----------
    options
        Of the command line.
    """
    sizes = _sizes(options)
    little = {name: sizes[name] for name in ("context", "pieces", "documents")}
    open_study(options.study, _stated(options))
    base = half_precision_base(base_of(options), options.study / "base")
    study = _Study(options, base, code_data(options.study / "data", base, **little))
    finish(options.study, _sweep(options), study.swept)
    finish(options.study, _measured(options), study.measured)


def keep_tables(options: argparse.Namespace) -> None:
    """From the cells to small tables.

    Parameters
    ----------
    options
        Of the command line.
    """
    sweep, runs = _sweep(options), _measured(options)
    rows = rows_of(options.study, runs)
    tables = {
        str(name): own.drop(columns="table").dropna(axis=1, how="all").reset_index(drop=True)
        for name, own in rows.groupby("table", sort=False)
    }
    tables["kinds"] = _over_seeds(tables["kinds"])
    tables["rates"] = rows_of(options.study, sweep).drop(columns="table")
    tables["chosen"] = _chosen(options)
    tables |= {"white_noise": white_noise_table(), "published": published_table(), "noise_share": noise_share_table()}
    keep(
        options.out,
        _stated(options) | {"seeds": list(options.seeds)},
        tables,
        seconds_of(options.study, [*sweep, *runs]),
    )


def _over_seeds(kinds: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds: places and layers are kept by seed, of which claims are made."""
    groups = kinds.groupby(["optimizer", "format", "step", "kind"], sort=False)
    means = groups[["raw", "raw_over_null", "told_over_null"]].mean()
    return means.assign(seeds=groups["seed"].nunique()).reset_index()


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = study_parser(__doc__ or "", _NAME)
    parser.add_argument("--base", type=Path, help="folder of a model in one file; default studies/base")
    parser.set_defaults(seeds=[0, 1, 2])
    return parser.parse_args(arguments)


def main() -> None:
    """Train, measure, keep, tell."""
    run_study(_NAME, parsed(), make_cells, keep_tables, tell)


if __name__ == "__main__":
    main()
