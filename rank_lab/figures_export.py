"""The figures of a study as files: pictures, one interactive page, the data behind each, captions."""

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from rank_lab.errors import RankLabError
from rank_lab.exported import Exported
from rank_lab.figures import Figure, Style
from rank_lab.latex_text import latex_text
from rank_lab.pictures import PICTURES, browser_kept, html_page, no_pictures, picture
from rank_lab.plain_text import markdown, plain
from rank_lab.study import Study
from rank_lab.study_figures import StudyFigure, study_figures

__all__ = ["FIGURES_FOLDER", "FIGURE_FORMATS", "FiguresWritten", "export_figures", "figure_formats"]

FIGURE_FORMATS = ("html", *PICTURES)
"""What figures may be written as; the data behind each and the captions come with any of them."""

FIGURES_FOLDER = "figures"
"""Where they lie in an export."""

_PAGE = "figures.html"

Progress = Callable[[int, int, str], None]


@dataclass
class FiguresWritten:
    """What was written, and what was not.

    Parameters
    ----------
    files
        With what each is.
    notes
        Which figure was not drawn, and why, in the words of what refused it.
    metrics
        What the figures show, for the papers that they rest on.
    """

    files: list[Exported] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    metrics: set[str] = field(default_factory=set)


def figure_formats(asked: Sequence[str] | None) -> tuple[tuple[str, ...], str]:
    """The formats of figures that are written, and what is not and why.

    Parameters
    ----------
    asked
        By the user; None for all that work on this machine.

    Raises
    ------
    RankLabError
        If a picture was asked for by name and none can be drawn here.
    """
    problem = no_pictures()
    if asked is None:
        return (FIGURE_FORMATS, "") if not problem else (("html",), problem)
    chosen = tuple(kind for kind in FIGURE_FORMATS if kind in asked)
    if problem and set(chosen) & set(PICTURES):
        raise RankLabError(problem)
    return chosen, ""


def export_figures(
    study: Study, folder: Path, formats: Sequence[str], *, command: str, progress: Progress | None = None
) -> FiguresWritten:
    """Write every figure that a study supports.

    Parameters
    ----------
    study
        That is open.
    folder
        Made if it is not there.
    formats
        Of :data:`FIGURE_FORMATS`, which :func:`figure_formats` has found to work.
    command
        That makes all of them again, without formats.
    progress
        Called with figures done, figures in all and the name of the next.

    Returns
    -------
    FiguresWritten
        For each figure ``NAME.csv`` and, of what was asked for, ``NAME.svg`` and ``NAME.png`` (two columns wide),
        ``NAME-1col.pdf`` and ``NAME-2col.pdf``; ``figures.html`` with all of them, of 5 MB and what the data take;
        ``captions.md`` and ``captions.tex``. A figure that cannot be drawn is a note.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found, written, pictures = study_figures(study), FiguresWritten(), bool(set(PICTURES) & set(formats))
    drawn: list[Figure] = []
    on_screen: list[Figure] = []
    with browser_kept() if pictures else nullcontext():
        for number, each in enumerate(found):
            if progress is not None:
                progress(number, len(found), each.name)
            try:
                paper = _drawn(each, "paper") if pictures else None
                screen = _drawn(each, "light") if "html" in formats else None
            except RankLabError as error:
                written.notes.append(f"figure {each.name} was not drawn: {plain(str(error))}")
                continue
            on_screen += [] if screen is None else [screen]
            figure = paper or screen
            if figure is not None:
                drawn.append(figure)
                written.metrics.update(figure.metrics)
                written.files += _files(figure, folder, formats, command)
    if on_screen:
        (folder / _PAGE).write_text(html_page(on_screen, title=f"Figures of {study.name}"), encoding="utf-8")
        what = f"all {len(on_screen)} figures as one interactive page, which needs no network"
        written.files.append(Exported(folder / _PAGE, what, f"{command} -f html"))
    if drawn:
        written.files += _captions(drawn, folder, formats, f"{command} {_flags(formats)}")
    return written


def _drawn(each: StudyFigure, style: Style) -> Figure:
    """Under the name that is unique in the study."""
    return dataclasses.replace(each.draw(style), name=each.name)


def _files(figure: Figure, folder: Path, formats: Sequence[str], command: str) -> list[Exported]:
    title = plain(figure.title)
    data = folder / f"{figure.name}.csv"
    figure.data.to_csv(data, index=False)
    written = [Exported(data, f"the data behind the figure: {title}", f"{command} {_flags(formats[:1])}")]
    for kind in (kind for kind in PICTURES if kind in formats):
        for columns, ending in ((1, "-1col"), (2, "-2col")) if kind == "pdf" else ((2, ""),):
            file = folder / f"{figure.name}{ending}.{kind}"
            file.write_bytes(picture(figure, kind, columns=columns))
            wide = f", {'one column' if columns == 1 else 'two columns'} wide" if kind == "pdf" else ""
            written.append(Exported(file, f"{title}{wide}", f"{command} -f {kind}"))
    return written


def _captions(figures: Sequence[Figure], folder: Path, formats: Sequence[str], command: str) -> list[Exported]:
    parts = [f"## {markdown(each.name)}\n\n{markdown(each.caption)}\n" for each in figures]
    (folder / "captions.md").write_text("# Captions\n\n" + "\n".join(parts), encoding="utf-8")
    mark = "" if "pdf" in formats else "%"  # of what is not there LaTeX is told nothing
    environments = [_environment(each, mark) for each in figures]
    (folder / "captions.tex").write_text("\n".join(environments), encoding="ascii")
    return [
        Exported(folder / "captions.md", "captions of the figures: definitions, data, n", command),
        Exported(folder / "captions.tex", "LaTeX: the figures in environments, with their captions", command),
    ]


def _environment(figure: Figure, mark: str) -> str:
    return (
        "\\begin{figure}\n  \\centering\n"
        f"  {mark}\\includegraphics[width=\\columnwidth]{{{figure.name}-1col.pdf}}\n"
        f"  \\caption{{{latex_text(figure.caption)}}}\n  \\label{{fig:{figure.name}}}\n"
        "\\end{figure}\n"
    )


def _flags(formats: Sequence[str]) -> str:
    return " ".join(f"-f {kind}" for kind in formats)
