"""pass@k of HumanEval and MBPP, and how different a model's completions are."""

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from rank_lab.errors import RankLabError
from rank_lab.evaluation.code_tasks import CODE_TASKS, CodeProblem, read_problems
from rank_lab.evaluation.diversity import diversity_of
from rank_lab.evaluation.generation import Completion, GenerationOptions, completions_of
from rank_lab.evaluation.limited_process import CodeLimits, run_all, run_limited
from rank_lab.evaluation.standard_error import standard_error
from rank_lab.evaluation.tuned_models import EvaluatedModel
from rank_lab.score_table import ScoreRow
from rank_lab.scores import nearest

__all__ = ["CodeOptions", "check_permission", "code_rows", "pass_at_k", "rows_of_completions"]

Progress = Callable[[int, int], None]
_KS = (1, 10, 100)


@dataclass(frozen=True)
class CodeOptions:
    """How code is written and run.

    Parameters
    ----------
    data
        Folder of data, or the file of the problems.
    generation
        How the model writes.
    allow_code
        Whether what it wrote may be run at all.
    limits
        Of each program.
    limit
        Only so many problems, from the first; None for all.
    context
        Tokens of prompt and completion; None for as many as the model allows.
    workers
        Programs at a time; 0 for as many as cores.
    """

    data: Path
    generation: GenerationOptions = field(default_factory=GenerationOptions)
    allow_code: bool = False
    limits: CodeLimits = field(default_factory=CodeLimits)
    limit: int | None = None
    context: int | None = None
    workers: int = 0


def pass_at_k(samples: int, right: int, k: int) -> float:
    r"""Probability that one of k completions passes, :math:`1 - \binom{n-c}{k} / \binom{n}{k}`, unbiased [1]_.

    Parameters
    ----------
    samples, right
        Completions n, and how many of them pass, c.
    k
        At most ``samples``.

    Raises
    ------
    RankLabError
        If these numbers do not go together.

    References
    ----------
    .. [1] Chen et al. (2021), https://arxiv.org/abs/2107.03374, equation 1.

    Examples
    --------
    >>> pass_at_k(4, 1, 1), pass_at_k(4, 1, 2), pass_at_k(4, 3, 2)
    (0.25, 0.5, 1.0)
    """
    if not (0 <= right <= samples and 1 <= k <= samples):
        raise RankLabError(f"pass@{k} of {samples} samples, {right} right: expected 1 <= k <= n and 0 <= c <= n.")
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


def check_permission(options: CodeOptions) -> None:
    """Refuse to run what a model wrote without being allowed to, or where nothing can be run.

    Raises
    ------
    RankLabError
        Naming what to do.
    """
    if not options.allow_code:
        raise RankLabError(
            "this task runs code that the model wrote, in a limited process that is no prison; allow it with"
            " --allow-code, best in a container or a virtual machine."
        )
    if os.name != "posix":
        raise RankLabError("code is run within limits that only POSIX systems have; use Linux or macOS.")
    probe = run_limited("import typing, math, collections", options.limits)
    if not probe.passed:
        raise RankLabError(
            f"even a program that does nothing ends with {probe.reason!r}; raise the limits of programs."
        )


def code_rows(
    model: EvaluatedModel, task: str, options: CodeOptions, *, role: str = "target", progress: Progress | None = None
) -> tuple[ScoreRow, ...]:
    """Let a model write, run what it wrote, and score it.

    Parameters
    ----------
    model
        A causal one.
    task
        One of :data:`rank_lab.evaluation.code_tasks.CODE_TASKS`.
    options
        How; without ``allow_code`` nothing is run.
    role
        What the task is for.
    progress
        Called with problems done and problems.

    Raises
    ------
    RankLabError
        If running code is not allowed, or the task is not known.
    """
    check_permission(options)
    if task not in CODE_TASKS:
        raise RankLabError(f"task {task!r} is not known. Nearest: {nearest(task, CODE_TASKS)}.")
    chosen = CODE_TASKS[task]
    problems = read_problems(chosen, options.data, limit=options.limit)
    prompts = [problem.prompt for problem in problems]
    written = completions_of(
        model, prompts, chosen.stops, options.generation, context=options.context, progress=progress
    )  # fmt: skip
    rows = rows_of_completions(task, problems, written, options)
    return tuple(replace(row, **model.named, **model.harness, role=role) for row in rows)


def rows_of_completions(
    task: str, problems: Sequence[CodeProblem], written: Sequence[Sequence[Completion]], options: CodeOptions
) -> tuple[ScoreRow, ...]:
    """Run completions and score them, whoever wrote them; rows are of a run ``"completions"``.

    Parameters
    ----------
    task
        Name for the table.
    problems, written
        As many of both: the completions of each problem, of all the same number.
    options
        What may be run, and how.

    Raises
    ------
    RankLabError
        If running code is not allowed.
    """
    check_permission(options)
    programs = [
        problem.program(completion.text)
        for problem, group in zip(problems, written, strict=True)
        for completion in group
    ]
    outcomes = list(run_all(programs, options.limits, workers=options.workers))
    timed = [completion.in_time for group in written for completion in group]
    passed = [outcome.passed and in_time for outcome, in_time in zip(outcomes, timed, strict=True)]
    count = len(written[0])
    groups = [passed[first : first + count] for first in range(0, len(passed), count)]
    notes = [
        CODE_TASKS[task].prompt if task in CODE_TASKS else "",
        options.generation.described,
        f"{timed.count(False)} completions out of time" if False in timed else "",
        _unguarded([outcome.guards for outcome in outcomes if outcome.guards]),
    ]
    cut = sum(group[0].cut_prompt for group in written)
    notes.append(f"{cut} prompts cut on the left" if cut else "")
    source = ", ".join([str(options.data), *filter(None, notes)])
    values = {f"pass@{k}": [pass_at_k(count, sum(group), k) for group in groups] for k in _KS if k <= count}
    rows = [_row(task, metric, each, problems, source, better=True) for metric, each in values.items()]
    if count > 1:
        rows += _diversity(task, problems, written, groups, source)
    return tuple(rows)


def _diversity(
    task: str,
    problems: Sequence[CodeProblem],
    written: Sequence[Sequence[Completion]],
    passed: Sequence[Sequence[bool]],
    source: str,
) -> list[ScoreRow]:
    found = [
        diversity_of([completion.text for completion in group], right)
        for group, right in zip(written, passed, strict=True)
    ]
    count = len(written[0])
    values = {
        f"unique_of_{count}": [float(each.unique) for each in found],
        f"unique_of_{count}_passing": [float(each.passing) for each in found],
        f"unique_of_{count}_failing": [float(each.failing) for each in found],
    }
    return [_row(task, metric, each, problems, source, better=True) for metric, each in values.items()]


def _row(
    task: str, metric: str, values: Sequence[float], problems: Sequence[CodeProblem], source: str, *, better: bool
) -> ScoreRow:
    digest = hashlib.sha256("\n".join(problem.prompt + problem.test for problem in problems).encode())
    chance = 0.0 if metric.startswith("pass@") else None
    return ScoreRow(
        "completions", "completions", None, task, metric, float(np.mean(values)), standard_error(values), len(values),
        few_shot=0,
        chance=chance, higher_is_better=better, harness="rank_lab", source=source, set_sha256=digest.hexdigest(),
        examples=tuple(values),
    )  # fmt: skip


def _unguarded(found: Sequence[object]) -> str:
    """What the system did not guard against, of those programs that said it."""
    missing = {name for guards in found if isinstance(guards, dict) for name, there in guards.items() if not there}
    return f"run without the system's guard of {', '.join(sorted(missing))}" if missing else ""
