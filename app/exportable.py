"""The figures of a study that can be exported, each with the choices that it has on its own page."""

from collections.abc import Callable, Mapping

import streamlit as st

from rank_lab.coverage_overview import coverage_overview
from rank_lab.curve import Curve
from rank_lab.depth_table import depth_table
from rank_lab.errors import SchemaError
from rank_lab.figures import layer_map, noise_and_coverage, rank_along_depth, spectrum
from rank_lab.layer_table import layer_table
from rank_lab.outcomes import Outcomes
from rank_lab.row_choices import rows_of, rows_of_runs
from rank_lab.shown_values import Over
from rank_lab.spectrum_curve import spectrum_curve
from rank_lab.study import Study

from .choices import choose_delta, choose_metric, choose_module, choose_over, choose_run, choose_step
from .compare import against_of, choose_places, kinds_of
from .forgetting import associations_of, choose_measure, choose_target, rank_and_forgetting_of, trade_off_of
from .function import against_weight_of, choose_functional, depth_of
from .rank_plan import budget_curve_of, plan_map_of
from .scheduler import choose_control, choose_seed, curve_of, gates_of, gates_over_stages_of
from .shown import Draw
from .spectra import bands_of
from .subspaces import (
    amplification_of,
    angles_of,
    choose_comparison,
    choose_module_and_side,
    choose_update,
    intruders_of,
    phi_of,
)
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
    if study.functional():
        found |= _OF_FUNCTION
    return found


def _functional_depth(study: Study) -> Draw:
    return depth_of(*choose_functional(study))[0]


def _functional_weight(study: Study) -> Draw:
    return against_weight_of(*choose_functional(study))


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


def _bands(study: Study) -> Draw:
    run, step, delta = _place(study)
    return bands_of(study, (run, step), delta)[0]


def _by_kind(study: Study) -> Draw:
    updates = study.updates()
    return kinds_of(updates, *choose_places(updates))[0]


def _against(study: Study) -> Draw:
    updates = study.updates()
    return against_of(updates, *choose_places(updates))[0]


def _coverage(study: Study) -> Draw:
    overview = coverage_overview(study.updates(), study.coverage())
    return lambda style: noise_and_coverage(overview, style)


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


def _phi(study: Study) -> Draw:
    report, choices, _ = choose_comparison(study)
    return phi_of(report, *choose_module_and_side(choices))


def _angles(study: Study) -> Draw:
    report, choices, _ = choose_comparison(study)
    return angles_of(report, *choose_module_and_side(choices))


def _amplification(study: Study) -> Draw:
    _, choices, _ = choose_comparison(study)
    return amplification_of(choose_update(choices)[0], choices)[0]


def _intruders(study: Study) -> Draw:
    _, choices, _ = choose_comparison(study)
    return intruders_of(choose_update(choices)[1], choices)[0]


_OF_RANKS: dict[str, Prepare] = {
    "Layers by kind": _layer_map,
    "Rank along depth": _along_depth,
    "Rank along training": _along_training,
    "Rank by kind of module": _by_kind,
    "One run against another": _against,
    "Spectrum of a matrix": _spectrum,
    "Spectra of all matrices": _bands,
    "Noise and coverage": _coverage,
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
    "Shared directions": _phi,
    "Principal angles": _angles,
    "Amplification": _amplification,
    "Intruder dimensions": _intruders,
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


_OF_FUNCTION: Mapping[str, Prepare] = {
    "Rank of what updates do, along depth": _functional_depth,
    "Rank of what updates do against that of the weight": _functional_weight,
}
