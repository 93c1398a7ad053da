"""One table as a LaTeX fragment: booktabs rules, siunitx columns, caption and label, notes on what is missing."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rank_lab.latex_numbers import Shown
from rank_lab.latex_text import latex_text

__all__ = ["Column", "LatexTable", "Missing", "tables_document"]


_PACKAGES = ("amsmath", "booktabs", "longtable", "siunitx")


@dataclass(frozen=True)
class Column:
    r"""One column of a table.

    Parameters
    ----------
    head
        LaTeX, with symbol and unit.
    kind
        ``text``; ``number``, aligned at the decimal marker by siunitx; ``interval``, the same with ``[low, high]``
        beside it.
    """

    head: str
    kind: Literal["text", "number", "interval"] = "text"


@dataclass(frozen=True)
class Missing:
    """A cell without a value.

    Parameters
    ----------
    reason
        Why, in words; it becomes a note under the table.
    """

    reason: str = ""


Cell = str | Shown | Missing
"""Of a text column its text, not yet escaped; of the others a number, or that there is none."""


@dataclass(frozen=True)
class LatexTable:
    r"""A table, of which :meth:`tex` is the fragment to ``\input``.

    Parameters
    ----------
    label
        After ``tab:``; letters, digits and hyphens.
    caption
        LaTeX.
    columns, rows
        As many cells in a row as columns.
    notes
        Sentences under the table, LaTeX.
    groups
        How many rows belong together, in order; a gap stands between groups. Empty for none.
    long
        Over several pages (``longtable``).

    Examples
    --------
    >>> table = LatexTable("t", "A caption.", (Column("run"), Column("$k$", "number")), (("a_b", Shown("12")),))
    >>> print(table.tex())
    \begin{table}
    \centering
    \caption{A caption.}
    \label{tab:t}
    \smallskip
    \footnotesize
    \begin{tabular}{lS[table-format=2.0]}
    \toprule
    run & {$k$} \\
    \midrule
    a\_b & 12 \\
    \bottomrule
    \end{tabular}
    \end{table}
    <BLANKLINE>
    """

    label: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    groups: tuple[int, ...] = ()
    long: bool = False

    def tex(self) -> str:
        """The fragment; it needs ``amsmath``, ``booktabs``, ``siunitx`` and, where long, ``longtable``."""
        reasons = list(dict.fromkeys(cell.reason for row in self.rows for cell in row if isinstance(cell, Missing)))
        marks = {reason: str(number) for number, reason in enumerate(filter(None, reasons), 1)}
        body = self._body(marks)
        notes = [f"\\textsuperscript{{{mark}}}~{latex_text(reason)}." for reason, mark in marks.items()]
        under = " ".join([*notes, *self.notes])
        return "\n".join(self._long(body, under) if self.long else self._float(body, under)) + "\n"

    def _float(self, body: list[str], under: str) -> list[str]:
        notes = [rf"\par\medskip\parbox{{\linewidth}}{{{under}}}"] if under else []
        return [
            r"\begin{table}", r"\centering", rf"\caption{{{self.caption}}}", rf"\label{{tab:{self.label}}}",
            r"\smallskip", r"\footnotesize", rf"\begin{{tabular}}{{{self._layout()}}}",
            r"\toprule", self._heads(), r"\midrule", *body, r"\bottomrule", r"\end{tabular}", *notes,
            r"\end{table}",
        ]  # fmt: skip

    def _long(self, body: list[str], under: str) -> list[str]:
        head = [r"\toprule", self._heads(), r"\midrule"]
        return [
            r"\begingroup", r"\footnotesize", r"\setlength{\LTcapwidth}{\linewidth}",
            rf"\begin{{longtable}}{{{self._layout()}}}",
            rf"\caption{{{self.caption}}}\label{{tab:{self.label}}}\\", *head, r"\endfirsthead", *head, r"\endhead",
            r"\bottomrule", r"\endlastfoot", *body, r"\end{longtable}",
            *([rf"\noindent {under}\par"] if under else []), r"\endgroup",
        ]  # fmt: skip

    def _layout(self) -> str:
        return "".join(_layout(column, [row[at] for row in self.rows]) for at, column in enumerate(self.columns))

    def _heads(self) -> str:
        heads = {"text": "{}", "number": "{{{}}}", "interval": r"\multicolumn{{2}}{{c}}{{{}}}"}
        return " & ".join(heads[column.kind].format(column.head) for column in self.columns) + r" \\"

    def _body(self, marks: dict[str, str]) -> list[str]:
        lines = [
            " & ".join(_cell(column, cell, marks) for column, cell in zip(self.columns, row, strict=True)) + r" \\"
            for row in self.rows
        ]
        place = 0
        for count in self.groups[:-1]:
            place += count
            lines[place - 1] += r" \addlinespace"
        return lines


def tables_document(files: Sequence[str], *, bibliography: str = "") -> str:
    r"""A document that shows every fragment, to be compiled where they lie.

    Parameters
    ----------
    files
        Names of the fragments.
    bibliography
        Name of the BibTeX file without its ending; empty for none.
    """
    cited = [r"\nocite{*}", r"\bibliographystyle{plain}", rf"\bibliography{{{bibliography}}}"] if bibliography else []
    then = f"; then bibtex tables and twice pdflatex tables.tex, for {bibliography}.bib" if bibliography else ""
    lines = [
        f"% pdflatex tables.tex{then}",
        r"\documentclass[10pt]{article}",
        r"\usepackage[a4paper,landscape,margin=15mm]{geometry}",
        *(rf"\usepackage{{{name}}}" for name in _PACKAGES),
        r"\begin{document}",
        *(rf"\input{{{name}}}" for name in files),
        r"\clearpage",
        *cited,
        r"\end{document}",
    ]
    return "\n".join(lines) + "\n"


def _layout(column: Column, cells: Sequence[Cell]) -> str:
    if column.kind == "text":
        return "l"
    numbers = [cell.value for cell in cells if isinstance(cell, Shown) and cell.value]
    return f"S[table-format={_format(numbers)}]" + (r"@{\,}l" if column.kind == "interval" else "")


_NUMBER = re.compile(r"(-?)(\d+)(?:\.(\d+))?(?:e(-?)(\d+))?")


def _format(numbers: Sequence[str]) -> str:
    """What siunitx reserves: a sign, digits before and after the marker, and of the exponent."""
    parts = [match.groups() for number in numbers if (match := _NUMBER.fullmatch(number))]
    if not parts:
        return "1.0"
    text = ("-" if any(sign for sign, *_ in parts) else "") + str(max(len(whole) for _, whole, *_ in parts))
    text += f".{max(len(after or '') for _, _, after, *_ in parts)}"
    exponents = [(sign, digits) for *_, sign, digits in parts if digits]
    if exponents:
        text += "e" + ("-" if any(sign for sign, _ in exponents) else "") + str(max(len(each) for _, each in exponents))
    return text


def _cell(column: Column, cell: Cell, marks: dict[str, str]) -> str:
    if isinstance(cell, str):
        text = latex_text(cell)
        return text if column.kind == "text" else f"{{{text}}}" + (" &" if column.kind == "interval" else "")
    if isinstance(cell, Missing) or not cell.value:
        reason = cell.reason if isinstance(cell, Missing) else ""
        empty = "{--" + (f"\\textsuperscript{{{marks[reason]}}}" if reason else "") + "}"
        return empty + (" &" if column.kind == "interval" else "")
    if column.kind == "text":
        return rf"\num{{{cell.value}}}"
    if column.kind == "number":
        return cell.value
    return cell.value + " &" + (rf" [\num{{{cell.low}}}, \num{{{cell.high}}}]" if cell.low else "")
