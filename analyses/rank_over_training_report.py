"""The page of :mod:`analyses.rank_over_training`, from its kept tables alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from analyses.code_runs import said_of_base
from analyses.kept_results import Kept, kept, told_origin
from analyses.machine import table
from analyses.paired_seeds import difference, interval_words
from analyses.rank_over_training_claims import TITLES, claims, of_optimizers, place_values
from analyses.stored_formats import FORMATS

__all__ = ["page", "tell"]

_PAPER = "[LoRA Learns Less and Forgets Less](https://arxiv.org/abs/2405.09673)"
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
        from analyses.rank_over_training_picture import draw  # plotly

        draw(found)


def page(found: Kept) -> str:
    """The page.

    Parameters
    ----------
    found
        What was kept.
    """
    tables, about = found.tables, found.about
    parts = [
        "# The rank of full fine-tuning's change along training, its null and its noise",
        _setting(about["settings"]),
        "## The paper's findings, here",
        _verdicts(tables),
        _not_testable(tables, about["settings"]),
        "## The published ranks beside white noise",
        _published(tables),
        "## Along training",
        (
            "![k90 over its null along training, by optimizer](optimizers.png)\n\n*Means over matrices, bands:"
            " Student's 95 % interval over seeds. Solid: change since the base. Dotted: change since the checkpoint"
            " before. Grey: white noise of the same shape.*"
        ),
        (
            "![k90 along training by kind of module, float32](kinds-float32.png)\n\n![The same of checkpoints in"
            " bfloat16]"
            "(kinds-bfloat16.png)\n\n*Lion, the paper's optimizer, one seed. Medians over layers; grey: white noise. In"
            " bfloat16 the rounding is taken out where that can be done.*"
        ),
        _along(tables),
        _kinds(tables),
        "## What storage does to it",
        _storage(tables),
        "## Optimizers",
        _optimizers(tables),
        "## Notes",
        (
            "Intervals are not widened for the number of claims. k90: directions that hold 90 % of the squared change."
            " Its null is that of white noise of the same shape, by exact Marchenko-Pastur integrals. A change is"
            " below it as far as it has structure; above it are only spectra flatter than noise's, which end at 0.9 of"
            " all directions."
        ),
        told_origin(about),
    ]
    return "\n\n".join(parts) + "\n"


def _setting(settings: Mapping[str, Any]) -> str:
    return (
        f"{_PAPER} counts the directions that hold 90 % of the variance of full fine-tuning's change (Figures 6 and 7)."
        f" Here the same is asked of {said_of_base(settings['base'])}, tuned whole on Python code:"
        f" {settings['steps']} steps of {settings['batch']} x {settings['context']} tokens, constant rate,"
        f" gradients clipped at 1, no weight decay, seeds {', '.join(map(str, settings['seeds']))}; the paper"
        " trained Llama-2-7B on 20 billion tokens with Lion. Each optimizer has a sweep of its own"
        f" ({', '.join(f'{TITLES[name]}: {len(rates)} rates' for name, rates in settings['rates'].items())}), chosen"
        " at one seed by one half of held-out code."
    )


def _verdicts(tables: Tables) -> str:
    rows = [
        (each.claim, TITLES[each.optimizer], each.measure, interval_words(each.found),
         each.found.verdict)
        for each in [*claims(tables), *of_optimizers(tables)]
    ]  # fmt: skip
    headings = ("claim", "optimizer", "difference that it says to be above 0", "mean over seeds (95 %)", "verdict")
    return table(headings, rows)


def _not_testable(tables: Tables, settings: Mapping[str, Any]) -> str:
    places = place_values(tables["places"], "raw_over_null")
    first = places[places["step"] == places["step"].min()]
    told = [
        f"{TITLES[name]} {interval_words(difference(list(own.groupby('seed')['value'].mean())), '{:.2f}')}"
        for name, own in first.groupby("optimizer", sort=False)
    ]
    width = settings["base"]["hidden_size"]
    return (
        f"**Early checkpoints already 10 to 100 times typical ranks: not testable at this size.** Ten times 16"
        f" directions are {160 / width:.0%} of the {width} that attention's matrices have here, and 4 % of"
        " Llama-2-7B's 4096. What can be said is how near to white noise the earliest checkpoint is, k90 / null at step"
        f" {places['step'].min()} of {places['step'].max()}: {'; '.join(told)}."
    )


def _published(tables: Tables) -> str:
    noise, spans, shares = (tables[name] for name in ("white_noise", "published", "noise_share"))
    first = table(
        ("matrices of Llama-2-7B", "k90 of white noise", "of all directions", "times 16", "times 64", "times 256"),
        [(row["matrices"], f"{row['null']:.0f}", f"{row['share_of_bound']:.0%}",
          *(f"{row[f'times_{rank}']:.0f}" for rank in (16, 64, 256))) for row in noise.to_dict("records")],
    )  # fmt: skip
    second = table(
        ("typical rank", "times", "directions", "of white noise, attention", "of white noise, MLP"),
        [
            (str(row["lora_rank"]), str(row["times"]),
             f"{row['directions']}" + ("" if row["possible"] else " (> 4096)"),
             *(f"{row[f'over_null_{name}']:.0%}" if row["possible"] else "-" for name in ("attention", "mlp")))
            for row in spans.to_dict("records")
        ],
    )  # fmt: skip
    return f"{first}\n\n{_range_words(noise, spans)}\n\n{second}\n\n{_share_words(shares)}\n\n{_share_table(shares)}"


def _range_words(noise: pd.DataFrame, spans: pd.DataFrame) -> str:
    least = spans[spans["lora_rank"] == spans["lora_rank"].min()]
    rank, over = least["lora_rank"].iloc[0], least["over_null_attention"]
    impossible = sorted(set(spans.loc[~spans["possible"], "lora_rank"]))
    return (
        "The paper finds ranks 10 to 100 times typical ranks of LoRA, and states no null. White noise, which holds"
        f" nothing that was learned, has {noise[f'times_{rank}'].min():.0f} times {rank} in attention. With {rank} for"
        f" typical, the published range is {over.min():.0%} to {over.max():.0%} of what white noise shows there:"
        f" {'nothing' if over.max() < 1 else 'a part'} of it stands above the null, and a high rank by itself is no"
        f" sign that many directions were learned. With {' or '.join(map(str, impossible))} for typical, its upper end"
        " is more directions than the matrices have."
    )


def _share_words(shares: pd.DataFrame) -> str:
    own = shares[shares["matrices"].str.startswith("attention")]
    inside = own[(own["times"] >= 10) & (own["times"] <= 100)]["noise_share"]
    return (
        "What little noise suffices: a change of 16 equal directions to which white noise is added until that holds a"
        f" share of the energy (below). From {inside.min():.0%} to {inside.max():.0%} of noise, the shares tried in"
        " between included, k90 of attention is 10 to 100 times 16. Without the share of rounding in the published"
        " checkpoints, which are not at hand here, their ranks bound the learned ones from above only."
    )


def _share_table(shares: pd.DataFrame) -> str:
    wide = shares.pivot(index="noise_share", columns="matrices", values="energy_rank_90")
    rows = [(f"{share:.0%}", *(f"{value:.0f}" for value in row)) for share, row in zip(wide.index, wide.to_numpy())]  # noqa: B905
    return table(("noise in the energy", *(f"k90, {name}" for name in wide.columns)), rows)


def _along(tables: Tables) -> str:
    rows = []
    raw, over = (place_values(tables["places"], name) for name in ("raw", "raw_over_null"))
    for optimizer in raw["optimizer"].unique():
        for step in (raw["step"].min(), raw["step"].max()):
            cells = [
                interval_words(difference(list(_at(values, optimizer, step, place))), form)
                for place in ("attention", "MLP")
                for values, form in ((raw, "{:z.1f}"), (over, "{:z.2f}"))
            ]
            rows.append((TITLES[optimizer], str(step), *cells))
    headings = ("optimizer", "step", "attention, k90", "k90 / null", "MLP, k90", "k90 / null")
    return table(headings, rows)


def _kinds(tables: Tables) -> str:
    kinds = tables["kinds"]
    ends = {"first": kinds["step"].min(), "last": kinds["step"].max()}
    own = kinds[kinds["step"].isin(ends.values())]
    found = {(row["optimizer"], row["kind"], row["format"], row["step"]): row for row in own.to_dict("records")}
    rows = []
    for optimizer, kind in dict.fromkeys(key[:2] for key in found):
        cells = [found[optimizer, kind, form, step] for form in ("float32", "bfloat16") for step in ends.values()]
        told = (f"{cell['raw']:.1f} ({cell['raw_over_null']:.2f})" for cell in cells)
        rows.append((TITLES[optimizer], kind, *told))
    headings = (f"{form}, {end} step" for form in ("float32", "bfloat16 as stored") for end in ends)
    return "k90 (k90 / null) by kind of module, means over layers and seeds:\n\n" + table(
        ("optimizer", "kind", *headings), rows
    )


def _at(places: pd.DataFrame, optimizer: str, step: int, place: str) -> "pd.Series[float]":
    own = (places["optimizer"] == optimizer) & (places["step"] == step) & (places["place"] == place)
    return places.loc[own, "value"]


def _storage(tables: Tables) -> str:
    places, rows = tables["places"], []
    own = places[places["delta"] == "cumulative"]
    steps = sorted(own.loc[own["step"] > 0, "step"].unique())
    for (optimizer, form), group in own.groupby(["optimizer", "format"], sort=False):
        for step in dict.fromkeys((steps[0], steps[len(steps) // 2], steps[-1])):
            part = group[group["step"] == step]
            matrices, known = part["matrices"].sum(), part["known"].sum()
            told = part["told_over_null"].mean() if "told_over_null" in part and known else float("nan")
            rows.append(
                (TITLES[str(optimizer)], FORMATS[str(form)], str(step), f"{part['rounding_energy'].mean():.2g}",
                 f"{part['identical'].mean():.0%}",
                 f"{part['partial'].sum() / matrices:.0%}", f"{part['unresolved'].sum() / matrices:.0%}",
                 f"{part['raw_over_null'].mean():.2f}",
                 "-" if pd.isna(told) else f"{told:.2f} ({known / matrices:.0%})")
            )  # fmt: skip
    headings = ("optimizer", "stored", "step", "rounding in the energy", "entries identical", "partly resolved",
                "unresolved matrices", "k90 / null as stored", "without rounding (of matrices)")  # fmt: skip
    words = (
        "The same checkpoints, all seeds: in float32, and rounded as published ones are. A base in float16 (Llama-2)"
        " lies off bfloat16's grid, so that rounding adds noise of its own; one in bfloat16 lies on it, so that small"
        " changes are swallowed. Where rounding holds much of the energy, k90 as stored is that of noise."
    )
    return f"{words} {_untrained(own)}\n\n{table(headings, rows)}"


def _untrained(places: pd.DataFrame) -> str:
    """Of the base itself, stored as its checkpoints are: the same in all runs."""
    base = places[(places["format"] == "bfloat16") & (places["step"] == 0)].drop_duplicates("place")
    told = " and ".join(
        f"{row['raw']:.0f} in {row['place']} ({row['raw_over_null']:.0%} of its null)"
        for row in base.to_dict("records")
    )
    return (
        f"**A checkpoint of no training at all**, the float16 base stored in bfloat16, has a k90 of {told}: a high rank"
        " at an early checkpoint may be that of the file."
    )


def _optimizers(tables: Tables) -> str:
    losses, chosen, rates = tables["losses"], tables["chosen"], tables["rates"]
    last = losses[losses["step"] == losses["step"].max()]
    start = losses[losses["step"] == 0]
    rows = []
    for row in chosen.to_dict("records"):
        own, before = (part[part["optimizer"] == row["optimizer"]].set_index("seed")["loss"] for part in (last, start))
        learned = difference(before.to_dict(), own.to_dict())
        mine = rates[rates["optimizer"] == row["optimizer"]].groupby("learning_rate")["raw_over_null"].mean().dropna()
        rows.append(
            (TITLES[row["optimizer"]], f"{row['learning_rate']:g}" + (" (at an end)" if row["at_an_end"] else ""),
             interval_words(difference(list(own))), interval_words(learned),
             ", ".join(f"{rate:g}: {value:.2f}" for rate, value in mine.items()))
        )  # fmt: skip
    headings = (
        "optimizer",
        "chosen rate",
        "loss, nats a token",
        "learned",
        "k90 / null at every rate tried, last step",
    )
    words = (
        'Loss on the half of held-out code that no choice saw. "At an end": the smallest or largest rate that was tried'
        " was best, so that a better one may lie beyond. The last column says how much the rate alone moves the rank."
    )
    return f"{words}\n\n{table(headings, rows)}"
