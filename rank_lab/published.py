"""Numbers that papers printed, each with its source: a table that travels with the package, or one of the same columns.

They stand behind one's own points for orientation and are part of no result: other models, data and schedules. Kept are
only numbers that were seen in the paper, in its authors' repository, or were run (:data:`MARKS`).
"""

import csv
import io
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from rank_lab.errors import CheckpointError, DataError
from rank_lab.forgetting import FRACTIONS
from rank_lab.plain_file import MAX_JSON_BYTES, size_of
from rank_lab.plain_text import is_plain, plain
from rank_lab.score_row import ScoreRow
from rank_lab.scores import nearest

__all__ = ["COLUMNS", "MARKS", "PUBLISHED", "SETTING", "published_scores", "published_values", "source_words"]

PUBLISHED = Path(__file__).with_name("published.csv")
"""The table that travels with the package."""

MARKS = {
    "S": "seen in the paper or its authors' repository",
    "R": "run again",
    "second-hand": "seen in an article on the paper, not in the paper",
}
"""How sure a number is."""

_ARXIV = re.compile(r"\d{4}\.\d{4,5}")
_RELATIONS = ("=", "<", ">")
_NUMBERS = ("rank", "bottleneck", "parameters", "parameters_percent", "amount", "value")

SETTING: tuple[str, ...] = (
    "source", "model", "method", "rank", "bottleneck", "targets", "parameters", "parameters_percent", "training",
    "amount", "amount_unit",
)  # fmt: skip
"""What values of one model in one setting share: ``source`` (arXiv id or repository), how it was adapted (``rank`` or
``bottleneck``, ``targets``), how many parameters that trains (``parameters``, or ``parameters_percent`` of the
model's), what on, and how long (``amount`` in ``amount_unit``)."""

COLUMNS = (*SETTING, "table", "task", "metric", "relation", "value", "unit", "mark")
"""Of the file: ``table`` says where in the source, ``relation`` is ``=``, or ``<`` or ``>`` of a bound, ``mark`` one of
:data:`MARKS`."""

_REQUIRED = ("source", "method", "table", "task", "metric", "relation", "value", "unit", "mark")


def published_values(file: Path | str = PUBLISHED) -> pd.DataFrame:
    """Read a table of published numbers.

    Parameters
    ----------
    file
        CSV in UTF-8 whose first line names :data:`COLUMNS`, in any order; what is not known is an empty cell.

    Returns
    -------
    pandas.DataFrame
        A row a number, in the columns of :data:`COLUMNS`.

    Raises
    ------
    DataError
        If it is no such table, a number is none, a source or mark is missing, or a number is there twice.

    Examples
    --------
    >>> values = published_values()
    >>> first = values[(values["table"] == "Table S1") & (values["method"] == "full")].iloc[-1]
    >>> first["model"], first["task"], first["metric"], first["amount_unit"], float(first["value"])
    ('Llama-2-7B', 'humaneval', 'pass@1', 'billion tokens', 0.263)
    """
    path = Path(file)
    names, *lines = _lines(path)
    _check_names(path, names)
    rows = [
        _row(f"{path}, line {number}", dict(zip(names, cells, strict=True)))
        for number, cells in enumerate(_whole(path, names, lines), start=2)
    ]
    found = pd.DataFrame(rows, columns=list(COLUMNS)).astype(dict.fromkeys(_NUMBERS, "float64"))
    twice = found[found.duplicated([*SETTING, "task", "metric", "relation"])]
    if len(twice):
        first = twice.iloc[0]
        raise DataError(
            f"{path}: {first['task']} {first['metric']} of {first['method']} ({first['source']}, {first['table']}) is"
            " there twice in one setting; name in 'training' what differs, or remove one."
        )
    return found


def published_scores(rows: Iterable[ScoreRow], source: str, training: str) -> pd.DataFrame:
    """Scores that another program published, such as PEFT's method comparison, as published values.

    Parameters
    ----------
    rows
        From :func:`rank_lab.score_import.import_scores`; of a run, a row of task ``cost`` and metric
        ``trainable_parameters`` says how many parameters it trained.
    source
        Where they were published: an arXiv id, or a repository.
    training
        What on, in words; the name of each run stands behind it.

    Returns
    -------
    pandas.DataFrame
        As :func:`published_values` gives; ``amount`` is the step.

    Raises
    ------
    DataError
        If there is no row.

    Examples
    --------
    >>> rows = [
    ...     ScoreRow("lora/a", "lora", 9, "gsm8k", "accuracy", 0.5),
    ...     ScoreRow("lora/a", "lora", 9, "cost", "trainable_parameters", 4096.0, higher_is_better=False)]
    >>> found = published_scores(rows, "huggingface/peft", "MetaMathQA")
    >>> found[["method", "training", "task", "unit"]].iloc[0].tolist()
    ['lora', 'MetaMathQA, lora/a', 'gsm8k', 'fraction']
    >>> found[["parameters", "value"]].iloc[0].tolist()
    [4096.0, 0.5]
    """
    given = list(rows)
    if not given:
        raise DataError(f"{source}: no score was read; give files that hold some.")
    counts = {row.run: row.value for row in given if (row.task, row.metric) == ("cost", "trainable_parameters")}
    found = [
        dict.fromkeys(COLUMNS, "")
        | dict.fromkeys(_NUMBERS, math.nan)
        | {
            "source": source, "method": row.method, "parameters": counts.get(row.run, math.nan), "relation": "=",
            "training": f"{training}, {row.run}", "amount": math.nan if row.step is None else row.step,
            "amount_unit": "steps", "table": Path(row.source).name or source, "task": row.task, "metric": row.metric,
            "value": row.value, "unit": "fraction" if row.metric in FRACTIONS else row.metric, "mark": "S",
        }
        for row in given
    ]  # fmt: skip
    return pd.DataFrame(found, columns=list(COLUMNS)).astype(dict.fromkeys(_NUMBERS, "float64"))


def source_words(source: str) -> str:
    """A source as figures call it.

    Examples
    --------
    >>> source_words("2405.09673"), source_words("huggingface/peft")
    ('arXiv 2405.09673', 'huggingface/peft')
    """
    return f"arXiv {source}" if _ARXIV.fullmatch(source) else source


def _lines(path: Path) -> list[list[str]]:
    try:
        if size_of(path) > MAX_JSON_BYTES:
            raise ValueError(f"larger than {MAX_JSON_BYTES} bytes")
        found = list(csv.reader(io.StringIO(path.read_bytes().decode("utf-8-sig")), strict=True))
    except (OSError, CheckpointError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: is no CSV file ({plain(str(error), limit=200)}).") from error
    if len(found) < 2:
        raise DataError(f"{path}: holds no values; expected a number a line under the names {', '.join(COLUMNS)}.")
    return found


def _check_names(path: Path, names: list[str]) -> None:
    unknown = [name for name in names if name not in COLUMNS]
    if unknown:
        raise DataError(
            f"{path}: column {plain(unknown[0], limit=100)!r} is not known. Nearest: {nearest(unknown[0], COLUMNS)}."
        )
    missing = [name for name in COLUMNS if name not in names]
    if missing or len(set(names)) < len(names):
        what = f"has no column {missing[0]!r}" if missing else "has a column twice"
        raise DataError(f"{path}: {what}; expected each of {', '.join(COLUMNS)} once.")


def _whole(path: Path, names: list[str], lines: list[list[str]]) -> list[list[str]]:
    for number, cells in enumerate(lines, start=2):
        if len(cells) != len(names):
            raise DataError(f"{path}, line {number}: {len(cells)} cells, expected {len(names)} as the first line has.")
    return lines


def _row(place: str, cells: dict[str, str]) -> dict[str, Any]:
    empty = [name for name in _REQUIRED if not cells[name].strip()]
    if empty:
        raise DataError(f"{place}: its {', '.join(empty)} is empty; a number without its source is no published one.")
    for name, known in (("mark", tuple(MARKS)), ("relation", _RELATIONS)):
        if cells[name] not in known:
            raise DataError(f"{place}: {name} {plain(cells[name], limit=80)!r}, expected one of {', '.join(known)}.")
    if not all(is_plain(cell) for cell in cells.values()):
        raise DataError(f"{place}: holds characters that cannot be printed; expected plain text.")
    return {name: _number(place, name, cell) if name in _NUMBERS else cell for name, cell in cells.items()}


def _number(place: str, name: str, cell: str) -> float:
    if not cell:
        return math.nan
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{place}: {name} {plain(cell, limit=80)!r}, expected a finite number.")
    return value
