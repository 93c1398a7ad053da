"""Spectra: those of any matrices and runs over one another, and the bands that hold those of a whole run."""

import pandas as pd
import streamlit as st

from rank_lab.drawn_spectra import drawn_bands, drawn_spectra
from rank_lab.figures import spectrum, spectrum_bands_plot
from rank_lab.places import places_of
from rank_lab.spectrum_bands import SpectrumBands
from rank_lab.study import Study

from .choices import choose_delta_of, choose_of, choose_several
from .empty import ranks_of
from .guarded import in_words
from .shown import Draw, show_figure, show_table
from .text import escaped

__all__ = ["bands_of", "page"]

_MOST_PLACES = 6
_MOST_MATRICES = 6


def page(study: Study) -> None:
    """Chosen spectra, then the bands of one run with the same matrices highlighted."""
    st.title("Spectra")
    updates = ranks_of(study)
    if updates is None:
        return
    delta = choose_delta_of(updates)
    places = places_of(updates, delta)
    names = list(places)
    shown = choose_several("Runs and steps", names, key="places", default=names[:2], most=_MOST_PLACES)
    modules = _modules(updates, [places[name][0] for name in shown])
    chosen = choose_several("Matrices", modules, key="matrices", default=modules[:1], most=_MOST_MATRICES)
    with in_words():
        curves, missing = drawn_spectra(study, [places[name] for name in shown], chosen, delta)
        for each in missing:
            st.caption(escaped(f"Not shown: {each}."))
        show_figure(lambda style: spectrum(curves, style), key="spectra")
    st.subheader("All matrices of a run")
    _bands(study, places[choose_of("Run and step", shown, key="band_place")], delta, chosen)


def bands_of(study: Study) -> Draw:
    """The bands that hold all spectra of a run and step, with the choices of it."""
    updates = study.updates()
    delta = choose_delta_of(updates)
    places = places_of(updates, delta)
    bands = _drawn(study, places[choose_of("Run and step", tuple(places), key="band_place")], delta, [])
    return lambda style: spectrum_bands_plot(bands, style)


def _drawn(study: Study, place: tuple[str, int | None], delta: str, chosen: list[str]) -> SpectrumBands:
    updates = study.updates()
    kinds = ["", *dict.fromkeys(str(kind) for kind in updates.loc[updates["run"] == place[0], "kind"])]
    kind = choose_of("Kind of module", kinds, key="kind", words={"": "all"})
    return drawn_bands(study, place, delta, highlight=chosen, kind=kind)


def _bands(study: Study, place: tuple[str, int | None], delta: str, chosen: list[str]) -> None:
    with in_words():
        bands = _drawn(study, place, delta, chosen)
        show_figure(lambda style: spectrum_bands_plot(bands, style), key="bands")
        show_table(bands.bands, name="spectrum-bands", key="bands_table")


def _modules(updates: pd.DataFrame, runs: list[str]) -> list[str]:
    return [str(module) for module in dict.fromkeys(updates.loc[updates["run"].isin(runs), "module"])]
