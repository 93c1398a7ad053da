"""Choices that live in the URL, so that a view can be shared; the same over all pages."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import pandas as pd
import streamlit as st

from rank_lab.errors import RankLabError
from rank_lab.plain_text import plain
from rank_lab.schema import RANKS
from rank_lab.shown_values import OVER, SHOWN, Over, quantity_label

from .text import escaped

__all__ = [
    "choose_delta",
    "choose_delta_of",
    "choose_metric",
    "choose_module",
    "choose_number",
    "choose_of",
    "choose_on_slider",
    "choose_over",
    "choose_run",
    "choose_several",
    "choose_step",
    "choose_switch",
]

_Option = TypeVar("_Option")


def choose_run(updates: pd.DataFrame) -> str:
    """One of the runs that have ranks."""
    return _one("Run", [str(run) for run in dict.fromkeys(updates["run"])], key="run")


def choose_step(updates: pd.DataFrame, run: str) -> int | None:
    """One of the steps of a run, the last by default; None where the run has one checkpoint without a step."""
    steps = sorted({int(step) for step in updates.loc[updates["run"] == run, "step"].dropna()}, reverse=True)
    return _one("Step", steps, key="step") if steps else None


def choose_delta(updates: pd.DataFrame, run: str) -> str:
    """Change since the base, or since the checkpoint before."""
    return choose_delta_of(updates[updates["run"] == run])


def choose_delta_of(rows: pd.DataFrame) -> str:
    """The same of rows of any runs."""
    deltas = sorted({str(delta) for delta in rows["delta"]})
    words = {"cumulative": "since the base", "step": "since the checkpoint before"}
    return _one("Change", deltas, key="delta", words=words)


def choose_metric(default: str = "energy_rank_90") -> str:
    """One of the quantities."""
    names = [default, *(name for name in SHOWN if name != default)]
    return _one("Quantity", names, key="metric", words={name: quantity_label(name) for name in names})


def choose_over(metric: str) -> Over:
    """What a rank is divided by."""
    words = {"": "as it is", "bound": "over its bound", "null": "over its null"}
    return _one("Shown", OVER if metric in RANKS else OVER[:1], key="over", words=words)


def choose_module(modules: Sequence[str]) -> str:
    """One of the matrices."""
    return choose_of("Matrix", modules, key="module")


def choose_of(label: str, options: Sequence[_Option], *, key: str, words: Mapping[str, str] | None = None) -> _Option:
    """One of several; ``words`` say what an option is called."""
    if not options:
        raise RankLabError(f"{label}: this study has nothing to choose from.")
    return _one(label, options, key=key, words=dict(words or {}))


def choose_several(label: str, options: Sequence[str], *, key: str, default: Sequence[str], most: int) -> list[str]:
    """Some of many, in the order in which they were taken; the default where none is."""
    if not set(st.session_state.get(key, ())) <= set(options):
        del st.session_state[key]
    chosen = st.multiselect(
        label, options, default=list(default), key=key, bind="query-params", max_selections=most, format_func=plain
    )
    return list(chosen) or list(default)


def choose_on_slider(
    label: str, options: Sequence[_Option], *, key: str, default: _Option, words: Callable[[_Option], str] = str
) -> _Option:
    """One of an ordered row of values."""
    if st.session_state.get(key, default) not in options:
        del st.session_state[key]
    if len(options) == 1:  # a slider has two ends
        st.caption(escaped(f"{label}: {words(options[0])}"))
        return options[0]
    chosen: _Option = st.select_slider(label, options, value=default, key=key, bind="query-params", format_func=words)
    return chosen


def choose_number(label: str, *, key: str, most: int, explained: str = "") -> int | None:
    """A whole number of at least 1, or none."""
    found = st.number_input(
        label, min_value=1, max_value=most, value=None, step=1, key=key, bind="query-params", help=explained or None
    )
    return None if found is None else int(found)


def choose_switch(label: str, *, key: str, default: bool = False, explained: str = "") -> bool:
    """Yes or no."""
    return bool(st.toggle(label, value=default, key=key, bind="query-params", help=explained or None))


def _named_in_the_address(options: Sequence[_Option], key: str, shown: Mapping[str, str]) -> None:
    """An address that was written by hand may have the name of a choice in place of its words."""
    asked = st.query_params.get(key)
    if key in st.session_state or asked is None or asked in {shown.get(str(each), str(each)) for each in options}:
        return
    named = [each for each in options if str(each) == asked]
    if named:
        st.query_params[key] = shown.get(asked, asked)
        st.rerun()


def _one(label: str, options: Sequence[_Option], *, key: str, words: dict[str, str] | None = None) -> _Option:
    """A select box bound to the URL, whose value is one of the options even where another page left something else."""
    if key in st.session_state and st.session_state[key] not in options:
        del st.session_state[key]
    shown = words or {}
    _named_in_the_address(options, key, shown)
    chosen = st.selectbox(
        label, options, key=key, bind="query-params", format_func=lambda option: shown.get(str(option), str(option))
    )
    return options[0] if chosen is None else chosen
