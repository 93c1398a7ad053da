"""What a grid swallows of small changes, against rounding them."""

import pytest
import torch

from analyses.planted import Recipe
from rank_lab.dead_zone import spacing_classes, swallowed_energy
from rank_lab.grid import spacing


@pytest.mark.parametrize("size", [1e-3, 1e-4, 3e-5, 1.5e-5])
@pytest.mark.parametrize("kind", ["low", "iid"])
def test_energy_and_attenuation_are_found(size: float, kind: str, generator: torch.Generator) -> None:
    case = Recipe(shape=(400, 400), size=size, kind=kind).planted(generator)  # type: ignore[arg-type]
    found = swallowed_energy(spacing_classes(case.update.pieces(), torch.bfloat16))
    stored, true = case.update.to_dense(), case.true
    assert found.energy == pytest.approx(float(true.square().sum()), rel=0.1)
    kept = float((stored * true).sum() / true.square().sum())
    assert found.attenuation == pytest.approx(kept, rel=0.08)
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


def test_nothing_known_is_nan() -> None:
    found = swallowed_energy([])
    assert found.energy != found.energy
