"""Algorithm 1: how memorization and generalization fall as the threshold rises, as a run that can be gone on with."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import TrainingArguments, default_data_collator, set_seed

from rank_lab.curve import Curve, CurveRow
from rank_lab.scores import Score
from rank_lab.sora.adapter_files import weight_digests
from rank_lab.sora.callback import sora_config_of
from rank_lab.sora.control_rows import run_controls
from rank_lab.sora.gates import gated_modules
from rank_lab.sora.knees import save_knees
from rank_lab.sora.predictions import model_columns
from rank_lab.sora.schedule_checks import (
    refuse_arguments,
    refuse_early_end,
    refuse_model,
    refuse_processes,
    refuse_sets,
)
from rank_lab.sora.schedule_plan import Schedule
from rank_lab.sora.schedule_record import agree_on_file, data_digest, keep_record, plain_adapter, plain_arguments
from rank_lab.sora.seed_run import SeedRun, Shared
from rank_lab.sora.stage_row import EvaluationSets
from rank_lab.sora.study_lock import study_lock
from rank_lab.sora.target import target_counts

__all__ = ["run_schedule"]

SUBSET_FILE = "memorization_subset.json"
START_FILE = "start.json"


def run_schedule(  # noqa: PLR0913  what a run is made of, each by its name
    make_model: Callable[[], nn.Module],
    train: Any,
    validation: Any,
    out: Path | str,
    schedule: Schedule,
    *,
    score: Score,
    collator: Any = None,
    arguments: TrainingArguments | None = None,
    names: Mapping[str, str] | None = None,
    progress: Callable[[CurveRow], None] | None = None,
    watch: Callable[[str], None] | None = None,
) -> Curve:
    r"""Run Algorithm 1: for each threshold of a rising list, train on until a stage's rule ends it, and measure.

    Each stage has a new optimizer with a new learning-rate schedule of
    ``max_steps`` steps, keeps the weights and, by default, the optimizer's moments
    of the stage before, and starts from what is on the disk. Killed anywhere and
    called again with the same arguments, it goes on, and ends with the same curve
    as an uninterrupted run: on CPU bit for bit, ``seconds`` apart. Longer lists of
    thresholds, targets, seeds or controls extend a run; any other change is refused.
    (The last stage keeps its optimizer's state for that, in ``training``.)

    Memorization and generalization are
    :math:`100\, s(\mathrm{stage}) / s(\mathrm{reference})` on a fixed subset of the training set and
    on the validation set, each with a paired bootstrap interval. Losses of the
    curve hold no penalty and are taken without dropout, in the model's own precision.

    Parameters
    ----------
    make_model
        Called with the seed set (``transformers.set_seed``); returns a new
        ``PeftModel`` with one SoRA adapter, ``default``, whose config has mode,
        operator and all else but the threshold. The same seed must give the same weights.
    train, validation
        Data sets with ``labels`` and what the model takes (``datasets.Dataset``).
    out
        Folder of the study: ``schedule.json`` (what is run), ``curve.jsonl``,
        ``memorization_subset.json``, ``knees.json`` at its end, and for each seed and stage ``seed-0/stage-00``
        with the adapter, ``predictions.parquet`` and ``progress.jsonl``, a line a
        check; controls lie beside them in ``seed-0/CONTROL/stage-01``.
    schedule
        Thresholds or targets, stop rules, controls, seeds.
    score
        Its kind says how outputs are read: see :func:`rank_lab.sora.predictions.predictions_of`.
    collator
        From rows to a batch; None for transformers' default, which pads nothing.
    arguments
        A template. Optimizer, learning rate and its shape, warm-up, weight decay,
        clipping, batch sizes, accumulation and bf16 are its own. A stage decides by
        itself: ``output_dir``, ``max_steps``, ``num_train_epochs``, when to log, save and
        evaluate, ``load_best_model_at_end``, ``seed``, ``data_seed``, ``report_to``,
        ``disable_tqdm``, ``logging_nan_inf_filter`` (off: it hides a loss that is NaN).
        None for a rate of 1e-3 that stays constant after a warm-up of 6%: where
        the rate falls to zero, any loss is flat in the end and every stage "converges".
    names
        ``model`` and ``task``, for the rows.
    progress
        Called with each new row.
    watch
        Called with a sentence at each check of a stage.

    Returns
    -------
    Curve
        All rows.

    Raises
    ------
    RankLabError
        If something given cannot be run, the folder was begun with something else or is in use, or nothing can be
        divided by the scores of stage 0.
    NonFiniteError
        If a stage diverges; all rows before it are kept.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from datasets import Dataset
    >>> from peft import get_peft_model
    >>> from transformers import AutoModelForCausalLM, TrainingArguments
    >>> from rank_lab.demo import BASE  # your model: a folder or a hub id
    >>> from rank_lab.scores import SCORES
    >>> from rank_lab.sora import Schedule, SoraConfig, StopRule, run_schedule
    >>> def make_model():
    ...     config = SoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    ...     return get_peft_model(AutoModelForCausalLM.from_pretrained(BASE), config)
    >>> rows = Dataset.from_list([{"input_ids": [5, 6, 7, 8], "labels": [5, 6, 7, 8]}] * 16)  # your tokens
    >>> plan = Schedule(
    ...     thresholds=(0.0, 50.0, 200.0), stop=StopRule(min_steps=8, max_steps=8, check_steps=4), subset=8, controls=()
    ... )
    >>> options = TrainingArguments(learning_rate=2e-3, report_to=[], use_cpu=True)
    >>> out = TemporaryDirectory()
    >>> curve = run_schedule(
    ...     make_model, rows, rows, out.name, plan, score=SCORES["token_accuracy"], arguments=options
    ... )
    >>> curve.rows[["stage", "threshold", "steps", "nonzero_gates", "memorization"]]
       stage  threshold  steps  nonzero_gates  memorization
    0      0        0.0      8             ...         100.0
    1      1       50.0      8             ...
    2      2      200.0      8             ...
    >>> out.cleanup()
    """
    refuse_processes(1)  # before arguments are made, which would wait for the others
    folder = Path(out)
    given = _Given(make_model, train, validation, collator or default_data_collator, score, dict(names or {}))
    arguments = _default_arguments(folder) if arguments is None else arguments
    refuse_arguments(arguments, given.names)
    folder.mkdir(parents=True, exist_ok=True)
    with study_lock(folder):
        curve = _run(given, folder, schedule, arguments, _Told(progress, watch))
        save_knees(curve, score)
        return curve


@dataclass(frozen=True)
class _Given:
    """What is trained, on what, and how it is scored."""

    make_model: Callable[[], nn.Module]
    train: Any
    validation: Any
    collator: Any
    score: Score
    names: dict[str, str]


@dataclass(frozen=True)
class _Told:
    """Who is told what happens."""

    progress: Callable[[CurveRow], None] | None
    watch: Callable[[str], None] | None


def _run(given: _Given, folder: Path, schedule: Schedule, arguments: TrainingArguments, told: _Told) -> Curve:
    first = schedule.seeds[0]
    model = _made(given.make_model, first)
    shared = _shared(given, folder, schedule, arguments, told, model.to(arguments.device))
    curve = Curve.to_continue(folder)
    _keep_record(given, shared)
    for seed in schedule.seeds:
        run = SeedRun(shared, seed, curve)
        if seed != first and not run.done:
            model = _made(given.make_model, seed, other_than=model)
        if seed == first or not run.done:
            run.folder.mkdir(exist_ok=True)
            agree_on_file(run.folder / START_FILE, weight_digests(model), "make_model gives other weights than before")
        if not run.done:
            run.run_stages(model.to(arguments.device))
            run_controls(run, model)
        curve = run.curve
    return curve


def _shared(
    given: _Given, folder: Path, schedule: Schedule, arguments: TrainingArguments, told: _Told, model: nn.Module
) -> Shared:
    """What all seeds share, after a look at whether it fits the model."""
    config = copy.deepcopy(sora_config_of(model))
    refuse_early_end(arguments, schedule, config)
    target_counts("rank", schedule.target_ranks, gated_modules(model))
    target_counts("parameters", schedule.target_parameters, gated_modules(model))
    train, sets = _sets(given, model, schedule, arguments)
    sets.refuse_misfit(model)
    return Shared(
        out=folder,
        schedule=schedule,
        train=train,
        sets=sets,
        arguments=arguments,
        config=config,
        model=given.names.get("model", ""),
        task=given.names.get("task", ""),
        progress=told.progress,
        watch=told.watch,
    )


def _keep_record(given: _Given, shared: Shared) -> None:
    """Write what is run, or refuse what is not what the folder was begun with."""
    sets = shared.sets
    record = {
        "names": given.names,
        "score": {"name": given.score.name, "kind": given.score.kind, "batch_size": sets.batch_size},
        "collator": getattr(given.collator, "__name__", type(given.collator).__name__),
        "adapter": plain_adapter(shared.config),
        "arguments": plain_arguments(shared.arguments),
        "data": {"train": data_digest(shared.train), "validation": data_digest(sets.validation)},
    }
    keep_record(shared.out, shared.schedule, record, shared.arguments.device)
    subset = {"seed": shared.schedule.subset_seed, "of": len(shared.train), "indices": list(sets.indices)}
    agree_on_file(shared.out / SUBSET_FILE, subset, "the memorization subset is another")


def _made(make_model: Callable[[], nn.Module], seed: int, other_than: nn.Module | None = None) -> nn.Module:
    set_seed(seed)
    model = make_model()
    refuse_model(model, other_than)
    return model


def _sets(
    given: _Given, model: nn.Module, schedule: Schedule, arguments: TrainingArguments
) -> tuple[Any, EvaluationSets]:
    columns = model_columns(model)
    train, validation = (_only(dataset, columns) for dataset in (given.train, given.validation))
    refuse_sets(train, validation, schedule.subset)
    order = np.random.default_rng(schedule.subset_seed).permutation(len(train))
    indices = tuple(int(index) for index in np.sort(order[: schedule.subset]))
    sets = EvaluationSets(
        subset=train.select(indices),
        validation=validation,
        indices=indices,
        collator=given.collator,
        batch_size=arguments.per_device_eval_batch_size,
        score=given.score,
        resamples=schedule.resamples,
    )
    return train, sets


def _only(dataset: Any, columns: set[str]) -> Any:
    return dataset.remove_columns([name for name in dataset.column_names if name not in columns])


def _default_arguments(folder: Path) -> TrainingArguments:
    return TrainingArguments(
        str(folder),
        learning_rate=1e-3,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=0.06,
        report_to=[],
        dataloader_pin_memory=torch.cuda.is_available(),
    )
