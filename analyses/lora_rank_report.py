"""The page of :mod:`analyses.lora_rank_choice`, from its kept tables alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from analyses.code_runs import said_of_base
from analyses.kept_results import Kept, kept, told_origin
from analyses.lora_rank_arms import FULL
from analyses.lora_rank_claims import amplification_of, by_seed, claims
from analyses.lora_rank_subspaces import MAP_SIDE
from analyses.machine import table
from analyses.paired_seeds import difference, interval_words

__all__ = ["page", "tell"]

_PAPER = "[the LoRA paper](https://arxiv.org/abs/2106.09685)"
Tables = Mapping[str, pd.DataFrame]


def tell(folder: Path, pictures: bool) -> None:
    """Write README.md and, if wanted, the pictures.

    Parameters
    ----------
    folder
        Of the kept results.
    pictures
        Whether they are drawn; the page shows them in any case.
    """
    found = kept(folder)
    (folder / "README.md").write_text(page(found), encoding="utf-8")
    if pictures:
        from analyses.lora_rank_picture import draw  # plotly

        draw(found)


def page(found: Kept) -> str:
    """The page.

    Parameters
    ----------
    found
        What was kept.
    """
    tables, settings = found.tables, found.about["settings"]
    parts = [
        "# Which matrices LoRA should adapt, at which rank, and what it saves",
        _setting(settings),
        "## What the paper says, here",
        _verdicts(tables, settings),
        "## Loss on held-out code",
        (
            "![Loss over rank, a line a choice of matrices](loss.png)\n\n*Nats a token on the half that no choice saw;"
            " means over seeds with Student's 95 % interval. Grey: full fine-tuning.*"
        ),
        _grid(tables, settings),
        "## At one budget",
        _budget(tables, settings),
        "## What training keeps, and the time of a step",
        _cost(tables),
        "## Subspaces between ranks and between seeds",
        _maps(settings),
        _phi(tables),
        "## Amplification",
        _amplification(tables, settings),
        "## Notes",
        (
            "Intervals are not widened for the number of comparisons. Learning rates were chosen for each choice of"
            f" matrices at rank {settings['swept_rank']}, by one half of held-out code at the first seed:"
            f" {_chosen(tables['chosen'])}. Alpha is 16 at every rank. LoRA Without Regret (Schulman & Thinking"
            " Machines, 2025) finds the best rate to vary by less than 2 from rank 4 to 512 with a fixed alpha; rank 1"
            " was not asked there."
        ),
        told_origin(found.about),
    ]
    return "\n\n".join(parts) + "\n"


def _setting(settings: Mapping[str, Any]) -> str:
    return (
        f"Sections 4 and 7 of {_PAPER}, with {said_of_base(settings['base'])} in place of GPT-3, adapted to Python"
        f" code: {settings['steps']} steps of {settings['batch']} x {settings['context']} tokens, AdamW, constant rate,"
        f" seeds {', '.join(map(str, settings['seeds']))}. Absolute losses, and what GPT-3 175B"
        " showed on WikiSQL and MNLI, cannot be tested at this size; which way differences go can."
    )


def _verdicts(tables: Tables, settings: Mapping[str, Any]) -> str:
    rows = [
        (each.claim, each.measure, interval_words(each.found), each.found.verdict) for each in claims(tables, settings)
    ]
    return table(("claim", "difference that it says to be above 0", "mean over seeds (95 %)", "verdict"), rows)


def _loss(runs: pd.DataFrame, matrices: str, rank: int) -> str:
    values = list(by_seed(runs, matrices, rank).values())
    return interval_words(difference(values)) if values else "-"


def _grid(tables: Tables, settings: Mapping[str, Any]) -> str:
    runs, ranks = tables["runs"], settings["ranks"]
    rows = [(matrices, *(_loss(runs, matrices, rank) for rank in ranks)) for matrices in settings["grid"]]
    rows.append((FULL, _loss(runs, FULL, 0), *("" for _ in ranks[1:])))
    return table(("adapted", *(f"r = {rank}" for rank in ranks)), rows)


def _parameters(tables: Tables, matrices: str, rank: int) -> str:
    own = tables["memory"]
    count = own.loc[(own["matrices"] == matrices) & (own["rank"] == rank), "trained_parameters"].iloc[0]
    return f"{int(count):,}"


def _budget(tables: Tables, settings: Mapping[str, Any]) -> str:
    runs, (first, least) = tables["runs"], settings["budget"][-1]
    reference, rows = by_seed(runs, first, least), []
    for matrices, rank in settings["budget"]:
        less = difference(by_seed(runs, matrices, rank), reference)
        own = "-" if (matrices, rank) == (first, least) else interval_words(less)
        rows.append((matrices, str(rank), _parameters(tables, matrices, rank), _loss(runs, matrices, rank), own))
    headings = ("adapted", "rank", "parameters", "loss", f"less that of {first}, paired by seed")
    return "The rows of the paper's Table 5; parameters are counted.\n\n" + table(headings, rows)


def _cost(tables: Tables) -> str:
    memory, speed = tables["memory"], tables["speed"]
    full = memory[memory["matrices"] == FULL].iloc[0]
    rows = []
    for row in memory.to_dict("records"):
        own = speed[speed["arm"] == row["arm"]]
        kept_bytes, whole = (
            each["weight_bytes"] + each["gradient_bytes"] + each["state_bytes"] for each in (row, full)
        )
        rows.append(
            (row["matrices"], str(row["rank"] or ""), f"{int(row['trained_parameters']):,}",
             f"{row['trained_parameters'] / full['trained_parameters']:.2%}",
             f"{row['gradient_bytes'] / 1e3:,.1f} kB", f"{row['state_bytes'] / 1e3:,.1f} kB",
             f"{kept_bytes / whole:.1%}",
             *(_quartiles(own[name]) for name in ("ratio", "processor_ratio")))
        )  # fmt: skip
    headings = ("adapted", "rank", "trained parameters", "of all", "gradients", "state of AdamW",
                "weights, gradients and state, of full fine-tuning's", "step, of full fine-tuning's (quartiles)",
                "in processor time")  # fmt: skip
    words = (
        "Bytes are those of the tensors after one step (activations not among them); frozen weights have neither"
        f" gradient nor state. With AdamW in one precision full fine-tuning keeps 4 numbers a weight, so that LoRA"
        " cannot keep less than a quarter (the paper's abstract has 3 times less memory for GPT-3 175B). Times:"
        f" {speed['round'].nunique()} rounds in which each arm takes a step, in random order, one thread; ratios are"
        " taken round by round, then their median."
    )
    return f"{words}\n\n{table(headings, rows)}"


def _quartiles(ratios: "pd.Series[float]") -> str:
    if ratios.empty:
        return "-"
    low, middle, high = ratios.quantile([0.25, 0.5, 0.75])
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def _maps(settings: Mapping[str, Any]) -> str:
    small, large = settings["compared"]
    width = settings["base"]["hidden_size"]
    return (
        f"φ(i, j) of the right singular vectors of A, as in the paper's section 7, layer"
        f" {settings['base']['num_hidden_layers'] // 2}. Random spans of this width have a φ of max(i, j) / {width}, up"
        f" to {large / width:.2f}; GPT-3's 12288 makes that {64 / 12288:.3f}: at this size high values at high ranks"
        f" say little.\n\n![φ between ranks {small} and {large}, of q](phi-ranks-q.png)\n"
        "![the same of v](phi-ranks-v.png)\n"
        "![two Gaussian matrices](phi-gaussian.png)\n\n"
        f"Between two seeds at rank {large}:\n\n![φ between seeds, of q](phi-seeds-q.png)\n"
        "![the same of v](phi-seeds-v.png)"
    )


def _phi(tables: Tables) -> str:
    phi, rows = tables["phi"], []
    for (pair, side, kind), own in phi.groupby(["pair", "side", "kind"], sort=False):
        cells = []
        for _, at in own.groupby("i"):
            by_run = at.groupby(["seed", "other_seed"])["phi"].mean()
            cells.append(f"{interval_words(difference(list(by_run)), '{:.2f}')}, null {at['null'].mean():.2f}")
        name = {MAP_SIDE: "right, of A", "right": "right, of ΔW"}[str(side)]
        rows.append((f"between {pair}", name, str(kind), *cells))
    width = max(len(row) for row in rows)
    counts = sorted(phi["i"].unique())
    padded = [(*row, *("" for _ in range(width - len(row)))) for row in rows]
    return "φ(i, i), mean over layers, over seeds or pairs of seeds:\n\n" + table(
        ("compared", "singular vectors", "of", *(f"i = {count}" for count in counts)), padded
    )


def _amplification(tables: Tables, settings: Mapping[str, Any]) -> str:
    own = tables["amplification"]
    own, rows = own[own["pair"] == "amplified"], []
    for kind in sorted(own["kind"].unique()):
        for rank in (settings["amplified"], settings["compared"][1]):
            names = ("update_norm", "projected_norm", "random_projected_norm", "own_projected_norm", "amplification")
            values = [amplification_of(own[own["kind"] == kind], rank, name) for name in names]
            rows.append((kind, str(rank), *(interval_words(difference(list(each.values()))) for each in values)))
    headings = ("of", "rank", "‖ΔW‖", "‖Uᵀ W V‖, the update's directions", "random ones", "the weight's own",
                "amplification")  # fmt: skip
    words = (
        "As in the paper's Table 7 (GPT-3, layer 48, W_q: 21.5 at rank 4, 1.9 at rank 64): the norm of the update over"
        " that of the weight in the update's directions, as many as the run's rank, means over layers. It grows with"
        " the size of the update, hence with steps and rate."
    )
    return f"{words}\n\n{table(headings, rows)}"


def _chosen(chosen: pd.DataFrame) -> str:
    return ", ".join(
        f"{row['matrices']} {row['learning_rate']:g}" + (" (at an end of those tried)" if row["at_an_end"] else "")
        for row in chosen.to_dict("records")
    )
