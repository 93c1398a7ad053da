"""Functional ranks of a run as tables, with where they came from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from rank_lab.errors import SchemaError
from rank_lab.functional_schema import FUNCTIONAL_SCHEMA_VERSION, FUNCTIONAL_TABLES
from rank_lab.table_files import read_head, read_table, report_folders, shown, typed, write_head, write_table

__all__ = [
    "FUNCTIONAL_FILES",
    "FunctionalReport",
    "ProbeOrigin",
    "functional_name",
    "functional_reports_of",
    "load_functional",
]

_HEAD = "functional.json"
FUNCTIONAL_FILES = (_HEAD, *(f"{name}.parquet" for name in FUNCTIONAL_TABLES))
"""What such a report consists of."""

_AGAIN = "run 'rank-lab functional' again."


class ProbeOrigin(NamedTuple):
    """On what a report was measured: hashes, and the longest input in tokens where it is known."""

    texts_sha256: str
    probe_sha256: str
    context: int | None
    base_sha256: str


@dataclass(frozen=True, eq=False)
class FunctionalReport:
    """Functional ranks of one run at one or more steps.

    Parameters
    ----------
    ranks, changes, coverage
        Columns and meaning in :data:`rank_lab.functional_schema.FUNCTIONAL_TABLES`.
    provenance
        Sources, probe texts, settings, versions, command.

    Raises
    ------
    SchemaError
        If columns differ from the schema.
    """

    ranks: pd.DataFrame
    changes: pd.DataFrame
    coverage: pd.DataFrame
    provenance: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Bring the tables to the schema's types."""
        for name, schema in FUNCTIONAL_TABLES.items():
            table = typed(getattr(self, name), schema, name, FUNCTIONAL_SCHEMA_VERSION)
            object.__setattr__(self, name, table)

    def __eq__(self, other: object) -> bool:
        """Equal tables and provenance."""
        if not isinstance(other, FunctionalReport):
            return NotImplemented
        same = all(getattr(self, name).equals(getattr(other, name)) for name in FUNCTIONAL_TABLES)
        return same and dict(self.provenance) == dict(other.provenance)

    __hash__ = None  # type: ignore[assignment]

    @property
    def run(self) -> str:
        """Its name."""
        return str(self.provenance["settings"]["run"])

    @property
    def probe(self) -> str:
        """Which probe it is of, apart from all others: file, short hash of its tokens, counts."""
        texts = self.provenance["texts"]
        name, digest = Path(texts["file"]).name, self.probe_sha256[:8]
        return f"{name} (sha256 {digest}, {texts['texts']} texts, {texts['tokens']} tokens)"

    @property
    def probe_sha256(self) -> str:
        """Hash of the probe's tokens; of its texts where the report does not have that."""
        texts = self.provenance["texts"]
        return str(texts.get("tokens_sha256") or texts["sha256"])

    @property
    def origin(self) -> ProbeOrigin:
        """What must be the same for two reports to compare."""
        texts = self.provenance["texts"]
        context = texts.get("context")
        cut = context if isinstance(context, int) else None
        return ProbeOrigin(str(texts["sha256"]), self.probe_sha256, cut, str(self.provenance["base"]["sha256"]))

    def save(self, folder: Path | str) -> Path:
        """Write the report as a folder of plain files; an earlier one is replaced file by file.

        Parameters
        ----------
        folder
            Usually ``STUDY/NAME.functional``.
        """
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        for name, schema in FUNCTIONAL_TABLES.items():
            write_table(getattr(self, name), schema, path / f"{name}.parquet")
        write_head({"schema_version": FUNCTIONAL_SCHEMA_VERSION, "provenance": self.provenance}, path / _HEAD)
        return path

    @classmethod
    def load(cls, folder: Path | str) -> "FunctionalReport":
        """Read a report that :meth:`save` wrote.

        Raises
        ------
        SchemaError
            If the folder is no such report, is incomplete, or is of a schema version that is not read.
        """
        path = Path(folder)
        head = _head(path / _HEAD)
        tables = {
            name: read_table(path / f"{name}.parquet", schema, version=FUNCTIONAL_SCHEMA_VERSION, advice=_AGAIN)
            for name, schema in FUNCTIONAL_TABLES.items()
        }
        return cls(**tables, provenance=head["provenance"])


def functional_reports_of(study: Path | str) -> list[Path]:
    """Folders of the functional reports in a study, by name; empty if there is none.

    Parameters
    ----------
    study
        Folder of any reports; such a report's own folder counts as a study of one.

    Examples
    --------
    >>> functional_reports_of("no/such/study")
    []
    """
    return report_folders(study, ".functional", _HEAD)


def functional_name(folder: Path) -> str:
    """What a report is called in a study: its folder without the ending.

    Examples
    --------
    >>> functional_name(Path("study/lora.functional"))
    'lora'
    """
    return folder.absolute().name.removesuffix(".functional")


def load_functional(study: Path | str) -> dict[str, FunctionalReport]:
    """The functional reports of a study by :func:`functional_name`; empty if there is none.

    Parameters
    ----------
    study
        As :func:`functional_reports_of` takes it.

    Raises
    ------
    SchemaError
        If one of them cannot be read.
    """
    return {functional_name(folder): FunctionalReport.load(folder) for folder in functional_reports_of(study)}


def _head(file: Path) -> dict[str, Any]:
    made_by = "rank-lab functional TUNED --base BASE --texts FILE"
    head = read_head(file, what="a report of functional ranks", made_by=made_by)
    if head["schema_version"] != FUNCTIONAL_SCHEMA_VERSION:
        raise SchemaError(
            f"{file}: schema version {shown(str(head['schema_version']))}, this rank_lab reads"
            f" {FUNCTIONAL_SCHEMA_VERSION}; measure again or use the rank_lab that wrote it."
        )
    if not _is_provenance(head.get("provenance")):
        raise SchemaError(f"{file}: its provenance does not say what was measured (tuned, base, texts); {_AGAIN}")
    return {name: shown(value) for name, value in head.items()}


def _is_provenance(value: object) -> bool:
    """Whether it names what was measured and on what, as everything that shows a report expects."""
    match value:
        case {
            "tuned": [*tuned], "base": {"source": str(), "sha256": str()},
            "texts": {"file": str(), "sha256": str(), "tokens": int(), "texts": int()},
            "settings": {"run": str(), **_settings}, **more,
        }:  # fmt: skip
            whole = isinstance(more.get("versions", {}), dict) and isinstance(more.get("command", []), list)
            return whole and bool(tuned) and all(_is_model(each) for each in tuned)
    return False


def _is_model(value: object) -> bool:
    match value:
        case {"source": str(), "sha256": str(), "step": int() | None, "method": str()}:
            return True
    return False
