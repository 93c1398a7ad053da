"""A study as LaTeX: a fragment a table, a document that shows them all, and the BibTeX file of what they rest on."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from rank_lab.behavioural_report import BehaviouralReport
from rank_lab.citations import cited_by, cited_by_figures, uncited_methods
from rank_lab.curve import Curve
from rank_lab.exported import Exported
from rank_lab.latex_behavioural import behavioural_tables
from rank_lab.latex_outcomes import curve_tables, outcome_tables
from rank_lab.latex_ranks import coverage_table, modules_table, ranks_table
from rank_lab.latex_subspaces import subspace_tables
from rank_lab.latex_table import LatexTable, tables_document
from rank_lab.outcomes import Outcomes
from rank_lab.plain_text import plain
from rank_lab.references import REFERENCES, bibtex
from rank_lab.report import RankReport
from rank_lab.subspace_report import SubspaceReport

__all__ = ["BIBLIOGRAPHY", "export_latex", "latex_references", "latex_tables"]

BIBLIOGRAPHY = "references"

_WHAT = {
    "ranks": "LaTeX: median ranks per run and kind of module, beside their nulls (reports)",
    "modules": "LaTeX: every matrix (reports)",
    "coverage": "LaTeX: what became of the tensors (reports)",
    "curve": "LaTeX: stages and controls of the schedule (curve.jsonl)",
    "curve-bands": "LaTeX: the schedule, means over seeds (curve.jsonl)",
    "equal-learning": "LaTeX: forgetting at equal learning (scores.parquet)",
    "subspace-similarity": "LaTeX: angles and phi of two updates per kind of module, beside random ones (comparisons)",
    "subspace-amplification": "LaTeX: amplification, with the weight's own and random directions (comparisons)",
    "subspace-intruders": "LaTeX: intruder dimensions beside those that white noise makes (comparisons)",
    "subspace-coverage": "LaTeX: what became of the modules of either run (comparisons)",
    "behavioural-rank": "LaTeX: behavioural ranks beside random directions and ranks of the spectrum (behavioural)",
    "behavioural-kept": "LaTeX: what the directions of that rank keep and forget (behavioural)",
}
_OF_OUTCOMES = "LaTeX: learning and forgetting (reports, scores.parquet)"


def export_latex(
    reports: Sequence[RankReport],
    outcomes: Outcomes | None,
    curve: Curve | None,
    folder: Path,
    *,
    command: str,
    subspaces: Mapping[str, SubspaceReport] = MappingProxyType({}),
    behavioural: Mapping[str, BehaviouralReport] = MappingProxyType({}),
) -> list[Exported]:
    r"""Write a study's tables as LaTeX.

    Parameters
    ----------
    reports, outcomes, curve
        Of a study; none, or None, for what it does not have.
    folder
        Made if it is not there.
    command
        That makes the files again.
    subspaces, behavioural
        Its comparisons and behavioural ranks by name.

    Returns
    -------
    list of Exported
        ``table_NAME.tex`` (to ``\input``; needs amsmath, booktabs, siunitx and longtable), ``tables.tex``, which shows
        all of them, and ``references.bib``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tables = latex_tables(reports, outcomes, curve, subspaces, behavioural)
    written = []
    for table in tables:
        file = folder / f"table_{table.label.replace('-', '_')}.tex"
        file.write_text(table.tex(), encoding="ascii")
        written.append(Exported(file, _WHAT.get(table.label, _OF_OUTCOMES), command, table.caption))
    document = folder / "tables.tex"
    names = [each.file.name for each in written]
    document.write_text(tables_document(names, bibliography=BIBLIOGRAPHY), encoding="ascii")
    references = folder / f"{BIBLIOGRAPHY}.bib"
    references.write_text(latex_references(reports, outcomes, curve, subspaces, behavioural), encoding="ascii")
    return [
        *written,
        Exported(document, "LaTeX: all of these tables as a document: pdflatex tables.tex", command),
        Exported(references, "BibTeX: the methods, quantities and data sets of this study, no others", command),
    ]


def latex_tables(
    reports: Sequence[RankReport],
    outcomes: Outcomes | None,
    curve: Curve | None,
    subspaces: Mapping[str, SubspaceReport] = MappingProxyType({}),
    behavioural: Mapping[str, BehaviouralReport] = MappingProxyType({}),
) -> list[LatexTable]:
    """All tables of a study, in the order in which they are written.

    Parameters
    ----------
    reports, outcomes, curve, subspaces, behavioural
        See :func:`export_latex`; spectra are not looked at.
    """
    tables: list[LatexTable] = []
    if any(len(report.updates) for report in reports):
        tables += [ranks_table(reports), modules_table(reports)]
    if reports:
        tables.append(coverage_table(reports))
    if outcomes is not None:
        tables += outcome_tables(outcomes)
    tables += [] if curve is None else curve_tables(curve)
    return tables + subspace_tables(subspaces) + behavioural_tables(behavioural)


def latex_references(
    reports: Sequence[RankReport],
    outcomes: Outcomes | None,
    curve: Curve | None,
    subspaces: Mapping[str, SubspaceReport] = MappingProxyType({}),
    behavioural: Mapping[str, BehaviouralReport] = MappingProxyType({}),
    *,
    figures: Iterable[str] = (),
) -> str:
    """BibTeX of what a study rests on, with a comment on methods that have no entry.

    Parameters
    ----------
    reports, outcomes, curve, subspaces, behavioural
        See :func:`export_latex`.
    figures
        What its figures show, of :attr:`rank_lab.figures.Figure.metrics`.
    """
    missing = [plain(method).encode("ascii", "backslashreplace").decode() for method in uncited_methods(reports)]
    head = f"% without an entry here: the method {', '.join(missing)}\n\n" if missing else ""
    cited = {*cited_by(reports, outcomes, curve, subspaces.values()), *cited_by_figures(figures)}
    cited |= set(cited_by_figures(["behavioural_rank", "effective_rank"] if behavioural else []))
    return head + bibtex([key for key in REFERENCES if key in cited])
