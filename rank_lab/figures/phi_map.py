"""LoRA's subspace similarity of the leading directions of two updates of one module."""

import numpy as np
import plotly.graph_objects as go

from rank_lab.figures.captions import caption
from rank_lab.figures.figure import Figure
from rank_lab.figures.style import Style, label, new_plot, palette
from rank_lab.subspace_views import PhiView

__all__ = ["phi_map"]

_SIDES = {"left": "left singular vectors", "right": "right singular vectors", "A": "right singular vectors of A"}


def phi_map(view: PhiView, style: Style = "light") -> Figure:
    """Similarity by how many directions of each update.

    Parameters
    ----------
    view
        From :func:`rank_lab.subspace_views.phi_view`.
    style
        Of the plot.

    Returns
    -------
    Figure
        Colours from 0 to 1; lines where the directions above rounding end.
    """
    words = view.pair.words
    title = f"φ(i, j) of {label(view.module)}, {_SIDES.get(view.side, view.side)}"
    plot = new_plot(
        style, title=title, x="j, directions of the second", y="i, directions of the first",
        height=300 if style == "paper" else 480,
    )  # fmt: skip
    first, second = view.phi.shape
    plot.add_trace(
        go.Heatmap(
            z=[[None if np.isnan(value) else float(value) for value in row] for row in view.phi],
            x=list(range(1, second + 1)), y=list(range(1, first + 1)), zmin=0.0, zmax=1.0,
            colorscale=palette(style).scale, name="phi",
            text=[[_hover(view, i, j) for j in range(second)] for i in range(first)], hoverinfo="text",
            colorbar={"title": {"text": "φ", "side": "right"}, "thickness": 12},
        )
    )  # fmt: skip
    look = {"line": {"color": palette(style).edge, "width": 1.5, "dash": "dash"}}
    if view.resolved[1] is not None and view.resolved[1] < second:
        plot.add_vline(x=view.resolved[1] + 0.5, name="resolved", **look)
    if view.resolved[0] is not None and view.resolved[0] < first:
        plot.add_hline(y=view.resolved[0] + 0.5, name="resolved", **look)
    plot.update_xaxes(showgrid=False)
    plot.update_yaxes(showgrid=False)
    return Figure(
        f"phi_{view.side}", "Subspace similarity", plot, view.table,
        caption(
            "φ(i, j) of the leading i directions of the first update and j of the second",
            [("φ(i, j): squared Frobenius norm of the product of both spans, over min(i, j); 1 where one span holds the"
             " other, 0 where they are at right angles")],
            f"Data: {words}, {view.module}, {_SIDES.get(view.side, view.side)}; n = {first} × {second} directions",
            _notes(view),
        ),
        ("phi",),
    )  # fmt: skip


def _hover(view: PhiView, i: int, j: int) -> str:
    value, null = view.phi[i, j], view.null[i, j]
    told = "no value" if np.isnan(value) else f"{value:.4g}"
    return f"φ({i + 1}, {j + 1}): {told}" + ("" if np.isnan(null) else f"<br>null: {null:.4g}")


def _notes(view: PhiView) -> list[str]:
    known = view.null[~np.isnan(view.null)]
    notes = (
        [f"Null, of random spans: {known.min():.3g} to {known.max():.3g}, for each i, j in the data"]
        if len(known)
        else []
    )
    first, second = view.resolved
    if first is None or second is None:
        notes.append("How many directions stand above rounding is not known")
    else:
        beyond = first < view.phi.shape[0] or second < view.phi.shape[1]
        lines = "; beyond the dashed lines noise is compared" if beyond else ""
        notes.append(f"{first} and {second} directions at least stand above the rounding of the files{lines}")
    return notes + (["Blank: no value"] if np.isnan(view.phi).any() else [])
