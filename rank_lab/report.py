"""The report: tables of what was measured, with where it came from."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rank_lab.errors import CheckpointError, SchemaError
from rank_lab.parquet_check import refuse_bomb
from rank_lab.plain_file import parse_json, size_of
from rank_lab.plain_text import holds_controls, plain
from rank_lab.schema import ADDED, COVERAGE, KEY, SCHEMA_VERSION, SPECTRA, UPDATES

__all__ = ["RankReport", "read_provenance", "read_table", "reports_of"]

_ROW_GROUP = 200  # one spectrum is then read without its neighbours
_TYPES = {pa.int64(): pd.Int64Dtype(), pa.string(): pd.StringDtype(), pa.bool_(): pd.BooleanDtype()}


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
            object.__setattr__(self, name, _typed(getattr(self, name), schema, name))
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
            table = pa.Table.from_pandas(
                getattr(self, name), schema=schema, preserve_index=False
            ).replace_schema_metadata(None)
            temporary = path / f".{name}.part"
            pq.write_table(
                table, temporary, row_group_size=_ROW_GROUP if name == "spectra" else None, compression="zstd"
            )
            temporary.replace(path / f"{name}.parquet")
        temporary = path / ".report.part"
        temporary.write_text(
            json.dumps({"schema_version": SCHEMA_VERSION, "provenance": self.provenance}, indent=1, sort_keys=True)
            + os.linesep,
            encoding="utf-8",
        )
        temporary.replace(path / "report.json")
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
        raise SchemaError(f"{path}: {what}; make one with 'rank-lab analyze TUNED --base BASE -o {path}'.")
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
    return _table(folder / f"{name}.parquet", _tables()[name], _added_since(version) if name == "updates" else ())


def _tables() -> dict[str, pa.Schema]:
    return {"updates": UPDATES, "spectra": SPECTRA, "coverage": COVERAGE}


def _cause(error: Exception, file: Path) -> str:
    return str(error).splitlines()[0].removeprefix(f"{file}: ")[:100]


def _added_since(version: int) -> tuple[str, ...]:
    return tuple(column for later, columns in ADDED.items() if later > version for column in columns)


def _table(file: Path, schema: pa.Schema, added: Sequence[str]) -> pd.DataFrame:
    try:
        size_of(file)
        refuse_bomb(file)
        stored = pq.read_table(file).to_pandas(types_mapper=_TYPES.get)
        empty = {column: None for column in added if column not in stored.columns}
        frame = _typed(stored.assign(**empty), schema, str(file))
    except (OSError, pa.ArrowException, CheckpointError, TypeError, ValueError) as error:
        if isinstance(error, SchemaError):
            raise
        raise SchemaError(
            f"{file}: cannot be read ({_cause(error, file)}); run 'rank-lab analyze' again: finished updates are kept."
        ) from error
    for name in schema.names:
        if schema.field(name).type == pa.string():
            frame[name] = _shown_column(frame[name])
    return frame


def _shown_column(column: pd.Series) -> pd.Series:
    if not holds_controls(" ".join(column.dropna().unique())):
        return column
    return column.map(_shown, na_action="ignore").astype(_TYPES[pa.string()])


def _shown(value: Any) -> Any:
    """The value with what a terminal would obey written out: reports are passed on, and what they say is printed."""
    if isinstance(value, str):
        return plain(value) if holds_controls(value) else value
    if isinstance(value, dict):
        return {_shown(key): _shown(item) for key, item in value.items()}
    return [_shown(item) for item in value] if isinstance(value, list) else value


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
    try:
        size_of(file)
        head = parse_json(file.read_bytes())
        version = head["schema_version"]
    except (OSError, CheckpointError, ValueError, KeyError, TypeError) as error:
        raise SchemaError(f"{file}: not the head of a report ({error}); make one with 'rank-lab analyze'.") from error
    if version not in (*(later - 1 for later in ADDED), SCHEMA_VERSION):
        raise SchemaError(
            f"{file}: schema version {version}, this rank_lab reads {min(ADDED) - 1} to {SCHEMA_VERSION}; analyze"
            " again or use the rank_lab that wrote it."
        )
    if not _is_provenance(head.get("provenance")):
        raise SchemaError(
            f"{file}: its provenance does not say what was analysed (tuned, base, settings); run 'rank-lab analyze'"
            " again: finished updates are kept."
        )
    return {name: _shown(value) for name, value in head.items()}


def _typed(frame: pd.DataFrame, schema: pa.Schema, name: str) -> pd.DataFrame:
    missing = [column for column in schema.names if column not in frame.columns]
    surplus = [column for column in frame.columns if column not in schema.names]
    if missing or surplus:
        raise SchemaError(
            f"{name}: lacks columns {missing[:3]} and has unknown columns {surplus[:3]}; expected those of schema"
            f" version {SCHEMA_VERSION}."
        )
    typed = {}
    for field in schema:
        column = frame[field.name]
        if field.type == pa.float64():
            typed[field.name] = column.astype("float64")
        elif field.type in _TYPES:
            typed[field.name] = column.astype(_TYPES[field.type])
        else:
            typed[field.name] = pd.Series(
                [[float(value) for value in row] for row in column], index=column.index, dtype=object
            )
    return pd.DataFrame(typed).reset_index(drop=True)
