"""``analyze``: streams one update at a time through the arrow, from checkpoints to a report."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rank_lab.checkpoint import Checkpoint
from rank_lab.coverage import Plan
from rank_lab.engine import run_largest_first
from rank_lab.errors import PairingError
from rank_lab.measurement import Measurement, MeasurementOptions, measure
from rank_lab.pairing import plan_step
from rank_lab.planned import Settings, plan_since, recorded_choices, start_of, training_records
from rank_lab.provenance import provenance_of
from rank_lab.report import RankReport
from rank_lab.spec import UpdateSpec
from rank_lab.tables import Point, frames, records
from rank_lab.trained_with import trained_with
from rank_lab.training_record import TrainingRecord
from rank_lab.trajectory import name_of_run, open_run
from rank_lab.update import return_freed_memory

__all__ = ["Progress", "analyze"]

Progress = Callable[[float, float, str], None]
"""Called with work done, work in all (in multiply-adds) and the module that was finished."""


def analyze(
    tuned: Checkpoint | Sequence[Checkpoint] | str | Path,
    base: Checkpoint | str | Path | None = None,
    *,
    options: MeasurementOptions = MeasurementOptions(),  # noqa: B008 - frozen
    settings: Settings = Settings(),  # noqa: B008 - frozen
    progress: Progress | None = None,
) -> RankReport:
    """Spectra and ranks of every update between a base and what fine-tuning made of it.

    Parameters
    ----------
    tuned
        Checkpoint, path or hub id; a trainer's folder of ``checkpoint-N`` or a
        sequence of checkpoints is a trajectory, which gives for each step the
        cumulative change and the change since the step before.
    base
        What it was tuned from; LoRA factors need none.
    options
        How updates are measured, and where measured ones are kept.
    settings
        Name, workers, alpha.
    progress
        Called as updates are finished.

    Returns
    -------
    RankReport
        Rows of updates that could not be measured carry the reason as warning.

    Raises
    ------
    RankLabError
        If nothing can be compared: see :func:`rank_lab.pairing.plan_updates`.

    Examples
    --------
    >>> import tempfile, torch
    >>> from safetensors.torch import save_file
    >>> folder = Path(tempfile.mkdtemp())
    >>> weight = torch.eye(4)
    >>> save_file({"h.0.q_proj.weight": weight}, folder / "base.safetensors")
    >>> save_file({"h.0.q_proj.weight": weight + torch.ones(4, 4)}, folder / "tuned.safetensors")
    >>> report = analyze(folder / "tuned.safetensors", folder / "base.safetensors")
    >>> int(report.updates.loc[0, "numerical_rank"]), round(float(report.updates.loc[0, "spectral_norm"]), 9)
    (1, 4.0)
    """
    checkpoints = _opened(tuned)
    original = _one(base)
    training, unread = training_records(checkpoints)
    initial = {each.folder: start_of(each, settings, training) for each in checkpoints}
    steps = _steps(checkpoints, original, settings, initial, training)
    specs = list(dict.fromkeys(spec for step in steps for _, found in step.deltas for spec in found))
    measured = dict(zip(specs, _measured(specs, options, settings.workers, progress), strict=True))
    return_freed_memory()  # what was measured with is not needed to write it down
    name = settings.run or name_of_run(tuned, checkpoints)
    tables = frames(records(steps, measured, name))
    chosen = {"run": name} | recorded_choices(settings, initial.values())
    about = provenance_of(checkpoints, original, options, settings=chosen)
    record = next(iter(training.values()), None)
    about |= {"training": None if record is None else asdict(record)} | ({"training_unread": unread} if unread else {})
    return RankReport(**tables, provenance=about)


def _one(source: Checkpoint | str | Path | None) -> Checkpoint | None:
    return Checkpoint.open(source) if isinstance(source, str | Path) else source


def _opened(tuned: Checkpoint | Sequence[Checkpoint] | str | Path) -> tuple[Checkpoint, ...]:
    if isinstance(tuned, str | Path):
        return open_run(tuned)
    found = (tuned,) if isinstance(tuned, Checkpoint) else tuple(tuned)
    if not found:
        raise PairingError("no checkpoint to analyse was given.")
    if len(found) > 1 and len({checkpoint.step for checkpoint in found}) < len(found):
        raise PairingError(
            "the checkpoints of a trajectory must say their steps, each another; analyse them one by one instead."
        )
    return found


def _steps(
    checkpoints: Sequence[Checkpoint],
    base: Checkpoint | None,
    settings: Settings,
    initial: Mapping[Path, Checkpoint | None],
    training: Mapping[Path, TrainingRecord],
) -> list[Point]:
    steps: list[Point] = []
    before: Plan | None = None
    for checkpoint in checkpoints:
        plan = plan_since(checkpoint, base, settings, initial[checkpoint.folder])
        deltas: list[tuple[str, tuple[UpdateSpec, ...]]] = [("cumulative", plan.specs)]
        if len(checkpoints) > 1:
            deltas.append(("step", plan_step(plan, before)))
        trained = trained_with(plan.method, training.get(checkpoint.folder))
        steps.append(Point(checkpoint.step, plan, tuple(deltas), trained))
        before = plan
    return steps


def _measured(
    specs: Sequence[UpdateSpec], options: MeasurementOptions, workers: int, progress: Progress | None
) -> list[Measurement]:
    def done(finished: float, total: float, index: int) -> None:
        if progress is not None:
            progress(finished, total, specs[index].module)

    count = 1 if options.device != "cpu" else workers
    work = [_work(spec) for spec in specs]
    return run_largest_first(_Measure(options), specs, work, workers=count, progress=done)


@dataclass(frozen=True)
class _Measure:
    """``measure`` with its options, in a form that travels to workers."""

    options: MeasurementOptions

    def __call__(self, spec: UpdateSpec) -> Measurement:
        return measure(spec, self.options)


def _work(spec: UpdateSpec) -> float:
    out, across = spec.shape
    small = spec.rank_bound
    if spec.factored:
        return float((out + across) * small**2 + small**3)
    return float(out * across * small) / 2 + 4 * float(small) ** 3
