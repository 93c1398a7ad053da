"""Figures: one function each, from a table to a plotly figure with data and caption; nothing is computed here."""

from rank_lab.figures.figure import Figure
from rank_lab.figures.layer_map import layer_map
from rank_lab.figures.method_against_method import method_against_method
from rank_lab.figures.noise_and_coverage import noise_and_coverage
from rank_lab.figures.rank_along_depth import rank_along_depth
from rank_lab.figures.rank_along_training import rank_along_training
from rank_lab.figures.rank_by_kind import rank_by_kind
from rank_lab.figures.spectrum import spectrum
from rank_lab.figures.spectrum_bands import spectrum_bands_plot
from rank_lab.figures.style import STYLES, Style

__all__ = [
    "STYLES",
    "Figure",
    "Style",
    "layer_map",
    "method_against_method",
    "noise_and_coverage",
    "rank_along_depth",
    "rank_along_training",
    "rank_by_kind",
    "spectrum",
    "spectrum_bands_plot",
]
