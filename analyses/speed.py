"""Side by side: the spectrum of an update by this tool and by the usual ways.

``python -m analyses.speed`` times, on the same matrices, on one thread and in turns (A B C, A B
C, so that the drift of a shared machine hits all alike): this tool, ``torch.linalg.svdvals`` in
float32 and float64, a thin ``torch.linalg.svd`` in float32, and the PyPI package weightwatcher
where it is installed. Peak memory is measured in a process of its own for each. This tool gets the
two weights and subtracts; all others get the difference ready made.
"""

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analyses.machine import about_machine, memory_of, restart_on_one_thread, table, write
from analyses.noise_cost import cost_table, time_noise
from analyses.rivals import METHODS, TALL, Method, Pair, Values, available, method, others, ours
from rank_lab.stored_tensor import StoredTensor
from rank_lab.update import DenseUpdate, LowRankUpdate

__all__ = ["peak_memory", "summarise", "time_in_turns", "time_low_rank"]

TARGETS = {"svdvals32": 2.2, "svdvals64": 3.5}
MAX_ERROR, LOW_RANK_TARGET = 1e-8, 1000.0

_RESULTS = Path(__file__).parent / "results"
_CPU = ((2048, 2048),) * 4 + ((2048, 5504),) * 3
_CUDA = ((4096, 4096),) * 4 + ((4096, 11008),) * 3
_QUICK = ((192, 192), (128, 320))
_LOW_RANK = 16
_PLACES = {"host": "", "device": " on the device"}


def time_in_turns(pairs: Sequence[Pair], device: str, repetitions: int) -> dict[str, Any]:
    """Time every method on every matrix, one after the other, again and again.

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
        ``seconds[method][repetition][matrix]`` and ``error[method]``, the largest
        difference to float64 LAPACK relative to the largest value.
    """
    names = available()
    seconds: dict[str, list[list[float]]] = {name: [] for name in names}
    errors = dict.fromkeys(names, 0.0)
    for name in names:
        method(name, Pair.random((64, 96), torch.Generator().manual_seed(1)), device)()
    for repetition in range(repetitions):
        for times in seconds.values():
            times.append([])
        for pair in pairs:
            found = _turn(names, pair, device)
            exact = found["svdvals64"][1]
            for name, (elapsed, values) in found.items():
                seconds[name][-1].append(elapsed)
                errors[name] = max(errors[name], float(np.abs(values - exact).max() / exact[0]))
        print(f"round {repetition + 1} of {repetitions} done", file=sys.stderr, flush=True)
    return {"seconds": seconds, "error": errors}


def _turn(names: Sequence[str], pair: Pair, device: str) -> dict[str, tuple[float, Values]]:
    rows, columns = pair.base.shape
    found: dict[str, tuple[float, Values]] = {}
    for name in names:
        if name in TALL and rows >= columns:
            found[name] = found[TALL[name]]
            continue
        run = method(name, pair, device)
        gc.collect()
        start = time.perf_counter()
        values = run()
        found[name] = time.perf_counter() - start, values
    return found


def time_low_rank(side: int, rank: int, device: str) -> dict[str, Any]:
    """Time the factors of an update against the dense product and its float64 values."""
    generator = torch.Generator().manual_seed(2)
    B, A = torch.randn(side, rank, generator=generator), torch.randn(rank, side, generator=generator)
    run = ours(LowRankUpdate(B, A, scaling=2.0), device)
    run()
    times = []
    for _ in range(20):
        start = time.perf_counter()
        values = run()
        times.append(time.perf_counter() - start)
    start = time.perf_counter()
    product = B.to(device).double() @ A.to(device).double() * 2.0
    dense = torch.linalg.svdvals(product).cpu().numpy()
    densified = time.perf_counter() - start
    return {
        "side": side,
        "rank": rank,
        "seconds": times,
        "densified_seconds": densified,
        "ratio": densified / statistics.median(times),
        "error": float(np.abs(values - dense[:rank]).max() / dense[0]),
    }


def peak_memory(pair: Pair, device: str) -> dict[str, dict[str, int]]:
    """Peak memory of each method in a process of its own, in bytes above that process after its imports.

    Parameters
    ----------
    pair
        Lies in files, from which this tool reads both weights in tiles, and the
        others the difference.
    device
        Where to compute; its own memory is counted apart.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name, values in (("base", pair.base), ("tuned", pair.tuned), ("difference", pair.difference().float())):
            values.numpy().tofile(Path(folder) / name)
        return {
            name: _peak_apart(name, Path(folder), tuple(pair.base.shape), device)
            for name in available()
            if name not in TALL
        }


def _peak_apart(name: str, folder: Path, shape: tuple[int, ...], device: str) -> dict[str, int]:
    program = f"from analyses.speed import _print_peak\n_print_peak({name!r}, {str(folder)!r}, {shape!r}, {device!r})"
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"measuring the memory of {name} failed: {done.stderr[-2000:]}")
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def _print_peak(name: str, folder: str, shape: tuple[int, int], device: str) -> None:
    method(name, Pair.random((64, 96), torch.Generator().manual_seed(1)), device)()  # loads what is loaded lazily
    gc.collect()
    before = memory_of().get("resident", 0)
    if before:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark starts here
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    _from_files(name, Path(folder), shape, device)()
    peak = {"host": memory_of()["peak"] - before} if before else {}
    if device != "cpu":
        peak["device"] = torch.cuda.max_memory_allocated()
    print(json.dumps(peak))


def _from_files(name: str, folder: Path, shape: tuple[int, int], device: str) -> Method:
    if name == "rank_lab":
        tuned, base = (StoredTensor(side, shape, "float32", folder / side, 0) for side in ("tuned", "base"))
        return ours(DenseUpdate(tuned, base), device)
    difference = torch.from_numpy(np.fromfile(folder / "difference", dtype=np.float32)).reshape(shape)
    return others(name, difference.double() if name == "svdvals64" else difference, device)


def summarise(results: dict[str, Any]) -> None:
    """Add totals, ratios and verdicts to the raw figures."""
    own = np.asarray(results["seconds"]["rank_lab"])
    results["summary"] = {}
    for name, raw in results["seconds"].items():
        seconds = np.asarray(raw)
        totals, pairs = seconds.sum(axis=1), seconds / own
        results["summary"][name] = {
            "total_median": float(np.median(totals)),
            "total_min": float(totals.min()),
            "ratio_of_totals": float(np.median(totals / own.sum(axis=1))),
            "ratio_pair_by_pair": float(np.median(pairs)),
            "ratio_by_matrix": [float(value) for value in np.median(pairs, axis=0)],
            "error": results["error"][name],
        }
    checks = [
        (f"{goal} x faster than {METHODS[name]}", results["summary"][name]["ratio_of_totals"], goal)
        for name, goal in TARGETS.items()
    ]
    checks.append((f"low rank {LOW_RANK_TARGET:.0f} x faster", results["low_rank"]["ratio"], LOW_RANK_TARGET))
    verdicts = [{"target": text, "found": found, "met": found >= goal} for text, found, goal in checks]
    error = max(results["error"]["rank_lab"], results["low_rank"]["error"])
    verdicts.append({"target": f"error at most {MAX_ERROR:g} sigma_1", "found": error, "met": error <= MAX_ERROR})
    results["targets"] = verdicts


def _for_the_record(summary: dict[str, Any]) -> str:
    ratios = [f"{summary[name]['ratio_of_totals']:.2f} ({METHODS[other]})" for name, other in TALL.items()]
    return (
        "The targets are judged on the matrices as they stand, by totals. torch is far slower on wide matrices than on"
        f" tall ones; given the transpose wherever that is tall, it takes {' and '.join(ratios)} times as long as this"
        " tool, to which the orientation makes little difference."
    )


def _report(results: dict[str, Any]) -> str:
    summary, peaks = results["summary"], results["peak_memory"]
    rows = []
    for name, text in METHODS.items():
        if name not in summary:
            rows.append((f"{text}: not installed", *("-",) * 6))
            continue
        found = summary[name]
        by_matrix = sorted(found["ratio_by_matrix"])
        rows.append(
            (
                text,
                f"{found['total_median']:.2f} s",
                f"{found['total_min']:.2f} s",
                f"{found['ratio_of_totals']:.2f}",
                f"{found['ratio_pair_by_pair']:.2f} ({by_matrix[0]:.2f} to {by_matrix[-1]:.2f})",
                ", ".join(f"{size / 1e6:.0f} MB{_PLACES[where]}" for where, size in peaks.get(name, {}).items()) or "-",
                "reference" if name == "svdvals64" else f"{found['error']:.1e}",
            )
        )
    headings = (
        "method",
        "all matrices, median",
        "least",
        "times ours, by totals",
        "matrix by matrix, median (range)",
        "peak memory",
        "error / sigma_1",
    )
    low = results["low_rank"]
    factored = (
        f"Rank {low['rank']} on {low['side']} x {low['side']}: from the factors "
        f"{statistics.median(low['seconds']) * 1e3:.2f} ms, densified in float64 {low['densified_seconds']:.2f} s, "
        f"{low['ratio']:.0f} times as long; difference {low['error']:.1e} of sigma_1."
    )
    verdicts = [
        (check["target"], f"{check['found']:.3g}", _verdict(check, quick=results["quick"]))
        for check in results["targets"]
    ]
    return "\n\n".join(
        (
            "# Spectra side by side",
            _conditions(results),
            table(headings, rows),
            factored,
            table(("target", "found", "verdict"), verdicts),
            _for_the_record(summary),
            cost_table(results["noise"], quick=results["quick"]),
        )
    )


def _verdict(check: dict[str, Any], *, quick: bool) -> str:
    return "not judged (--quick)" if quick else "met" if check["met"] else "NOT MET"


def _conditions(results: dict[str, Any]) -> str:
    machine = results["machine"]
    shapes = ", ".join(f"{count} of {shape}" for shape, count in results["matrices"].items())
    missing = (
        "\n\nweightwatcher is no dependency of this project; to have its row, `pip install weightwatcher` into a"
        " scratch environment that also sees this project, and run there."
    )
    return (
        f"Matrices: {shapes}; float32 weights, the change has 64 directions that fall off as 1/k in noise of full"
        f" rank. {results['repetitions']} rounds, methods in turns on each matrix, one thread, device"
        f" {results['device']}. This tool gets base and tuned and subtracts; the others get the difference ready made."
        " weightwatcher: `get_ESD` on a `torch.nn.Linear` that holds the matrix, its spectrum without its power-law"
        " fits. Peak memory: a process for each, above its start-up (VmHWM), on the largest matrix, read from files;"
        f" all values are compared with float64 svdvals.\n\n{machine['date']}, {machine['processor']},"
        f" {machine['cores']} cores{results['accelerator']}; load average {machine['load_average']} at the start,"
        f" {results['load_average_after']} at the end. Python {machine['python']}, "
        + ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
        + "."
        + ("" if "weightwatcher" in results["summary"] else missing)
    )


def _shape(text: str) -> tuple[int, int]:
    rows, _, columns = text.partition("x")
    return int(rows), int(columns)


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small matrices, seconds: does it run?")
    parser.add_argument("--large", action="store_true", help="one 4096 x 4096 matrix more")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda with the shapes of a layer of a 7B model")
    parser.add_argument("--shape", nargs="+", type=_shape, default=(), help="matrices instead, such as 4096x11008")
    parser.add_argument("--repetitions", type=int, default=2, help="rounds over all matrices and methods")
    parser.add_argument("--out", type=Path, default=_RESULTS, help="folder for speed.json and speed.md")
    return parser.parse_args()


def main() -> None:
    """Time, measure memory, write the figures."""
    restart_on_one_thread("analyses.speed")
    options = _parsed()
    torch.set_num_threads(1)
    shapes: Sequence[tuple[int, int]] = _QUICK if options.quick else _CUDA if options.device != "cpu" else _CPU
    shapes = options.shape or ([*shapes, (4096, 4096)] if options.large else shapes)
    accelerator = f", {torch.cuda.get_device_name()}" if options.device != "cpu" else ""
    generator = torch.Generator().manual_seed(0)
    pairs = [Pair.random(shape, generator) for shape in shapes]
    texts = [f"{rows} x {columns}" for rows, columns in shapes]
    results: dict[str, Any] = {
        "machine": about_machine(["rank-lab", "torch", "numpy", "scipy", "weightwatcher"]),
        "accelerator": accelerator,
        "device": options.device,
        "quick": options.quick,
        "repetitions": options.repetitions,
        "matrices": {text: texts.count(text) for text in texts},
        **time_in_turns(pairs, options.device, options.repetitions),
        "noise": time_noise(pairs, options.device, options.repetitions),
        "low_rank": time_low_rank(256 if options.quick else 4096, _LOW_RANK, options.device),
        "peak_memory": peak_memory(max(pairs, key=lambda pair: pair.base.numel()), options.device),
    }
    results["load_average_after"] = [round(load, 2) for load in os.getloadavg()]
    summarise(results)
    write(options.out, "speed" if options.device == "cpu" else "speed-cuda", results, _report(results))


if __name__ == "__main__":
    main()
