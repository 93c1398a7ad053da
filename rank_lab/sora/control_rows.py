"""The controls' rows: what the dense adapter comes to without training, beside every later stage."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rank_lab.curve import SORA, CurveRow
from rank_lab.errors import CheckpointError
from rank_lab.sora.adam_metric import gate_denominators
from rank_lab.sora.adapter_files import load_adapter, save_adapter
from rank_lab.sora.callback import sora_config_of
from rank_lab.sora.controls import AS_SHIPPED, BUDGET_CONTROLS, as_shipped, shipped_thresholds
from rank_lab.sora.factors import GatedFactors, gated_factors, set_factors
from rank_lab.sora.gate_moments import read_gate_optimizer
from rank_lab.sora.predictions import Predictions
from rank_lab.sora.rates import gate_rates
from rank_lab.sora.schedule_plan import StageGoal
from rank_lab.sora.seed_run import SeedRun, row_of
from rank_lab.sora.stage import prox_start

__all__ = ["run_controls"]


def run_controls(run: SeedRun, model: nn.Module) -> None:
    """Measure every control that has no row yet, beside every stage but the first.

    All start from the adapter of stage 0; its classifier, or whatever else was
    trained beside the gates, stays as it is there.

    Parameters
    ----------
    run
        Whose stages are done.
    model
        With an adapter of their shape.
    """
    goals = run.shared.schedule.goals[1:]
    empty: dict[str, Predictions] = {}
    for name in run.shared.schedule.controls_in_use:
        if all(run.curve.find(run.seed, name, goal.stage) for goal in goals):
            continue
        load_adapter(model, run.stage_folder(0))
        beside = [_row(run, goal.stage) for goal in goals]
        results = _results(run, model, name, beside)
        for goal, row, factors in zip(goals, beside, results, strict=True):
            if run.curve.find(run.seed, name, goal.stage) is None:
                _measure(run, model, name, goal, row, factors, empty)


def _row(run: SeedRun, stage: int) -> CurveRow:
    row = run.curve.find(run.seed, SORA, stage)
    if row is None:
        raise CheckpointError(f"{run.curve.file}: no row of seed {run.seed}, stage {stage}; run its stages first.")
    return row


def _results(run: SeedRun, model: nn.Module, name: str, beside: Sequence[CurveRow]) -> list[list[GatedFactors]]:
    """The control's factors beside each stage; the model holds the dense adapter."""
    dense = gated_factors(model)
    if name == AS_SHIPPED:
        return _shipped(run, model, dense, beside)
    return [BUDGET_CONTROLS[name](dense, row.nonzero_parameters) for row in beside]


def _shipped(
    run: SeedRun, model: nn.Module, dense: Sequence[GatedFactors], beside: Sequence[CurveRow]
) -> list[list[GatedFactors]]:
    """As many proximal steps as each stage took, at the rates that it would have had."""
    shared, thresholds = run.shared, []
    config = shared.config
    denominators = _denominators(run.stage_folder(0), model, config) if config.threshold_mode == "adam" else None
    for goal, row in zip(shared.schedule.goals[1:], beside, strict=True):
        rates = gate_rates(shared.arguments, goal.rule.max_steps, config.gate_lr)[: row.steps]
        start = prox_start(config, shared.arguments, goal.rule)
        value = 0.0 if goal.threshold is None else goal.threshold
        thresholds.append(shipped_thresholds(config.threshold_mode, value, rates, denominators, prox_start_step=start))
    return as_shipped(dense, thresholds, config.operator)


def _denominators(folder: Path, model: nn.Module, config: Any) -> Tensor:
    optimizer = read_gate_optimizer(folder, model)
    return gate_denominators(optimizer, model, adam_rms=config.adam_rms)


def _measure(
    run: SeedRun,
    model: nn.Module,
    name: str,
    goal: StageGoal,
    beside: CurveRow,
    factors: Sequence[GatedFactors],
    empty: dict[str, Predictions],
) -> None:
    """Write a control's adapter, predictions and row; with no gate left all controls are one model, measured once."""
    shared, folder = run.shared, run.stage_folder(goal.stage, name)
    threshold = goal.threshold if name == AS_SHIPPED else None
    sora_config_of(model).threshold = threshold
    set_factors(model, factors)
    save_adapter(model, folder)
    shut = not any(bool(each.gate.any()) for each in factors)
    found = dict(empty) if shut and empty else shared.sets.predicted(model)
    if shut:
        empty.update(found)
    shared.sets.save(folder, found)
    run.add(row_of(run, model, found, run.references_beside(beside), goal, None, name))
