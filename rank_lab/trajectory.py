"""The checkpoints of one training run, in the order of their steps."""

import re
from collections.abc import Sequence
from pathlib import Path

from rank_lab.checkpoint import Checkpoint, local_folder
from rank_lab.errors import CheckpointError

__all__ = ["name_of_run", "open_run", "run_name"]

_NAME = re.compile(r"checkpoint-(\d+)")


def open_run(source: str | Path, *, revision: str | None = None) -> tuple[Checkpoint, ...]:
    """Open a checkpoint, or all ``checkpoint-N`` of a trainer's folder.

    Parameters
    ----------
    source
        Path or hub id. A folder with ``checkpoint-N`` folders is a trajectory,
        even if it also holds weights of its own, which the trainer repeats
        there at the end: name that file to have it alone.
    revision
        Of a hub repository.

    Returns
    -------
    tuple of Checkpoint
        One, or one per step in ascending order.

    Raises
    ------
    CheckpointError
        If a checkpoint of the trajectory cannot be read.
    """
    path = local_folder(source, revision=revision)
    folders = sorted((int(match[1]), folder) for folder in _subfolders(path) if (match := _NAME.fullmatch(folder.name)))
    if not folders:
        return (Checkpoint.open(source, revision=revision),)
    steps = tuple(Checkpoint.open(folder) for _, folder in folders)
    for (number, folder), checkpoint in zip(folders, steps, strict=True):
        if checkpoint.step != number:
            raise CheckpointError(
                f"{folder}: its trainer_state.json says step {checkpoint.step}; the folder was renamed or mixed with"
                " another: restore it."
            )
    return steps


def _subfolders(path: Path) -> list[Path]:
    return [child for child in path.iterdir() if child.is_dir()] if path.is_dir() else []


def run_name(folder: Path) -> str:
    """What the run of a folder is called: by the folder; of a ``checkpoint-N``, by the run's folder that it lies in.

    Parameters
    ----------
    folder
        Of a model. A ``checkpoint-N`` alone so has the name that it has in the trajectory.

    Examples
    --------
    >>> run_name(Path("runs/lora/checkpoint-6")), run_name(Path("runs/lora")), run_name(Path("/checkpoint-6"))
    ('lora', 'lora', 'checkpoint-6')
    """
    path = folder.expanduser().absolute().resolve()
    above = path.parent.name if _NAME.fullmatch(path.name) else ""
    return above or path.name


def name_of_run(tuned: object, checkpoints: Sequence[Checkpoint]) -> str:
    """What the user called it: the run's folder, the file without its ending, the repository.

    Parameters
    ----------
    tuned
        As typed, a path or hub id; anything else stands for its checkpoints.
    checkpoints
        What :func:`open_run` made of it.
    """
    first = checkpoints[0]
    source = (
        Path(tuned) if isinstance(tuned, str | Path) else first.folder.parent if len(checkpoints) > 1 else first.folder
    )
    if first.revision is not None:
        return first.source.split("@")[0].rsplit("/", 1)[-1]
    path = source.expanduser().absolute()
    if path.is_file():
        return path.stem
    return path.resolve().name if len(checkpoints) > 1 else run_name(path)
