"""The config of a plan: PEFT gives exactly the ranks that were meant."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from rank_lab.budget import ModuleSpectrum, plan_ranks
from rank_lab.errors import BudgetError
from rank_lab.lora_config import lora_config, peft_config


class Nested(nn.Module):
    """Modules whose paths end in those of others."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(8, 8)
        self.other_q = nn.Linear(8, 8)
        self.block = nn.ModuleDict({"q": nn.Linear(8, 8), "inner": nn.ModuleDict({"q": nn.Linear(8, 8)})})
        self.inner = nn.ModuleDict({"q": nn.Linear(8, 8)})
        self.layers = nn.ModuleList([nn.ModuleDict({"q": nn.Linear(8, 8)}) for _ in range(12)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.q(x)


PATHS = [name for name, module in Nested().named_modules() if isinstance(module, nn.Linear)]


def given(config: dict[str, object]) -> dict[str, tuple[int, float]]:
    """Rank and scaling of every module, as PEFT gives them; its warnings are errors."""
    model = get_peft_model(Nested(), LoraConfig(**json.loads(json.dumps(config))))
    return {
        name.removeprefix("base_model.model."): (layer.r["default"], layer.scaling["default"])
        for name, layer in model.named_modules()
        if hasattr(layer, "lora_A")
    }


@pytest.mark.parametrize("seed", range(12))
def test_peft_gives_the_ranks_of_the_plan(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ranks = {path: int(rank) for path, rank in zip(PATHS, rng.integers(0, 5, size=len(PATHS)), strict=True)}
    wanted = {path: rank for path, rank in ranks.items() if rank} or {"q": 1}
    config = lora_config(wanted, PATHS)
    assert given(config) == {path: (rank, 1.0) for path, rank in wanted.items()}


@pytest.mark.parametrize("chosen", [["q"], ["inner.q"], ["block.inner.q"], ["block.q", "q"], ["layers.1.q"]])
def test_modules_that_end_alike_are_told_apart(chosen: list[str]) -> None:
    wanted = {path: 2 + index for index, path in enumerate(chosen)}
    assert given(lora_config(wanted, PATHS, scaling=2.0)) == {path: (rank, 2.0) for path, rank in wanted.items()}


def test_of_a_plan() -> None:
    modules = [
        ModuleSpectrum(path, 8, 8, np.array([3.0] * (index % 3) + [0.0] * (8 - index % 3)))
        for index, path in enumerate(PATHS)
    ]
    plan = plan_ranks(modules, parameters=10_000)
    assert {path: rank for path, (rank, _) in given(peft_config(plan)).items()} == plan.ranks
    assert len(plan.ranks) < len(PATHS)  # some have rank 0


def test_targets_stay_readable_where_they_can() -> None:
    assert lora_config({"layers.0.q": 2}, ["layers.0.q", "layers.0.k"])["target_modules"] == ["layers.0.q"]


@pytest.mark.parametrize(("ranks", "scaling"), [({}, 1.0), ({"q": 0}, 1.0), ({"q": 1}, 0.0), ({"q": 1}, float("nan"))])
def test_refusals(ranks: dict[str, int], scaling: float) -> None:
    with pytest.raises(BudgetError, match="expected at least one module"):
        lora_config(ranks, scaling=scaling)


def test_hostile_names_are_names(tmp_path: Path) -> None:
    """A dot is a dot and not any character."""
    config = lora_config({"block.q": 3, "q": 1, "other_q": 1}, PATHS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert given(config) == {"block.q": (3, 1.0), "q": (1, 1.0), "other_q": (1, 1.0)}
    assert list(lora_config({"a.b(c": 3, "d": 1, "e": 1})["rank_pattern"]) == [r"^a\.b\(c"]
