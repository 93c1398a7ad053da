"""Comparisons of subspaces as files for other programs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from rank_lab.export import joined_tables, write_with_provenance
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
    return {
        f"subspace_{table}": joined_tables({name: getattr(each, table) for name, each in reports.items()}, "comparison")
        for table in SUBSPACE_TABLES
    }


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
    told = [{"comparison": name, **report.provenance} for name, report in reports.items()]
    return write_with_provenance(subspace_data(reports), told, folder, formats, kind="subspace")
