"""What can be taken out of a study that is open: tables as data and as LaTeX, BibTeX, and all of it as one archive."""

import io
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from rank_lab.behavioural_export import behavioural_data
from rank_lab.errors import SchemaError
from rank_lab.export import FORMATS, curve_data
from rank_lab.export_command import LATEX, write_export
from rank_lab.figures_export import FIGURE_FORMATS
from rank_lab.functional_export import functional_data
from rank_lab.latex_export import latex_references, latex_tables
from rank_lab.latex_table import LatexTable
from rank_lab.outcomes_export import outcome_data
from rank_lab.report import RankReport
from rank_lab.schema import SPECTRA
from rank_lab.study import Study
from rank_lab.study_parts import StudyParts
from rank_lab.subspaces_export import subspace_data

__all__ = ["EXPORT_FORMATS", "TABLE_FORMATS", "export_archive", "parts_of", "study_bibtex", "study_data", "study_latex"]

TABLE_FORMATS = (*FORMATS, LATEX)
"""What tables may be written as."""

EXPORT_FORMATS = (*TABLE_FORMATS, *FIGURE_FORMATS)
"""What an export may hold; of figures those alone that work on this machine."""

_FOLDER = "export"
_OLDEST = (1980, 1, 1, 0, 0, 0)  # that an archive can name: the same content then gives the same bytes


def study_data(study: Study) -> dict[str, pd.DataFrame]:
    """Tables as data, by the name that ``rank-lab export`` gives their files; spectra are in the archive alone.

    Parameters
    ----------
    study
        That is open.
    """
    found: dict[str, pd.DataFrame] = {}
    if study.reports():
        found |= {"updates": study.updates(), "coverage": study.coverage()}
    curve, outcomes = study.curve(), study.outcomes()
    found |= {} if curve is None else curve_data(curve)
    found |= {} if outcomes is None else outcome_data(outcomes)
    subspaces, behavioural, functional = study.subspaces(), study.behavioural(), study.functional()
    found |= subspace_data(subspaces) if subspaces else {}
    found |= behavioural_data(behavioural) if behavioural else {}
    return found | (functional_data(functional) if functional else {})


def study_latex(study: Study) -> dict[str, LatexTable]:
    """Tables for a paper, by label.

    Parameters
    ----------
    study
        That is open.
    """
    tables = latex_tables(parts_of(study))
    return {table.label: table for table in tables}


def study_bibtex(study: Study) -> str:
    """BibTeX of the methods, quantities and data sets of a study."""
    return latex_references(parts_of(study))


def export_archive(study: Study, formats: Sequence[str] | None = None) -> bytes:
    """What ``rank-lab export`` writes, as a ZIP archive; made in a temporary folder, never in the study.

    Parameters
    ----------
    study
        That is open.
    formats
        Of :data:`EXPORT_FORMATS`; None for all.

    Raises
    ------
    RankLabError
        If a part of the study cannot be read, or is a link out of it: an export is of all of it or none.
    """
    broken = study.problems()
    if broken:
        raise SchemaError(broken[0].message)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        files = write_export(study.folder, out, formats, called=_FOLDER)
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                entry = zipfile.ZipInfo(f"{_FOLDER}/{file.relative_to(out).as_posix()}", _OLDEST)
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, file.read_bytes())
        return content.getvalue()


def parts_of(study: Study) -> StudyParts:
    """All that can be read of a study, without spectra.

    Parameters
    ----------
    study
        That is open.
    """
    return StudyParts(
        _without_spectra(study), study.outcomes(), study.curve(), study.subspaces(), study.behavioural(),
        study.functional(),
    )  # fmt: skip


def _without_spectra(study: Study) -> list[RankReport]:
    empty = SPECTRA.empty_table().to_pandas()
    return [RankReport(each.updates, empty, each.coverage, each.provenance) for each in study.reports()]
