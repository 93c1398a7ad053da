"""Named sets of texts that a model is measured on."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rank_lab.errors import CheckpointError, DataError
from rank_lab.plain_file import size_of
from rank_lab.plain_text import plain
from rank_lab.score_table import ROLES
from rank_lab.scores import nearest
from rank_lab.task_rows import json_lines

__all__ = ["TextSet", "read_texts"]


@dataclass(frozen=True)
class TextSet:
    """Texts under one name.

    Parameters
    ----------
    name
        What tables call it.
    texts
        None of them blank.
    source
        Where they come from, and what was done with them.
    role
        ``"source"`` (what the base can), ``"target"`` (what is learned) or ``""``.
    """

    name: str
    texts: tuple[str, ...]
    source: str
    role: str = ""

    def __post_init__(self) -> None:
        """Refuse a set without a text."""
        if not any(text.strip() for text in self.texts):
            raise DataError(f"{self.source}: the set {self.name!r} holds no text; expected at least one.")
        if self.role not in ROLES:
            raise DataError(f"set {self.name!r}: role {self.role!r}, expected one of {', '.join(map(repr, ROLES))}.")

    def sha256(self) -> str:
        """Hash of the texts: a line of JSON each."""
        digest = hashlib.sha256()
        for text in self.texts:
            digest.update(json.dumps(text).encode() + b"\n")
        return digest.hexdigest()


def read_texts(
    name: str,
    file: Path | str,
    *,
    column: str = "text",
    join: bool = False,
    limit: int | None = None,
    role: str = "",
) -> TextSet:
    """Read a set of texts.

    Parameters
    ----------
    name
        What tables will call it.
    file
        ``.jsonl`` or ``.jsonl.gz``, a text a row; ``.txt``, one text.
    column
        Of the JSON rows.
    join
        Whether the rows are lines of one text (as in WikiText), which are then joined, blank ones too; a row without
        its line break gets one. Otherwise blank rows are left out and counted.
    limit
        Only so many rows, from the first; None for all.
    role
        See :class:`TextSet`.

    Raises
    ------
    DataError
        If the file cannot be read, a row lacks the column or a text, or there is no text.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     file = Path(folder) / "talk.jsonl"
    ...     _ = file.write_text('{"text": "Good day."}' + chr(10) + '{"text": ""}' + chr(10))
    ...     read_texts("talk", file).texts
    ('Good day.',)
    """
    path = Path(file)
    if limit is not None and limit < 1:
        raise DataError(f"{path}: a limit of {limit} rows; expected at least 1, or none.")
    ending = path.name.removesuffix(".gz").rsplit(".", 1)[-1]
    if ending not in ("jsonl", "txt"):
        raise DataError(f"{path}: expected .jsonl, .jsonl.gz or .txt, to know how texts stand in it.")
    rows = []
    for row in _json_texts(path, column) if ending == "jsonl" else iter([_whole(path)]):
        rows.append(row)
        if len(rows) == limit:
            break
    texts = (
        ("".join(row if row.endswith("\n") else f"{row}\n" for row in rows),)
        if join
        else tuple(row for row in rows if row.strip())
    )
    blank = 0 if join else len(rows) - len(texts)
    notes = [
        f"the first {limit} rows" if limit is not None else "",
        f"{len(rows)} rows joined" if join else "",
        f"{blank} blank {'row' if blank == 1 else 'rows'} left out" if blank and ending == "jsonl" else "",
    ]
    return TextSet(name, texts, ", ".join([str(path), *filter(None, notes)]), role)


def _json_texts(file: Path, column: str) -> Iterator[str]:
    for line, row in json_lines(file):
        if column not in row:
            names = ", ".join(sorted(map(str, row))) and nearest(column, sorted(map(str, row)))
            raise DataError(plain(f"{file}, line {line}: has no column {column!r}. Nearest: {names or 'none'}."))
        if not isinstance(row[column], str):
            raise DataError(
                f"{file}, line {line}: column {column!r} holds {plain(repr(row[column]), limit=80)}, expected a text."
            )
        yield row[column]


def _whole(file: Path) -> str:
    try:
        size_of(file)
        return file.read_text(encoding="utf-8")
    except CheckpointError as error:
        raise DataError(str(error)) from error
    except FileNotFoundError as error:
        raise DataError(f"{file}: is not there; check the path.") from error
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); give a file of texts.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: is not UTF-8 ({error.reason} at byte {error.start}); convert it.") from error
