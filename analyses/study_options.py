"""The command line that the studies of the papers share."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from analyses.kept_results import RESULTS
from analyses.machine import ONE_THREAD
from analyses.study_cells import workers_beside
from rank_lab.errors import RankLabError

__all__ = ["DATA", "run_study", "study_parser"]

DATA = Path(__file__).parents[2] / "shared" / "data"
"""Default of ``--data``: a folder for each task, beside the checkout."""


def study_parser(doc: str, name: str) -> argparse.ArgumentParser:
    """Options of every study.

    Parameters
    ----------
    doc
        Of the module; its first line is shown.
    name
        Of the study and its results.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--study", type=Path, default=Path("studies", name), help="where the work is, and goes on")
    parser.add_argument("--out", type=Path, help="folder of the results; default in analyses/results (--quick: STUDY)")
    parser.add_argument("--seeds", type=int, nargs="+", help="each repeats every run")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes, of one thread each")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="a minute, to see that it runs")
    size.add_argument("--full", action="store_true", help="the size for a GPU")
    parser.add_argument("--only-make", action="store_true", help="do the work, and write no results")
    parser.add_argument("--redraw", action="store_true", help="write page and pictures from the kept tables alone")
    parser.add_argument("--no-picture", action="store_true", help="tables only: pictures need kaleido and a browser")
    return parser


def run_study(
    name: str,
    options: argparse.Namespace,
    make: Callable[[argparse.Namespace], None],
    keep: Callable[[argparse.Namespace], None],
    tell: Callable[[Path, bool], None],
) -> None:
    """Work, keep, tell; an error of the tool's is one line and exit code 2.

    Parameters
    ----------
    name
        Of the study.
    options
        Of :func:`study_parser`; ``study`` and ``out`` are completed.
    make
        Works off the cells.
    keep
        From the cells to the tables in ``options.out``.
    tell
        From that folder, and whether pictures are wanted, to page and pictures.
    """
    if options.quick or options.full:
        options.study = options.study / ("quick" if options.quick else "full")
    kept = RESULTS / (f"{name}-full" if options.full else name)
    options.out = options.out or (options.study / "results" if options.quick else kept)
    try:
        if not options.redraw:
            _on_one_thread(name, options)
            with workers_beside(0 if options.only_make else options.workers - 1):
                make(options)
            if options.only_make:
                return
            make(options)  # what another process left
            keep(options)
        tell(options.out, not options.no_picture)
    except RankLabError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def _on_one_thread(name: str, options: argparse.Namespace) -> None:
    """Processes side by side use the cores better than threads do on models as small as these."""
    if options.device == "cpu" and any(os.environ.get(variable) != value for variable, value in ONE_THREAD.items()):
        os.execve(sys.executable, [sys.executable, "-m", f"analyses.{name}", *sys.argv[1:]], os.environ | ONE_THREAD)
