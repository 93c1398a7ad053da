"""The study that the dashboard was started for; nothing outside of it is read."""

import sys
from functools import lru_cache
from pathlib import Path

from rank_lab.study import Study

__all__ = ["opened", "study"]


def study() -> Study:
    """The study, one reader for all sessions.

    Raises
    ------
    SchemaError
        If it is not there.
    """
    return opened(sys.argv[1] if len(sys.argv) > 1 else ".")


@lru_cache(maxsize=4)
def opened(folder: str) -> Study:
    """The reader of a folder, in this process the same for all; a failure is not kept."""
    return Study(Path(folder).resolve())
