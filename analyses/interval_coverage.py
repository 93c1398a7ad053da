"""How often the interval of a functional rank holds the rank that was planted, beside a plain percentile interval.

``python -m analyses.interval_coverage`` draws probe sets whose tokens have singular values i^(-decay/2), those of one
text alike by a share of the variance, of other sizes each, and asks :func:`rank_lab.text_intervals.measured_ranks`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analyses.machine import about_machine, restart_on_one_thread, table, write
from rank_lab.functional import functional_spectrum
from rank_lab.functional_metrics import functional_ranks
from rank_lab.second_moment import SecondMoment, groups_of_texts
from rank_lab.spectrum import Spectrum
from rank_lab.text_intervals import measured_ranks

_RESULTS = Path(__file__).parent / "results"
_METRICS = ("energy_rank_50", "energy_rank_90", "stable_rank", "effective_rank", "participation_ratio_energy")
_DECAYS = (0.5, 1.5, 3.0)
_PROBES = ((16, 20, 0.5), (64, 20, 0.5), (64, 20, 0.1), (200, 50, 0.5), (200, 50, 0.1))
"""Texts, tokens of each, and the share of the variance that is a text's own."""

_RESAMPLES = 50


def probe(scale: np.ndarray, texts: int, length: int, alike: float, seed: int) -> SecondMoment:
    """Second moments of one probe set."""
    rng, width = np.random.default_rng(seed), len(scale)
    moment, groups = SecondMoment.empty(width, groups=min(24, texts)), groups_of_texts(texts)
    for text in range(texts):
        own = np.sqrt(alike) * rng.standard_normal(width)
        rows = (own + np.sqrt(1 - alike) * rng.standard_normal((length, width))) * scale
        moment.add(torch.tensor(rows * np.exp(0.3 * rng.standard_normal())), np.full(length, groups[text]))
    return moment


def percentile_intervals(moment: SecondMoment, seed: int) -> dict[str, tuple[float, float]]:
    """What a percentile bootstrap over the same groups gives."""
    rng, groups = np.random.default_rng(seed), len(moment.tokens)
    shape, drawn = (moment.width, moment.width), []
    for _ in range(_RESAMPLES):
        weights = np.bincount(rng.integers(0, groups, groups), minlength=groups)
        tokens = int(weights @ moment.tokens)
        drawn.append(functional_ranks(functional_spectrum(moment.total(weights.tolist()), tokens, shape)))
    ends = {name: np.quantile([each[name] for each in drawn], [0.025, 0.975]) for name in _METRICS}
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


def measured(width: int, repeats: int, probes: Sequence[tuple[int, int, float]] = _PROBES) -> list[dict[str, Any]]:
    """A row per decay, probe and metric."""
    rows: list[dict[str, Any]] = []
    for decay in _DECAYS:
        scale = np.arange(1, width + 1, dtype=np.float64) ** (-decay / 2)
        true = functional_ranks(Spectrum.from_values(scale.tolist(), shape=(width, width)))
        for texts, length, alike in probes:
            held = {name: np.zeros(4) for name in _METRICS}
            for seed in range(repeats):
                moment = probe(scale, texts, length, alike, seed)
                ranks = measured_ranks(moment, (width, width), resamples=_RESAMPLES, seed=seed).ranks
                plain = percentile_intervals(moment, seed)
                for name in _METRICS:
                    rank, (low, high) = ranks[name], plain[name]
                    inside = rank.low <= true[name] <= rank.high, low <= true[name] <= high
                    held[name] += (rank.value, *inside, rank.open_above)
            about = {"decay": decay, "texts": texts, "tokens": length, "alike": alike}
            for name in _METRICS:
                value, inside, percentile, opened = (held[name] / repeats).tolist()
                numbers = {"covered": inside, "percentile_covered": percentile, "open_above": opened}
                rows.append(about | {"metric": name, "planted": true[name], "mean_value": value} | numbers)
    return rows


def text_of(found: dict[str, Any]) -> str:
    """What is written down."""
    rows = found["rows"]
    head = [
        "decay",
        "texts",
        "tokens a text",
        "alike",
        "rank",
        "planted",
        "mean found",
        "covered",
        "percentile",
        "open",
    ]
    cells = [
        [
            f"{row['decay']:g}", str(row["texts"]), str(row["tokens"]), f"{row['alike']:g}", row["metric"],
            f"{row['planted']:.1f}", f"{row['mean_value']:.1f}",
            *(f"{row[name]:.2f}" for name in ("covered", "percentile_covered", "open_above")),
        ]
        for row in rows
    ]  # fmt: skip
    covered = [row["covered"] for row in rows]
    percentile = [row["percentile_covered"] for row in rows]
    machine = found["machine"]
    own, plain = (f"{min(each):.0%} to {max(each):.0%} (mean {np.mean(each):.0%})" for each in (covered, percentile))
    told = (
        f"The interval over texts holds the planted rank in {own} of the probe sets of a row, a percentile bootstrap"
        f" over the same groups in {plain}; nominal 95 %. Open: share of probe sets that are too small to tell"
        " an upper end, which then is the width."
    )
    made = (
        f"{_RESAMPLES} resamples each; {machine['processor']}, torch {machine['versions']['torch']}, {machine['date']}."
    )
    heading = (
        f"# Coverage of intervals of functional ranks: width {found['width']}, {found['repeats']} probe sets a row"
    )
    return "\n\n".join([heading, told, table(head, cells), made])


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="Width 12, one kind of probe, two of it a row.")
    parser.add_argument("--out", type=Path, default=_RESULTS)
    arguments = parser.parse_args()
    width, repeats, probes = (12, 2, _PROBES[:1]) if arguments.quick else (48, 30, _PROBES)
    found: dict[str, Any] = {"width": width, "repeats": repeats, "rows": measured(width, repeats, probes)}
    found["machine"] = about_machine(["torch", "numpy", "rank-lab"])
    write(arguments.out, "interval_coverage", found, text_of(found))


if __name__ == "__main__":
    restart_on_one_thread("analyses.interval_coverage")
    main()
