"""Where an adapter stands and how wide it is: series, parallel and LoRA in attention, MLP or both, of four sizes.

``python -m analyses.adapter_placement`` adapts the base of the studies (see
:mod:`analyses.pretrain_study_base`), which has read English prose, to Python code: the question of LLM-Adapters, arXiv
2304.01933. All have the same training; of each type, place and size a rate is chosen by one rule from one ladder, by
the loss on one half of the held-out code, and what is told is the loss on the other half, over all seeds. What
LLM-Adapters call parallel stands beside single linear layers; that of He et al. (2110.04366) beside whole sublayers:
both are here.

A run that was stopped goes on; ``--widths`` makes or keeps some of the sizes alone. ``--full`` is for a GPU and a base
from the hub (``--base``) and was not run. Tables and pictures are kept in ``results/adapter_placement``.
"""

import argparse
import dataclasses
import json
import math
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from analyses.adapter_placement_report import page, tables
from analyses.kept_results import keep as keep_results
from analyses.kept_results import kept
from analyses.pretrain_study_base import STUDY_BASE, study_base
from analyses.study_cells import Cell, Row, open_study, rows_of, seconds_of, work_off
from analyses.study_options import run_study, study_parser
from rank_lab.demo import BASE
from rank_lab.demo.task_files import Texts, write_texts
from rank_lab.durable import held, write_whole
from rank_lab.errors import NonFiniteError, RankLabError
from rank_lab.tasks import Task, TaskData
from rank_lab.training.method import MethodChoices

__all__ = ["FULL", "QUICK", "SIZES", "Sizes", "cells", "choices_of", "climbed", "main"]

_NAME = "adapter_placement"
_CODE = Task("code", "causal", ("text",), "", "token_accuracy")
PLACES = ("attention", "mlp", "both")
_GRID = ("methods", "places", "sizes")  # said by each cell: a study may be made, and told, in parts


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What all runs share.

    Parameters
    ----------
    methods, places, sizes
        The grid: methods of the registry, places, bottlenecks or ranks.
    rates
        Ladder of learning rates, one for all: three from its middle are tried, then further ones as long as the best is
        at an end of those tried.
    steps, batch, context
        Of the training: optimizer steps, windows of each, tokens of a window.
    documents, pieces
        Files of code that are learned from, and held-out texts of 400 characters: half to choose the rate, half to
        report on.
    """

    methods: tuple[str, ...] = ("lora", "series", "parallel", "parallel_linear")
    places: tuple[str, ...] = PLACES
    sizes: tuple[int, ...] = (4, 16, 64, 256)
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    steps: int = 50
    batch: int = 4
    context: int = 64
    documents: int | None = 150
    pieces: int = 64


SIZES = Sizes()
QUICK = Sizes(("lora", "series"), ("attention", "both"), (2, 8), (1e-3, 3e-3, 1e-2), 3, 2, 32, 6, 4)
FULL = Sizes(
    sizes=(16, 64, 256, 512),
    rates=(3e-5, 1e-4, 3e-4, 1e-3, 3e-3),
    steps=2000,
    batch=16,
    context=512,
    documents=None,
    pieces=1000,
)


def choices_of(method: str, place: str, size: int) -> MethodChoices:
    """A place and a size in each method's own words.

    Parameters
    ----------
    method, place, size
        Of the grid.

    Examples
    --------
    >>> choices_of("lora", "both", 4).targets, choices_of("series", "both", 4).place
    ('all', 'both')
    """
    if method in {"series", "parallel"}:
        return MethodChoices(bottleneck=size, place=place)
    targets = "all" if place == "both" else place
    return MethodChoices(rank=size, targets=targets) if method == "lora" else MethodChoices(
        bottleneck=size, targets=targets
    )  # fmt: skip


def cells(sizes: Sizes) -> list[Cell]:
    """The base as it is, then every point of the grid, the middle sizes first.

    Parameters
    ----------
    sizes
        Of the study.
    """
    middle = len(sizes.sizes) / 2
    order = sorted(sizes.sizes, key=lambda size: abs(sizes.sizes.index(size) - middle))
    grid = [
        Cell(f"{method}-{place}-{size}", {"method": method, "place": place, "size": size})
        for size in order
        for method in sizes.methods
        for place in sizes.places
    ]
    return [Cell("base", {"method": "base", "place": "", "size": 0}), *grid]


def make(options: argparse.Namespace) -> None:
    """Train and measure what is not there yet.

    Parameters
    ----------
    options
        Of the command line.
    """
    if options.base == STUDY_BASE:
        study_base(STUDY_BASE)
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # PEFT asks by the older name
    sizes: Sizes = options.sizes
    shared = {name: value for name, value in _settings(options).items() if name not in _GRID}
    open_study(options.study, shared)

    def work(cell: Cell, scratch: Path) -> list[Row]:
        data = _data(options.study / "data", str(options.base), sizes)
        if cell.name == "base":
            return [{"rate": math.nan, "seed": -1, "chosen": True, "parameters": 0} | _untrained(options, data)]
        return list(_point(options, cell.settings, data, scratch))

    work_off(options.study, cells(sizes), work)


def _point(options: argparse.Namespace, settings: Mapping[str, Any], data: "_Data", scratch: Path) -> Iterator[Row]:
    """The sweep on the first seed, then all other seeds at the rate that was best on the half that chooses."""
    first, *others = options.seeds
    rows: dict[int, dict[str, Any]] = {}

    def loss_at(rung: int) -> float:
        rows[rung] = _run(options, settings, (options.sizes.rates[rung], first), data, scratch)
        return float(rows[rung]["choice_loss"])

    best = climbed(loss_at, len(options.sizes.rates))
    if not math.isfinite(rows[best]["choice_loss"]):
        raise RankLabError(f"{scratch.name}: diverged at every rate that was tried; give lower ones in Sizes.rates.")
    for rung in sorted(rows):
        yield rows[rung] | {"chosen": rung == best}
    for seed in others:
        yield _run(options, settings, (options.sizes.rates[best], seed), data, scratch) | {"chosen": True}


def climbed(loss_at: Callable[[int], float], rungs: int) -> int:
    """The best rung of a ladder among those tried: three of its middle, then on past an end that is best.

    Parameters
    ----------
    loss_at
        Of a rung, which is then not asked for again; NaN where the training diverged.
    rungs
        How many there are, 3 or more.

    Examples
    --------
    >>> climbed([5.0, 3.0, 2.0, 1.0, 4.0].__getitem__, 5), climbed([5.0, 1.0, 2.0, math.nan, 0.0].__getitem__, 5)
    (3, 1)
    """
    low, high = rungs // 2 - 1, rungs // 2 + 1
    tried = {rung: loss_at(rung) for rung in range(low, high + 1)}
    while True:
        best = min(tried, key=lambda rung: math.inf if math.isnan(tried[rung]) else tried[rung])
        further = best - 1 if best == min(tried) else best + 1
        if further in tried or not 0 <= further < rungs:
            return best
        tried[further] = loss_at(further)


def _run(
    options: argparse.Namespace, settings: Mapping[str, Any], how: tuple[float, int], data: "_Data", scratch: Path
) -> dict[str, Any]:
    """One training, kept on the disk, so that a cell that was stopped goes on at the next of its runs."""
    rate, seed = how
    file = scratch / f"lr{rate:g}-seed{seed}.json"
    if not file.is_file():
        folder = scratch / file.stem
        shutil.rmtree(folder, ignore_errors=True)  # a complete one would not be trained again, nor read into the model
        try:
            row = _train(options, settings, how, data, folder)
        except NonFiniteError:
            row = dict.fromkeys(("choice_loss", "report_loss", "train_loss"), math.nan) | {"parameters": None}
        shutil.rmtree(folder, ignore_errors=True)
        write_whole(file, json.dumps({"rate": rate, "seed": seed, **row}) + "\n")
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _train(
    options: argparse.Namespace, settings: Mapping[str, Any], how: tuple[float, int], data: "_Data", folder: Path
) -> dict[str, Any]:
    from transformers import TrainingArguments

    from rank_lab.base_model import load_base
    from rank_lab.training.finetune import TrainingRun, finetune
    from rank_lab.training.methods import METHODS

    sizes: Sizes = options.sizes
    rate, seed = how
    model = load_base(str(options.base), "causal", classes=None, dtype="float32")
    arguments = TrainingArguments(
        str(folder), max_steps=sizes.steps, per_device_train_batch_size=sizes.batch, learning_rate=rate,
        lr_scheduler_type="linear", warmup_steps=sizes.steps // 20, weight_decay=0.0, seed=seed,
        use_cpu=options.device == "cpu", dataloader_pin_memory=False, report_to=[],
    )  # fmt: skip
    choices = choices_of(settings["method"], settings["place"], settings["size"])
    done = finetune(TrainingRun(model, METHODS[settings["method"]], choices, arguments, 1), data.task, folder)
    return _losses(model, data, options) | {
        "train_loss": done.losses[-1].train_loss,
        "parameters": done.record.trainable_parameters,
    }


@dataclasses.dataclass(frozen=True)
class _Data:
    """What is learned, and what is held out as the model takes it."""

    task: TaskData
    pieces: tuple[Any, ...]
    texts: int


@cache
def _data(folder: Path, base: str, sizes: Sizes) -> _Data:
    from transformers import AutoTokenizer

    from rank_lab.evaluation.windows import causal_pieces, tokens_of
    from rank_lab.tasks import Subset, encoded

    texts = _texts(folder, sizes)
    tokenizer = AutoTokenizer.from_pretrained(base)
    task = encoded(
        _CODE, texts.folder, tokenizer, max_length=sizes.context, packed=True,
        subset=Subset(validation=min(2, sizes.pieces)),  # what a run notes itself; what is told is measured after it
    )  # fmt: skip
    held_out = [json.loads(line)["text"] for line in texts.target.read_text(encoding="utf-8").splitlines()]
    pieces = [
        piece
        for number, text in enumerate(held_out)
        for piece in causal_pieces(number, tokens_of(tokenizer, text)[0], sizes.context, sizes.context)
    ]
    return _Data(task, tuple(pieces), len(held_out))


def _texts(folder: Path, sizes: Sizes) -> Texts:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with held(folder.parent / f".{folder.name}.lock"):  # processes of a study write the same files
        return write_texts(folder, pieces=sizes.pieces, documents=sizes.documents)


def _losses(model: Any, data: _Data, options: argparse.Namespace) -> dict[str, float]:
    """Nats a token on both halves of the held-out code: the first chooses, the second is reported."""
    from rank_lab.evaluation.token_losses import token_sums

    found = token_sums(model, data.pieces, data.texts, batch_size=4 * options.sizes.batch)
    half = data.texts // 2
    parts = {"choice_loss": slice(None, half), "report_loss": slice(half, None)}
    return {name: float(found.losses[part].sum() / found.tokens[part].sum()) for name, part in parts.items()}


def _untrained(options: argparse.Namespace, data: _Data) -> dict[str, float]:
    from rank_lab.base_model import load_base

    return _losses(load_base(str(options.base), "causal", classes=None, dtype="float32"), data, options)


def keep(options: argparse.Namespace) -> None:
    """From the cells to the tables.

    Parameters
    ----------
    options
        Of the command line.
    """
    every = cells(options.sizes)
    runs = rows_of(options.study, every)
    keep_results(options.out, _settings(options), tables(runs), seconds_of(options.study, every))


def tell(folder: Path, pictures: bool) -> None:
    """Page and pictures from the kept tables.

    Parameters
    ----------
    folder
        Of the results.
    pictures
        Whether they are drawn.
    """
    found = kept(folder)
    (folder / "README.md").write_text(page(found), encoding="utf-8")
    if pictures:
        from analyses.adapter_placement_picture import draw  # plotly
        from analyses.kept_results import write_picture

        for name, figure in draw(found.tables["points"], found.tables["base"]).items():
            write_picture(figure, folder, name)


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    from rank_lab.demo.task_files import texts_sha256

    own = dataclasses.asdict(options.sizes) | {"seeds": options.seeds}
    return own | {"base": _base_words(options.base), "texts": texts_sha256()}


def _base_words(base: Path | str) -> str:
    """Its name, and what its weights are: folders move."""
    if Path(base) == BASE:
        return "the demo's base"
    file = Path(base, "model.safetensors")
    if not file.is_file():
        return str(base)
    import hashlib

    return f"{Path(base).name}, {hashlib.sha256(file.read_bytes()).hexdigest()[:12]}"


def _parsed() -> argparse.Namespace:
    parser = study_parser(__doc__ or "", _NAME)
    parser.add_argument(
        "--base", help=f"folder or hub id of a causal model; default {STUDY_BASE}, of --quick the demo's"
    )
    parser.add_argument("--widths", type=int, nargs="+", help="only these sizes of the grid: made, or kept, by parts")
    options = parser.parse_args()
    options.sizes = QUICK if options.quick else FULL if options.full else SIZES
    if options.widths:
        options.sizes = dataclasses.replace(options.sizes, sizes=tuple(sorted(options.widths)))
    options.seeds = options.seeds or ([0, 1] if options.quick else [0, 1, 2])
    options.base = options.base or (BASE if options.quick else STUDY_BASE)
    return options


def main() -> None:
    """Train, measure, keep, tell."""
    run_study(_NAME, _parsed(), make, keep, tell)


if __name__ == "__main__":
    main()
