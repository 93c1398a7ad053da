"""Memorization and generalization as SoRA's threshold rises: Figure 3 of arXiv 2311.11696, with its controls.

``python -m analyses.sparsity_curves --data FOLDER`` adapts the MiniLM encoder that the development environment carries
to RTE by SoRA, raises the threshold stage by stage (Algorithm 1), and sets beside the curve what one-shot pruning and
SVD truncation reach with as many parameters, and the published script's loop (learning rate 0) in as many steps. FOLDER
holds one folder of JSON lines for each task; without it they come from the hub. Other tasks, models, seeds and sizes by
flags; a run that was stopped goes on. The curve, its configuration and its pictures are kept in
``results/sparsity_curves/``.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analyses.machine import about_machine, table
from analyses.storage_formats import encoder_folder
from rank_lab.bands import bands
from rank_lab.curve import SORA, Curve
from rank_lab.curve_terminal import interval_text, knee_sentence
from rank_lab.plain_text import first_line

__all__ = ["draw", "main"]

ENCODER = "all-MiniLM-L6-v2"
"""What the development environment's encoder is called in tables."""

_RESULTS = Path(__file__).parent / "results" / "sparsity_curves"
_KEPT = ("curve.jsonl", "knees.json", "schedule.json", "task.json", "memorization_subset.json")
_COLORS = {"memorization": "#0072B2", "generalization": "#D55E00"}  # Okabe-Ito
_CONTROLS = {
    SORA: ("SoRA, trained on", "circle", ""),
    "as_shipped": ("as published (learning rate 0)", "x", "#7F7F7F"),
    "one_shot": ("dense gates, pruned once by size", "triangle-up", "#009E73"),
    "one_shot_importance": ("dense gates, pruned once by importance", "triangle-down", "#CC79A7"),
    "svd": ("dense update, truncated SVD", "square", "#56B4E9"),
}
_AXES = {"nonzero_parameters": "non-zero parameters (exact)", "threshold": "threshold λ"}
_COMMON = [
    "--rank", "8", "--targets", "query,key,value,intermediate.dense,output.dense", "--lr", "1e-3", "--gate-lr", "1e-2",
    "--batch-size", "16",
]  # fmt: skip
TWO_CORES = [
    *_COMMON, "--train-limit", "1000", "--max-length", "96", "--subset", "500", "--dense-steps", "500",
    "--min-steps", "60", "--max-steps", "80", "--check-steps", "10", "--patience", "2", "--tolerance", "0.05",
]  # fmt: skip
"""Half an hour on two cores that do other work as well (load 3)."""
QUICK = [
    *_COMMON, "--train-limit", "40", "--max-length", "24", "--subset", "20", "--controls", "svd",
    "--min-steps", "4", "--max-steps", "4", "--check-steps", "2", "--patience", "1",
]  # fmt: skip
THRESHOLDS = {False: "0,0.5,1,1.5,2,3,5", True: "0,40,80,160,320"}
"""Without and with ``--quick``; other thresholds or targets of the command line take their place."""
_SWEEPS = ("--thresholds", "--stop", "--target-ranks", "--target-parameters")


def draw(rows: pd.DataFrame) -> go.Figure:
    """Both measures, over the number of non-zero parameters and over the threshold; hollow: a stage did not converge.

    Bars are the bootstrap intervals of one seed's curve; of several, Student's over seeds around their mean.

    Parameters
    ----------
    rows
        Of one task's curve.
    """
    points = _points(rows)
    axes = [axis for axis in _AXES if points[axis].notna().any()]
    titles = [name.capitalize() for name in _COLORS]
    figure = make_subplots(
        rows=len(axes),
        cols=2,
        subplot_titles=titles,
        shared_yaxes="all",
        vertical_spacing=0.16,
        horizontal_spacing=0.05,
    )
    shown = set()
    for row, axis in enumerate(axes, start=1):
        for column, name in enumerate(_COLORS, start=1):
            for control in [known for known in _CONTROLS if known in set(points["control"])]:
                part = points[(points["control"] == control) & points[axis].notna()]
                if len(part):
                    line = _line(part.sort_values(axis), axis, name, control)
                    figure.add_trace(line.update(showlegend=control not in shown), row=row, col=column)
                    shown.add(control)
            figure.update_xaxes(title=_AXES[axis], row=row, col=column)
        first = rows.iloc[0]
        label = f"100 × {first['score']} / that of {first['reference'].replace('_', ' ')}"
        figure.update_yaxes(title=label, row=row, col=1)
    figure.update_layout(
        template="simple_white", width=1000, height=140 + 330 * len(axes), font_size=13,
        margin={"l": 70, "r": 20, "t": 40, "b": 110},
        legend={"orientation": "h", "y": -0.12, "x": 0.5, "xanchor": "center"},
    )  # fmt: skip
    return figure


def _points(rows: pd.DataFrame) -> pd.DataFrame:
    """A row for each place of the figure: those of one seed as they are, of several their means."""
    if rows["seed"].nunique() == 1:
        return rows
    found = bands(rows, [*_AXES, *_COLORS])
    wide = found.pivot(index=["control", "stage"], columns="quantity", values=["mean", "low", "high"])
    wide.columns = pd.Index([name if kind == "mean" else f"{name}_{kind}" for kind, name in wide.columns])
    done = rows.dropna(subset="converged").groupby(["control", "stage"])["converged"].all()
    return wide.join(done).reset_index()


def _line(rows: pd.DataFrame, axis: str, name: str, control: str) -> go.Scatter:
    label, symbol, color = _CONTROLS[control]
    ours = control == SORA
    symbols = [f"{symbol}-open" if ours and not converged else symbol for converged in rows["converged"]]
    errors = {
        "array": rows[f"{name}_high"] - rows[name],
        "arrayminus": rows[name] - rows[f"{name}_low"],
        "visible": ours,
        "thickness": 1,
    }
    return go.Scatter(
        x=rows[axis], y=rows[name], mode="lines+markers", name=label, legendgroup=control, error_y=errors,
        marker={"symbol": symbols, "size": 9 if ours else 7},
        line={"color": color or _COLORS[name], "dash": "solid" if ours else "dash", "width": 2.5 if ours else 1.2},
    )  # fmt: skip


def run(options: argparse.Namespace, task: str) -> Path:
    """Algorithm 1 on one task, through the command line that users have; its folder.

    Parameters
    ----------
    options
        As parsed.
    task
        One of GLUE's.
    """
    study = options.study / task
    data = ["--data", str(options.data / task)] if options.data is not None else []
    command = [
        sys.executable, "-m", "rank_lab", "schedule", str(options.model or encoder_folder()), "-o", str(study),
        "--task", task, "--model-name", options.model or ENCODER, *data, *options.arguments,
    ]  # fmt: skip
    done = subprocess.run(command, check=False)
    if done.returncode:  # it has said why
        sys.exit(done.returncode)
    return study


def keep(study: Path, out: Path, seconds: float) -> Curve:
    """Copy what a reader needs to judge the curve, and say what it shows.

    Parameters
    ----------
    study
        Of one task.
    out
        Folder for the task's results.
    seconds
        That this call took.
    """
    out.mkdir(parents=True, exist_ok=True)
    here = str(encoder_folder())
    for name in _KEPT:
        content = (study / name).read_text(encoding="utf-8")
        (out / name).write_text(content.replace(here, ENCODER), encoding="utf-8")  # where it lies is this machine's
    curve = Curve.load(study)
    text = _report(curve, about_machine(["rank-lab", "torch", "transformers", "peft"]), seconds)
    (out / "README.md").write_text(text, encoding="utf-8")
    print(text)
    return curve


def picture(figure: go.Figure, out: Path) -> None:
    """Write ``curve.png`` and ``curve.svg``.

    Parameters
    ----------
    figure
        From :func:`draw`.
    out
        Folder for the task's results.
    """
    try:
        figure.write_image(out / "curve.png", scale=2)
        figure.write_image(out / "curve.svg")
    except (ImportError, RuntimeError, ValueError) as error:  # kaleido, or the browser that it drives, is missing
        sys.exit(f"no picture drawn: {first_line(error)}; the curve is in {out}, run this again once that is mended.")


def _report(curve: Curve, machine: dict[str, Any], seconds: float) -> str:
    rows = curve.rows
    first = rows.iloc[0]
    parts = [f"# {first['task']}: {first['model']}, {first['score']}"]
    parts.append(
        f"100 x {first['score']} / that of {first['reference'].replace('_', ' ')}, with the 95 % interval of a paired"
        f" bootstrap, on {first['train_examples']} training examples (memorization; stage 0 has"
        f" {_span(rows, 'train_score')}) and {first['validation_examples']} validation examples (generalization; stage"
        f" 0 has {_span(rows, 'validation_score')})."
    )
    for (seed, control), part in rows.groupby(["seed", "control"], sort=False):
        parts += [f"## {control}, seed {seed}", table(_HEADINGS, [_cells(row) for row in part.to_dict("records")])]
    told = sorted({warning for warning in rows["warning"] if warning})
    parts += ["## Warnings of the run", "\n".join(f"- {warning}" for warning in told)] if told else []
    parts += ["## Knees", "\n".join(f"- {knee_sentence(knee)}" for knee in curve.knees)]
    parts.append(
        f"Training took {rows['seconds'].sum():.0f} s in all, the last call of this program {seconds:.0f} s."
        f" {machine['processor']}, {machine['cores']} cores, load {machine['load_average']}, {machine['date']}, "
        + ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
        + "."
    )
    return "\n\n".join(parts) + "\n"


_HEADINGS = ("stage", "threshold", "steps", "ended", "gates", "parameters", "published count", "effective rank",
             "memorization", "generalization", "training loss", "validation loss")  # fmt: skip


def _cells(row: dict[Any, Any]) -> list[str]:
    return [
        str(row["stage"]), _number(row["threshold"], "{:g}"), str(row["steps"]), str(row["stop"]).replace("_", " "),
        str(row["nonzero_gates"]), f"{row['nonzero_parameters']:,}", _number(row["published_parameters"], "{:,.0f}"),
        _number(row["effective_rank"], "{:.2f}"),
        interval_text(row, "memorization"), interval_text(row, "generalization"),
        _number(row["train_loss"], "{:.4f}"), _number(row["validation_loss"], "{:.4f}"),
    ]  # fmt: skip


def _number(value: Any, form: str) -> str:
    return "-" if pd.isna(value) else form.format(value)


def _span(rows: pd.DataFrame, name: str) -> str:
    dense = rows.loc[(rows["control"] == SORA) & (rows["stage"] == 0), name]
    return f"{dense.min():.3f}" if len(dense) == 1 else f"{dense.min():.3f} to {dense.max():.3f}"


def main() -> None:
    """Run every task, keep its curve, draw it."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="Further options go to 'rank-lab schedule' as they are.",
        allow_abbrev=False,
    )
    parser.add_argument("--tasks", nargs="+", default=["rte"], help="of GLUE")
    parser.add_argument("--data", type=Path, help="folder with a folder for each task; default the hub")
    parser.add_argument("--model", help="folder or hub id; default the MiniLM encoder of the development environment")
    parser.add_argument(
        "--study", type=Path, default=Path("sparsity-study"), help="where runs are and are gone on with"
    )
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--no-picture", action="store_true", help="tables only: pictures need kaleido and a browser")
    parser.add_argument("--out", type=Path, help="folder for a folder of results for each task; default results")
    options, further = parser.parse_known_args()
    options.study = options.study or Path("sparsity-study", "quick" if options.quick else ".")
    options.out = options.out or (options.study / "results" if options.quick else _RESULTS)
    sweep = (
        [] if any(part.split("=")[0] in _SWEEPS for part in further) else ["--thresholds", THRESHOLDS[options.quick]]
    )
    options.arguments = [*(QUICK if options.quick else TWO_CORES), *sweep, *further]
    for task in options.tasks:
        began = time.monotonic()
        study = run(options, task)
        curve = keep(study, options.out / task, time.monotonic() - began)
        if not options.no_picture:
            picture(draw(curve.rows), options.out / task)


if __name__ == "__main__":
    main()
