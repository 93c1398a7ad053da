"""Training a base model by any method: adapted, trained, saved on a schedule, and gone on with after a stop."""

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainingArguments, set_seed

from rank_lab.base_model import load_base, refuse_unfit_data
from rank_lab.errors import CheckpointError, RankLabError, is_out_of_memory
from rank_lab.kept_start import INITIAL
from rank_lab.masking import MaskingCollator
from rank_lab.plain_text import first_line
from rank_lab.sora.adapter_files import weight_digests
from rank_lab.sora.predictions import model_columns
from rank_lab.sora.stage_checkpoints import last_whole
from rank_lab.tasks import TaskData
from rank_lab.training.checkpoint_steps import first_change, steps_to_save
from rank_lab.training.finetune_checks import refuse_adapted, refuse_arguments, refuse_crowded
from rank_lab.training.finetune_trainer import trainer_class
from rank_lab.training.loss_rows import LossRow, read_losses, write_rows
from rank_lab.training.method import Method, MethodChoices
from rank_lab.training.run_callback import RunCallback
from rank_lab.training.run_configuration import RunSettings, keep_settings, record_of, recorded_arguments
from rank_lab.training.run_folder import held_folder
from rank_lab.training.validation import TargetBatches
from rank_lab.training_record import TrainingRecord

__all__ = ["Finetuned", "TrainingRun", "Watching", "finetune"]

CHECKPOINTS = 8


@dataclass(frozen=True)
class TrainingRun:
    """What is trained, and how.

    Parameters
    ----------
    base
        Folder or hub id of the base; or the model itself, which is changed.
    method, choices
        How it is adapted; the steps of the choices are those of the arguments, whatever they are.
    arguments
        transformers' ``TrainingArguments``, with ``max_steps``: optimizer, rate, batch, seed, precision and so on.
        When to log, evaluate and save is decided by `save_at`.
    save_at
        How many checkpoints, spaced by the logarithm of the step from the first that changes something (the second
        where there is a warm-up, which begins at a rate of 0), or the steps themselves; the last is always one.
    """

    base: str | Path | nn.Module
    method: Method
    choices: MethodChoices
    arguments: TrainingArguments
    save_at: int | Sequence[int] = CHECKPOINTS


@dataclass(frozen=True)
class Watching:
    """Who is told of a run.

    Parameters
    ----------
    row
        Called with the losses of each checkpoint.
    progress
        Called with steps taken and steps in all after each.
    callbacks
        transformers' callbacks, such as one that tracks ranks, or what makes them of the run's record; all of theirs
        is done before a checkpoint counts as whole.
    """

    row: Callable[[LossRow], None] | None = None
    progress: Callable[[int, int], None] | None = None
    callbacks: Sequence[TrainerCallback] | Callable[[TrainingRecord], Sequence[TrainerCallback]] = ()


@dataclass(frozen=True)
class Finetuned:
    """A run that is complete.

    Parameters
    ----------
    folder
        Holds ``checkpoint-N``, ``training.json`` and ``losses.jsonl``.
    record
        How it was trained.
    losses
        Before training and at each checkpoint.
    save_at
        Steps of the checkpoints.
    resumed_from
        Step that this call went on from; 0 for a run from its start, the last where nothing was left to do.
    """

    folder: Path
    record: TrainingRecord
    losses: tuple[LossRow, ...]
    save_at: tuple[int, ...]
    resumed_from: int

    @property
    def was_complete(self) -> bool:
        """Whether nothing was left to do."""
        return self.resumed_from == self.record.steps


def finetune(
    run: TrainingRun, data: TaskData, out: Path | str, *, resume: bool = True, watching: Watching | None = None
) -> Finetuned:
    """Adapt a base by a method, train it, and save it on a schedule.

    A run that was stopped, at whatever moment, goes on from its last whole checkpoint, and comes to what it would have
    come to without the stop: on a CPU to the last bit. One that is complete is left as it is, and so is a model that
    was given as an object: :attr:`Finetuned.was_complete` says that the trained one is in the last checkpoint alone.

    Parameters
    ----------
    run
        What is trained, and how.
    data
        Its two sets.
    out
        Folder that receives everything.
    resume
        Whether a run that was begun there may go on.
    watching
        Who is told.

    Returns
    -------
    Finetuned

    Raises
    ------
    NonFiniteError
        If it diverges; checkpoints before that are kept.
    RankLabError
        If something cannot be trained with, other settings were begun with in that folder, or memory does not suffice.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from transformers import AutoTokenizer, TrainingArguments
    >>> from rank_lab.demo import BASE
    >>> from rank_lab.tasks import Task, encoded
    >>> rows = [{"text": f"{word} comes after one"} for word in ("two", "three", "four")]
    >>> task = Task("counting", "causal", ("text",), "", "token_accuracy")
    >>> data = encoded(task, {"train": rows, "validation": rows}, AutoTokenizer.from_pretrained(BASE))
    >>> full = Method("full", "full fine-tuning", "", 3e-4, lambda model, choices, kind: model)
    >>> with TemporaryDirectory() as folder:
    ...     arguments = TrainingArguments(
    ...         folder, max_steps=2, per_device_train_batch_size=3, use_cpu=True, dataloader_pin_memory=False,
    ...         report_to=[])
    ...     done = finetune(TrainingRun(BASE, full, MethodChoices(), arguments), data, folder)
    >>> [row.step for row in done.losses], done.losses[-1].validation_loss < done.losses[0].validation_loss
    ([0, 1, 2], True)
    """
    folder = Path(out)
    refuse_arguments(run.arguments, data, folder)
    arguments = _run_arguments(run.arguments, folder)
    run = dataclasses.replace(
        run, arguments=arguments, choices=dataclasses.replace(run.choices, steps=arguments.max_steps)
    )
    with held_folder(folder, first=arguments.process_index == 0), _memory_named(folder):
        return _finetune(run, data, folder, resume, watching or Watching())


def _finetune(run: TrainingRun, data: TaskData, folder: Path, resume: bool, watching: Watching) -> Finetuned:
    arguments = run.arguments
    save_at = steps_to_save(arguments.max_steps, run.save_at, first_change(arguments))
    set_seed(arguments.seed)
    base, name = _base(run.base, data)
    digest = _digest(base)
    refuse_crowded(base, data, run.method.name, run.choices.prompt_tokens)
    model = _adapted(base, run, data.task.kind)
    record = record_of(run.method, run.choices, data, arguments, name, model)
    settings = RunSettings(record, save_at, recorded_arguments(arguments), digest)
    if arguments.process_index == 0:
        if not resume and any(folder.glob("checkpoint-*")):
            raise RankLabError(f"{folder}: holds checkpoints of a run already; go on with it, or give a new folder.")
        keep_settings(folder, settings, arguments.device)
        if run.method.starts_elsewhere and not (folder / INITIAL).is_dir():
            _keep_start(model, folder)
        last_whole(folder)  # removes what is not whole, before any process looks
    arguments.distributed_state.wait_for_everyone()
    last = last_whole(folder)
    begun = 0 if last is None else int(last.name.rpartition("-")[2])
    if begun < arguments.max_steps:
        made = watching.callbacks(record) if callable(watching.callbacks) else watching.callbacks
        _train(model, run, data, (save_at, last, begun), watching, list(made))
    return Finetuned(folder, TrainingRecord.load(folder), read_losses(folder), save_at, begun)


def _keep_start(model: Any, folder: Path) -> None:
    """The adapter as it starts: there whole or not at all."""
    partial = folder / f".{INITIAL}.part"
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    partial.rename(folder / INITIAL)


def _train(
    model: nn.Module,
    run: TrainingRun,
    data: TaskData,
    plan: tuple[Sequence[int], Path | None, int],
    watching: Watching,
    callbacks: list[TrainerCallback],
) -> None:
    save_at, last, begun = plan
    folder = Path(run.arguments.output_dir)
    callback = RunCallback(folder, save_at, _kept_rows(folder, begun, run.arguments), watching.row, watching.progress)
    columns = model_columns(model) | {"row", "special_tokens_mask"}
    trainer = trainer_class(model)(
        run_callback=callback,
        batches=TargetBatches(_seeded(data.collator, run.arguments.seed), data.task.kind),
        model=model,
        args=run.arguments,
        train_dataset=_only(data.train, columns),
        eval_dataset=_only(data.validation, columns),
        callbacks=callbacks,
    )
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    # Mixed precision wraps the model's forward pass, once for every Trainer.
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    if last_whole(folder) != folder / f"checkpoint-{run.arguments.max_steps}":
        raise RankLabError(
            f"{folder}: training ended before step {run.arguments.max_steps}; is a callback among those given that"
            " stops it, or an epoch without a batch?"
        )


def _kept_rows(folder: Path, begun: int, arguments: TrainingArguments) -> LossRow | None:
    """The row of the checkpoint that training goes on from; rows after it, of checkpoints never completed, go."""
    rows = [row for row in read_losses(folder) if begun and row.step <= begun]
    if begun and (not rows or rows[-1].step != begun):
        raise CheckpointError(
            f"{folder}: losses.jsonl has no row of step {begun}, whose checkpoint is there; restore it from a copy, or"
            " train in a new folder."
        )
    arguments.distributed_state.wait_for_everyone()
    if arguments.process_index == 0:
        write_rows(folder, rows)
    return rows[-1] if rows else None


def _base(source: str | Path | nn.Module, data: TaskData) -> tuple[Any, str]:
    if isinstance(source, nn.Module):
        model: Any = source
        name = str(getattr(model, "name_or_path", "") or type(model).__name__)
    else:
        model, name = load_base(source, data.task.kind, classes=data.classes, dtype="float32"), str(source)
    refuse_unfit_data(model, data, name)
    if getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = data.source["tokenizer"]["pad_token_id"]
    return model, name


def _digest(base: nn.Module) -> dict[str, Any]:
    """Of a sample of each tensor: a base may be large."""
    trained = [value for value in base.parameters() if value.requires_grad]
    for value in trained:
        value.requires_grad_(False)
    try:
        return dict(weight_digests(base)["frozen_sample"])
    finally:
        for value in trained:
            value.requires_grad_(True)


def _adapted(base: Any, run: TrainingRun, kind: str) -> nn.Module:
    try:
        model = run.method.adapt(base, run.choices, kind)
    except (ValueError, NotImplementedError) as error:
        if isinstance(error, RankLabError):
            raise
        raise RankLabError(f"method {run.method.name}: {first_line(error)}") from error
    refuse_adapted(model, run.arguments, run.method.name)
    if not any(value.requires_grad for value in model.parameters()):
        raise RankLabError(f"method {run.method.name}: nothing of {type(base).__name__} is trained; choose targets.")
    return model


def _seeded(collator: Any, seed: int) -> Any:
    return collator.seeded(seed) if isinstance(collator, MaskingCollator) else collator


def _only(dataset: Any, columns: set[str]) -> Any:
    return dataset.remove_columns([name for name in dataset.column_names if name not in columns])


def _run_arguments(template: TrainingArguments, folder: Path) -> TrainingArguments:
    """The user's, with what a run decides by itself."""
    return dataclasses.replace(
        template,
        output_dir=str(folder),
        logging_strategy="no",
        logging_first_step=False,
        logging_nan_inf_filter=False,  # the default would show the mean of the others in place of a NaN
        save_strategy="no",
        save_total_limit=None,
        save_only_model=False,
        eval_strategy="no",
        eval_on_start=False,
        load_best_model_at_end=False,
        ignore_data_skip=False,
        restore_callback_states_from_checkpoint=False,
        auto_find_batch_size=False,
        dataloader_persistent_workers=False,  # they would not hear of a new epoch
        remove_unused_columns=False,  # done before, with all that the collator reads kept
        push_to_hub=False,
        report_to=[],
        disable_tqdm=True,
        data_seed=template.seed if template.data_seed is None else template.data_seed,
    )


@contextmanager
def _memory_named(folder: Path) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RankLabError) or not is_out_of_memory(error):
            raise
        last = last_whole(folder) if int(os.environ.get("RANK", "0")) == 0 else None
        kept = (
            "no checkpoint was complete" if last is None else f"{last.name} is kept, and the same run goes on from it"
        )
        raise RankLabError(
            f"{folder}: out of memory ({first_line(error)}); {kept}: lower --batch-size and raise --accumulation by the"
            " same factor, lower --max-length, or give --gradient-checkpointing."
        ) from error
