"""How fast ranks are chosen, and what the ways to choose them keep.

``python -m analyses.budget_speed`` makes spectra of 1,000 modules with 4,096 singular values each
(power laws of random exponents and sizes: what differs between modules is what a plan can use),
sorts them once, and then asks as a slider would: other budgets, other energies, the curve.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from analyses.machine import about_machine, restart_on_one_thread, table, write
from rank_lab.budget import ALLOCATIONS, ModuleSpectrum, RankAllocator

_RESULTS = Path(__file__).parent / "results"
_SLIDER_SECONDS = 0.1
_RANKS = (4, 16, 64, 256)


def modules(count: int, size: int, seed: int = 0) -> list[ModuleSpectrum]:
    """Spectra of attention and MLP matrices, by turns."""
    rng = np.random.default_rng(seed)
    number = np.arange(1, size + 1, dtype=np.float64)
    return [
        ModuleSpectrum(
            f"layers.{index}", size, size if index % 2 else 11 * size // 4,
            rng.lognormal() * number ** -rng.uniform(0.3, 1.2),
        )
        for index in range(count)
    ]  # fmt: skip


def seconds(act: Callable[[], object]) -> float:
    """Of one call."""
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def measured(count: int, size: int) -> dict[str, Any]:
    """Times, and what each way keeps at the budgets of some uniform ranks."""
    spectra = modules(count, size)
    start = time.perf_counter()
    allocator = RankAllocator(spectra)
    allocator.plan(energy=0.5)
    first = time.perf_counter() - start
    curve_first = seconds(allocator.curve)
    budgets = np.geomspace(2 * allocator.cheapest, allocator.all_parameters, 20).astype(int).tolist()
    energies = np.linspace(0.05, 0.95, 20).tolist()
    price = sum(module.cost for module in spectra)
    ranks = [rank for rank in _RANKS if rank < size]
    points = allocator.curve([rank * price for rank in ranks])
    return {
        "modules": count,
        "values": size,
        "seconds_first": first,
        "seconds_curve_first": curve_first,
        "seconds_curve": seconds(allocator.curve),
        "seconds_budget": [seconds(lambda: allocator.plan(parameters=budget)) for budget in budgets],  # noqa: B023
        "seconds_energy": [seconds(lambda: allocator.plan(energy=energy)) for energy in energies],  # noqa: B023
        "ranks": ranks,
        "error": {way: [each.relative_error for each in points if each.method == way] for way in ALLOCATIONS},
    }


def text_of(found: dict[str, Any]) -> str:
    """What is written down."""
    asked = found["seconds_budget"] + found["seconds_energy"]
    rows = [
        ["sort, and the first plan", f"{found['seconds_first']:.2f} s"],
        ["a further plan, median of 40", f"{1000 * median(asked):.0f} ms"],
        ["a further plan, slowest", f"{1000 * max(asked):.0f} ms"],
        ["curve of three ways and 40 budgets, the first", f"{found['seconds_curve_first']:.2f} s"],
        ["the same again", f"{1000 * found['seconds_curve']:.0f} ms"],
    ]
    verdict = "met" if max(asked) < _SLIDER_SECONDS else "not met"
    errors = [[way, *(f"{error:.3f}" for error in found["error"][way])] for way in ALLOCATIONS]
    machine = found["machine"]
    told = (
        f"Target: an answer to a slider within {1000 * _SLIDER_SECONDS:.0f} ms: {verdict}. One thread,"
        f" {machine['processor']}, load {machine['load_average'][0]}, numpy {machine['versions']['numpy']},"
        f" {machine['date']}. Spectra are power laws of random exponents (0.3 to 1.2) and sizes."
    )
    parts = [
        f"# Choosing ranks of {found['modules']} modules with {found['values']} singular values each",
        table(["", "time"], rows),
        told,
        table(["relative error at the budget of uniform rank", *map(str, found["ranks"])], errors),
    ]
    return "\n\n".join(parts)


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="20 modules of 256 values.")
    parser.add_argument("--out", type=Path, default=_RESULTS)
    arguments = parser.parse_args()
    found = measured(*((20, 256) if arguments.quick else (1000, 4096)))
    found["machine"] = about_machine(["numpy", "rank-lab"])
    write(arguments.out, "budget_speed", found, text_of(found))


if __name__ == "__main__":
    restart_on_one_thread("analyses.budget_speed")
    main()
