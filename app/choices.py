"""Choices that live in the URL, so that a view can be shared; the same over all pages."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import pandas as pd
import streamlit as st

from rank_lab.schema import RANKS
from rank_lab.shown_values import OVER, SHOWN, Over, quantity_label

__all__ = ["choose_delta", "choose_metric", "choose_module", "choose_of", "choose_over", "choose_run", "choose_step"]

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
    deltas = sorted({str(delta) for delta in updates.loc[updates["run"] == run, "delta"]})
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
    return _one("Matrix", modules, key="module")


def choose_of(label: str, options: Sequence[_Option], *, key: str, words: Mapping[str, str] | None = None) -> _Option:
    """One of several; ``words`` say what an option is called."""
    return _one(label, options, key=key, words=dict(words or {}))


def _one(label: str, options: Sequence[_Option], *, key: str, words: dict[str, str] | None = None) -> _Option:
    """A select box bound to the URL, whose value is one of the options even where another page left something else."""
    if key in st.session_state and st.session_state[key] not in options:
        del st.session_state[key]
    shown = words or {}
    chosen = st.selectbox(
        label, options, key=key, bind="query-params", format_func=lambda option: shown.get(str(option), str(option))
    )
    return options[0] if chosen is None else chosen
