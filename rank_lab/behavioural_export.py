"""Behavioural ranks as files for other programs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from rank_lab.behavioural_report import BehaviouralReport
from rank_lab.behavioural_schema import BEHAVIOURAL_TABLES
from rank_lab.export import joined_tables, write_with_provenance

__all__ = ["behavioural_data", "export_behavioural"]


def behavioural_data(reports: Mapping[str, BehaviouralReport]) -> dict[str, pd.DataFrame]:
    """The tables of behavioural reports, joined, by the name that an export gives their files.

    Parameters
    ----------
    reports
        By name, as :func:`rank_lab.behavioural_report.load_behavioural` gives them; one at least.

    Returns
    -------
    dict
        ``behavioural_ranks``, ``behavioural_points`` and ``behavioural_matrices``: columns of
        :data:`rank_lab.behavioural_schema.BEHAVIOURAL_TABLES` after ``run``, the name of the report; and
        ``behavioural_scores``, a row an example.
    """
    found = {
        f"behavioural_{table}": joined_tables({name: getattr(each, table) for name, each in reports.items()}, "run")
        for table in BEHAVIOURAL_TABLES
    }
    scores = found["behavioural_scores"].drop(columns=["value", "stderr", "n"])
    long = scores.rename(columns={"examples": "value"}).explode("value", ignore_index=True)
    keys = ["run", "how", "k", "vectors", "task"]
    long.insert(len(keys), "example", long.groupby(keys, dropna=False, sort=False).cumcount() + 1)
    long["value"] = long["value"].astype("float64")
    return found | {"behavioural_scores": long}


def export_behavioural(reports: Mapping[str, BehaviouralReport], folder: Path, *, formats: Sequence[str]) -> list[Path]:
    """Write the tables of behavioural reports in each of the formats, and where they came from.

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
        The files written: those of :func:`behavioural_data` for each format, and ``behavioural_provenance.json``.
    """
    told = [{"report": name, **report.provenance} for name, report in reports.items()]
    return write_with_provenance(behavioural_data(reports), told, folder, formats, kind="behavioural")
