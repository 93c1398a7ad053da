"""What the verb ``evaluate`` was asked for, as typed, and the tasks that it comes to."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from rank_lab.errors import DataError, RankLabError
from rank_lab.evaluation.code_scores import CodeOptions, check_permission, code_rows
from rank_lab.evaluation.code_tasks import CODE_TASKS, read_problems
from rank_lab.evaluation.generation import GenerationOptions
from rank_lab.evaluation.glue_scores import GlueOptions, glue_rows
from rank_lab.evaluation.harness_scores import HarnessOptions, harness_rows
from rank_lab.evaluation.harness_tasks import LOCAL_TASKS, lm_eval_version, refuse_unknown, tasks_folder
from rank_lab.evaluation.limited_process import CodeLimits
from rank_lab.evaluation.text_scores import TextOptions, text_rows
from rank_lab.evaluation.text_sets import TextSet, read_texts
from rank_lab.evaluation.tuned_models import EvaluatedModel
from rank_lab.glue import GLUE
from rank_lab.plain_text import plain
from rank_lab.score_row import USUAL_ROLES
from rank_lab.score_table import ROLES, ScoreRow

__all__ = ["Choices", "Job", "jobs_of"]

Progress: TypeAlias = Callable[[int, int], None]
Run: TypeAlias = Callable[[EvaluatedModel, Any, Progress], tuple[ScoreRow, ...]]

_WITH_HEAD = ("classification", "regression")


@dataclass(frozen=True)
class Choices:
    """What is measured, and how, as typed.

    Parameters
    ----------
    source_texts, target_texts
        ``NAME=FILE``: texts of what the base can, and of what is learned.
    text_column, join_rows
        Column of JSON rows; whether the rows of a file are lines of one text.
    kl
        Whether the divergence from the base is measured on these texts.
    tasks
        Of lm-eval, ``humaneval``, ``mbpp``, or, of a classifier, GLUE's.
    roles
        ``TASK=source``, ``TASK=target`` or ``TASK=``, where it is not the usual one.
    data
        Folder of local files; None for the hub.
    limit, few_shot
        Examples of each set, and solved examples in prompts; None for all, and for the tasks' own number.
    batch_size, max_length, stride, masked_places
        Of texts; see :class:`rank_lab.evaluation.text_scores.TextOptions`.
    samples, temperature, top_p, new_tokens, seconds, seed
        Of what models write; see :class:`rank_lab.evaluation.generation.GenerationOptions`. Without ``new_tokens`` the
        task's own number, of code 512.
    allow_code, code_seconds
        Whether code that a model wrote may be run, and for how long on a processor.
    again
        Whether what is there already is measured again.
    """

    source_texts: tuple[str, ...] = ()
    target_texts: tuple[str, ...] = ()
    text_column: str = "text"
    join_rows: bool = False
    kl: bool = False
    tasks: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    data: Path | None = None
    limit: int | None = None
    few_shot: int | None = None
    batch_size: int = 8
    max_length: int | None = None
    stride: int | None = None
    masked_places: int = 64
    samples: int = 1
    temperature: float = 0.0
    top_p: float = 0.95
    new_tokens: int | None = None
    seconds: float = 600.0
    seed: int = 0
    allow_code: bool = False
    code_seconds: int = 5
    again: bool = False

    def generation(self) -> GenerationOptions:
        """How models write code."""
        return GenerationOptions(
            samples=self.samples,
            temperature=self.temperature,
            top_p=self.top_p,
            new_tokens=512 if self.new_tokens is None else self.new_tokens,
            batch_size=self.batch_size,
            seconds=self.seconds,
            seed=self.seed,
        )


@dataclass(frozen=True)
class Job:
    """One set or task that every model is measured on.

    Parameters
    ----------
    name
        Of the set or task.
    settings
        What its scores depend on beside the model, plain values.
    run
        From a model, its base (None for none) and where progress is told, to scores.
    with_head
        Whether it needs a trained head, which an untuned base does not have.
    """

    name: str
    settings: Mapping[str, Any]
    run: Run
    with_head: bool = False


def jobs_of(choices: Choices, kind: str) -> tuple[Job, ...]:
    """What was asked for, checked as far as it can be without a model.

    Parameters
    ----------
    choices
        As typed.
    kind
        What the models predict.

    Raises
    ------
    RankLabError
        If a task is not known, a file cannot be read, running code is not allowed, or nothing was asked for.
    """
    roles = _roles(choices)
    texts = _texts(choices)
    names = [text.name for text in texts] + list(choices.tasks)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RankLabError(f"{twice[0]!r} is asked for twice; give every set and task its own name.")
    if not names:
        raise RankLabError("nothing to measure: give --source-text or --target-text NAME=FILE, or --task NAME.")
    unused = sorted(set(roles) - set(choices.tasks))
    if unused:
        raise RankLabError(f"--role {unused[0]}={roles[unused[0]]}: no --task {unused[0]} is asked for.")
    if choices.batch_size < 1 or (choices.limit is not None and choices.limit < 1):
        raise RankLabError(f"--batch-size {choices.batch_size}, --limit {choices.limit}: expected at least 1.")
    return tuple(
        [_text_job(text, choices) for text in texts] + [_task_job(t, kind, choices, roles) for t in choices.tasks]
    )


def _roles(choices: Choices) -> dict[str, str]:
    found = {}
    for given in choices.roles:
        task, equals, role = given.partition("=")
        if not equals or role not in ROLES:
            raise RankLabError(f"--role {plain(given)}: expected TASK=source, TASK=target or TASK= (for none).")
        found[task] = role
    return found


def _texts(choices: Choices) -> list[TextSet]:
    found = []
    for role, given in (("source", choices.source_texts), ("target", choices.target_texts)):
        for each in given:
            name, equals, file = each.partition("=")
            if not (name and equals and file):
                raise RankLabError(f"--{role}-text {plain(each)}: expected NAME=FILE, such as prose=prose.jsonl.")
            found.append(
                read_texts(
                    name, file, column=choices.text_column, join=choices.join_rows, limit=choices.limit, role=role
                )
            )  # fmt: skip
    if choices.kl and not found:
        raise RankLabError("--kl is measured on texts: give --source-text or --target-text NAME=FILE.")
    return found


def _text_job(texts: TextSet, choices: Choices) -> Job:
    options = TextOptions(
        batch_size=choices.batch_size,
        context=choices.max_length,
        stride=choices.stride,
        masked_places=choices.masked_places,
        seed=choices.seed,
    )

    def run(model: EvaluatedModel, base: Any, progress: Progress) -> tuple[ScoreRow, ...]:
        return text_rows(model, texts, options, base=base if choices.kl else None, progress=progress)

    settings = _settings(options) | {"texts": texts.sha256(), "role": texts.role, "kl": choices.kl}
    return Job(texts.name, settings, run)


def _settings(options: Any, task: str = "") -> dict[str, Any]:
    """What scores depend on: not on how many examples are shown at a time, but where completions are drawn."""
    found: dict[str, Any] = asdict(options)
    greedy = not found.get("generation", {}).get("temperature")
    for part in (found, found.get("generation", {})) if greedy else (found,):
        part.pop("batch_size", None)
    data = found.get("data")
    if data is not None:
        files = [data] if data.is_file() else sorted([*(data / task).glob("*"), *data.glob("*.jsonl*")])
        found["files"] = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return found


def _task_job(task: str, kind: str, choices: Choices, roles: Mapping[str, str]) -> Job:
    if task in CODE_TASKS:
        return _code_job(task, choices, roles.get(task, USUAL_ROLES[task]))
    if kind in _WITH_HEAD:
        return _glue_job(task, choices, roles.get(task, "target"))
    lm_eval_version()
    if task in GLUE and choices.data is not None:
        raise RankLabError(
            f"task {task!r}: its classes need a model with a classification head, and this one is {kind}, without one;"
            " give a model that was trained for it, or leave out --data to ask a causal one by lm-eval's prompts."
        )
    if task not in LOCAL_TASKS:
        refuse_unknown(task, [*CODE_TASKS, *GLUE])
    with tasks_folder(task, choices.data, few_shot=choices.few_shot):
        pass  # its files are there, and are what they should be
    role = roles.get(task, USUAL_ROLES.get(task, ""))
    options = HarnessOptions(
        data=choices.data,
        few_shot=choices.few_shot,
        limit=choices.limit,
        batch_size=choices.batch_size,
        context=choices.max_length,
        new_tokens=choices.new_tokens,
        seconds=choices.seconds,
    )

    def run(model: EvaluatedModel, _base: Any, _progress: Progress) -> tuple[ScoreRow, ...]:
        return harness_rows(model, task, options, role=role)

    return Job(task, _settings(options, task) | {"role": role, "lm_eval": lm_eval_version()}, run)


def _code_job(task: str, choices: Choices, role: str) -> Job:
    if choices.data is None:
        raise DataError(
            f"task {task!r}: is read from local files only; give --data, a folder with {CODE_TASKS[task].file}."
        )
    options = CodeOptions(
        data=choices.data,
        generation=choices.generation(),
        allow_code=choices.allow_code,
        limits=CodeLimits(cpu_seconds=choices.code_seconds, seconds=4.0 * choices.code_seconds),
        limit=choices.limit,
        context=choices.max_length,
    )
    check_permission(options)
    read_problems(CODE_TASKS[task], choices.data, limit=1)

    def run(model: EvaluatedModel, _base: Any, progress: Progress) -> tuple[ScoreRow, ...]:
        return code_rows(model, task, options, role=role, progress=progress)

    return Job(task, _settings(options, task) | {"role": role}, run)


def _glue_job(task: str, choices: Choices, role: str) -> Job:
    from rank_lab.tasks import task_named

    task_named(task)
    options = GlueOptions(choices.data, choices.limit, choices.batch_size, choices.max_length)

    def run(model: EvaluatedModel, _base: Any, _progress: Progress) -> tuple[ScoreRow, ...]:
        return glue_rows(model, task, options, role=role)

    return Job(task, _settings(options, task) | {"role": role}, run, with_head=True)
