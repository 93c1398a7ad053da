"""Spectra of a report, one at a time: the file is not read whole for one matrix."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from rank_lab.errors import CheckpointError, SchemaError
from rank_lab.parquet_check import refuse_bomb
from rank_lab.plain_file import size_of
from rank_lab.plain_text import first_line
from rank_lab.schema import SPECTRA

__all__ = ["SpectraFile"]

Values = npt.NDArray[np.float64]
_Key = tuple[int | None, str, str]


@dataclass(frozen=True, eq=False)
class SpectraFile:
    """Where each spectrum of a ``spectra.parquet`` lies.

    Parameters
    ----------
    file
        The file, whose keys alone have been read.
    places
        Step, delta and module to row group and row in it.
    """

    file: Path
    places: dict[_Key, tuple[int, int]]

    @classmethod
    def open(cls, file: Path) -> "SpectraFile":
        """Read the keys.

        Raises
        ------
        SchemaError
            If the file is none of rank_lab's, damaged or still being written.
        """
        try:
            size_of(file)
            refuse_bomb(file)
            places: dict[_Key, tuple[int, int]] = {}
            with pq.ParquetFile(file) as stored:
                if not _is_of_spectra(stored.schema_arrow):
                    raise SchemaError(
                        f"{file}: lacks columns of the spectra of a report, or has them of another type; run"
                        " 'rank-lab analyze' again."
                    )
                for group in range(stored.num_row_groups):
                    keys = stored.read_row_group(group, columns=["step", "delta", "module"]).to_pydict()
                    rows = zip(keys["step"], keys["delta"], keys["module"], strict=True)
                    places |= {key: (group, row) for row, key in enumerate(rows)}
        except (OSError, pa.ArrowException, CheckpointError) as error:
            raise _unreadable(file, error) from error
        return cls(file, places)

    def values(self, module: str, *, step: int | None, delta: str) -> Values:
        """Singular values of one matrix, descending.

        Raises
        ------
        SchemaError
            If they are not there, or the file has become unreadable.

        Notes
        -----
        Reads one row group: 200 spectra or fewer.
        """
        place = self.places.get((step, delta, module))
        if place is None:
            raise SchemaError(f"{self.file}: no spectrum of {module!r} at step {step} with delta {delta!r}.")
        group, row = place
        return self._column(group)[row]

    def all_values(self, *, step: int | None, delta: str) -> dict[str, Values]:
        """Singular values of all matrices of a step: module to values."""
        wanted: dict[int, list[tuple[int, str]]] = {}
        for (at, since, module), (group, row) in self.places.items():
            if at == step and since == delta:
                wanted.setdefault(group, []).append((row, module))
        found: dict[str, Values] = {}
        for group, rows in wanted.items():
            column = self._column(group)
            found |= {module: column[row] for row, module in rows}
        return found

    def _column(self, group: int) -> list[Values]:
        try:
            state = self.file.stat()
            return _group(self.file, (state.st_mtime_ns, state.st_size), group)
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(self.file, error) from error


@lru_cache(maxsize=4)
def _group(file: Path, state: tuple[int, int], group: int) -> list[Values]:  # noqa: ARG001 - of the file as it is now
    """Kept for the neighbours: who looks at one matrix looks at the next."""
    with pq.ParquetFile(file) as stored:
        chunk = stored.read_row_group(group, columns=["values"]).column(0).combine_chunks()
    flat = chunk.values.to_numpy(zero_copy_only=False).astype(np.float64, copy=False)
    flat.flags.writeable = False
    return [flat[start:end] for start, end in pairwise(chunk.offsets.to_numpy())]


def _is_of_spectra(schema: pa.Schema) -> bool:
    if set(SPECTRA.names) - set(schema.names):
        return False
    values = schema.field("values").type
    keys = all(schema.field(name).type == SPECTRA.field(name).type for name in SPECTRA.names if name != "values")
    return keys and pa.types.is_list(values) and values.value_type == pa.float64()


def _unreadable(file: Path, error: Exception) -> SchemaError:
    return SchemaError(
        f"{file}: cannot be read ({first_line(error)[:100]}); it may still be being written: look again, or run"
        " 'rank-lab analyze' again, which keeps finished updates."
    )
