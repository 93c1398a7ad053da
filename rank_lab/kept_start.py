"""The adapter as a training began with it, where a method's factors start from a part of the base."""

from pathlib import Path

from rank_lab.checkpoint import Checkpoint
from rank_lab.training_record import RECORD_FILE, TrainingRecord

__all__ = ["INITIAL", "STARTS_ELSEWHERE", "kept_start"]

INITIAL = "initial"
"""In a run's folder, of a method whose factors start from a part of the base: the adapter before training."""

STARTS_ELSEWHERE = ("pissa", "loftq")
"""Methods of which a training keeps it."""


def kept_start(checkpoint: Checkpoint, folder: Path, record: TrainingRecord | None) -> Checkpoint | None:
    """Where an adapter's factors started, as its training kept it; None where nothing says that it did.

    Parameters
    ----------
    checkpoint
        An adapter, in a file or in training. What was merged or trained otherwise has no such start.
    folder
        Of the run, or of a checkpoint in it.
    record
        Of the training, beside one of the two. It must name the method, and the adapter's own config, too: a
        folder of that name alone says nothing.
    """
    config = checkpoint.adapter_config or {}
    starts = {str(config.get(name)).lower() for name in ("peft_type", "init_lora_weights")}
    if record is None or record.method not in STARTS_ELSEWHERE or record.method not in starts:
        return None
    run = next((each for each in (folder, folder.parent) if (each / RECORD_FILE).is_file()), None)
    if run is None or not (run / INITIAL / "adapter_config.json").is_file() or (run / INITIAL).samefile(folder):
        return None
    return Checkpoint.open(run / INITIAL)
