"""Parquet files that nobody vouches for: refused before they take far more memory than they are large."""

from pathlib import Path

import pyarrow.parquet as pq

__all__ = ["refuse_bomb"]

_MAX_VALUES = 200_000_000  # a thousand matrices of 4096 values at fifty steps
_LARGE, _MAX_RATIO = 100_000_000, 100


def refuse_bomb(file: Path) -> None:
    """Refuse a table that would take far more memory than its file is large.

    Parameters
    ----------
    file
        A Parquet file; only its footer is read.

    Raises
    ------
    ValueError
        If it holds more values than any table of rank_lab, or unpacks to more than a hundred times its size.
    """
    with pq.ParquetFile(file) as table:
        about = table.metadata
        chunks = [about.row_group(i).column(j) for i in range(about.num_row_groups) for j in range(about.num_columns)]
    values, inflated = sum(c.num_values for c in chunks), sum(c.total_uncompressed_size for c in chunks)
    size = file.stat().st_size
    if values > _MAX_VALUES or (inflated > _LARGE and inflated > _MAX_RATIO * size):
        raise ValueError(f"{values} values, {inflated} bytes once unpacked, in a file of {size}")
