"""The picture of :mod:`analyses.learning_vs_forgetting`, from the tables of its study."""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analyses.trade_off_report import MEASURE, arm_of, titles
from rank_lab.outcomes import Outcomes

__all__ = ["draw"]

_COLORS = {"full": "#0072B2", "lora-r4": "#E69F00", "lora-r32": "#D55E00", "sora-r32": "#009E73"}  # Okabe-Ito
_DASHES = ("dot", "solid", "dash")


def draw(found: Outcomes) -> go.Figure:
    """Forgetting over learning, and rank over learning; a line a run, from its first checkpoint to its last.

    Parameters
    ----------
    found
        Of the study.
    """
    points = _points(found)
    figure = make_subplots(cols=2, horizontal_spacing=0.1)
    shown = set()
    for run, rows in points.groupby("run", sort=False):
        arm = arm_of(str(run))
        rates = sorted(points.loc[points["arm"] == arm, "learning_rate"].unique())
        line = rows.sort_values("step")
        look = {
            "line": {"color": _COLORS[arm], "dash": _DASHES[rates.index(line["learning_rate"].iloc[0]) % 3]},
            "marker": {"size": 5}, "mode": "lines+markers", "legendgroup": arm, "name": titles()[arm],
        }  # fmt: skip
        for column, name in enumerate(("forgetting", "energy_rank_90"), start=1):
            new = arm not in shown
            figure.add_trace(go.Scatter(x=line["learning"], y=line[name], showlegend=new, **look), row=1, col=column)
            shown.add(arm)
    figure.update_xaxes(title="learned: nats a token on code, below the base")
    figure.update_yaxes(title="forgotten: nats a token on prose, above the base", row=1, col=1)
    figure.update_yaxes(title="k<sub>90</sub>, mean weighted by change", type="log", dtick="D2", row=1, col=2)
    figure.update_layout(
        template="simple_white", width=1100, height=480, font_size=13, margin={"l": 70, "r": 20, "t": 20, "b": 110},
        legend={"orientation": "h", "y": -0.2, "x": 0.5, "xanchor": "center"},
    )  # fmt: skip
    return figure


def _points(found: Outcomes) -> pd.DataFrame:
    """Checkpoints with learning and forgetting, and their ranks beside them."""
    points = found.trade_offs.points
    points = points[points["measure"] == MEASURE].copy()
    points["arm"] = [arm_of(run) for run in points["run"]]
    ranks = ["run", "step", "energy_rank_90", "null_energy_rank_90", "effective_rank", "relative_frobenius"]
    return points.merge(found.checkpoints[ranks], on=["run", "step"], how="left")
