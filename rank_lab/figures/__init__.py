"""Figures: one function each, from a table to a plotly figure with data and caption; nothing is computed here."""

from rank_lab.figures.amplification_plot import amplification_plot
from rank_lab.figures.association_plot import association_plot
from rank_lab.figures.behavioural_curve import behavioural_curve
from rank_lab.figures.budget_curve import budget_curve
from rank_lab.figures.curves_by_task import curves_by_task
from rank_lab.figures.figure import Figure
from rank_lab.figures.functional_ranks import functional_depth_plot, functional_weight_plot
from rank_lab.figures.gate_map import gate_map, gates_over_stages
from rank_lab.figures.intruder_map import intruder_map
from rank_lab.figures.layer_map import layer_map
from rank_lab.figures.memorization_curve import memorization_curve
from rank_lab.figures.method_against_method import method_against_method
from rank_lab.figures.noise_and_coverage import noise_and_coverage
from rank_lab.figures.outcome_trajectory import outcome_trajectory
from rank_lab.figures.phi_map import phi_map
from rank_lab.figures.plan_map import plan_map
from rank_lab.figures.principal_angles import principal_angles
from rank_lab.figures.rank_along_depth import rank_along_depth
from rank_lab.figures.rank_along_training import rank_along_training
from rank_lab.figures.rank_and_forgetting import rank_and_forgetting
from rank_lab.figures.rank_by_kind import rank_by_kind
from rank_lab.figures.spectrum import spectrum
from rank_lab.figures.spectrum_bands import spectrum_bands_plot
from rank_lab.figures.style import STYLES, Style
from rank_lab.figures.trade_off import trade_off

__all__ = [
    "STYLES",
    "Figure",
    "Style",
    "amplification_plot",
    "association_plot",
    "behavioural_curve",
    "budget_curve",
    "curves_by_task",
    "functional_depth_plot",
    "functional_weight_plot",
    "gate_map",
    "gates_over_stages",
    "intruder_map",
    "layer_map",
    "memorization_curve",
    "method_against_method",
    "noise_and_coverage",
    "outcome_trajectory",
    "phi_map",
    "plan_map",
    "principal_angles",
    "rank_along_depth",
    "rank_along_training",
    "rank_and_forgetting",
    "rank_by_kind",
    "spectrum",
    "spectrum_bands_plot",
    "trade_off",
]
