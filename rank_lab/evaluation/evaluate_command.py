"""What ``rank-lab evaluate`` does: load one model after the other, measure it, write and print its scores."""

import gc
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rank_lab.console import console, progress_bar
from rank_lab.errors import RankLabError, is_out_of_memory
from rank_lab.evaluation.evaluate_choices import Choices, Job, jobs_of
from rank_lab.evaluation.evaluated import Evaluated
from rank_lab.evaluation.model_folders import model_folder
from rank_lab.evaluation.sources import Tuned, kind_of_source, refuse_twice, tuned_of
from rank_lab.evaluation.tuned_models import LoadOptions, Shelf, base_tuned
from rank_lab.plain_text import first_line, plain
from rank_lab.score_table import SCORES_FILE, ScoreRow
from rank_lab.score_terminal import render_scores, scores_summary

__all__ = ["Measured", "evaluate_and_print", "evaluate_models"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Measured:
    """What was asked for.

    Parameters
    ----------
    rows
        All scores, those that were there before among them.
    failures
        What could not be measured, in words.
    """

    rows: tuple[ScoreRow, ...]
    failures: tuple[str, ...]


def evaluate_and_print(
    sources: Sequence[str],
    study: Path,
    loading: LoadOptions,
    choices: Choices,
    *,
    name: str = "",
    skip_base: bool = False,
    as_json: bool = False,
) -> bool:
    """Measure models and their base, keep every score as soon as it is there, print them.

    Parameters
    ----------
    sources, study, loading, choices, name, skip_base
        See :func:`evaluate_models`.
    as_json
        Scores as JSON, in place of a table.

    Returns
    -------
    bool
        Whether anything that was asked for failed; it is named on standard error.

    Raises
    ------
    RankLabError
        If nothing could be measured.
    """
    found = evaluate_models(sources, study, loading, choices, name=name, skip_base=skip_base)
    for failure in found.failures:
        _tell(f"failed: {failure}")
    if as_json:
        sys.stdout.write(json.dumps(scores_summary(found.rows), indent=1) + "\n")
    else:
        console().print(render_scores(found.rows))
        console().print(f"written: {study / SCORES_FILE}", highlight=False, markup=False)
    return bool(found.failures)


def evaluate_models(
    sources: Sequence[str],
    study: Path,
    loading: LoadOptions,
    choices: Choices,
    *,
    name: str = "",
    skip_base: bool = False,
) -> Measured:
    """Measure models and their base, and keep every score as soon as it is there; progress on standard error.

    Parameters
    ----------
    sources
        Checkpoints, adapters, trainers' folders, hub ids; none to measure the base alone.
    study
        Its ``scores.parquet`` receives the scores; the same call again measures only what is missing.
    loading, choices
        As typed.
    name
        Of the run; empty for the folder's, of a ``checkpoint-N`` alone that of the folder above it.
    skip_base
        Whether the base is left out, and with it what forgetting is measured against.

    Raises
    ------
    RankLabError
        If nothing could be measured.
    """
    if study.is_file():
        raise RankLabError(f"{study}: is a file; -o names the folder of the study.")
    if name and len(sources) > 1:
        raise RankLabError(f"--name {name} with {len(sources)} runs; name one run at a time or leave it out.")
    _quiet()
    tuned = [model for source in sources for model in tuned_of(source, name=name)]
    needed = choices.kl or not skip_base or any(model.adapter is not None for model in tuned)
    base = _folder(_base_of(tuned, loading), given=bool(loading.base)) if needed else ""
    kind = loading.kind or _kind_of(tuned, base)
    loading = replace(loading, kind=kind, base=base)
    jobs = jobs_of(choices, kind)
    models = _with_base(tuned, base, choices, skip=skip_base)
    refuse_twice(models)
    evaluated = Evaluated(study, loading)
    evaluated.refuse_others(models)
    if not choices.again:
        evaluated.refuse_other_settings(models, jobs)
    _tell_missing_base(base, skip_base=skip_base, jobs=jobs)
    run = _Run(evaluated, loading, choices, base)
    with progress_bar() as bar:
        rows = run.measured(models, jobs, bar)
    if run.failures and not rows:
        raise RankLabError(run.failures[0])
    return Measured(tuple(rows), tuple(run.failures))


@dataclass
class _Run:
    evaluated: Evaluated
    loading: LoadOptions
    choices: Choices
    base: str
    failures: list[str] = field(default_factory=list)

    def measured(self, models: Sequence[Tuned], jobs: Sequence[Job], bar: Any) -> list[ScoreRow]:
        """Scores of all models, those that were there among them."""
        shelf = Shelf(self.loading)
        rows: list[ScoreRow] = []
        total = bar.add_task("", total=len(models) * len(jobs))
        for tuned in models:
            wanted = [job for job in jobs if not (job.with_head and tuned.method == "base")]
            missing = []
            for job in wanted:
                there = () if self.choices.again else self.evaluated.rows(tuned, job)
                rows += there
                missing += [] if there else [job]
            bar.advance(total, len(jobs) - len(missing))
            if missing:
                rows += self._of_model(shelf, tuned, missing, bar, total)
        return rows

    def _of_model(self, shelf: Shelf, tuned: Tuned, jobs: Sequence[Job], bar: Any, total: Any) -> list[ScoreRow]:
        rows: list[ScoreRow] = []
        where = tuned.run if tuned.step is None else f"{tuned.run} at step {tuned.step}"
        with self._noted(where), shelf.loaded(tuned) as model:
            for job in jobs:
                bar.update(total, description=_shown(f"{where}: {job.name}"))
                with self._noted(f"{job.name} of {where}"):
                    base = shelf.untuned(model, self.base) if self.choices.kl and self.base else None
                    found = job.run(model, base, _advance(bar, job.name))
                    self.evaluated.add(tuned, job, found)
                    rows += found
                bar.advance(total)
        return rows

    @contextmanager
    def _noted(self, what: str) -> Iterator[None]:
        """What goes wrong with one task or model is named in the end, and the others are still measured."""
        try:
            yield
        except RankLabError as error:
            self.failures.append(f"{what}: {error}")
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            self.failures.append(
                f"{what}: out of memory ({first_line(error)[:120]}); lower --batch-size (now {self.choices.batch_size})"
                " and run the command again, which keeps what is finished; or lower --max-length, or use --dtype"
                " bfloat16."
            )
        gc.collect()


def _advance(bar: Any, name: str) -> Progress:
    task: list[Any] = []

    def advance(done: int, total: int) -> None:
        if not task:
            task.append(bar.add_task(_shown(name), total=total))
        bar.update(task[0], completed=done, visible=done < total)

    return advance


def _shown(name: str) -> str:
    """The end of a name, as a bar's description."""
    return plain(name)[-48:]


def _base_of(tuned: Sequence[Tuned], loading: LoadOptions) -> str:
    """The one base of all models; empty where it is not known."""
    if loading.base:
        return loading.base
    named = sorted({model.base for model in tuned if model.base})
    if len(named) > 1:
        raise RankLabError(
            plain(f"models of {len(named)} bases ({', '.join(named)}): evaluate those of each base by themselves.")
        )
    return named[0] if named else ""


def _folder(base: str, *, given: bool) -> str:
    """Where the base is; one that only the files of the tuned models name, and that is not there, is not known."""
    try:
        return str(model_folder(base)) if base else ""
    except RankLabError as error:
        if given:
            raise
        raise RankLabError(
            f"base {plain(base, limit=200)}, which the models name: {error} Or give it with --base."
        ) from error


def _kind_of(tuned: Sequence[Tuned], base: str) -> str:
    known = {model.kind for model in tuned if model.kind is not None}
    if len(known) > 1:
        raise RankLabError(f"models of kinds {', '.join(sorted(known))}: evaluate those of each kind by themselves.")
    if known:
        return known.pop()
    if not base:
        raise RankLabError(
            "no model to evaluate: give a checkpoint, an adapter or a trainer's folder, or --base alone."
        )
    return kind_of_source(base)


def _with_base(tuned: Sequence[Tuned], base: str, choices: Choices, *, skip: bool) -> list[Tuned]:
    if choices.kl and not base:
        raise RankLabError("--kl is the divergence from the base, which is not known; give it with --base.")
    for model in tuned:
        if model.run == "base":
            raise RankLabError(
                f"{model.source}: a run of the name 'base' would pass for the untuned model; name it with --name, or"
                " give it with --base alone, if that is what it is."
            )
    return [*([base_tuned(base)] if base and not skip else []), *tuned]


def _tell_missing_base(base: str, *, skip_base: bool, jobs: Sequence[Job]) -> None:
    if skip_base or not base:
        why = "is left out" if skip_base else "is not known (give --base)"
        _tell(f"note: the base {why}: there is no forgetting and no learning without its scores.")
    elif any(job.with_head for job in jobs):
        _tell("note: the base has no trained head for these tasks: it gets no score of them.")


def _quiet() -> None:
    """No load reports and bars of other libraries; the tasks have a bar of their own."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _tell(line: str) -> None:
    sys.stderr.write(plain(line) + "\n")
