"""Checkpoints that a provenance names, found again: at their place, at their commit, or where the study was moved."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rank_lab.checkpoint import Checkpoint
from rank_lab.errors import RankLabError
from rank_lab.verification import Result

__all__ = ["NotAgain", "has_device", "recorded_input", "same_input"]


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


def same_input(record: Mapping[str, Any], study: Path, what: str) -> Checkpoint:
    """Open what a provenance names, if its step and the sizes of its files are what is recorded.

    Parameters
    ----------
    record, study, what
        See :func:`recorded_input`.

    Raises
    ------
    NotAgain
        If it is another, as far as sizes tell: another of the same size does not show.
    """
    opened = recorded_input(record, study, what)
    if opened.step != record.get("step"):
        raise NotAgain("input changed", f"{what}, {opened.source}, is now of step {opened.step}")
    sizes = {file.name: file.stat().st_size for file in {tensor.file for tensor in opened.tensors.values()}}
    for name, size in _recorded_sizes(record):
        if sizes.get(name) != size:
            now = f"{sizes[name]} bytes" if name in sizes else "not there"
            raise NotAgain("input changed", f"{what}: {name} had {size} bytes and is now {now}")
    return opened


def has_device(device: str) -> bool:
    """Whether this machine has what a report was computed on."""
    if device == "cpu":
        return True
    import torch

    return device.startswith("cuda") and torch.cuda.is_available()


def _recorded_sizes(record: Mapping[str, Any]) -> list[tuple[str, int]]:
    try:
        return [(str(file["name"]), int(file["bytes"])) for file in record["files"]]
    except (KeyError, TypeError, ValueError) as error:
        raise NotAgain("not recomputable", "the provenance does not say of which files it was made") from error


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
