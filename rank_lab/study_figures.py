"""Which figures a study supports: of its reports, curve, scores, subspaces, behavioural and functional ranks."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import pandas as pd

from rank_lab import figures
from rank_lab.behavioural_report import BehaviouralReport
from rank_lab.behavioural_view import behavioural_targets, behavioural_view
from rank_lab.budget_views import budget_view
from rank_lab.coverage_overview import coverage_overview
from rank_lab.curve import Curve
from rank_lab.curve_points import CURVE_AXES, CurveAxis, curve_points
from rank_lab.depth_table import depth_table
from rank_lab.errors import RankLabError
from rank_lab.figures import Figure, Style
from rank_lab.figures.outcome_words import MEASURE_NAMES, target_words
from rank_lab.functional_views import functional_depth, functional_rows, functional_weights
from rank_lab.gate_tables import gate_table, gates_along_stages
from rank_lab.kind_table import kind_table
from rank_lab.layer_table import layer_table
from rank_lab.outcome_steps import LEARNING, outcome_steps
from rank_lab.outcomes import Outcomes
from rank_lab.places import last_steps
from rank_lab.rank_points import association_points, rank_points
from rank_lab.run_comparison import Place, run_comparison
from rank_lab.shown_values import Over
from rank_lab.spectrum_bands import spectrum_bands
from rank_lab.study import Study
from rank_lab.study_plan import plan_basis, study_modules
from rank_lab.subspace_report import SubspaceReport
from rank_lab.subspace_views import amplification_view, angles_view, intruder_view, phi_view
from rank_lab.trade_off_points import trade_off_points
from rank_lab.training_table import training_table

__all__ = ["StudyFigure", "study_figures"]

_METRIC = "energy_rank_90"
_LONGEST = 200  # characters of a name: file systems take 255 bytes, with a number and an ending
_Drawn = Callable[[Style], Figure]


@dataclass(frozen=True)
class StudyFigure:
    """One figure that a study supports; nothing of it is read or made before it is drawn.

    Parameters
    ----------
    name
        File name without its ending: letters, digits, ``-`` and ``_``; unique in its study.
    title
        What is shown, in words; holds names of runs as the files have them.
    draw
        From a style to the figure. It raises a RankLabError where a part of the study does not hold what is shown,
        which says what is missing.
    """

    name: str
    title: str
    draw: _Drawn


def study_figures(study: Study) -> list[StudyFigure]:
    """All figures that a study supports, in the order in which a reader would look at them.

    Parameters
    ----------
    study
        That is open; of a part that cannot be read there are no figures, and it is among its problems.

    Returns
    -------
    list of StudyFigure
        Coverage and ranks of all runs together; of each run at its last step; the curve of a schedule; learning and
        forgetting; subspaces; behavioural ranks; functional ranks of all runs.
    """
    found = [*_of_reports(study), *_of_curve(study), *_of_outcomes(study), *_of_subspaces(study)]
    found += [*_of_behavioural(study), *_of_functional(study)]
    return [StudyFigure(name, each.title, each.draw) for name, each in zip(_unique(found), found, strict=True)]


def _unique(found: Iterable[StudyFigure]) -> Iterator[str]:
    """Names that every file system takes and tells apart: two that differ in other signs, or in case, get numbers."""
    taken: set[str] = set()
    for each in found:
        short = re.sub(r"[^A-Za-z0-9_-]+", "_", each.name)[:_LONGEST]
        name = next(name for name in _numbered(short) if name.casefold() not in taken)
        taken.add(name.casefold())
        yield name


def _numbered(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}-{number}" for number in count(2))


def _last_places(updates: pd.DataFrame) -> list[Place]:
    """Each run with its last step; None where its files tell of no step."""
    return [_place(run, own["step"].max()) for run, own in updates.groupby("run", sort=False)]


def _rows(study: Study, place: Place) -> pd.DataFrame:
    updates = study.updates()
    own = updates[(updates["run"] == place[0]) & (updates["delta"] == "cumulative")]
    return own[own["step"].isna()] if place[1] is None else own[own["step"] == place[1]]


def _of_reports(study: Study) -> Iterator[StudyFigure]:
    updates = study.updates()
    places = _last_places(updates)
    if not places:
        return
    yield StudyFigure(
        "noise-and-coverage", "What was analysed, and what rounding hides, last step of each run",
        partial(_coverage, study),
    )  # fmt: skip
    yield StudyFigure(
        "rank-by-kind", "k90 by kind of module, last step of each run",
        lambda style: figures.rank_by_kind(kind_table(study.updates(), places, _METRIC), style),
    )  # fmt: skip
    if updates.groupby("run")["step"].nunique().max() > 1:
        yield StudyFigure(
            "rank-along-training", "k90 along training",
            lambda style: figures.rank_along_training(training_table(study.updates(), _METRIC), style),
        )  # fmt: skip
    if len(places) > 1:
        yield from (_against(study, places[0], other) for other in places[1:])
    for place in places:
        yield from _of_run(study, place)


def _coverage(study: Study, style: Style) -> Figure:
    return figures.noise_and_coverage(
        coverage_overview(last_steps(study.updates()), last_steps(study.coverage())), style
    )


def _place(run: object, step: Any) -> Place:
    return (str(run), None if pd.isna(step) else int(step))


def _against(study: Study, first: Place, other: Place) -> StudyFigure:
    return StudyFigure(
        f"{first[0]}-against-{other[0]}",
        f"k90 of {other[0]} against {first[0]}, matrix by matrix",
        lambda style: figures.method_against_method(
            run_comparison(study.updates(), [first, other], _METRIC), style, log=True
        ),
    )


def _of_run(study: Study, place: Place) -> Iterator[StudyFigure]:
    run = place[0]
    yield StudyFigure(f"layers-k90-{run}", f"k90 by layer and kind: {run}", partial(_layers, study, place, ""))
    yield StudyFigure(
        f"layers-k90-over-null-{run}", f"k90 over its null by layer and kind: {run}",
        partial(_layers, study, place, "null"),
    )  # fmt: skip
    yield StudyFigure(
        f"depth-k90-{run}", f"k90 along depth: {run}",
        lambda style: figures.rank_along_depth(depth_table(_rows(study, place), _METRIC), style),
    )  # fmt: skip
    yield StudyFigure(f"spectra-{run}", f"Spectra of all matrices: {run}", partial(_spectra, study, place))
    yield StudyFigure(
        f"rank-budget-{run}", f"Kept energy against parameters: {run}", partial(_budget, study, place)
    )  # fmt: skip


def _layers(study: Study, place: Place, over: Over, style: Style) -> Figure:
    return figures.layer_map(layer_table(_rows(study, place), _METRIC, over=over), style)


def _spectra(study: Study, place: Place, style: Style) -> Figure:
    values = study.all_values(place[0], step=place[1])
    return figures.spectrum_bands_plot(spectrum_bands(_rows(study, place), values), style)


def _budget(study: Study, place: Place, style: Style) -> Figure:
    basis = plan_basis(study_modules(study, place[0], step=place[1]))
    about = place[0] if place[1] is None else f"{place[0]}, step {place[1]}"
    return figures.budget_curve(budget_view(basis.curve, about=about), style)


def _of_curve(study: Study) -> Iterator[StudyFigure]:
    curve = study.curve()
    if curve is None:
        return
    for axis in CURVE_AXES:
        if axis != "threshold" or curve.rows[axis].notna().any():
            yield StudyFigure(
                f"curve-over-{axis}", f"Memorization and generalization over {axis.replace('_', ' ')}",
                partial(_curve_over, curve, axis),
            )  # fmt: skip
    yield StudyFigure(
        "gates-along-stages", "Non-zero gates along the stages",
        lambda style: figures.gates_over_stages(gates_along_stages(curve), style),
    )  # fmt: skip
    yield StudyFigure(
        "gates-by-layer", "Non-zero gates of the last stage by layer and kind",
        lambda style: figures.gate_map(gate_table(curve), style),
    )  # fmt: skip


def _curve_over(curve: Curve, axis: CurveAxis, style: Style) -> Figure:
    return figures.memorization_curve(curve_points(curve, axis), style)


def _of_outcomes(study: Study) -> Iterator[StudyFigure]:
    found = study.outcomes()
    if found is None:
        return
    points = found.trade_offs.points
    for target, measure in points[["target", "measure"]].drop_duplicates().itertuples(index=False):
        yield StudyFigure(
            f"trade-off-{target}-{measure}",
            f"Learning ({target_words(str(target))}) and forgetting ({_named(measure)})",
            partial(_trade_off, found, str(target), str(measure)),
        )  # fmt: skip
    for measure in dict.fromkeys(points["measure"]):
        yield StudyFigure(
            f"along-training-{measure}", f"{_named(measure)} along training", partial(_along, found, str(measure))
        )  # fmt: skip
        yield StudyFigure(
            f"rank-and-forgetting-{measure}", f"Rank and forgetting ({_named(measure)})",
            partial(_rank_and_forgetting, found, str(measure)),
        )  # fmt: skip
        told = found.associations[found.associations["measure"] == measure]
        if told["correlation"].notna().any():
            yield StudyFigure(
                f"rank-forgetting-correlation-{measure}", f"Where rank goes with forgetting ({_named(measure)})",
                partial(_association, found, str(measure)),
            )  # fmt: skip
    if len(points):
        yield StudyFigure("along-training-learning", "Learning along training", partial(_along, found, LEARNING))


def _named(measure: object) -> str:
    return MEASURE_NAMES.get(str(measure), str(measure))


def _trade_off(found: Outcomes, target: str, measure: str, style: Style) -> Figure:
    return figures.trade_off(trade_off_points(found.trade_offs, target, measure), style)


def _along(found: Outcomes, quantity: str, style: Style) -> Figure:
    return figures.outcome_trajectory(outcome_steps(found, quantity), style)


def _rank_and_forgetting(found: Outcomes, measure: str, style: Style) -> Figure:
    return figures.rank_and_forgetting(rank_points(found, _METRIC, measure), style)


def _association(found: Outcomes, measure: str, style: Style) -> Figure:
    return figures.association_plot(association_points(found, measure), style)


def _of_subspaces(study: Study) -> Iterator[StudyFigure]:
    for name, report in study.subspaces().items():
        yield StudyFigure(f"phi-{name}", f"Shared directions: {name}", partial(_phi, report))
        yield StudyFigure(f"angles-{name}", f"Principal angles: {name}", partial(_angles, report))
        for number in (0, 1):  # each update in the weight that both stand on
            which = ("first", "second")[number]
            yield StudyFigure(
                f"amplification-{name}-{which}",
                f"Amplification, {which} of {name}",
                partial(_amplified, report, number),
            )
            yield StudyFigure(
                f"intruders-{name}-{which}",
                f"Intruder dimensions, {which} of {name}",
                partial(_intruders, report, number),
            )


def _of_behavioural(study: Study) -> Iterator[StudyFigure]:
    for name, report in study.behavioural().items():
        for task in behavioural_targets(report):
            yield StudyFigure(
                f"behavioural-{name}-{task or 'all'}",
                f"Behavioural rank: {name}, {task or 'all targets'}",
                partial(_behavioural, report, task),
            )


def _behavioural(report: BehaviouralReport, task: str, style: Style) -> Figure:
    return figures.behavioural_curve(behavioural_view(report, task), style)


def _of_functional(study: Study) -> Iterator[StudyFigure]:
    reports = study.functional()
    if not reports:
        return
    ranks, changes = functional_rows(reports.values())
    if (ranks["scope"] == "layer").any():
        yield StudyFigure(
            "functional-ranks-layer", "k90 of the change of hidden states along depth",
            lambda style: figures.functional_depth_plot(functional_depth(ranks, changes, _METRIC), style),
        )  # fmt: skip
    modules = ranks[ranks["scope"] == "module"]
    for kind in dict.fromkeys(str(each) for each in modules["kind"]):
        yield StudyFigure(
            f"functional-ranks-{kind}", f"k90 of the change of outputs along depth: {kind}",
            partial(_functional_modules, ranks, changes, kind),
        )  # fmt: skip
    if ranks["weight"].notna().any():
        yield StudyFigure(
            "functional-against-weight", "k90 of what updates do against what they are",
            lambda style: figures.functional_weight_plot(functional_weights(ranks, changes, _METRIC), style),
        )  # fmt: skip


def _functional_modules(ranks: pd.DataFrame, changes: pd.DataFrame, kind: str, style: Style) -> Figure:
    view = functional_depth(ranks, changes, _METRIC, scope="module", kind=kind)
    return figures.functional_depth_plot(view, style)


def _phi(report: SubspaceReport, style: Style) -> Figure:
    return figures.phi_map(phi_view(report.phi), style)


def _angles(report: SubspaceReport, style: Style) -> Figure:
    return figures.principal_angles(angles_view(report.angles), style)


def _amplified(report: SubspaceReport, number: int, style: Style) -> Figure:
    return figures.amplification_plot(amplification_view(_of_update(report.amplification, number)), style)


def _intruders(report: SubspaceReport, number: int, style: Style) -> Figure:
    return figures.intruder_map(intruder_view(_of_update(report.intruders, number)), style)


def _of_update(rows: pd.DataFrame, number: int) -> pd.DataFrame:
    """Rows of the first or of the second update of a comparison."""
    key = rows["run"].astype(str) + " " + rows["step"].astype(str)
    names = list(dict.fromkeys(key))
    if number >= len(names):
        raise RankLabError(
            "the comparison was made without a base, so that it tells nothing of an update in its weight."
        )
    return rows[key == names[number]]
