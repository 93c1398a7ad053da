"""One process at a time in a study's folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rank_lab.errors import RankLabError

__all__ = ["study_lock"]

_FILE = ".lock"


@contextmanager
def study_lock(folder: Path) -> Iterator[None]:
    """Hold a folder until the block ends or the process does, however it ends.

    The lock is the operating system's: that of a dead process is gone with it,
    and nothing has to be cleaned up. Processes that this one starts do not hold
    it (``flock`` would be theirs, too). It is of the process, not of the file's
    opening: a process that opens the lock's file itself and closes it lets go of it.

    Parameters
    ----------
    folder
        That exists.

    Raises
    ------
    RankLabError
        If another process holds it; its number is named.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder, study_lock(Path(folder)):
    ...     (Path(folder) / ".lock").stat().st_size == len(str(os.getpid()))
    True
    """
    descriptor = os.open(folder / _FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, 32).decode(errors="replace")
            raise RankLabError(
                f"{folder}: process {holder or 'unknown'} is at work there; wait for it, or give another folder."
            ) from error
        os.truncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        yield
    finally:
        os.close(descriptor)
