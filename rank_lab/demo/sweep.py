"""The demonstration's sweep of thresholds: Algorithm 1 on so little code that it can be memorised."""

from collections.abc import Callable
from pathlib import Path

from rank_lab.curve import Curve, CurveRow
from rank_lab.demo import BASE
from rank_lab.demo.demo_plan import Sweep
from rank_lab.demo.one_run import training_arguments
from rank_lab.scores import SCORES
from rank_lab.sora.schedule import run_schedule
from rank_lab.sora.schedule_choices import Adapter
from rank_lab.sora.schedule_command import make_model_of
from rank_lab.sora.schedule_plan import Schedule
from rank_lab.sora.stop_rule import StopRule
from rank_lab.tasks import TaskData

__all__ = ["run_sweep"]

_CONTROLS = ("one_shot_importance", "svd")
_SEED = 42  # which blocks are trained on


def run_sweep(sweep: Sweep, data: TaskData, study: Path, told: Callable[[CurveRow], None]) -> Curve:
    """Run the stages that are not there yet.

    Parameters
    ----------
    sweep
        Of the demo's plan.
    data
        Code.
    study
        Receives ``curve.jsonl`` and a folder for each stage.
    told
        Called with each new row.
    """
    few = data.train.shuffle(seed=_SEED).select(range(min(sweep.blocks, len(data.train))))
    schedule = Schedule(
        thresholds=sweep.thresholds,
        stop=_exactly(sweep.stage_steps, sweep.check_steps),
        dense_stop=_exactly(sweep.dense_steps, sweep.check_steps),
        controls=_CONTROLS,
        subset=min(sweep.subset, len(few)),
    )
    adapter = Adapter(rank=sweep.rank, alpha=2.0 * sweep.rank, gate_lr=sweep.gate_rate)
    return run_schedule(
        make_model_of(str(BASE), data, adapter), few, data.validation, study, schedule,
        score=SCORES[data.task.score], collator=data.collator,
        arguments=training_arguments(study, sweep.learning_rate),
        names={"model": "demo base", "task": data.task.name}, progress=told,
    )  # fmt: skip


def _exactly(steps: int, check: int) -> StopRule:
    """So many steps: a demo is to take as long each time."""
    return StopRule(min_steps=steps, max_steps=steps, check_steps=check, patience=1, tolerance=0.0)
