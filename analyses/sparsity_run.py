"""One run of Algorithm 1 for the study of sparsity curves: a task and a seed, with its controls."""

import argparse
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from analyses.storage_formats import encoder_folder
from analyses.study_cells import Cell, Row
from rank_lab.curve import CURVE_FILE, Curve
from rank_lab.errors import RankLabError

__all__ = ["ENCODER", "FULL", "QUICK", "TWO_CORES", "Setting", "Size", "cells_of", "run", "setting_of"]

ENCODER = "all-MiniLM-L6-v2"
"""What the development environment's encoder is called in tables."""


@dataclass(frozen=True)
class Size:
    """How much of a task is used, and how long it is trained on.

    Parameters
    ----------
    max_length, train, validation, subset
        Tokens of the longest example; examples of both sets, None for all; how many memorization is measured on.
    batch, dense_steps, stage_steps
        Examples a step, steps of stage 0, and at most of each later one.
    """

    max_length: int
    train: int | None
    validation: int | None
    subset: int
    batch: int
    dense_steps: int
    stage_steps: int


@dataclass(frozen=True)
class Setting:
    """What all cells share.

    Parameters
    ----------
    model
        Empty for the encoder of the development environment; else a folder or hub id.
    tasks
        Of GLUE, with their sizes.
    thresholds
        A stage each.
    targets, rank, learning_rate, gate_rate
        Of the adapter and its training.
    gate_init
        ``normal``: as the published code starts, whose gates cover the range that thresholds sweep; ``ones``.
    check_steps, resamples
        Of the stop rule, and of the bootstrap.
    controls
        Beside the stages. ``as_shipped`` shuts gates in the order of their size, the one-shot control by importance.
    """

    model: str
    tasks: Mapping[str, Size]
    thresholds: tuple[float, ...]
    targets: str
    rank: int = 8
    learning_rate: float = 5e-4
    gate_rate: float = 1e-2
    gate_init: str = "normal"
    check_steps: int = 10
    resamples: int = 1000
    controls: tuple[str, ...] = ("as_shipped", "one_shot_importance", "svd")


_TARGETS = "query,key,value,intermediate.dense,output.dense"

TWO_CORES = Setting(
    "",
    {
        "sst2": Size(32, 1000, 400, 150, 16, 240, 30),
        "stsb": Size(40, 1000, 400, 150, 8, 400, 30),
        "qnli": Size(40, 1200, 300, 100, 8, 400, 30),
        "mrpc": Size(40, 800, 300, 100, 8, 300, 30),
        "cola": Size(32, 1000, 500, 150, 8, 400, 30),
        "rte": Size(40, 300, 277, 100, 8, 300, 30),
    },
    (0.0, 0.7, 0.8, 1.0, 1.25, 1.75, 2.5, 5.0, 12.0),
    _TARGETS,
)
"""Three minutes a cell, of one thread."""

FULL = Setting(
    "FacebookAI/roberta-large",
    {
        name: Size(length, None, None, 1000, 32, dense, 1000)
        for name, length, dense in (
            ("cola", 64, 10_000), ("sst2", 128, 20_000), ("stsb", 128, 6000), ("mrpc", 128, 5000),
            ("qnli", 256, 20_000), ("rte", 320, 4000),
        )
    },
    (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.5, 2.5, 5.0),
    _TARGETS, learning_rate=3e-4, gate_rate=1e-3, check_steps=50,
    controls=("as_shipped", "one_shot", "one_shot_importance", "svd"),
)  # fmt: skip
"""The paper's model and tasks; was not run."""

QUICK = Setting(
    "",
    {name: Size(16, 24, 12, 12, 8, 2, 2) for name in ("rte", "cola")},
    (0.0, 20.0, 30.0),
    _TARGETS, rank=2, check_steps=2, resamples=20, controls=("as_shipped", "svd"),
)  # fmt: skip
"""Seconds, to see that it runs."""


def setting_of(options: argparse.Namespace) -> Setting:
    """The size that was asked for.

    Parameters
    ----------
    options
        With ``quick`` and ``full``.
    """
    return QUICK if options.quick else FULL if options.full else TWO_CORES


def cells_of(setting: Setting, seeds: tuple[int, ...]) -> list[Cell]:
    """A cell for each task and seed, all tasks of a seed before the next seed.

    Parameters
    ----------
    setting
        With the tasks.
    seeds
        Each a run of its own.
    """
    return [Cell(f"{task}-seed{seed}", {"task": task, "seed": seed}) for seed in seeds for task in setting.tasks]


def run(cell: Cell, scratch: Path, setting: Setting, data: Path | None, device: str) -> list[Row]:
    """Algorithm 1 on one task from one seed; what was stopped goes on.

    Parameters
    ----------
    cell
        Which task and seed.
    scratch
        The schedule's own study, which stays: its adapters and predictions are there.
    setting
        Of the study.
    data
        Folder with a folder for each task; None for the hub.
    device
        ``cpu`` or ``cuda``.

    Returns
    -------
    list of dict
        ``kind`` is ``point`` (the columns of :class:`rank_lab.curve.CurveRow`, and ``train_chance`` and
        ``validation_chance``: the scores of one answer for all; stage 0 alone where that learned nothing) or
        ``knee`` (the fields of ``knees.json``).
    """
    from rank_lab.scores import SCORES
    from rank_lab.sora import run_schedule
    from rank_lab.sora.schedule_choices import Adapter, Training
    from rank_lab.sora.schedule_command import make_model_of

    task, seed = str(cell.settings["task"]), int(cell.settings["seed"])
    size, source = setting.tasks[task], setting.model or str(encoder_folder())
    found = _data(task, source, size, data)
    adapter = Adapter(
        rank=setting.rank, targets=setting.targets, gate_lr=setting.gate_rate, gate_init=setting.gate_init
    )
    training = Training(
        learning_rate=setting.learning_rate, batch_size=size.batch, evaluation_batch_size=32, device=device
    )
    score = SCORES[found.task.score]
    try:
        curve = run_schedule(
            make_model_of(source, found, adapter), _by_length(found.train), _by_length(found.validation), scratch,
            _schedule(setting, size, seed), score=score, collator=found.collator, arguments=training.arguments(scratch),
            names={"model": setting.model or ENCODER, "task": task},
        )  # fmt: skip
    except RankLabError:
        ended = _nothing_learned(scratch)
        if ended is None:
            raise
        curve = ended
    chances = _chances(curve, score)
    points: list[Row] = [{"kind": "point"} | asdict(row) | chances for row in curve.records]
    return points + [{"kind": "knee"} | knee for knee in curve.knees]


def _nothing_learned(scratch: Path) -> Curve | None:
    """The curve of a run that ended after stage 0, whose score nothing can be divided by: a result of its own."""
    from rank_lab.sora.stage_row import unusable

    if not (scratch / CURVE_FILE).is_file():
        return None
    curve = Curve.load(scratch)
    ended = [row for row in curve.records if unusable(row.train_reference) or unusable(row.validation_reference)]
    return curve if len(curve.records) == len(ended) == 1 else None


def _schedule(setting: Setting, size: Size, seed: int) -> Any:
    from rank_lab.sora import Schedule, StopRule

    def rule(least: int, most: int) -> StopRule:
        return StopRule(least, most, setting.check_steps, patience=2, tolerance=0.05)

    return Schedule(
        thresholds=setting.thresholds, stop=rule(size.stage_steps, size.stage_steps),
        dense_stop=rule(size.dense_steps, size.dense_steps), controls=setting.controls, subset=size.subset,
        seeds=(seed,), resamples=setting.resamples,
    )  # fmt: skip


def _data(task: str, source: str, size: Size, data: Path | None) -> Any:
    from rank_lab.base_model import load_tokenizer
    from rank_lab.sora.schedule_command import quiet_libraries
    from rank_lab.tasks import Subset, encoded

    quiet_libraries()
    tokenizer = load_tokenizer(source, "a schedule trains a new SoRA adapter from its start")
    part = Subset(train=size.train, validation=size.validation)
    return encoded(task, None if data is None else data / task, tokenizer, max_length=size.max_length, subset=part)


def _by_length(dataset: Any) -> Any:
    """The same examples, short ones first: batches are measured in order, and padded to their longest."""
    lengths = [len(tokens) for tokens in dataset["input_ids"]]
    return dataset.select(sorted(range(len(lengths)), key=lengths.__getitem__))


def _chances(curve: Any, score: Any) -> dict[str, float | None]:
    from rank_lab.sora.predictions import predictions_table

    first = curve.records[0]
    stage = curve.stage_folder(first.seed, first.stage)
    labels = {name: predictions_table(stage, name)["label"].to_numpy() for name in ("train", "validation")}
    return {
        f"{name}_chance": None if score.constant is None else score.constant(values) for name, values in labels.items()
    }
