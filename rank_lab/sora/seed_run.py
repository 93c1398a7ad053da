"""Algorithm 1 from one seed: its stages in order, a row each, and then the controls."""

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainingArguments

from rank_lab.curve import SORA, Curve, CurveRow
from rank_lab.errors import NonFiniteError, RankLabError
from rank_lab.sora.adapter_files import ADAPTER_FILES
from rank_lab.sora.chance import no_better_than_chance
from rank_lab.sora.controls import AS_SHIPPED
from rank_lab.sora.gate_moments import keep_gate_optimizer
from rank_lab.sora.predictions import Predictions
from rank_lab.sora.schedule_plan import Schedule, StageGoal
from rank_lab.sora.stage import Stage, Trained, prox_start, train_stage
from rank_lab.sora.stage_checkpoints import optimizer_file
from rank_lab.sora.stage_row import (
    SETS,
    EvaluationSets,
    Reference,
    measured,
    number,
    relative,
    slow_end,
    still_shrinking,
    unusable,
)

__all__ = ["SeedRun", "Shared", "row_of"]


@dataclass(frozen=True)
class Shared:
    """What all seeds of a schedule share.

    Parameters
    ----------
    out
        Folder of the study.
    schedule
        To carry out.
    train
        The training set.
    sets
        What stages are measured on.
    arguments
        The user's.
    config
        The adapter's, as it was made.
    model, task
        Names for the rows.
    progress, watch
        Called with each new row, and with a sentence at each check.
    """

    out: Path
    schedule: Schedule
    train: Any
    sets: EvaluationSets
    arguments: TrainingArguments
    config: Any
    model: str
    task: str
    progress: Callable[[CurveRow], None] | None
    watch: Callable[[str], None] | None


@dataclass
class SeedRun:
    """The run of one seed, as far as it has come.

    Parameters
    ----------
    shared
        What all seeds share.
    seed
        This one.
    curve
        Of the study; replaced as rows are added.
    """

    shared: Shared
    seed: int
    curve: Curve

    @property
    def folder(self) -> Path:
        """Of the seed."""
        return self.stage_folder(0).parent

    def stage_folder(self, stage: int, control: str = SORA) -> Path:
        """Where a stage, or the control beside it, is kept.

        Parameters
        ----------
        stage, control
            Which.
        """
        return self.curve.stage_folder(self.seed, stage, control)

    @property
    def done(self) -> bool:
        """Whether every row is there."""
        plan = self.shared.schedule
        wanted = [(SORA, goal.stage) for goal in plan.goals]
        wanted += [(name, goal.stage) for name in plan.controls_in_use for goal in plan.goals[1:]]
        return all(self.curve.find(self.seed, control, stage) for control, stage in wanted)

    def run_stages(self, model: nn.Module) -> None:
        """Train all stages that have no row yet, and write their rows.

        Parameters
        ----------
        model
            From ``make_model`` with this seed set.

        Raises
        ------
        RankLabError
            If a stage diverges, or nothing can be divided by the scores of stage 0.
        """
        for goal in self.shared.schedule.goals:
            row = self.curve.find(self.seed, SORA, goal.stage)
            if row is None:
                row = self._stage(model, goal)
                self._keep_moments(goal.stage)
                self.add(row)
            self._check_reference(row)
            self._tidy(goal.stage)

    def add(self, row: CurveRow) -> None:
        """Append a row, and tell of it.

        Parameters
        ----------
        row
            Of a stage that has none.
        """
        self.curve = self.curve.appended(row)
        if self.shared.progress is not None:
            self.shared.progress(row)

    def references(self, stage: int, found: Mapping[str, Predictions]) -> dict[str, Reference]:
        """What the scores of a stage are divided by, by set: those of stage 0, or the best up to this stage.

        Parameters
        ----------
        stage
            Its number.
        found
            Its predictions.
        """
        score, references = self.shared.sets.score, {}
        for name in SETS:
            own = Reference(number(score.of(found[name].labels, found[name].predictions)), None)
            known = [own, *self._scores(name, range(stage))]
            if self.shared.schedule.reference == "stage_0":
                references[name] = known[1] if stage else own
            else:
                references[name] = max(known, key=lambda each: -math.inf if each.value is None else each.value)
        return references

    def references_beside(self, row: CurveRow) -> dict[str, Reference]:
        """What the scores of a control are divided by: the same as those of the stage beside it.

        Parameters
        ----------
        row
            Of the stage.
        """
        references = {}
        for name in SETS:
            value = getattr(row, f"{name}_reference")
            known = self._scores(name, range(row.stage + 1))
            references[name] = next(each for each in known if each.value == value)
        return references

    def _scores(self, name: str, stages: range) -> list[Reference]:
        rows = [self.curve.find(self.seed, SORA, stage) for stage in stages]
        return [
            Reference(getattr(row, f"{name}_score"), self.stage_folder(row.stage)) for row in rows if row is not None
        ]

    def _stage(self, model: nn.Module, goal: StageGoal) -> CurveRow:
        shared = self.shared
        stage = Stage(
            folder=self.stage_folder(goal.stage),
            before=self.stage_folder(goal.stage - 1) if goal.stage else None,
            goal=goal,
            seed=self.seed,
            arguments=shared.arguments,
            keep_moments=shared.schedule.keep_moments,
            prox_start_step=prox_start(shared.config, shared.arguments, goal.rule),
            watch=shared.watch,
        )
        trained = train_stage(model, shared.train, shared.sets.collator, stage)
        try:
            found = shared.sets.predicted(model)
        except NonFiniteError as error:
            raise NonFiniteError(f"{stage.where}: after its last step: {error}") from error
        shared.sets.save(stage.folder, found)
        return row_of(self, model, found, self.references(goal.stage, found), goal, trained)

    def _keep_moments(self, stage: int) -> None:
        """Keep what the control that repeats thresholds without training measures in."""
        if not stage and self.shared.config.threshold_mode == "adam":
            folder = self.stage_folder(0)
            keep_gate_optimizer(optimizer_file(folder / "training"), folder)

    def _check_reference(self, row: CurveRow) -> None:
        if row.stage or self.shared.schedule.reference != "stage_0":
            return
        for name in SETS:
            value = getattr(row, f"{name}_reference")
            if unusable(value):
                raise RankLabError(
                    f"seed {self.seed}: after stage 0 the {name} {row.score} is {value}, and nothing can be expressed"
                    " as per cent of that; its row is kept. Train stage 0 longer (dense_stop, learning rate), or choose"
                    " another score, or reference='best', in a new folder."
                )

    def _tidy(self, stage: int) -> None:
        """Remove what no later stage needs: the checkpoints of the stage before one that has its row."""
        if stage:
            shutil.rmtree(self.stage_folder(stage - 1) / "training", ignore_errors=True)
        folder = self.stage_folder(stage)
        missing = [name for name in ADAPTER_FILES if not (folder / name).is_file()]
        if missing:
            raise RankLabError(
                f"{folder}: {missing[0]} is gone, though the curve has a row of it; restore it, or run the schedule in"
                " a new folder."
            )


def row_of(
    run: SeedRun,
    model: nn.Module,
    found: Mapping[str, Predictions],
    references: Mapping[str, Reference],
    goal: StageGoal,
    trained: Trained | None,
    control: str = SORA,
) -> CurveRow:
    """The row of a stage, or of a control beside it.

    Parameters
    ----------
    run
        Of its seed.
    model, found
        At its end, and its predictions.
    references
        By set.
    goal
        What it did; of a control, what the stage beside it did.
    trained
        None where nothing was trained.
    control
        Its name.
    """
    shared = run.shared
    columns = measured(model, found, shared.sets.score)
    warnings = [] if trained is None else _end_warnings(trained)
    for name, quantity in zip(SETS, ("memorization", "generalization"), strict=True):
        part = relative(name, found[name], references[name], shared.sets)
        columns |= {quantity: number(part.value), f"{quantity}_low": part.low, f"{quantity}_high": part.high}
        columns[f"{name}_reference"] = references[name].value
        warnings.append(f"{name}: {part.reason}" if part.reason else "")
        if references[name].folder is None:  # it is itself what others are divided by
            warnings.append(
                no_better_than_chance(name, found[name], shared.sets.score, resamples=shared.sets.resamples)
            )
    return CurveRow(
        model=shared.model,
        task=shared.task,
        seed=run.seed,
        control=control,
        stage=goal.stage,
        reference=shared.schedule.reference,
        warning="; ".join(text for text in warnings if text),
        **_training_columns(goal, trained, control),
        **columns,
    )


def _end_warnings(trained: Trained) -> list[str]:
    return [
        slow_end(trained.lr_end, trained.lr_peak, trained.stop),
        still_shrinking(trained.gates_fell, trained.threshold, trained.stop),
    ]


def _training_columns(goal: StageGoal, trained: Trained | None, control: str) -> dict[str, Any]:
    columns: dict[str, Any] = {"target": goal.target, "target_kind": goal.target_kind, "target_reached": None}
    if trained is None:
        none = dict.fromkeys(("lr_start", "lr_peak", "lr_end", "converged", "seconds"))
        threshold = goal.threshold if control == AS_SHIPPED else None
        return columns | none | {"threshold": threshold, "steps": 0, "hook_calls": 0, "stop": "not_trained"}
    kept = ("steps", "hook_calls", "stop", "lr_start", "lr_peak", "lr_end", "threshold", "seconds")
    columns |= {name: getattr(trained, name) for name in kept}
    reached = None if goal.target is None else trained.stop != "target_not_reached"
    return columns | {"converged": trained.stop == "converged", "target_reached": reached}
