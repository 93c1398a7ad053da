"""How much of what a run learned its leading directions keep, as tables, with where they came from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rank_lab.behavioural_schema import BEHAVIOURAL_SCHEMA_VERSION, BEHAVIOURAL_TABLES
from rank_lab.errors import SchemaError
from rank_lab.table_files import read_head, read_table, report_folders, shown, typed, write_head, write_table

__all__ = ["BEHAVIOURAL_FILES", "BehaviouralReport", "behavioural_name", "behavioural_reports_of", "load_behavioural"]

_HEAD = "behavioural.json"
# A study's own scores lie in scores.parquet: a report is never taken for a study.
_FILES = {name: f"{name if name != 'scores' else 'truncated_scores'}.parquet" for name in BEHAVIOURAL_TABLES}
BEHAVIOURAL_FILES = (_HEAD, *_FILES.values())
"""What such a report consists of."""

_AGAIN = "run 'rank-lab behavioural' again."


@dataclass(frozen=True, eq=False)
class BehaviouralReport:
    """The behavioural rank of one run, and what it was found from.

    Parameters
    ----------
    ranks, points, matrices, scores
        Columns and meaning in :data:`rank_lab.behavioural_schema.BEHAVIOURAL_TABLES`.
    provenance
        Sources, texts, settings, versions, command.

    Raises
    ------
    SchemaError
        If columns differ from the schema.
    """

    ranks: pd.DataFrame
    points: pd.DataFrame
    matrices: pd.DataFrame
    scores: pd.DataFrame
    provenance: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Bring the tables to the schema's types."""
        for name, schema in BEHAVIOURAL_TABLES.items():
            object.__setattr__(self, name, typed(getattr(self, name), schema, name, BEHAVIOURAL_SCHEMA_VERSION))

    def __eq__(self, other: object) -> bool:
        """Equal tables and provenance."""
        if not isinstance(other, BehaviouralReport):
            return NotImplemented
        same = all(getattr(self, name).equals(getattr(other, name)) for name in BEHAVIOURAL_TABLES)
        return same and dict(self.provenance) == dict(other.provenance)

    __hash__ = None  # type: ignore[assignment]

    @property
    def run(self) -> str:
        """Name of the run."""
        return str(self.provenance["settings"]["run"])

    def save(self, folder: Path | str) -> Path:
        """Write the report as a folder of plain files; an earlier one is replaced file by file.

        Parameters
        ----------
        folder
            Usually ``STUDY/NAME.behavioural``.
        """
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        for name, schema in BEHAVIOURAL_TABLES.items():
            write_table(getattr(self, name), schema, path / _FILES[name])
        write_head({"schema_version": BEHAVIOURAL_SCHEMA_VERSION, "provenance": self.provenance}, path / _HEAD)
        return path

    @classmethod
    def load(cls, folder: Path | str) -> "BehaviouralReport":
        """Read a report that :meth:`save` wrote.

        Raises
        ------
        SchemaError
            If the folder is no such report, is incomplete, or is of a schema version that is not read.
        """
        path = Path(folder)
        head = _head(path / _HEAD)
        tables = {
            name: read_table(path / _FILES[name], schema, version=BEHAVIOURAL_SCHEMA_VERSION, advice=_AGAIN)
            for name, schema in BEHAVIOURAL_TABLES.items()
        }
        return cls(**tables, provenance=head["provenance"])


def behavioural_reports_of(study: Path | str) -> list[Path]:
    """Folders of the behavioural reports in a study, by name; empty if there is none.

    Parameters
    ----------
    study
        Folder of any reports; such a report's own folder counts as a study of one.

    Examples
    --------
    >>> behavioural_reports_of("no/such/study")
    []
    """
    return report_folders(study, ".behavioural", _HEAD)


def behavioural_name(folder: Path) -> str:
    """What a report is called in a study, where no other has that name: its folder without the ending.

    Examples
    --------
    >>> behavioural_name(Path("study/lora.behavioural"))
    'lora'
    """
    return folder.absolute().name.removesuffix(".behavioural")


def load_behavioural(study: Path | str) -> dict[str, BehaviouralReport]:
    """The behavioural reports of a study by :func:`behavioural_name`; empty if there is none.

    Parameters
    ----------
    study
        As :func:`behavioural_reports_of` takes it.

    Raises
    ------
    SchemaError
        If one of them cannot be read.
    """
    return {behavioural_name(folder): BehaviouralReport.load(folder) for folder in behavioural_reports_of(study)}


def _head(file: Path) -> dict[str, Any]:
    head = read_head(file, what="a report on a behavioural rank", made_by="rank-lab behavioural TUNED --base BASE")
    if head["schema_version"] != BEHAVIOURAL_SCHEMA_VERSION:
        raise SchemaError(
            f"{file}: schema version {shown(str(head['schema_version']))}, this rank_lab reads"
            f" {BEHAVIOURAL_SCHEMA_VERSION}; make the report again or use the rank_lab that wrote it."
        )
    if not _is_provenance(head.get("provenance")):
        raise SchemaError(f"{file}: its provenance does not say what was measured (tuned, base, texts); {_AGAIN}")
    return {name: shown(value) for name, value in head.items()}


def _is_provenance(value: object) -> bool:
    """Whether it names what was truncated and measured, as everything that shows a report expects."""
    match value:
        case {
            "tuned": [{"source": str()}],
            "base": {"source": str()},
            "texts": list(texts),
            "settings": {"run": str(), "share": int() | float()},
            **more,
        }:
            whole = isinstance(more.get("versions", {}), dict) and isinstance(more.get("command", []), list)
            return whole and all(_is_text(each) for each in texts)
    return False


def _is_text(value: object) -> bool:
    match value:
        case {"name": str(), "role": str(), "sha256": str(), "source": str()}:
            return True
    return False
