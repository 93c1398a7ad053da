"""One measured study for all tests of the dashboard."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from rank_lab import RankReport
from tests.app.complete import complete
from tests.app.studies import measured

Shown = Callable[..., AppTest]
MAIN = Path(__file__).parents[2] / "app" / "main.py"


@pytest.fixture(scope="package")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RankReport]:
    return measured(Path(tmp_path_factory.mktemp("checkpoints")))


@pytest.fixture(autouse=True)
def main_module() -> Iterator[None]:
    """Streamlit puts the page in the place of ``__main__``, which processes that later tests start would run again."""
    before = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = before


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    """Run a page, or the whole shell, on a study, with choices in the address."""

    def run(study: Path, page: str = "", **choices: str | list[str]) -> AppTest:
        monkeypatch.setattr("sys.argv", ["main.py", str(study)])
        code = f"from app.{page} import page\nfrom app.guarded import guarded\nguarded(page)()"
        test = AppTest.from_string(code) if page else AppTest.from_file(str(MAIN))
        test.default_timeout = 60
        for name, value in choices.items():
            test.query_params[name] = value
        test.run()
        assert not test.exception, test.exception
        return test

    return run


@pytest.fixture(scope="package")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with everything in it, which nobody changes."""
    return complete(tmp_path_factory.mktemp("complete") / "study")
