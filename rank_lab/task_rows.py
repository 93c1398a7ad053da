"""Reading a task's rows from JSON lines, from the hub or from memory, and refusing what is no text."""

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from rank_lab.errors import CheckpointError, DataError
from rank_lab.glue import GLUE, Task
from rank_lab.plain_file import MAX_JSON_BYTES, parse_json, size_of
from rank_lab.plain_text import plain
from rank_lab.scores import nearest

__all__ = ["HUB", "Data", "HubData", "Rows", "hub_commit", "hub_place", "json_lines", "read_rows", "validation_name"]

HUB = "nyu-mll/glue"
"""GLUE on the hub."""


@dataclass(frozen=True)
class HubData:
    """A data set on the hub.

    Parameters
    ----------
    repository
        Such as ``org/name``.
    config
        Of those that it has several of.
    train, validation
        Names of its splits, or parts of them in the library's own words, such as ``train[:90%]``.
    """

    repository: str
    config: str | None = None
    train: str = "train"
    validation: str = "validation"

    @property
    def name(self) -> str:
        """What messages and records call it."""
        return f"{self.repository} {self.config}" if self.config else self.repository


Data: TypeAlias = str | Path | HubData | Mapping[str, Iterable[Mapping[str, Any]]]
"""A folder of ``train.jsonl`` and ``validation.jsonl`` (or ``.jsonl.gz``), the rows of both by these names, or a data
set on the hub."""

_COMMIT = re.compile("[0-9a-f]{40}")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Rows:
    """One set's texts and labels as they were read.

    Parameters
    ----------
    source
        File or hub id, for messages and the record.
    texts
        A tuple of texts a row, in the order of the task's columns.
    labels
        A label a row; empty for causal tasks.
    lines
        Where each row stands: the line of the file, or the number of the row from 1.
    unused
        Columns that the task does not read.
    """

    source: str
    texts: tuple[tuple[str, ...], ...]
    labels: tuple[Any, ...]
    lines: tuple[int, ...]
    unused: tuple[str, ...]

    def where(self, row: int) -> str:
        """The place of a row, for messages."""
        return f"{self.source}, line {self.lines[row]}"

    def sha256(self) -> str:
        """Hash of all rows: of their texts and label as JSON, a line each, whatever file they came from."""
        digest = hashlib.sha256()
        for row, texts in enumerate(self.texts):
            cells = [*texts, self.labels[row]] if self.labels else [*texts]
            digest.update(json.dumps(cells, separators=(",", ":")).encode() + b"\n")
        return digest.hexdigest()


def validation_name(task: Task) -> str:
    """The validation set as GLUE calls it.

    Examples
    --------
    >>> validation_name(GLUE["mnli"]), validation_name(GLUE["rte"])
    ('validation_matched', 'validation')
    """
    return "validation_matched" if task == GLUE["mnli"] else "validation"


def read_rows(task: Task, data: Data | None, name: str, *, commit: str | None = None) -> Rows:
    """Rows of one set.

    Parameters
    ----------
    task
        Whose columns are read.
    data
        Where from; None for GLUE on the hub.
    name
        ``"train"`` or ``"validation"``.
    commit
        Of the hub's repository.

    Raises
    ------
    DataError
        If the set is not there or empty, a line is no JSON object, or a row
        lacks a column or a text; the message names file, line and column.
    """
    if data is None or isinstance(data, HubData):
        source, numbered = _of_hub(hub_place(task, data), name, commit)
    elif isinstance(data, Mapping):
        source, numbered = f"{name} rows", _of_memory(data, name)
    else:
        file = _file_of(Path(data), name, task)
        source, numbered = str(file), json_lines(file)
    texts, labels, lines, unused = [], [], [], set[str]()
    for line, row in numbered:
        missing = [column for column in task.columns if column not in row]
        if missing:
            raise DataError(f"{source}, line {line}: {_no_column(missing[0], row, task)}")
        texts.append(tuple(_text(row[column], f"{source}, line {line}", column) for column in task.text_columns))
        if task.label_column:
            labels.append(row[task.label_column])
        lines.append(line)
        unused.update(row)
    if not lines:
        raise DataError(f"{source}: holds no row; expected at least one {name} example.")
    if not any(text.strip() for row_texts in texts for text in row_texts):
        raise DataError(f"{source}: column {task.text_columns[0]!r} is empty in all {len(lines)} rows; expected texts.")
    return Rows(source, tuple(texts), tuple(labels), tuple(lines), tuple(sorted(unused - set(task.columns))))


def _text(value: Any, where: str, column: str) -> str:
    if not isinstance(value, str):
        raise DataError(
            f"{where}: column {column!r} holds {plain(repr(value), limit=80)}, expected a text; correct or remove the"
            " row, or name another column."
        )
    return value


def _no_column(missing: str, row: Mapping[str, Any], task: Task) -> str:
    names = sorted(map(str, row))
    others = [each.name for each in GLUE.values() if each.name != task.name and set(each.columns) <= set(names)]
    hint = f" These are the columns of {', '.join(others)}: is this the folder of another task?" if others else ""
    return plain(
        f"has no column {missing!r}, which the task {task.name!r} reads. Nearest: {nearest(missing, names) or 'none'}."
        f"{hint}"
    )


def _file_of(folder: Path, name: str, task: Task) -> Path:
    if not folder.is_dir():
        raise DataError(
            f"{folder}: is not a folder; expected one with train.jsonl and validation.jsonl (or .jsonl.gz), or leave it"
            " out to read a GLUE task from the hub."
        )
    names = [name] if name == "train" else list(dict.fromkeys([name, validation_name(task)]))
    candidates = [folder / f"{each}{ending}" for each in names for ending in (".jsonl", ".jsonl.gz")]
    found = [file for file in candidates if file.exists() or file.is_symlink()]
    if len(found) > 1:
        raise DataError(f"{found[0]}: and {found[1].name} are both there; which is meant? Leave only one of them.")
    if not found:
        there = ", ".join(sorted(file.name for file in folder.iterdir())[:8]) or "nothing"
        raise DataError(plain(f"{folder}: has no {name}.jsonl or {name}.jsonl.gz; it holds {there}."))
    return found[0]


def json_lines(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The objects of a file of JSON lines, plain or compressed with gzip, each with the number of its line.

    Parameters
    ----------
    file
        Compressed where its name ends in ``.gz``.

    Raises
    ------
    DataError
        If it cannot be read, or a line is no JSON object; the line is named.
    """
    line = 0
    try:
        size_of(file)
        with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as handle:
            while raw := handle.readline(MAX_JSON_BYTES + 1):
                line += 1
                if raw.strip():
                    yield line, _object(raw, file, line)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{file}: is no whole gzip file, after line {line} ({error}); fetch it again.") from error
    except CheckpointError as error:
        raise DataError(str(error)) from error
    except FileNotFoundError as error:
        raise DataError(f"{file}: is not there; check the path.") from error
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); check its permissions.") from error


def _object(raw: bytes, file: Path, line: int) -> Mapping[str, Any]:
    try:
        row = parse_json(raw)
    except ValueError as error:
        raise DataError(
            plain(f"{file}, line {line}: not JSON ({error}); expected one JSON object a line.", limit=400)
        ) from error
    if not isinstance(row, dict):
        raise DataError(f"{file}, line {line}: a JSON {type(row).__name__}, expected one JSON object a line.")
    if b"\\u" in raw and _SURROGATE.search(json.dumps(row, ensure_ascii=False)):
        raise DataError(
            f"{file}, line {line}: holds half a character (a surrogate without its other half, as of an emoji that was"
            " cut), which no tokenizer takes; correct or remove the row."
        )
    return row


def _of_memory(data: Mapping[str, Iterable[Mapping[str, Any]]], name: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if name not in data:
        raise DataError(
            f"no set {name!r} among {', '.join(map(repr, data)) or 'none'}; expected 'train' and 'validation'."
        )
    for line, row in enumerate(data[name], start=1):
        if not isinstance(row, Mapping):
            raise DataError(
                f"{name} rows, line {line}: a {type(row).__name__}, expected a mapping from column to value."
            )
        yield line, row


def hub_place(task: Task, data: HubData | None) -> HubData:
    """Where a task's rows are on the hub.

    Parameters
    ----------
    task
        One of GLUE's where `data` is None.
    data
        As given.

    Raises
    ------
    DataError
        If none is given, and the task is not one of GLUE's.

    Examples
    --------
    >>> hub_place(GLUE["mnli"], None).validation
    'validation_matched'
    """
    if data is not None:
        return data
    if GLUE.get(task.name) != task:
        raise DataError(
            f"task {task.name!r} is not one of GLUE's, so it is not looked for on the hub; give the folder of its"
            " train.jsonl and validation.jsonl."
        )
    return HubData(HUB, task.name, validation=validation_name(task))


def _of_hub(place: HubData, name: str, commit: str | None) -> tuple[str, Iterator[tuple[int, Mapping[str, Any]]]]:
    from datasets import load_dataset_builder

    split = place.train if name == "train" else place.validation
    with _hub_errors(place):
        builder = load_dataset_builder(place.repository, place.config, revision=commit)
        # Out of the hub's reach the library takes the newest commit of its cache: that must not pass for this one.
        if builder.hash != commit:
            raise DataError(
                f"{place.name}: commit {commit} is neither within reach nor in the local cache, which holds"
                f" {builder.hash}; connect to the hub, ask for that commit, or give a folder."
            )
        builder.download_and_prepare()
        _refuse_unknown_split(split, place, list(builder.info.splits or ()))
        loaded = builder.as_dataset(split=split)
    return f"{place.name} {split}", enumerate(loaded, start=1)


def _refuse_unknown_split(split: str, place: HubData, known: list[str]) -> None:
    unknown = [part for part in re.split(r"\s*\+\s*", split) if part.partition("[")[0] not in known]
    if unknown:
        name = unknown[0].partition("[")[0]
        raise DataError(
            plain(f"{place.name}: has no split {name!r}. Nearest: {nearest(name, known) or 'none, it has no split'}.")
        )


def hub_commit(place: Task | HubData, revision: str | None) -> str:
    """The commit of a data set on the hub: a full one as given, a branch's or tag's as the hub says.

    Without a revision it is the newest on the hub or, out of its reach, in the local cache.

    Raises
    ------
    DataError
        If the hub cannot be asked, and nothing is cached.
    """
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    from datasets import load_dataset_builder
    from huggingface_hub import HfApi

    there = hub_place(place, None) if isinstance(place, Task) else place
    with _hub_errors(there):
        if revision is None:
            return str(load_dataset_builder(there.repository, there.config).hash)
        return str(HfApi().dataset_info(there.repository, revision=revision).sha)


@contextmanager
def _hub_errors(place: HubData) -> Iterator[None]:
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    try:
        yield
    except DataError:
        raise
    # Whose HTTP client it is depends on the version.
    except (OSError, ValueError, RuntimeError, DatasetsError, HTTPError) as error:
        raise DataError(
            plain(
                f"{place.name}: cannot be read from the hub ({type(error).__name__}: {error}). Check the network"
                " and HF_ENDPOINT, or give a folder with train.jsonl and validation.jsonl.",
                limit=600,
            )
        ) from error
