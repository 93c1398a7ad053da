"""The figures of a study that can be exported, each with the choices that it has on its own page."""

from collections.abc import Callable, Mapping

import streamlit as st

from rank_lab.curve import Curve
from rank_lab.depth_table import depth_table
from rank_lab.errors import SchemaError
from rank_lab.figures import layer_map, rank_along_depth, spectrum
from rank_lab.layer_table import layer_table
from rank_lab.module_numbers import rows_of
from rank_lab.outcomes import Outcomes
from rank_lab.row_choices import rows_of_runs
from rank_lab.shown_values import Over
from rank_lab.spectrum_curve import spectrum_curve
from rank_lab.study import Study

from .choices import choose_delta, choose_metric, choose_module, choose_over, choose_run, choose_step
from .compare import against_of, kinds_of
from .forgetting import associations_of, choose_measure, choose_target, rank_and_forgetting_of, trade_off_of
from .overview import coverage_of
from .rank_plan import budget_curve_of, plan_map_of
from .scheduler import choose_control, choose_seed, curve_of, gates_of, gates_over_stages_of
from .shown import Draw
from .spectra import bands_of
from .subspaces import amplification_of, angles_of, intruders_of, phi_of
from .training import along_training, choose_runs, forgetting_along_training, learning_along_training

__all__ = ["figures_of"]

Prepare = Callable[[Study], Draw]


def figures_of(study: Study) -> Mapping[str, Prepare]:
    """Title to what shows the choices of a figure and gives it, of the figures that this study has data for."""
    found: dict[str, Prepare] = {}
    if not study.updates().empty:
        found |= _OF_RANKS
    if study.curve() is not None:
        found |= _OF_CURVES
    if study.outcomes() is not None:
        found |= _OF_OUTCOMES
    if study.subspaces():
        found |= _OF_SUBSPACES
    return found


def _layer_map(study: Study) -> Draw:
    updates = study.updates()
    run, step, delta = _place(study)
    metric, over = _quantity()
    table = layer_table(rows_of(updates, run, step, delta), metric, over=over, delta=delta)
    return lambda style: layer_map(table, style)


def _along_depth(study: Study) -> Draw:
    updates = study.updates()
    run, step, delta = _place(study)
    metric, over = _quantity()
    table = depth_table(rows_of(updates, run, step, delta), metric, over=over, delta=delta)
    return lambda style: rank_along_depth(table, style)


def _spectrum(study: Study) -> Draw:
    run, step, delta = _place(study)
    rows = rows_of(study.updates(), run, step, delta)
    module = choose_module([str(each) for each in rows["module"]])
    values = study.values(run, module, step=step, delta=delta)
    curve = spectrum_curve(rows[rows["module"] == module], values)
    return lambda style: spectrum([curve], style)


def _along_training(study: Study) -> Draw:
    updates = study.updates()
    return along_training(rows_of_runs(updates, choose_runs(updates)))[0]


def _curve(study: Study) -> Draw:
    curve = _curve_there(study)
    return curve_of(curve, choose_seed(curve))


def _gates(study: Study) -> Draw:
    curve = _curve_there(study)
    return gates_of(curve, choose_control(curve))


def _gates_over_stages(study: Study) -> Draw:
    curve = _curve_there(study)
    return gates_over_stages_of(curve, choose_control(curve))


def _trade_off(study: Study) -> Draw:
    outcomes = _outcomes_there(study)
    return trade_off_of(outcomes, choose_target(outcomes), choose_measure(outcomes))


def _rank_and_forgetting(study: Study) -> Draw:
    outcomes = _outcomes_there(study)
    return rank_and_forgetting_of(outcomes, choose_measure(outcomes))


def _associations(study: Study) -> Draw:
    outcomes = _outcomes_there(study)
    return associations_of(outcomes, choose_target(outcomes), choose_measure(outcomes))


def _learning(study: Study) -> Draw:
    return learning_along_training(_outcomes_there(study))


def _forgetting(study: Study) -> Draw:
    return forgetting_along_training(_outcomes_there(study))


_OF_RANKS: dict[str, Prepare] = {
    "Layers by kind": _layer_map,
    "By kind of module": kinds_of,
    "Rank along depth": _along_depth,
    "One run against another": against_of,
    "Rank along training": _along_training,
    "Spectrum of a matrix": _spectrum,
    "All spectra of a run": bands_of,
    "Noise and coverage": coverage_of,
    "Ranks of a plan": plan_map_of,
    "Kept energy against parameters": budget_curve_of,
}
_OF_CURVES: dict[str, Prepare] = {
    "Memorization and generalization": _curve,
    "Gates by layer and kind": _gates,
    "Gates along the stages": _gates_over_stages,
}
_OF_OUTCOMES: dict[str, Prepare] = {
    "Learning and forgetting": _trade_off,
    "Learning along training": _learning,
    "Forgetting along training": _forgetting,
    "Rank and forgetting": _rank_and_forgetting,
    "Correlation of rank and forgetting": _associations,
}


_OF_SUBSPACES: dict[str, Prepare] = {
    "Shared directions of two updates": phi_of,
    "Principal angles of two updates": angles_of,
    "Amplification": amplification_of,
    "Intruder dimensions": intruders_of,
}


def _quantity() -> tuple[str, Over]:
    left, right = st.columns(2)
    with left:
        metric = choose_metric()
    with right:
        return metric, choose_over(metric)


def _curve_there(study: Study) -> Curve:
    found = study.curve()
    if found is None:  # it was there when the figures were listed
        raise SchemaError("The curve is not there any more; look again.")
    return found


def _outcomes_there(study: Study) -> Outcomes:
    found = study.outcomes()
    if found is None:
        raise SchemaError("The scores are not there any more; look again.")
    return found


def _place(study: Study) -> tuple[str, int | None, str]:
    updates = study.updates()
    columns = st.columns(3)
    with columns[0]:
        run = choose_run(updates)
    with columns[1]:
        step = choose_step(updates, run)
    with columns[2]:
        delta = choose_delta(updates, run)
    return run, step, delta
