"""``losses.jsonl``: the losses of a training, before it and at each of its checkpoints."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rank_lab.durable import append_line, write_whole
from rank_lab.errors import CheckpointError, SchemaError
from rank_lab.plain_file import parse_json, size_of

__all__ = ["LOSSES_FILE", "LossRow", "append_row", "read_losses", "write_rows"]

LOSSES_FILE = "losses.jsonl"
"""In a run's folder, a line for the untrained model and one for each checkpoint."""


@dataclass(frozen=True)
class LossRow:
    """What was lost at one checkpoint.

    Parameters
    ----------
    step
        Optimizer steps taken; 0 before training.
    train_loss
        Mean, over the steps since the row before, of what is minimised, the penalties of a method (AdaLoRA's
        orthogonality, SoRA's L1) among it; None at step 0.
    validation_loss
        Mean over the validation set: over its examples or, of a causal or masked model, over its target tokens;
        without any penalty, so that methods can be compared.
    learning_rate
        Of the last step that was taken; None at step 0.
    seconds
        Wall time since training began, evaluation and saving among it, summed over resumptions.
    tokens
        Seen in training, without padding.
    """

    step: int
    train_loss: float | None
    validation_loss: float
    learning_rate: float | None
    seconds: float
    tokens: int


def append_row(folder: Path, row: LossRow) -> None:
    """Add a row, on the disk when this returns.

    Parameters
    ----------
    folder
        Of the run.
    row
        Of the checkpoint that is about to be saved.
    """
    append_line(folder / LOSSES_FILE, _line(row))


def write_rows(folder: Path, rows: Sequence[LossRow]) -> None:
    """Write the file anew.

    Parameters
    ----------
    folder
        Of the run.
    rows
        All of it.
    """
    write_whole(folder / LOSSES_FILE, "".join(_line(row) + "\n" for row in rows))


def read_losses(folder: Path | str) -> tuple[LossRow, ...]:
    """The rows of a run, in the order of their steps; none where the file is not there.

    A last line without an end, of a process that writes it or was killed while it did, is left out.

    Parameters
    ----------
    folder
        Of the run, that holds ``checkpoint-N``.

    Raises
    ------
    SchemaError
        If a line is none of :func:`append_row`'s.
    """
    file = Path(folder) / LOSSES_FILE
    if not file.is_file():
        return ()
    try:
        size_of(file)
        content = file.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        return tuple(LossRow(**parse_json(line)) for line in whole.splitlines())
    except (CheckpointError, TypeError, ValueError) as error:
        raise SchemaError(f"{file}: is no file of losses ({error}); restore it from a copy.") from error


def _line(row: LossRow) -> str:
    return json.dumps(asdict(row))
