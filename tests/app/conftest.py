"""One measured study for all tests of the dashboard."""

from pathlib import Path

import pytest

from rank_lab import RankReport
from tests.app.studies import measured


@pytest.fixture(scope="package")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RankReport]:
    return measured(Path(tmp_path_factory.mktemp("checkpoints")))
