"""How fast and how exact: this tool against other ways to the singular values of an update.

``python -m analyses.speed`` takes the same matrices through every method on one thread, in turn
(A B C A B C ...), so that the drift of a shared machine hits all alike; ratios are formed within a
repetition. The package weightwatcher takes part where it is installed (it is no dependency: ``pip
install weightwatcher``), through the routine by which it computes singular values
(``RMT_Util.svd_vals``, its accurate method).
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analyses.machine import about_machine, memory_of, restart_on_one_thread, table, write

_RESULTS = Path(__file__).parent / "results"
_SQUARE, _WIDE = (2048, 2048), (2048, 5504)
_SHAPES = {
    "default": [_SQUARE] * 4 + [_WIDE] * 3,
    "quick": [(256, 256), (256, 600)],
    # One layer of a 7B Llama, as often as there are layers.
    "7b": [(4096, 4096)] * 4 + [(11008, 4096)] * 2 + [(4096, 11008)],
}
_OURS = "rank_lab"
_TARGETS = {"svdvals float32": 2.2, "svdvals float64": 3.5}
_LARGEST_ERROR = 1e-8
_LOW_RANK_TARGET = 1000.0

Array = Any


@dataclass(frozen=True)
class Case:
    """One update: both stored matrices, and their difference in the two precisions."""

    tuned: Any
    base: Any
    single: Any
    double: Any


def make_case(shape: tuple[int, int], seed: int, device: str) -> Case:
    """A change with a decaying spectrum and a floor of noise, on weights of standard deviation 0.02."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    base = 0.02 * torch.randn(shape, generator=generator)
    rank = min(64, *shape)
    decay = torch.arange(1, rank + 1) ** -0.7
    low = (torch.randn(shape[0], rank, generator=generator) * decay) @ torch.randn(rank, shape[1], generator=generator)
    tuned = base + 1e-4 * low + 1e-4 * torch.randn(shape, generator=generator)
    base, tuned = base.to(device), tuned.to(device)
    return Case(tuned, base, tuned - base, tuned.double() - base.double())


def methods(device: str) -> dict[str, Callable[[Case], Array]]:
    """Name to function from a case to its singular values; weightwatcher if it is there."""
    import torch

    from rank_lab import DenseUpdate, MemoryMatrix, spectrum_of

    def ours(case: Case) -> Array:
        return spectrum_of(DenseUpdate(MemoryMatrix(case.tuned), MemoryMatrix(case.base)), device=device).values

    found: dict[str, Callable[[Case], Array]] = {
        _OURS: ours,
        "svdvals float32": lambda case: torch.linalg.svdvals(case.single).cpu().numpy(),
        "svdvals float64": lambda case: torch.linalg.svdvals(case.double).cpu().numpy(),
        "thin svd float32": lambda case: torch.linalg.svd(case.single, full_matrices=False).S.cpu().numpy(),
    }
    if device == "cpu" and (weightwatcher := _weightwatcher()) is not None:
        found["weightwatcher"] = weightwatcher
    return found


def _weightwatcher() -> Callable[[Case], Array] | None:
    try:
        from weightwatcher import RMT_Util
    except ImportError:
        return None
    return lambda case: RMT_Util.svd_vals(case.single.numpy(), method="accurate")


def compare(shapes: list[tuple[int, int]], repetitions: int, device: str) -> dict[str, Any]:
    """Time every method on every matrix, in turn, and measure its error against float64 LAPACK."""
    import numpy as np
    import torch

    chosen = methods(device)
    seconds: dict[str, list[float]] = {name: [0.0] * repetitions for name in chosen}
    errors = dict.fromkeys(chosen, 0.0)
    for number, shape in enumerate(shapes):
        case = make_case(shape, number, device)
        for repetition in range(repetitions):
            values = {}
            for name, function in chosen.items():
                if device != "cpu":
                    torch.cuda.synchronize()
                begun = time.perf_counter()
                values[name] = np.asarray(function(case), dtype=np.float64)
                seconds[name][repetition] += time.perf_counter() - begun
            exact = np.sort(values["svdvals float64"])[::-1]
            for name, found in values.items():
                error = np.abs(np.sort(found)[::-1] - exact).max() / exact[0]
                errors[name] = max(errors[name], float(error))
        print(f"  {number + 1} of {len(shapes)}: {shape[0]} x {shape[1]}", file=sys.stderr)
    ratios = {
        name: [other / own for other, own in zip(times, seconds[_OURS], strict=True)] for name, times in seconds.items()
    }
    return {
        name: {
            "seconds_median": statistics.median(times), "seconds_min": min(times),
            "ratio_median": statistics.median(ratios[name]), "ratios": ratios[name], "error": errors[name],
        }
        for name, times in seconds.items()
    }  # fmt: skip


def low_rank(size: int, device: str) -> dict[str, float]:
    """Seconds for the spectrum of a rank-16 update from its factors, and by way of the dense product."""
    import numpy as np
    import torch

    from rank_lab import LowRankUpdate, spectrum_of

    generator = torch.Generator().manual_seed(0)
    B, A = torch.randn(size, 16, generator=generator).to(device), torch.randn(16, size, generator=generator).to(device)
    update = LowRankUpdate(B, A, scaling=2.0)
    times = []
    for _ in range(7):
        begun = time.perf_counter()
        values = spectrum_of(update, device=device).values
        times.append(time.perf_counter() - begun)
    begun = time.perf_counter()
    dense = torch.linalg.svdvals(2.0 * (B.double() @ A.double())).cpu().numpy()
    densified = time.perf_counter() - begun
    own = statistics.median(times)
    error = float(np.abs(dense[:16] - values).max() / dense[0])
    return {"size": size, "seconds": own, "seconds_dense": densified, "ratio": densified / own, "error": error}


def peak_memory(shape: tuple[int, int], names: list[str]) -> dict[str, int]:
    """Peak resident memory of each method on one matrix, above the process that holds the matrix, in bytes."""
    found = {}
    for name in names:
        program = f"from analyses.speed import _print_peak; _print_peak({name!r}, {shape!r})"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        found[name] = int(done.stdout.split()[-1])
    return found


def _print_peak(name: str, shape: tuple[int, int]) -> None:
    function = methods("cpu")[name]
    function(make_case((64, 64), 0, "cpu"))  # loads what is loaded on first use
    case = make_case(shape, 0, "cpu")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark starts here
    before = memory_of()["resident"]
    function(case)
    print(memory_of()["peak"] - before)


def report(results: dict[str, Any]) -> str:
    """The tables that are printed and kept."""
    rows = [
        (
            name,
            f"{entry['seconds_median']:.2f}",
            f"{entry['seconds_min']:.2f}",
            f"{entry['ratio_median']:.2f}",
            f"{results['memory'][name] / 2**20:.0f}" if name in results["memory"] else "-",
            f"{entry['error']:.1e}",
        )
        for name, entry in results["dense"].items()
    ]
    low, machine, inputs = results["low_rank"], results["machine"], [tuple(shape) for shape in results["shapes"]]
    shapes = ", ".join(f"{inputs.count(shape)} of {shape[0]} x {shape[1]}" for shape in dict.fromkeys(inputs))
    versions = ", ".join(f"{name} {found}" for name, found in machine["versions"].items())
    rows_of, columns_of = results["memory_shape"]
    lines = ["# Singular values of an update: time, memory, error", ""]
    lines.append(
        f"{shapes}; {results['repetitions']} repetitions in turn; one thread; device {results['device_name']}; "
        f"{machine['processor']}, {machine['cores']} cores, load average {machine['load_average']}; {machine['date']}; "
        f"{versions}.\n"
    )
    lines += [
        table(["method", "seconds, median", "least", "times rank_lab's", "peak MiB", "largest error / σ₁"], rows),
        "",
    ]
    if "weightwatcher" not in results["dense"]:
        lines += ["weightwatcher is not installed here and was not run: `pip install weightwatcher`.\n"]
    lines.append(
        "Seconds are for all matrices together, values only; the ratio is the median of those within a repetition. "
        "Memory is the peak above the process that holds the inputs, for one matrix of "
        f"{rows_of} x {columns_of}. Errors are against float64 `torch.linalg.svdvals`.\n"
    )
    lines.append(
        f"A rank-16 update of {low['size']} x {low['size']}: {low['seconds'] * 1e3:.2f} ms from its factors, "
        f"{low['seconds_dense']:.1f} s by way of the dense product and float64 `svdvals`: {low['ratio']:.0f} times; "
        f"error {low['error']:.1e} of σ₁.\n"
    )
    return "\n".join(lines + [f"- {text}: {'met' if met else 'NOT met'}" for text, met in results["targets"].items()])


def targets(results: dict[str, Any]) -> dict[str, bool]:
    """What was asked of the speed, and whether this run shows it."""
    dense = results["dense"]
    found = {
        f"at least {least} times faster than {name}": dense[name]["ratio_median"] >= least
        for name, least in _TARGETS.items()
    }
    found[f"error at most {_LARGEST_ERROR:g} of the largest value"] = dense[_OURS]["error"] <= _LARGEST_ERROR
    found[f"low rank at least {_LOW_RANK_TARGET:.0f} times faster than densifying"] = (
        results["low_rank"]["ratio"] >= _LOW_RANK_TARGET
    )
    return found


def main() -> None:
    """Run, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small matrices, seconds: shows that it runs")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda for the shapes of a 7B model")
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--out", type=Path, default=_RESULTS)
    options = parser.parse_args()
    restart_on_one_thread("analyses.speed")
    import torch

    torch.set_num_threads(1)
    cuda = options.device.startswith("cuda")
    shapes = _SHAPES["quick" if options.quick else "7b" if cuda else "default"]
    results: dict[str, Any] = {
        "machine": about_machine(["torch", "numpy", "scipy", "weightwatcher"]),
        "device_name": torch.cuda.get_device_name() if cuda else "cpu",
        "shapes": [list(shape) for shape in shapes],
        "repetitions": options.repetitions,
    }
    results["dense"] = compare(shapes, options.repetitions, options.device)
    results["memory_shape"] = list(shapes[-1])
    results["memory"] = {} if cuda else peak_memory(shapes[-1], list(results["dense"]))
    results["low_rank"] = low_rank(512 if options.quick else 4096, options.device)
    results["targets"] = targets(results)
    write(options.out, "speed-cuda" if cuda else "speed", results, report(results))


if __name__ == "__main__":
    main()
