"""A checkpoint that two processes write together; each imports this file anew, so that it needs torch alone."""

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp


def save_shard(rank: int, folder: str, state: dict[str, torch.Tensor]) -> None:
    """What one of them does."""
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    dist.init_process_group("gloo", init_method=f"file://{folder}.rendezvous", rank=rank, world_size=2)
    mesh = dist.init_device_mesh("cpu", (2,))
    placed = {
        name: distribute_tensor(value, mesh, [Shard(0) if value.ndim == 2 else Replicate()])
        for name, value in state.items()
    }
    dcp.save({"model": placed}, checkpoint_id=folder)
    dist.destroy_process_group()
