"""Words and tables of :mod:`analyses.learning_vs_forgetting`, from its kept tables alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from analyses.kept_results import Kept, kept, told_origin, write_picture
from analyses.machine import table
from analyses.trade_off_arms import ARMS
from analyses.trade_off_claims import claims
from analyses.trade_off_pairs import LESS, MORE, ONE_SEED, OPEN
from analyses.trade_off_texts import PROSE, TARGETS

__all__ = ["report", "tell", "titles"]


def tell(folder: Path, pictures: bool) -> None:
    """Page and pictures.

    Parameters
    ----------
    folder
        Of kept results.
    pictures
        Whether they are wanted.
    """
    found = kept(folder)
    (folder / "README.md").write_text(report(found), encoding="utf-8")
    if not pictures:
        return
    from analyses.trade_off_picture import drawn  # plotly

    for name, figure in drawn(found.tables).items():
        write_picture(figure, folder, name, scale=1)  # three of two panels each are large otherwise


def titles() -> dict[str, str]:
    """Arm to what tables and figures call it."""
    return {arm.name: arm.title for arm in ARMS}


def report(found: Kept) -> str:
    """The page that is kept.

    Parameters
    ----------
    found
        Results of the study.
    """
    tables = found.tables
    parts = [
        "# Learning and forgetting, and the rank of the change",
        _setting(found),
        "## What can be said",
        "\n".join(f"- {line}" for line in _said(tables)),
        "## The papers' claims",
        _claims(tables),
        "## Learned and forgotten at the end",
        ("Each method at the rate at which it learned most with the first seed. Means over seeds with Student's 95 %"
        " interval; k90 beside its null (of factors that of random factors), both means over matrices weighted by their"
        " share of the change. The last three columns are of what the update does: of the change of the hidden states"
        " after each layer on held-out text of the target, mean over layers; of these ranks all methods have one, those"
        " without a weight update as well. Its null is a random linear change on the same inputs."),
        *(f"### {title}\n\n{_ends(tables, target)}" for target, title in TARGETS.items()),
        "![Forgetting over learning](trade_off.png)",
        ("*Forgetting over learning at the chosen rates, from the base at the origin to the last step; mean over seeds,"
        " bars at the last step are Student's 95 % intervals.*"),
        "## Forgetting at equal learning",
        ("Read off each run's curve by straight lines between its checkpoints, never beyond what it reached, at shares"
        " of what full fine-tuning learned. An arm of which a seed does not reach it has no entry. Beside it the"
        " difference from full fine-tuning, paired by seed."),
        *(f"### {title}\n\n{_equal(tables['equal_learning'], target)}" for target, title in TARGETS.items()),
        "## In pairs",
        ("At the last step, each at its chosen rate: the difference in nats a token, Student's interval over seeds of"
        " the differences paired by seed, then the bootstrap's over held-out texts, paired by text. *More* or *less* is"
        " said above only where both leave out zero."),
        _pairs(tables["pairs"]),
        "## Learning rates",
        "![Learned and forgotten over the learning rate](rates.png)",
        "*The first seed at every rate, others at the chosen one. Filled: chosen.*",
        *(f"### {title}\n\n{_rates(tables['settings'], target)}" for target, title in TARGETS.items()),
        "## Rank and forgetting",
        "![Rank of the change and forgetting](ranks.png)",
        ("Spearman's correlation of a rank with forgetting at the last step, plain and given what was learned; of ranks"
        " over all methods and rates with the first seed, of intruders over the runs at chosen rates. The series"
        " adapter changes no weight and has no such rank."),
        _associations(tables["associations"]),
        told_origin(found.about),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _setting(found: Kept) -> str:
    settings, base = found.about["settings"], found.tables["base"].iloc[0]
    size, seeds = settings["size"], settings["seeds"]
    rates = int(found.tables["settings"].groupby(["target", "arm"]).size().max())
    sets = ", ".join(f"{name} {base[f'loss_{name}']:.2f}" for name in PROSE)
    targets = ", ".join(
        f"{TARGETS[str(row['target'])]} {row['loss_report']:.2f}" for _, row in found.tables["base"].iterrows()
    )
    return (
        f"A small Llama that has read English prose ([how well](../pretrain_study_base/README.md), sha256"
        f" {settings['base'][:12]}) is adapted to Python code (packed) and to GSM8K (loss of the solution, given the"
        f" problem): AdamW, constant rate after a warm-up, {size['steps']} steps of {size['batch']} x {size['context']}"
        f" tokens at most, checkpoints at {', '.join(map(str, size['save_at']))}, seeds {', '.join(map(str, seeds))}."
        f" Before any of it the losses are, in nats a token: prose ({sets}), targets ({targets}). *Learned* is how far"
        " the loss on held-out text of the target fell, *forgotten* how far that on held-out prose rose. Every method"
        f" was tried at {rates} rate{'s a factor of four apart' if rates > 1 else ''};"
        f" the rate is chosen by {size['counts'][0]} held-out texts that nothing else is told of; all numbers are of"
        f" {size['counts'][1]} others. Intervals over seeds are of {len(seeds)} runs; none is widened for the number of"
        " comparisons."
    )


def _interval(value: Any, low: Any, high: Any, form: str = ".3f") -> str:
    if pd.isna(value):
        return "-"
    return f"{value:{form}}" if pd.isna(low) else f"{value:{form}} ({low:{form}} to {high:{form}})"


def _ends(tables: dict[str, pd.DataFrame] | Any, target: str) -> str:
    curves, settings = tables["curves"], tables["settings"]
    last = curves[(curves["target"] == target) & (curves["step"] == curves["step"].max())]
    own = settings[(settings["target"] == target) & settings["chosen"]].set_index("arm")
    rows = []
    for row in last.to_dict("records"):
        about = own.loc[row["arm"]]
        ranked = pd.notna(row.get("energy_rank_90"))
        rows.append((
            titles()[row["arm"]],
            f"{row['rate']:g}" + (" (edge)" if about["at_edge"] else ""),
            f"{int(about['parameters']):,}",
            _interval(row["learned"], row["learned_low"], row["learned_high"]),
            _interval(row["forgotten"], row["forgotten_low"], row["forgotten_high"]),
            f"{row['energy_rank_90']:.1f} ({row['null_energy_rank_90']:.1f})" if ranked else "-",
            f"{row['effective_rank']:.1f}" if ranked else "-",
            f"{row['relative_frobenius']:.3f}" if ranked else "-",
            f"{row['intruders']:.1f} of {row['directions']:.0f}" if pd.notna(row["intruders"]) else "-",
            f"{row['functional_energy_rank_90']:.1f} ({row['null_functional_energy_rank_90']:.1f})",
            f"{row['functional_effective_rank']:.1f}",
            "-" if pd.isna(row["linear_share"]) else f"{row['linear_share']:.2f}",
        ))  # fmt: skip
    headings = ("method", "rate", "trained parameters", "learned", "forgotten", "k90 (its null)", "effective rank",
                "size of the change, of the weights'", "intruders", "k90 of the change of hidden states (its null)",
                "effective rank of it", "share of it that a linear map explains")  # fmt: skip
    return table(headings, rows)


def _equal(equal: pd.DataFrame, target: str) -> str:
    own = equal[equal["target"] == target]
    rows = []
    for arm in dict.fromkeys(own["arm"]):
        cells = []
        for row in own[own["arm"] == arm].to_dict("records"):
            if row["reached"] < row["seeds"]:
                cells.append(f"{row['reached']} of {row['seeds']} reach it")
                continue
            told = _interval(row["forgotten"], row["low"], row["high"])
            apart = _interval(row["than_full"], row["than_full_low"], row["than_full_high"], "+.3f")
            cells.append(told if arm == "full" else f"{told}; {apart}")
        rows.append((titles()[arm], *cells))
    levels = own.drop_duplicates("share")
    headings = [
        f"{row['share']:.0%} = {row['at_learned']:.3f}: forgotten; and minus full's"
        for row in levels.to_dict("records")
    ]
    return table(("method", *headings), rows)


def _rates(settings: pd.DataFrame, target: str) -> str:
    rows = [
        (
            titles()[row["arm"]],
            f"{row['rate']:g}",
            f"{row['loss_choose']:.3f}" + (" (chosen)" if row["chosen"] else ""),
            _interval(row["learned"], row["learned_low"], row["learned_high"]),
            _interval(row["forgotten"], row["forgotten_low"], row["forgotten_high"]),
        )
        for row in settings[settings["target"] == target].to_dict("records")
    ]
    return table(("method", "rate", "loss to choose by", "learned", "forgotten"), rows)


def _associations(rows: pd.DataFrame) -> str:
    told = [
        (
            TARGETS[row["target"]],
            row["of"],
            row["given"] if isinstance(row["given"], str) and row["given"] else "-",
            str(row["runs"]),
            _interval(row["correlation"], row["low"], row["high"], ".2f"),
            "-" if pd.isna(row["p"]) else f"{row['p']:.3g}",
            row["reason"] if isinstance(row["reason"], str) else "",
        )
        for row in rows.to_dict("records")
    ]
    return table(("target", "of", "given", "runs", "correlation with forgetting", "p", "remark"), told)


def _claims(tables: Any) -> str:
    rows = []
    for claim in claims(tables):
        verdicts = claim.verdicts
        same = len(set(verdicts.values())) == 1
        told = next(iter(verdicts.values())) if same else "; ".join(
            f"{TARGETS.get(target, target)}: {verdict}" for target, verdict in verdicts.items()
        )  # fmt: skip
        rows.append((claim.text, claim.paper, told, claim.why))
    return table(("claim", "of", "here", "why"), rows)


def _said(tables: Any) -> list[str]:
    """Against full fine-tuning, arm by arm, and of the pairs that the papers compare; only where intervals allow it."""
    return [*_against_full(tables["pairs"]), *_beside(tables["pairs"])] or ["Nothing: one arm only."]


def _against_full(pairs: pd.DataFrame) -> Iterator[str]:
    for target, title in TARGETS.items():
        own = pairs[(pairs["target"] == target) & (pairs["second"] == "full")]
        for what, less, more in (
            ("learned", "learned less", "learned more"),
            ("forgotten", "forgot less", "forgot more"),
        ):
            rows = own[own["what"] == what]
            if rows.empty:
                continue
            if (rows["verdict"] == ONE_SEED).all():
                yield f"{title}: nothing is said of what is {what}, with one seed there is no interval."
                continue
            words = {LESS: less, MORE: more, OPEN: "cannot be told from it"}
            parts = {word: rows[rows["verdict"] == verdict] for verdict, word in words.items()}
            told = [
                f"{word}: {', '.join(titles()[arm] for arm in part['first'])}"
                for word, part in parts.items()
                if len(part)
            ]
            yield f"{title}, {what}, against full fine-tuning: {'; '.join(told)}."


def _beside(pairs: pd.DataFrame) -> Iterator[str]:
    own = pairs[(pairs["second"] != "full") & (pairs["verdict"] != ONE_SEED)]
    for (first, second), rows in own.groupby(["first", "second"], sort=False):
        told = [
            f"{TARGETS[str(row['target'])]} {row['what']} {row['verdict']} ({row['difference']:+.3f})"
            for row in rows.to_dict("records")
        ]
        yield f"{titles()[str(first)]} against {titles()[str(second)]}: {'; '.join(told)}."


def _pairs(pairs: pd.DataFrame) -> str:
    rows = []
    for (target, first, second), own in pairs.groupby(["target", "first", "second"], sort=False):
        cells = []
        for row in own.to_dict("records"):
            over_texts = _interval(row["difference"], row["texts_low"], row["texts_high"], "+.3f").partition(" ")[2]
            cells.append(f"{_interval(row['difference'], row['low'], row['high'], '+.3f')} {over_texts}".strip())
        rows.append((TARGETS[str(target)], titles()[str(first)], titles()[str(second)], *cells))
    return table(("target", "first", "second", "learned: first minus second", "forgotten: first minus second"), rows)
