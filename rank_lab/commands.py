"""What the verbs of the command line do: open, call, save, print."""

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rank_lab.analysis import analyze as analyze_run
from rank_lab.behavioural_report import load_behavioural
from rank_lab.behavioural_terminal import behavioural_summary, render_behavioural
from rank_lab.checkpoint import Checkpoint
from rank_lab.console import console, progress_bar
from rank_lab.curve_terminal import curve_summary, render_curve
from rank_lab.errors import DataError, RankLabError, SchemaError
from rank_lab.fairness import fairness, render_findings
from rank_lab.functional_report import load_functional
from rank_lab.functional_terminal import functional_summary, render_functional
from rank_lab.measurement import MeasurementOptions
from rank_lab.noise import NOISE_MODES
from rank_lab.outcomes_terminal import outcome_summary, render_outcomes
from rank_lab.plain_text import plain
from rank_lab.planned import Settings
from rank_lab.recorded_base import recorded_base
from rank_lab.report import RankReport, read_provenance
from rank_lab.spectrum import METHODS
from rank_lab.stored_study import curve_of, outcomes_of, stored_reports
from rank_lab.subspace_report import load_subspaces
from rank_lab.subspace_terminal import render_subspaces, subspace_summary
from rank_lab.terminal import render, summary
from rank_lab.training_record import RECORD_FILE, TrainingRecord

__all__ = ["Choices", "analyze_runs", "file_name", "show_study"]

_CHECKPOINT = re.compile(r"checkpoint-\d+")


@dataclass(frozen=True)
class Choices:
    """What ``analyze`` was asked for, as typed: checked when it is carried out.

    Parameters
    ----------
    name
        Of the run; empty for the folder's.
    method, k, device, noise
        How updates are measured.
    workers
        Processes; 0 for as many as cores where that pays.
    lora_alpha, initial_adapter, split_fused
        See :func:`rank_lab.pairing.plan_updates`.
    base_rounded
        See :class:`rank_lab.planned.Settings`.
    """

    name: str = ""
    method: str = "auto"
    k: int | None = None
    device: str = "cpu"
    noise: str = "rounding"
    workers: int = 0
    lora_alpha: float | None = None
    initial_adapter: str | None = None
    split_fused: bool = False
    base_rounded: bool = False


def analyze_runs(
    tuned: Sequence[str], base: str | None, study: Path, choices: Choices, *, as_json: bool = False
) -> bool:
    """Analyse each run, save each report as soon as it is there, print it.

    Returns
    -------
    bool
        Whether anything that should have been analysed was not.
    """
    options = _options(study, choices)
    if choices.name and len(tuned) > 1:
        raise RankLabError(f"--name {choices.name} with {len(tuned)} runs; name one run at a time or leave it out.")
    original = Checkpoint.open(base) if base is not None else None
    failed, summaries = False, []
    for source in tuned:
        settings = Settings(
            run=choices.name,
            workers=choices.workers,
            lora_alpha=choices.lora_alpha,
            split_fused=choices.split_fused,
            base_rounded=choices.base_rounded,
            initial=choices.initial_adapter,
        )
        used = original or recorded_base(source)
        report = _with_progress(source, used, options, settings)
        if original is None and used is not None:
            report.provenance["base"]["named_by"] = RECORD_FILE
            sys.stderr.write(plain(f"note: {source}: its base is {used.source}, as its {RECORD_FILE} says") + "\n")
        folder = study / f"{file_name(str(report.provenance['settings']['run']))}.rank"
        _refuse_unchanged(source, base, report)
        _refuse_to_replace_another(folder, report)
        report.save(folder)
        failed = failed or bool(report.coverage["failed"].any())
        summaries.append(summary(report) | {"report": str(folder)})
        if not as_json:
            console().print(render(report))
            console().print(plain(f"written: {folder}"))
    if as_json:
        sys.stdout.write(json.dumps(summaries, indent=1) + "\n")
    return failed


def show_study(study: Path, *, modules: bool, as_json: bool) -> None:
    """Print every report of a study, worst coverage first, comparisons, behavioural ranks, its curve, its scores."""
    curve, outcomes, subspaces = curve_of(study), outcomes_of(study), load_subspaces(study)
    behavioural, functional = load_behavioural(study), load_functional(study)
    others = curve is not None or outcomes is not None or subspaces or behavioural or functional
    reports = sorted(
        stored_reports(study, alone=not others),
        key=lambda report: -int(report.coverage["failed"].sum()),
    )
    if as_json:
        found = [summary(report) for report in reports]
        found += [subspace_summary(report) for report in subspaces.values()]
        found += [behavioural_summary(report) for report in behavioural.values()]
        found += [functional_summary(report) for report in functional.values()]
        found += [] if curve is None else [curve_summary(curve)]
        found += [] if outcomes is None else [outcome_summary(outcomes)]
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
        return
    for report in reports:
        console().print(render(report, modules=modules))
    for comparison in subspaces.values():
        console().print(render_subspaces(comparison, modules=modules))
    for truncated in behavioural.values():
        console().print(render_behavioural(truncated, modules=modules))
    for measured in functional.values():
        console().print(render_functional(measured, modules=modules))
    if curve is not None:
        console().print(render_curve(curve))
    if outcomes is not None:
        console().print(render_outcomes(outcomes))
        if reports:
            console().print(_unfair(reports))


def _unfair(reports: Sequence[RankReport]) -> str:
    """What would make a comparison of the runs unfair, as far as their training is recorded."""
    told = [report.provenance.get("training") for report in reports]
    try:
        records = [TrainingRecord(**each) for each in told if each is not None]
    except TypeError:
        return "fairness: a report's record of its training is of another rank_lab; analyse its run again"
    if not records:
        return "fairness: none of the reports knows how its run was trained (training.json of rank-lab finetune)"
    try:
        findings = fairness(records)
    except DataError as error:
        return f"fairness: {error}"
    return "\n".join(plain(line) for line in ("fairness of the comparison:", *render_findings(findings).split("\n")))


def _options(study: Path, choices: Choices) -> MeasurementOptions:
    method, device, noise = choices.method, choices.device, choices.noise
    if method not in METHODS:
        raise RankLabError(f"--method {method}: expected one of {', '.join(METHODS)}.")
    if choices.k is not None and method != "randomized":
        raise RankLabError(f"--k {choices.k} with --method {method}: only randomized computes so many values.")
    if noise not in NOISE_MODES:
        raise RankLabError(f"--noise {noise}: expected one of {', '.join(NOISE_MODES)}.")
    if device != "cpu":
        import torch

        if not device.startswith("cuda") or not torch.cuda.is_available():
            raise RankLabError(f"--device {device}: torch sees no such device here; use cpu.")
    if study.is_file():
        raise RankLabError(f"{study}: is a file; -o names the folder of the study.")
    return MeasurementOptions(method=method, k=choices.k, device=device, noise=noise, cache=study / ".spectra")


def _with_progress(source: str, base: Checkpoint | None, options: MeasurementOptions, settings: Settings) -> RankReport:
    with progress_bar() as bar:
        task = bar.add_task(plain(Path(source).name), total=1000)

        def advance(finished: float, total: float, module: str) -> None:
            done = round(1000 * finished / total) if total else 1000
            bar.update(task, completed=done, description=plain(module)[-48:])

        return analyze_run(source, base, options=options, settings=settings, progress=advance)


def _refuse_unchanged(source: str, base: str | None, report: RankReport) -> None:
    unchanged = len(report.updates) and (report.updates["identical_fraction"] == 1.0).all()
    if base is not None and unchanged and not report.coverage["status"].isin(["vector", "new"]).any():
        raise RankLabError(
            f"{source}: all {len(report.updates)} matrices are identical to those of {base}; "
            "is --base the tuned model itself, or was nothing trained?"
        )


def _refuse_to_replace_another(folder: Path, report: RankReport) -> None:
    try:
        before = read_provenance(folder)["tuned"]
        there = before[0]["source"]
    except (SchemaError, KeyError, IndexError, TypeError):
        return  # none there, or a damaged one, which this makes again
    now = [Path(each["source"]) for each in report.provenance["tuned"]]
    if not any(_is_same(Path(there), each) for each in now) and not _is_all_of(Path(there), now):
        raise RankLabError(f"{folder}: is the report of {there}; give this run another name with --name.")
    if len(now) == 1 < len(before):
        raise RankLabError(
            f"{folder}: is the report of {len(before)} checkpoints, {now[0]} among them; give it alone another name"
            " with --name."
        )


def _is_same(one: Path, other: Path) -> bool:
    return one.name == other.name and not (one.exists() and other.exists() and not one.samefile(other))


def _is_all_of(run: Path, checkpoints: Sequence[Path]) -> bool:
    """Whether these are all checkpoints of a run's folder, at a few steps of which a tracker has looked."""
    if not all(_CHECKPOINT.fullmatch(path.name) and _is_same(run, path.parent) for path in checkpoints):
        return False
    return {path.name for path in checkpoints} >= {path.name for path in run.glob("checkpoint-*")}


def file_name(run: str) -> str:
    """What the folder of a run's report is called: its name without what file systems mind.

    Examples
    --------
    >>> file_name("my run"), file_name("")
    ('my_run', 'run')
    """
    return re.sub(r"[^\w.+-]", "_", run) or "run"
