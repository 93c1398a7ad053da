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
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from analyses.machine import ONE_THREAD, about_machine, memory_of, table, write

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
        return sum(2 * shape[0] * (shape[1] if len(shape) == 2 else 1) for _, shape in self.tensors())

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
QUICK = Llama(hidden=1024, intermediate=2752, vocabulary=8000, layers=3, shard_bytes=40 * _MIB)


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
        Largest sampled anonymous memory of any process that measures, above its start-up.
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
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    shards: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    size = 0
    for name, shape in shapes.tensors():
        length = 2 * shape[0] * (shape[1] if len(shape) == 2 else 1)
        if shards[-1] and size + length > shapes.shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append((name, shape))
        size += length
    sides = folder / "base", folder / "tuned"
    weight_map = {}
    for side in sides:
        side.mkdir(parents=True)
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        weights = {name: torch.randn(shape, generator=generator) * _STD for name, shape in shard}
        save_file({name: weight.bfloat16() for name, weight in weights.items()}, sides[0] / file)
        for weight in weights.values():
            weight += torch.randn(weight.shape, generator=generator) * _NOISE
        save_file({name: weight.bfloat16() for name, weight in weights.items()}, sides[1] / file)
        weight_map.update({name: file for name, _ in shard})
    index = {"metadata": {"total_size": shapes.bytes}, "weight_map": weight_map}
    for side in sides:
        (side / "config.json").write_text(json.dumps(shapes.config()), encoding="utf-8")
        (side / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return sides


def bound(hidden: int) -> int:
    """Bytes above start-up that one process may take: three Gram matrices and one tile."""
    from rank_lab.update import TILE_BYTES

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

    from rank_lab import cli, commands, engine  # noqa: F401
    from rank_lab.report import RankReport

    exec(prelude)
    worker_start_up = max(engine.run(_resident, range(workers), workers=workers)) if workers > 1 else 0
    print(worker_start_up, flush=True)
    sys.stdin.readline()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark starts here
    with redirect_stdout(io.StringIO()):
        cli.app(["analyze", *command], standalone_mode=False)
    peak = memory_of()["peak"]
    report = RankReport.load(next(Path(command[command.index("-o") + 1]).glob("*.rank")))
    print(json.dumps({"peak": peak, "statuses": report.coverage["status"].value_counts().to_dict()}))


def _resident(_: int) -> int:
    """Anonymous memory of a worker that has imported what it needs."""
    import rank_lab.analysis  # noqa: F401

    return memory_of()["anonymous"]
