"""What ``rank-lab finetune`` does: read data and a model, train by one method, follow its ranks, print its losses."""

import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.text import Text

from rank_lab.console import console, progress_bar
from rank_lab.errors import RankLabError
from rank_lab.fairness import fairness
from rank_lab.plain_table import PlainTable
from rank_lab.plain_text import first_line, plain
from rank_lab.tasks import TaskData
from rank_lab.training.checkpoint_steps import first_change, steps_to_save
from rank_lab.training.finetune import Finetuned, TrainingRun, Watching, finetune
from rank_lab.training.finetune_choices import Adaptation, DataChoices, TrainingChoices, steps_named
from rank_lab.training.loss_rows import LossRow
from rank_lab.training.method import Method
from rank_lab.training.methods import method_named
from rank_lab.training.rank_tracker import RankTracker, TrackerSettings
from rank_lab.training_record import TrainingRecord

__all__ = ["finetune_and_print"]

_OF_ONE_RUN = ("rate not swept", "one seed")  # rules of fairness that one run always breaks
_HEADINGS = ("step", "training loss", "validation loss", "learning rate", "tokens", "seconds")


def finetune_and_print(
    data: DataChoices,
    adaptation: Adaptation,
    training: TrainingChoices,
    out: Path,
    *,
    track_at: str | None = "",
    against: Sequence[Path] = (),
    as_json: bool = False,
) -> None:
    """Train, with a line on standard error for each checkpoint and each thing worth knowing, and print the losses.

    Of several processes, as ``accelerate launch`` starts them, the first prints.

    Parameters
    ----------
    data, adaptation, training
        As typed.
    out
        Folder of the run; one that was stopped goes on, one that is complete is left as it is.
    track_at
        After which steps ranks are measured, with commas between, into ``NAME.rank`` beside the run's folder; empty for
        so many of the checkpoints that they take at most 2 % of the time, None for no steps.
    against
        Folders of runs that this one is to be compared with: what would make that unfair is said.
    as_json
        Record and losses as JSON, in place of a table.

    Raises
    ------
    RankLabError
        If anything of it cannot be carried out; what was finished is kept.

    Examples
    --------
    The verb's whole body, with the options that it has::

        data = DataChoices(model, task=task, data=data, dataset=dataset, dataset_config=dataset_config,
            train_split=train_split, validation_split=validation_split, revision=revision,
            text_columns=tuple(text_column or ()), label_column=label_column, kind=kind, max_length=max_length,
            packing=packing, train_limit=train_limit, validation_limit=validation_limit, subset_seed=subset_seed)
        adaptation = Adaptation(method, targets=targets, embeddings=embeddings, head=head, rank=rank, alpha=alpha,
            dropout=dropout, bottleneck=bottleneck, place=place, prompt_tokens=prompt_tokens, threshold=threshold,
            gate_lr=gate_lr)
        training = TrainingChoices(learning_rate=lr, steps=steps, epochs=epochs, optimizer=optimizer,
            scheduler=scheduler, warmup=warmup, weight_decay=weight_decay, clip=clip, batch_size=batch_size,
            accumulation=accumulation, evaluation_batch_size=evaluation_batch_size, checkpoints=checkpoints,
            save_at=save_at, seed=seed, bf16=bf16, gradient_checkpointing=gradient_checkpointing, device=device)
        finetune_and_print(data, adaptation, training, out, track_at=None if no_track else track_at,
            against=against or (), as_json=as_json)
    """
    if out.is_file():
        raise RankLabError(f"{out}: is a file; -o names the folder of the run.")
    others = [TrainingRecord.load(folder) for folder in against]
    method, choices = method_named(adaptation.method), adaptation.choices()
    points = steps_named("--track-at", track_at or "")  # refused before anything is read
    _quiet()
    task = data.encoded()
    _refuse_incomparable(dict(zip(against, others, strict=True)), data.model, task.task.kind)
    arguments = training.arguments(out, method.learning_rate, len(task.train))
    tell = _tell if arguments.process_index == 0 else _say_nothing
    _tell_what_is_known(task, method, training, arguments, tell)
    trackers: list[RankTracker] = []

    def track_ranks(record: TrainingRecord) -> list[RankTracker]:
        saved = steps_to_save(record.steps, training.wanted(), first_change(arguments))
        settings = TrackerSettings(record=record, points=points, among=saved)
        trackers.extend(
            [RankTracker(out.parent, out.name, base=data.model, settings=settings)] if track_at is not None else []
        )
        return trackers

    with progress_bar() as bar, _warnings_told(tell):
        line = bar.add_task(method.title, total=arguments.max_steps)
        watching = Watching(
            row=lambda row: tell(_sentence(row, arguments.max_steps)),
            progress=lambda step, total: bar.update(line, completed=step, total=total),
            callbacks=track_ranks,
        )
        run = TrainingRun(data.model, method, choices, arguments, training.wanted())
        done = finetune(run, task, out, watching=watching)
    for tracker in trackers:
        tell(f"ranks: {tracker.statement}")
    for warning in _before_a_comparison(done.record, others):
        tell(f"before a comparison: {warning}")
    if arguments.process_index == 0:
        _print(done, as_json=as_json)


def _refuse_incomparable(others: Mapping[Path, TrainingRecord], base: str, kind: str) -> None:
    """Before a training, which would end in this."""
    for folder, record in others.items():
        if (record.base, record.kind) != (base, kind):
            raise RankLabError(
                f"--against {folder}: is of the base {record.base} ({record.kind}), and this run of {base} ({kind}),"
                " so that nothing else can be compared; give runs of one model and kind."
            )


def _tell_what_is_known(
    data: TaskData, method: Method, training: TrainingChoices, arguments: Any, tell: Callable[[str], None]
) -> None:
    for warning in data.source["warnings"]:
        tell(f"note: {warning}")
    left = data.source["train"].get("tokens_left_over")
    if left:
        tell(f"note: {left} tokens at the end of the training texts fill no block of {data.source['max_length']}")
    batch = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    if len(data.train) % batch and len(data.train) >= batch:
        tell(
            f"note: {len(data.train) % batch} of {len(data.train)} training examples, others each time, are left out of"
            f" an epoch: they would not fill a batch of {batch}"
        )
    if training.learning_rate is None:
        tell(
            f"note: learning rate {method.learning_rate:g}, where a search for the best of {method.name} would begin;"
            " a comparison needs the best of each method: try several (--lr)"
        )
    if method.name == "adalora":
        tell(
            "note: the training loss of adalora holds its penalty for factors that are not orthogonal; others have none"
        )
    if method.at_start:
        tell(f"note: before training its outputs are not the base's: {method.at_start}")


def _before_a_comparison(record: TrainingRecord, others: Sequence[TrainingRecord]) -> list[str]:
    """What would make it unfair; that one run is no sweep and has one seed needs no more than a short line."""
    found = fairness([record, *others])
    lines = [f"{each.rule}: {each.text} [{each.source}]" for each in found if others or each.rule not in _OF_ONE_RUN]
    return lines if others else [*lines, "this is one rate and one seed; try several of both for each method"]


def _sentence(row: LossRow, total: int) -> str:
    trained = "" if row.train_loss is None else f"training loss {row.train_loss:.4g}, "
    return f"step {row.step} of {total}: {trained}validation loss {row.validation_loss:.4g}"


def _print(done: Finetuned, *, as_json: bool) -> None:
    if as_json:
        content = {
            "folder": str(done.folder),
            "was_complete": done.was_complete,
            "resumed_from": done.resumed_from,
            "record": asdict(done.record),
            "losses": [asdict(row) for row in done.losses],
        }
        sys.stdout.write(json.dumps(content, indent=1) + "\n")
        return
    console().print(_rendered(done))
    said = "already complete, nothing to do" if done.was_complete else "written"
    console().print(plain(f"{said}: {done.folder}"))


def _rendered(done: Finetuned) -> Group:
    record = done.record
    share = record.trainable_parameters / record.parameters
    head = Text.assemble(
        (record.method, "bold"),
        f"  {record.trainable_parameters:,} of {record.parameters:,} parameters ({share:.2%}), {record.steps} steps of"
        f" {record.batch_size} examples, {record.optimizer}, seed {record.seed}",
    )
    table = PlainTable(*_HEADINGS, box=None, header_style="dim")
    for column in table.columns:
        column.justify = "right"
    for row in done.losses:
        numbers = [row.train_loss, row.validation_loss, row.learning_rate]
        shown = ["" if value is None else f"{value:.4g}" for value in numbers]
        table.add_row(str(row.step), *shown, f"{row.tokens:,}", f"{row.seconds:.1f}")
    return Group(head, table)


def _quiet() -> None:
    """No load reports and bars of other libraries between the lines of a run."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


@contextmanager
def _warnings_told(tell: Callable[[str], None]) -> Iterator[None]:
    """What libraries warn of, a line each, but what they say to programmers about later versions."""
    told: set[str] = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        line = f"note: {first_line(message if isinstance(message, Warning) else Warning(message))}"
        if line not in told:
            told.add(line)
            tell(line)

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        for category in (FutureWarning, DeprecationWarning, PendingDeprecationWarning, ResourceWarning):
            warnings.simplefilter("ignore", category)
        warnings.showwarning = show
        yield


def _tell(line: str) -> None:
    sys.stderr.write(plain(line) + "\n")
    sys.stderr.flush()


def _say_nothing(_line: str) -> None:
    """Of a process that is not the first."""
