"""The gates' second moments at the end of the dense stage, which the mode ``adam`` measures in, kept in a file."""

from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

from rank_lab.durable import move_into_place
from rank_lab.errors import CheckpointError
from rank_lab.sora.gates import GATE_FLAG, gate_parameters

__all__ = ["keep_gate_optimizer", "read_gate_optimizer"]

_FILE = "gate_optimizer.pt"


def keep_gate_optimizer(optimizer_file: Path, folder: Path) -> None:
    """Take the flagged group out of an optimizer's saved state.

    Parameters
    ----------
    optimizer_file
        Of a Trainer's checkpoint.
    folder
        Of the stage.
    """
    saved = torch.load(optimizer_file, map_location="cpu", weights_only=True)
    group = next(each for each in saved["param_groups"] if each.get(GATE_FLAG))
    places = group["params"]
    state = {new: saved["state"][old] for new, old in enumerate(places) if old in saved["state"]}
    partial = folder / f".{_FILE}.partial"
    torch.save({"state": state, "param_groups": [{**group, "params": list(range(len(places)))}]}, partial)
    move_into_place(partial, folder / _FILE)


def read_gate_optimizer(folder: Path, model: nn.Module) -> Optimizer:
    """An optimizer of a model's gates with the moments that were kept.

    Parameters
    ----------
    folder
        Of the stage.
    model
        That it trained.

    Raises
    ------
    CheckpointError
        If there is no such file.
    """
    file = folder / _FILE
    if not file.is_file():
        raise CheckpointError(
            f"{file}: is gone; run the schedule in a new folder, or without the control 'as_shipped'."
        )
    gates = list(gate_parameters(model).values())
    optimizer = torch.optim.AdamW([{"params": gates, GATE_FLAG: True}])
    optimizer.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    return optimizer
