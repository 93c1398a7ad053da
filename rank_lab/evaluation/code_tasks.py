"""HumanEval and MBPP: what is asked, where an answer stops, and the program that tests it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rank_lab.errors import DataError
from rank_lab.plain_text import plain
from rank_lab.scores import nearest
from rank_lab.task_rows import json_lines

__all__ = ["CODE_TASKS", "CodeProblem", "CodeTask", "read_problems"]

_STOPS = ("\nclass", "\ndef", "\n#", "\n@", "\nif", "\nprint", "\n```")
_MBPP_STOPS = ("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n```")


@dataclass(frozen=True)
class CodeProblem:
    """One problem.

    Parameters
    ----------
    name
        Its ``task_id``.
    prompt
        What the model goes on from.
    reference
        A completion that passes.
    start, test
        What stands before and after a completion in the program that tests it.
    """

    name: str
    prompt: str
    reference: str
    start: str
    test: str

    def program(self, completion: str) -> str:
        """The program that comes to its end if the completion is right."""
        return f"{self.start}{completion}\n{self.test}\n"


@dataclass(frozen=True)
class CodeTask:
    """One set of problems.

    Parameters
    ----------
    name
        As lm-eval calls it.
    file
        Below the folder of data.
    columns
        That a row must have.
    stops
        Where a completion ends.
    prompt
        How problems are put, in words, for the record.
    """

    name: str
    file: str
    columns: tuple[str, ...]
    stops: tuple[str, ...]
    prompt: str


CODE_TASKS: Mapping[str, CodeTask] = {
    task.name: task
    for task in (
        CodeTask(
            "humaneval", "humaneval/test.jsonl", ("task_id", "prompt", "entry_point", "canonical_solution", "test"),
            _STOPS, "the function's head and docstring, as they are",
        ),
        CodeTask(
            "mbpp", "mbpp/test.jsonl", ("task_id", "text", "code", "test_setup_code", "test_list"),
            _MBPP_STOPS, "0-shot, text and first test in a docstring",
        ),
    )
}  # fmt: skip
"""By name. HumanEval [1]_ stops as in lm-eval, and at decorators and fences; MBPP [2]_ is put as InCoder [3]_ did.

.. [1] Chen et al. (2021), https://arxiv.org/abs/2107.03374.
.. [2] Austin et al. (2021), https://arxiv.org/abs/2108.07732.
.. [3] Fried et al. (2022), https://arxiv.org/abs/2204.05999.
"""


def read_problems(task: CodeTask, source: Path | str, *, limit: int | None = None) -> tuple[CodeProblem, ...]:
    """Problems of a file, or of the task's file in a folder of data.

    Parameters
    ----------
    task
        Which.
    source
        JSON lines in the columns of the set's authors, or a folder that holds them where
        :attr:`CodeTask.file` says.
    limit
        Only so many, from the first; None for all.

    Raises
    ------
    DataError
        If there is no such file, a row lacks a column, or there is no row.
    """
    file = _file_of(task, Path(source))
    found: list[CodeProblem] = []
    for line, row in json_lines(file):
        if limit is not None and len(found) >= limit:
            break
        missing = [column for column in task.columns if column not in row]
        if missing:
            names = nearest(missing[0], sorted(map(str, row)))
            raise DataError(
                plain(f"{file}, line {line}: has no column {missing[0]!r}, of {task.name}. Nearest: {names}.")
            )
        found.append(_problem(task, row, f"{file}, line {line}"))
    if not found:
        raise DataError(f"{file}: holds no problem of {task.name}; expected at least one.")
    return tuple(found)


def _file_of(task: CodeTask, source: Path) -> Path:
    candidates = [source] if not source.is_dir() else [source / task.file, source / Path(task.file).name]
    for file in candidates:
        if file.is_file():
            return file
    raise DataError(f"{candidates[0]}: is not there; give the file of {task.name}, or a folder with {task.file}.")


def _problem(task: CodeTask, row: Mapping[str, Any], where: str) -> CodeProblem:
    tests = row.get("test_list", ())
    texts = [row[column] for column in task.columns if column not in ("task_id", "test_list")]
    if not all(isinstance(text, str) for text in (*texts, *tests)) or (task.name == "mbpp" and not tests):
        raise DataError(f"{where}: holds something else than texts; expected the columns of {task.name}'s authors.")
    if task.name == "humaneval":
        test = f"{row['test']}\ncheck({row['entry_point']})"
        return CodeProblem(str(row["task_id"]), row["prompt"], row["canonical_solution"], row["prompt"], test)
    prompt = f'"""\n{row["text"]}\n{tests[0]}\n"""\n'
    test = "\n".join((row["test_setup_code"], *tests))
    return CodeProblem(str(row["task_id"]), prompt, row["code"], "", test)
