"""Tables and page of :mod:`analyses.adapter_placement`, from the rows of its runs."""

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from typing import Any

import pandas as pd

from analyses.kept_results import Kept, told_origin
from analyses.machine import table
from rank_lab.uncertainty import student_interval

__all__ = ["NAMES", "PLACE_NAMES", "page", "tables"]

NAMES = {
    "lora": "LoRA", "series": "series", "parallel": "parallel (He et al.)",
    "parallel_linear": "parallel (LLM-Adapters)",
}  # fmt: skip
"""What figures and tables call the types."""

PLACE_NAMES = {"attention": "attention", "mlp": "MLP", "both": "both"}

_COMPARED = ["question", "first", "second", "difference", "low", "high", "seeds", "verdict"]
_POINT = ["method", "place", "size"]


def tables(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """What is kept: every run, the base, means over seeds, and what was compared.

    Parameters
    ----------
    runs
        A row a run: ``method``, ``place``, ``size``, ``rate``, ``seed``, ``chosen``, ``parameters``, ``train_loss``,
        and ``choice_loss`` and ``report_loss``, nats a token on the two halves of the held-out texts.
    """
    base, own = runs[runs["method"] == "base"], runs[runs["method"] != "base"]
    columns = [*_POINT, "rate", "seed", "chosen", "parameters", "choice_loss", "report_loss", "train_loss"]
    chosen = own[own["chosen"]]
    return {
        "runs": own[columns],
        "base": base[["choice_loss", "report_loss"]],
        "points": _points(own, chosen),
        "comparisons": pd.DataFrame(_comparisons(chosen), columns=_COMPARED),
    }


def _points(own: pd.DataFrame, chosen: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for key, group in chosen.groupby(_POINT, sort=False):
        tried = own.loc[(own[_POINT] == list(key)).all(axis=1), "rate"].unique()
        rate = group["rate"].iloc[0]
        mean, low, high = student_interval(group["report_loss"])
        rows.append(
            dict(zip(_POINT, key, strict=True))
            | {
                "parameters": int(group["parameters"].iloc[0]), "rate": rate, "rates_tried": len(tried),
                "rate_at_an_end": bool(rate in (min(tried), max(tried))), "seeds": len(group), "loss": mean, "low": low,
                "high": high, "choice_loss": group["choice_loss"].mean(),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def _comparisons(chosen: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Differences of the reported loss, paired by seed: the first below the second where they are negative."""
    losses = chosen.set_index([*_POINT, "seed"])["report_loss"].sort_index()
    places = {method: list(dict.fromkeys(own["place"])) for method, own in chosen.groupby("method", sort=False)}
    methods = list(places)
    for method in methods:
        over_sizes = losses.loc[method].groupby(["place", "seed"]).mean()
        for first, second in combinations(places[method], 2):
            yield _paired("place", (method, first), (method, second), over_sizes.loc[first], over_sizes.loc[second])
    for method in methods:
        for place in places[method]:
            own = losses.loc[method, place]
            for smaller, larger in pairwise(sorted(set(own.index.get_level_values("size")))):
                pair = ((method, place, larger), (method, place, smaller))
                yield _paired("size", *pair, own.loc[larger], own.loc[smaller])
    best = {method: _best(chosen[chosen["method"] == method]) for method in methods}
    for first, second in combinations(methods, 2):
        pair = ((first, *best[first]), (second, *best[second]))
        yield _paired("type, each at its best", *pair, losses.loc[pair[0]], losses.loc[pair[1]])


def _best(own: pd.DataFrame) -> tuple[str, int]:
    """Place and size with the least loss, over the seeds, on the half that chooses."""
    means = own.groupby(["place", "size"])["choice_loss"].mean().reset_index()
    best = means.sort_values("choice_loss", kind="stable").iloc[0]
    return str(best["place"]), int(best["size"])


def _paired(
    question: str,
    first: tuple[Any, ...],
    second: tuple[Any, ...],
    low_one: "pd.Series[float]",
    other: "pd.Series[float]",
) -> dict[str, Any]:
    difference = (low_one - other).dropna()
    mean, low, high = student_interval(difference)
    verdict = "first lower" if high < 0 else "second lower" if low > 0 else "cannot be told apart"
    return {
        "question": question, "first": _words(first), "second": _words(second), "difference": mean, "low": low,
        "high": high, "seeds": len(difference), "verdict": verdict,
    }  # fmt: skip


def _words(point: Sequence[Any]) -> str:
    method, place, *size = point
    return ", ".join([NAMES.get(method, method), PLACE_NAMES.get(place, place), *(f"{each:g}" for each in size)])


def page(found: Kept) -> str:
    """The page that is kept.

    Parameters
    ----------
    found
        Results, read again.
    """
    points, base, comparisons = (found.tables[name] for name in ("points", "base", "comparisons"))
    parts = [
        "# Where an adapter stands, and how wide it is",
        _setting(found, float(base["report_loss"].iloc[0]), points),
        "![Held-out loss over bottleneck size, a panel a type, a line a place](placement.png)",
        "*Held-out loss over the width of the bottleneck (of LoRA the rank), mean over seeds with Student's interval.*",
        "![Held-out loss over trained parameters](parameters.png)",
        "*The same points over the parameters that are trained; colours are types, symbols places.*",
        "## What the papers say, and what is seen here",
        "\n".join(f"- {line}" for line in _claims(comparisons, points)),
        "## Places, averaged over all sizes",
        _compared(comparisons, "place"),
        "## Each type at its best place and size",
        "Chosen on the half that chooses, by the mean over seeds; compared on the other.",
        _compared(comparisons, "type, each at its best"),
        "## Sizes, each against the next smaller",
        _compared(comparisons, "size"),
        "Intervals are of differences paired by seed (Student's, 95 %), not widened for how many are compared.",
        "## All points",
        _all(points),
        told_origin(found.about),
    ]
    return "\n\n".join(parts) + "\n"


def _setting(found: Kept, base: float, points: pd.DataFrame) -> str:
    own = found.about["settings"]
    seen = own["steps"] * own["batch"] * own["context"]
    ends, width = int(points["rate_at_an_end"].sum()), max(own["sizes"])
    rates = ", ".join(f"{rate:g}" for rate in own["rates"])
    return (
        f"Base: {own['base']}, tuned on Python code (the standard library), {own['steps']} steps of {own['batch']} x"
        f" {own['context']} tokens ({seen:,} in all), AdamW, the rate falling linearly to 0, seeds"
        f" {', '.join(map(str, own['seeds']))}. Learning rates from one ladder ({rates}): three of its middle on the"
        f" first seed, then on past an end that is best, chosen on one half of {own['pieces']} held-out texts; {ends}"
        f" of {len(points)} chosen rates are at an end of what was tried. Losses in nats a token on the other half; the"
        f" base's is {base:.3f}. LoRA's alpha is twice its rank; a width of {width} is a far larger part of this model"
        " than 256 is of one of 7 B parameters, 4,096 wide."
    )


def _claims(comparisons: pd.DataFrame, points: pd.DataFrame) -> Iterator[str]:
    yield from _of_types(comparisons)
    yield from _of_lora_places(comparisons, points)
    yield _of_best_places(comparisons)
    yield _of_sizes(comparisons, points)


def _row(comparisons: pd.DataFrame, question: str, first: str, second: str) -> tuple[str, str]:
    """How two compare, and in numbers: ``below``, ``above``, ``apart`` (cannot be told) or ``missing``."""
    own = comparisons[comparisons["question"] == question]
    for one, other, swapped in ((first, second, False), (second, first, True)):
        fits = own[own["first"].str.startswith(one) & own["second"].str.startswith(other)]
        if len(fits):
            row = fits.iloc[0]
            sign = -1 if swapped else 1
            ends = sorted((sign * row["low"], sign * row["high"]))
            numbers = f"{sign * row['difference']:+.3f} ({ends[0]:+.3f} to {ends[1]:+.3f})"
            state = "below" if ends[1] < 0 else "above" if ends[0] > 0 else "apart"
            return state, numbers
    return "missing", ""


_MARKS = {
    "below": "seen",
    "above": "not seen, the reverse",
    "apart": "not seen: cannot be told apart",
    "missing": "not run",
}


def _of_types(comparisons: pd.DataFrame) -> Iterator[str]:
    source = "(2304.01933, maths average of LLaMA-7B: LoRA 46.9, parallel 46.4, series 44.6, prefix 35.0)"
    for first, second in (("lora", "parallel_linear"), ("parallel_linear", "series")):
        state, numbers = _row(comparisons, "type, each at its best", NAMES[first], NAMES[second])
        yield (
            f"LLM-Adapters: {NAMES[first]} ahead of {NAMES[second]} {source}. {_told(_MARKS[state], numbers)}, each at"
            " its best place and size. Their tables have one run a cell and no interval."
        )
    yield "LLM-Adapters: prefix tuning behind all. **Not tested**: it has neither place nor bottleneck."


def _of_lora_places(comparisons: pd.DataFrame, points: pd.DataFrame) -> Iterator[str]:
    lora = NAMES["lora"]
    counts = points[points["method"] == "lora"].groupby("place")["parameters"].sum()
    state, numbers = _row(comparisons, "place", f"{lora}, MLP", f"{lora}, attention")
    more = "" if state == "missing" else (
        f"; the MLP has {counts['mlp'] / counts['attention']:.2f} times the parameters at a rank here"
    )  # fmt: skip
    yield (
        "LoRA in the MLP alone is better than in attention alone (LoRA Without Regret, at equal parameters; 2405.09673:"
        f" all ~ MLP > attention). {_told(_MARKS[state], numbers)}{more}."
    )
    state, numbers = _row(comparisons, "place", f"{lora}, both", f"{lora}, MLP")
    marks = {
        "apart": "not contradicted: cannot be told apart",
        "below": "not seen: both is better",
        "above": "not seen: the MLP alone is better",
    }
    yield f"LoRA in both is as good as in the MLP alone (2405.09673). {_told(marks.get(state, 'not run'), numbers)}."


def _told(mark: str, numbers: str) -> str:
    return f"**{mark}**: {numbers} nats a token" if numbers else f"**{mark}**"


def _of_best_places(comparisons: pd.DataFrame) -> str:
    told = []
    own = comparisons[comparisons["question"] == "place"]
    for name in NAMES.values():
        mine = own[own["first"].str.startswith(f"{name}, ")]
        lower = [row["first"] for row in mine.to_dict("records") if row["verdict"] == "first lower"]
        lower += [row["second"] for row in mine.to_dict("records") if row["verdict"] == "second lower"]
        winner = next((place for place in PLACE_NAMES.values() if lower.count(f"{name}, {place}") == 2), None)
        if len(mine):
            told.append(f"{name}: {winner or 'no place is below both others'}")
    return (
        "Best place of each type: LLM-Adapters' figure is known here only second-hand and is not quoted, so **nothing"
        f" to compare with**. Here, by differences paired over seeds: {'; '.join(told)}. More places also train more"
        " parameters: see the second picture."
    )


def _of_sizes(comparisons: pd.DataFrame, points: pd.DataFrame) -> str:
    own = comparisons[comparisons["question"] == "size"]
    counts = own["verdict"].value_counts()
    largest = points["size"].max()
    top = own[own["first"].str.endswith(f", {largest:g}")]["verdict"].value_counts()
    return (
        "An optimum of the bottleneck's width, beyond which it falls: known here only second-hand, and **not testable"
        f" at this size**: so few tokens do not fill the widest. Of {len(own)} steps to the next larger width"
        f" {counts.get('first lower', 0)} lower the loss, {counts.get('second lower', 0)} raise it,"
        f" {counts.get('cannot be told apart', 0)} cannot be told apart; of the {int(top.sum())} steps to {largest:g}:"
        f" {top.get('first lower', 0)}, {top.get('second lower', 0)}, {top.get('cannot be told apart', 0)}."
    )


def _compared(comparisons: pd.DataFrame, question: str) -> str:
    rows = [
        (
            row["first"],
            row["second"],
            f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})",
            row["verdict"],
        )
        for row in comparisons[comparisons["question"] == question].to_dict("records")
    ]
    return table(("first", "second", "first minus second, nats a token", "verdict"), rows)


def _all(points: pd.DataFrame) -> str:
    rows = [
        (
            NAMES[row["method"]], PLACE_NAMES[row["place"]], row["size"], f"{row['parameters']:,}",
            f"{row['rate']:g}" + (" (at an end)" if row["rate_at_an_end"] else ""),
            f"{row['loss']:.3f} ({row['low']:.3f} to {row['high']:.3f})",
        )
        for row in points.sort_values(_POINT, kind="stable").to_dict("records")
    ]  # fmt: skip
    return table(("type", "place", "width", "trained parameters", "rate", "held-out loss"), rows)
