"""The report: tables of what was measured, with where it came from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from rank_lab import table_files
from rank_lab.errors import SchemaError
from rank_lab.schema import ADDED, COVERAGE, KEY, SCHEMA_VERSION, SPECTRA, UPDATES
from rank_lab.table_files import read_head, shown, typed, write_head, write_table

__all__ = ["RankReport", "read_provenance", "read_table", "reports_of"]

_ROW_GROUP = 200  # one spectrum is then read without its neighbours
_AGAIN = "run 'rank-lab analyze' again: finished updates are kept."


@dataclass(frozen=True, eq=False)
class RankReport:
    """Ranks and spectra of one run, every tensor accounted for.

    Parameters
    ----------
    updates
        A row per matrix, step and delta; columns of :data:`rank_lab.schema.UPDATES`.
    spectra
        The singular values of each of these rows.
    coverage
        A row per tensor of either checkpoint and step.
    provenance
        What is needed to run it again.

    Raises
    ------
    SchemaError
        If columns differ from the schema or a key is there twice.
    """

    updates: pd.DataFrame
    spectra: pd.DataFrame
    coverage: pd.DataFrame
    provenance: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Bring the tables to the schema's types and check their keys."""
        for name, schema in _tables().items():
            object.__setattr__(self, name, typed(getattr(self, name), schema, name, SCHEMA_VERSION))
        for name in ("updates", "spectra"):
            keys = getattr(self, name)[list(KEY)]
            if keys.duplicated().any():
                row = keys[keys.duplicated()].iloc[0].to_dict()
                raise SchemaError(
                    f"{name}: the row {row} is there twice; a report holds each module once per run, step and delta."
                )

    def __eq__(self, other: object) -> bool:
        """Equal tables and provenance."""
        if not isinstance(other, RankReport):
            return NotImplemented
        same = all(getattr(self, name).equals(getattr(other, name)) for name in _tables())
        return same and dict(self.provenance) == dict(other.provenance)

    __hash__ = None  # type: ignore[assignment]

    def values(self, module: str, *, step: int | None = None, delta: str = "cumulative") -> list[float]:
        """Singular values of one module.

        Raises
        ------
        KeyError
            If the report has no such row.
        """
        rows = self.spectra[(self.spectra["module"] == module) & (self.spectra["delta"] == delta)]
        if step is not None:
            rows = rows[rows["step"] == step]
        if rows.empty:
            raise KeyError(f"no spectrum of {module!r} with delta {delta!r} and step {step}; see updates['module'].")
        return [float(value) for value in rows.iloc[-1]["values"]]

    def save(self, folder: Path | str) -> Path:
        """Write the report as a folder of plain files; an earlier one is replaced file by file.

        Parameters
        ----------
        folder
            Usually ``STUDY/NAME.rank``.
        """
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        for name, schema in _tables().items():
            size = _ROW_GROUP if name == "spectra" else None
            write_table(getattr(self, name), schema, path / f"{name}.parquet", row_group_size=size)
        write_head({"schema_version": SCHEMA_VERSION, "provenance": self.provenance}, path / "report.json")
        return path

    @classmethod
    def load(cls, folder: Path | str) -> "RankReport":
        """Read a report that :meth:`save` wrote.

        Raises
        ------
        SchemaError
            If the folder is no report, is incomplete, or is of a schema version that is not read.

        Notes
        -----
        Columns that a report of an earlier version lacks are empty.
        """
        path = Path(folder)
        head = _head(path)
        tables = {name: _read(path, name, head["schema_version"]) for name in _tables()}
        return cls(tables["updates"], tables["spectra"], tables["coverage"], head["provenance"])


def reports_of(study: Path | str) -> list[Path]:
    """Folders of the reports in a study, by name; a report's own folder counts as a study of one.

    Raises
    ------
    SchemaError
        If there is none.
    """
    path = Path(study)
    if (path / "report.json").is_file():
        return [path]
    found = (
        sorted(folder for folder in path.glob("*.rank") if (folder / "report.json").is_file()) if path.is_dir() else []
    )
    if not found:
        what = "is no folder" if not path.is_dir() else "holds no report (NAME.rank)"
        study = path.parent if path.suffix == ".rank" else path
        raise SchemaError(f"{path}: {what}; make one with 'rank-lab analyze TUNED --base BASE -o {study}'.")
    return found


def read_provenance(folder: Path | str) -> dict[str, Any]:
    """Provenance of a stored report, without its tables.

    Raises
    ------
    SchemaError
        If the folder has no head of a report.
    """
    return dict(_head(Path(folder))["provenance"])


def read_table(folder: Path | str, name: str) -> pd.DataFrame:
    """One table of a stored report, ``updates`` or ``coverage``: the spectra are large and not always wanted.

    Raises
    ------
    SchemaError
        As of :meth:`RankReport.load`.
    """
    path = Path(folder)
    return _read(path, name, _head(path)["schema_version"])


def _read(folder: Path, name: str, version: int) -> pd.DataFrame:
    added = _added_since(version) if name == "updates" else ()
    file = folder / f"{name}.parquet"
    return table_files.read_table(file, _tables()[name], version=SCHEMA_VERSION, advice=_AGAIN, added=added)


def _tables() -> dict[str, pa.Schema]:
    return {"updates": UPDATES, "spectra": SPECTRA, "coverage": COVERAGE}


def _added_since(version: int) -> tuple[str, ...]:
    return tuple(column for later, columns in ADDED.items() if later > version for column in columns)


def _is_provenance(value: object) -> bool:
    """Whether it names what was analysed and how, as everything that shows a report expects."""
    match value:
        case {"tuned": [_, *_] as tuned, "base": base, "settings": {"run": str()}}:
            return all(
                isinstance(one, dict) and isinstance(one.get("source"), str) for one in [*tuned, base or tuned[0]]
            )
    return False


def _head(path: Path) -> dict[str, Any]:
    file = path / "report.json"
    head = read_head(file, what="a report", made_by="rank-lab analyze")
    version = head["schema_version"]
    if version not in (*(later - 1 for later in ADDED), SCHEMA_VERSION):
        raise SchemaError(
            f"{file}: schema version {version}, this rank_lab reads {min(ADDED) - 1} to {SCHEMA_VERSION}; analyze"
            " again or use the rank_lab that wrote it."
        )
    if not _is_provenance(head.get("provenance")):
        raise SchemaError(f"{file}: its provenance does not say what was analysed (tuned, base, settings); {_AGAIN}")
    return {name: shown(value) for name, value in head.items()}
