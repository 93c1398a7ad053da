"""Scheduler: Algorithm 1 as it runs, memorization and generalization as the threshold rises."""

from functools import partial

import streamlit as st

from rank_lab.curve import CURVE_FILE, Curve
from rank_lab.curve_points import CURVE_AXES, CurveAxis, curve_points
from rank_lab.curve_progress import CurveProgress, begun, curve_progress, running_stage
from rank_lab.figures import gate_map, gates_over_stages, memorization_curve
from rank_lab.figures.memorization_curve import CONTROLS
from rank_lab.gate_tables import gate_table, gates_along_stages
from rank_lab.next_commands import schedule_command
from rank_lab.stage_table import controls_of, seeds_of, stage_table, stages_of
from rank_lab.study import Study

from .choices import choose_of
from .guarded import in_words
from .missing import say_missing, say_problems
from .shown import Draw, show_figure, show_table
from .text import escaped

__all__ = ["choose_control", "choose_seed", "curve_of", "gates_of", "gates_over_stages_of", "page"]

_AXES = {"nonzero_parameters": "non-zero parameters", "threshold": "threshold λ"}
_LIVE = 3.0  # seconds


def page(study: Study) -> None:
    """The curve, its gates and its stages, and what is not there yet."""
    st.title("Scheduler")
    curve = study.curve()
    empty = begun(study.folder)
    if curve is None and empty.file.is_file() and say_problems(study, CURVE_FILE):
        return
    progress = curve_progress(curve or empty)
    if curve is None and progress.stages_meant is None:
        what = "This study has no Algorithm-1 run; start one, and its stages appear here as they end."
        say_missing(what, schedule_command(study))
        return
    _state(progress)
    if not progress.done:
        st.fragment(partial(_running, study), run_every=_LIVE)()
    if curve is not None:
        _shown(curve)
    if progress.missing:
        st.subheader("What is missing")
        for sentence in progress.missing:
            st.markdown(f"- {escaped(sentence)}")


def curve_of(curve: Curve, seed: int | None) -> Draw:
    """Memorization and generalization, over what is chosen."""
    axis: CurveAxis = choose_of("Drawn over", CURVE_AXES, key="axis", words=_AXES)
    points = curve_points(curve, axis, seed=seed)
    return lambda style: memorization_curve(points, style)


def gates_of(curve: Curve, control: str) -> Draw:
    """Gates that are left at one stage."""
    stage = choose_of("Stage", stages_of(curve, control), key="stage")
    table = gate_table(curve, stage, control=control)
    return lambda style: gate_map(table, style)


def gates_over_stages_of(curve: Curve, control: str) -> Draw:
    """Gates that are left, stage by stage."""
    by = choose_of("Along the stages by", ("kind", "layer"), key="by", words={"kind": "kind of module"})
    table = gates_along_stages(curve, by=by, control=control)
    return lambda style: gates_over_stages(table, style)


def choose_seed(curve: Curve) -> int | None:
    """One of the seeds, or all of them."""
    return choose_of("Seed", (None, *seeds_of(curve)), key="seed", words={"None": "all"})


def choose_control(curve: Curve) -> str:
    """The algorithm itself, or one of its controls."""
    return choose_of("Gates of", controls_of(curve), key="control", words={"sora": "SoRA's stages"} | CONTROLS)


def _shown(curve: Curve) -> None:
    left, right = st.columns(2)
    with right:
        seed = choose_seed(curve)
    with in_words():
        with left:
            draw = curve_of(curve, seed)
        show_figure(draw, key="curve")
    st.subheader("Stages")
    show_table(stage_table(curve, seed=seed), name="stages", key="stages")
    st.subheader("Gates")
    control = choose_control(curve)
    with in_words():
        show_figure(gates_of(curve, control), key="gates")
    with in_words():
        show_figure(gates_over_stages_of(curve, control), key="gates_along_stages")


def _state(progress: CurveProgress) -> None:
    columns = st.columns(3)
    columns[0].metric("Stages done", progress.stages_text)
    columns[1].metric("Rows of controls", progress.controls_text)
    columns[2].metric("State", "done" if progress.done else "not done")


def _running(study: Study) -> None:
    """The stage under way, looked at again every few seconds by itself."""
    found = running_stage(study.curve() or begun(study.folder))
    if found is not None:
        st.caption(escaped(f"Under way. {found.sentence()}"))
