"""Two corpora that every Python installation already holds: English prose and code.

Prose is the language reference that ``help()`` shows (`pydoc_data.topics`) and the long
docstrings of the standard library; code is the same library without its docstrings. A model
that learned the first and is adapted to the second shows both learning and forgetting,
and nothing has to be downloaded.

The text differs between Python versions, so every result made from it should keep
`Corpus.sha256`.
"""

import ast
import functools
import hashlib
import re
import sysconfig
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from pydoc_data.topics import topics
from typing import TypeAlias

__all__ = ["Corpus", "Document", "code", "prose"]

MIN_DOCSTRING = 200
"""Docstrings up to this many characters are signatures and one-liners rather than prose."""

MIN_REPEATED = 80
"""Shorter paragraphs ("Example:", "Note:") may repeat: without them the text loses its thread."""

HELD_OUT_ONE_IN = 10
"""One document in this many is held out."""

# Which tenth is arbitrary. This one is mixed: no file is over 15 % of it in Python 3.11 or 3.12,
# whereas without a prefix `_pydecimal.py` alone is over a third.
_HELD_OUT_PREFIX = "2:"

# Not the library: tests, installed packages, and programs that happen to live beside it.
_SKIPPED_FOLDERS = frozenset(
    {"__pycache__", "dist-packages", "idlelib", "site-packages", "test", "tests", "turtledemo"}
    # Tables of characters and the prose corpus as one literal: neither reads like code.
    | {"encodings", "pydoc_data"}
)
# Written when Python is built or installed, so they hold paths of one machine.
_MACHINE_FILES = re.compile(r"^(_sysconfigdata.*|sitecustomize\.py|usercustomize\.py|config-.*)$")


_Documented: TypeAlias = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
_Holding: TypeAlias = ast.stmt | ast.ExceptHandler | ast.match_case  # through which a statement holds others


@dataclass(frozen=True, slots=True)
class Document:
    """One topic, or one source file's share of a corpus.

    Parameters
    ----------
    name
        ``topic/<name>``, or the file's path below the standard library.
    text
        Its text, never empty.
    """

    name: str
    text: str

    @property
    def held_out(self) -> bool:
        """Whether the document is kept from training.

        Decided by the name alone: a document changes between Python versions far more often
        than its name does, so a base trained on one version has not seen another's held-out
        documents either.
        """
        digest = hashlib.sha256(f"{_HELD_OUT_PREFIX}{self.name}".encode()).digest()
        return int.from_bytes(digest[:8], "big") % HELD_OUT_ONE_IN == 0


@dataclass(frozen=True, slots=True)
class Corpus:
    """Documents in a fixed order, and what was left out of them.

    Parameters
    ----------
    name
        ``prose`` or ``code``.
    documents
        Without repetition, in sorted order.
    files
        How many source files were found, the unreadable ones included.
    unreadable
        Paths below the standard library that could not be read or parsed.
    """

    name: str
    documents: tuple[Document, ...]
    files: int
    unreadable: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """Hash of every document's name and text, in order."""
        digest = hashlib.sha256()
        for document in self.documents:
            digest.update(f"{document.name}\0{document.text}\0".encode())
        return digest.hexdigest()

    @property
    def characters(self) -> int:
        """Length of the text."""
        return sum(len(document.text) for document in self.documents)

    @property
    def training(self) -> tuple[str, ...]:
        """Texts to train on."""
        return tuple(each.text for each in self.documents if not each.held_out)

    @property
    def held_out(self) -> tuple[str, ...]:
        """Texts kept from training."""
        return tuple(each.text for each in self.documents if each.held_out)


@functools.cache
def prose() -> Corpus:
    """Language reference and long docstrings of the running Python.

    Returns
    -------
    Corpus
        One document per topic, then one per source file that has a long docstring.

    Notes
    -----
    The topics quote each other at length (``specialnames`` contains most of ``descriptors``)
    and so do docstrings. A paragraph is kept only where it first occurs, or the held-out part
    would be text that was trained on.
    """
    library = _read(_folder())
    sources = [(f"topic/{name}", topics[name]) for name in sorted(topics)]
    sources += [(source.name, source.docstrings) for source in library.sources]
    return Corpus(
        name="prose",
        documents=tuple(_without_repeated_paragraphs(sources)),
        files=library.files,
        unreadable=library.unreadable,
    )


@functools.cache
def code() -> Corpus:
    """Source of the standard library without docstrings or comments.

    Returns
    -------
    Corpus
        One document per source file, in the layout of `ast.unparse`.
    """
    library = _read(_folder())
    documents: dict[str, Document] = {}
    for source in library.sources:
        if source.code:
            documents.setdefault(source.code, Document(source.name, source.code))
    return Corpus(
        name="code",
        documents=tuple(documents.values()),
        files=library.files,
        unreadable=library.unreadable,
    )


@dataclass(frozen=True, slots=True)
class _Source:
    """What one source file gives to the two corpora; either may be empty."""

    name: str
    docstrings: str
    code: str


@dataclass(frozen=True, slots=True)
class _Library:
    """What was read of the standard library."""

    sources: tuple[_Source, ...]
    files: int
    unreadable: tuple[str, ...]


def _folder() -> Path:
    """Where the running Python keeps its standard library."""
    return Path(sysconfig.get_paths()["stdlib"])


@functools.cache
def _read(folder: Path) -> _Library:
    """Parse every source file once, for both corpora: parsing is most of the work."""
    named = ((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*.py"))
    files = sorted((name, path) for name, path in named if _belongs(name))
    sources: list[_Source] = []
    unreadable: list[str] = []
    for name, path in files:
        try:
            tree = _parse(path)
            docstrings = "\n\n".join(_long_docstrings(tree))
            sources.append(_Source(name, docstrings, ast.unparse(_without_docstrings(tree))))
        except (OSError, SyntaxError, ValueError, RecursionError):
            unreadable.append(name)
    return _Library(tuple(sources), len(files), tuple(unreadable))


def _belongs(name: str) -> bool:
    """Whether the file is part of the library proper."""
    parts = PurePosixPath(name).parts
    return _SKIPPED_FOLDERS.isdisjoint(parts) and not any(map(_MACHINE_FILES.match, parts))


def _parse(path: Path) -> ast.Module:
    """Parse one source file, in the encoding it declares."""
    with warnings.catch_warnings():
        # An invalid escape in somebody's docstring is not this program's concern.
        warnings.simplefilter("ignore")
        return ast.parse(path.read_bytes())


def _documented(tree: ast.Module) -> Iterator[_Documented]:
    """Nodes of the tree that may carry a docstring, outermost first; expressions, most of the tree, hold none."""
    waiting: deque[ast.AST] = deque([tree])
    while waiting:
        node = waiting.popleft()
        waiting.extend(child for child in ast.iter_child_nodes(node) if isinstance(child, _Holding))
        if isinstance(node, _Documented):
            yield node


def _long_docstrings(tree: ast.Module) -> Iterator[str]:
    """Docstrings long enough to be prose, outermost first."""
    for node in _documented(tree):
        docstring = ast.get_docstring(node)
        if docstring is not None and len(docstring) > MIN_DOCSTRING:
            yield docstring


def _without_docstrings(tree: ast.Module) -> ast.Module:
    """Remove every docstring from the tree, in place."""
    for node in _documented(tree):
        if ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
        if not node.body and not isinstance(node, ast.Module):
            node.body.append(ast.Pass())
    return tree


def _without_repeated_paragraphs(sources: Iterable[tuple[str, str]]) -> Iterator[Document]:
    """Keep each long paragraph where it first occurs, and documents that still have text."""
    seen: set[str] = set()
    for name, text in sources:
        kept: list[str] = []
        for paragraph in re.split(r"\n\s*\n", text):
            words = " ".join(paragraph.split())
            if words and (len(words) <= MIN_REPEATED or words not in seen):
                kept.append(paragraph.rstrip())
            seen.add(words)
        if any(len(paragraph) > MIN_REPEATED for paragraph in kept):
            yield Document(name, "\n\n".join(kept).strip("\n"))
