"""Figures: one function each, from a table to a plotly figure with data and caption; nothing is computed here."""

from rank_lab.figures.figure import Figure
from rank_lab.figures.layer_map import layer_map
from rank_lab.figures.style import STYLES, Style

__all__ = ["STYLES", "Figure", "Style", "layer_map"]
