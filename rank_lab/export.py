"""A report's tables as files for other programs."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from rank_lab.bands import bands
from rank_lab.curve import Curve
from rank_lab.report import RankReport

__all__ = [
    "FORMATS", "curve_data", "export_curve", "export_reports", "joined_tables", "write_tables", "write_with_provenance",
]  # fmt: skip

_BANDS = ("nonzero_gates", "nonzero_parameters", "memorization", "generalization", "train_score", "validation_score")


def export_reports(reports: Sequence[RankReport], folder: Path, *, formats: Sequence[str]) -> list[Path]:
    """Write the tables of one or more reports, joined, in each of the formats.

    Parameters
    ----------
    reports
        Of one study.
    folder
        Made if it is not there.
    formats
        Of :data:`FORMATS`.

    Returns
    -------
    list of Path
        The files written: ``updates``, ``coverage`` and ``spectra`` (one row per
        singular value) for each format, and ``provenance.json``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tables = {
        "updates": pd.concat([report.updates for report in reports], ignore_index=True),
        "coverage": pd.concat([report.coverage for report in reports], ignore_index=True),
        "spectra": _long(pd.concat([report.spectra for report in reports], ignore_index=True)),
    }
    written = write_tables(tables, folder, formats)
    file = folder / "provenance.json"
    file.write_text(
        json.dumps([dict(report.provenance) for report in reports], indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )
    return [*written, file]


def export_curve(curve: Curve, folder: Path, *, formats: Sequence[str]) -> list[Path]:
    """Write a curve, its numbers of non-zero gates per module and its knees in each of the formats.

    Parameters
    ----------
    curve
        Of a study.
    folder
        Made if it is not there.
    formats
        Of :data:`FORMATS`.

    Returns
    -------
    list of Path
        The files written: ``curve`` (a row per stage and control), ``curve_modules``
        (a row per stage, control and module), ``curve_knees`` and, of several
        seeds, ``curve_bands`` (means and intervals over seeds).
    """
    folder.mkdir(parents=True, exist_ok=True)
    return write_tables(curve_data(curve), folder, formats)


def curve_data(curve: Curve) -> dict[str, pd.DataFrame]:
    """The same tables, by name.

    Parameters
    ----------
    curve
        Of a study.
    """
    keys = ["seed", "control", "stage"]
    modules = pd.DataFrame(
        [
            {key: getattr(row, key) for key in keys} | {"module": module, "nonzero_gates": count}
            for row in curve.records
            for module, count in row.nonzero_by_module.items()
        ]
    )
    tables = {"curve": curve.rows.drop(columns="nonzero_by_module"), "curve_modules": modules}
    if curve.rows["seed"].nunique() > 1:
        tables["curve_bands"] = bands(curve.rows, _BANDS)
    if curve.knees:
        tables["curve_knees"] = pd.DataFrame(curve.knees)
    return tables


def write_tables(tables: dict[str, pd.DataFrame], folder: Path, formats: Sequence[str]) -> list[Path]:
    """Write tables in each of the formats.

    Parameters
    ----------
    tables
        Name of the file, without its ending, to the table.
    folder
        Which is there.
    formats
        Of :data:`FORMATS`.
    """
    written = []
    for name, table in tables.items():
        for kind in formats:
            file = folder / f"{name}.{kind}"
            FORMATS[kind](table, file)
            written.append(file)
    return written


def write_with_provenance(
    tables: dict[str, pd.DataFrame],
    told: Sequence[Mapping[str, Any]],
    folder: Path,
    formats: Sequence[str],
    *,
    kind: str,
) -> list[Path]:
    """Write the tables of one kind of report, and ``KIND_provenance.json``, an entry a report.

    Parameters
    ----------
    tables
        As :func:`write_tables` takes them.
    told
        Where each report came from.
    folder
        Made if it is not there.
    formats
        Of :data:`FORMATS`.
    kind
        Of the reports.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{kind}_provenance.json"
    written = write_tables(tables, folder, formats)
    file.write_text(json.dumps(list(told), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return [*written, file]


def joined_tables(tables: Mapping[str, pd.DataFrame], column: str) -> pd.DataFrame:
    """The same table of several reports as one, whose first column names the report.

    Parameters
    ----------
    tables
        Name to table; one at least.
    column
        What the first one is called.
    """
    joined = pd.concat(list(tables.values()), ignore_index=True)
    names = [name for name, part in tables.items() for _ in range(len(part))]
    joined.insert(0, column, pd.Series(names, dtype="string", index=joined.index))
    return joined


def _long(spectra: pd.DataFrame) -> pd.DataFrame:
    long = spectra.explode("values", ignore_index=True).rename(columns={"values": "singular_value"})
    keys = ["run", "step", "delta", "module"]
    long.insert(len(keys), "index", long.groupby(keys, dropna=False).cumcount() + 1)
    long["singular_value"] = long["singular_value"].astype("float64")
    return long.dropna(subset=["singular_value"])


def _csv(table: pd.DataFrame, file: Path) -> None:
    table.to_csv(file, index=False)


def _json(table: pd.DataFrame, file: Path) -> None:
    rows: list[dict[str, Any]] = json.loads(table.to_json(orient="records", double_precision=15))
    file.write_text(json.dumps(rows, indent=0) + "\n", encoding="utf-8")


def _parquet(table: pd.DataFrame, file: Path) -> None:
    table.to_parquet(file, index=False)


FORMATS: dict[str, Callable[[pd.DataFrame, Path], None]] = {"csv": _csv, "json": _json, "parquet": _parquet}
"""Ending to writer."""
