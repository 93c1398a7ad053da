"""For all tests of SoRA."""

import pytest


@pytest.fixture
def every_zero_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small models have too few directions for it to be worth while."""
    monkeypatch.setattr("rank_lab.sora.live._WORTH", 1)
