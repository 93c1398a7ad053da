"""What the studies' base reads, what it is measured on, and what it is adapted to: English prose, Python, maths."""

import gzip
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rank_lab.demo.text import code, prose
from rank_lab.errors import DataError

__all__ = ["Source", "SourceText", "prose_sources", "target_texts", "texts_sha256"]

_DOCUMENT = 1500  # characters, at least, of what speeches and lines are joined to


@dataclass(frozen=True)
class Source:
    """One kind of text.

    Parameters
    ----------
    name
        In tables.
    training, held_out
        Documents; the held-out ones of prose are read by no training.
    """

    name: str
    training: tuple[str, ...]
    held_out: tuple[str, ...]


SourceText = Mapping[str, Source]


def prose_sources(data: Path) -> dict[str, Source]:
    """What the base reads, by name: novels and poems, plays, articles, and the language reference of Python.

    The last holds short examples in code, which are all the Python that the base has seen.

    Parameters
    ----------
    data
        Folder with ``gutenberg``, ``tinyshakespeare`` and ``wikitext2``.

    Raises
    ------
    DataError
        If a file is missing.
    """
    topics = [document for document in prose().documents if document.name.startswith("topic/")]
    books = [_texts(data / "gutenberg" / name) for name in ("train.jsonl.gz", "validation.jsonl", "test.jsonl")]
    plays = [_joined(_texts(data / "tinyshakespeare" / name), "\n\n") for name in ("train.jsonl", "validation.jsonl")]
    articles = [_joined(_texts(data / "wikitext2" / name), "") for name in ("validation.jsonl", "test.jsonl")]
    sources = (
        Source("gutenberg", books[0], books[1] + books[2]),
        Source("tinyshakespeare", plays[0], plays[1]),
        Source("wikitext2", articles[0], articles[1]),
        Source(
            "python reference",
            tuple(topic.text for topic in topics if not topic.held_out),
            tuple(topic.text for topic in topics if topic.held_out),
        ),
    )
    return {source.name: source for source in sources}


def target_texts(data: Path) -> dict[str, Source]:
    """What a base is adapted to: source of the standard library, and problems of GSM8K with their solutions.

    Parameters
    ----------
    data
        Folder with ``gsm8k``.
    """
    problems = [_rows(data / "gsm8k" / name) for name in ("train.jsonl", "test.jsonl")]
    told = [tuple(f"{row['question']}\n{row['answer']}" for row in rows) for rows in problems]
    return {"python": Source("python", code().training, code().held_out), "maths": Source("maths", *told)}


def texts_sha256(sources: Iterable[Source]) -> str:
    """Of all documents, in order: those of Python depend on its version.

    Parameters
    ----------
    sources
        Any.
    """
    digest = hashlib.sha256()
    for source in sources:
        for part in (source.training, source.held_out):
            digest.update(json.dumps([source.name, part]).encode())
    return digest.hexdigest()


def _texts(file: Path) -> tuple[str, ...]:
    return tuple(row["text"] for row in _rows(file))


def _rows(file: Path) -> list[dict[str, str]]:
    if not file.is_file():
        raise DataError(f"{file}: not there; give the folder of the data sets with --data.")
    content = file.read_bytes()
    text = (gzip.decompress(content) if file.suffix == ".gz" else content).decode("utf-8")
    return [json.loads(line) for line in text.split("\n") if line]  # splitlines would split at more than ends of line


def _joined(texts: Sequence[str], between: str) -> tuple[str, ...]:
    """Documents of some length, from what is cut up into speeches or lines."""
    found, part, size = [], [], 0
    for text in texts:
        part.append(text)
        size += len(text)
        if size >= _DOCUMENT:
            found.append(between.join(part).strip("\n"))
            part, size = [], 0
    return (*found, between.join(part).strip("\n")) if part else tuple(found)
