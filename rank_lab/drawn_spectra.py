"""Spectra of a study as they are drawn: rows and values brought together."""

from collections.abc import Sequence

import pandas as pd

from rank_lab.errors import RankLabError
from rank_lab.row_choices import rows_of
from rank_lab.run_comparison import Place
from rank_lab.spectrum_bands import SpectrumBands, spectrum_bands
from rank_lab.spectrum_curve import SpectrumCurve, spectrum_curve
from rank_lab.study import Study

__all__ = ["drawn_bands", "drawn_spectra", "drawn_spectrum"]


def drawn_spectrum(study: Study, rows: pd.DataFrame, module: str) -> SpectrumCurve:
    """The spectrum of one matrix.

    Parameters
    ----------
    study
        That has its values.
    rows
        Of one run, step and delta; see :func:`rank_lab.row_choices.rows_of`.
    module
        Name of the matrix.

    Raises
    ------
    RankLabError
        If there is no such matrix, or its values are not those of its row.
    """
    row = rows[rows["module"] == module]
    if len(row) != 1:
        raise RankLabError(f"matrix {module!r} is there {len(row)} times; expected once: choose run, step and delta.")
    run, step, delta = row.iloc[0][["run", "step", "delta"]]
    return spectrum_curve(row, study.values(str(run), module, step=_step(step), delta=str(delta)))


def drawn_spectra(
    study: Study, places: Sequence[Place], modules: Sequence[str], delta: str = "cumulative"
) -> tuple[list[SpectrumCurve], list[str]]:
    """Spectra of some matrices in some runs.

    Parameters
    ----------
    study
        That has their values.
    places
        Runs and steps.
    modules
        Names of matrices, not all of which need be in every run.
    delta
        ``cumulative`` or ``step``.

    Returns
    -------
    list of SpectrumCurve
        Those that are there, run by run.
    list of str
        What is not there, in words.
    """
    updates = study.updates()
    found: list[SpectrumCurve] = []
    missing: list[str] = []
    for run, step in places:
        rows = rows_of(updates, run, step, delta)
        there = set(rows["module"].astype(str))
        for module in modules:
            if module in there:
                found.append(drawn_spectrum(study, rows, module))
            else:
                missing.append(f"run {run} has no matrix {module}")
    return found, missing


def drawn_bands(
    study: Study, place: Place, delta: str = "cumulative", *, highlight: Sequence[str] = (), kind: str = ""
) -> SpectrumBands:
    """Bands over all spectra of a run and step, or of one kind of module.

    Parameters
    ----------
    study
        That has the values.
    place
        Run and step.
    delta
        ``cumulative`` or ``step``.
    highlight
        Matrices that are drawn by themselves, too; those that are not there are left out.
    kind
        Of module; empty for all.
    """
    run, step = place
    rows = rows_of(study.updates(), run, step, delta)
    rows = rows[rows["kind"] == kind] if kind else rows
    there = set(rows["module"].astype(str))
    values = study.all_values(run, step=step, delta=delta)
    return spectrum_bands(rows, values, highlight=[module for module in highlight if module in there])


def _step(step: object) -> int | None:
    return None if pd.isna(step) else int(step)  # type: ignore[call-overload]
