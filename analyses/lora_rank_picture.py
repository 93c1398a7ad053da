"""The pictures of :mod:`analyses.lora_rank_choice`, from its kept tables alone."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analyses.kept_results import Kept, write_picture
from analyses.lora_rank_arms import FULL
from analyses.lora_rank_claims import by_seed
from analyses.lora_rank_subspaces import MAP_SIDE, map_from
from analyses.paired_seeds import difference
from rank_lab.figures.phi_map import phi_map
from rank_lab.figures.style import marks
from rank_lab.subspace import phi_null
from rank_lab.subspace_views import Pair, PhiView

__all__ = ["draw"]


def draw(found: Kept) -> None:
    """Write all of them.

    Parameters
    ----------
    found
        What was kept.
    """
    settings = found.about["settings"]
    write_picture(_losses(found.tables["runs"], settings), found.folder, "loss", scale=1.5)
    maps = found.tables["maps"].assign(pair=lambda rows: rows["pair"].fillna(""))
    for (pair, kind), rows in maps.groupby(["pair", "kind"], sort=False):
        name = f"phi-{pair}-{kind}" if kind != "Gaussian" else "phi-gaussian"
        write_picture(_map(rows, str(kind), settings), found.folder, name, scale=1.5)


def _losses(runs: pd.DataFrame, settings: Mapping[str, Any]) -> go.Figure:
    figure, ranks = go.Figure(), settings["ranks"]
    looks = marks(list(settings["grid"]), "paper")
    full = difference(list(by_seed(runs, FULL, 0).values()))
    if full.low == full.low:
        figure.add_hrect(full.low, full.high, fillcolor="#bbbbbb", opacity=0.35, line_width=0, layer="below")
    figure.add_hline(full.value, line={"color": "#777777", "width": 1}, annotation_text=FULL)
    for place, matrices in enumerate(settings["grid"]):
        points = [difference(list(by_seed(runs, matrices, rank).values())) for rank in ranks]
        look, aside = looks[matrices], 1.0 + 0.015 * (place - len(settings["grid"]) / 2)  # bars do not hide each other
        figure.add_trace(
            go.Scatter(
                x=[rank * aside for rank in ranks], y=[point.value for point in points], mode="lines+markers",
                name=matrices, line={"color": look.color, "dash": look.dash, "width": 2},
                marker={"symbol": look.symbol, "size": 8},
                error_y={"array": [0.0 if np.isnan(point.high) else point.high - point.value for point in points],
                         "thickness": 1, "width": 3, "color": look.color},
            )
        )  # fmt: skip
    figure.update_xaxes(title="rank", type="log", tickvals=ranks)
    figure.update_yaxes(title="loss on held-out code, nats a token")
    return figure.update_layout(
        template="simple_white", width=860, height=480, font_size=13, margin={"l": 70, "r": 20, "t": 20, "b": 60},
        legend={"title": "adapted"},
    )  # fmt: skip


def _map(rows: pd.DataFrame, kind: str, settings: Mapping[str, Any]) -> go.Figure:
    """The tool's own figure."""
    grid, width = map_from(rows), settings["base"]["hidden_size"]
    null = np.array([[phi_null(i + 1, j + 1, width) for j in range(grid.shape[1])] for i in range(grid.shape[0])])
    first = rows.iloc[0]
    if kind == "Gaussian":
        pair, module = Pair("Gaussian", None, "another Gaussian", None), f"matrices of width {width}"
    else:
        names = (f"r{first[rank]:.0f}-seed{first[seed]:.0f}" for rank, seed in
                 (("rank", "seed"), ("other_rank", "other_seed")))  # fmt: skip
        pair, module = (
            Pair(next(names), None, next(names), None),
            f"{kind}, layer {settings['base']['num_hidden_layers'] // 2}",
        )
    view = PhiView(pair, module, MAP_SIDE, grid, null, (grid.shape[0], grid.shape[1]), rows)
    return phi_map(view, "light").plot.update_layout(width=560, height=230 if grid.shape[0] < 16 else 480)
