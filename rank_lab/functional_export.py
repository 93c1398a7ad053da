"""Reports of functional ranks as files for other programs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from rank_lab.export import write_with_provenance
from rank_lab.functional_report import FunctionalReport
from rank_lab.functional_schema import FUNCTIONAL_TABLES

__all__ = ["export_functional", "functional_data"]


def functional_data(reports: Mapping[str, FunctionalReport]) -> dict[str, pd.DataFrame]:
    """The tables of reports, joined, by the name that an export gives their files.

    Parameters
    ----------
    reports
        By name, as :func:`rank_lab.functional_report.load_functional` gives them; one at least.

    Returns
    -------
    dict
        ``functional_ranks``, ``functional_changes`` and ``functional_coverage``: columns of
        :data:`rank_lab.functional_schema.FUNCTIONAL_TABLES`, without the spectra, of which there is a table
        ``functional_spectra`` with a row a value.
    """
    found = {
        f"functional_{table}": pd.concat([getattr(report, table) for report in reports.values()], ignore_index=True)
        for table in FUNCTIONAL_TABLES
    }
    changes = found["functional_changes"]
    found["functional_changes"] = changes.drop(columns="spectrum")
    found["functional_spectra"] = _spectra(changes)
    return found


def export_functional(reports: Mapping[str, FunctionalReport], folder: Path, *, formats: Sequence[str]) -> list[Path]:
    """Write the tables in each of the formats, and where they came from.

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
        The files written: those of :func:`functional_data` for each format, and ``functional_provenance.json``.
    """
    told = [{"report": name, **report.provenance} for name, report in reports.items()]
    return write_with_provenance(functional_data(reports), told, folder, formats, kind="functional")


def _spectra(changes: pd.DataFrame) -> pd.DataFrame:
    key = ["run", "method", "step", "scope", "module"]
    long = changes[[*key, "spectrum"]].explode("spectrum").rename(columns={"spectrum": "value"})
    long["value"] = long["value"].astype("float64")
    long.insert(len(key), "index", long.groupby(level=0).cumcount() + 1)
    return long.reset_index(drop=True)
