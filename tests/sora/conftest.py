"""For all tests of SoRA."""

import gc

import pytest


@pytest.fixture(scope="session", autouse=True)
def _modules_are_no_garbage() -> None:
    """Every Trainer collects garbage when it begins, and would go through all that was ever imported."""
    gc.collect()
    gc.freeze()
