"""Tasks of lm-eval: by its own names where there is a network, four of them from local files where there is none."""

import io
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rank_lab.errors import DataError, RankLabError
from rank_lab.plain_text import plain
from rank_lab.score_row import USUAL_ROLES
from rank_lab.scores import nearest
from rank_lab.task_rows import json_lines

__all__ = ["LOCAL_TASKS", "LocalTask", "chance_of", "lm_eval_version", "quiet", "refuse_unknown", "tasks_folder"]

Row = Mapping[str, Any]


@dataclass(frozen=True)
class LocalTask:
    """A task of lm-eval whose rows may lie in a local file.

    Parameters
    ----------
    name
        As lm-eval calls it.
    recipe
        lm-eval's own file, below its folder of tasks.
    split
        Which is scored, as lm-eval calls it and as its file is called.
    columns
        That a row must have.
    row
        From a row of the file to what the recipe reads.
    chance
        Score of a model that guesses.
    role
        ``"source"`` for what is measured to see what was forgotten, else ``"target"``.
    note
        What of the local file differs from lm-eval's; empty where nothing does.
    """

    name: str
    recipe: str
    split: str
    columns: tuple[str, ...]
    row: Callable[[Row], Row]
    chance: float
    role: str
    note: str = ""


def _hellaswag(row: Row) -> Row:
    kept = {name: row[name] for name in ("activity_label", "endings", "label")}
    return kept | {"ctx_a": row.get("ctx_a", row.get("ctx")), "ctx_b": row.get("ctx_b", "")}


def _kept(*names: str) -> Callable[[Row], Row]:
    return lambda row: {name: row[name] for name in names}


def _local(name: str, recipe: str, split: str, columns: tuple[str, ...], chance: float) -> LocalTask:
    return LocalTask(name, recipe, split, columns, _kept(*columns), chance, USUAL_ROLES[name])


_WINOGRANDE = ("sentence", "option1", "option2", "answer")

LOCAL_TASKS: Mapping[str, LocalTask] = {
    task.name: task
    for task in (
        LocalTask(
            "hellaswag", "hellaswag/hellaswag.yaml", "validation", ("activity_label", "endings", "label", "ctx"),
            _hellaswag, 0.25, USUAL_ROLES["hellaswag"],
            "the context as it is, where lm-eval writes the second sentence with a capital",
        ),
        _local("arc_challenge", "arc/arc_challenge.yaml", "test", ("question", "choices", "answerKey"), 0.25),
        _local("winogrande", "winogrande/default.yaml", "validation", _WINOGRANDE, 0.5),
        _local("gsm8k", "gsm8k/gsm8k.yaml", "test", ("question", "answer"), 0.0),
    )
}  # fmt: skip
"""By name: what the papers measure learning and forgetting on."""


def chance_of(task: str) -> float | None:
    """The score of a model that guesses; None where it is not known.

    Examples
    --------
    >>> chance_of("winogrande"), chance_of("triviaqa")
    (0.5, None)
    """
    return LOCAL_TASKS[task].chance if task in LOCAL_TASKS else None


def lm_eval_version() -> str:
    """The version of lm-eval.

    Raises
    ------
    RankLabError
        If it is not installed.
    """
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("lm-eval")
    except PackageNotFoundError as error:
        raise RankLabError(
            "tasks of lm-eval need the package lm-eval, which is not installed: pip install 'rank-lab[eval]'."
        ) from error


def refuse_unknown(name: str, more: Iterable[str] = ()) -> None:
    """Refuse a task that lm-eval does not have, or one name for several tasks.

    Parameters
    ----------
    name
        Of a task that is not one of :data:`LOCAL_TASKS`.
    more
        Other names that are known, to be offered.

    Raises
    ------
    RankLabError
        The nearest names are given.
    """
    tasks, groups = _known()
    if name in tasks:
        return
    if name in groups:
        raise RankLabError(f"task {name!r}: is a group of lm-eval's; name the tasks in it one by one.")
    raise RankLabError(
        f"task {name!r} is not known. Nearest: {nearest(name, [*LOCAL_TASKS, *more])}; of lm-eval:"
        f" {plain(nearest(name, tasks), limit=200)}."
    )


@cache
def _known() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Tasks of lm-eval, and its groups of them; reading their files takes seconds."""
    with quiet():
        from lm_eval.tasks import TaskManager

        manager = TaskManager()
    return tuple(manager.all_subtasks), (*manager.all_groups, *manager.all_tags)


@contextmanager
def tasks_folder(task: str, data: Path | None, *, few_shot: int | None) -> Iterator[Path | None]:
    """A folder of the recipe and the rows of a task, as lm-eval reads them; None for lm-eval's own, from the hub.

    Parameters
    ----------
    task
        One of :data:`LOCAL_TASKS`, where there are data.
    data
        A folder that holds ``TASK/SPLIT.jsonl`` (or ``.jsonl.gz``); None for the hub.
    few_shot
        Solved examples that are asked for; they are taken from ``TASK/train.jsonl``.

    Raises
    ------
    DataError
        If files or columns are missing.
    """
    if data is None:
        yield None
        return
    if task not in LOCAL_TASKS:
        raise DataError(
            f"task {task!r}: can be read from local files only of {', '.join(LOCAL_TASKS)}; leave out --data to read it"
            " from the hub."
        )
    local = LOCAL_TASKS[task]
    needed = {local.split: True, "train": bool(few_shot)}
    found = {split: _file(data, task, split, required=required) for split, required in needed.items()}
    files = {split: file for split, file in found.items() if file is not None}
    with TemporaryDirectory(prefix="rank-lab-tasks-") as folder:
        written = {split: _converted(local, file, Path(folder) / f"{split}.jsonl") for split, file in files.items()}
        (Path(folder) / f"{task}.yaml").write_text(_recipe(local, written, Path(folder)), encoding="utf-8")
        yield Path(folder)


@contextmanager
def quiet() -> Iterator[None]:
    """lm-eval and the libraries under it report each of their steps; ours has one progress bar."""
    from datasets import disable_progress_bars, enable_progress_bars, is_progress_bar_enabled

    names = ("lm_eval", "transformers")
    before, bars = {name: logging.getLogger(name).level for name in names}, is_progress_bar_enabled()
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    disable_progress_bars()
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
        if bars:
            enable_progress_bars()


def _file(data: Path, task: str, split: str, *, required: bool) -> Path | None:
    candidates = [data / task / f"{split}{ending}" for ending in (".jsonl", ".jsonl.gz")]
    found = [file for file in candidates if file.is_file()]
    if not found and required:
        if not (data / task).is_dir():
            there = sorted(child.name for child in data.iterdir() if child.is_dir()) if data.is_dir() else []
            raise DataError(f"{data}: has no folder {task!r}. Nearest: {nearest(task, there) or 'none'}.")
        why = " for few-shot examples" if split == "train" else ""
        raise DataError(f"{candidates[0]}: is not there (nor .gz), needed{why}; give a folder that has it.")
    return found[0] if found else None


def _converted(task: LocalTask, file: Path, to: Path) -> Path:
    with to.open("w", encoding="utf-8") as stream:
        for line, row in json_lines(file):
            missing = [name for name in task.columns if name not in row and not (name == "ctx" and "ctx_a" in row)]
            if missing:
                names = nearest(missing[0], sorted(map(str, row)))
                raise DataError(
                    plain(f"{file}, line {line}: has no column {missing[0]!r}, of {task.name}. Nearest: {names}.")
                )
            stream.write(json.dumps(task.row(row)) + "\n")
        if not stream.tell():
            raise DataError(f"{file}: holds no row of {task.name}; expected at least one.")
    return to


def _recipe(task: LocalTask, files: Mapping[str, Path], folder: Path) -> str:
    """lm-eval's own recipe, of which only where the rows are is changed; JSON is YAML."""
    import lm_eval.tasks

    content = {
        "include": str(Path(lm_eval.tasks.__file__).parent / task.recipe),
        "task": task.name,
        "dataset_path": "json",
        "dataset_name": None,
        "training_split": "train" if "train" in files else None,
        "validation_split": task.split if task.split == "validation" else None,
        "test_split": task.split if task.split == "test" else None,
        "dataset_kwargs": {
            "data_files": {split: str(file) for split, file in files.items()},
            "cache_dir": str(folder / "cache"),
        },
    }
    return json.dumps(content, indent=1)
