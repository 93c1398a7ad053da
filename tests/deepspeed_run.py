"""A training run of two steps by DeepSpeed itself, and what its own converter makes of the partitions.

Run as a script, in processes of its own, because DeepSpeed keeps one process group for a process's life::

    python tests/deepspeed_run.py tests/golden/zero/stage3 stage3

So the files in ``golden/zero`` were made, by DeepSpeed 0.19.8 on a CPU; its scripts were not kept.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

WIDTH, WORDS = 5, 7  # odd, so that partitions need padding
_BF16 = {"bf16": {"enabled": True}}
RUNS: dict[str, tuple[int, dict[str, Any]]] = {
    "stage1": (2, {"zero_optimization": {"stage": 1}} | _BF16),
    "stage2": (2, {"zero_optimization": {"stage": 2, "round_robin_gradients": True}} | _BF16),
    "stage2_aligned": (2, {"zero_optimization": {"stage": 2, "parameter_alignment": True}} | _BF16),
    "stage3": (2, {"zero_optimization": {"stage": 3}} | _BF16),
    "stage3_alone": (1, {"zero_optimization": {"stage": 3, "sub_group_size": 40}}),
    "bf16_optimizer": (
        2,
        {"zero_optimization": {"stage": 1}, "data_types": {"grad_accum_dtype": "fp32"}} | _BF16,
    ),  # which the converter refuses
}
"""Processes and configuration of each run."""


class Block(nn.Module):
    """A projection and a norm, named as a Llama's."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(WIDTH, WIDTH)
        self.up_proj = nn.Linear(WIDTH, WIDTH + 4, bias=False)
        self.down_proj = nn.Linear(WIDTH + 4, WIDTH, bias=False)
        self.register_buffer("seen", torch.tensor([3]))
        self.register_buffer("mean", torch.tensor([1.5, 2.25, 0.1]))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.down_proj(self.up_proj(self.q_proj(x)).tanh())
        return out


class Model(nn.Module):
    """Tied embedding and head, one frozen weight, buffers of two types."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(WORDS, WIDTH)
        self.layers = nn.ModuleList([Block(), Block()])
        self.lm_head = nn.Linear(WIDTH, WORDS, bias=False)
        self.lm_head.weight = self.embed_tokens.weight
        self.layers[0].q_proj.weight.requires_grad_(False)
        self.gate = nn.Parameter(torch.ones(1))  # fewer values than processes

    def forward(self, words: Tensor) -> Tensor:
        x = self.embed_tokens(words)
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.lm_head(self.gate * x)
        return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), words[:, 1:].flatten())


def _train(rank: int, folder: str, world: int, config: dict[str, Any]) -> None:
    rendezvous = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_SIZE": world}
    os.environ.update({name: str(value) for name, value in rendezvous.items()})
    torch.set_num_threads(1)
    import deepspeed

    deepspeed.init_distributed(
        "gloo", auto_mpi_discovery=False, init_method=f"file://{folder}.rendezvous", rank=rank, world_size=world
    )
    torch.manual_seed(0)
    model = Model()
    trained = [value for value in model.parameters() if value.requires_grad]
    groups = [
        {"params": [value for value in trained if value.ndim > 1], "weight_decay": 0.1},
        {"params": [value for value in trained if value.ndim == 1 and value.numel() > 1], "weight_decay": 0.0},
        {"params": [model.gate], "lr": 1e-1},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    about = {"train_micro_batch_size_per_gpu": 1, "zero_allow_untested_optimizer": True} | config
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=about)
    for _ in range(2):
        engine.backward(engine(torch.randint(0, WORDS, (1, 6))))
        engine.step()
    engine.save_checkpoint(folder)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def main(folder: str, run: str) -> None:
    """Train, save partitions in ``folder`` and the converter's tensors in ``folder.safetensors``."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    world, config = RUNS[run]
    torch.multiprocessing.spawn(_train, args=(folder, world, config), nprocs=world)
    Path(f"{folder}.rendezvous").unlink(missing_ok=True)
    if run == "bf16_optimizer":
        return
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    state = get_fp32_state_dict_from_zero_checkpoint(folder, lazy_mode=True)
    save_file({name: value.contiguous().detach().clone() for name, value in state.items()}, f"{folder}.safetensors")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
