"""The command line: its verbs in the order of the help, and how it leaves."""

import os
import sys
from typing import Annotated

import typer

from rank_lab.errors import RankLabError
from rank_lab.plain_text import plain
from rank_lab.verbs.analyze import analyze
from rank_lab.verbs.behavioural import behavioural
from rank_lab.verbs.dashboard import dashboard
from rank_lab.verbs.demo import demo
from rank_lab.verbs.evaluate import evaluate
from rank_lab.verbs.export import export
from rank_lab.verbs.extract import extract
from rank_lab.verbs.fairness import fairness
from rank_lab.verbs.finetune import finetune
from rank_lab.verbs.fold import fold
from rank_lab.verbs.functional import functional
from rank_lab.verbs.import_scores import import_scores
from rank_lab.verbs.plan import plan
from rank_lab.verbs.schedule import schedule
from rank_lab.verbs.show import show
from rank_lab.verbs.subspace import subspace
from rank_lab.verbs.verify import verify

__all__ = ["app", "main"]

# Read by OpenMP when torch is loaded: spinning threads cost a factor of five on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

app = typer.Typer(
    name="rank-lab",
    help="What fine-tuning changed: spectra and effective ranks of weight updates, each beside its null.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_INTERRUPTED = 130  # typer leaves with it on Ctrl-C, after which nothing of its own is printed

_VERBS = (
    analyze, subspace, show, export, plan, extract, verify, dashboard, demo, fold, schedule, finetune, evaluate,
    functional, behavioural, import_scores, fairness,
)  # fmt: skip


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False) -> None:
    if version:
        from rank_lab import __version__

        typer.echo(__version__)
        raise typer.Exit


for _verb in _VERBS:
    app.command(_verb.__name__.replace("_", "-"))(_verb)


def main() -> None:
    """Entry point: what rank_lab or the system refuses becomes one line and exit code 2."""
    try:
        app()
    except (RankLabError, OSError) as error:
        sys.stderr.write(f"error: {plain(' '.join(_text(error).split()))}\n")
        raise SystemExit(2) from None
    except SystemExit as leaving:
        if leaving.code == _INTERRUPTED:
            sys.stderr.write("stopped; what was finished is kept: run the same command to go on.\n")
        raise


def _text(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}; check the path, its permissions and the free disk space."
    return str(error) or type(error).__name__
