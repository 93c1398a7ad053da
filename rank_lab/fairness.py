"""What would make a comparison of LoRA with full fine-tuning unfair, told from how the runs were trained.

Published comparisons disagree by their settings: each rule here is one of these, with where it was seen.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rank_lab.errors import DataError
from rank_lab.training_record import TrainingRecord

__all__ = ["LEARNS_LESS", "WITHOUT_REGRET", "Finding", "fairness", "render_findings"]

LEARNS_LESS = "arXiv:2405.09673"
WITHOUT_REGRET = "LoRA Without Regret, 2025, https://thinkingmachines.ai/blog/lora/"
_ILLUSION = "arXiv:2410.21228"

_SWEPT = 3
_SHORT_STEPS = 100
_LARGE_RANK = 64
_OF_LOW_RANK = frozenset({"lora", "rslora", "dora", "pissa", "olora", "loftq", "adalora", "sora"})
_ATTENTION = frozenset({"q_proj", "k_proj", "v_proj", "o_proj", "query", "key", "value", "c_attn", "qkv_proj"})
_SETTINGS = ("optimizer", "scheduler", "warmup", "weight_decay", "clip", "precision")


@dataclass(frozen=True)
class Finding:
    """One thing that makes a comparison unfair, or that it leaves open.

    Parameters
    ----------
    rule
        Short name, such as ``"same rate"``.
    text
        What was found, and what would be fair.
    source
        arXiv id or publication where it was measured or done.
    """

    rule: str
    text: str
    source: str


def fairness(
    records: Sequence[TrainingRecord], *, best_rates: Mapping[str, float] | None = None
) -> tuple[Finding, ...]:
    """What would make a comparison of these runs unfair.

    Parameters
    ----------
    records
        Of all runs that are compared, of any methods.
    best_rates
        Method to the learning rate that was best by the score that is compared, where that is known.

    Returns
    -------
    tuple of Finding
        In the order of the rules; empty where nothing was found, which does not mean that a comparison is fair.

    Raises
    ------
    DataError
        If there are no records, or they are of different base models or kinds, which no setting makes comparable.

    Examples
    --------
    >>> shared = dict(kind="causal", base="m", revision=None, optimizer="adamw_torch", scheduler="constant",
    ...     warmup=0.0, weight_decay=0.0, clip=1.0, batch_size=8, steps=500, trainable_parameters=9, parameters=9,
    ...     precision="float32", data={})
    >>> rates, seeds = (1e-5, 1e-4, 1e-3), (0, 1)
    >>> runs = [TrainingRecord("full", choices={}, learning_rate=r, seed=s, **shared) for r in rates for s in seeds]
    >>> fairness(runs)
    ()
    >>> [finding.rule for finding in fairness(runs[:1])]
    ['rate not swept', 'one seed']
    """
    _refuse_incomparable(records)
    found = [finding for rule in _RULES for finding in rule(records)]
    return (*found, *_edges(records, best_rates or {}))


def render_findings(findings: Sequence[Finding]) -> str:
    """The findings as plain text, a line each.

    Examples
    --------
    >>> print(render_findings([Finding("one seed", "lora: seed 0 only.", "arXiv:0000.00000")]))
    one seed: lora: seed 0 only. [arXiv:0000.00000]
    >>> print(render_findings([]))
    No setting was found that would make the comparison unfair.
    """
    if not findings:
        return "No setting was found that would make the comparison unfair."
    return "\n".join(f"{each.rule}: {each.text} [{each.source}]" for each in findings)


def _refuse_incomparable(records: Sequence[TrainingRecord]) -> None:
    if not records:
        raise DataError("no record of a training to compare; give the training.json of each run.")
    for name in ("base", "kind"):
        values = sorted({str(getattr(record, name)) for record in records})
        if len(values) > 1:
            raise DataError(
                f"the runs differ in {name} ({values[0]}, {values[1]}), so that nothing else can be compared; give runs"
                " of one model and kind."
            )


def _by_method(records: Sequence[TrainingRecord]) -> dict[str, list[TrainingRecord]]:
    found: dict[str, list[TrainingRecord]] = {}
    for record in records:
        found.setdefault(record.method, []).append(record)
    return found


def _low_rank(records: Sequence[TrainingRecord]) -> list[TrainingRecord]:
    return [record for record in records if record.method in _OF_LOW_RANK]


def _full(records: Sequence[TrainingRecord]) -> list[TrainingRecord]:
    return [record for record in records if record.method == "full"]


def _rates(records: Sequence[TrainingRecord]) -> list[float]:
    return sorted({record.learning_rate for record in records})


def _not_swept(records: Sequence[TrainingRecord]) -> Iterator[Finding]:
    rates = {method: _rates(runs) for method, runs in _by_method(records).items()}
    told = [f"{method} at {_listed(tried)}" for method, tried in rates.items() if len(tried) < _SWEPT]
    if told:
        yield Finding(
            "rate not swept",
            f"{'; '.join(told)} only; the best rate differs from method to method: try at least {_SWEPT}, and compare"
            " the best of each.",
            WITHOUT_REGRET,
        )


def _same_rate(records: Sequence[TrainingRecord]) -> Iterator[Finding]:
    full, low = _rates(_full(records)), _rates(_low_rank(records))
    if full and low and low[-1] <= full[-1]:
        times = "about 15 times" if min(record.steps for record in records) < _SHORT_STEPS else "about 10 times"
        yield Finding(
            "same rate",
            f"the largest rate of LoRA's kind, {low[-1]:g}, is not above that of full fine-tuning, {full[-1]:g};"
            f" LoRA's best is {times} full's.",
            WITHOUT_REGRET,
        )


def _alpha(record: TrainingRecord) -> tuple[float, int] | None:
    rank, alpha = record.choices.get("rank"), record.choices.get("alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float | None):
        return None
    return (2.0 * rank if alpha is None else float(alpha)), rank


def _alpha_small(records: Sequence[TrainingRecord]) -> Iterator[Finding]:
    pairs = sorted({(method, *found) for method, found in _alphas(records) if method != "rslora"})
    told = [
        f"{method}: alpha {alpha:g} at rank {rank} scales the update by alpha / r = {alpha / rank:g}"
        for method, alpha, rank in pairs
        if rank >= _LARGE_RANK and alpha < 2 * rank
    ]
    if told:
        yield Finding(
            "alpha too small",
            f"{'; '.join(told)}; at rank 256, alpha 512 was far better than 32. Take alpha = 2 r, or scale by"
            " alpha / sqrt(r).",
            LEARNS_LESS,
        )


def _alpha_fixed(records: Sequence[TrainingRecord]) -> Iterator[Finding]:
    ranks: dict[float, set[int]] = {}
    for method, (alpha, rank) in _alphas(records):
        if method != "rslora":
            ranks.setdefault(alpha, set()).add(rank)
    told = [f"{alpha:g} at ranks {_listed(sorted(found))}" for alpha, found in sorted(ranks.items()) if len(found) > 1]
    if told:
        yield Finding(
            "alpha fixed",
            f"alpha is {'; '.join(told)}, so that the scaling falls as the rank grows; compare ranks at alpha = 2 r, or"
            " sweep the learning rate at each.",
            LEARNS_LESS,
        )


def _scalings(records: Sequence[TrainingRecord]) -> Iterator[Finding]:
    methods = {record.method for record in _low_rank(records)}
    if "rslora" in methods and len(methods) > 1:
        others = ", ".join(sorted(methods - {"rslora"}))
        yield Finding(
            "two scalings",
            f"rslora scales by alpha / sqrt(r), {others} by alpha / r: the same alpha is another step; compare each at"
            " its own best learning rate.",
            WITHOUT_REGRET,
        )


def _alphas(records: Sequence[TrainingRecord]) -> Iterator[tuple[str, tuple[float, int]]]:
    for record in _low_rank(records):
        found = _alpha(record)
        if found is not None:
            yield record.method, found


def _targets(records: Sequence[TrainingRecord]) -> Iterator[Finding]:
    chosen = {str(record.choices["targets"]) for record in _low_rank(records) if "targets" in record.choices}
    names = {target: {name.strip().rsplit(".", 1)[-1] for name in target.split(",")} for target in sorted(chosen)}
    attention = [target for target in names if target == "attention" or names[target] <= _ATTENTION]
    ungated = [t for t in names if {"up_proj", "down_proj"} <= names[t] and "gate_proj" not in names[t]]
    if attention:
        yield Finding(
            "MLP left out",
            f"targets {'; '.join(attention)}: LoRA on attention alone was worse than on the MLP with fewer parameters;"
            " take all.",
            WITHOUT_REGRET,
        )
    if ungated:
        yield Finding(
            "gate_proj left out",
            f"targets {'; '.join(ungated)}: up_proj and down_proj without gate_proj, as in the first version of that"
            " paper; its second version adapts it, too: add gate_proj.",
            LEARNS_LESS,
        )


def _embeddings(records: Sequence[TrainingRecord]) -> Iterator[Finding]:
    low = [record for record in _low_rank(records) if "embeddings" in record.choices]
    left = [record for record in low if not record.choices["embeddings"] or not record.choices.get("head")]
    if _full(records) and left:
        yield Finding(
            "embeddings left out",
            f"{len(left)} of {len(low)} runs of LoRA's kind leave embedding or head frozen, which full fine-tuning"
            " trains; as published, but then the two do not train the same matrices.",
            LEARNS_LESS,
        )


def _unequal_budget(records: Sequence[TrainingRecord]) -> Iterator[Finding]:
    for name, why, source in (
        ("steps", "what is learned and forgotten grows with the length of the training", LEARNS_LESS),
        ("batch_size", "large batches hurt LoRA more than full fine-tuning, whatever the rank", WITHOUT_REGRET),
    ):
        told = _differing(records, name)
        if told:
            yield Finding(f"unequal {name.replace('_', ' ')}", f"{told}; {why}: train all alike.", source)


def _differing(records: Sequence[TrainingRecord], name: str) -> str:
    """The values of a setting by method; empty where all methods have the same."""
    values = {method: {getattr(record, name) for record in runs} for method, runs in _by_method(records).items()}
    if len({frozenset(found) for found in values.values()}) == 1:
        return ""
    return "; ".join(f"{method} {_listed(sorted(found))}" for method, found in values.items())


def _unequal_data(records: Sequence[TrainingRecord]) -> Iterator[Finding]:
    data = {
        m: {json.dumps(r.data, sort_keys=True, default=str) for r in runs} for m, runs in _by_method(records).items()
    }
    if len({frozenset(found) for found in data.values()}) > 1:
        yield Finding(
            "unequal data",
            f"{', '.join(data)} were not trained on the same rows; what is learned and forgotten grows with the data:"
            " train all on the same.",
            LEARNS_LESS,
        )


def _one_seed(records: Sequence[TrainingRecord]) -> Iterator[Finding]:
    seeds = {method: {record.seed for record in runs} for method, runs in _by_method(records).items()}
    told = [f"{method} with seed {min(found)}" for method, found in seeds.items() if len(found) == 1]
    if told:
        yield Finding(
            "one seed",
            f"{'; '.join(told)} only; a difference within the spread of seeds cannot be told (it was found negligible"
            " for intruder dimensions, not for scores).",
            _ILLUSION,
        )


def _unequal_settings(records: Sequence[TrainingRecord]) -> Iterator[Finding]:
    for name in _SETTINGS:
        told = _differing(records, name)
        if told:
            yield Finding(
                f"unequal {name.replace('_', ' ')}", f"{told}; the published comparison used one for all.", LEARNS_LESS
            )


def _dropout(records: Sequence[TrainingRecord]) -> Iterator[Finding]:
    given = [record.choices.get("dropout") for record in _low_rank(records)]
    rates = sorted({float(rate) for rate in given if isinstance(rate, int | float) and rate})
    if _full(records) and rates:
        yield Finding(
            "dropout",
            f"LoRA is regularised by dropout {_listed(rates)}, full fine-tuning is not; dropout and weight decay were"
            " compared with LoRA as regularisers of their own: give both the same, or none.",
            LEARNS_LESS,
        )


def _edges(records: Sequence[TrainingRecord], best: Mapping[str, float]) -> Iterator[Finding]:
    methods = _by_method(records)
    for method, rate in best.items():
        rates = _rates(methods.get(method, []))
        if rate not in rates:
            raise DataError(
                f"best rate {rate:g} of {method}: trained were {_listed(rates) or 'none'}; name one of those."
            )
        if len(rates) > 1 and rate in (rates[0], rates[-1]):
            end = "smallest" if rate == rates[0] else "largest"
            yield Finding(
                "best at the edge",
                f"{method}: the best rate, {rate:g}, is the {end} that was tried, so that a better one may lie beyond;"
                " go on until the best is inside.",
                LEARNS_LESS,
            )


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)


_RULES: tuple[Callable[[Sequence[TrainingRecord]], Iterator[Finding]], ...] = (
    _not_swept, _same_rate, _alpha_small, _alpha_fixed, _scalings, _targets, _embeddings, _unequal_budget,
    _unequal_data, _one_seed, _unequal_settings, _dropout,
)  # fmt: skip
