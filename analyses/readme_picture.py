"""The picture of the README, from the reports of the demo: ``make demo``, then ``python -m analyses.readme_picture``.

Needs the extra ``[export]`` (kaleido) and a Chrome or Chromium.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import plotly.graph_objects as go
import typer
from plotly.subplots import make_subplots

from rank_lab import RankReport, null_spectrum
from rank_lab.names import KINDS

MODULE = "model.layers.2.mlp.up_proj"
RUNS = {"full": "full-1e-4", "lora": "lora-5e-4"}  # both at the lower of their two rates
STEP = 100
COLORS = {"full": "#0072B2", "lora": "#D55E00", "null": "#7F7F7F"}  # Okabe-Ito


def spectrum_panel(figure: go.Figure, full: RankReport, lora: RankReport) -> None:
    """Singular values of one matrix under both methods, with white noise of the same norm."""
    for run, report, prefix, name in (("full", full, "", "full fine-tuning"), ("lora", lora, "", "LoRA, r = 8")):
        values = np.asarray(report.values(prefix + MODULE, step=STEP))
        index = np.arange(1, len(values) + 1)
        figure.add_scatter(
            x=index, y=values, mode="lines+markers", name=name, line_color=COLORS[run], marker_size=4, row=1, col=1
        )
    row = full.updates[
        (full.updates["module"] == MODULE) & (full.updates["delta"] == "cumulative") & (full.updates["step"] == STEP)
    ].iloc[0]
    null = null_spectrum((int(row["out_features"]), int(row["in_features"])))
    figure.add_scatter(
        x=np.arange(1, len(null.values) + 1), y=null.values * float(row["frobenius_norm"]), mode="lines",
        name="white noise of the norm of full", line={"color": COLORS["null"], "dash": "dash"}, row=1, col=1,
    )  # fmt: skip
    figure.update_xaxes(title="index i", type="log", row=1, col=1)
    figure.update_yaxes(title="singular value σ<sub>i</sub>", type="log", row=1, col=1)


def rank_panel(figure: go.Figure, full: RankReport, lora: RankReport) -> None:
    """The 90 % energy rank of every matrix beside its null, by kind."""
    for run, report in (("full", full), ("lora", lora)):
        last = report.updates[(report.updates["delta"] == "cumulative") & (report.updates["step"] == STEP)]
        figure.add_scatter(
            x=last["kind"], y=last["energy_rank_90"].astype(float), mode="markers", showlegend=False,
            marker={"color": COLORS[run], "size": 8, "opacity": 0.75}, row=1, col=2,
        )  # fmt: skip
        if run == "full":
            nulls = last.drop_duplicates("kind")
            figure.add_scatter(
                x=nulls["kind"], y=nulls["null_energy_rank_90"], mode="markers", name="white noise of that shape",
                marker={"symbol": "line-ew", "size": 26, "line": {"width": 3, "color": COLORS["null"]}}, row=1, col=2,
            )  # fmt: skip
    order = [kind for kind in KINDS if kind in set(full.updates["kind"])]
    figure.update_xaxes(categoryorder="array", categoryarray=order, title="kind of module", row=1, col=2)
    figure.update_yaxes(title="90 % energy rank k<sub>90</sub>", rangemode="tozero", row=1, col=2)


def main(
    study: Annotated[Path, typer.Option()] = Path("demo-study"),
    out: Annotated[Path, typer.Option()] = Path("analyses/results/readme.png"),
) -> None:
    """Draw the picture."""
    full, lora = (RankReport.load(study / f"{name}.rank") for name in RUNS.values())
    titles = (f"Spectrum of ΔW, {MODULE.removeprefix('model.')}", "Rank beside its null, every matrix")
    figure = make_subplots(rows=1, cols=2, subplot_titles=titles, horizontal_spacing=0.1)
    spectrum_panel(figure, full, lora)
    rank_panel(figure, full, lora)
    figure.update_layout(
        template="simple_white", width=1000, height=400, font_size=13, margin={"l": 70, "r": 20, "t": 50, "b": 110}
    )
    figure.update_layout(legend={"orientation": "h", "y": -0.28, "x": 0.5, "xanchor": "center"})
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.write_image(out, scale=2)
    print(f"written: {out}")


if __name__ == "__main__":
    typer.run(main)
