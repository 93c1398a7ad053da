"""For all tests of SoRA."""

import gc

import pytest


@pytest.fixture(scope="session", autouse=True)
def _modules_are_no_garbage() -> None:
    """Every Trainer collects garbage when it begins, and would go through all that was ever imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def every_zero_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small models have too few directions for it to be worth while."""
    monkeypatch.setattr("rank_lab.sora.live._WORTH", 1)
