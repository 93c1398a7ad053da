"""The papers' claims on learning and forgetting, each with what the tables of this study say of it.

Claims are those of Biderman et al. (2024, arXiv 2405.09673), Shuttleworth et al. (2024, arXiv 2410.21228) and Schulman
et al. (2025, LoRA Without Regret). A claim on a difference is seen where Student's interval over seeds and the
bootstrap's over held-out texts lie on its side of zero, and not seen where one covers zero or both lie on the other
side; targets are told apart.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from analyses import trade_off_pairs as words
from analyses.trade_off_texts import TARGETS

__all__ = ["Claim", "claims"]

Tables = Mapping[str, pd.DataFrame]
LEARNS_LESS, ILLUSION, REGRET = "2405.09673", "2410.21228", "LoRA Without Regret"
SEEN, OPPOSITE, OPEN = "seen", "not seen: the opposite", "not seen: cannot be told apart"
_SIZE = "not testable at this size"
_NOT_RUN = "not run"
_LORA_RANK, _TIMES = 16, 10  # usual of LoRA, and how much more of it the claim is of


@dataclass(frozen=True)
class Claim:
    """One of a paper's claims.

    Parameters
    ----------
    paper
        arXiv number or title.
    text
        In few words.
    verdicts
        By target, or one for all of an empty name.
    why
        Numbers, or the reason why it cannot be tested.
    """

    paper: str
    text: str
    verdicts: Mapping[str, str]
    why: str


def claims(found: Tables) -> list[Claim]:
    """All claims, as the tables have it.

    Parameters
    ----------
    found
        Of :func:`analyses.trade_off_tables.tables`.
    """
    there = set(found["settings"]["arm"])
    made = [claim for claim in (*_differences(found, there), *_others(found, there)) if claim is not None]
    return [*made, *_UNTESTED]


def _differences(found: Tables, there: set[str]) -> Iterator[Claim]:
    wanted = (
        (LEARNS_LESS, "LoRA of low rank learns less than full fine-tuning", "lora-r16-all", "full", "learned", -1),
        (LEARNS_LESS, "of high rank it comes closer: r = 256 learns more than r = 16",
         "lora-r256-all", "lora-r16-all", "learned", 1),
        (LEARNS_LESS, "LoRA of low rank forgets less than full fine-tuning", "lora-r16-all", "full", "forgotten", -1),
        (LEARNS_LESS, "LoRA of high rank forgets less than full fine-tuning", "lora-r256-all", "full", "forgotten", -1),
        (LEARNS_LESS, "low rank forgets less than high rank", "lora-r256-all", "lora-r16-all", "forgotten", 1),
        (LEARNS_LESS, "feed-forward alone learns more than attention alone, r = 16",
         "lora-r16-mlp", "lora-r16-attention", "learned", 1),
        (LEARNS_LESS, "feed-forward alone learns more than attention alone, r = 256",
         "lora-r256-mlp", "lora-r256-attention", "learned", 1),
        (REGRET, "attention alone of high rank learns less than feed-forward alone of lower rank",
         "lora-r16-mlp", "lora-r256-attention", "learned", 1),
    )  # fmt: skip
    for paper, text, first, second, what, sign in wanted:
        if {first, second} <= there:
            yield _difference(found["pairs"], paper, text, (first, second, what, sign))
    if {"lora-r16-all", "lora-r16-mlp"} <= there:
        yield _no_difference(found["pairs"], "lora-r16-all", "lora-r16-mlp")


def _rows(pairs: pd.DataFrame, first: str, second: str, what: str) -> dict[str, "pd.Series[float]"]:
    """By target."""
    chosen = pairs[(pairs["first"] == first) & (pairs["second"] == second) & (pairs["what"] == what)]
    return {str(row["target"]): row for _, row in chosen.iterrows()}


def _difference(pairs: pd.DataFrame, paper: str, text: str, of: tuple[str, str, str, int]) -> Claim:
    first, second, what, sign = of
    rows = _rows(pairs, first, second, what)
    verdicts = {target: _of_pair(str(row["verdict"]), sign) for target, row in rows.items()}
    told = [f"{TARGETS[target]} {_signed(row)}" for target, row in rows.items()]
    return Claim(paper, text, verdicts, f"{first} minus {second}, {what}: {'; '.join(told)}")


def _no_difference(pairs: pd.DataFrame, first: str, second: str) -> Claim:
    """All places are about as good as the feed-forward alone: an interval that covers zero is no proof of that."""
    rows = _rows(pairs, first, second, "learned")
    verdicts = {
        target: "fits: cannot be told apart" if str(row["verdict"]) == words.OPEN else f"not seen: {row['verdict']}"
        for target, row in rows.items()
    }
    told = [f"{TARGETS[target]} {_signed(row)}" for target, row in rows.items()]
    text = "all places learn about as much as the feed-forward alone"
    return Claim(LEARNS_LESS, text, verdicts, f"{first} minus {second}, learned: {'; '.join(told)}")


def _of_pair(verdict: str, sign: int) -> str:
    """Of :func:`analyses.trade_off_pairs.pairs`, for a claim that the first has more (1) or less (-1)."""
    wanted = words.MORE if sign > 0 else words.LESS
    others = {words.OPEN: OPEN, words.ONE_SEED: "not testable with one seed"}
    return SEEN if verdict == wanted else others.get(verdict, OPPOSITE)


def _side(one: float, other: float) -> str:
    low, high = sorted((one, other))
    if not low <= high:
        return "not testable with one seed"
    return SEEN if low > 0 else OPPOSITE if high < 0 else OPEN


def _signed(row: "pd.Series[float]") -> str:
    value = f"{row['difference']:+.3f}"
    return value if pd.isna(row["low"]) else f"{value} ({row['low']:+.3f} to {row['high']:+.3f})"


def _others(found: Tables, there: set[str]) -> Iterator[Claim | None]:
    if {"lora-r16-all", "lora-r256-all"} <= there:
        yield _equal_learning(found["equal_learning"], "lora-r256-all")
        yield _rank(found["curves"])
    yield _growing(found["curves"], "forgotten", "more training forgets more", LEARNS_LESS)
    yield _growing(
        found["curves"], "energy_rank_90", "the rank of full fine-tuning's change grows with training", LEARNS_LESS
    )
    yield _kinds(found["parts"])
    yield _code_and_maths(found["curves"])
    if {"lora-r16-all", "lora-r256-all"} <= there:
        yield _rates(found["settings"], "lora-r16-all")
        yield _same_rates(found["settings"])
    yield _large_rates(found["settings"], there)
    yield from _intruders(found, there)


def _equal_learning(equal: pd.DataFrame, arm: str) -> Claim:
    """At half of what full fine-tuning learned."""
    rows = equal[(equal["arm"] == arm) & (equal["share"] == 0.5)].set_index("target")
    verdicts, told = {}, []
    for target, row in rows.iterrows():
        known = pd.notna(row["than_full_low"])
        verdicts[str(target)] = _side(-row["than_full_low"], -row["than_full_high"]) if known else "not testable"
        ends = f" ({row['than_full_low']:+.3f} to {row['than_full_high']:+.3f})" if known else ", no interval"
        told.append(f"{TARGETS[str(target)]} {row['than_full']:+.3f}{ends}")
    text = "at equal learning LoRA forgets less than full fine-tuning"
    return Claim(
        LEARNS_LESS, text, verdicts, f"{arm} minus full, forgotten at half of what full learned: {'; '.join(told)}"
    )


def _rank(curves: pd.DataFrame) -> Claim:
    """Testable where a random change would have so high a rank."""
    verdicts, told = {}, []
    for target, own in curves[curves["arm"] == "full"].groupby("target", sort=False):
        first = own.sort_values("step").iloc[0]
        above, of_null = (first[name] / _LORA_RANK for name in ("energy_rank_90", "null_energy_rank_90"))
        verdicts[str(target)] = _SIZE if of_null < _TIMES else SEEN if above >= _TIMES else "not seen"
        told.append(
            f"{TARGETS[str(target)]} k90 {first['energy_rank_90']:.1f} at step {int(first['step'])}, {above:.1f} x 16;"
            f" a random change would have {first['null_energy_rank_90']:.0f}, {of_null:.1f} x 16"
        )
    text = "full fine-tuning's change has 10 to 100 times the rank of usual LoRA, from the first checkpoint on"
    return Claim(LEARNS_LESS, text, verdicts, "; ".join(told))


def _growing(curves: pd.DataFrame, what: str, text: str, paper: str) -> Claim:
    """Whether the last checkpoint has more than the first, of full fine-tuning."""
    verdicts, told = {}, []
    for target, own in curves[curves["arm"] == "full"].groupby("target", sort=False):
        ordered = own.sort_values("step")
        first, last = ordered.iloc[0], ordered.iloc[-1]
        apart = first.get(f"{what}_high", first[what]) < last.get(f"{what}_low", last[what])
        less = last.get(f"{what}_high", last[what]) < first.get(f"{what}_low", first[what])
        verdicts[str(target)] = SEEN if apart else OPPOSITE if less else OPEN
        form = ".1f" if what == "energy_rank_90" else ".3f"
        told.append(
            f"{TARGETS[str(target)]} {first[what]:{form}} at step {int(first['step'])}, {last[what]:{form}} at the end"
        )
    return Claim(paper, text, verdicts, "full: " + "; ".join(told))


def _kinds(parts: pd.DataFrame) -> Claim | None:
    """Feed-forward over attention, both relative to their nulls: the shapes differ."""
    own = parts[(parts["arm"] == "full") & (parts["level"] == "kind") & (parts["step"] == parts["step"].max())]
    verdicts, told = {}, []
    for target, rows in own.groupby("target", sort=False):
        by = rows.set_index("part")
        mlp, attention = (by.loc[by.index.isin(names)].mean(numeric_only=True) for names in
                          (("gate", "up", "down"), ("q", "k", "v", "o")))  # fmt: skip
        above_null = mlp["energy_rank_90"] / mlp["null_energy_rank_90"], (
            attention["energy_rank_90"] / attention["null_energy_rank_90"])  # fmt: skip
        higher, relative = mlp["energy_rank_90"] > attention["energy_rank_90"], above_null[0] > above_null[1]
        verdicts[str(target)] = SEEN if higher and relative else "in k90 only" if higher else "not seen"
        told.append(
            f"{TARGETS[str(target)]} {mlp['energy_rank_90']:.0f} and {attention['energy_rank_90']:.0f}, of their nulls"
            f" {above_null[0]:.2f} and {above_null[1]:.2f}"
        )
    if not verdicts:
        return None
    return Claim(
        LEARNS_LESS, "the feed-forward's change has a higher rank than attention's", verdicts, "k90: " + "; ".join(told)
    )


def _code_and_maths(curves: pd.DataFrame) -> Claim:
    last = curves[(curves["arm"] == "full") & (curves["step"] == curves["step"].max())].set_index("target")
    code, maths = last.loc["python"], last.loc["maths"]
    more = code["forgotten_low"] > maths["forgotten_high"]
    less = code["forgotten_high"] < maths["forgotten_low"]
    verdict = SEEN if more else OPPOSITE if less else OPEN
    why = f"full, forgotten: code {code['forgotten']:.3f}, maths {maths['forgotten']:.3f} nats a token, equal steps"
    return Claim(LEARNS_LESS, "code forgets more than maths", {"": verdict}, why)


def _chosen(settings: pd.DataFrame, target: str, arm: str) -> "pd.Series[float]":
    rows = settings[(settings["target"] == target) & (settings["arm"] == arm) & settings["chosen"]]
    found: pd.Series[float] = rows.iloc[0]
    return found


def _rates(settings: pd.DataFrame, arm: str) -> Claim:
    """Rates lie a factor of four apart, so that a ratio of optima is known within that factor each way."""
    verdicts, told = {}, []
    for target in dict.fromkeys(settings["target"]):
        lora, full = (_chosen(settings, target, name) for name in (arm, "full"))
        ratio = lora["rate"] / full["rate"]
        edges = [name for name, row in ((arm, lora), ("full", full)) if row["at_edge"]]
        fits = ratio / 4 < 10 < ratio * 4
        verdicts[target] = "cannot be told: best at the edge" if edges else SEEN if fits else "not seen"
        told.append(
            f"{TARGETS[target]} {ratio:g}" + (f" ({', '.join(edges)} at an edge of the rates)" if edges else "")
        )
    text = "LoRA's best learning rate is about ten times that of full fine-tuning"
    return Claim(
        f"{LEARNS_LESS}, {REGRET}",
        text,
        verdicts,
        f"{arm} over full, one seed, rates a factor of four apart: {'; '.join(told)}",
    )


def _same_rates(settings: pd.DataFrame) -> Claim:
    verdicts, told = {}, []
    for target in dict.fromkeys(settings["target"]):
        low, high = (_chosen(settings, target, f"lora-r{rank}-all") for rank in (16, 256))
        verdicts[target] = SEEN if low["rate"] == high["rate"] else "not seen"
        told.append(f"{TARGETS[target]} {low['rate']:g} and {high['rate']:g}")
    text = "LoRA's best learning rate hardly depends on the rank (alpha / r the same)"
    return Claim(REGRET, text, verdicts, f"r = 16 and 256, one seed, rates a factor of four apart: {'; '.join(told)}")


def _large_rates(settings: pd.DataFrame, there: set[str]) -> Claim | None:
    if "lora-r16-all" not in there:
        return None
    verdicts, told = {}, []
    for target in dict.fromkeys(settings["target"]):
        lora = settings[(settings["target"] == target) & (settings["arm"] == "lora-r16-all")].sort_values("rate")
        largest, full = lora.iloc[-1], _chosen(settings, target, "full")
        verdicts[target] = (
            "points that way, one seed" if largest["forgotten"] > full["forgotten"] else "not seen, one seed"
        )
        told.append(
            f"{TARGETS[target]} {largest['forgotten']:.3f} at {largest['rate']:g}, full {full['forgotten']:.3f}"
        )
    text = "at a large rate LoRA forgets more than full fine-tuning"
    return Claim(ILLUSION, text, verdicts, f"lora-r16-all at its largest rate, full at its best: {'; '.join(told)}")


def _intruders(found: Tables, there: set[str]) -> Iterator[Claim]:
    curves = found["curves"]
    last = curves[curves["intruders"].notna()]
    if last.empty or not {"full", "lora-r16-all"} <= there:
        return
    verdicts, told = {}, []
    for target, own in last.groupby("target", sort=False):
        by = own.set_index("arm")
        lora, full = by.loc["lora-r16-all"], by.loc["full"]
        more = lora["intruders_low"] > full["intruders_high"]
        verdicts[str(target)] = SEEN if more else "not seen: cannot be told apart"
        told.append(
            f"{TARGETS[str(target)]} {lora['intruders']:.1f} and {full['intruders']:.1f} of {full['directions']:.0f}"
        )
    text = "LoRA has intruder dimensions, full fine-tuning almost none"
    yield Claim(ILLUSION, text, verdicts, f"cosine below 0.5, r = 16 and full, mean over seeds: {'; '.join(told)}")
    rows = found["associations"]
    rows = rows[(rows["of"] == "intruders") & (rows["given"].isna() | (rows["given"] == ""))].set_index("target")
    verdicts = {str(target): _side(row["low"], row["high"]) for target, row in rows.iterrows()}
    told = [
        f"{TARGETS[str(target)]} {row['correlation']:.2f} ({row['low']:.2f} to {row['high']:.2f}),"
        f" {row['runs']:.0f} runs"
        for target, row in rows.iterrows()
    ]
    yield Claim(
        ILLUSION,
        "intruders go with forgetting",
        verdicts,
        "Spearman, runs at chosen rates, seeds of an arm taken as independent: " + "; ".join(told),
    )


def _untested(paper: str, text: str, verdict: str, why: str) -> Claim:
    return Claim(paper, text, {"": verdict}, why)


_UNTESTED: Sequence[Claim] = (
    _untested(LEARNS_LESS, "HumanEval and GSM8K accuracy of LoRA stay behind", _SIZE,
              "a base of this size writes no program and no solution that is right; learning is a loss here"),
    _untested(LEARNS_LESS, "HellaSwag, WinoGrande and ARC-Challenge fall", _SIZE,
              "the base answers them as chance does; forgetting is the rise of a loss on prose here"),
    _untested(LEARNS_LESS, "instruction tuning and continued pretraining differ in the gap", _SIZE,
              "the base follows no instructions, and maths are the only pairs of question and answer"),
    _untested(LEARNS_LESS, "LoRA keeps the diversity of what is written (pass@k)", _SIZE,
              "nothing that is written passes"),
    _untested(LEARNS_LESS, "the first and last layers change with lower rank", _SIZE,
              "three layers have one between them"),
    _untested(LEARNS_LESS, "LoRA regularises more than dropout and weight decay", _NOT_RUN, "neither was varied"),
    _untested(LEARNS_LESS, "alpha = 2 r is better than alpha = 32 at r = 256", _NOT_RUN, "alpha was 2 r everywhere"),
    _untested(REGRET, "LoRA loses to full fine-tuning with larger batches", _NOT_RUN, "one batch size"),
    _untested(ILLUSION, "scaling intruders down brings back what was forgotten", _NOT_RUN, "see rank-lab's mitigation"),
)  # fmt: skip
