"""Proof that the memory of an analysis does not depend on the size of the checkpoint.

``python -m analyses.memory`` writes a sharded pair of checkpoints of Llama's shapes with random
bfloat16 weights, runs ``rank-lab analyze`` on it in a process of its own and samples that
process's anonymous memory (RssAnon: what it has allocated; pages of mapped files are the
kernel's to take back) every 20 ms. Start-up is that process after its imports, before it reads
anything. The bound is three Gram matrices of the widest short side plus one tile, per process.
"""

import argparse
import io
import json
import math
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from analyses.machine import ONE_THREAD, about_machine, memory_of, table, write
from rank_lab.update import TILE_BYTES

__all__ = ["FULL", "QUICK", "Footprint", "Llama", "bound", "footprint", "write_pair"]

_RESULTS = Path(__file__).parent / "results"
_SAMPLE_SECONDS = 0.02
_STD, _NOISE = 0.02, 5e-4
_MIB = 1 << 20


@dataclass(frozen=True)
class Llama:
    """Shapes of a Llama checkpoint with an untied head.

    Parameters
    ----------
    hidden, intermediate, vocabulary, layers
        As in its ``config.json``.
    shard_bytes
        A shard holds at least one tensor, and no more than this if it can.
    """

    hidden: int
    intermediate: int
    vocabulary: int
    layers: int
    shard_bytes: int = 500 * _MIB

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes, in the order of the file."""
        wide, tall, square = (self.intermediate, self.hidden), (self.hidden, self.intermediate), (self.hidden,) * 2
        yield "model.embed_tokens.weight", (self.vocabulary, self.hidden)
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}"
            for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                yield f"{prefix}.self_attn.{name}.weight", square
            for name, shape in (("gate_proj", wide), ("up_proj", wide), ("down_proj", tall)):
                yield f"{prefix}.mlp.{name}.weight", shape
            for name in ("input_layernorm", "post_attention_layernorm"):
                yield f"{prefix}.{name}.weight", (self.hidden,)
        yield "model.norm.weight", (self.hidden,)
        yield "lm_head.weight", (self.vocabulary, self.hidden)

    @property
    def bytes(self) -> int:
        """Size of the weights of one side in bfloat16."""
        return sum(2 * math.prod(shape) for _, shape in self.tensors())

    def config(self) -> dict[str, Any]:
        """What ``config.json`` holds."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "vocab_size": self.vocabulary,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.hidden // 64,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
        }


FULL = Llama(hidden=2048, intermediate=5504, vocabulary=32000, layers=27)
QUICK = Llama(hidden=1280, intermediate=2560, vocabulary=8000, layers=2, shard_bytes=40 * _MIB)


@dataclass(frozen=True)
class Footprint:
    """Memory of one analysis, in bytes above start-up.

    Parameters
    ----------
    workers
        Of the analysis.
    start_up
        Anonymous memory of the main process after its imports.
    worker_start_up
        Of a worker after its imports; 0 without workers.
    peak
        Largest sampled anonymous memory of any process that measures, above its
        start-up; with one worker that process also writes the report.
    main_peak
        Of the main process, above its start-up.
    resident_peak
        The kernel's own high-water mark (VmHWM, which also counts the touched
        pages of libraries) of the main process, above its resident start-up.
    samples
        Number of samples.
    seconds
        From the first byte read to the report written.
    statuses
        Rows of the coverage table by status.
    """

    workers: int
    start_up: int
    worker_start_up: int
    peak: int
    main_peak: int
    resident_peak: int
    samples: int
    seconds: float
    statuses: dict[str, int]


def write_pair(folder: Path, shapes: Llama, *, seed: int = 0) -> tuple[Path, Path]:
    """Write a base and a tuned checkpoint, shard by shard.

    Parameters
    ----------
    folder
        Receives ``base`` and ``tuned``.
    shapes
        What is written.
    seed
        Of the weights and of the change.

    Returns
    -------
    tuple of Path
        Base and tuned.
    """
    from safetensors.torch import save_file

    sides = folder / "base", folder / "tuned"
    for side in sides:
        side.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    shards = _shards(shapes)
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        weights = {name: torch.randn(shape, generator=generator) * _STD for name, shape in shard}
        save_file({name: weight.bfloat16() for name, weight in weights.items()}, sides[0] / file)
        for weight in weights.values():
            weight.add_(torch.randn(weight.shape, generator=generator), alpha=_NOISE)
        save_file({name: weight.bfloat16() for name, weight in weights.items()}, sides[1] / file)
        weight_map.update({name: file for name, _ in shard})
    index = {"metadata": {"total_size": shapes.bytes}, "weight_map": weight_map}
    for side in sides:
        (side / "config.json").write_text(json.dumps(shapes.config()), encoding="utf-8")
        (side / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return sides


def _shards(shapes: Llama) -> list[list[tuple[str, tuple[int, ...]]]]:
    shards: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    size = 0
    for name, shape in shapes.tensors():
        length = 2 * math.prod(shape)
        if shards[-1] and size + length > shapes.shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append((name, shape))
        size += length
    return shards


def bound(hidden: int) -> int:
    """Bytes above start-up that one process may take: three Gram matrices and one tile."""
    return 3 * 8 * hidden**2 + TILE_BYTES


def footprint(base: Path, tuned: Path, *, workers: int, prelude: str = "") -> Footprint:
    """Run ``rank-lab analyze`` in a process of its own and watch its memory.

    Parameters
    ----------
    base, tuned
        Checkpoints.
    workers
        Processes that measure; 1 is the process itself.
    prelude
        Python that the process runs after its imports, to see what a change would cost.
    """
    with tempfile.TemporaryDirectory(prefix="rank-lab-study-") as study:
        command = [str(tuned), "--base", str(base), "-o", study, "--workers", str(workers), "--json"]
        program = f"from analyses.memory import _run_watched\n_run_watched({command!r}, {workers}, {prelude!r})"
        root = str(Path(__file__).parents[1])
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
            env=os.environ | ONE_THREAD,
        )
        try:
            return _watch(process, workers)
        finally:
            process.kill()
            process.communicate()


def _watch(process: subprocess.Popen[str], workers: int) -> Footprint:
    assert process.stdin is not None
    assert process.stdout is not None
    worker_start_up = int(process.stdout.readline())
    start = memory_of(process.pid)
    process.stdin.write("go\n")
    process.stdin.flush()
    begun, samples, peaks = time.perf_counter(), 0, dict[int, int]()
    while process.poll() is None:
        for found in (process.pid, *_children(process.pid)):
            memory = memory_of(found)
            peaks[found] = max(peaks.get(found, 0), memory.get("anonymous", 0))
        samples += 1
        time.sleep(_SAMPLE_SECONDS)
    seconds = time.perf_counter() - begun
    output = process.stdout.read().strip().splitlines()
    if process.returncode != 0 or not output:
        raise RuntimeError(f"the analysis ended with code {process.returncode}; its error is above")
    ended = json.loads(output[-1])
    main_peak = peaks.pop(process.pid) - start["anonymous"]
    measuring = [main_peak] if workers == 1 else [peak - worker_start_up for peak in peaks.values()]
    return Footprint(
        workers=workers,
        start_up=start["anonymous"],
        worker_start_up=worker_start_up,
        peak=max(measuring),
        main_peak=main_peak,
        resident_peak=ended["peak"] - start["resident"],
        samples=samples,
        seconds=seconds,
        statuses=ended["statuses"],
    )


def _children(process: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def _run_watched(command: list[str], workers: int, prelude: str) -> None:
    """Run in the watched process: import, say so, wait for the word, analyse."""
    import pyarrow.parquet  # noqa: F401
    from torch import linalg  # noqa: F401

    from rank_lab import cli, commands  # noqa: F401
    from rank_lab.errors import RankLabError
    from rank_lab.report import RankReport

    with suppress(RankLabError):  # typer imports pydantic, 6 MB, once it reads its first command
        cli.app(["analyze", f"{command[0]}-that-is-not-there", *command[1:]], standalone_mode=False)
    exec(prelude)
    print(_worker_start_up() if workers > 1 else 0, flush=True)
    sys.stdin.readline()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark starts here
    with redirect_stdout(io.StringIO()):
        code = cli.app(["analyze", *command], standalone_mode=False)
    peak = memory_of()["peak"]
    if code:
        raise SystemExit(f"rank-lab analyze left with code {code}")
    report = RankReport.load(next(Path(command[command.index("-o") + 1]).glob("*.rank")))
    print(json.dumps({"peak": peak, "statuses": report.coverage["status"].value_counts().to_dict()}))


def _worker_start_up() -> int:
    """Anonymous memory of a worker, started as the engine starts them, that has imported what it needs."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_after_imports).result()


def _after_imports() -> int:
    import rank_lab.analysis  # noqa: F401

    return memory_of()["anonymous"]


def _report(results: dict[str, Any]) -> str:
    shapes, limit, machine = results["shapes"], results["bound"], results["machine"]
    headings = (
        "workers",
        "peak of a measuring process",
        "of the bound",
        "held",
        "peak of the main process",
        "its VmHWM",
        "start-up",
        "time",
        "matrices",
    )
    rows = [
        (
            run["workers"],
            f"{run['peak'] / 1e6:.0f} MB",
            f"{run['peak'] / limit:.2f}",
            "yes" if run["peak"] <= limit else "NO",
            f"{run['main_peak'] / 1e6:.0f} MB",
            f"{run['resident_peak'] / 1e6:.0f} MB",
            f"{run['start_up'] / 1e6:.0f} MB",
            f"{run['seconds']:.0f} s",
            run["statuses"].get("analysed", 0),
        )
        for run in results["runs"]
    ]
    size, times = results["pair_bytes"] / 1e9, results["pair_bytes"] / limit
    side = shapes["hidden"]
    return f"""# Memory does not grow with the checkpoint

A base and a tuned checkpoint in sharded bfloat16 safetensors with Llama's shapes (hidden {side},
intermediate {shapes["intermediate"]}, vocabulary {shapes["vocabulary"]}, {shapes["layers"]} layers): {size:.2f} GB,
{times:.0f} times the bound. Every tensor is analysed. Bound for each process that measures:
three {side} x {side} float64 Gram matrices and one tile of at most {TILE_BYTES / 1e6:.1f} MB,
{limit / 1e6:.0f} MB above start-up.

{table(headings, rows)}

Peaks are anonymous memory (RssAnon) above start-up, which is the process after its imports, sampled
every {_SAMPLE_SECONDS * 1000:.0f} ms from outside; with one worker the main process measures, and writes the report.
VmHWM, the kernel's own high-water mark, is above its start-up too; no sample can miss it, but it
also counts the pages of libraries that are touched for the first time.

{machine["date"]}, {machine["processor"]}, {machine["cores"]} cores; load average
{machine["load_average"]} at the start, {results["load_average_after"]} at the end.
{", ".join(f"{name} {number}" for name, number in machine["versions"].items())}.
"""


def main() -> None:
    """Write a pair, analyse it on one worker and on two, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="0.2 GB in all, in seconds")
    parser.add_argument("--out", type=Path, default=_RESULTS, help="folder for memory.json and memory.md")
    parser.add_argument("--folder", type=Path, default=None, help="where the checkpoints lie for a while")
    parser.add_argument("--layers", type=int, default=None, help=f"default {FULL.layers}")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="one run for each")
    options = parser.parse_args()
    shapes = QUICK if options.quick else FULL
    shapes = replace(shapes, layers=options.layers or shapes.layers)
    results: dict[str, Any] = {
        "machine": about_machine(["rank-lab", "torch", "numpy", "safetensors"]),
        "shapes": asdict(shapes),
        "pair_bytes": 2 * shapes.bytes,
        "bound": bound(shapes.hidden),
    }
    with tempfile.TemporaryDirectory(prefix="rank-lab-memory-", dir=options.folder) as folder:
        free = shutil.disk_usage(folder).free
        if free < 2.2 * shapes.bytes:
            raise SystemExit(f"{folder}: {free / 1e9:.1f} GB free, {2.2 * shapes.bytes / 1e9:.1f} needed; see --folder")
        base, tuned = write_pair(Path(folder), shapes)
        results["runs"] = [asdict(footprint(base, tuned, workers=workers)) for workers in options.workers]
    results["load_average_after"] = [round(load, 2) for load in os.getloadavg()]
    write(options.out, "memory", results, _report(results))
    if any(run["peak"] > results["bound"] for run in results["runs"]):
        raise SystemExit("the bound was broken")


if __name__ == "__main__":
    main()
