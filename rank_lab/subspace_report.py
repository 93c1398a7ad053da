"""The comparison of two runs' subspaces as tables, with where they came from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rank_lab.errors import SchemaError
from rank_lab.subspace_schema import SUBSPACE_SCHEMA_VERSION, SUBSPACE_TABLES
from rank_lab.table_files import read_head, read_table, report_folders, shown, typed, write_head, write_table

__all__ = ["SUBSPACE_FILES", "SubspaceReport", "comparison_name", "load_subspaces", "subspace_reports_of"]

_HEAD = "subspace.json"
SUBSPACE_FILES = (_HEAD, *(f"{name}.parquet" for name in SUBSPACE_TABLES))
"""What such a report consists of."""

_AGAIN = "run 'rank-lab subspace' again."


@dataclass(frozen=True, eq=False)
class SubspaceReport:
    """How the updates of two runs lie to each other, module by module.

    Parameters
    ----------
    angles, phi, intruders, amplification, coverage
        Columns and meaning in :data:`rank_lab.subspace_schema.SUBSPACE_TABLES`.
    provenance
        Sources, settings, versions, command.

    Raises
    ------
    SchemaError
        If columns differ from the schema.
    """

    angles: pd.DataFrame
    phi: pd.DataFrame
    intruders: pd.DataFrame
    amplification: pd.DataFrame
    coverage: pd.DataFrame
    provenance: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Bring the tables to the schema's types."""
        for name, schema in SUBSPACE_TABLES.items():
            table = typed(getattr(self, name), schema, name, SUBSPACE_SCHEMA_VERSION)
            object.__setattr__(self, name, table)

    def __eq__(self, other: object) -> bool:
        """Equal tables and provenance."""
        if not isinstance(other, SubspaceReport):
            return NotImplemented
        same = all(getattr(self, name).equals(getattr(other, name)) for name in SUBSPACE_TABLES)
        return same and dict(self.provenance) == dict(other.provenance)

    __hash__ = None  # type: ignore[assignment]

    def save(self, folder: Path | str) -> Path:
        """Write the report as a folder of plain files; an earlier one is replaced file by file.

        Parameters
        ----------
        folder
            Usually ``STUDY/NAME.subspace``.
        """
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        for name, schema in SUBSPACE_TABLES.items():
            write_table(getattr(self, name), schema, path / f"{name}.parquet")
        write_head({"schema_version": SUBSPACE_SCHEMA_VERSION, "provenance": self.provenance}, path / _HEAD)
        return path

    @classmethod
    def load(cls, folder: Path | str) -> "SubspaceReport":
        """Read a report that :meth:`save` wrote.

        Raises
        ------
        SchemaError
            If the folder is no such report, is incomplete, or is of a schema version that is not read.
        """
        path = Path(folder)
        head = _head(path / _HEAD)
        tables = {
            name: read_table(path / f"{name}.parquet", schema, version=SUBSPACE_SCHEMA_VERSION, advice=_AGAIN)
            for name, schema in SUBSPACE_TABLES.items()
        }
        return cls(**tables, provenance=head["provenance"])


def subspace_reports_of(study: Path | str) -> list[Path]:
    """Folders of the subspace reports in a study, by name; empty if there is none.

    Parameters
    ----------
    study
        Folder of any reports; such a report's own folder counts as a study of one.

    Examples
    --------
    >>> subspace_reports_of("no/such/study")
    []
    """
    return report_folders(study, ".subspace", _HEAD)


def comparison_name(folder: Path) -> str:
    """What a comparison is called in a study, where no other has that name: its folder without the ending.

    Examples
    --------
    >>> comparison_name(Path("study/lora-full.subspace"))
    'lora-full'
    """
    return folder.absolute().name.removesuffix(".subspace")


def load_subspaces(study: Path | str) -> dict[str, SubspaceReport]:
    """The subspace reports of a study by :func:`comparison_name`; empty if there is none.

    Parameters
    ----------
    study
        As :func:`subspace_reports_of` takes it.

    Raises
    ------
    SchemaError
        If one of them cannot be read.
    """
    return {comparison_name(folder): SubspaceReport.load(folder) for folder in subspace_reports_of(study)}


def _head(file: Path) -> dict[str, Any]:
    head = read_head(file, what="a subspace report", made_by="rank-lab subspace A B")
    if head["schema_version"] != SUBSPACE_SCHEMA_VERSION:
        raise SchemaError(
            f"{file}: schema version {shown(str(head['schema_version']))}, this rank_lab reads"
            f" {SUBSPACE_SCHEMA_VERSION}; compare again or use the rank_lab that wrote it."
        )
    if not _is_provenance(head.get("provenance")):
        raise SchemaError(f"{file}: its provenance does not say what was compared (first, second, settings); {_AGAIN}")
    return {name: shown(value) for name, value in head.items()}


def _is_provenance(value: object) -> bool:
    """Whether it names what was compared and how, as everything that shows a report expects."""
    match value:
        case {"first": first, "second": second, "base": base, "settings": {"name": str(), "k": int()}, **more}:
            whole = isinstance(more.get("versions", {}), dict) and isinstance(more.get("command", []), list)
            return whole and _is_run(first) and _is_run(second) and (base is None or _is_input(base))
    return False


def _is_run(value: object) -> bool:
    match value:
        case {"run": str(), **more}:
            return isinstance(more.get("steps_in_run", []), list) and _is_input(more)
    return False


def _is_input(value: object) -> bool:
    """Whether it names a checkpoint, its step, and the files that were read."""
    match value:
        case {"source": str(), "step": int() | None, "files": list(files)}:
            return all(isinstance(each, dict) and isinstance(each.get("bytes"), int) for each in files)
    return False
