"""What papers printed on learning, forgetting and size, drawn as rank_lab draws: the background of one's own points.

``python -m analyses.published_points`` draws the tables of the package's ``published.csv``: learning against forgetting
of arXiv 2405.09673 with the points that no other beats, the averages of LLM-Adapters (2304.01933) by type of adapter,
and AdaLoRA's scores over parameters (2303.10512). ``--peft FOLDER`` adds result files of PEFT's method comparison.
Nothing is trained or measured here. Pages and pictures are kept in ``results/published_points``.
"""

import argparse
import hashlib
from pathlib import Path

import pandas as pd

from analyses.kept_results import Kept, kept, told_origin, write_picture
from analyses.kept_results import keep as keep_results
from analyses.machine import table
from analyses.study_options import run_study, study_parser
from rank_lab.background import published_points
from rank_lab.errors import RankLabError
from rank_lab.pareto import nondominated
from rank_lab.published import MARKS, PUBLISHED, published_scores, published_values, source_words
from rank_lab.score_import import import_scores
from rank_lab.score_origin import Origin

__all__ = ["front_points", "main", "tables"]

_NAME = "published_points"
_FORGETTING = ("source average", "accuracy")
_LEARNING = {"code": ("humaneval", "pass@1"), "math": ("gsm8k", "exact_match")}


def front_points(values: pd.DataFrame) -> pd.DataFrame:
    """Learning and forgetting of 2405.09673 by training, and which of its points no other of that training beats.

    Parameters
    ----------
    values
        Of :func:`rank_lab.published.published_values`.
    """
    own = values[(values["source"] == "2405.09673") & values["training"].str.contains("CPT|IFT", regex=True)]
    parts = []
    for training, rows in own.groupby("training", sort=False):
        learning = _LEARNING[str(training).split()[0]]
        points = published_points(rows, learning, _FORGETTING)
        parts.append(points.assign(learning=" ".join(learning), on_front=nondominated(points["x"], -points["y"])))
    columns = [
        "training",
        "learning",
        "method",
        "rank",
        "amount",
        "amount_unit",
        "x",
        "y",
        "on_front",
        "source",
        "table",
    ]
    return pd.concat(parts, ignore_index=True)[columns]


def tables(values: pd.DataFrame, peft: pd.DataFrame | None = None) -> dict[str, pd.DataFrame]:
    """What is kept.

    Parameters
    ----------
    values
        Published ones.
    peft
        Of PEFT's result files; None without.
    """
    sources = values.groupby(["source", "mark"], sort=False).agg(
        tables=("table", lambda each: "; ".join(dict.fromkeys(each))), values=("value", "size")
    )
    averages = values[values["task"].str.endswith(" average") & (values["source"] == "2304.01933")]
    budgets = [
        published_points(values, "parameters_percent", (task, "accuracy")).assign(task=task)
        for task in ("sst2", "mnli")
    ]
    found = {
        "sources": sources.reset_index(),
        "learning_forgetting": front_points(values),
        "adapters": averages[["source", "table", "model", "method", "task", "value"]],
        "budgets": pd.concat(budgets)[["source", "table", "method", "task", "x", "y"]],
        "other": values[values["source"].isin({"2106.09685", "2311.11696", "2410.21228"})].dropna(axis=1, how="all"),
    }
    if peft is not None:
        found["peft"] = _peft_points(peft)
    return found


def _peft_points(values: pd.DataFrame) -> pd.DataFrame:
    """A row a run: accuracy over parameters and, where the files have it, over what a loss on Wikipedia rose."""
    points = published_points(values, "parameters", ("gsm8k", "accuracy"))
    columns = [*(name for name in points if name not in {"x", "y", "x_unit", "y_unit", "name", "mark", "table"})]
    found = points.rename(columns={"y": "accuracy"})[[*columns, "accuracy"]]
    risen = values[values["metric"] == "loss_increase"].set_index("training")["value"]
    return found.assign(loss_increase=found["training"].map(risen))[
        ["training", "method", "parameters", "accuracy", "loss_increase"]
    ]


def _peft_values(folder: Path) -> pd.DataFrame:
    files = sorted(folder.glob("*.json"))
    if not files:
        raise RankLabError(
            f"{folder}: holds no result files; give a copy of PEFT's method_comparison/MetaMathQA/results."
        )
    rows = [row for file in files for row in import_scores(file, Origin()).rows]
    return published_scores(rows, "huggingface/peft", "MetaMathQA")


def keep(options: argparse.Namespace) -> None:
    """Tables of what is drawn.

    Parameters
    ----------
    options
        Of the command line.
    """
    peft = None if options.peft is None else _peft_values(options.peft)
    settings = {"published": hashlib.sha256(PUBLISHED.read_bytes()).hexdigest(), "peft": peft is not None}
    keep_results(options.out, settings, tables(published_values(), peft), 0.0)


def page(found: Kept) -> str:
    """The page that is kept.

    Parameters
    ----------
    found
        Results, read again.
    """
    parts = [
        "# Published points",
        (
            "Numbers that papers printed, as they stand in `rank_lab/published.csv`, each with its source. They lie"
            " behind one's own points in the same figures (`rank_lab.background`), grey, hollow and joined to nothing:"
            " other models, data and schedules, mostly one run a cell and no interval."
        ),
        _sources(found.tables["sources"]),
        "![Learning against forgetting, four trainings](learning_forgetting.png)",
        (
            "*2405.09673, Tables S1 to S8: score on the target against the mean accuracy on HellaSwag, WinoGrande and"
            " ARC-Challenge, both better where larger; a line a method, along its training, its last point the largest;"
            " black: no other point of that training is as good in both.*"
        ),
        _fronts(found.tables["learning_forgetting"]),
        "![Averages by type of adapter](adapters.png)",
        (
            "*LLM-Adapters (2304.01933), corrected tables of its repository: mean over four maths and eight commonsense"
            " sets. Series: AdapterP, width 256; parallel: beside each linear layer.*"
        ),
        "![Scores over trained parameters](budgets.png)",
        "*AdaLoRA (2303.10512), Table 5, DeBERTaV3-base; one cell of LoRA is not given in our source.*",
        "## Further values",
        _other(found.tables["other"]),
        *_peft(found),
        _not_here(),
        told_origin(found.about).partition(". ")[2],  # without the time: nothing was computed
    ]
    return "\n\n".join(parts) + "\n"


def _sources(sources: pd.DataFrame) -> str:
    rows = [
        (source_words(str(row["source"])), row["tables"], row["values"], MARKS[row["mark"]])
        for row in sources.to_dict("records")
    ]
    return table(("source", "where", "values", "how sure"), rows)


def _fronts(points: pd.DataFrame) -> str:
    rows = []
    for training, own in points.groupby("training", sort=False):
        front = own[own["on_front"]]
        names = [_method(row["method"], row["rank"]) for row in front.to_dict("records")]
        counts = ", ".join(f"{name}: {names.count(name)}" for name in dict.fromkeys(names))
        best = own.sort_values("x", kind="stable").iloc[-1]
        rows.append((training, len(own), counts, f"{best['x']:g} ({_method(best['method'], best['rank'])})"))
    head = (
        "Points that no other beats, by method. Each is a checkpoint of one run, so that this says where the front is,"
    )
    return f"{head} not that a method is better.\n\n" + table(
        ("training", "points", "on the front", "best score"), rows
    )


def _method(method: str, rank: float) -> str:
    return "full fine-tuning" if method == "full" else f"LoRA r {rank:g}"


def _other(values: pd.DataFrame) -> str:
    columns = ["source", "table", "model", "method", "rank", "targets", "training", "task", "metric"]
    rows = []
    for row in values.to_dict("records"):
        setting = ["" if pd.isna(row[name]) else f"{row[name]:g}" if name == "rank" else row[name] for name in columns]
        mark = "" if row["mark"] == "S" else f" ({row['mark']})"
        rows.append((*setting, f"{row['relation'].replace('=', '')}{row['value']:g} {row['unit']}{mark}"))
    return table((*columns, "value"), rows)


def _peft(found: Kept) -> list[str]:
    if "peft" not in found.tables:
        return []
    points = found.tables["peft"]
    return [
        "![PEFT's method comparison](peft.png)",
        f"*huggingface/peft, method_comparison/MetaMathQA, {len(points)} runs, Llama-3.2-3B as its files say.*",
    ]


def _not_here() -> str:
    return (
        "Left out, as no source at hand shows them: LLM-Adapters' figure of places and widths, SoRA's scores task by"
        " task and its figures. LLM-Adapters' tables also give GPT-3.5, whose printed maths average (55.1) is not the"
        " mean of its four scores (63.2); it is no adapter and is left out."
    )


def tell(folder: Path, pictures: bool) -> None:
    """Page and pictures from the kept tables.

    Parameters
    ----------
    folder
        Of the results.
    pictures
        Whether they are drawn.
    """
    found = kept(folder)
    (folder / "README.md").write_text(page(found), encoding="utf-8")
    if pictures:
        from analyses.published_picture import draw  # plotly

        for name, figure in draw(found.tables).items():
            write_picture(figure, folder, name)


def main() -> None:
    """Keep, tell."""
    parser = study_parser(__doc__ or "", _NAME)
    parser.add_argument("--peft", type=Path, help="folder of PEFT's method_comparison/MetaMathQA/results")
    options = parser.parse_args()
    options.workers = 1
    run_study(_NAME, options, lambda _: None, keep, tell)


if __name__ == "__main__":
    main()
