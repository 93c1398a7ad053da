"""Texts of :mod:`analyses.learning_vs_forgetting`: what is learned, and on which held-out texts all is measured."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analyses.study_base_text import Source, prose_sources, target_texts, texts_sha256
from rank_lab.durable import write_whole
from rank_lab.tasks import Task, TaskData, encoded

__all__ = ["PROSE", "TARGETS", "Documents", "Texts", "read_texts", "task_data"]

TARGETS = {"python": "Python code", "maths": "grade-school maths"}
PROSE = ("gutenberg", "tinyshakespeare", "wikitext2")
"""What forgetting is measured on: text of the kinds that the base has read, but for the reference of Python, which
what is learned from code may help with."""

_PIECE = 400  # characters of a held-out text of prose or code, some 110 and 160 tokens
_TASKS = {
    "python": Task("python", "causal", ("text",), "", "token_accuracy"),
    "maths": Task("maths", "causal", ("question", "answer"), "", "token_accuracy"),
}

Rows = list[dict[str, str]]


@dataclass(frozen=True)
class Documents:
    """A set of held-out texts.

    Parameters
    ----------
    name
        ``"choose"`` and ``"report"`` of a target, or the name of a source.
    texts
        One or two parts each: of a question and its answer only the answer is scored.
    """

    name: str
    texts: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Texts:
    """All that a study trains and measures on.

    Parameters
    ----------
    training
        By target.
    choose, report
        By target: two parts of its held-out texts, one to choose learning rates by, one for all that is told.
    prose
        By source.
    sha256
        Of all texts, before any were chosen.
    """

    training: dict[str, Rows]
    choose: dict[str, Documents]
    report: dict[str, Documents]
    prose: tuple[Documents, ...]
    sha256: str


def read_texts(folder: Path, data: Path, counts: tuple[int, int, int], documents: int | None = None) -> Texts:
    """Read all, or what an earlier call has written to the study.

    Parameters
    ----------
    folder
        Of the study; receives ``texts.json``.
    data
        Folder of the data sets.
    counts
        Texts to choose by, to report on, and of each source of prose.
    documents
        To learn, of each target; None for all.
    """
    file = folder / "texts.json"
    if not file.is_file():
        write_whole(file, json.dumps(_gathered(data, counts, documents)))
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    held = {part: {name: _documents(part, rows) for name, rows in found[part].items()} for part in ("choose", "report")}
    prose = tuple(_documents(name, rows) for name, rows in found["prose"].items())
    return Texts(found["training"], held["choose"], held["report"], prose, found["sha256"])


def _documents(name: str, rows: Sequence[Sequence[str]]) -> Documents:
    return Documents(name, tuple(tuple(row) for row in rows))


def _gathered(data: Path, counts: tuple[int, int, int], documents: int | None) -> dict[str, Any]:
    sources, targets = prose_sources(data), target_texts(data)
    choose, report, prose = counts
    held = {name: _held_out(name, source, choose + report) for name, source in targets.items()}
    return {
        "training": {
            name: [_row(name, text) for text in source.training[:documents]] for name, source in targets.items()
        },
        "choose": {name: rows[::2][:choose] for name, rows in held.items()},
        "report": {name: _others(rows, rows[::2][:choose]) for name, rows in held.items()},
        "prose": {name: _spread(_pieces(sources[name].held_out), prose) for name in PROSE},
        "sha256": texts_sha256([*sources.values(), *targets.values()]),
    }  # fmt: skip


def _row(target: str, text: str) -> dict[str, str]:
    if target == "python":
        return {"text": text}
    question, _, answer = text.partition("\n")
    return {"question": f"{question}\n", "answer": answer}


def _held_out(target: str, source: Source, count: int) -> list[list[str]]:
    if target == "python":
        return _spread(_pieces(source.held_out), count)
    return _spread([list(_row(target, text).values()) for text in source.held_out], count)


def _pieces(documents: Sequence[str]) -> list[list[str]]:
    cut = (text[first : first + _PIECE] for text in documents for first in range(0, len(text) - _PIECE // 2, _PIECE))
    return [[piece] for piece in cut]


def _spread(rows: list[list[str]], count: int) -> list[list[str]]:
    """So many, evenly spread over all."""
    return [rows[place * len(rows) // count] for place in range(min(count, len(rows)))]


def _others(rows: list[list[str]], chosen: list[list[str]]) -> list[list[str]]:
    return [row for row in rows if row not in chosen]


def task_data(texts: Texts, target: str, tokenizer: Any, context: int) -> TaskData:
    """A target as the trainer takes it: code is packed, of problems only the solution is learned.

    Parameters
    ----------
    texts
        From :func:`read_texts`.
    target
        Which.
    tokenizer
        The base's.
    context
        Tokens of an example.
    """
    task = _TASKS[target]
    few = [dict(zip(task.text_columns, row, strict=True)) for row in texts.choose[target].texts[:8]]
    rows = {"train": texts.training[target], "validation": few}
    return encoded(task, rows, tokenizer, max_length=context, packed=target == "python")
