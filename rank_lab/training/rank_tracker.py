"""Ranks along a training: what every matrix has changed, since the base and since the last point, as it happens."""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from rank_lab.change import WeightNorms
from rank_lab.checkpoint import Checkpoint
from rank_lab.errors import RankLabError
from rank_lab.measurement import MeasurementOptions
from rank_lab.noise import NoiseMode
from rank_lab.provenance import provenance_of
from rank_lab.schema import WARNING_SEPARATOR
from rank_lab.training.last_point import LAST_FILE, LastPoint, keep_beside, kept_file, restore
from rank_lab.training.live import inner_model, is_adapted, live_checkpoint, with_copies
from rank_lab.training.live_measuring import best_device
from rank_lab.training.point_journal import PointJournal
from rank_lab.training.step_cost import CountTokens, counted_weights, rates_for
from rank_lab.training.tracked import (
    Tracked,
    largest_rate,
    optimizer_name,
    refuse_spread,
    told,
    tracked,
    trained_names,
)
from rank_lab.training.tracking_points import (
    CPU,
    PointCost,
    Rates,
    log_spaced,
    point_seconds,
    points_within,
    step_seconds,
)
from rank_lab.training_record import TrainingRecord

__all__ = ["RankTracker", "TrackerSettings"]

_LOG = logging.getLogger(__name__)
_ONCE_SECONDS = 0.1  # reading headers, writing the report


@dataclass(frozen=True)
class TrackerSettings:
    """How a training is tracked.

    Parameters
    ----------
    points
        Optimizer steps to look at; None for log-spaced ones, so few that they cost at most ``share`` by a rule
        that knows sizes alone (:mod:`rank_lab.training.tracking_points`), with the tokens of the first step, so
        that a training repeated has the same points. At least one, the last step, at most 24.
    share
        Of the training's time.
    since_last_point
        Whether the change since the last point is measured, too: for a model that is trained itself, its
        weights are then kept in a file, written anew at each point.
    noise
        See :func:`rank_lab.noise.noise_of`.
    device
        ``"cpu"`` or ``"cuda"``; empty for the weights' own where that computes in float64 at full speed.
    record
        How the run is trained, for the names of method and optimizer; default what the Trainer says.
    """

    points: Sequence[int] | None = None
    share: float = 0.02
    since_last_point: bool = True
    noise: NoiseMode = "rounding"
    device: str = ""
    record: TrainingRecord | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be carried out."""
        if self.points is not None and (not self.points or min(self.points) < 1):
            raise RankLabError(f"points {list(self.points)}: expected optimizer steps of 1 or more.")
        if not 0.0 < self.share <= 1.0:
            raise RankLabError(f"share {self.share}: expected a part of the training's time, above 0 and at most 1.")


@dataclass
class _Session:
    """One call of ``train()``: what is tracked, where it goes, and when it is looked at next."""

    tracked: Tracked
    journal: PointJournal
    options: MeasurementOptions
    output: Path
    total: int
    tokens: CountTokens | None = None
    rates: Rates = CPU
    norms: dict[str, WeightNorms] = field(default_factory=dict)
    points: tuple[int, ...] = ()
    last: LastPoint | None = None
    lost: str = ""
    began: float = field(default_factory=time.perf_counter)
    spent: float = 0.0
    unwritten: bool = True


class RankTracker(TrainerCallback):  # type: ignore[misc]
    """Follows the ranks of what any Trainer of transformers trains, and writes them as a report.

    At a few steps, log-spaced by default, every matrix that is trained is measured as ``analyze`` would
    measure a checkpoint of that step: adapters from their factors with their scaling and gates, a model's
    own weights against the base, other adapters of PEFT merged layer by layer against the base's files. A
    point is on the disk before training goes on; a run that is killed and resumed goes on with the points
    up to its checkpoint. A method that changes no weight is reported as such and costs nothing.

    Parameters
    ----------
    study
        Folder in which ``NAME.rank`` is written.
    name
        Of the run.
    base
        What is tuned, as path, hub id or checkpoint, from whose files the weights are read. Without it a
        model that is trained itself is copied to the CPU before training (as many bytes as what is trained);
        factors need none, but then norms relative to the weights are missing.
    settings
        Points, share of time, noise.

    Raises
    ------
    RankLabError
        At the start of training, if weights are spread over processes (FSDP, ZeRO-3), or a run is resumed
        without its base.
    SchemaError
        If ``NAME.rank`` is the report of something else.

    Examples
    --------
    >>> tracker = RankTracker("study", "run", settings=TrackerSettings(points=[1, 10, 100]))
    >>> tracker.statement
    ''
    """

    def __init__(
        self,
        study: Path | str,
        name: str,
        *,
        base: Checkpoint | Path | str | None = None,
        settings: TrackerSettings = TrackerSettings(),
    ) -> None:
        self.folder = Path(study) / f"{name}.rank"
        self.name = name
        self.settings = settings
        self.statement = ""
        """At which steps ranks are looked at and why, once that is decided; or why none are."""
        self.cost: PointCost | None = None
        """What tracking is expected to cost, once a step was seen where points are not chosen."""
        self._base = Checkpoint.open(base) if isinstance(base, Path | str) else base
        self._copied: Checkpoint | None = None
        self._copied_bytes = 0
        self._session: _Session | None = None

    def on_init_end(self, _args: Any, state: Any, _control: Any, **kwargs: Any) -> None:
        """See the model before a resumed run loads its checkpoint, if there are no files of its base."""
        model = inner_model(kwargs["model"])
        if self._base is None and state.is_world_process_zero and not is_adapted(model):
            self._copy(model)

    def on_train_begin(self, args: Any, state: Any, _control: Any, **kwargs: Any) -> None:
        """Plan what is measured, or say why nothing is."""
        self._session = None
        if not state.is_world_process_zero:
            return
        began = time.perf_counter()
        model, step = inner_model(kwargs["model"]), int(state.global_step)
        refuse_spread(model, args)
        if self._base is None and self._copied is None and not step and not is_adapted(model):
            self._copy(model)
        base, output = self._base or self._copied, Path(args.output_dir)
        what = tracked(model, base, step=step, output=output, record=self.settings.record)
        optimizer = kwargs.get("optimizer")
        what = told(what, self.settings.record, optimizer_name(args, optimizer), largest_rate(optimizer))
        device = self.settings.device or best_device(next(model.parameters()).device)
        options = MeasurementOptions(device=device, noise=self.settings.noise)
        journal = PointJournal(self.folder)
        session = _Session(what, journal, options, output, int(state.max_steps), began=began)
        notes = journal.begin(self._head(what, args), step=step)
        self._session = session
        if what.reason:
            self._leave(session)
        else:
            self._go_on(session, step, notes, model, args)
        session.spent += time.perf_counter() - began

    def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Measure, if it is time for that."""
        session = self._session
        if session is None or session.tracked.reason:
            return
        if session.tokens is not None:
            session.tokens.stop()
            self._decide(session, session.tokens.count)
            session.tokens = None
        if int(state.global_step) in session.points:
            self._measure(session, int(state.global_step))

    def on_save(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Write the report if a point is new, and keep beside the checkpoint what a run resumed there needs."""
        session = self._session
        if session is None:
            return
        begun = time.perf_counter()
        folder = session.output / f"checkpoint-{state.global_step}"
        if session.last is not None and folder.is_dir() and session.last.step < int(state.global_step):
            keep_beside(self.folder / LAST_FILE, folder)
        session.spent += time.perf_counter() - begun
        if session.unwritten:
            self._write(session)

    def on_train_end(self, args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Measure where training ended, if it ended early, and write the report."""
        session = self._session
        if session is None:
            return
        if session.tokens is not None:
            session.tokens.stop()
        step = int(state.global_step)
        ended_early = self.settings.points is None and session.points and step > max(session.journal.steps, default=0)
        if ended_early and not session.tracked.reason and not args.load_best_model_at_end:
            self._measure(session, step)
        self._write(session)
        self._session = None
        (self.folder / LAST_FILE).unlink(missing_ok=True)

    def _copy(self, model: Any) -> None:
        live = live_checkpoint(model, self.name)
        trained = trained_names(model)
        self._copied = with_copies(live, trained)
        self._copied_bytes = sum(
            live[name].elements * live[name].torch_dtype.itemsize for name in trained & live.tensors.keys()
        )
        _LOG.info("%s: no files of the base were given: %d bytes of weights are copied", self.name, self._copied_bytes)

    def _head(self, what: Tracked, args: Any) -> dict[str, Any]:
        beside, base = what.trained_with, self._base
        return {
            "run": self.name,
            "method": beside.method,
            "optimizer": beside.optimizer,
            "learning_rate": None if math.isnan(beside.learning_rate) else beside.learning_rate,
            "seed": int(args.seed),
            "base": None if base is None else base.source,
        }

    def _leave(self, session: _Session) -> None:
        """Record why nothing is measured."""
        self._say(f"{self.name}: ranks are not tracked: {session.tracked.reason}", logging.WARNING)
        if not session.journal.steps:
            session.journal.append(0, session.tracked.rows_without(self.name, 0), seconds=0.0)

    def _go_on(self, session: _Session, step: int, notes: Mapping[str, Any], model: Any, args: Any) -> None:
        """Take up the last point, and decide at which steps to look, or begin to count what a step works through."""
        session.last, session.lost = self._last(session, step)
        session.rates = rates_for(model, args)
        if self.settings.points is not None:
            session.points = tuple(sorted({*self.settings.points}))
            self._say(f"{self.name}: ranks at the {len(session.points)} steps that were chosen")
        elif notes.get("steps_planned") == session.total:
            session.points = tuple(notes["points"])
            self._say(str(notes["why"]))
        else:
            session.tokens = CountTokens(model)

    def _last(self, session: _Session, step: int) -> tuple[LastPoint | None, str]:
        """The weights at the last point before this step; from where the change is told instead if they are gone."""
        done = session.journal.steps
        if not self.settings.since_last_point or not done:
            return None, ""
        for file in (kept_file(session.output / f"checkpoint-{step}"), self.folder / LAST_FILE):
            if file.is_file() and LastPoint.read(file).step == done[-1]:
                if file != self.folder / LAST_FILE:
                    restore(file, self.folder / LAST_FILE)
                return LastPoint.read(self.folder / LAST_FILE), ""
        lost = "" if done[-1] == step else f"since step {step}, not {done[-1]}: training was resumed there"
        live, _ = session.tracked.now(step)
        return LastPoint.write(self.folder / LAST_FILE, step, live, session.tracked.kept_names(live)), lost

    def _decide(self, session: _Session, tokens: int) -> None:
        """Choose log-spaced points whose cost is within the share."""
        weights, trained = counted_weights(session.tracked.model)
        deltas = 2 if self.settings.since_last_point else 1
        point = point_seconds(session.tracked.plan.specs, session.rates, deltas=deltas)
        cost = PointCost(step_seconds(weights, tokens, trained, session.rates), point, _ONCE_SECONDS + point / deltas)
        self.cost = cost
        count = points_within(session.total, cost, self.settings.share)
        session.points = log_spaced(session.total, count)
        why = _why(self.name, session.points, session.total, cost, self.settings.share)
        session.journal.note({"points": list(session.points), "steps_planned": session.total, "why": why})
        self._say(why)

    def _measure(self, session: _Session, step: int) -> None:
        _wait_for_device(session.tracked.model)
        begun = time.perf_counter()
        session.norms = session.norms or session.tracked.norms()
        live, plan = session.tracked.now(step)
        rows = session.tracked.rows(
            step, plan, session.last, session.options, session.norms,
            run=self.name, steps_too=self.settings.since_last_point,
        )  # fmt: skip
        for row in rows["updates"]:
            if session.lost and row["delta"] == "step":
                row["warning"] = WARNING_SEPARATOR.join(text for text in (row["warning"], session.lost) if text)
        if self.settings.since_last_point:
            names = session.tracked.kept_names(live)
            session.last, session.lost = LastPoint.write(self.folder / LAST_FILE, step, live, names), ""
        seconds = time.perf_counter() - begun
        session.journal.append(step, rows, seconds=seconds)
        session.unwritten = True
        session.spent += time.perf_counter() - begun

    def _write(self, session: _Session) -> None:
        if not session.journal.steps:
            return
        begun = time.perf_counter()
        base = self._base
        start = session.tracked.initial
        kept = {} if start is None else {"initial": start.source, "initial_kept_by_training": True}
        about = provenance_of([], base, session.options, settings={"run": self.name} | kept)
        if base is None and self._copied is not None:
            about["base"] = {"source": self._copied.source}
        record = self.settings.record
        elapsed, steps = begun - session.began, session.journal.steps
        about |= {
            "tuned": [{"source": str(session.output), "step": max(steps, default=None)}],
            "training": None if record is None else asdict(record),
            "tracking": {
                "points": list(steps),
                "why": self.statement,
                "copied_bytes": self._copied_bytes,
                "seconds": session.spent,
                "training_seconds": elapsed,
                "share": session.spent / elapsed if elapsed > 0 else None,
            },
        }
        session.journal.report(about).save(self.folder)
        session.unwritten = False
        session.spent += time.perf_counter() - begun

    def _say(self, statement: str, level: int = logging.INFO) -> None:
        self.statement = statement
        _LOG.log(level, statement)


def _wait_for_device(model: Any) -> None:
    """Let a GPU finish what training gave it, so that its time is not taken for tracking's."""
    device = next(model.parameters()).device
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _why(name: str, points: Sequence[int], total: int, cost: PointCost, share: float) -> str:
    alone = (cost.once + max(len(points), 1) * cost.point) / (total * cost.step)
    if not points:
        return (
            f"{name}: ranks are not followed: one look alone is expected to take {alone:.1%} of so short a training,"
            f" more than {share:.1%}; 'rank-lab analyze' measures its checkpoints, or name the steps to look at"
        )
    return (
        f"{name}: ranks at {len(points)} of {total} steps ({', '.join(map(str, points))}); a point is expected to take"
        f" as long as {cost.point / cost.step:.2g} steps, all {alone:.1%} of the training"
    )
