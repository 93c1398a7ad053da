"""Rank plan: ranks under a budget, for an energy or one for all, with what they keep and the files to go on with."""

import json

import streamlit as st

from rank_lab.budget_views import budget_view, plan_view
from rank_lab.figures import budget_curve, plan_map
from rank_lab.next_commands import extract_command, plan_command
from rank_lab.plan_words import plan_caps, plan_totals
from rank_lab.rank_plan import ALLOCATIONS, Allocation, RankPlan
from rank_lab.report_spectra import plan_table
from rank_lab.study import Study
from rank_lab.study_plan import ENERGIES, PlanBasis, StudyModules, plan_basis, study_modules

from .choices import choose_number, choose_of, choose_on_slider, choose_run, choose_step, choose_switch
from .empty import ranks_of
from .guarded import in_words
from .shown import Draw, show_figure, show_table
from .text import escaped

__all__ = ["budget_curve_of", "page", "plan_map_of"]

_GOALS = {"parameters": "a number of parameters", "energy": "a share of the energy", "rank": "one rank for all"}
_METHODS = {
    "greedy": "greedy: most energy for them",
    "uniform": "uniform: one rank",
    "per_layer": "per layer: one share",
}
_TIES_UNKNOWN = (
    "The model's config.json is not in this study, so that an output head that shares the embedding's weight without"
    " being stored is not known here: a LoRA on the embedding would not reach it. 'rank-lab plan' looks where the"
    " checkpoint was."
)


def page(study: Study) -> None:
    """A slider, and all that follows from it."""
    st.title("Rank plan")
    if ranks_of(study) is None:
        return
    plan, basis, options = _chosen(study)
    _shown(plan, basis)
    _files(study, plan, basis, options)


def plan_map_of(study: Study) -> Draw:
    """Ranks of a plan by layer and kind, with the choices of it."""
    view = plan_view(plan_table(_chosen(study)[0]))
    return lambda style: plan_map(view, style)


def budget_curve_of(study: Study) -> Draw:
    """Kept energy against parameters, with the choices of it."""
    plan, basis, _ = _chosen(study)
    return _budget_curve(plan, basis, plan_view(plan_table(plan)).about)


def _chosen(study: Study) -> tuple[RankPlan, PlanBasis, dict[str, object]]:
    """A plan as it is chosen, and the options of the command line that ask for it."""
    updates = study.updates()
    columns = st.columns(4)
    with columns[0]:
        run = choose_run(updates)
    with columns[1]:
        step = choose_step(updates, run)
    with columns[2]:
        goal = choose_of("Ranks for", tuple(_GOALS), key="goal", words=_GOALS)
    with columns[3]:
        method: Allocation = "uniform"
        if goal != "rank":
            method = choose_of("Chosen", ALLOCATIONS, key="allocation", words=_METHODS)
    left, right = st.columns([3, 1])
    with right:
        most = choose_number("Largest rank", key="most", most=1_000_000, explained="Of any module; empty for no limit.")
        rounding = choose_switch(
            "Take rounding in", key="rounding", explained="Also directions that the rounding of the files explains."
        )
    state = (str(study.folder), study.signature())
    basis = _basis(study, state, run, step, most=most, above_noise=not rounding)
    with left:
        plan, options = _plan(basis, goal, method)
    return plan, basis, options


def _budget_curve(plan: RankPlan, basis: PlanBasis, about: str) -> Draw:
    chosen = {"parameters": plan.parameters, "kept_energy": plan.kept_energy, "relative_error": plan.relative_error}
    view = budget_view(basis.curve, chosen, about=about)
    return lambda style: budget_curve(view, style)


@st.cache_resource(max_entries=8, show_spinner="Reading spectra")
def _basis(
    _study: Study, state: tuple[str, str], run: str, step: int | None, *, most: int | None, above_noise: bool
) -> PlanBasis:
    """Sorted once for each state of the files; each place of a slider is then a look-up."""
    return plan_basis(_modules(_study, state, run, step), most=most, above_noise=above_noise)


@st.cache_resource(max_entries=4, show_spinner=False)
def _modules(_study: Study, state: tuple[str, str], run: str, step: int | None) -> StudyModules:  # noqa: ARG001
    """Spectra are read once, whatever is asked of them; ``state`` is another one when a file has changed."""
    return study_modules(_study, run, step=step)


def _plan(found: PlanBasis, goal: str, method: Allocation) -> tuple[RankPlan, dict[str, object]]:
    """The plan, and the options of the command line that ask for it."""
    allocator = found.allocator
    caps = {"most": found.most, "with-rounding": not found.above_noise}
    if goal == "energy":
        energy = choose_on_slider(
            "Share of the energy to keep", ENERGIES, key="energy", default=0.9, words="{:.1%}".format
        )
        return allocator.plan(energy=energy, method=method), {"energy": energy, "method": method, **caps}
    if goal == "rank":
        rank = choose_on_slider("Rank of every module", found.ranks, key="one_rank", default=found.ranks[:8][-1])
        return allocator.plan(rank=rank), {"rank": rank, **caps}
    budget = choose_on_slider(
        "Parameters of all factors together", found.budgets, key="budget", default=found.first, words="{:,}".format
    )
    return allocator.plan(parameters=budget, method=method), {"budget": budget, "method": method, **caps}


def _shown(plan: RankPlan, found: PlanBasis) -> None:
    columns = [*st.columns(2), *st.columns(2)]  # of four the numbers are cut on a narrow screen
    columns[0].metric("Parameters", f"{plan.parameters:,}")
    columns[1].metric("Kept energy", f"{plan.kept_energy:.2%}")
    columns[2].metric("Relative error", f"{plan.relative_error:.4g}")
    columns[3].metric("Modules with a rank", f"{len(plan.ranks)} of {len(plan.rows)}")
    st.caption(escaped(plan_totals(plan)))
    for sentence in plan_caps(plan):
        (st.info if plan.reached else st.warning)(escaped(sentence))
    if not found.modules.config:
        st.caption(escaped(_TIES_UNKNOWN))
    table = plan_table(plan)
    view = plan_view(table)
    with in_words():  # one above the other: side by side neither can be read on a narrow screen
        show_figure(lambda style: plan_map(view, style), key="plan_map")
    with in_words():
        show_figure(_budget_curve(plan, found, view.about), key="budget_curve")
    show_table(table, name="rank-plan", key="plan_table")


def _files(study: Study, plan: RankPlan, found: PlanBasis, options: dict[str, object]) -> None:
    """What to go on with, made when it is asked for."""
    st.subheader("Go on with it")
    first = found.modules.spectra[0]
    by_rank = "rank" in options
    again = extract_command(study, first.run, first.step, options) if by_rank else plan_command(
        study, first.run, first.step, options
    )  # fmt: skip
    if not plan.ranks:
        st.info(
            escaped("No module has a rank, so that there is no adapter to train or to extract."), icon=":material/info:"
        )
        return
    left, right = st.columns(2)
    left.download_button(
        "PEFT config (adapter_config.json)", lambda: json.dumps(found.modules.peft_config(plan), indent=1),
        "adapter_config.json", "application/json", key="peft_config", on_click="ignore",
    )  # fmt: skip
    right.download_button(
        "Plan (plan.json)",
        lambda: json.dumps(
            found.modules.plan_file(plan, most=found.most, above_noise=found.above_noise, command=again), indent=1
        ),
        "plan.json", "application/json", key="plan_file", on_click="ignore",
    )  # fmt: skip
    st.markdown(escaped("The LoRA of this plan, made from the checkpoint, read again and its error measured:"))
    st.code(extract_command(study, first.run, first.step, {"plan": "plan.json"}), language=None, wrap_lines=True)
    st.markdown(escaped("The same ranks in the terminal:"))
    st.code(again, language=None, wrap_lines=True)
