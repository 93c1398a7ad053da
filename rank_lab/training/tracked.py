"""What is tracked of a model in training: which updates, against what, and why perhaps none."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rank_lab.change import WeightNorms
from rank_lab.checkpoint import Checkpoint
from rank_lab.coverage import CoverageRow, Plan
from rank_lab.errors import RankLabError
from rank_lab.kept_start import kept_start
from rank_lab.measurement import MeasurementOptions
from rank_lab.pairing import plan_step, plan_updates
from rank_lab.spec import UpdateSpec, since
from rank_lab.tables import Point, Records, records
from rank_lab.trained_with import TrainedWith, sign_like_warning, trained_with
from rank_lab.training.last_point import LastPoint, earlier_specs
from rank_lab.training.live import is_adapted, live_checkpoint, only_trained, with_copies
from rank_lab.training.live_measuring import measured_live, norms_of_weights
from rank_lab.training_record import TrainingRecord

__all__ = ["Tracked", "largest_rate", "optimizer_name", "refuse_spread", "told", "tracked", "trained_names"]

_BY_ANALYZE = "analyze its checkpoints instead"


@dataclass(frozen=True)
class Tracked:
    """A model in training, and what its updates are measured against.

    Parameters
    ----------
    model
        Without torch's wrappers.
    base
        Files, or the copy from before training; None for factors without it.
    trained
        Names of the parameters that are trained, of a model without adapter.
    plan
        Of the start.
    trained_with
        What stands beside every row.
    reason
        Why nothing is measured; empty if something is.
    initial
        The adapter before training, where its factors start from a part of the base and the training kept it.
    """

    model: Any
    base: Checkpoint | None
    trained: frozenset[str]
    plan: Plan
    trained_with: TrainedWith
    reason: str = ""
    initial: Checkpoint | None = None

    @property
    def adapted(self) -> bool:
        """Whether an adapter is trained."""
        return is_adapted(self.model)

    def now(self, step: int) -> tuple[Checkpoint, Plan]:
        """The model as a checkpoint, and what is compared, at this moment."""
        live = live_checkpoint(self.model, "the model in training", step)
        plan = plan_updates(live, self.base, initial=self.initial)
        return live, plan if self.adapted else only_trained(plan, self.trained)

    def norms(self) -> dict[str, WeightNorms]:
        """Norms of the base weights, which stay as they are."""
        return norms_of_weights(self.plan.specs)

    def kept_names(self, live: Checkpoint) -> tuple[str, ...]:
        """Tensors from which the change since this point can be told later."""
        if self.adapted:
            return tuple(live.tensors)
        return tuple(dict.fromkeys(spec.required("tuned").name for spec in self.plan.specs))

    def since(self, plan: Plan, last: LastPoint | None) -> tuple[UpdateSpec, ...]:
        """The updates since the last point; since the base where there was none.

        Raises
        ------
        PairingError
            If the two are not of one training.
        """
        if last is None:
            return plan.specs
        if self.adapted:
            return plan_step(plan, plan_updates(last.checkpoint, self.base, initial=self.initial))
        earlier = earlier_specs(plan.specs, last)
        return tuple(since(spec, earlier[spec.module]) for spec in plan.specs)

    def rows(
        self,
        step: int,
        plan: Plan,
        last: LastPoint | None,
        options: MeasurementOptions,
        norms: Mapping[str, WeightNorms],
        *,
        run: str,
        steps_too: bool,
    ) -> Records:
        """All rows of one point."""
        deltas = (("cumulative", plan.specs), *((("step", self.since(plan, last)),) if steps_too else ()))
        specs = list(dict.fromkeys(spec for _, found in deltas for spec in found))
        point = Point(step, plan, deltas, self.trained_with)
        return records([point], measured_live(specs, options, norms), run)

    def rows_without(self, run: str, step: int) -> Records:
        """The coverage of a method that is not measured here."""
        return records([Point(step, self.plan, (("cumulative", ()),), self.trained_with)], {}, run)


def tracked(
    model: Any, base: Checkpoint | None, *, step: int, output: Path, record: TrainingRecord | None = None
) -> Tracked:
    """What there is to track.

    Parameters
    ----------
    model
        Without torch's wrappers.
    base
        Files, or a copy from before training.
    step
        From which training goes on.
    output
        Folder of the run, where a training keeps how it started.
    record
        How the run is trained, where that is known.

    Raises
    ------
    RankLabError
        If a model that is trained itself is resumed and its base is not known, or does not fit.
    """
    live = live_checkpoint(model, "the model in training", step)
    trained = trained_names(model)
    if is_adapted(model):
        return _adapter(model, live, base, trained, kept_start(live, output, record))
    if base is None and step:
        raise RankLabError(
            f"training goes on from step {step}, so that the weights are no longer those of the base; give RankTracker"
            " base=FOLDER, or pass it to the Trainer's callbacks=, where it sees the model before that."
        )
    against = with_copies(live, trained) if base is None else base
    plan = only_trained(plan_updates(live, against), trained)
    reason = "" if plan.specs else "no matrix of the model itself is trained, only vectors or layers that are new"
    return Tracked(model, against, trained, plan, TrainedWith(plan.method), reason)


def _adapter(
    model: Any, live: Checkpoint, base: Checkpoint | None, trained: frozenset[str], initial: Checkpoint | None
) -> Tracked:
    method = str((live.adapter_config or {}).get("peft_type", "")).lower()
    try:
        plan = plan_updates(live, base, initial=initial)
    except RankLabError as error:
        reason = f"{method}: {error} Or {_BY_ANALYZE}."
        rows = tuple(
            CoverageRow(name, "tuned", "skipped", reason, tuned=tensor, failed=True)
            for name, tensor in live.tensors.items()
        )
        return Tracked(model, base, trained, Plan((), rows, method), TrainedWith(method), reason)
    reason = "" if plan.specs else f"{method} changes no weight matrix"
    return Tracked(model, base, trained, plan, TrainedWith(plan.method), reason, initial)


def trained_names(model: Any) -> frozenset[str]:
    """Names of the parameters that require a gradient, ties under each of theirs."""
    found = model.named_parameters(remove_duplicate=False)
    return frozenset(name for name, value in found if value.requires_grad)


def told(what: Tracked, record: TrainingRecord | None, optimizer: str, learning_rate: float) -> Tracked:
    """With method, optimizer and learning rate beside its rows: the record's where there is one, else these."""
    if record is not None:
        return replace(what, trained_with=trained_with(what.plan.method, record))
    beside = TrainedWith(what.plan.method, optimizer, learning_rate, sign_like_warning(optimizer))
    return replace(what, trained_with=beside)


def optimizer_name(arguments: Any, optimizer: Any) -> str:
    """The optimizer as transformers names it; by its class where another was given to the Trainer."""
    from transformers import Trainer

    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    chosen = str(getattr(arguments.optim, "value", arguments.optim))
    if optimizer is None:
        return chosen
    try:
        expected, _ = Trainer.get_optimizer_cls_and_kwargs(arguments)
    except (ImportError, ValueError, RuntimeError):  # a package that is not there: it was not made from that
        return type(optimizer).__name__.lower()
    return chosen if type(optimizer) is expected else type(optimizer).__name__.lower()


def largest_rate(optimizer: Any) -> float:
    """The learning rate before its schedule, of the group with the largest; NaN where there is no optimizer."""
    groups = getattr(optimizer, "param_groups", None) or []
    return max((float(group.get("initial_lr", group["lr"])) for group in groups), default=math.nan)


def refuse_spread(model: Any, arguments: Any) -> None:
    """Refuse weights of which this process holds a part only.

    Raises
    ------
    RankLabError
        Naming what spreads them.
    """
    parameters = list(model.parameters())
    if any(hasattr(value, "ds_id") for value in parameters):
        kind = "DeepSpeed ZeRO-3"
    elif any(hasattr(value, "full_tensor") for value in parameters) or getattr(arguments, "fsdp", None):
        kind = "FSDP"
    else:
        return
    raise RankLabError(
        f"{kind} spreads the weights over processes, which RankTracker does not gather; leave it out and run"
        " 'rank-lab analyze' on the folder of checkpoints, which reads them as they are."
    )
