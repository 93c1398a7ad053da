"""The demonstration's text as files of a task: code to learn, held-out code and prose to measure on."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rank_lab.demo.text import code, prose
from rank_lab.durable import write_whole

__all__ = ["Texts", "texts_sha256", "write_texts"]

_PIECE = 400  # characters of a held-out text: some 115 tokens of the demo's base, one window


@dataclass(frozen=True)
class Texts:
    """Files of a task.

    Parameters
    ----------
    folder
        Holds ``train.jsonl`` and ``validation.jsonl``, of code.
    target, source
        Held-out pieces of code and of prose.
    sha256
        Of both corpora, which depend on the version of Python.
    """

    folder: Path
    target: Path
    source: Path
    sha256: str


def write_texts(folder: Path, *, pieces: int = 24, documents: int | None = None) -> Texts:
    """Write the standard library's code to learn, and held-out code and prose to measure on.

    Parameters
    ----------
    folder
        Receives the files.
    pieces
        Held-out texts of each, of 400 characters, evenly spread over all held-out documents.
    documents
        Files of code to learn, the first so many; None for all.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     texts = write_texts(Path(folder), pieces=2, documents=3)
    ...     [len(file.read_text().splitlines()) for file in sorted(Path(folder).iterdir())]
    [2, 2, 3, 2]
    """
    folder.mkdir(parents=True, exist_ok=True)
    learned, known = code(), prose()
    target, source = (_spread(list(_pieces(corpus.held_out)), pieces) for corpus in (learned, known))
    training = learned.training[:documents]
    for name, rows in (("train", training), ("validation", target), ("code", target), ("prose", source)):
        lines = [json.dumps({"text": text}) + "\n" for text in rows]
        write_whole(folder / f"{name}.jsonl", "".join(lines))
    return Texts(folder, folder / "code.jsonl", folder / "prose.jsonl", texts_sha256())


def texts_sha256() -> str:
    """Of both corpora, which depend on the version of Python."""
    return hashlib.sha256((code().sha256 + prose().sha256).encode()).hexdigest()


def _pieces(documents: Sequence[str]) -> Iterator[str]:
    for document in documents:
        for first in range(0, len(document) - _PIECE // 2, _PIECE):
            yield document[first : first + _PIECE]


def _spread(pieces: list[str], count: int) -> list[str]:
    """So many, evenly spread over all documents."""
    return [pieces[i * len(pieces) // count] for i in range(min(count, len(pieces)))]
