"""What the tests against rounding cost beside the spectrum, and beside what others take for the spectrum alone."""

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch

from analyses.machine import table
from analyses.rivals import Pair
from rank_lab.change import change_statistics
from rank_lab.decomposition import spectrum_of
from rank_lab.noise import noise_of
from rank_lab.null import null_ranks
from rank_lab.update import DenseUpdate, MemoryMatrix

__all__ = ["COSTS", "cost_table", "time_noise"]

COSTS = {
    "spectrum": "spectrum (float64 Gram)",
    "rounding": "rounding test T1 and nulls, with denoised ranks and intervals",
    "both": "both tests and nulls",
    "svdvals32": "torch.linalg.svdvals, float32",
    "svdvals32_tall": "the same, of the transpose where that is tall",
}
_GOALS = {"rounding": 1.0, "both": 1.5}


def time_noise(pairs: Sequence[Pair], device: str, repetitions: int) -> dict[str, Any]:
    """Time the tests on the matrices as stored in bfloat16, in turns with float32 ``svdvals``.

    Parameters
    ----------
    pairs
        The matrices.
    device
        Where to compute.
    repetitions
        Of the whole round.

    Returns
    -------
    dict
        ``seconds[name][repetition]``, sums over the matrices, and the median ratio of each to ``svdvals``.
    """
    seconds: dict[str, list[float]] = {name: [] for name in COSTS}
    found: list[dict[str, float]] = []
    for repetition in range(repetitions):
        sums = dict.fromkeys(COSTS, 0.0)
        for pair in pairs:
            turn, counts = _turn(pair, device)
            sums = {name: sums[name] + turn[name] for name in COSTS}
            if repetition == 0:
                found.append(counts)
        for name, total in sums.items():
            seconds[name].append(total)
    ratios = {
        name: median(own / other for own, other in zip(seconds[name], seconds["svdvals32"], strict=True))
        for name in COSTS
    }
    return {"seconds": seconds, "ratio_to_svdvals32": ratios, "found": found}


def _turn(pair: Pair, device: str) -> tuple[dict[str, float], dict[str, float]]:
    update = DenseUpdate(MemoryMatrix(pair.tuned.bfloat16()), MemoryMatrix(pair.base.bfloat16()))
    statistics = change_statistics(update)
    seconds: dict[str, float] = {}
    spectrum = _timed("spectrum", seconds, lambda: spectrum_of(update, device=device))
    seen = {}
    for name, mode in (("rounding", "rounding"), ("both", "full")):
        noise = _timed(
            name,
            seconds,
            lambda mode=mode: (  # type: ignore[misc]
                noise_of(update, spectrum, statistics, mode=mode, device=device),
                null_ranks(spectrum.shape),
            )[0],
        )
        seen[name] = noise.above_rounding.value
    dense = update.to_dense().float().to(device)
    _timed("svdvals32", seconds, lambda: torch.linalg.svdvals(dense).cpu())
    tall = dense.T.contiguous() if dense.shape[0] < dense.shape[1] else dense
    _timed("svdvals32_tall", seconds, lambda: torch.linalg.svdvals(tall).cpu())
    return seconds, seen


def _timed(name: str, into: dict[str, float], run: Callable[[], Any]) -> Any:
    start = time.perf_counter()
    result = run()
    into[name] = time.perf_counter() - start
    return result


def cost_table(found: dict[str, Any], *, quick: bool) -> str:
    """What was measured, as a Markdown section.

    Parameters
    ----------
    found
        From :func:`time_noise`.
    quick
        Whether the matrices are too small to judge by.
    """
    rows = []
    for name, text in COSTS.items():
        ratio, goal = found["ratio_to_svdvals32"][name], _GOALS.get(name)
        verdict = (
            ""
            if goal is None
            else "not judged (small)"
            if quick
            else f"{'met' if ratio <= goal else 'NOT MET'}: {goal:g}"
        )
        rows.append((text, f"{median(found['seconds'][name]):.2f} s", f"{ratio:.2f}", verdict))
    return (
        "## Tests against rounding\n\nThe same matrices stored in bfloat16; T1 counts what is above rounding"
        f" ({', '.join(str(int(counts['rounding'])) for counts in found['found'])} directions), T2 what is structure"
        " above independent entries. Each needs a Gram matrix of its own.\n\n"
        + table(("work", "all matrices, median", "against float32 svdvals", "at most"), rows)
    )
