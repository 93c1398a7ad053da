"""Seconds and memory of one training step: PEFT's LoRA, PEFT's AdaLoRA, SoRA, and SoRA with zero directions left out.

``python -m analyses.training_cost`` adapts every linear layer of the MiniLM encoder that the development environment
carries, with a new classification head, at one largest rank, on the same batches, which are random tokens. A step is
forward, backward, clipping, the optimizer with SoRA's proximal step in it, AdaLoRA's allocation of ranks, and clearing
the gradients. Methods take one step each in turn, in a new order every round, and are compared round by round.
The question is that of the SoRA paper's Table 4.
"""

import argparse
import os
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch

from analyses.machine import about_machine, restart_on_one_thread, table, write
from analyses.storage_formats import encoder_folder
from analyses.training_steps import LEFT_OUT, METHODS, PARTS, WARM, Run, Setting, batches, made, peak_of_step, sizes

__all__ = ["measured", "time_in_turns"]

_RESULTS = Path(__file__).parent / "results"
_SHAPES = [(16, 64), (1, 16)]  # products dominate the first, the number of operations the second


def _timed(run: Run, batch: dict[str, torch.Tensor], device: str) -> dict[str, float]:
    """Seconds of one step and, on a CPU, of its parts: a GPU would have to be waited for after each."""
    on_gpu = device != "cpu"
    if on_gpu:
        torch.cuda.synchronize()
    seconds, begun, computed = {}, time.perf_counter(), time.process_time()
    last = begun
    for part in run.step(batch):
        if not on_gpu:
            seconds[part] = -last + (last := time.perf_counter())
    if on_gpu:
        torch.cuda.synchronize()
    return seconds | {"total": time.perf_counter() - begun, "processor": time.process_time() - computed}


def time_in_turns(runs: dict[str, Run], setting: Setting) -> dict[str, list[dict[str, float]]]:
    """Seconds of one step of every method, round by round.

    Parameters
    ----------
    runs
        The methods.
    setting
        How many rounds, and the batches.

    Returns
    -------
    dict
        Method to a list with an entry a round: ``total`` and, on a CPU, its parts.
    """
    vocabulary = next(iter(runs.values())).model.config.vocab_size
    drawn = batches(setting, vocabulary, setting.rounds + WARM)
    order = random.Random(setting.seed)
    seconds: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    for number, batch in enumerate(drawn):
        for name in order.sample(list(runs), len(runs)):
            taken = _timed(runs[name], batch, setting.device)
            if number >= WARM:
                seconds[name].append(taken)
    return seconds


def _ratios(seconds: dict[str, list[dict[str, float]]], over: str, clock: str) -> dict[str, dict[str, float]]:
    """Of every method to one of them, round by round: median and quartiles."""
    found = {}
    for name, rounds in seconds.items():
        ratios = [mine[clock] / its[clock] for mine, its in zip(rounds, seconds[over], strict=True)]
        low, _, high = quantiles(ratios, n=4)
        found[name] = {"median": median(ratios), "low": low, "high": high}
    return found


def measured(setting: Setting) -> dict[str, Any]:
    """Everything that is measured of all methods with batches of one size.

    Parameters
    ----------
    setting
        What is trained.
    """
    runs = {name: made(name, setting) for name in METHODS}
    seconds = time_in_turns(runs, setting)
    return {
        "setting": asdict(setting),
        "sizes": sizes(runs),
        "seconds": seconds,
        "ratios": {over: _ratios(seconds, over, "total") for over in ("lora", "adalora")},
        "processor_ratios": _ratios(seconds, "lora", "processor"),
        "peak_bytes": {name: peak_of_step(run, setting) for name, run in runs.items()},
    }


def _targets(measured: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Both targets on every size of batch."""
    found = []
    for part in measured:
        size = f"{part['setting']['batch']} x {part['setting']['length']}"
        to_lora, to_adalora = (part["ratios"][other]["sora"]["median"] for other in ("lora", "adalora"))
        found += [
            {"target": f"{size}: SoRA's step at most 1.05 of LoRA's", "found": to_lora, "met": to_lora <= 1.05},
            {"target": f"{size}: SoRA's step below AdaLoRA's", "found": to_adalora, "met": to_adalora < 1.0},
        ]
    return found


def _row(name: str, found: dict[str, Any]) -> tuple[str, ...]:
    rounds, lora, peaks = found["seconds"][name], found["ratios"]["lora"][name], found["peak_bytes"]
    parts = [f"{1e3 * median(taken[part] for taken in rounds):.1f}" if part in rounds[0] else "-" for part in PARTS]
    return (
        METHODS[name],
        f"{1e3 * median(taken['total'] for taken in rounds):.1f} ms",
        f"{lora['median']:.3f} ({lora['low']:.3f} to {lora['high']:.3f})",
        f"{found['processor_ratios'][name]['median']:.3f}",
        f"{found['ratios']['adalora'][name]['median']:.3f}",
        " + ".join(parts),
        f"{peaks[name] / 1e6:.1f} MB",
        f"{peaks[name] / peaks['lora']:.3f}",
    )


def _table(found: dict[str, Any]) -> str:
    headings = (
        "method", "step, median", "of LoRA's (quartiles)", "the same in processor time", "of AdaLoRA's",
        ", ".join(PARTS) + " (ms)", "peak of a step", "of LoRA's",
    )  # fmt: skip
    to_adalora, size = found["ratios"]["adalora"], found["setting"]
    return f"""## Batches of {size["batch"]} x {size["length"]} tokens

{table(headings, [_row(name, found) for name in found["seconds"]])}

SoRA takes {to_adalora["sora"]["median"]:.0%} of AdaLoRA's time, LoRA {to_adalora["lora"]["median"]:.0%}; the paper's
abstract gives SoRA 70 %."""


def _report(results: dict[str, Any]) -> str:
    first, machine = results["measured"][0], results["machine"]
    setting, found = first["setting"], first["sizes"]
    verdict = {True: "met", False: "NOT MET"}
    checks = [
        (
            check["target"],
            f"{check['found']:.3f}",
            "not judged (--quick)" if results["quick"] else verdict[check["met"]],
        )
        for check in results["targets"]
    ]
    left = "; ".join(
        f"{share:.0%}: {found[name]['nonzero_gates']} of {found[name]['gates']} open, {found[name]['computed_gates']}"
        f" computed, {found[name]['modules_left_out']} of {found[name]['modules']} modules left out whole"
        for name, share in LEFT_OUT.items()
    )
    record = "torch's record of every allocation" if setting["device"] == "cpu" else "max_memory_allocated"
    return f"""# What a training step costs

{setting["model"]}, all {found["lora"]["modules"]} linear layers but pooler and head, largest rank {setting["rank"]},
random tokens, {setting["dtype"]} on {setting["device"]}{results["accelerator"]}, {results["threads"]} thread(s).
{setting["rounds"]} rounds in each of which every method takes one step, in random order; ratios are taken round by
round, then their median and quartiles. Other work on the machine is in the times, hardly in processor time.

{(chr(10) * 2).join(_table(part) for part in results["measured"])}

## Targets

{table(("target", "found", "verdict"), checks)}

A step: forward, backward, clipping, fused AdamW with SoRA's proximal step, AdaLoRA's `update_and_allocate` (from rank
{setting["rank"]} to {setting["rank"] // 2}, every step) and its orthogonal term in the loss, as PEFT has it. Peak:
bytes above what is held before a step, from {record}, apart from the times. Zero gates are
random ones, set before the first step; where few of a module are zero, leaving them out would take longer than
computing them. {left}.

{machine["date"]}, {machine["processor"]}, {machine["cores"]} cores; load average {machine["load_average"]} at the
start, {results["load_average_after"]} at the end. Python {machine["python"]},
{", ".join(f"{name} {number}" for name, number in machine["versions"].items())}.
"""


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small random BERT, seconds: does it run?")
    parser.add_argument("--model", default=None, help="folder or hub id of an encoder; default MiniLM")
    parser.add_argument("--batch", type=int, nargs="+", default=[b for b, _ in _SHAPES], help="rows of a batch")
    parser.add_argument("--length", type=int, nargs="+", default=[n for _, n in _SHAPES], help="tokens of a row")
    parser.add_argument("--rank", type=int, default=Setting.rank, help="largest rank, 2 or more")
    parser.add_argument("--rounds", type=int, default=Setting.rounds, help="steps timed of each method, 2 or more")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"], help="of the base")
    parser.add_argument("--threads", type=int, default=1, help="of torch, on a CPU")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random")
    parser.add_argument("--out", type=Path, default=_RESULTS, help="folder for training_cost.json and .md")
    options = parser.parse_args()
    if options.rank < 2 or options.rounds < 2 or len(options.batch) != len(options.length):
        parser.error("--rank and --rounds must be 2 or more, and each --batch needs its --length")
    return options


def _settings(options: argparse.Namespace) -> Sequence[Setting]:
    named = {name: getattr(options, name) for name in ("rank", "rounds", "device", "dtype", "seed")}
    if options.quick:
        return [replace(Setting(model="", batch=2, length=8, **named), rounds=4)]
    model = options.model or str(encoder_folder())
    sizes_of_batches = zip(options.batch, options.length, strict=True)
    return [Setting(model=model, batch=batch, length=length, **named) for batch, length in sizes_of_batches]


def main() -> None:
    """Time in turns, measure memory, write the figures."""
    restart_on_one_thread("analyses.training_cost")
    options = _parsed()
    torch.set_num_threads(options.threads)
    machine = about_machine(["rank-lab", "torch", "transformers", "peft"])
    name = "A small random BERT" if options.quick else options.model or "MiniLM (6 layers)"
    found = [measured(setting) for setting in _settings(options)]
    for part in found:
        part["setting"]["model"] = name  # not where it lies on this machine
    results: dict[str, Any] = {
        "machine": machine,
        "accelerator": f", {torch.cuda.get_device_name()}" if options.device != "cpu" else "",
        "quick": options.quick,
        "threads": options.threads,
        "measured": found,
        "targets": _targets(found),
        "load_average_after": [round(load, 2) for load in os.getloadavg()],
    }
    write(options.out, "training_cost" if options.device == "cpu" else "training_cost-cuda", results, _report(results))


if __name__ == "__main__":
    main()
