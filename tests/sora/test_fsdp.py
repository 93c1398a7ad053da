"""Two processes that share every parameter (FSDP2) shrink gates as one process does."""

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from rank_lab.sora import ProximalStep

STEPS = 12
CASES = {"lr": {}, "adam": {"prox_start_step": 3}, "adam by module": {"adam_rms": True, "prox_start_step": 3}}
THRESHOLDS = {"lr": 2.0, "adam": 3.0, "adam by module": 3.0}


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.A = nn.Parameter(torch.randn(6, 4, generator=generator))
        self.B = nn.Parameter(torch.randn(5, 6, generator=generator))
        self.lora_gate = nn.Parameter(torch.linspace(0.02, 1.0, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x @ self.A.T * self.lora_gate) @ self.B.T


def gates_after(model: Gated, case: str) -> torch.Tensor:
    groups = [{"params": [model.A, model.B]}, {"params": [model.lora_gate], "sora_gate": True, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.02, weight_decay=0.0)
    step = ProximalStep(optimizer, THRESHOLDS[case], case.split(maxsplit=1)[0], **CASES[case])
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(4))
    for _ in range(STEPS):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    assert step.calls == STEPS
    full = getattr(model.lora_gate, "full_tensor", None)
    return (model.lora_gate if full is None else full()).detach()


def _process(rank: int, port: int, folder: str) -> None:
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    results = {}
    for case in CASES:
        model = Gated()
        fully_shard(model)
        assert isinstance(model.lora_gate, DTensor)
        results[case] = gates_after(model, case)
    if rank == 0:
        torch.save(results, Path(folder) / "gates.pt")
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # threads of gloo that are still there would abort the interpreter's own end


def test_two_processes_shrink_as_one(tmp_path: Path) -> None:
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("torch was built without gloo")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_process, args=(port, str(tmp_path)), nprocs=2)
    for case, gates in torch.load(tmp_path / "gates.pt").items():
        alone = gates_after(Gated(), case)
        assert torch.equal(gates == 0, alone == 0)
        assert 0 < int((gates == 0).sum()) < 6
        torch.testing.assert_close(gates, alone, rtol=0, atol=1e-6)
