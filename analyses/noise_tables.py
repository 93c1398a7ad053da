"""Planted updates in rounded checkpoints: what raw ranks say, what the tests against rounding say, what is true.

``python -m analyses.noise_tables`` makes the tables by which the regimes were calibrated: a rank-16 update
at falling size in bfloat16 files, unstructured updates, files that were only re-cast; then the coverage of
the 95 % intervals over 200 cases of random size, shape, rank and grid, and the false alarms of both tests.
"""

import argparse
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analyses.machine import about_machine, table, write
from analyses.planted import Kind, Planted, Recipe
from rank_lab.change import change_statistics
from rank_lab.decomposition import spectrum_of
from rank_lab.denoised import Estimate
from rank_lab.metrics import evaluate
from rank_lab.noise import Noise, noise_of
from rank_lab.update import DenseUpdate, MemoryMatrix

__all__ = ["alarms", "coverage", "recasts", "sizes"]

_RESULTS = Path(__file__).parent / "results"
_SIZES = (1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6)
_SHAPES = ((256, 256), (192, 384), (384, 192), (256, 640))
_MOST_FALSE_ALARMS = 0.05
_COVERAGE_NOTE = """Random size (4e-5 to 1e-3), rank 2 to 16, spread, shape, grid on or off, rows alike or not. An
interval of an integer holds more than its nominal share; stable and effective rank have one only off the grid and
where rounding is less than a tenth of the energy."""


def sizes(side: int, generator: torch.Generator) -> list[dict[str, Any]]:
    """A planted update of rank 16, and an unstructured one, at falling size, for equal and unequal rows.

    Parameters
    ----------
    side
        Of the square matrices.
    generator
        Of everything random.
    """
    rows = []
    for unequal in (False, True):
        for kind in ("low", "iid"):
            for size in _SIZES:
                case = Recipe(shape=(side, side), size=size, kind=kind, unequal=unequal).planted(generator)  # type: ignore[arg-type]
                rows.append({"kind": kind, "unequal": unequal, "size": size} | _measured(case))
    return rows


def _measured(case: Planted) -> dict[str, Any]:
    statistics, spectrum = change_statistics(case.update), spectrum_of(case.update)
    found = noise_of(case.update, spectrum, statistics, mode="full")
    raw = evaluate(spectrum)
    return {
        "identical": statistics.identical_fraction,
        "raw": {name: raw[name] for name in ("energy_rank_90", "energy_rank_99", "effective_rank", "stable_rank")},
        "regime": found.regime,
        "T1": _told(found.above_rounding),
        "T2": _told(found.above_iid),
        "denoised": {name: _told(value) for name, value in found.ranks.items()},
        "true_energy_rank_90": case.energy_rank(0.9),
    }


def _told(estimate: Estimate) -> list[float]:
    return [estimate.value, estimate.low, estimate.high]


def recasts(side: int, generator: torch.Generator) -> list[dict[str, Any]]:
    """Files that were rounded to another type and nothing else; the test is also made where that is not recognised."""
    rows = []
    for base, tuned in (
        (torch.float16, torch.bfloat16),
        (torch.float32, torch.bfloat16),
        (torch.float32, torch.float16),
    ):
        weight = (0.02 * torch.randn(side, side, generator=generator)).to(base)
        update = DenseUpdate(MemoryMatrix(weight.to(tuned)), MemoryMatrix(weight))
        statistics, spectrum = change_statistics(update), spectrum_of(update)
        found = noise_of(update, spectrum, statistics)
        blind = noise_of(update, spectrum, replace(statistics, recast=""))
        rows.append(
            {
                "cast": f"{base} to {tuned}".replace("torch.", ""),
                "identical": statistics.identical_fraction,
                "raw": evaluate(spectrum)["energy_rank_90"],
                "T1": found.above_rounding.value,
                "T1_unrecognised": blind.above_rounding.value,
            }
        )
    return rows


def coverage(
    count: int, generator: torch.Generator, rng: np.random.Generator, kinds: Sequence[Kind] = ("low",)
) -> dict[str, Any]:
    """How often the intervals hold the truth, by regime.

    Parameters
    ----------
    count
        Cases.
    kinds
        Of planted update, in turn.
    generator, rng
        Of the matrices, and of their sizes, ranks and grids.
    """
    held: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for number in range(count):
        case = Recipe(
            shape=_SHAPES[number % len(_SHAPES)],
            size=float(10 ** rng.uniform(-4.4, -3.0)),
            kind=kinds[number // len(_SHAPES) % len(kinds)],
            rank=int(rng.integers(2, 17)),
            on_grid=bool(rng.integers(2)),
            unequal=bool(rng.integers(2)),
            weakest=float(rng.uniform(0.15, 1.0)),
        ).planted(generator)
        found = noise_of(case.update, spectrum_of(case.update), change_statistics(case.update))
        into = held[found.regime]
        into["cases"].append(True)
        for name, true in _truths(case).items():
            estimate = _estimate(found, name)
            if not math.isnan(estimate.low):
                into[name].append(estimate.low <= true <= estimate.high)
    return {
        regime: {"cases": len(found["cases"])}
        | {name: [float(np.mean(values)), len(values)] for name, values in found.items() if name != "cases"}
        for regime, found in sorted(held.items())
    }


def _estimate(found: Noise, name: str) -> Estimate:
    if name == "rank_above_rounding":
        return found.above_rounding
    return found.ranks.get(name, Estimate(math.nan))


def _truths(case: Planted) -> dict[str, float]:
    values = torch.linalg.svdvals(case.true)
    values = values[values > 1e-9 * values[0]]
    shares = values / values.sum()
    return {
        "rank_above_rounding": float(len(values)),
        "energy_rank_90": float(case.energy_rank(0.9)),
        "energy_rank_99": float(case.energy_rank(0.99)),
        "stable_rank": float(values.square().sum() / values[0] ** 2),
        "effective_rank": float(torch.exp(-(shares * shares.log()).sum())),
    }


def alarms(count: int, generator: torch.Generator) -> dict[str, float]:
    """Share of matrices without what a test looks for in which it finds something all the same."""
    found: dict[str, list[bool]] = defaultdict(list)
    for number in range(count):
        shape, unequal = _SHAPES[number % len(_SHAPES)], bool(number // 2 % 2)
        # All but nothing was learned, so that the files are no exact re-cast and the test decides.
        case = Recipe(shape=shape, size=1e-9, kind="iid", on_grid=False, unequal=unequal).planted(generator)
        statistics = replace(change_statistics(case.update), recast="")
        test = noise_of(case.update, spectrum_of(case.update), statistics)
        found["T1, float32 rounded to bfloat16"].append(test.above_rounding.value > 0)
        half = (0.02 * torch.randn(shape, generator=generator)).half()
        update = DenseUpdate(MemoryMatrix(half.bfloat16()), MemoryMatrix(half))
        test = noise_of(update, spectrum_of(update), replace(change_statistics(update), recast=""))
        found["T1, float16 rounded to bfloat16"].append(test.above_rounding.value > 0)
        for size, on_grid in ((1e-4, False), (3e-5, True)):
            case = Recipe(shape=shape, size=size, kind="iid", on_grid=on_grid, unequal=unequal).planted(generator)
            test = noise_of(case.update, spectrum_of(case.update), change_statistics(case.update), mode="full")
            place = "on" if on_grid else "off"
            found[f"T2, i.i.d. update of {size:g} {place} the grid"].append(test.above_iid.value > 0)
    return {name: float(np.mean(values)) for name, values in found.items()}


def _share(found: dict[str, Any], name: str) -> str:
    return f"{found[name][0]:.0%} of {found[name][1]}" if name in found else "-"


def _interval(values: Sequence[float]) -> str:
    value, low, high = values
    shown = "-" if math.isnan(value) else f"{value:.0f}"
    return shown if math.isnan(low) or low == high == value else f"{shown} ({low:.0f} to {high:.0f})"


def _size_table(rows: list[dict[str, Any]]) -> str:
    headings = (
        "planted",
        "identical",
        "k90 raw",
        "k99 raw",
        "erank raw",
        "stable raw",
        "regime",
        "T1",
        "T2",
        "k90 denoised",
        "k90 true",
    )
    cells = []
    for row in rows:
        planted_text = f"{'rank 16' if row['kind'] == 'low' else 'i.i.d.'}, {row['size']:g}"
        denoised = row["denoised"].get("energy_rank_90")
        raw = row["raw"]
        cells.append(
            (
                planted_text,
                f"{row['identical']:.0%}",
                f"{raw['energy_rank_90']:.0f}",
                f"{raw['energy_rank_99']:.0f}",
                f"{raw['effective_rank']:.0f}",
                f"{raw['stable_rank']:.1f}",
                row["regime"],
                _interval(row["T1"]),
                _interval(row["T2"]),
                "refused" if denoised is None else _interval(denoised),
                row["true_energy_rank_90"],
            )
        )
    return table(headings, cells)


def _report(results: dict[str, Any]) -> str:
    equal, unequal = ([row for row in results["sizes"] if row["unequal"] is flag] for flag in (False, True))
    casts = [
        (
            row["cast"],
            f"{row['identical']:.0%}",
            f"{row['raw']:.0f}",
            f"{row['T1']:.0f}",
            f"{row['T1_unrecognised']:.0f}",
        )
        for row in results["recasts"]
    ]
    names = ("rank_above_rounding", "energy_rank_90", "energy_rank_99", "stable_rank", "effective_rank")
    covered = [
        (
            regime,
            found["cases"],
            *(_share(found, name) for name in names),
        )
        for regime, found in results["coverage"].items()
    ]
    others = [
        (regime, found["cases"], *(_share(found, name) for name in names[1:3]))
        for regime, found in results["coverage_others"].items()
    ]
    false = [
        (name, f"{share:.1%}", "yes" if share <= _MOST_FALSE_ALARMS else "NO")
        for name, share in results["alarms"].items()
    ]
    machine = results["machine"]
    return "\n\n".join(
        (
            "# Rounding: planted ranks, raw and told",
            (
                f"Weights of 0.02 in bfloat16, {results['side']} square; base and tuned lie on that grid, the"
                " update is added in float64 and rounded. `size` is its root mean square. T1: above rounding; T2: above"
                " independent entries of its own size; in brackets the 95 % interval. Refused: regime unresolved."
            ),
            "## Rows alike",
            _size_table(equal),
            "## Rows of very unequal scale (log-normal, sigma 1)",
            _size_table(unequal),
            "## Re-cast files: nothing was learned",
            table(("cast", "identical", "k90 raw", "T1", "T1, cast not recognised"), casts),
            f"## Coverage of the 95 % intervals, {results['cases']} planted cases",
            _COVERAGE_NOTE,
            table(("regime", "cases", *names), covered),
            f"### {results['cases'] // 2} updates of full rank: i.i.d., falling as 1/sqrt(k) and as 1/k, signs",
            table(("regime", "cases", *names[1:3]), others),
            "## False alarms",
            table(("null", "found something", f"at most {_MOST_FALSE_ALARMS:.0%}"), false),
            f"{machine['date']}, torch {machine['versions']['torch']}, numpy {machine['versions']['numpy']}.",
        )
    )


def main() -> None:
    """Plant, measure, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small matrices and few cases: does it run?")
    parser.add_argument("--out", type=Path, default=_RESULTS, help="folder for noise_tables.json and noise_tables.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator, rng = torch.Generator().manual_seed(20261126), np.random.default_rng(20261126)
    side, cases = (128, 8) if options.quick else (1024, 200)
    results: dict[str, Any] = {
        "machine": about_machine(["rank-lab", "torch", "numpy", "scipy"]),
        "side": side,
        "cases": cases,
        "sizes": sizes(side, generator),
        "recasts": recasts(side, generator),
        "coverage": coverage(cases, generator, rng),
        "coverage_others": coverage(cases // 2, generator, rng, ("iid", "power", "harmonic", "sign")),
        "alarms": alarms(cases, generator),
    }
    write(options.out, "noise_tables", results, _report(results))


if __name__ == "__main__":
    main()
