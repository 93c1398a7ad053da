"""What a grid swallows of small changes, against rounding them."""

import numpy as np
import pytest
import torch

from analyses.planted import Recipe
from rank_lab.dead_zone import fine_changes, spacing_classes, swallowed_energy
from rank_lab.grid import spacing
from rank_lab.update import DenseUpdate, MemoryMatrix


@pytest.mark.parametrize("size", [1e-3, 1e-4, 3e-5, 1.5e-5])
@pytest.mark.parametrize("kind", ["low", "iid"])
@pytest.mark.parametrize("measured", [True, False], ids=["from fine entries", "Gaussian"])
def test_energy_and_attenuation_are_found(size: float, kind: str, measured: bool, generator: torch.Generator) -> None:
    case = Recipe(shape=(400, 400), size=size, kind=kind).planted(generator)  # type: ignore[arg-type]
    classes = spacing_classes(case.update.pieces(), torch.bfloat16)
    changes = fine_changes(case.update.pieces(), torch.bfloat16, classes) if measured else np.zeros(0)
    found = swallowed_energy(classes, changes)
    stored, true = case.update.to_dense(), case.true
    assert found.energy == pytest.approx(float(true.square().sum()), rel=0.1)
    kept = float((stored * true).sum() / true.square().sum())
    assert found.attenuation == pytest.approx(kept, rel=0.1)
    assert found.attenuation <= found.attenuation_rms <= 1.02


def test_classes_add_up(generator: torch.Generator) -> None:
    case = Recipe(shape=(120, 70)).planted(generator)
    found = spacing_classes(case.update.pieces(), torch.bfloat16)
    stored = case.update.to_dense()
    assert sum(part.entries for part in found) == stored.numel()
    assert sum(part.unchanged for part in found) == int((stored == 0).sum())
    assert sum(part.energy for part in found) == pytest.approx(float(stored.square().sum()), rel=1e-9)
    tuned = case.update.tuned.block(slice(None), slice(None))
    steps = spacing(tuned, torch.bfloat16).double()
    for part in found:
        assert part.entries == int((steps == part.spacing).sum())


def test_no_law_is_needed_where_fine_entries_tell(generator: torch.Generator) -> None:
    """Real updates have heavier tails than a Gaussian."""
    base = (0.04 * torch.randn(500, 500, generator=generator)).bfloat16()
    change = 2e-5 * torch.randn(500, 500, generator=generator) * torch.randn(500, 500, generator=generator) ** 2
    update = DenseUpdate(MemoryMatrix((base.float() + change).bfloat16()), MemoryMatrix(base))
    classes = spacing_classes(update.pieces(), torch.bfloat16)
    found = swallowed_energy(classes, fine_changes(update.pieces(), torch.bfloat16, classes))
    true = float(change.double().square().sum())
    assert found.energy == pytest.approx(true, rel=0.15)
    kept = float((update.to_dense() * change.double()).sum() / true)
    assert found.attenuation == pytest.approx(kept, rel=0.1)
    assert abs(swallowed_energy(classes, np.zeros(0)).energy - true) > 0.2 * true


def test_nothing_known_is_nan() -> None:
    found = swallowed_energy([], np.zeros(0))
    assert found.energy != found.energy
