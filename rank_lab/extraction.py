"""``extract``: from a fine-tuned model, or any adapter, to a LoRA of chosen ranks, checked against the change."""

import json
import math
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rank_lab.budget import RankAllocator
from rank_lab.carried import Part, parts_of
from rank_lab.certified_adapter import extract_modules
from rank_lab.change import vector_change_norm
from rank_lab.checkpoint import Checkpoint
from rank_lab.coverage import Plan
from rank_lab.directions import ModuleSpectrum
from rank_lab.errors import BudgetError, CheckpointError, RankLabError
from rank_lab.extraction_report import EXTRACTED_FILE, Extraction, LeftOut
from rank_lab.key_space import nearest_pairs
from rank_lab.lora_config import task_type
from rank_lab.measurement import Measurement, MeasurementOptions, measure
from rank_lab.plan_file import Promise, StoredPlan
from rank_lab.planned import RunSource, plan_since, recorded_choices, start_of
from rank_lab.provenance import provenance_of
from rank_lab.rank_plan import Allocation, RankPlan
from rank_lab.spec import UpdateSpec, read_update
from rank_lab.update import return_freed_memory

__all__ = ["Progress", "RankChoice", "extract"]

Progress = Callable[[float, str], None]
"""Called with the share of the work that is done and the module that was finished."""


@dataclass(frozen=True)
class RankChoice:
    """How ranks are chosen: exactly one of the first four.

    Parameters
    ----------
    parameters, energy, rank
        See :func:`rank_lab.budget.plan_ranks`.
    plan
        A plan that was made before.
    method, most, above_noise
        See :func:`rank_lab.budget.plan_ranks`; not with a plan.
    """

    parameters: int | None = None
    energy: float | None = None
    rank: int | None = None
    plan: StoredPlan | None = None
    method: Allocation = "greedy"
    most: int | None = None
    above_noise: bool = True

    def __post_init__(self) -> None:
        """Check that there is one."""
        if sum(value is not None for value in (self.parameters, self.energy, self.rank, self.plan)) != 1:
            raise BudgetError("expected one of a budget, an energy, a rank and a plan, and no second.")

    def plan_of(self, spectra: Sequence[ModuleSpectrum]) -> RankPlan:
        """Ranks of these modules."""
        allocator = RankAllocator(spectra, most=self.most, above_noise=self.above_noise)
        return allocator.plan(parameters=self.parameters, energy=self.energy, rank=self.rank, method=self.method)


def extract(
    tuned: Checkpoint | str | Path | RunSource,
    base: Checkpoint | str | Path | None,
    out: str | Path,
    choice: RankChoice,
    *,
    dtype: str = "float32",
    options: MeasurementOptions = MeasurementOptions(),  # noqa: B008 - frozen
    progress: Progress | None = None,
) -> Extraction:
    r"""Write the LoRA that keeps the leading directions of an update, and check it on the disk.

    Parameters
    ----------
    tuned
        Full checkpoint, or an adapter of any kind that rank_lab reads; with settings (alpha of a file that has none,
        the adapter before training ...) as :class:`rank_lab.planned.RunSource`.
    base
        What it was tuned from; plain factors need none.
    out
        New or empty folder: ``adapter_model.safetensors``, ``adapter_config.json``, ``extracted.json``.
    choice
        Ranks, or how to choose them.
    dtype
        Of the stored factors: ``float32``, ``bfloat16`` or ``float16``.
    options
        How spectra are measured; ``noise="off"`` leaves rounding untested.
    progress
        Called as modules are measured, written and checked.

    Returns
    -------
    Extraction
        Errors of each module as measured on what was written, and what of the change is not in it: matrices and
        vectors that a LoRA cannot carry, with their share.

    Raises
    ------
    BudgetError
        If the choice buys nothing, or the plan is of another model.
    CheckpointError
        If ``out`` is there and not empty.
    RankLabError
        If the adapter, read again, does not keep what the spectra promised; nothing is left then.

    Notes
    -----
    One update at a time is in memory, beside the factors of one module. A dense update takes one Gram matrix to
    measure (none with a plan), one or a randomised iteration to factor, and one pass over the files to check.

    Examples
    --------
    >>> import torch
    >>> from safetensors.torch import save_file
    >>> folder = Path(tempfile.mkdtemp())
    >>> weight, change = torch.eye(4), torch.ones(4, 1) @ torch.ones(1, 4)
    >>> save_file({"h.0.q_proj.weight": weight}, folder / "base.safetensors")
    >>> save_file({"h.0.q_proj.weight": weight + change}, folder / "tuned.safetensors")
    >>> made = extract(folder / "tuned.safetensors", folder / "base.safetensors", folder / "lora", RankChoice(rank=1))
    >>> made.modules[0].rank, made.parameters, made.relative_error < 1e-6
    (1, 8, True)
    """
    run, target, base = RunSource.of(tuned), Path(out), None if base is None else _opened(base)
    tuned, settings = _opened(run.source), run.settings
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CheckpointError(f"{target}: is there already; name a new or empty folder for the adapter.")
    start = start_of(tuned, settings)
    plan = plan_since(tuned, base, settings, start)
    parts = parts_of(plan, tuned, base)
    counter = _Counter(parts, choice, progress)
    if choice.plan is None:
        promises, asked = _planned(parts, choice, options, counter)
    else:
        promises, asked = _from_file(parts, choice.plan), dict(choice.plan.asked)
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        folder = staging / "adapter"
        modules = extract_modules(
            parts, promises, folder, dtype=dtype, device=options.device, step=counter.done, config=_about(tuned, base)
        )
        found = Extraction(modules, tuple(_left_out(plan, parts, promises)), dtype, asked)
        about = provenance_of([tuned], base, options, settings={"dtype": dtype} | recorded_choices(settings, [start]))
        content = {"extraction_version": 1} | found.content() | {"provenance": about}
        (folder / EXTRACTED_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        folder.replace(target)  # whole or not at all
    finally:
        shutil.rmtree(staging)
    return found


class _Counter:
    """Progress over the passes."""

    def __init__(self, parts: Sequence[Part], choice: RankChoice, progress: Progress | None) -> None:
        sizes = {part.spec.module: float(part.spec.shape[0]) * part.spec.shape[1] for part in parts}
        self._sizes, self._finished, self._progress = sizes, 0.0, progress
        self._total = sum(sizes.values()) * (3 if choice.plan is None else 2)

    def done(self, module: str) -> None:
        self._finished += self._sizes[module]
        if self._progress is not None:
            self._progress(min(self._finished / self._total, 1.0), module)


def _opened(source: Checkpoint | str | Path) -> Checkpoint:
    return source if isinstance(source, Checkpoint) else Checkpoint.open(source)


def _about(tuned: Checkpoint, base: Checkpoint | None) -> dict[str, Any]:
    config: Mapping[str, Any] = tuned.config or (base.config if base is not None else {})
    named = (tuned.adapter_config or {}).get("base_model_name_or_path")
    about: dict[str, Any] = {"base_model_name_or_path": named if base is None else base.source}
    return about | {
        "task_type": (tuned.adapter_config or {}).get("task_type") or task_type(config.get("architectures"))
    }


def _planned(
    parts: Sequence[Part], choice: RankChoice, options: MeasurementOptions, counter: _Counter
) -> tuple[dict[str, Promise], dict[str, Any]]:
    spectra = []
    for part in parts:
        spectra.append(_spectrum(part, None if part.refusal else measure(part.spec, options)))
        counter.done(part.spec.module)
    return_freed_memory()
    plan = choice.plan_of(spectra)
    promises = {
        row.module: Promise(row.rank, _shape(row.spectrum), row.spectrum.frobenius_norm, row.relative_error, row.reason)
        for row in plan.rows
    }
    if not plan.reached:
        raise BudgetError(
            f"an energy of {plan.target} is out of reach: what may be bought holds {plan.kept_energy:.4g} of it; ask"
            " for less, or take directions below the rounding of the files as well (--with-rounding)."
        )
    asked = {plan.asked: plan.target, "method": plan.method, "most": choice.most, "above_noise": choice.above_noise}
    return promises, asked


def _spectrum(part: Part, measured: Measurement | None) -> ModuleSpectrum:
    spec, reason = part.spec, part.refusal
    if measured is not None and measured.failure:
        reason = measured.failure
    if measured is None or reason:
        return ModuleSpectrum(spec.module, *spec.shape, np.zeros(0), rank_bound=spec.rank_bound, reason=reason)
    noise = measured.noise
    above = math.nan if noise is None else noise.above_rounding.value
    return ModuleSpectrum(
        spec.module, *spec.shape, measured.values, measured.frobenius_norm, spec.rank_bound, measured.floor,
        None if math.isnan(above) else round(above), "" if noise is None else noise.regime,
    )  # fmt: skip


def _shape(spectrum: ModuleSpectrum) -> tuple[int, int]:
    return spectrum.out_features, spectrum.in_features


def _from_file(parts: Sequence[Part], plan: StoredPlan) -> dict[str, Promise]:
    there = {part.spec.module: part.spec for part in parts}
    wanted = {module: promise for module, promise in plan.promises.items() if promise.rank}
    missing = [module for module in wanted if module not in there]
    if missing:
        raise BudgetError(
            f"{len(missing)} modules of the plan are not among the updates; nearest:"
            f" {nearest_pairs(missing, list(there))}. The plan is of another model."
        )
    for module, promise in wanted.items():
        if promise.shape != there[module].shape or promise.rank > there[module].rank_bound:
            raise BudgetError(
                f"{module}: rank {promise.rank} of shape {list(promise.shape)} in the plan, the update has shape"
                f" {list(there[module].shape)} and rank at most {there[module].rank_bound}: the plan is of another"
                " model."
            )
    absent = {
        module: Promise(0, spec.shape, math.nan, math.nan, "not in the plan")
        for module, spec in there.items()
        if module not in plan.promises
    }
    return dict(plan.promises) | absent


def _left_out(plan: Plan, parts: Sequence[Part], promises: Mapping[str, Promise]) -> list[LeftOut]:
    found = []
    for part in parts:
        promise = promises[part.spec.module]
        if part.refusal or not promise.rank:
            reason = part.refusal or promise.reason or "rank 0 in the plan"
            known = part.refusal == "" and not math.isnan(promise.frobenius_norm)
            norm = promise.frobenius_norm if known else _norm(part.spec)
            if norm != 0.0:
                found.append(LeftOut(part.spec.module, reason, norm))
    for vector in plan.vectors:
        try:
            norm = abs(vector.scaling) * vector_change_norm(vector.tuned, vector.base)
        except (RankLabError, OSError):
            norm = math.nan
        if norm != 0.0:
            found.append(LeftOut(vector.tensor, "no matrix: a LoRA changes none of its values", norm))
    rest = [row for row in plan.coverage if row.status == "new" or (row.status == "skipped" and row.failed)]
    return found + [LeftOut(row.tensor, row.reason, math.nan) for row in rest]


def _norm(spec: UpdateSpec) -> float:
    try:
        return read_update(spec).frobenius_norm()
    except (RankLabError, OSError):
        return math.nan
