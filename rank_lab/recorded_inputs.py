"""Checkpoints that a provenance names, found again: at their place, at their commit, or where the study was moved."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rank_lab.checkpoint import Checkpoint
from rank_lab.errors import RankLabError
from rank_lab.verification import Result

__all__ = ["NotAgain", "has_device", "recorded_input"]


class NotAgain(Exception):  # noqa: N818 - not an error: how a row ends that cannot be computed again
    """Why a number cannot be computed again.

    Parameters
    ----------
    result
        One of :data:`rank_lab.verification.RESULTS`.
    reason
        In words.
    """

    def __init__(self, result: Result, reason: str) -> None:
        super().__init__(reason)
        self.result: Result = result
        self.reason = reason


def recorded_input(record: Mapping[str, Any], study: Path, what: str) -> Checkpoint:
    """Open what a provenance names.

    Parameters
    ----------
    record
        ``source`` and ``revision`` of a checkpoint: a repository of the hub is opened at its commit.
    study
        A path that is not there is looked for below this folder and beside it.
    what
        What it is, for the reason.

    Raises
    ------
    NotAgain
        If it is not there, or cannot be opened.
    """
    source, revision = str(record["source"]), record.get("revision")
    return _open(source if revision is not None else _found(source, study, what), revision, what)


def has_device(device: str) -> bool:
    """Whether this machine has what a report was computed on."""
    if device == "cpu":
        return True
    import torch

    return device.startswith("cuda") and torch.cuda.is_available()


def _found(source: str, study: Path, what: str) -> str:
    """The source, or, of a path that is not there, the longest end of it that is there below the study."""
    path = Path(source).expanduser()
    if path.exists():
        return source
    parts = path.parts[1:] if path.is_absolute() else path.parts
    for start in range(len(parts)):
        for folder in (study, study.absolute().parent):
            moved = folder.joinpath(*parts[start:])
            if ".." not in parts[start:] and moved.exists():
                return str(moved)
    raise NotAgain("input missing", f"{what} is not at {source}, nor below {study}")


def _open(source: str, revision: str | None, what: str) -> Checkpoint:
    here = Path(source).expanduser().exists()
    try:
        return Checkpoint.open(
            source if here or revision is None else source.split("@", maxsplit=1)[0],
            revision=None if here else revision,
        )
    except (RankLabError, OSError) as error:
        raise NotAgain("input changed" if here else "input missing", f"{what} cannot be opened: {error}") from error
