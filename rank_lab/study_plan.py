"""A plan of ranks over a study that is open: the modules of one run and step, and the budgets worth asking for."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rank_lab.budget import RankAllocator
from rank_lab.directions import ModuleSpectrum
from rank_lab.errors import RankLabError
from rank_lab.lora_config import peft_config, task_type
from rank_lab.plain_file import json_object
from rank_lab.plan_file import plan_content
from rank_lab.rank_plan import RankPlan
from rank_lab.report_spectra import curve_table, module_spectra, tied_modules
from rank_lab.study import ReportEntry, Study

__all__ = [
    "ENERGIES",
    "PlanBasis",
    "StudyModules",
    "budgets_of",
    "first_budget",
    "plan_basis",
    "ranks_of",
    "study_modules",
]

ENERGIES = (*(round(0.5 + 0.005 * step, 3) for step in range(98)), 0.99, 0.995, 0.999)
"""Shares of the energy that a slider offers: 0.5 to 0.985 in steps of half a percent, and three above."""

_START = 0.9  # share of the energy that a slider of budgets stands at first

_EACH = 32
_DIGITS = 2  # of a budget that a slider offers: more are not read from one


@dataclass(frozen=True, eq=False)
class StudyModules:
    """What a plan of one run and step is made over.

    Parameters
    ----------
    spectra
        Of every module.
    provenance
        Of the report.
    report
        Its folder.
    config
        The model's ``config.json`` where that lies in the study; else empty.
    """

    spectra: tuple[ModuleSpectrum, ...]
    provenance: Mapping[str, Any]
    report: Path
    config: Mapping[str, Any]

    @property
    def base(self) -> str:
        """What was tuned; empty where the report names none."""
        base = self.provenance.get("base")
        return str(base.get("source", "")) if isinstance(base, Mapping) else ""

    @property
    def task(self) -> str | None:
        """PEFT's name of the model's task, as far as it is known."""
        return task_type(self.config.get("architectures"))

    def peft_config(self, plan: RankPlan) -> dict[str, Any]:
        """The ``adapter_config.json`` of a plan over these modules."""
        return peft_config(plan, base=self.base, task=self.task)

    def plan_file(self, plan: RankPlan, *, most: int | None, above_noise: bool, command: str) -> dict[str, Any]:
        """What ``rank-lab plan`` writes, for ``rank-lab extract --plan``.

        Parameters
        ----------
        plan
            Over these modules.
        most, above_noise
            What it was made with.
        command
            That makes it again.
        """
        first = self.spectra[0]
        origin = {"report": str(self.report), "run": first.run, "step": first.step, "command": command}
        choices = {"most": most, "above_noise": above_noise}
        about = {**origin, "analysis": dict(self.provenance)}
        return plan_content(plan, choices, about, base=self.base, task=self.task)


@dataclass(frozen=True, eq=False)
class PlanBasis:
    """All that does not change while budgets are tried.

    Parameters
    ----------
    modules
        Of one run and step.
    allocator
        Of their directions, sorted.
    curve
        Kept energy against parameters, for each way of choosing ranks.
    budgets, first
        What a slider offers, and where it stands at first.
    ranks
        For all modules, that make a difference.
    most, above_noise
        See :func:`rank_lab.budget.plan_ranks`.
    """

    modules: StudyModules
    allocator: RankAllocator
    curve: pd.DataFrame
    budgets: tuple[int, ...]
    first: int
    ranks: tuple[int, ...]
    most: int | None
    above_noise: bool


def plan_basis(modules: StudyModules, *, most: int | None = None, above_noise: bool = True) -> PlanBasis:
    """Sort the directions of modules, once for all budgets.

    Parameters
    ----------
    modules
        Of one run and step.
    most, above_noise
        See :func:`rank_lab.budget.plan_ranks`.

    Raises
    ------
    BudgetError
        If there is nothing to give ranks to.
    """
    allocator = RankAllocator(modules.spectra, most=most, above_noise=above_noise)
    budgets = budgets_of(allocator)
    first = first_budget(allocator, budgets)
    ranks = ranks_of(modules.spectra, most=most, above_noise=above_noise)
    return PlanBasis(modules, allocator, curve_table(allocator.curve()), budgets, first, ranks, most, above_noise)


def study_modules(study: Study, run: str, *, step: int | None, delta: str = "cumulative") -> StudyModules:
    """Spectra of one run and step as a plan needs them.

    Parameters
    ----------
    study
        That is open; nothing outside of its folder is read.
    run, step, delta
        Which rows.

    Raises
    ------
    SchemaError
        If their spectra cannot be read.
    BudgetError
        If there are no such rows.
    """
    values = study.all_values(run, step=step, delta=delta)
    entry = next(each for each in study.reports() if each.run == run)
    spectra = pd.DataFrame({"module": list(values), "values": list(values.values())})
    spectra = spectra.assign(run=run, step=pd.array([step] * len(spectra), dtype="Int64"), delta=delta)
    config = _config(study.folder, entry)
    tied = tied_modules(entry.coverage, tie_word_embeddings=config.get("tie_word_embeddings") is True)
    found = module_spectra(entry.updates, spectra, run=run, step=step, delta=delta, tied=tied)
    return StudyModules(found, entry.provenance, entry.folder, config)


def budgets_of(allocator: RankAllocator, count: int = 100) -> tuple[int, ...]:
    """Numbers of parameters from the cheapest direction to all of them, in equal ratios, round where there is room.

    Parameters
    ----------
    allocator
        Of the modules.
    count
        The most that are given.

    Examples
    --------
    >>> modules = [ModuleSpectrum("q", 40, 60, np.array([3.0, 2.0, 1.0])), ModuleSpectrum("v", 9, 2, np.array([1.0]))]
    >>> budgets_of(RankAllocator(modules), 5)
    (11, 25, 58, 130, 311)
    """
    least, most = allocator.cheapest, allocator.all_parameters
    grid = np.geomspace(least, most, count).tolist()
    between = {_rounded(each) for each in grid[1:-1]}
    return tuple(sorted({least, most, *(each for each in between if least < each < most)}))


def first_budget(allocator: RankAllocator, budgets: Sequence[int]) -> int:
    """Where a slider of budgets stands at first: the least one that keeps 90 % of the energy, or else the last.

    Parameters
    ----------
    allocator
        Of the modules.
    budgets
        Of :func:`budgets_of`.

    Examples
    --------
    >>> modules = [ModuleSpectrum("q", 40, 60, np.array([3.0, 2.0, 1.0]))]
    >>> first_budget(RankAllocator(modules), (100, 150, 200, 300))
    200
    """
    needed = allocator.plan(energy=_START).parameters
    return next((each for each in budgets if each >= needed), budgets[-1])


def ranks_of(
    modules: Sequence[ModuleSpectrum], *, most: int | None = None, above_noise: bool = True
) -> tuple[int, ...]:
    """Ranks for all modules that make a difference: every one up to 32, then in steps of an eighth.

    Parameters
    ----------
    modules
        Of one run and step.
    most, above_noise
        See :func:`rank_lab.budget.plan_ranks`.

    Examples
    --------
    >>> ranks_of([ModuleSpectrum("q", 40, 60, np.array([3.0, 2.0, 1.0]))])
    (1, 2, 3)
    """
    largest = max((module.limit(most=most, above_noise=above_noise)[0] for module in modules), default=0)
    found = list(range(1, min(largest, _EACH) + 1))
    while found and found[-1] < largest:
        found.append(min(found[-1] + max(found[-1] // 8, 1), largest))
    return tuple(found)


def _rounded(value: float) -> int:
    digits = _DIGITS - 1 - math.floor(math.log10(value)) if value >= 10**_DIGITS else 0
    return int(round(value, digits))


def _config(study: Path, entry: ReportEntry) -> Mapping[str, Any]:
    """The model's ``config.json``, if it lies in the study."""
    inside = study.resolve()
    sides = [*reversed(entry.provenance.get("tuned") or []), entry.provenance.get("base")]
    for side in sides:
        source = Path(str(side.get("source", ""))) if isinstance(side, Mapping) else None
        if source is None or not source.is_absolute() or not source.resolve().is_relative_to(inside):
            continue
        file = source / "config.json"
        if not file.resolve().is_relative_to(inside):
            continue
        try:
            found = json_object(file)
        except RankLabError:
            continue
        if found:
            return found
    return {}
