"""The user guide: a file a page, in the page and in the wheel, that speaks of what is there."""

import re
import tomllib
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app.guide import GUIDES, guide_text
from app.navigation import PAGES

ROOT = Path(__file__).parents[2]
NAMES = [path for *_, path in PAGES]
PARTS = ("**What it shows.**", "**How to read it.**", "**What not to conclude.**", "**Share and take along.**")


def test_each_page_has_its_guide_and_each_guide_its_page() -> None:
    assert sorted(NAMES) == sorted(file.stem for file in GUIDES.glob("*.md"))
    assert len(set(NAMES)) == len(NAMES) == 11


@pytest.mark.parametrize("name", NAMES)
def test_a_guide_has_its_parts(name: str) -> None:
    text = guide_text(name)
    places = [text.index(part) for part in PARTS]
    assert places == sorted(places)
    assert not text.startswith("#")
    assert not re.search(r"[^\x00-\x7f–λ]", text)  # what every font has


def test_it_stands_in_the_page(monkeypatch: pytest.MonkeyPatch, whole: Path) -> None:
    monkeypatch.setattr("sys.argv", ["main.py", str(whole)])
    test = AppTest.from_file(str(ROOT / "app" / "main.py"), default_timeout=60).run()
    guide = next(each for each in test.expander if each.label == "How to read this page")
    assert guide.markdown[0].value == guide_text("overview")
    assert not test.exception


def test_the_wheel_takes_it_along() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert build["force-include"]["app"] == "rank_lab/app"
    assert "rank_lab/app/guide" not in str(build.get("exclude", ""))
    assert "app/guide/training.md" in (ROOT / "tests" / "wheel.sh").read_text()


def test_the_readme_names_it() -> None:
    assert "(app/guide/)" in (ROOT / "README.md").read_text(encoding="utf-8")
