"""What ``rank-lab subspace`` does: compare the updates of two runs, save, print."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from rank_lab.checkpoint import Checkpoint
from rank_lab.commands import file_name
from rank_lab.console import console, progress_bar
from rank_lab.errors import RankLabError, SchemaError
from rank_lab.module_comparison import ComparisonOptions
from rank_lab.pairing import stores_adapter
from rank_lab.plain_text import plain
from rank_lab.planned import RunSource, Settings
from rank_lab.recorded_base import recorded_base
from rank_lab.subspace_analysis import compare_runs
from rank_lab.subspace_report import SubspaceReport
from rank_lab.subspace_terminal import render_subspaces, subspace_summary
from rank_lab.training_record import RECORD_FILE
from rank_lab.trajectory import open_run

__all__ = ["SubspaceChoices", "subspace_and_print"]


@dataclass(frozen=True)
class SubspaceChoices:
    """What ``subspace`` was asked for, as typed.

    Parameters
    ----------
    name
        Of the comparison; empty for both runs'.
    k, intruder_k
        Leading directions.
    intruders
        Whether intruders are looked for.
    workers, device
        As for ``analyze``.
    modules
        A line per module.
    lora_alpha, initial_adapter
        Of the first run and of the second, see :class:`rank_lab.planned.Settings`.
    split_fused
        Of full checkpoints; an adapter's updates stay as they are.
    base_rounded
        See :class:`rank_lab.planned.Settings`.
    """

    name: str = ""
    k: int = 16
    intruder_k: int = 64
    intruders: bool = True
    workers: int = 0
    device: str = "cpu"
    modules: bool = False
    lora_alpha: tuple[float | None, float | None] = (None, None)
    initial_adapter: tuple[str | None, str | None] = (None, None)
    split_fused: bool = False
    base_rounded: bool = False


def subspace_and_print(
    first: str, second: str, base: str | None, study: Path, choices: SubspaceChoices, *, as_json: bool = False
) -> bool:
    """Compare two runs, save the report, print it.

    Parameters
    ----------
    first, second, base
        As :func:`rank_lab.subspace_analysis.compare_runs` takes them; the base may be that of a ``training.json``.
    study
        Folder for ``NAME.subspace``.
    choices
        What is compared.
    as_json
        As JSON, in place of tables.

    Returns
    -------
    bool
        Whether anything that should have been compared was not.

    Raises
    ------
    RankLabError
        If the two cannot be compared, or the folder holds another comparison.
    """
    options = _options(study, choices)
    original = Checkpoint.open(base) if base is not None else _recorded(first, second)
    runs = _runs((first, second), choices)
    with progress_bar() as bar:
        task = bar.add_task(plain(f"{Path(first).name} and {Path(second).name}"), total=1000)

        def advance(finished: float, total: float, module: str) -> None:
            done = round(1000 * finished / total) if total else 1000
            bar.update(task, completed=done, description=plain(module)[-48:])

        report = compare_runs(
            *runs, original, options=options, name=choices.name, workers=choices.workers, progress=advance
        )
    if base is None and original is not None:
        report.provenance["base"]["named_by"] = RECORD_FILE
    folder = study / f"{file_name(str(report.provenance['settings']['name']))}.subspace"
    _refuse_to_replace_another(folder, report)
    report.save(folder)
    if as_json:
        sys.stdout.write(json.dumps(subspace_summary(report) | {"report": str(folder)}, indent=1) + "\n")
    else:
        console().print(render_subspaces(report, modules=choices.modules))
        console().print(f"written: {plain(str(folder))}")
    return bool(report.coverage["failed"].any())


def _options(study: Path, choices: SubspaceChoices) -> ComparisonOptions:
    if study.is_file():
        raise RankLabError(f"{study}: is a file; -o names the folder of the study.")
    if choices.device != "cpu":
        import torch

        if not choices.device.startswith("cuda") or not torch.cuda.is_available():
            raise RankLabError(f"--device {choices.device}: torch sees no such device here; use cpu.")
    paper = 10
    ks = tuple(sorted({min(paper, choices.intruder_k), choices.intruder_k}))
    return ComparisonOptions(k=choices.k, intruder_ks=ks, intruders=choices.intruders, device=choices.device)


def _runs(sources: tuple[str, str], choices: SubspaceChoices) -> tuple[RunSource, RunSource]:
    """Both runs, each with how its files are read."""
    split = [choices.split_fused and not stores_adapter(open_run(source)[-1]) for source in sources]
    if choices.split_fused and not any(split):
        raise RankLabError("--split-fused with two adapters: their updates are not taken apart; leave it out.")
    one, other = (
        RunSource(
            source, Settings(lora_alpha=alpha, base_rounded=choices.base_rounded, split_fused=apart, initial=start)
        )
        for source, alpha, start, apart in zip(sources, choices.lora_alpha, choices.initial_adapter, split, strict=True)
    )
    return one, other


def _recorded(first: str, second: str) -> Checkpoint | None:
    """The base that the runs' records name, where they name one."""
    found = [base for source in (first, second) if (base := recorded_base(source)) is not None]
    if len({base.source for base in found}) > 1:
        raise RankLabError(
            f"{first} was tuned from {found[0].source}, {second} from {found[1].source}, as their {RECORD_FILE} say:"
            " subspaces of different weights; name the one that both stand on by --base."
        )
    if found:
        sys.stderr.write(plain(f"note: the base is {found[0].source}, as {RECORD_FILE} says") + "\n")
    return found[0] if found else None


def _refuse_to_replace_another(folder: Path, report: SubspaceReport) -> None:
    try:
        before = SubspaceReport.load(folder).provenance
    except SchemaError:
        return  # none there, or a damaged one, which this makes again
    there = [before[role]["source"] for role in ("first", "second")]
    now = [report.provenance[role]["source"] for role in ("first", "second")]
    if [Path(each).name for each in there] != [Path(each).name for each in now]:
        raise RankLabError(f"{folder}: compares {there[0]} and {there[1]}; give this comparison another --name.")
