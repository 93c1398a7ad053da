"""What is kept of the studies: their pages are what their tables say today, and small enough to keep."""

import re
import shutil
from importlib import import_module
from pathlib import Path

import pytest

from analyses.kept_results import RESULTS

KEPT = sorted(file.parent.name for file in RESULTS.glob("*/about.json"))


def test_studies_are_kept() -> None:
    assert {"published_points", "sparsity_curves", "rank_allocation", "pretrain_study_base"} <= set(KEPT)


@pytest.mark.parametrize("name", KEPT)
def test_a_page_is_made_again_from_its_kept_tables_alone(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    shutil.copytree(RESULTS / name, folder)
    page = (folder / "README.md").read_text(encoding="utf-8")
    (folder / "README.md").unlink()
    import_module(f"analyses.{name.removesuffix('-full')}").tell(folder, False)
    assert (folder / "README.md").read_text(encoding="utf-8") == page
    shown = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page)
    assert all((folder / picture).is_file() for picture in shown)
    assert sum(file.stat().st_size for file in folder.iterdir()) < 1_000_000  # bytes
