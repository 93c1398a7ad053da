"""What is learned and what is forgotten, by method, learning rate, seed and step, beside the rank of the change.

``python -m analyses.learning_vs_forgetting`` adapts a small Llama that has read English prose
(:mod:`analyses.pretrain_study_base`) to Python code and to grade-school maths: full fine-tuning, LoRA of rank 16 and
256 on attention, feed-forward or both, SoRA, AdaLoRA, PiSSA and a bottleneck adapter. Each learns at four rates with
one seed; the rate at which it learned most, by held-out texts that are used for nothing else, is repeated with all
seeds. Learning is the loss on held-out code, or on held-out solutions given their problems; forgetting that on held-out
prose. The claims are those of arXiv 2405.09673, and a few of 2410.21228 and of "LoRA Without Regret".

``--full --device cuda --base FOLDER`` is for a GPU and a Llama in a folder, such as a snapshot of the hub's, with rates
a tenth of these; it was not run. Tables, page and pictures are kept in ``results/learning_vs_forgetting/``;
``--redraw`` makes page and pictures from the tables alone.
"""

import argparse
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, TrainingArguments

from analyses.kept_results import keep
from analyses.pretrain_demo_base import sha256_of
from analyses.pretrain_study_base import STUDY_BASE, study_base
from analyses.study_cells import Cell, open_study, rows_of, seconds_of, work_off
from analyses.study_options import DATA, run_study, study_parser
from analyses.trade_off_arms import ARMS, QUICK_ARMS, Arm, arm_named, choices_of
from analyses.trade_off_losses import losses_of, mean_loss
from analyses.trade_off_ranks import WITHOUT_UPDATE, functional_ranks_of, intruders_of, ranks_of
from analyses.trade_off_report import tell
from analyses.trade_off_tables import tables
from analyses.trade_off_texts import TARGETS, Texts, read_texts, task_data
from rank_lab.demo import BASE
from rank_lab.evaluation.sources import Tuned, tuned_of
from rank_lab.evaluation.tuned_models import LoadOptions, Shelf, base_tuned
from rank_lab.tasks import TaskData
from rank_lab.training.finetune import TrainingRun, finetune
from rank_lab.training.methods import METHODS

__all__ = ["FULL", "QUICK", "SIZE", "Size", "Work", "chosen_rate", "main"]

_NAME = "learning_vs_forgetting"


@dataclass(frozen=True)
class Size:
    """Of every run.

    Parameters
    ----------
    context, batch, steps
        Tokens of an example, examples a step, steps.
    save_at
        Steps of the checkpoints.
    counts
        Held-out texts: to choose rates by, to report on, and of each source of prose.
    documents
        To learn, of each target; None for all.
    """

    context: int = 256
    batch: int = 4
    steps: int = 64
    save_at: tuple[int, ...] = (8, 16, 32, 64)
    counts: tuple[int, int, int] = (16, 32, 14)
    documents: int | None = None


SIZE = Size()
QUICK = Size(64, 2, 4, (2, 4), (4, 4, 2), 24)
_OF_LARGE_MODELS = (
    0.1  # of the rates here: 2.5e-5 and 1e-4 for full fine-tuning, 1e-4 and 4e-4 for LoRA stand in the middle
)
FULL = Size(1024, 32, 2000, (62, 125, 250, 500, 1000, 2000), (200, 400, 200))


class Work:
    """What cells do, with all that they share.

    Parameters
    ----------
    options
        Of the command line.
    texts
        Of the study.
    """

    def __init__(self, options: argparse.Namespace, texts: Texts) -> None:
        self.options, self.texts, self.size = options, texts, options.size
        self._data: dict[str, TaskData] = {}

    @cached_property
    def tokenizer(self) -> Any:
        """Of the base."""
        return AutoTokenizer.from_pretrained(self.options.base)

    def data(self, target: str) -> TaskData:
        """A target, read once."""
        if target not in self._data:
            self._data[target] = task_data(self.texts, target, self.tokenizer, self.size.context)
        return self._data[target]

    def __call__(self, cell: Cell, scratch: Path) -> list[dict[str, Any]]:
        """The base, measured; or a run, trained, with its end; or what came before the end of a run that matters."""
        settings = cell.settings
        if settings["arm"] == "base":
            return [{"step": 0, **self._losses(base_tuned(str(self.options.base)), str(settings["target"]))}]
        return self._run(cell, scratch) if settings["part"] == "run" else self._along(cell)

    def _run(self, cell: Cell, scratch: Path) -> list[dict[str, Any]]:
        arm = arm_named(str(cell.settings["arm"]))
        arguments = self._arguments(scratch, float(cell.settings["rate"]), int(cell.settings["seed"]))
        choices = choices_of(arm, self.size.steps)
        run = TrainingRun(self.options.base, METHODS[arm.method], choices, arguments, self.size.save_at)
        done = finetune(run, self.data(str(cell.settings["target"])), scratch)
        for unused in scratch.glob("checkpoint-*/optimizer.pt"):
            unused.unlink()  # the run is whole; its checkpoints are kept to be measured on
        row = self._measured(cell, tuned_of(scratch)[-1])
        return [{**row, "parameters": done.record.trainable_parameters}]

    def _along(self, cell: Cell) -> list[dict[str, Any]]:
        """Checkpoints before the last; of the last the intruders and the rank of what it does."""
        scratch = self.options.study / "work" / cell.name.removesuffix("-along")
        checkpoints = tuned_of(scratch)
        rows = [self._measured(cell, tuned) for tuned in checkpoints[:-1]]
        last = {"step": self.size.steps, "end": True, **self._functional(checkpoints[-1], str(cell.settings["target"]))}
        if arm_named(str(cell.settings["arm"])).method not in WITHOUT_UPDATE:
            last |= intruders_of(Path(checkpoints[-1].source), self.options.base)
        return [*rows, last]

    def _functional(self, tuned: Tuned, target: str) -> dict[str, float]:
        shelf = Shelf(LoadOptions(base=str(self.options.base), device=self.options.device))
        with shelf.loaded(tuned) as found:
            base = shelf.untuned(found, str(self.options.base))
            return functional_ranks_of(base, found, self.texts.report[target], self.size.context)

    def _measured(self, cell: Cell, tuned: Tuned) -> dict[str, Any]:
        row = {"step": tuned.step, **self._losses(tuned, str(cell.settings["target"]))}
        if arm_named(str(cell.settings["arm"])).method in WITHOUT_UPDATE:
            return row
        return row | ranks_of(Path(tuned.source), self.options.base, self.options.study / ".spectra")

    def _arguments(self, folder: Path, rate: float, seed: int) -> TrainingArguments:
        return TrainingArguments(
            str(folder),
            max_steps=self.size.steps,
            per_device_train_batch_size=self.size.batch,
            per_device_eval_batch_size=4 * self.size.batch,
            learning_rate=rate,
            lr_scheduler_type="constant_with_warmup",  # a checkpoint is then what a shorter run would have come to
            warmup_steps=max(1, self.size.steps // 20),
            weight_decay=0.0,
            seed=seed,
            use_cpu=self.options.device == "cpu",
            dataloader_pin_memory=False,
            report_to=[],
        )

    def _losses(self, tuned: Tuned, target: str) -> dict[str, Any]:
        """Nats a token on each set, and sums of each text."""
        shelf = Shelf(LoadOptions(base=str(self.options.base), device=self.options.device))
        is_last = tuned.step in (None, self.size.steps)
        sets = (*([self.texts.choose[target]] if is_last else []), self.texts.report[target], *self.texts.prose)
        with shelf.loaded(tuned) as found:
            losses = losses_of(found.model, self.tokenizer, sets, self.size.context)
        means = {f"loss_{name}": mean_loss([each]) for name, each in losses.items()}
        prose = mean_loss([losses[each.name] for each in self.texts.prose])
        return {**means, "loss_prose": prose, "losses": losses}


def _cell(target: str, arm: Arm | None, rate: float, seed: int, part: str = "run") -> Cell:
    called = "base" if arm is None else arm.name
    name = f"{target}-{called}-lr{rate:g}-seed{seed}" + ("" if part == "run" else f"-{part}")
    settings = {"target": target, "arm": called, "rate": rate, "seed": seed, "part": part}
    return Cell(name, settings | {"choices": "" if arm is None else repr(arm.choices)})


def _bases() -> list[Cell]:
    return [_cell(target, None, 0.0, 0) for target in TARGETS]


def _sweep(options: argparse.Namespace, target: str, arm: Arm) -> list[Cell]:
    return [_cell(target, arm, rate, options.seeds[0]) for rate in arm.rates]


def chosen_rate(options: argparse.Namespace, target: str, arm: Arm) -> float | None:
    """The rate at which an arm learned most with the first seed, by the texts to choose by; None where a run lacks.

    A rate at which training came to no finite loss is not chosen.

    Parameters
    ----------
    options
        Of the command line.
    target, arm
        Which.
    """
    cells = _sweep(options, target, arm)
    if not all((options.study / "cells" / f"{cell.name}.json").is_file() for cell in cells):
        return None
    rows = rows_of(options.study, cells)
    last = rows[rows["step"] == options.size.steps]
    return float(last.loc[last["loss_choose"].idxmin(), "rate"])


def _repeats(options: argparse.Namespace, target: str, arm: Arm) -> list[Cell]:
    """The other seeds at the rate that was chosen, then what came before their ends."""
    rate = chosen_rate(options, target, arm)
    if rate is None:
        return []
    runs = [_cell(target, arm, rate, seed) for seed in options.seeds[1:]]
    return [*runs, *(_cell(target, arm, rate, seed, "along") for seed in options.seeds)]


def _groups(options: argparse.Namespace) -> Iterator[tuple[str, Arm]]:
    for arm in options.arms:
        for target in TARGETS:
            yield target, arm


def make(options: argparse.Namespace) -> None:
    """Work off what is not done yet.

    Parameters
    ----------
    options
        Of the command line.
    """
    texts = _opened(options)
    work = Work(options, texts)
    work_off(options.study, _bases(), work)
    for target, arm in _groups(options):
        work_off(options.study, _sweep(options, target, arm), work)
        work_off(options.study, _repeats(options, target, arm), work)


def _opened(options: argparse.Namespace) -> Texts:
    study_base(options.base)
    options.study.mkdir(parents=True, exist_ok=True)
    texts = read_texts(options.study, options.data, options.size.counts, options.size.documents)
    open_study(options.study, _settings(options, texts))
    return texts


def _settings(options: argparse.Namespace, texts: Texts) -> dict[str, Any]:
    return {
        "base": sha256_of(options.base / "model.safetensors"),
        "texts": texts.sha256,
        "size": asdict(options.size),
    }


def _keep(options: argparse.Namespace) -> None:
    texts = _opened(options)
    runs = [cell for target, arm in _groups(options) for cell in _sweep(options, target, arm)]
    further = [cell for target, arm in _groups(options) for cell in _repeats(options, target, arm)]
    rows_of(options.study, runs)  # says what lacks, before anything is chosen
    cells = [*_bases(), *runs, *further]
    rows = rows_of(options.study, cells)
    settings = _settings(options, texts) | {"seeds": options.seeds, "arms": [repr(arm) for arm in options.arms]}
    keep(options.out, settings, tables(rows, options.arms), seconds_of(options.study, cells))


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Options of the command line.

    Parameters
    ----------
    arguments
        None for those of the program.
    """
    parser = study_parser(str(__doc__), _NAME)
    parser.add_argument("--base", type=Path, help=f"folder of the base; default {STUDY_BASE}, of --quick the demo's")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the data sets")
    names = [arm.name for arm in ARMS]
    parser.add_argument("--arms", nargs="+", choices=names, default=names, help="what is compared; default all")
    options = parser.parse_args(arguments)
    options.base = (options.base or (BASE if options.quick else STUDY_BASE)).resolve()
    options.size = QUICK if options.quick else FULL if options.full else SIZE
    chosen = QUICK_ARMS if options.quick else tuple(arm for arm in ARMS if arm.name in options.arms)
    scale = _OF_LARGE_MODELS if options.full else 1.0
    options.arms = tuple(replace(arm, rates=tuple(scale * rate for rate in arm.rates)) for arm in chosen)
    options.seeds = options.seeds or ([0] if options.quick else [0, 1, 2])
    return options


def main() -> None:
    """Train, measure, keep, tell."""
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # PEFT asks by the older name
    run_study(_NAME, parsed(), make, _keep, tell)


if __name__ == "__main__":
    main()
