"""A study as LaTeX: a fragment a table, a document that shows them all, and the BibTeX file of what they rest on."""

from collections.abc import Iterable
from pathlib import Path

from rank_lab.citations import cited_by, cited_by_figures, uncited_methods
from rank_lab.exported import Exported
from rank_lab.latex_behavioural import behavioural_tables
from rank_lab.latex_functional import functional_tables_tex
from rank_lab.latex_outcomes import curve_tables, outcome_tables
from rank_lab.latex_ranks import coverage_table, modules_table, ranks_table
from rank_lab.latex_subspaces import subspace_tables
from rank_lab.latex_table import LatexTable, tables_document
from rank_lab.plain_text import plain
from rank_lab.references import REFERENCES, bibtex
from rank_lab.study_parts import StudyParts

__all__ = ["BIBLIOGRAPHY", "export_latex", "latex_references", "latex_tables"]

BIBLIOGRAPHY = "references"

_WHAT = {
    "ranks": "LaTeX: median ranks per run and kind of module, beside their nulls (reports)",
    "modules": "LaTeX: every matrix (reports)",
    "coverage": "LaTeX: what became of the tensors (reports)",
    "curve": "LaTeX: stages and controls of the schedule (curve.jsonl)",
    "curve-bands": "LaTeX: the schedule, means over seeds (curve.jsonl)",
    "equal-learning": "LaTeX: forgetting at equal learning (scores.parquet)",
    "functional-ranks": "LaTeX: ranks of what each update does to real inputs, beside nulls (functional ranks)",
    "subspace-similarity": "LaTeX: angles and phi of two updates per kind of module, beside random ones (comparisons)",
    "subspace-amplification": "LaTeX: amplification, with the weight's own and random directions (comparisons)",
    "subspace-intruders": "LaTeX: intruder dimensions beside those that white noise makes (comparisons)",
    "subspace-coverage": "LaTeX: what became of the modules of either run (comparisons)",
    "behavioural-rank": "LaTeX: behavioural ranks beside random directions and ranks of the spectrum (behavioural)",
    "behavioural-kept": "LaTeX: what the directions of that rank keep and forget (behavioural)",
}
_OF_OUTCOMES = "LaTeX: learning and forgetting (reports, scores.parquet)"


def export_latex(parts: StudyParts, folder: Path, *, command: str) -> list[Exported]:
    r"""Write a study's tables as LaTeX.

    Parameters
    ----------
    parts
        Of a study.
    folder
        Made if it is not there.
    command
        That makes the files again.

    Returns
    -------
    list of Exported
        ``table_NAME.tex`` (to ``\input``; needs amsmath, booktabs, siunitx and longtable), ``tables.tex``, which shows
        all of them, and ``references.bib``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tables = latex_tables(parts)
    written = []
    for table in tables:
        file = folder / f"table_{table.label.replace('-', '_')}.tex"
        file.write_text(table.tex(), encoding="ascii")
        written.append(Exported(file, _WHAT.get(table.label, _OF_OUTCOMES), command, table.caption))
    document = folder / "tables.tex"
    names = [each.file.name for each in written]
    document.write_text(tables_document(names, bibliography=BIBLIOGRAPHY), encoding="ascii")
    references = folder / f"{BIBLIOGRAPHY}.bib"
    references.write_text(latex_references(parts), encoding="ascii")
    return [
        *written,
        Exported(document, "LaTeX: all of these tables as a document: pdflatex tables.tex", command),
        Exported(references, "BibTeX: the methods, quantities and data sets of this study, no others", command),
    ]


def latex_tables(parts: StudyParts) -> list[LatexTable]:
    """All tables of a study, in the order in which they are written.

    Parameters
    ----------
    parts
        Of a study; spectra are not looked at.
    """
    tables: list[LatexTable] = []
    if any(len(report.updates) for report in parts.reports):
        tables += [ranks_table(parts.reports), modules_table(parts.reports)]
    if parts.reports:
        tables.append(coverage_table(parts.reports))
    if parts.outcomes is not None:
        tables += outcome_tables(parts.outcomes)
    if parts.curve is not None:
        tables += curve_tables(parts.curve)
    tables += [*subspace_tables(parts.subspaces), *behavioural_tables(parts.behavioural)]
    return [*tables, *functional_tables_tex(parts.functional)]


def latex_references(parts: StudyParts, *, figures: Iterable[str] = ()) -> str:
    """BibTeX of what a study rests on, with a comment on methods that have no entry.

    Parameters
    ----------
    parts
        Of a study.
    figures
        What its figures show, of :attr:`rank_lab.figures.Figure.metrics`.
    """
    missing = [plain(method).encode("ascii", "backslashreplace").decode() for method in uncited_methods(parts.reports)]
    head = f"% without an entry here: the method {', '.join(missing)}\n\n" if missing else ""
    cited = {*cited_by(parts), *cited_by_figures(figures)}
    return head + bibtex([key for key in REFERENCES if key in cited])
