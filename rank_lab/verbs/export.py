"""``rank-lab export``."""

from pathlib import Path
from typing import Annotated

import typer

from rank_lab.verbs.options import Study

__all__ = ["export"]


def export(
    study: Study,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the files.")],
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            "-f",
            help="csv, json, parquet, latex, html, svg, pdf or png; repeatable; default all that work.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the paths as JSON.")] = False,
) -> None:
    """Write the tables and figures of a study, with captions, BibTeX and a README of how each file was made.

    Example: rank-lab export study/ -o paper/ -f latex -f pdf

    Pictures (svg, pdf, png) are drawn by Chromium or Chrome; html, data and LaTeX need none.
    """
    from rank_lab.export_command import export_study

    export_study(study, out, formats, as_json=as_json)
