"""The comparison of two runs' subspaces as tables, with where they came from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rank_lab.errors import SchemaError
from rank_lab.subspace_schema import SUBSPACE_SCHEMA_VERSION, SUBSPACE_TABLES
from rank_lab.table_files import read_head, read_table, shown, typed, write_head, write_table

__all__ = ["SubspaceReport", "subspace_reports_of"]

_HEAD = "subspace.json"
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
    path = Path(study)
    if (path / _HEAD).is_file():
        return [path]
    return sorted(folder for folder in path.glob("*.subspace") if (folder / _HEAD).is_file()) if path.is_dir() else []


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
        case {
            "first": {"source": str(), "run": str()},
            "second": {"source": str(), "run": str()},
            "base": base,
            "settings": {"name": str(), "k": int()},
        }:
            return base is None or (isinstance(base, dict) and isinstance(base.get("source"), str))
    return False
