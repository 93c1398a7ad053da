"""The folder of a run: held by one process while it works, and gone again where a run was refused before it began."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from rank_lab.sora.study_lock import study_lock

__all__ = ["held_folder"]

_LOCK = ".lock"


@contextmanager
def held_folder(folder: Path, *, first: bool) -> Iterator[None]:
    """Make a run's folder and hold it; what was made goes again where the block fails and left nothing in it.

    Parameters
    ----------
    folder
        Of the run; those above it are made, too.
    first
        Whether this is the first of the run's processes, which holds the folder for all.

    Raises
    ------
    RankLabError
        If another process holds it.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as study:
    ...     run = Path(study) / "runs" / "a"
    ...     with suppress(ValueError), held_folder(run, first=True):
    ...         raise ValueError("refused")
    ...     list(Path(study).iterdir())
    []
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    if not first:
        yield
        return
    with study_lock(folder):
        try:
            yield
        except BaseException:
            if made:
                _remove_empty(folder, made)
            raise


def _remove_empty(folder: Path, made: Sequence[Path]) -> None:
    """While the folder is still held, so that no other process begins in it in between."""
    if [child.name for child in folder.iterdir()] != [_LOCK]:
        return
    (folder / _LOCK).unlink()
    with suppress(OSError):  # something else was put there meanwhile, which stays
        for each in made:
            each.rmdir()
