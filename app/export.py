"""Export: any figure or table as a paper gets it, and all of it at once."""

from functools import partial

import streamlit as st

from rank_lab.latex_table import LatexTable
from rank_lab.next_commands import export_command
from rank_lab.pictures import COLUMN_WIDTHS, PICTURES, find_browser
from rank_lab.study import Study
from rank_lab.study_export import (
    EXPORT_FORMATS,
    TABLE_FORMATS,
    export_archive,
    parts_of,
    study_bibtex,
    study_data,
    study_latex,
)  # fmt: skip

from .choices import choose_of, choose_several
from .empty import ranks_of
from .exportable import figures_of
from .guarded import in_words
from .shown import show_paper_figure, show_table
from .text import escaped

__all__ = ["page"]

_WHAT = {"figure": "a figure", "latex": "a table (LaTeX)", "data": "a table (data)", "all": "everything"}
_COLUMNS = {"1": "one column (3.25 in)", "2": "two columns (6.75 in)"}


def page(study: Study) -> None:
    """What is chosen, as it is on paper, and its files."""
    st.title("Export")
    if study.updates().empty and not parts_of(study).beside_ranks:
        ranks_of(study)
        return
    what = choose_of("Export", tuple(_WHAT), key="export", words=_WHAT)
    with in_words():
        _PARTS[what](study)
    st.divider()
    st.markdown(escaped("BibTeX of the methods, quantities and data sets of this study, no others:"))
    st.download_button(
        "References (BibTeX)",
        partial(study_bibtex, study),
        "references.bib",
        "text/plain",
        key="bibtex",
        on_click="ignore",
    )


def _figure(study: Study) -> None:
    left, right = st.columns(2)
    figures = figures_of(study)
    with left:
        title = choose_of("Figure", tuple(figures), key="figure")
    with right:
        columns = choose_of("Width", tuple(COLUMN_WIDTHS), key="columns", words=_COLUMNS)
    show_paper_figure(figures[title](study), columns=columns, key="paper_figure")


def _latex(study: Study) -> None:
    tables = _tables(study, (str(study.folder), study.signature()))
    table = tables[choose_of("Table", tuple(tables), key="table")]
    tex = table.tex()
    st.download_button("LaTeX", tex, f"table_{table.label}.tex", "text/plain", key="tex", on_click="ignore")
    st.caption(escaped("Needs the packages amsmath, booktabs, siunitx and longtable; the caption is in it."))
    st.code(tex, language="latex", height=500)


def _data(study: Study) -> None:
    tables = study_data(study)
    name = choose_of("Table", tuple(tables), key="data_table")
    show_table(tables[name], name=name, key="data")


def _all(study: Study) -> None:
    formats = choose_several(
        "Formats", [each for each in EXPORT_FORMATS if each not in PICTURES or find_browser()], key="formats",
        default=TABLE_FORMATS, most=len(EXPORT_FORMATS),
    )  # fmt: skip
    st.download_button(
        "Everything (ZIP)", partial(export_archive, study, formats), f"{study.name}-export.zip", "application/zip",
        key="archive", on_click="ignore",
    )  # fmt: skip
    st.caption(escaped("Made in a temporary folder when you ask for it. Figures (html, svg, pdf, png) take longest:"
                       " each is drawn. The command:"))  # fmt: skip
    st.code(export_command(study, formats), language=None, wrap_lines=True)


_PARTS = {"figure": _figure, "latex": _latex, "data": _data, "all": _all}


@st.cache_data(max_entries=2, show_spinner="Reading tables")
def _tables(_study: Study, state: tuple[str, str]) -> dict[str, LatexTable]:  # noqa: ARG001
    """Made once for each state of the files."""
    return study_latex(_study)
