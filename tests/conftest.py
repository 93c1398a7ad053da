"""Set before torch is imported; what every test may use."""

import gc
import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
for _library in ("OMP", "MKL", "OPENBLAS"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")  # in processes that tests start, too: the bits then agree
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from pathlib import Path
from typing import Any

import pytest
import torch

torch.set_num_threads(1)  # two threads that share busy cores are many times slower than one

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_configure() -> None:
    """Refuse to run with another PEFT than the one that is to be tested."""
    expected = os.environ.get("EXPECTED_PEFT")
    if expected is not None:
        import peft

        if peft.__version__ != expected:
            raise pytest.UsageError(f"PEFT {peft.__version__} of {peft.__file__}, expected {expected}; see PYTHONPATH.")


def pytest_report_header() -> str:
    """Versions that the numbers depend on."""
    shared = SHARED if SHARED.is_dir() else "absent"
    return f"torch {torch.__version__}, {torch.get_num_threads()} threads, shared data: {shared}"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """All tests of a file go to one process, where what they share is made once; files in their order."""
    from xdist.scheduler import LoadFileScheduling

    if config.getoption("dist") != "load":  # something else was asked for
        return None
    config.option.loadscopereorder = False  # the many small files of doctests come last, and fill what is left
    return LoadFileScheduling(config, log)


@pytest.fixture(scope="module", autouse=True)
def _modules_are_no_garbage() -> None:
    """Trainers and pages collect garbage each time, and would go through all that was ever imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def generator() -> torch.Generator:
    """Seeded randomness, so that a failure can be repeated."""
    return torch.Generator().manual_seed(20261121)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Public data that lies beside the project; tests that need it say so where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"the shared data folder {SHARED} is absent")
    return SHARED


def _of_all_processes(factory: pytest.TempPathFactory) -> Path:
    """The folder that the processes of this run of the tests have in common."""
    own = factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def demo_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the demo makes in small: for its own tests, which go on with it."""
    from tests.demo_study import made_once

    return made_once(_of_all_processes(tmp_path_factory))[0]


@pytest.fixture(scope="session")
def kept_demo_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as it was made, without its export: to look at, or to copy."""
    from tests.demo_study import made_once

    return made_once(_of_all_processes(tmp_path_factory))[1]
