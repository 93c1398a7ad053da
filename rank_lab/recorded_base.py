"""The base of a run where the user gave none: what the record of its training names, if it can be opened."""

from pathlib import Path

from rank_lab.checkpoint import Checkpoint
from rank_lab.errors import RankLabError
from rank_lab.hub import is_hub_id
from rank_lab.pairing import plan_updates
from rank_lab.training_record import record_beside
from rank_lab.trajectory import open_run

__all__ = ["recorded_base"]


def recorded_base(source: str) -> Checkpoint | None:
    """The base that a run's ``training.json`` names; None where there is none, or it cannot be opened or compared.

    Parameters
    ----------
    source
        A run's folder, or one of its checkpoints.

    Notes
    -----
    A repository of the hub is fetched only for what shows no update without a base: plain LoRA factors need none.

    Examples
    --------
    >>> recorded_base("a/run/of/which/nothing/is/known") is None
    True
    """
    try:
        record = record_beside(Path(source).expanduser())
        if record is None:
            return None
        tuned = open_run(source)[-1]
        needed, here = not _shows_updates(tuned, None), Path(record.base).expanduser().exists()
        if not here and not (needed and is_hub_id(record.base)):
            return None
        base = Checkpoint.open(record.base, revision=None if here else record.revision)
    except (RankLabError, RuntimeError, OSError):  # whatever is wrong with the run itself, its analysis says
        return None
    return base if needed or _shows_updates(tuned, base) else None


def _shows_updates(tuned: Checkpoint, base: Checkpoint | None) -> bool:
    """From headers alone."""
    try:
        plan_updates(tuned, base)
    except RankLabError:
        return False
    return True
