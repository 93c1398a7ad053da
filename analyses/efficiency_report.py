"""Words and tables of :mod:`analyses.parameter_efficiency`, from the tables that it keeps."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from analyses.efficiency_arms import KEPT, titles
from analyses.efficiency_numbers import LEAD, MARGIN
from analyses.efficiency_tables import AVERAGE, PAIRS
from analyses.kept_results import Kept, told_origin
from analyses.machine import table
from rank_lab.glue import GLUE

__all__ = ["claims", "report"]


def report(found: Kept) -> str:
    """The page.

    Parameters
    ----------
    found
        What is kept.
    """
    scores, differences = found.tables["scores"], found.tables["differences"]
    parts = [
        "# Parameters and scores: SoRA, LoRA and others at equal effort",
        _setting(found),
        "## The claims of the paper",
        table(("claim of arXiv 2311.11696", "here", "why"), claims(scores, differences)),
        "![Score over parameters, a panel a task](parameters.png)",
        _CAPTION,
        "## Scores",
        _scores(scores),
        _LEARNED + " " + _learned(scores),
        "## Differences",
        _differences(differences),
        _VERDICTS + _power(differences),
        "## What choosing a rate changed",
        _effort(found.tables["effort"]),
        _effort_words(found.tables["effort"]),
        "## Whether the comparison is fair",
        _fairness(found.tables["fairness"]),
        told_origin(found.about),
    ]
    return "\n\n".join(parts) + "\n"


_CAPTION = (
    "*Bars: 95 % intervals over seeds and validation examples. A dotted line runs from the parameters that were trained"
    " to those that are not zero in the end. Grey: one answer for all examples.*"
)
_VERDICTS = (
    "Points of 100, 95 % intervals, paired by seed and example. *Not worse*: the whole interval lies above"
    f" -{MARGIN:g}; *worse*, *better*: it lies on one side of 0; else it cannot be told. Nothing is widened for the"
    " number of pairs: the first is the claim, the others are beside it."
)
_LEARNED = "The new head (the same for every arm, and from the same start) is counted apart."


def _setting(found: Kept) -> str:
    settings = found.about["settings"]
    sizes, seeds, choosing = settings["sizes"], settings["seeds"], settings["choosing_seeds"]
    tasks = ", ".join(f"{task} ({GLUE[task].score.replace('_', ' ')})" for task in settings["tasks"])
    rates = len(settings["arms"][0]["learning_rates"])
    return (
        f"{sizes['model']}, {tasks}; {sizes['steps']} steps of {sizes['batch']} examples of at most"
        f" {sizes['max_length']} tokens, AdamW, linear schedule with warm-up, bfloat16 autocast. All linear layers of"
        " attention and feed-forward are adapted. A run sees"
        f" {sizes['steps'] * sizes['batch']:,} examples (the published scripts: ten epochs and more), so that what is"
        " compared is what methods have learned by then, not what they reach in the end.\n\n"
        f"Every arm is trained at {rates} learning rates with seeds {', '.join(map(str, choosing))}; the mean of their"
        " scores on one half of the validation set chooses the rate; scores are of the other half, and of other seeds"
        f" alone ({', '.join(map(str, seeds[len(choosing) :]))}). SoRA's threshold is not tuned: it rises until"
        f" {KEPT:.0%} of the parameters are left, which then train on. The margin, {MARGIN:g} point, was set before any"
        f" run: in the paper SoRA is ahead of LoRA by {LEAD} on average (89.36 with 0.91 M parameters against 88.38)."
    )


def claims(scores: pd.DataFrame, differences: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Each claim, whether it was seen, and by what.

    Parameters
    ----------
    scores, differences
        Of :mod:`analyses.efficiency_tables`.
    """
    idle = _idle(scores)
    rows = [
        (f"SoRA with about {KEPT:.0%} of LoRA's parameters is not worse", *_claim(differences, _not_worse)),
        (f"SoRA scores higher than LoRA, by {LEAD} on average", *_claim(differences, _ahead)),
        ("the same at other largest ranks (Table 2)", *_several(differences)),
        ("AdaLoRA lies between LoRA and SoRA", *_between(differences)),
    ]
    about = (_CLAIMED, _CLAIMED, {"sora-r2", "sora-r4", "sora-r16"}, {*_CLAIMED, "adalora-r6"})
    rows = [_testable(row, idle & arms) for row, arms in zip(rows, about, strict=True)]
    rows.append(
        (
            "SoRA trains about 30 % faster than AdaLoRA (Table 4)",
            "not testable here",
            "runs shared their processor with others; see training_cost for times",
        )
    )
    half = _row(differences, "lora-r4", "lora-r8")
    if half is not None:
        why = _interval(half) + "; where this is not worse either, SoRA's case says little of its gates"
        claim = f"beside it: LoRA itself with {half['parameters']:.0%} of the parameters (r = 4 against 8)"
        rows.append(_testable((claim, half["verdict"], why), idle & {"lora-r4", "lora-r8"}))
    return rows


_CLAIMED = frozenset(PAIRS[0])


def _testable(row: tuple[str, str, str], idle: set[str]) -> tuple[str, str, str]:
    """A claim on methods of which one has learned nothing is not one on how well they do."""
    if not idle or row[1] == "not run":
        return row
    names = "; ".join(titles()[arm] for arm in sorted(idle))
    return row[0], "not testable here", f"{row[2]}; not above one answer for all examples: {names}"


def _idle(scores: pd.DataFrame) -> set[str]:
    """Arms that on some task do not lie above one answer for all examples."""
    known = scores[scores["one_answer"].notna()]
    return set(known.loc[known["low"] <= known["one_answer"], "arm"])


def _not_worse(row: dict[Any, Any]) -> str:
    if row["low"] > -MARGIN:
        return "seen"
    return "not seen" if row["verdict"] == "worse" else "cannot be told apart"


def _ahead(row: dict[Any, Any]) -> str:
    """Whether the first is ahead by as much as the paper says: excluded, shown to be ahead, or neither."""
    if row["verdict"] == "better":
        return "seen"
    return "not seen" if row["high"] < LEAD else "cannot be told apart"


def _claim(differences: pd.DataFrame, read: Callable[[dict[Any, Any]], str]) -> tuple[str, str]:
    row = _row(differences, *PAIRS[0])
    return ("not run", "") if row is None else (read(row), f"{row['task']}: {_interval(row)}")


def _several(differences: pd.DataFrame) -> tuple[str, str]:
    pairs = [("sora-r2", "lora-r2"), ("sora-r4", "lora-r4"), ("sora-r16", "lora-r16")]
    rows = [row for row in (_row(differences, *pair) for pair in pairs) if row is not None]
    if not rows:
        return "not run", ""
    words = {_not_worse(row) for row in rows}
    why = "; ".join(f"{titles()[row['first']]}: {_interval(row)}" for row in rows)
    return words.pop() if len(words) == 1 else "seen at some", why


def _between(differences: pd.DataFrame) -> tuple[str, str]:
    pairs = (("sora-r8", "adalora-r6"), ("adalora-r6", "lora-r8"))
    rows = [row for row in (_row(differences, *pair) for pair in pairs) if row is not None]
    if len(rows) < 2:
        return "not run", ""
    why = "; ".join(f"{titles()[row['first']]} less {titles()[row['second']]}: {_interval(row)}" for row in rows)
    words = [row["verdict"] for row in rows]
    if all(word == "better" for word in words):
        return "seen", why
    against = any(word.startswith("worse") for word in words)
    return ("not seen" if against else "cannot be told apart"), why


def _row(differences: pd.DataFrame, first: str, second: str) -> dict[Any, Any] | None:
    """Of the average, or of the one task that there is."""
    own = differences[(differences["first"] == first) & (differences["second"] == second)]
    if own.empty:
        return None
    average = own[own["task"] == AVERAGE]
    row: dict[Any, Any] = (average if len(average) else own).to_dict("records")[0]
    return row


def _interval(row: dict[Any, Any]) -> str:
    if pd.isna(row["low"]):
        return f"{row['value']:+.2f} (one seed: no interval)"
    return f"{row['value']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f})"


def _power(differences: pd.DataFrame) -> str:
    """How far the claim's interval is from the margin, and what would bring it there."""
    row = _row(differences, *PAIRS[0])
    if row is None or pd.isna(row["low"]):
        return ""
    half = (row["high"] - row["low"]) / 2
    words = f" The claim's interval is {half:.2f} points to each side"
    if half <= MARGIN:
        return words + ", less than the margin."
    times = math.ceil((half / MARGIN) ** 2)
    return (
        words + f": of two methods that are equal, about {times} times as many seeds and examples would show one to be"
        " within the margin."
    )


def _scores(scores: pd.DataFrame) -> str:
    tasks = list(scores["task"].unique())
    by_key = {(row["task"], row["arm"]): row for row in scores.to_dict("records")}
    rows = []
    for arm in scores["arm"].unique():
        row = by_key[tasks[-1], arm]
        cells = [_score(by_key[task, arm]) for task in tasks]
        closed = _count(row["nonzero"]) + ("" if pd.isna(row["published_count"]) else " *")
        rows.append((titles()[arm], _count(row["trained"]), closed, _share(row["share_of_full"]), *cells))
    headings = ("method", "trained", "not zero in the end", "of full", *tasks)
    head = int(scores["head"].iloc[0])
    notes = [f"Parameters without the new head ({head:,}{'' if scores['head'].nunique() == 1 else ' or so'})."]
    gated = scores[scores["published_count"].notna()].drop_duplicates("arm", keep="last")
    notes += [
        f"\\* {titles()[row['arm']]}: the published code would count {_count(row['published_count'])}."
        for row in gated.to_dict("records")
    ]
    if len(gated):
        notes.append("It takes off twice the hidden size for each closed gate, also where the feed-forward is wider.")
    return table(headings, rows) + "\n\n" + " ".join(notes)


def _score(row: dict[Any, Any]) -> str:
    ends = "" if pd.isna(row["low"]) else f" ({row['low']:.1f} to {row['high']:.1f})"
    return f"{row['value']:.1f}{ends}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _share(value: float) -> str:
    return f"{value:.2%}"


def _learned(scores: pd.DataFrame) -> str:
    """Which arms have learned something at all."""
    known = scores[scores["one_answer"].notna()]
    low = known[~(known["low"] > known["one_answer"])]
    answers = known.drop_duplicates("task")
    told = ", ".join(f"{row['task']} {row['one_answer']:.1f}" for row in answers.to_dict("records"))
    if low.empty:
        return f"Every arm lies above one answer for all examples ({told})."
    names = "; ".join(f"{titles()[row['arm']]} on {row['task']}" for row in low.to_dict("records"))
    return f"One answer for all examples scores {told}; not above it by their intervals: {names}."


def _differences(differences: pd.DataFrame) -> str:
    rows = [
        (
            f"{titles()[row['first']]} less {titles()[row['second']]}",
            row["task"],
            f"{row['parameters']:.1%}",
            _interval(row),
            row["verdict"],
        )
        for row in differences.to_dict("records")
    ]
    return table(("pair", "task", "parameters, of the second's", "difference", "the first is"), rows)


def _effort(effort: pd.DataFrame) -> str:
    rows = []
    for row in effort.to_dict("records"):
        change = "-" if pd.isna(row["gain"]) else _interval(_gain(row)) if row["gain"] or row["gain_low"] else "same"
        default = "-" if pd.isna(row["default_score"]) else f"{row['default_score']:.1f}"
        rows.append(
            (
                titles()[row["arm"]], row["task"], row["rates_tried"],
                f"{row['chosen_rate']:g}{' (edge)' if row['at_edge'] else ''}", f"{row['default_rate']:g}",
                f"{row['chosen_score']:.1f}", default, change,
            )
        )  # fmt: skip
    headings = ("method", "task", "rates tried", "chosen", "registry's", "score at chosen", "at the registry's", "gain")
    return table(headings, rows)


def _gain(row: dict[Any, Any]) -> dict[str, Any]:
    return {"value": row["gain"], "low": row["gain_low"], "high": row["gain_high"]}


def _effort_words(effort: pd.DataFrame) -> str:
    """By how much untuned rates would have moved the comparison."""
    words = (
        "Both scores are of the first seed and of the half that did not choose; gains with the 95 % interval of a"
        " paired bootstrap over examples. The registry's rate is where a search would begin for a run of common"
        " length; these are short."
    )
    if effort["default_score"].isna().any():
        return words
    default, chosen = (_spread(effort, column) for column in ("default_score", "chosen_score"))
    return (
        f"{words} Between the best and the worst method lay {default:.1f} points at the registry's rates and"
        f" {chosen:.1f} at the chosen ones, mean over tasks."
    )


def _spread(effort: pd.DataFrame, column: str) -> float:
    by_task = effort.groupby("task")[column]
    return float((by_task.max() - by_task.min()).mean())


def _fairness(found: pd.DataFrame) -> str:
    if found.empty:
        return "`rank-lab fairness` finds nothing in these runs."
    rows = []
    for (rule, text, source), part in found.fillna("").groupby(["rule", "text", "source"], sort=False):
        rows.append(f"- {rule} ({_where(part)}): {text} [{source}]")
    return "What the rules of `rank-lab fairness` find in the records of these runs:\n\n" + "\n".join(rows)


def _where(part: pd.DataFrame) -> str:
    places: Sequence[str] = [
        row["task"] + (f", {titles().get(row['arm'], row['arm'])}" if row["arm"] else "")
        for row in part.to_dict("records")
    ]
    return "; ".join(dict.fromkeys(places))
