"""Comparisons of subspaces as files for other programs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from rank_lab.export import write_tables
from rank_lab.subspace_report import SubspaceReport
from rank_lab.subspace_schema import SUBSPACE_TABLES

__all__ = ["export_subspaces", "subspace_data"]


def subspace_data(reports: Mapping[str, SubspaceReport]) -> dict[str, pd.DataFrame]:
    """The tables of comparisons, joined, by the name that an export gives their files.

    Parameters
    ----------
    reports
        By name, as :func:`rank_lab.subspace_report.load_subspaces` gives them; one at least.

    Returns
    -------
    dict
        ``subspace_angles``, ``subspace_phi``, ``subspace_intruders``, ``subspace_amplification`` and
        ``subspace_coverage``: columns of :data:`rank_lab.subspace_schema.SUBSPACE_TABLES` after ``comparison``, the
        name of the report.
    """
    return {f"subspace_{table}": _joined(reports, table) for table in SUBSPACE_TABLES}


def export_subspaces(reports: Mapping[str, SubspaceReport], folder: Path, *, formats: Sequence[str]) -> list[Path]:
    """Write the tables of comparisons in each of the formats, and where they came from.

    Parameters
    ----------
    reports
        By name; one at least.
    folder
        Made if it is not there.
    formats
        Of :data:`rank_lab.export.FORMATS`.

    Returns
    -------
    list of Path
        The files written: those of :func:`subspace_data` for each format, and ``subspace_provenance.json``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = write_tables(subspace_data(reports), folder, formats)
    file = folder / "subspace_provenance.json"
    told = [{"comparison": name, **report.provenance} for name, report in reports.items()]
    file.write_text(json.dumps(told, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return [*written, file]


def _joined(reports: Mapping[str, SubspaceReport], table: str) -> pd.DataFrame:
    parts: list[pd.DataFrame] = [getattr(report, table) for report in reports.values()]
    names = [name for name, part in zip(reports, parts, strict=True) for _ in range(len(part))]
    joined = pd.concat(parts, ignore_index=True)
    joined.insert(0, "comparison", pd.Series(names, dtype="string", index=joined.index))
    return joined
