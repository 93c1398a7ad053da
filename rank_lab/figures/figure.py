"""A figure with what belongs to it: its data, its caption, and the quantities that it shows."""

from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go

__all__ = ["Figure"]


@dataclass(frozen=True, eq=False)
class Figure:
    """What a figure function gives.

    Parameters
    ----------
    name
        File name without its ending: letters, digits, ``-`` and ``_``.
    title
        What is shown, in words; not in the graphic of a paper.
    plot
        Of plotly.
    data
        What is drawn, a row a mark, under plain names: it is written as CSV beside the picture.
    caption
        Definition of what is shown, where the data are from, and how many there are. Plain text.
    metrics
        Names of quantities (of :data:`rank_lab.metrics.METRICS` and others) whose sources a paper cites.
    """

    name: str
    title: str
    plot: go.Figure
    data: pd.DataFrame
    caption: str
    metrics: tuple[str, ...] = ()
