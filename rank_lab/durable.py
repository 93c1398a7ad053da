"""Files that survive a process that is killed while it writes: whole or not there, lines that end or are cut off."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["append_line", "cut_torn_line", "held", "move_into_place", "write_whole"]


@contextmanager
def held(lock: Path) -> Iterator[None]:
    """Wait until no other process, or thread, is in such a block, so that a file can be read, changed and written.

    Parameters
    ----------
    lock
        An empty file, made where it is not there, in a folder that exists. It stays, and is free again as soon as the
        block ends, or its process does.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder, held(Path(folder) / ".lock"):
    ...     (Path(folder) / ".lock").stat().st_size
    0
    """
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_whole(file: Path, content: str | bytes) -> None:
    """Write a file so that any reader finds all of the old content or all of the new.

    Parameters
    ----------
    file
        In a folder that exists.
    content
        Text is written as UTF-8.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write_whole(Path(folder) / "a.json", "{}")
    ...     [found.name for found in Path(folder).iterdir()]
    ['a.json']
    """
    partial = file.with_name(f".{file.name}.partial")
    partial.write_bytes(content.encode() if isinstance(content, str) else content)
    move_into_place(partial, file)


def move_into_place(written: Path, file: Path) -> None:
    """Give a file that was written completely its name, on the disk before anything that follows.

    Parameters
    ----------
    written
        In any folder of the same file system; it is gone afterwards.
    file
        Replaced where it is there.
    """
    _flush(written)
    written.replace(file)
    _flush(file.parent)


def append_line(file: Path, line: str) -> None:
    r"""Add a line and wait until it is on the disk.

    Parameters
    ----------
    file
        Made where it is not there; its last line is whole (see :func:`cut_torn_line`).
    line
        Without an end of line.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     append_line(Path(folder) / "rows", "first")
    ...     append_line(Path(folder) / "rows", "second")
    ...     (Path(folder) / "rows").read_text()
    'first\nsecond\n'
    """
    with file.open("ab") as stream:
        stream.write(line.encode() + b"\n")
    _flush(file)


def cut_torn_line(file: Path) -> bool:
    r"""Cut off a last line that has no end: its process was killed while it wrote it.

    Parameters
    ----------
    file
        Need not be there.

    Returns
    -------
    bool
        Whether there was one.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     file = Path(folder) / "rows"
    ...     _ = file.write_text('{"a": 1}' + chr(10) + '{"a":')
    ...     cut_torn_line(file), file.read_text(), cut_torn_line(file)
    (True, '{"a": 1}\n', False)
    """
    if not file.is_file():
        return False
    content = file.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole == len(content):
        return False
    os.truncate(file, whole)
    _flush(file)
    return True


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
