"""Cells of a study: parts that are worked off one by one, by any number of processes, and gone on with after a stop.

A cell is a name and settings; its work gives rows. The rows of a finished cell lie in ``STUDY/cells/NAME.json``, what
its work keeps on the way (checkpoints) in ``STUDY/work/NAME``. A cell that another process holds is left to it, so that
the same command may run twice at a time, and ``--workers N`` does just that.
"""

import fcntl
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rank_lab.durable import write_whole
from rank_lab.errors import RankLabError

__all__ = [
    "Cell",
    "Work",
    "finished",
    "open_study",
    "refuse_other_settings",
    "rows_of",
    "seconds_of",
    "work_off",
    "workers_beside",
]

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """A part of a study that is done or not.

    Parameters
    ----------
    name
        A file name, unique in the study.
    settings
        All that its work depends on beside those of the study; stands in each of its rows. Text, numbers, None.
    """

    name: str
    settings: Mapping[str, Any]


Work = Callable[[Cell, Path], Sequence[Row]]
"""From a cell and a folder of its own, kept until it is done, to the rows that it adds."""


def open_study(folder: Path, settings: Mapping[str, Any]) -> None:
    """Make the folder of a study, or find that it is one of these settings.

    Parameters
    ----------
    folder
        Of the study.
    settings
        That all cells share, as JSON has them.

    Raises
    ------
    RankLabError
        If the folder holds a study of other settings.
    """
    (folder / "cells").mkdir(parents=True, exist_ok=True)
    file, now = folder / "study.json", json.loads(json.dumps(dict(settings)))
    if not file.is_file():
        write_whole(file, json.dumps(now, indent=1) + "\n")
        return
    refuse_other_settings(json.loads(file.read_text(encoding="utf-8")), now, folder, "give another with --study")


def refuse_other_settings(there: Mapping[str, Any], now: Mapping[str, Any], folder: Path, next_step: str) -> None:
    """Raise, naming what differs.

    Parameters
    ----------
    there, now
        Settings that a folder has, and those of this call.
    folder, next_step
        Of what is told.

    Raises
    ------
    RankLabError
        If any setting differs.
    """
    different = sorted(name for name in there.keys() | now.keys() if there.get(name) != now.get(name))
    if different:
        raise RankLabError(f"{folder}: of another configuration ({', '.join(different)} differ); {next_step}.")


def work_off(folder: Path, cells: Sequence[Cell], work: Work) -> None:
    """Do every cell that is neither done nor held by another process.

    Parameters
    ----------
    folder
        That :func:`open_study` made.
    cells
        Of the study, those that matter most first.
    work
        What a cell is.
    """
    began = time.monotonic()
    for number, cell in enumerate(cells, start=1):
        with _alone(folder / "cells" / f".{cell.name}.lock") as ours:
            if not ours or _file(folder, cell).is_file():
                continue
            at = f"{time.monotonic() - began:6.0f} s  cell {number} of {len(cells)}: {cell.name}"
            print(at, file=sys.stderr, flush=True)
            scratch = folder / "work" / cell.name
            scratch.mkdir(parents=True, exist_ok=True)
            start = time.monotonic()
            rows = [dict(cell.settings) | dict(row) for row in work(cell, scratch)]
            done = {"seconds": round(time.monotonic() - start, 2), "settings": dict(cell.settings), "rows": rows}
            write_whole(_file(folder, cell), json.dumps(done) + "\n")


def finished(folder: Path, cells: Sequence[Cell]) -> list[Cell]:
    """The cells that are done, for a page that says which are not.

    Parameters
    ----------
    folder, cells
        Of the study.
    """
    return [cell for cell in cells if _file(folder, cell).is_file()]


def rows_of(folder: Path, cells: Sequence[Cell]) -> pd.DataFrame:
    """The rows of all cells.

    Parameters
    ----------
    folder, cells
        Of the study.

    Raises
    ------
    RankLabError
        If some are not done, or were done with other settings.
    """
    missing = [cell.name for cell in cells if not _file(folder, cell).is_file()]
    if missing:
        raise RankLabError(
            f"{folder}: {len(missing)} of {len(cells)} cells are not done, the first is {missing[0]}; run the command"
            " again, it goes on."
        )
    found = [_done(folder, cell) for cell in cells]
    for cell, done in zip(cells, found, strict=True):
        settings = json.loads(json.dumps(dict(cell.settings)))
        refuse_other_settings(done["settings"], settings, _file(folder, cell), "remove this file and run it again")
    return pd.DataFrame([row for done in found for row in done["rows"]])


def seconds_of(folder: Path, cells: Sequence[Cell]) -> float:
    """What all cells took, each in its process.

    Parameters
    ----------
    folder, cells
        Of the study.
    """
    return float(sum(_done(folder, cell)["seconds"] for cell in cells))


@contextmanager
def workers_beside(count: int) -> Iterator[None]:
    """Run this program so many times more with ``--only-make``, and wait for all of them at the end.

    Parameters
    ----------
    count
        0 for none.

    Raises
    ------
    RankLabError
        If one of them failed: it has said why.
    """
    module = f"analyses.{Path(sys.argv[0]).stem}"
    command = [sys.executable, "-m", module, *sys.argv[1:], "--only-make", "--workers", "1"]
    others = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    except BaseException:
        for other in others:
            other.terminate()
        raise
    codes = [other.wait() for other in others]
    if any(codes):
        raise RankLabError("another process of this study failed, see above; run the command again, it goes on.")


@contextmanager
def _alone(lock: Path) -> Iterator[bool]:
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _file(folder: Path, cell: Cell) -> Path:
    return folder / "cells" / f"{cell.name}.json"


def _done(folder: Path, cell: Cell) -> dict[str, Any]:
    done: dict[str, Any] = json.loads(_file(folder, cell).read_text(encoding="utf-8"))
    return done
