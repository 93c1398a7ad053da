"""Tables of a schema as Parquet files: written whole or not at all, read from files that nobody vouches for."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rank_lab.errors import CheckpointError, SchemaError
from rank_lab.parquet_check import refuse_bomb
from rank_lab.plain_file import parse_json, size_of
from rank_lab.plain_text import holds_controls, plain

__all__ = ["read_head", "read_table", "report_folders", "shown", "typed", "write_head", "write_table"]

_TYPES = {pa.int64(): pd.Int64Dtype(), pa.string(): pd.StringDtype(), pa.bool_(): pd.BooleanDtype()}


def typed(frame: pd.DataFrame, schema: pa.Schema, name: str, version: int) -> pd.DataFrame:
    """The table in the types and the order of its schema.

    Parameters
    ----------
    frame
        With exactly its columns.
    schema
        Names, types, order.
    name
        Of the table or its file, for the message.
    version
        Of the schema, for the message.

    Raises
    ------
    SchemaError
        If columns are missing or unknown.

    Examples
    --------
    >>> schema = pa.schema([("module", pa.string()), ("k", pa.int64())])
    >>> typed(pd.DataFrame({"k": [1], "module": ["q"]}), schema, "table", 1).dtypes.astype(str).tolist()
    ['string', 'Int64']
    """
    missing = [column for column in schema.names if column not in frame.columns]
    surplus = [column for column in frame.columns if column not in schema.names]
    if missing or surplus:
        raise SchemaError(
            f"{name}: lacks columns {missing[:3]} and has unknown columns {surplus[:3]}; expected those of schema"
            f" version {version}."
        )
    found = {}
    for field in schema:
        column = frame[field.name]
        if field.type == pa.float64():
            found[field.name] = column.astype("float64")
        elif field.type in _TYPES:
            found[field.name] = column.astype(_TYPES[field.type])
        else:
            found[field.name] = pd.Series(
                [[float(value) for value in row] for row in column], index=column.index, dtype=object
            )
    return pd.DataFrame(found).reset_index(drop=True)


def write_table(frame: pd.DataFrame, schema: pa.Schema, file: Path, *, row_group_size: int | None = None) -> None:
    """Write a table; an earlier file is replaced once the new one is whole.

    Parameters
    ----------
    frame
        As :func:`typed` gives it.
    schema
        Of the file.
    file
        ``NAME.parquet``.
    row_group_size
        Rows that are read together; default pyarrow's.
    """
    table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False).replace_schema_metadata(None)
    temporary = file.with_name(f".{file.stem}.part")
    pq.write_table(table, temporary, row_group_size=row_group_size, compression="zstd")
    temporary.replace(file)


def read_table(file: Path, schema: pa.Schema, *, version: int, advice: str, added: Sequence[str] = ()) -> pd.DataFrame:
    """Read a table that :func:`write_table` wrote, with what a terminal would obey written out.

    Parameters
    ----------
    file, schema, version
        As there.
    advice
        What to do if it cannot be read.
    added
        Columns that an earlier version lacks; they are then empty.

    Raises
    ------
    SchemaError
        If the file is missing, half written, far larger than it looks, or of another schema.
    """
    try:
        size_of(file)
        refuse_bomb(file)
        stored = pq.read_table(file).to_pandas(types_mapper=_TYPES.get)
        empty = {column: None for column in added if column not in stored.columns}
        frame = typed(stored.assign(**empty), schema, str(file), version)
    except (OSError, pa.ArrowException, CheckpointError, TypeError, ValueError) as error:
        if isinstance(error, SchemaError):
            raise
        cause = str(error).splitlines()[0].removeprefix(f"{file}: ")[:100]
        raise SchemaError(f"{file}: cannot be read ({cause}); {advice}") from error
    for name in schema.names:
        if schema.field(name).type == pa.string():
            frame[name] = _shown_column(frame[name])
    return frame


def write_head(content: Mapping[str, Any], file: Path) -> None:
    """Write the JSON beside the tables, last: with it the report is complete.

    Parameters
    ----------
    content
        Schema version and provenance.
    file
        ``report.json`` or its like.
    """
    temporary = file.with_name(f".{file.stem}.part")
    temporary.write_text(json.dumps(content, indent=1, sort_keys=True) + os.linesep, encoding="utf-8")
    temporary.replace(file)


def read_head(file: Path, *, what: str, made_by: str) -> dict[str, Any]:
    """Read what :func:`write_head` wrote; it has a ``schema_version``.

    Parameters
    ----------
    file
        As there.
    what
        That it is the head of, for the message.
    made_by
        The command that makes one.

    Raises
    ------
    SchemaError
        If it is missing, no JSON, or names no version.
    """
    try:
        size_of(file)
        head: dict[str, Any] = parse_json(file.read_bytes())
        _ = head["schema_version"]
    except (OSError, CheckpointError, ValueError, KeyError, TypeError) as error:
        raise SchemaError(f"{file}: not the head of {what} ({error}); make one with '{made_by}'.") from error
    return head


def report_folders(study: Path | str, ending: str, head: str) -> list[Path]:
    """Folders of one kind of report in a study, by name; a report's own folder counts as a study of one.

    One that was not saved to its end is among them: whoever reads it is told.

    Parameters
    ----------
    study
        Folder of any reports.
    ending
        Of such a report's folder.
    head
        The file that is written last.
    """
    path = Path(study)
    if (path / head).is_file():
        return [path]
    found = path.glob(f"*{ending}") if path.is_dir() else ()
    return sorted(folder for folder in found if folder.is_dir())


def shown(value: Any) -> Any:
    r"""The value with what a terminal would obey written out: reports are passed on, and what they say is printed.

    Parameters
    ----------
    value
        Text, or lists and dictionaries of it.

    Examples
    --------
    >>> shown({"run": ["a\x1b[2J", 3]})
    {'run': ['a\\x1b[2J', 3]}
    """
    if isinstance(value, str):
        return plain(value) if holds_controls(value) else value
    if isinstance(value, dict):
        return {shown(key): shown(item) for key, item in value.items()}
    return [shown(item) for item in value] if isinstance(value, list) else value


def _shown_column(column: pd.Series) -> pd.Series:
    if not holds_controls(" ".join(column.dropna().unique())):
        return column
    return column.map(shown, na_action="ignore").astype(_TYPES[pa.string()])
