"""What LoRA saves: bytes of gradients and of the optimizer's state, counted of the tensors, and time of a step."""

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from analyses.code_runs import quiet_peft
from analyses.lora_rank_arms import Arm
from rank_lab.base_model import load_base
from rank_lab.training.methods import METHODS

__all__ = ["Base", "memory_row", "step_ratios"]

_WARM = 3
Batch = Mapping[str, Tensor]
Base: TypeAlias = Path | LlamaConfig
"""A folder, or the shape of a model of random weights."""


def _model(base: Base, arm: Arm, batch: Batch) -> nn.Module:
    """Where the batch is."""
    torch.manual_seed(0)
    device = batch["input_ids"].device
    with quiet_peft():
        model = METHODS[arm.method].adapt(_untuned(base, device), arm.choices, "causal")
    return model.train().to(device)


def _untuned(base: Base, device: torch.device) -> Any:
    if isinstance(base, Path):
        return load_base(base, "causal", dtype="float32")
    with device:
        return LlamaForCausalLM(base)


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [value for value in model.parameters() if value.requires_grad]


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch) -> Iterator[str]:
    model(**batch).loss.backward()
    yield "passes"
    torch.nn.utils.clip_grad_norm_(_trained(model), 1.0)
    optimizer.step()
    yield "optimizer"


def memory_row(base: Base, arm: Arm, batch: Batch) -> dict[str, int]:
    """Bytes of what training keeps beside activations, after one step of AdamW.

    Parameters
    ----------
    base, arm
        What is trained.
    batch
        With labels, on the device that is asked about.

    Returns
    -------
    dict
        ``trained_parameters``, ``frozen_parameters`` and, of the tensors that are there, ``weight_bytes`` (all),
        ``gradient_bytes`` and ``state_bytes``.
    """
    model = _model(base, arm, batch)
    trained = _trained(model)
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    for _ in _step(model, optimizer, batch):
        pass
    state = [value for entry in optimizer.state.values() for value in entry.values() if isinstance(value, Tensor)]
    every = list(model.parameters())
    count = sum(value.numel() for value in trained)
    return {
        "trained_parameters": count,
        "frozen_parameters": sum(value.numel() for value in every) - count,
        "weight_bytes": _bytes(every),
        "gradient_bytes": _bytes([value.grad for value in every if value.grad is not None]),
        "state_bytes": _bytes(state),
    }


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in tensors)


def step_ratios(base: Base, arms: Sequence[Arm], batch: Batch, rounds: int) -> list[dict[str, Any]]:
    """Seconds of a step of AdamW, arms taking turns in a new order every round; the last is what others are divided by.

    Parameters
    ----------
    base, arms, batch
        What is trained.
    rounds
        Steps that are timed of each.

    Returns
    -------
    list of dict
        A row an arm and round: ``arm``, ``round``, ``seconds`` and ``processor`` (seconds of it), and the ratio of each
        to the last arm's of the same round.
    """
    runs = []
    for arm in arms:
        model = _model(base, arm, batch)
        runs.append((arm, model, torch.optim.AdamW(_trained(model), lr=1e-4)))
    order, rows = random.Random(0), []
    for number in range(-_WARM, rounds):
        taken = {}
        for arm, model, optimizer in order.sample(runs, len(runs)):
            taken[arm.name] = _timed(model, optimizer, batch)
        whole = taken[arms[-1].name]
        for arm in arms if number >= 0 else ():
            wall, processor = taken[arm.name]
            ratios = {"ratio": wall / whole[0], "processor_ratio": processor / whole[1]}
            rows.append({"arm": arm.name, "round": number, "seconds": wall, "processor": processor} | ratios)
    return rows


def _timed(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch) -> tuple[float, float]:
    on_gpu = next(model.parameters()).device.type == "cuda"
    wall, processor = time.perf_counter(), time.process_time()
    for _ in _step(model, optimizer, batch):
        if on_gpu:
            torch.cuda.synchronize()
    optimizer.zero_grad()
    return time.perf_counter() - wall, time.process_time() - processor
