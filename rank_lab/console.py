"""The terminal that verbs write to, and the progress they show."""

import sys

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["console", "progress_bar"]

_WIDTH_IN_FILES = 150


def console() -> Console:
    """Standard output, wide enough for all columns where it is no terminal; text is shown as it is, not as markup."""
    width = None if sys.stdout.isatty() else _WIDTH_IN_FILES
    return Console(width=width, markup=False, emoji=False, highlight=False)


def progress_bar() -> Progress:
    """Progress with time left on standard error; silent where that is no terminal."""
    screen = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal)
