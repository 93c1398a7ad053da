"""Opening files that nobody vouches for: regular ones only, and JSON of bounded size and cost.

Links are followed, wherever they lead: the hub's cache is made of links out of
its folders, and shared storage is linked likewise. What is behind one is only
ever read as weights or configuration, never written to, and no content of a
file that is neither is printed. Devices, pipes and sockets, on which reading
may never end, are refused, as is what links to them.
"""

import json
import stat
from collections import Counter
from pathlib import Path
from typing import Any

from rank_lab.errors import CheckpointError
from rank_lab.plain_text import plain

__all__ = ["MAX_JSON_BYTES", "json_object", "parse_json", "size_of"]

MAX_JSON_BYTES = 32_000_000
"""Bytes of JSON that are read at most: three times the shard index of the largest public models (2025)."""

# Each costs Python up to 150 bytes and a microsecond: under 200 MB and about a second in all.
_MAX_MARKS = 1_200_000
_MAX_DEPTH = 50  # what is written out again recurses


def size_of(file: Path) -> int:
    """Size in bytes of a regular file, or of the one that a link leads to.

    Raises
    ------
    CheckpointError
        If it is a folder, a pipe, a device or a socket, or a link that leads nowhere.
    """
    try:
        status = file.stat()
    except FileNotFoundError:
        if file.is_symlink():
            raise CheckpointError(
                f"{file}: is a link to {plain(str(file.readlink()), limit=200)}, which is not there; download or copy"
                " the file itself."
            ) from None
        raise
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{file}: is no regular file (a folder, pipe, device or socket); give the file itself.")
    return status.st_size


def parse_json(raw: bytes, *, constants: bool = True) -> Any:
    """JSON text of bounded cost, whose objects name each key once.

    Parameters
    ----------
    raw
        The text, in UTF-8.
    constants
        Whether ``NaN`` and ``Infinity`` may stand for numbers, which Python
        writes and JSON does not know.

    Raises
    ------
    ValueError
        If it is not UTF-8, not JSON, too large, too deep, or an object has a key twice.

    Examples
    --------
    >>> parse_json(b'{"a": [1, 2]}')
    {'a': [1, 2]}
    >>> parse_json(b'{"a": 1, "a": 2}')
    Traceback (most recent call last):
    ValueError: the key 'a' is there twice
    """
    marks = sum(raw.count(mark) for mark in (b",", b":", b"[", b"{"))
    if len(raw) > MAX_JSON_BYTES or marks > _MAX_MARKS:
        raise ValueError(f"{len(raw)} bytes with about {marks} values, more than any model needs")
    try:
        content = json.loads(
            raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=None if constants else _refuse
        )
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    _refuse_deep(content)
    return content


def json_object(file: Path) -> dict[str, Any] | None:
    """Content of a configuration file, or None if there is none.

    Raises
    ------
    CheckpointError
        If it is no JSON object, or no regular file; the file is named.
    """
    if not file.exists() and not file.is_symlink():
        return None
    size, advice = size_of(file), "restore the file that the model was saved with."
    if size > MAX_JSON_BYTES:
        raise CheckpointError(f"{file}: is {size} bytes long, more than {MAX_JSON_BYTES} for a configuration; {advice}")
    try:
        content = parse_json(_start(file) if size else b"")
    except ValueError as error:
        raise CheckpointError(f"{file}: not JSON ({error}); {advice}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: a JSON {type(content).__name__}, expected an object; {advice}")
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice!r} is there twice")
    return found


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number of JSON")


def _refuse_deep(content: Any) -> None:
    level = [content] if isinstance(content, dict | list) else []
    for _ in range(_MAX_DEPTH):
        children = (item.values() if isinstance(item, dict) else item for item in level)
        level = [child for item in children for child in item if isinstance(child, dict | list)]
        if not level:
            return
    raise ValueError(f"nested more than {_MAX_DEPTH} deep")


def _start(file: Path) -> bytes:
    with file.open("rb") as handle:  # its size may have changed since it was asked for
        return handle.read(MAX_JSON_BYTES + 1)
