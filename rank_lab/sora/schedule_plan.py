"""What Algorithm 1 does, as plain values: thresholds or targets, when a stage ends, what is compared."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from rank_lab.errors import RankLabError
from rank_lab.sora.controls import AS_SHIPPED, BUDGET_CONTROLS
from rank_lab.sora.stop_rule import StopRule
from rank_lab.sora.thresholds import check_threshold, is_whole

__all__ = ["REFERENCES", "Schedule", "StageGoal", "TargetKind"]

REFERENCES = ("stage_0", "best")
"""What memorization and generalization are relative to."""

CONTROLS = (AS_SHIPPED, *BUDGET_CONTROLS)
"""What may stand beside the stages."""

_LEAST_FALL = 0.05

TargetKind = Literal["rank", "parameters"]


@dataclass(frozen=True)
class StageGoal:
    """What one stage does.

    Parameters
    ----------
    stage
        Its number, from 0.
    threshold
        In force throughout; None where it is driven to a target.
    target, target_kind
        The target, or None.
    rule
        When it ends.
    """

    stage: int
    threshold: float | None
    target: float | None
    target_kind: TargetKind | None
    rule: StopRule


@dataclass(frozen=True)
class Schedule:
    """Algorithm 1 as a run carries it out; recorded in ``schedule.json``.

    Exactly one of ``thresholds``, ``target_ranks`` and ``target_parameters`` is given.

    Parameters
    ----------
    thresholds
        A stage each, increasing; the first may be 0, see :func:`rank_lab.sora.threshold_list`.
    target_ranks
        Mean number of non-zero gates per module to reach, decreasing; a dense stage 0 goes before them.
    target_parameters
        Exact number of non-zero parameters to reach, decreasing; a dense stage 0 goes before them.
    stop, dense_stop
        When a stage ends, and when stage 0 does; None: as the others, but not before its loss has fallen by 5 %,
        for a loss is flat before it begins to fall, too.
    controls
        What stands beside the stages in the curve; None for all that apply: ``as_shipped`` needs thresholds.
    reference
        ``stage_0``: scores are divided by those of the dense model; ``best``: by the best of this seed so far.
    subset, subset_seed
        How many training examples memorization is measured on, and which.
    seeds
        Each a run of its own.
    keep_moments
        Whether the optimizer's moments go along from stage to stage.
    resamples
        Of the bootstrap.

    Raises
    ------
    RankLabError
        If a value is none of those; the position in a list is named.

    Examples
    --------
    >>> [goal.threshold for goal in Schedule(thresholds=(0.0, 0.5, 1.0)).goals]
    [0.0, 0.5, 1.0]
    >>> [goal.target for goal in Schedule(target_ranks=(4, 2)).goals]
    [None, 4, 2]
    >>> Schedule(thresholds=(0.0, 0.5, 0.5))
    Traceback (most recent call last):
    ...
    rank_lab.errors.RankLabError: thresholds[2] 0.5 is not above thresholds[1] 0.5; ...
    """

    thresholds: tuple[float, ...] = ()
    target_ranks: tuple[float, ...] = ()
    target_parameters: tuple[int, ...] = ()
    stop: StopRule = field(default_factory=StopRule)
    dense_stop: StopRule | None = None
    controls: tuple[str, ...] | None = None
    reference: str = "stage_0"
    subset: int = 1000
    subset_seed: int = 42
    seeds: tuple[int, ...] = (0,)
    keep_moments: bool = True
    resamples: int = 1000

    def __post_init__(self) -> None:
        """Check every value."""
        for name in ("thresholds", "target_ranks", "target_parameters", "seeds", "controls"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(getattr(self, name)))
        given = [name for name in ("thresholds", "target_ranks", "target_parameters") if getattr(self, name)]
        if len(given) != 1:
            raise RankLabError(
                f"{' and '.join(given) or 'no thresholds'} given; a schedule has exactly one of thresholds,"
                " target_ranks and target_parameters, with at least one value."
            )
        for position, value in enumerate(self.thresholds):
            check_threshold(value, f"thresholds[{position}]")
        _check_order("thresholds", self.thresholds, 1)
        _check_targets("target_ranks", self.target_ranks)
        _check_targets("target_parameters", self.target_parameters)
        _check_choices(self)
        _check_numbers(self)

    @property
    def first_rule(self) -> StopRule:
        """When stage 0 ends, whether that was given or follows from the others' rule."""
        return replace(self.stop, fall=_LEAST_FALL) if self.dense_stop is None else self.dense_stop

    @property
    def goals(self) -> tuple[StageGoal, ...]:
        """The stages in order."""
        first = self.first_rule
        if self.thresholds:
            return tuple(
                StageGoal(stage, value, None, None, self.stop if stage else first)
                for stage, value in enumerate(self.thresholds)
            )
        kind: TargetKind = "rank" if self.target_ranks else "parameters"
        targets = self.target_ranks or self.target_parameters
        driven = (StageGoal(stage, None, value, kind, self.stop) for stage, value in enumerate(targets, 1))
        return (StageGoal(0, 0.0, None, None, first), *driven)

    @property
    def controls_in_use(self) -> tuple[str, ...]:
        """The controls by name, whether chosen or all that apply."""
        if self.controls is not None:
            return self.controls
        return CONTROLS if self.thresholds else tuple(BUDGET_CONTROLS)


def _check_order(name: str, values: Sequence[float], sign: int) -> None:
    side, order = ("above", "increasing") if sign > 0 else ("below", "decreasing")
    for position in range(1, len(values)):
        last, value = values[position - 1], values[position]
        if (value - last) * sign <= 0:
            raise RankLabError(
                f"{name}[{position}] {value:g} is not {side} {name}[{position - 1}] {last:g}; expected {order} values."
            )


def _check_targets(name: str, values: Sequence[float]) -> None:
    for position, value in enumerate(values):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value <= 0:
            raise RankLabError(f"{name}[{position}] {value!r}: expected a finite number above 0.")
    _check_order(name, values, -1)


def _check_choices(schedule: Schedule) -> None:
    if schedule.reference not in REFERENCES:
        raise RankLabError(f"reference {schedule.reference!r}: expected one of {', '.join(REFERENCES)}.")
    for name in schedule.controls_in_use:
        if name not in CONTROLS:
            raise RankLabError(f"control {name!r}: expected one of {', '.join(CONTROLS)}.")
    if AS_SHIPPED in schedule.controls_in_use and not schedule.thresholds:
        raise RankLabError(
            "control 'as_shipped' repeats a list of thresholds without training, and stages that are driven to targets"
            " have none; leave it out of controls, or give thresholds."
        )
    for name in ("seeds", "controls_in_use"):
        values = getattr(schedule, name)
        if len(set(values)) < len(values):
            raise RankLabError(f"{name.removesuffix('_in_use')} {values}: one is there twice.")


def _check_numbers(schedule: Schedule) -> None:
    if not schedule.seeds:
        raise RankLabError("no seeds; give at least one, e.g. seeds=(0,).")
    numbers = {f"seeds[{position}]": (value, 0) for position, value in enumerate(schedule.seeds)}
    numbers |= {"subset": (schedule.subset, 1), "subset_seed": (schedule.subset_seed, 0)}
    numbers |= {"resamples": (schedule.resamples, 1)}
    for name, (value, least) in numbers.items():
        if not is_whole(value) or not least <= value < 2**32:
            raise RankLabError(f"{name} {value!r}: expected a whole number from {least} to below 2**32.")
