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
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch

from analyses.machine import about_machine, restart_on_one_thread, table, write
from analyses.storage_formats import encoder_folder

__all__ = ["METHODS", "Run", "Setting", "made", "peak_of_step", "time_in_turns"]

_RESULTS = Path(__file__).parent / "results"
_WARM = 3
_PARTS = ("forward", "backward", "optimizer")
_LEFT_OUT = {f"sora_left_out_{share:.0%}": share for share in (0.0, 0.5, 0.75, 0.9)}

METHODS = {
    "lora": "LoRA (PEFT)",
    "adalora": "AdaLoRA (PEFT)",
    "sora": "SoRA",
    **{name: f"SoRA, {share:.0%} of the gates zero, left out" for name, share in _LEFT_OUT.items()},
}


@dataclass(frozen=True)
class Setting:
    """What is trained, and on what.

    Parameters
    ----------
    model
        Folder or hub id; empty for a small random BERT.
    batch, length
        Rows and tokens of a batch.
    rank
        Of LoRA and SoRA; AdaLoRA starts there and goes to half of it.
    rounds
        Steps that are timed of each method.
    device, dtype
        Where, and the type of the base; other than float32, steps run under autocast.
    seed
        Of head, factors, tokens, zero gates and the order of turns.
    """

    model: str
    batch: int = 16
    length: int = 64
    rank: int = 8
    rounds: int = 60
    device: str = "cpu"
    dtype: str = "float32"
    seed: int = 0


@dataclass
class Run:
    """One method at work; made by :func:`made`.

    Parameters
    ----------
    model, optimizer
        Ready to train.
    allocate
        What follows the optimizer's step, with the number of the step.
    autocast
        Around the forward pass.
    steps
        Taken so far.
    """

    model: Any
    optimizer: torch.optim.Optimizer
    allocate: Callable[[int], Any]
    autocast: Callable[[], Any]
    steps: int = 0

    def step(self, batch: dict[str, torch.Tensor]) -> Iterator[str]:
        """Take one step; the name of each part comes when it is done.

        Parameters
        ----------
        batch
            With labels.
        """
        self.steps += 1
        with self.autocast():
            loss = self.model(**batch).loss
        yield "forward"
        loss.backward()
        yield "backward"
        trained = [value for group in self.optimizer.param_groups for value in group["params"]]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        self.optimizer.step()
        self.allocate(self.steps)
        self.optimizer.zero_grad()
        yield "optimizer"


def _base(setting: Setting) -> Any:
    from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

    torch.manual_seed(setting.seed)
    if not setting.model:
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        return BertForSequenceClassification(BertConfig(vocab_size=100, **sizes))
    return AutoModelForSequenceClassification.from_pretrained(setting.model, num_labels=2, dtype=setting.dtype)


def _config(name: str, setting: Setting) -> Any:
    from peft import AdaLoraConfig, LoraConfig, TaskType

    from rank_lab.sora import SoraConfig

    shared: dict[str, Any] = {
        "task_type": TaskType.SEQ_CLS, "target_modules": "all-linear", "exclude_modules": ["pooler.dense"],
        "lora_alpha": 2 * setting.rank,
    }  # fmt: skip
    if name == "lora":
        return LoraConfig(r=setting.rank, **shared)
    if name == "adalora":
        ranks = {"init_r": setting.rank, "target_r": setting.rank // 2}
        return AdaLoraConfig(**ranks, total_step=10 * (setting.rounds + _WARM), **shared)
    leave_out = name in _LEFT_OUT
    return SoraConfig(r=setting.rank, threshold=0.01, revive=not leave_out, leave_out_zeros=leave_out, **shared)


def made(name: str, setting: Setting) -> Run:
    """Build one method.

    Parameters
    ----------
    name
        Key of :data:`METHODS`.
    setting
        What is trained.
    """
    from peft import get_peft_model

    from rank_lab.sora import ProximalStep, leave_out_zeros, parameter_groups

    config = _config(name, setting)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # AdaLoRA's, of settings that are not its own
        model = get_peft_model(_base(setting), config).to(setting.device).train()
    dtype = getattr(torch, setting.dtype)
    autocast = nullcontext if dtype == torch.float32 else lambda: torch.autocast(setting.device, dtype)
    if not name.startswith("sora"):
        trained = [value for value in model.parameters() if value.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.01, fused=True)
        return Run(model, optimizer, getattr(model.base_model, "update_and_allocate", int), autocast)
    optimizer = torch.optim.AdamW(parameter_groups(model, weight_decay=0.01), lr=1e-4, fused=True)
    ProximalStep(optimizer, config.threshold, config.threshold_mode, config.operator, revive=config.revive)
    if name in _LEFT_OUT:
        _shut(model, _LEFT_OUT[name], setting.seed)
        leave_out_zeros(model)
    return Run(model, optimizer, int, autocast)


@torch.no_grad()
def _shut(model: Any, share: float, seed: int) -> None:
    """Set that share of all gates to zero, at random."""
    from rank_lab.sora import gate_parameters

    gates = list(gate_parameters(model).values())
    count = sum(len(gate) for gate in gates)
    values = torch.ones(count)
    values[torch.randperm(count, generator=torch.Generator().manual_seed(seed))[: round(share * count)]] = 0.0
    for gate, kept in zip(gates, values.split([len(gate) for gate in gates]), strict=True):
        gate.mul_(kept.to(gate.device))


def _batches(setting: Setting, vocabulary: int, count: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(setting.seed)
    shape = (setting.batch, setting.length)
    drawn = [
        {
            "input_ids": torch.randint(0, vocabulary, shape, generator=generator),
            "attention_mask": torch.ones(shape, dtype=torch.int64),
            "labels": torch.randint(0, 2, shape[:1], generator=generator),
        }
        for _ in range(count)
    ]
    return [{name: values.to(setting.device) for name, values in batch.items()} for batch in drawn]


def _timed(run: Run, batch: dict[str, torch.Tensor], device: str) -> dict[str, float]:
    """Seconds of one step and, on a CPU, of its parts: a GPU would have to be waited for after each."""
    on_gpu = device != "cpu"
    if on_gpu:
        torch.cuda.synchronize()
    seconds, begun = {}, time.perf_counter()
    last = begun
    for part in run.step(batch):
        if not on_gpu:
            seconds[part] = -last + (last := time.perf_counter())
    if on_gpu:
        torch.cuda.synchronize()
    return seconds | {"total": time.perf_counter() - begun}


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
    batches = _batches(setting, vocabulary, setting.rounds + _WARM)
    order = random.Random(setting.seed)
    seconds: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    for number, batch in enumerate(batches):
        for name in order.sample(list(runs), len(runs)):
            taken = _timed(runs[name], batch, setting.device)
            if number >= _WARM:
                seconds[name].append(taken)
    return seconds


def peak_of_step(run: Run, setting: Setting) -> int:
    """Bytes that one step takes at its peak above what is held before it.

    On a CPU, from torch's own record of every allocation (``torch.profiler``): the
    system's high-water mark would count what the allocator keeps for later.

    Parameters
    ----------
    run
        A method that has taken a step.
    setting
        For the batch.
    """
    (batch,) = _batches(setting, run.model.config.vocab_size, 1)
    if setting.device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        list(run.step(batch))
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated() - before)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        list(run.step(batch))
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def _ratios(seconds: dict[str, list[dict[str, float]]], over: str) -> dict[str, dict[str, float]]:
    found = {}
    for name, rounds in seconds.items():
        ratios = [mine["total"] / its["total"] for mine, its in zip(rounds, seconds[over], strict=True)]
        low, _, high = quantiles(ratios, n=4)
        found[name] = {"median": median(ratios), "low": low, "high": high}
    return found


def _sizes(runs: dict[str, Run]) -> dict[str, dict[str, int]]:
    """What is trained, and what of SoRA's gates is left out."""
    from rank_lab.sora import gated_modules

    found = {}
    for name, run in runs.items():
        modules = gated_modules(run.model)
        found[name] = {
            "modules": sum(name.endswith(".base_layer") for name, _ in run.model.named_modules()),
            "trained": sum(value.numel() for value in run.model.parameters() if value.requires_grad),
            "gates": sum(module.rank for module in modules),
            "nonzero_gates": sum(module.nonzero for module in modules),
            "modules_left_out": sum(module.nonzero == 0 for module in modules),
        }
    return found


def _targets(ratios: dict[str, Any]) -> list[dict[str, Any]]:
    to_lora, to_adalora = ratios["lora"]["sora"]["median"], ratios["adalora"]["sora"]["median"]
    return [
        {"target": "SoRA's step at most 1.05 of LoRA's", "found": to_lora, "met": to_lora <= 1.05},
        {"target": "SoRA's step below AdaLoRA's", "found": to_adalora, "met": to_adalora < 1.0},
    ]


def _row(name: str, results: dict[str, Any]) -> tuple[str, ...]:
    rounds, lora = results["seconds"][name], results["ratios"]["lora"][name]
    parts = [f"{1e3 * median(taken[part] for taken in rounds):.1f}" if part in rounds[0] else "-" for part in _PARTS]
    return (
        METHODS[name],
        f"{1e3 * median(taken['total'] for taken in rounds):.1f} ms",
        f"{lora['median']:.3f} ({lora['low']:.3f} to {lora['high']:.3f})",
        f"{results['ratios']['adalora'][name]['median']:.3f}",
        " + ".join(parts),
        f"{results['peak_bytes'][name] / 1e6:.1f} MB",
        f"{results['peak_bytes'][name] / results['peak_bytes']['lora']:.3f}",
    )


def _report(results: dict[str, Any]) -> str:
    setting, machine, sizes = results["setting"], results["machine"], results["sizes"]
    headings = (
        "method", "step, median", "of LoRA's (quartiles)", "of AdaLoRA's", "/".join(_PARTS) + ", ms", "peak of a step",
        "of LoRA's",
    )  # fmt: skip
    verdict = {True: "met", False: "NOT MET"}
    checks = [
        (
            check["target"],
            f"{check['found']:.3f}",
            "not judged (--quick)" if results["quick"] else verdict[check["met"]],
        )
        for check in results["targets"]
    ]
    to_adalora = results["ratios"]["adalora"]
    left = "; ".join(
        f"{share:.0%}: {sizes[name]['nonzero_gates']} of {sizes[name]['gates']} gates open,"
        f" {sizes[name]['modules_left_out']} of {sizes[name]['modules']} modules without any"
        for name, share in _LEFT_OUT.items()
    )
    name = Path(setting["model"]).parent.name if Path(setting["model"]).is_dir() else setting["model"]
    return f"""# What a training step costs

{name or "A small random BERT"}, all {sizes["lora"]["modules"]} linear layers but pooler and head, largest rank
{setting["rank"]}, batches of {setting["batch"]} x {setting["length"]} random tokens, {setting["dtype"]} on
{setting["device"]}{results["accelerator"]}, {results["threads"]} thread(s). {setting["rounds"]} rounds in each of
which every method takes one step, in random order; ratios are taken round by round, then their median and quartiles.

{table(headings, [_row(name, results) for name in results["seconds"]])}

{table(("target", "found", "verdict"), checks)}

The paper's abstract gives SoRA 70 % of AdaLoRA's training time. Here it takes {to_adalora["sora"]["median"]:.0%}, and
LoRA, which has nothing to do for sparsity, {to_adalora["lora"]["median"]:.0%}: what adapts no better than LoRA cannot
be much faster than it either, until directions are left out.

A step: forward, backward, clipping, AdamW with SoRA's proximal step, AdaLoRA's `update_and_allocate` (from rank
{setting["rank"]} to {setting["rank"] // 2}, every step) and its orthogonal term in the loss, as PEFT has it. Peak: bytes
above what is held before a step, {"from torch's record of every allocation" if setting["device"] == "cpu" else "max_memory_allocated"},
taken apart from the times. Zero gates are random ones. {left}.

{machine["date"]}, {machine["processor"]}, {machine["cores"]} cores; load average {machine["load_average"]} at the start,
{results["load_average_after"]} at the end. Python {machine["python"]}, {", ".join(f"{n} {v}" for n, v in machine["versions"].items())}.
"""


def _parsed() -> tuple[Setting, argparse.Namespace]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small random BERT, seconds: does it run?")
    parser.add_argument("--model", default=None, help="folder or hub id of an encoder; default MiniLM")
    parser.add_argument("--batch", type=int, default=Setting.batch, help="rows of a batch")
    parser.add_argument("--length", type=int, default=Setting.length, help="tokens of a row")
    parser.add_argument("--rank", type=int, default=Setting.rank, help="largest rank, 2 or more")
    parser.add_argument("--rounds", type=int, default=Setting.rounds, help="steps timed of each method, 2 or more")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"], help="of the base")
    parser.add_argument("--threads", type=int, default=1, help="of torch, on a CPU")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random")
    parser.add_argument("--out", type=Path, default=_RESULTS, help="folder for training_cost.json and .md")
    options = parser.parse_args()
    if options.rank < 2 or options.rounds < 2:
        parser.error("--rank and --rounds must be 2 or more")
    named = {name: getattr(options, name) for name in ("batch", "length", "rank", "rounds", "device", "dtype", "seed")}
    model = "" if options.quick else options.model or str(encoder_folder())
    setting = Setting(model=model, **named)
    return replace(setting, batch=2, length=8, rounds=4) if options.quick else setting, options


def main() -> None:
    """Time in turns, measure memory, write the figures."""
    restart_on_one_thread("analyses.training_cost")
    setting, options = _parsed()
    torch.set_num_threads(options.threads)
    machine = about_machine(["rank-lab", "torch", "transformers", "peft"])
    runs = {name: made(name, setting) for name in METHODS}
    seconds = time_in_turns(runs, setting)
    ratios = {over: _ratios(seconds, over) for over in ("lora", "adalora")}
    results: dict[str, Any] = {
        "machine": machine,
        "accelerator": f", {torch.cuda.get_device_name()}" if setting.device != "cpu" else "",
        "quick": options.quick,
        "threads": options.threads,
        "setting": asdict(setting),
        "sizes": _sizes(runs),
        "seconds": seconds,
        "ratios": ratios,
        "targets": _targets(ratios),
        "peak_bytes": {name: peak_of_step(run, setting) for name, run in runs.items()},
        "load_average_after": [round(load, 2) for load in os.getloadavg()],
    }
    write(options.out, "training_cost" if setting.device == "cpu" else "training_cost-cuda", results, _report(results))


if __name__ == "__main__":
    main()
