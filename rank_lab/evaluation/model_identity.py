"""Which model a source is, so that scores of two are not taken for those of one."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rank_lab.hub_files import files_to_fetch

__all__ = ["Identity", "content_digest", "files_of", "identity_of"]

_WEIGHTS = (".safetensors", ".bin", ".json")
_CACHED = "models--"  # start of a repository's name in the hub's cache, wherever that is


@dataclass(frozen=True)
class Identity:
    """Where a model is, and which files are there.

    Parameters
    ----------
    source
        Folder, or what its name in the hub's cache is.
    stamps
        Digest of names, sizes and times of the files.
    """

    source: str
    stamps: str

    @property
    def record(self) -> dict[str, str]:
        """As :meth:`is_another` takes it."""
        return asdict(self)

    def is_another(self, there: Any) -> bool:
        """Whether a record is of another model: elsewhere, unless it has moved, with its files as they were.

        Parameters
        ----------
        there
            What :attr:`record` gave; of anything else it is not known.
        """
        if not (isinstance(there, Mapping) and isinstance(there.get("source"), str)):
            return False
        moved = not Path(there["source"]).exists() and there.get("stamps") == self.stamps
        return there["source"] != self.source and not moved


def identity_of(source: str) -> Identity:
    """Of a folder.

    Parameters
    ----------
    source
        Path, or what is none and names itself.
    """
    path = Path(source).expanduser()
    named = str(path.absolute().resolve()) if path.exists() else source
    at = named.find(_CACHED)
    stamps = hashlib.sha256(repr(files_of(source)).encode()).hexdigest()
    return Identity(named[at:] if at >= 0 else named, stamps)


def files_of(source: str) -> list[tuple[str, int, int]]:
    """Names, sizes and times of a model's files.

    Parameters
    ----------
    source
        Its folder; of anything else there are none.
    """
    folder = Path(source)
    if not folder.is_dir():
        return []
    found = sorted(file for file in folder.iterdir() if file.suffix in _WEIGHTS and file.is_file())
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in found]


def content_digest(source: str) -> str:
    """Of what a model's weights and configuration hold: the same for a copy elsewhere.

    Parameters
    ----------
    source
        Its folder.
    """
    state = hashlib.sha256()
    for name in files_to_fetch([file for file, *_ in files_of(source)]):
        state.update(name.encode())
        with (Path(source) / name).open("rb") as stream:
            state.update(hashlib.file_digest(stream, "sha256").digest())
    return state.hexdigest()
