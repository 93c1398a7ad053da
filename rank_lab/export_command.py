"""What ``rank-lab export`` does: tables as data and as LaTeX, figures, captions, and a README of how each was made."""

import json
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from rank_lab.behavioural_export import export_behavioural
from rank_lab.behavioural_report import load_behavioural
from rank_lab.console import progress_bar
from rank_lab.errors import RankLabError
from rank_lab.export import FORMATS, export_curve, export_reports
from rank_lab.export_readme import export_readme
from rank_lab.exported import Exported, described
from rank_lab.figures_export import FIGURE_FORMATS, FIGURES_FOLDER, FiguresWritten, export_figures, figure_formats
from rank_lab.functional_export import export_functional
from rank_lab.functional_report import load_functional
from rank_lab.latex_export import BIBLIOGRAPHY, export_latex, latex_references
from rank_lab.outcomes_export import export_outcomes
from rank_lab.plain_text import plain
from rank_lab.stored_study import curve_of, outcomes_of, stored_reports
from rank_lab.study import Study
from rank_lab.study_parts import StudyParts
from rank_lab.subspace_report import load_subspaces
from rank_lab.subspaces_export import export_subspaces

__all__ = ["LATEX", "export_study", "write_export"]

LATEX = "latex"
"""Beside the formats of data: tables for a paper."""


def export_study(study: Path, out: Path, formats: Sequence[str] | None, *, as_json: bool = False) -> None:
    """Write the tables of a study as data and as LaTeX, with a README that says how each was made; name the files."""
    paths = [str(file) for file in write_export(study, out, formats, tell=lambda line: sys.stderr.write(line + "\n"))]
    sys.stdout.write((json.dumps(paths, indent=1) if as_json else "\n".join(paths)) + "\n")


def write_export(
    study: Path,
    out: Path,
    formats: Sequence[str] | None = None,
    *,
    called: str | None = None,
    tell: Callable[[str], object] | None = None,
) -> list[Path]:
    """The same without printing.

    Parameters
    ----------
    study, out, formats
        From where, to where, and what; by default all formats that work on this machine.
    called
        What the commands in the README name the folder, where it is not kept at ``out``.
    tell
        Told in a line what was not written, and why.
    """
    known = (*FORMATS, LATEX, *FIGURE_FORMATS)
    unknown = [kind for kind in formats or () if kind not in known]
    if unknown:
        raise RankLabError(f"--format {unknown[0]}: expected one of {', '.join(known)}.")
    if out.exists() and not out.is_dir():
        raise RankLabError(f"{out}: is a file; name a folder, which may be new, with -o.")
    of_figures, problem = figure_formats(formats)
    chosen = list(dict.fromkeys(formats or (*FORMATS, LATEX)))
    parts = _parts(study)
    data = [kind for kind in chosen if kind in FORMATS]
    again = shlex.join(["rank-lab", "export", str(study), "-o", called or str(out)])
    written = [described(file, f"{again} -f {_format_of(file, data)}") for file in _data_files(parts, out, data)]
    if LATEX in chosen:
        written += export_latex(parts, out, command=f"{again} -f {LATEX}")
    if of_figures:
        figures = _figures(study, out, of_figures, again, tell)
        written += figures.files
        command = " ".join([again, *(f"-f {each}" for each in chosen)])
        written = _with_references(written, out, parts, figures.metrics, command)
    about = export_readme(written, out, study, parts)
    if problem and tell is not None:
        tell(f"note: no pictures: {problem}")
    return [*(each.file for each in written), *about]


def _parts(study: Path) -> StudyParts:
    """All that is there and can be read; a study without any of it is refused."""
    others = StudyParts(
        (), outcomes_of(study), curve_of(study), load_subspaces(study), load_behavioural(study), load_functional(study)
    )
    return replace(others, reports=stored_reports(study, alone=not others.beside_ranks))


def _data_files(parts: StudyParts, out: Path, data: Sequence[str]) -> list[Path]:
    files = export_reports(parts.reports, out, formats=data) if parts.reports and data else []
    files += [] if parts.curve is None else export_curve(parts.curve, out, formats=data)
    files += [] if parts.outcomes is None else export_outcomes(parts.outcomes, out, formats=data)
    if data:
        files += export_subspaces(parts.subspaces, out, formats=data) if parts.subspaces else []
        files += export_behavioural(parts.behavioural, out, formats=data) if parts.behavioural else []
        files += export_functional(parts.functional, out, formats=data) if parts.functional else []
    return files


def _figures(
    study: Path, out: Path, formats: Sequence[str], command: str, tell: Callable[[str], object] | None
) -> FiguresWritten:
    with progress_bar() as bar:
        task = bar.add_task("figures")

        def advance(done: int, total: int, name: str) -> None:
            bar.update(task, completed=done, total=total, description=name[-48:])

        opened = Study(study)
        found = export_figures(opened, out / FIGURES_FOLDER, formats, command=command, progress=advance)
    if tell is not None:
        for note in (
            *(f"no figures of {each.part}: {plain(each.message)}" for each in opened.problems()),
            *found.notes,
        ):
            tell(f"note: {note}")
    return found


def _with_references(
    written: list[Exported], out: Path, parts: StudyParts, metrics: Iterable[str], command: str
) -> list[Exported]:
    """The BibTeX file holds what the figures rest on too, and is there where figures alone are written."""
    file = out / f"{BIBLIOGRAPHY}.bib"
    file.write_text(latex_references(parts, figures=metrics), encoding="ascii")
    what = "BibTeX: the methods, quantities and data sets of this study and of its figures, no others"
    return [*(each for each in written if each.file != file), Exported(file, what, command)]


def _format_of(file: Path, data: Sequence[str]) -> str:
    """``provenance.json`` comes with every format of data."""
    kind = file.suffix.removeprefix(".")
    return kind if kind in data else data[0]
