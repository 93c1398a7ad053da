"""Scores of a model in memory on tasks of lm-eval, example by example."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rank_lab.errors import RankLabError
from rank_lab.evaluation.harness_tasks import LOCAL_TASKS, chance_of, lm_eval_version, quiet, tasks_folder
from rank_lab.evaluation.standard_error import standard_error
from rank_lab.evaluation.tuned_models import EvaluatedModel, context_of
from rank_lab.lm_eval_results import Sample, lm_eval_scores
from rank_lab.plain_text import first_line, plain
from rank_lab.score_origin import Origin
from rank_lab.score_table import ScoreRow

__all__ = ["HarnessOptions", "harness_rows"]

_ASKS_GIT = "get_git_commit_hash"  # of lm-eval's evaluator; we keep no commit
_NEW_TOKENS = 256  # lm-eval's own, where a task does not say it


@dataclass(frozen=True)
class HarnessOptions:
    """How lm-eval asks.

    Parameters
    ----------
    data
        Folder of local files; None for the hub. See :func:`rank_lab.evaluation.harness_tasks.tasks_folder`.
    few_shot
        Solved examples in the prompt; None for the task's own number, which is recorded.
    limit
        Only so many examples, from the first; None for all.
    batch_size
        Requests at a time.
    context
        Tokens of the longest request; None for as many as the model allows.
    new_tokens
        Of tasks that let the model write: at most so many; None for the task's own number.
    seconds
        For one batch of generations; what is written until then is scored, and what was cut off by it is counted in
        the rows' ``source``.
    """

    data: Path | None = None
    few_shot: int | None = None
    limit: int | None = None
    batch_size: int = 8
    context: int | None = None
    new_tokens: int | None = None
    seconds: float = 600.0


def harness_rows(model: EvaluatedModel, task: str, options: HarnessOptions, *, role: str = "") -> tuple[ScoreRow, ...]:
    """All scores of one task.

    Parameters
    ----------
    model
        A causal one.
    task
        lm-eval's name of it.
    options
        How.
    role
        ``"source"``, ``"target"`` or ``""``.

    Returns
    -------
    tuple of ScoreRow
        One for each metric, and filter where lm-eval has several; with the score of each example, and the standard
        error from these, where the score is their mean.

    Raises
    ------
    RankLabError
        If lm-eval is not installed, the model is not causal, or the task cannot be read.
    """
    version = lm_eval_version()
    if model.kind != "causal":
        raise RankLabError(f"{model.tuned.source}: of kind {model.kind}; tasks of lm-eval need a causal model.")
    context, chance = context_of(model, options.context), chance_of(task)
    with tasks_folder(task, options.data, few_shot=options.few_shot) as folder, quiet():
        found, late = _evaluated(model, task, folder, options)
        cut = _cut_on_the_left(found["samples"][task], model.tokenizer, context, options.new_tokens)
    origin = Origin(
        **model.named, roles={task: role} if role else {}, chance={} if chance is None else {task: chance}
    )  # fmt: skip
    notes = (f"{cut} cut on the left to {context} tokens" * bool(cut), f"{late} answers out of time" * bool(late))
    source = _source(task, options, found["versions"].get(task), notes)
    samples = {task: [Sample.of(each) for each in found["samples"][task]]}
    rows = lm_eval_scores(found, origin, source=source, samples=samples).rows
    return tuple(replace(row, stderr=_stderr(row), harness_version=version) for row in rows)


def _evaluated(
    model: EvaluatedModel, task: str, folder: Path | None, options: HarnessOptions
) -> tuple[Mapping[str, Any], int]:
    """lm-eval's results, and how many answers the time did not suffice for."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    from rank_lab.evaluation.harness_model import TimedModel

    written = {"max_gen_toks": options.new_tokens} if options.new_tokens is not None else None
    manager = TaskManager(include_path=str(folder) if folder else None, include_defaults=folder is None)
    asked = TimedModel(
        pretrained=model.model,
        tokenizer=model.tokenizer,
        batch_size=options.batch_size,
        max_length=context_of(model, options.context),
    )
    asked.seconds = options.seconds
    with _told(task), _without_git():
        found: Mapping[str, Any] | None = simple_evaluate(
            model=asked, tasks=[task], num_fewshot=options.few_shot, limit=options.limit,
            task_manager=manager, bootstrap_iters=0, log_samples=True, gen_kwargs=written,
        )  # fmt: skip
    if found is None:
        raise RankLabError(f"task {task!r}: lm-eval gives results in the first process only; run it in one process.")
    return found, asked.late


@contextmanager
def _told(task: str) -> Iterator[None]:
    """What lm-eval fails by, in our words."""
    try:
        yield
    except AssertionError as error:  # lm-eval's own, of a task that lets the model write more than it can
        raise RankLabError(
            f"task {task!r}: {plain(first_line(error), limit=300)} Lower --new-tokens, or raise --max-length."
        ) from error
    except (OSError, ImportError, ValueError, KeyError) as error:  # some tasks need packages of their own
        raise RankLabError(
            plain(
                f"task {task!r}: lm-eval could not carry it out ({first_line(error)}); where its data cannot be"
                f" fetched, give --data (of {', '.join(LOCAL_TASKS)}).",
                limit=600,
            )
        ) from error


@contextmanager
def _without_git() -> Iterator[None]:
    """lm-eval asks git for the commit of whatever folder the user is in, which says "fatal" where there is none."""
    from lm_eval import evaluator

    before = getattr(evaluator, _ASKS_GIT, None)
    if before is None:  # another version, which does not ask here
        yield
        return
    setattr(evaluator, _ASKS_GIT, lambda: None)
    try:
        yield
    finally:
        setattr(evaluator, _ASKS_GIT, before)


def _stderr(row: ScoreRow) -> float | None:
    """From the examples; lm-eval's own where it is no mean of theirs."""
    if row.examples is None:
        return row.stderr
    return standard_error(row.examples)


def _source(task: str, options: HarnessOptions, version: Any, notes: tuple[str, ...]) -> str:
    note = LOCAL_TASKS[task].note if options.data is not None else ""
    limit = f"the first {options.limit} examples" if options.limit is not None else ""
    parts = [f"{task} version {version}", str(options.data / task) if options.data else "hub", note, limit, *notes]
    return ", ".join(filter(None, parts))


def _cut_on_the_left(samples: Any, tokenizer: Any, context: int, new_tokens: int | None) -> int:
    """How many examples have a request that did not fit: lm-eval cuts its start off."""
    cut = set()
    for sample in samples:
        for prompt, other in sample["arguments"]:
            written = isinstance(other, Mapping)
            room = context - (new_tokens or other.get("max_gen_toks", _NEW_TOKENS)) if written else context + 1
            text = prompt if written else prompt + other
            if len(tokenizer(text, verbose=False)["input_ids"]) > room:
                cut.add(sample["doc_id"])
    return len(cut)
