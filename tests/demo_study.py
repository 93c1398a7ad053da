"""The demo's study in small, which tests of the demo and of the dashboard look at."""

from collections.abc import Callable
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Any

import pytest
from filelock import FileLock

from rank_lab import pictures
from rank_lab.demo import one_run
from rank_lab.demo.demo_plan import DemoPlan
from rank_lab.demo.run import EXPORT, run_demo

PLAN = DemoPlan(steps=2, checkpoints=1, pieces=6, documents=8, blocks=8)
NAMES = [each.name for each in PLAN.runs]


class StoppedError(Exception):
    """What a kill is to the demo: it does not come back from a call."""


def made_once(place: Path) -> tuple[Path, Path]:
    """The study, and a copy that nobody changes; made by whichever process asks first, and the others wait."""
    study, kept = place / "demo" / "study", place / "demo" / "kept"
    with FileLock(place / "demo.lock"):
        if not kept.is_dir():
            _make(study)
            partly = kept.with_name("partly")
            copytree(study, partly, ignore=ignore_patterns(EXPORT, ".spectra", ".lock"), dirs_exist_ok=True)
            partly.rename(kept)
    return study, kept


def _make(study: Path) -> None:
    """A demo, stopped within two of its steps and gone on with each time; pictures are tested by themselves."""
    with pytest.MonkeyPatch.context() as without_pictures:
        without_pictures.setattr(pictures, "find_browser", lambda: None)
        for name, calls in (("finetune", 1), ("evaluate_models", 2)):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(one_run, name, _stopping(getattr(one_run, name), calls))
                with pytest.raises(StoppedError):
                    run_demo(study, PLAN)
        run_demo(study, PLAN)


def _stopping(function: Callable[..., Any], calls: int) -> Callable[..., Any]:
    """The function, which on one of its calls does its work and does not come back."""
    counted = iter(range(1, 100))

    def stop(*args: Any, **kwargs: Any) -> Any:
        found = function(*args, **kwargs)
        if next(counted) == calls:
            raise StoppedError
        return found

    return stop
