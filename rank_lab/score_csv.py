"""Scores from a plain CSV file, whose columns are those of the table by name."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rank_lab.errors import CheckpointError, DataError, SchemaError
from rank_lab.plain_file import MAX_JSON_BYTES, size_of
from rank_lab.plain_text import plain
from rank_lab.score_origin import Imported, Origin, direction
from rank_lab.score_table import SCORES_SCHEMA, ScoreRow
from rank_lab.scores import nearest

__all__ = ["COLUMNS", "csv_scores"]

COLUMNS = tuple(name for name in SCORES_SCHEMA.names if name != "examples")
"""What a column may be called."""

_REQUIRED = ("run", "method", "task", "metric", "value")
_WHOLE = ("step", "n", "few_shot")
_REAL = ("value", "stderr", "chance")
_WORDS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def csv_scores(file: Path, origin: Origin) -> Imported:
    """Rows of a CSV file in UTF-8 with a line of names.

    Parameters
    ----------
    file
        With the columns ``task``, ``metric`` and ``value`` at least; ``run`` and
        ``method``, unless the caller gives them; any other of :data:`COLUMNS`.
        Empty cells are values that are not known.
    origin
        What the file does not say; a column of the file goes before it.

    Raises
    ------
    DataError
        If a column is missing or not known, a cell is no value of its column, or there are no rows.
    """
    lines = _lines(file)
    names = [name.strip() for name in next(lines, [])]
    _check_names(str(file), names, origin)
    rows = []
    for number, cells in enumerate(lines, start=2):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(names):
            raise DataError(f"{file}, line {number}: {len(cells)} cells, expected {len(names)} as the first line has.")
        cell_of = {name: cell.strip() for name, cell in zip(names, cells, strict=True)}
        rows.append(_row(f"{file}, line {number}", str(file), cell_of, origin))
    if not rows:
        raise DataError(f"{file}: holds no rows; expected a score a line under the names of the columns.")
    origin.check_tasks(str(file), {row.task for row in rows})
    return Imported(tuple(rows))


def _lines(file: Path) -> "csv.Iterator[list[str]]":  # type: ignore[name-defined]
    try:
        if size_of(file) > MAX_JSON_BYTES:
            raise ValueError(f"larger than {MAX_JSON_BYTES} bytes")
        return iter([*csv.reader(io.StringIO(file.read_bytes().decode("utf-8-sig")), strict=True)])
    except (OSError, CheckpointError, ValueError, csv.Error) as error:
        raise DataError(f"{file}: is no CSV file ({plain(str(error), limit=200)}).") from error


def _check_names(file: str, names: list[str], origin: Origin) -> None:
    unknown = [name for name in names if name not in COLUMNS]
    if unknown:
        raise DataError(
            f"{file}: column {plain(unknown[0], limit=100)!r} is not known. Nearest: {nearest(unknown[0], COLUMNS)}."
        )
    if len(set(names)) < len(names):
        raise DataError(f"{file}: a column is there twice; expected each of {', '.join(names)} once.")
    given = {name for name in ("run", "method") if getattr(origin, name) is not None}
    missing = [name for name in _REQUIRED if name not in names and name not in given]
    if missing:
        raise DataError(
            f"{file}: has no column {', '.join(missing)}; expected {', '.join(_REQUIRED)}, of which run and method may"
            " be given instead."
        )


def _row(place: str, file: str, cells: Mapping[str, str], origin: Origin) -> ScoreRow:
    values: dict[str, Any] = {"run": origin.run, "method": origin.method, "step": origin.step, "source": file}
    for name, cell in cells.items():
        if cell:
            values[name] = _value(place, name, cell)
    empty = [name for name in _REQUIRED if values.get(name) is None]
    if empty:
        raise DataError(f"{place}: its {', '.join(empty)} is empty; expected a value.")
    task, metric = values["task"], values["metric"]
    values.setdefault("role", origin.roles.get(task, ""))
    values.setdefault("chance", origin.chance.get(task))
    values.setdefault("higher_is_better", direction(metric))
    if values["higher_is_better"] is None:
        raise DataError(
            f"{place}: nothing says whether a larger {plain(metric, limit=100)!r} is better; add a column"
            " higher_is_better with true or false."
        )
    try:
        return ScoreRow(**values)
    except SchemaError as error:
        raise DataError(f"{place}: {error}") from error


def _value(place: str, name: str, cell: str) -> Any:
    try:
        if name in _WHOLE:
            return int(cell)
        if name in _REAL:
            return float(cell)
        return _WORDS[cell.lower()] if name == "higher_is_better" else cell
    except (ValueError, KeyError):
        expected = "true or false" if name == "higher_is_better" else f"a {'whole ' * (name in _WHOLE)}number"
        raise DataError(f"{place}: {name} {plain(cell, limit=80)!r}, expected {expected}.") from None
