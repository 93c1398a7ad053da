"""Scores of models: one row for each run, step, task and metric, whoever measured it."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rank_lab.durable import move_into_place
from rank_lab.errors import CheckpointError, SchemaError
from rank_lab.parquet_check import refuse_bomb
from rank_lab.plain_file import size_of
from rank_lab.plain_text import plain
from rank_lab.score_row import ROLES, SCORE_KEY, ScoreRow

__all__ = ["ROLES", "SCORES_FILE", "SCORES_LOCK", "SCORES_SCHEMA", "SCORE_KEY", "ScoreRow", "ScoreTable"]

SCORES_FILE, SCORES_LOCK = "scores.parquet", ".scores.lock"
"""In the folder of a study: the table, and what a process holds while it reads, changes and writes it."""

SCORES_SCHEMA = pa.schema(
    [
        ("run", pa.string()), ("method", pa.string()), ("step", pa.int64()), ("task", pa.string()),
        ("metric", pa.string()), ("value", pa.float64()), ("stderr", pa.float64()), ("n", pa.int64()),
        ("role", pa.string()), ("few_shot", pa.int64()), ("chance", pa.float64()), ("higher_is_better", pa.bool_()),
        ("harness", pa.string()), ("harness_version", pa.string()), ("source", pa.string()),
        ("set_sha256", pa.string()), ("examples", pa.list_(pa.float64())),
    ]
)  # fmt: skip
"""The columns of the file."""

_VERSION = 1
_VERSION_KEY = b"rank_lab.scores_version"
_FRAME: dict[pa.DataType, Any] = {
    pa.int64(): pd.Int64Dtype(),
    pa.string(): pd.StringDtype(),
    pa.bool_(): pd.BooleanDtype(),
    pa.float64(): "float64",
}


@dataclass(frozen=True)
class ScoreTable:
    """All scores of a study, each key once.

    Parameters
    ----------
    rows
        In the order in which they came.

    Raises
    ------
    SchemaError
        If a key is there twice.

    Examples
    --------
    >>> older = ScoreTable.of([ScoreRow("base", "base", 0, "winogrande", "acc", 0.7)])
    >>> newer = ScoreTable.of([ScoreRow("base", "base", 0, "winogrande", "acc", 0.8)])
    >>> older.merged(newer).frame["value"].tolist()
    [0.8]
    """

    rows: tuple[ScoreRow, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a key that is there twice."""
        object.__setattr__(self, "rows", tuple(self.rows))
        twice = [key for key, count in Counter(row.key for row in self.rows).items() if count > 1]
        if twice:
            first = next(row for row in self.rows if row.key == twice[0])
            raise SchemaError(
                f"score {first.named} is there twice; expected one of each run, step, task, metric and few-shot count:"
                " give runs different names, or merge tables, where the newer replaces the older."
            )

    @classmethod
    def of(cls, rows: Iterable[ScoreRow]) -> "ScoreTable":
        """A table of rows.

        Raises
        ------
        SchemaError
            If a key is there twice.
        """
        return cls(tuple(rows))

    def __eq__(self, other: object) -> bool:
        """Equal rows in one order; NaN equals NaN."""
        if not isinstance(other, ScoreTable):
            return NotImplemented
        return [repr(row) for row in self.rows] == [repr(row) for row in other.rows]

    def __hash__(self) -> int:
        """Of the keys."""
        return hash(tuple(row.key for row in self.rows))

    @property
    def frame(self) -> pd.DataFrame:
        """The table as pandas has it: the columns of :data:`SCORES_SCHEMA`."""
        records = [asdict(row) for row in self.rows]
        columns = {
            field.name: pd.Series([record[field.name] for record in records], dtype=_FRAME.get(field.type, object))
            for field in SCORES_SCHEMA
        }
        return pd.DataFrame(columns)

    def merged(self, other: "ScoreTable") -> "ScoreTable":
        """Both tables in one; of a key that both have, the row of the other one, which is the newer."""
        rows = {row.key: row for row in self.rows} | {row.key: row for row in other.rows}
        return ScoreTable(tuple(rows.values()))

    def save(self, path: Path | str) -> Path:
        """Write the table; any reader finds all of the old file or all of the new.

        Parameters
        ----------
        path
            The file, usually ``STUDY/scores.parquet``; its folder is made where it is not there.
        """
        file = Path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        schema = SCORES_SCHEMA.with_metadata({_VERSION_KEY: str(_VERSION).encode()})
        table = pa.Table.from_pylist([asdict(row) for row in self.rows], schema=schema)
        partial = file.with_name(f".{file.name}.partial")
        pq.write_table(table, partial, compression="zstd")
        move_into_place(partial, file)
        return file

    @classmethod
    def load(cls, path: Path | str) -> "ScoreTable":
        """Read a table that :meth:`save` wrote.

        Raises
        ------
        SchemaError
            If the file is none, or of another version, or a row is no score.
        """
        file = Path(path)
        try:
            size_of(file)
            refuse_bomb(file)
            table = pq.read_table(file)
            _check_schema(table.schema)
            return cls(tuple(ScoreRow(**record) for record in table.to_pylist()))
        except FileNotFoundError as error:
            raise SchemaError(
                f"{file}: there are no scores; make them with 'rank-lab evaluate', or import results of a harness."
            ) from error
        except (OSError, pa.ArrowException, CheckpointError, SchemaError, TypeError, ValueError) as error:
            raise SchemaError(
                f"{file}: is no table of scores ({(str(error).splitlines() or [''])[0][:300]}); make one with"
                " 'rank-lab evaluate', or import results of a harness."
            ) from error


def _check_schema(schema: pa.Schema) -> None:
    version = (schema.metadata or {}).get(_VERSION_KEY)
    if version is None:
        raise ValueError("it does not say which version of the table it is")
    if version != str(_VERSION).encode():
        raise ValueError(f"version {plain(repr(version), limit=40)}, this rank_lab reads {_VERSION}")
    if not schema.remove_metadata().equals(SCORES_SCHEMA):
        expected = {field.name: field.type for field in SCORES_SCHEMA}
        found = {field.name: field.type for field in schema}
        differing = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
        raise ValueError(
            f"columns that differ from those of version {_VERSION}: {plain(str(differing[:3]), limit=200)}"
        )
