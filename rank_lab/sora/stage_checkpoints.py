"""The checkpoints inside of a stage: which are whole, what they hold, which are no longer needed.

transformers' Trainer writes a checkpoint file by file: adapter, optimizer, schedule, random state and its own state
last, then callbacks add theirs. A process that is killed in between leaves a folder that looks like a checkpoint. So
one more file, written last and in one piece, marks those that are whole; all others are removed.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from rank_lab.durable import write_whole
from rank_lab.errors import CheckpointError
from rank_lab.sora.callback import STATE_FILE

__all__ = [
    "hook_calls",
    "last_whole",
    "log_of",
    "mark_whole",
    "optimizer_file",
    "reached_threshold",
    "remove_older",
    "seconds_of",
]

_MARK = "whole.json"
_STEM = "checkpoint-"


def mark_whole(checkpoint: Path, seconds: float) -> None:
    """Say that a checkpoint is complete.

    Parameters
    ----------
    checkpoint
        Its folder, to which nothing is added any more.
    seconds
        Wall time of the stage's training up to here.
    """
    write_whole(checkpoint / _MARK, json.dumps({"seconds": seconds}) + "\n")


def last_whole(training: Path) -> Path | None:
    """The last complete checkpoint; those that are not complete are removed.

    Parameters
    ----------
    training
        Folder of the stage's checkpoints; need not be there.
    """
    whole: list[Path] = []
    for folder in _checkpoints(training):
        if (folder / _MARK).is_file():
            whole.append(folder)
        else:
            shutil.rmtree(folder)
    return max(whole, key=_step, default=None)


def remove_older(checkpoint: Path) -> None:
    """Remove all checkpoints before this one.

    Parameters
    ----------
    checkpoint
        A complete one.
    """
    for folder in _checkpoints(checkpoint.parent):
        if _step(folder) < _step(checkpoint):
            (folder / _MARK).unlink(missing_ok=True)  # first: a folder that is half removed must not look whole
            shutil.rmtree(folder)


def log_of(checkpoint: Path) -> list[dict[str, Any]]:
    """What the Trainer had logged by then.

    Parameters
    ----------
    checkpoint
        A complete one.
    """
    return list(_json(checkpoint / "trainer_state.json")["log_history"])


def hook_calls(checkpoint: Path) -> int:
    """How often gates had been shrunk by then.

    Parameters
    ----------
    checkpoint
        A complete one.
    """
    return int(_json(checkpoint / STATE_FILE)["calls"])


def reached_threshold(checkpoint: Path) -> float | None:
    """The threshold that reached the stage's target; None where it has none, or did not reach it.

    Parameters
    ----------
    checkpoint
        A complete one.
    """
    state = _json(checkpoint / STATE_FILE).get("controller")
    return None if state is None or state["reached_step"] is None else float(state["reached_threshold"])


def seconds_of(checkpoint: Path | None) -> float:
    """Wall time of training up to a checkpoint; 0 where there is none.

    Parameters
    ----------
    checkpoint
        A complete one, or None.
    """
    return 0.0 if checkpoint is None else float(_json(checkpoint / _MARK)["seconds"])


def optimizer_file(training: Path) -> Path:
    """State of the optimizer at the end of a stage.

    Parameters
    ----------
    training
        Folder of the stage's checkpoints.

    Raises
    ------
    CheckpointError
        If it is gone.
    """
    checkpoint = last_whole(training)
    file = training if checkpoint is None else checkpoint / "optimizer.pt"
    if not file.is_file():
        raise CheckpointError(
            f"{training}: holds no complete checkpoint, whose optimizer state the next stage starts from; run the"
            " schedule in a new folder, or with keep_moments=False."
        )
    return file


def _checkpoints(training: Path) -> list[Path]:
    return [path for path in training.glob(f"{_STEM}*") if path.is_dir() and _number(path).isdigit()]


def _number(folder: Path) -> str:
    return folder.name.removeprefix(_STEM)


def _step(folder: Path) -> int:
    return int(_number(folder))


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error}); remove its folder and start again.") from error
