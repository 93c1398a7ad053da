"""What ``rank-lab plan`` and ``rank-lab extract`` do: read, choose ranks, write, print."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rank_lab.budget import BudgetPoint, RankAllocator
from rank_lab.budget_terminal import render_extraction, render_plan
from rank_lab.checkpoint import Checkpoint
from rank_lab.console import console, progress_bar
from rank_lab.durable import write_whole
from rank_lab.errors import BudgetError, RankLabError
from rank_lab.extraction import RankChoice, extract
from rank_lab.lora_config import task_type
from rank_lab.measurement import MeasurementOptions
from rank_lab.plain_file import json_object
from rank_lab.plain_text import plain
from rank_lab.plan_file import plan_content, read_plan
from rank_lab.planned import RunSource, Settings
from rank_lab.rank_plan import ALLOCATIONS, Allocation
from rank_lab.recorded_base import recorded_base
from rank_lab.report import RankReport, read_provenance, reports_of
from rank_lab.report_spectra import module_spectra, tied_modules
from rank_lab.trajectory import open_run

__all__ = ["RankOptions", "extract_and_print", "plan_and_print"]


@dataclass(frozen=True)
class RankOptions:
    """How ranks were asked for, as typed: checked when they are chosen.

    Parameters
    ----------
    budget, energy, rank, plan
        One of them; a rank or a plan only for ``extract``.
    method, most, with_rounding
        See :func:`rank_lab.budget.plan_ranks`.
    dtype, device
        See :func:`rank_lab.extraction.extract`.
    read
        How the files of ``extract`` are read.
    """

    budget: int | None = None
    energy: float | None = None
    rank: int | None = None
    plan: Path | None = None
    method: str = "greedy"
    most: int | None = None
    with_rounding: bool = False
    dtype: str = "float32"
    device: str = "cpu"
    read: Settings = field(default_factory=Settings)

    def choice(self) -> RankChoice:
        """The same, checked.

        Raises
        ------
        BudgetError
            If not exactly one of the four is given, or there is no such method, or options go with a plan.
        """
        given = {"--budget": self.budget, "--energy": self.energy, "--rank": self.rank, "--plan": self.plan}
        named = [name for name, value in given.items() if value is not None]
        if len(named) != 1:
            raise BudgetError(
                f"{' and '.join(named) or 'no budget'} given: ranks are chosen by one of --budget N (parameters),"
                " --energy P (a share of the squared norm) and, for extract, --rank R or --plan FILE."
            )
        if self.plan is not None and (self.method != "greedy" or self.most is not None or self.with_rounding):
            raise BudgetError("--plan with --method, --most or --with-rounding: the plan has its ranks already.")
        if self.rank is not None and self.method not in {"greedy", "uniform"}:
            raise BudgetError(f"--rank with --method {self.method}: one rank for all is 'uniform'.")
        return RankChoice(
            self.budget, self.energy, self.rank, None if self.plan is None else read_plan(self.plan),
            _allocation(self.method), self.most, not self.with_rounding,
        )  # fmt: skip


def plan_and_print(
    study: Path,
    options: RankOptions,
    *,
    run: str | None,
    step: int | None,
    out: Path | None,
    modules: bool,
    as_json: bool,
) -> bool:
    """Choose ranks from a report and write ``NAME.plan.json``.

    Returns
    -------
    bool
        Whether an energy that was asked for is out of reach.
    """
    choice = options.choice()
    folder, report = _report(study, run)
    about = report.provenance
    _refuse_parts(folder, report)
    config = _config_of(about)
    tied = tied_modules(report.coverage, tie_word_embeddings=config.get("tie_word_embeddings") is True)
    spectra = module_spectra(report.updates, report.spectra, run=run, step=step, tied=tied)
    allocator = RankAllocator(spectra, most=choice.most, above_noise=choice.above_noise)
    plan = allocator.plan(parameters=choice.parameters, energy=choice.energy, method=choice.method)
    content = plan_content(
        plan,
        {"most": choice.most, "above_noise": choice.above_noise},
        {
            "report": str(folder),
            "run": spectra[0].run,
            "step": spectra[0].step,
            "command": [*sys.argv],
            "analysis": about,
        },
        base=_base_of(about),
        task=task_type(config.get("architectures")),
    )
    file = _plan_file(out, folder)
    write_whole(file, json.dumps(content, indent=1) + "\n")
    if as_json:
        sys.stdout.write(json.dumps(content | {"written": str(file)}, indent=1) + "\n")
    else:
        others = [point for point in allocator.curve([plan.parameters]) if _else(point, plan.method)]
        console().print(render_plan(plan, others, modules=modules))
        console().print(f"written: {plain(str(file))}")
    return not plan.reached


def extract_and_print(
    tuned: str, base: str | None, out: Path, options: RankOptions, *, modules: bool, as_json: bool
) -> None:
    """Write an adapter, check it, and say what came of it."""
    choice = options.choice()
    measuring = MeasurementOptions(device=options.device, noise="off" if options.with_rounding else "rounding")
    original = Checkpoint.open(base) if base is not None else recorded_base(tuned)
    with progress_bar() as bar:
        task = bar.add_task(plain(Path(tuned).name), total=1.0)

        def advance(share: float, module: str) -> None:
            bar.update(task, completed=share, description=plain(module)[-48:])

        run = RunSource(_last(tuned), options.read)
        made = extract(run, original, out, choice, dtype=options.dtype, options=measuring, progress=advance)
    if as_json:
        sys.stdout.write(json.dumps(made.content() | {"written": str(out)}, indent=1) + "\n")
        return
    console().print(render_extraction(made, modules=modules))
    console().print(f"written: {plain(str(out))}")


def _last(tuned: str) -> Checkpoint:
    checkpoints = open_run(tuned)
    if len(checkpoints) > 1:
        sys.stderr.write(
            plain(f"note: {tuned}: the last of {len(checkpoints)} checkpoints, {checkpoints[-1].source}") + "\n"
        )
    return checkpoints[-1]


def _allocation(method: str) -> Allocation:
    found = next((each for each in ALLOCATIONS if each == method), None)
    if found is None:
        raise BudgetError(f"--method {method}: expected one of {', '.join(ALLOCATIONS)}.")
    return found


def _else(point: BudgetPoint, method: str) -> bool:
    return point.method != method and point.parameters > 0


def _report(study: Path, run: str | None) -> tuple[Path, RankReport]:
    folders = {folder: str(read_provenance(folder)["settings"]["run"]) for folder in reports_of(study)}
    names = ", ".join(sorted(folders.values()))
    chosen = [folder for folder, name in folders.items() if run is None or name == run]
    if len(chosen) != 1:
        wanted = "which run" if run is None else f"run {run!r}"
        raise BudgetError(f"{study}: {wanted}? Its reports are of {plain(names, limit=400)}; name one with --run.")
    return chosen[0], RankReport.load(chosen[0])


def _refuse_parts(folder: Path, report: RankReport) -> None:
    if not report.provenance["settings"].get("split_fused"):
        return
    fused = report.coverage.loc[report.coverage["reason"].str.startswith("fused: ", na=False), "module"]
    if len(fused):
        raise BudgetError(
            plain(
                f"{folder}: was analysed with --split-fused, and a LoRA cannot be put on parts of {fused.iloc[0]}:"
                " analyze the run again without it."
            )
        )


def _config_of(provenance: Mapping[str, Any]) -> Mapping[str, Any]:
    """The model's ``config.json``, where what was analysed is still there."""
    for side in (provenance["tuned"][-1], provenance["base"]):
        source = Path(side["source"]).expanduser() if side else None
        try:
            found = json_object(source / "config.json") if source is not None and source.is_dir() else None
        except RankLabError:
            found = None
        if found:
            return found
    return {}


def _base_of(provenance: Mapping[str, Any]) -> str:
    base = provenance["base"]
    return str(base["source"]) if base else ""


def _plan_file(out: Path | None, report: Path) -> Path:
    name = f"{report.name.removesuffix('.rank')}.plan.json"
    if out is None:
        return report.parent / name
    if out.suffix == ".json" and not out.is_dir():
        out.parent.mkdir(parents=True, exist_ok=True)
        return out
    out.mkdir(parents=True, exist_ok=True)
    return out / name
