"""Runs schedules in processes that are killed: ``python -m tests.sora.schedule_kills FOLDER SEED CASE...``.

This process imports everything once and trains nothing itself; each attempt is a fork of it. Each case is run in
``FOLDER/CASE/straight`` at one go, and then in ``killed`` by attempts that are killed from outside at random times, or,
those of POINTS, by attempts that end themselves at the first place where a file is written at which none has ended
before.
"""

import gc
import json
import os
import random
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

warnings.simplefilter("ignore")

import scipy.stats  # noqa: F401  what scores import on first use, once for all attempts
import sklearn.metrics  # noqa: F401
import torch
from transformers import TrainerState

torch.set_num_threads(1)

from rank_lab import durable
from rank_lab.sora import Schedule, StopRule
from tests.sora.schedules import arguments, maker, plan, rows, run

KILLED = 9
_AMPLE = 200.0
_STOP = StopRule(min_steps=12, max_steps=20, check_steps=2, patience=2, tolerance=0.03)  # a checkpoint after 10 steps
_SHORT = StopRule(min_steps=6, max_steps=6, check_steps=1)  # after 5
_MOST_KILLS = 4  # the next attempt has all the time it needs, however slow the machine has become

CASES: dict[str, tuple[dict[str, Any], Schedule]] = {
    "thresholds": ({}, plan(stop=_STOP, controls=("as_shipped", "svd"))),
    "points": ({}, plan(stop=_SHORT, thresholds=(0.0, 2.0), controls=("svd",))),
    "adam": (
        {"threshold_mode": "adam", "revive": False, "leave_out_zeros": True},
        plan(stop=_STOP, thresholds=(0.0, 0.002), controls=("as_shipped",)),
    ),
    "targets": ({}, plan(stop=_STOP, thresholds=(), target_ranks=(2, 1), controls=("one_shot",), seeds=(0, 1))),
}
POINTS = ("points",)


def schedule(case: str, out: Path) -> None:
    adapter, given = CASES[case]
    options = arguments(lr_scheduler_type="cosine", gradient_accumulation_steps=2)
    run(out, schedule=given, make_model=maker(**adapter), train=rows(count=37), arguments=options)


class Points:
    """Ends this process where a file is written, before it has its name, and after."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.ended = set(log.read_text().splitlines()) if log.is_file() else set()
        self.last = Path()
        self.replace, self.flush = os.replace, durable._flush
        os.replace = self.replaced
        durable._flush = self.flushed
        torch.save = self.before("save", torch.save, 1)
        TrainerState.save_to_json = self.before("state", TrainerState.save_to_json, 1)

    def point(self, what: str, path: Path) -> None:
        lines = path.read_bytes().count(b"\n") if path.suffix == ".jsonl" and path.is_file() else 0
        name = f"{what} {path} {lines}"
        if name not in self.ended:
            with self.log.open("a") as stream:
                stream.write(name + "\n")
            if what == "flush" and path.name == "curve.jsonl" and lines % 2:
                os.truncate(path, path.stat().st_size - 7)  # killed while it wrote the line
            os._exit(KILLED)

    def replaced(self, source: Any, target: Any) -> None:
        self.last = Path(target)
        self.point("before", self.last)
        self.replace(source, target)

    def flushed(self, path: Path) -> None:
        self.point("flush", self.last if path.is_dir() else path)
        self.flush(path)

    def before(self, what: str, function: Callable[..., Any], place: int) -> Callable[..., Any]:
        def changed(*given: Any, **options: Any) -> Any:
            self.point(what, Path(given[place]))
            return function(*given, **options)

        return changed


def attempt(case: str, out: Path, log: Path | None, seconds: float) -> bool:
    """Whether an attempt came to the end of the schedule."""
    child = os.fork()
    if not child:
        try:
            if log is not None:
                Points(log)
            schedule(case, out)
        except BaseException as error:  # noqa: BLE001  the parent must not go on in this process's place
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    deadline = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            break
        time.sleep(0.002)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) not in (0, KILLED):
        sys.exit(f"an attempt failed with {os.WEXITSTATUS(status)}")
    return os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0


def attempts(case: str, out: Path, log: Path | None, limits: Iterator[float]) -> int:
    """How many attempts it took."""
    return next(count for count, limit in enumerate(limits, 1) if attempt(case, out, log, limit))


def main(folder: str, seed: str, *cases: str) -> None:
    maker()()  # transformers compiles a thousand patterns for its first model, which all attempts then share
    gc.freeze()
    times, result = random.Random(int(seed)), {}
    for case in cases:
        root = Path(folder) / case
        root.mkdir()
        start = time.monotonic()
        attempts(case, root / "straight", None, repeat(_AMPLE))
        most = 0.7 * (time.monotonic() - start)
        if case in POINTS:
            result[case] = attempts(case, root / "killed", root / "log", repeat(_AMPLE))
        else:
            limits = [times.uniform(0.1 * most, most) for _ in range(_MOST_KILLS)]
            result[case] = attempts(case, root / "killed", None, iter([*limits, _AMPLE]))
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
