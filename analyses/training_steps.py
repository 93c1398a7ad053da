"""One training step of each method that :mod:`analyses.training_cost` compares, built alike."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["LEFT_OUT", "METHODS", "PARTS", "WARM", "Run", "Setting", "batches", "made", "peak_of_step", "sizes"]

WARM = 3
PARTS = ("forward", "backward", "optimizer")
LEFT_OUT = {f"sora_left_out_{share:.0%}": share for share in (0.0, 0.5, 0.75, 0.9)}

METHODS = {
    "lora": "LoRA (PEFT)",
    "adalora": "AdaLoRA (PEFT)",
    "sora": "SoRA",
    **{name: f"SoRA, {share:.0%} of the gates zero, left out" for name, share in LEFT_OUT.items()},
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
    batch: int
    length: int
    rank: int = 8
    rounds: int = 40
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
        return AdaLoraConfig(**ranks, total_step=10 * (setting.rounds + WARM), **shared)
    leave_out = name in LEFT_OUT
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
    if name in LEFT_OUT:
        _shut(model, LEFT_OUT[name], setting.seed)
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


def batches(setting: Setting, vocabulary: int, count: int) -> list[dict[str, torch.Tensor]]:
    """Random tokens and labels, the same for every method.

    Parameters
    ----------
    setting
        Their size and seed.
    vocabulary
        Of the model.
    count
        How many.
    """
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
    (batch,) = batches(setting, run.model.config.vocab_size, 1)
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


def sizes(runs: dict[str, Run]) -> dict[str, dict[str, int]]:
    """What is trained, and what of SoRA's gates is left out.

    Parameters
    ----------
    runs
        The methods.
    """
    from rank_lab.sora import gate_parameters, gated_modules
    from rank_lab.sora.live import live_directions

    found = {}
    for name, run in runs.items():
        modules = gated_modules(run.model)
        found[name] = {
            "modules": sum(name.endswith(".base_layer") for name, _ in run.model.named_modules()),
            "trained": sum(value.numel() for value in run.model.parameters() if value.requires_grad),
            "gates": sum(module.rank for module in modules),
            "nonzero_gates": sum(module.nonzero for module in modules),
            "computed_gates": sum(
                len(gate) if (live := live_directions(gate)) is None else len(live)
                for gate in gate_parameters(run.model).values()
            ),
            "modules_left_out": sum(module.nonzero == 0 for module in modules),
        }
    return found
