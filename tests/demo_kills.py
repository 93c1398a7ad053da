"""Runs the demo in processes that are killed: ``python -m tests.demo_kills FOLDER``.

This process imports everything and reads the text once; each attempt is a fork of it. ``FOLDER/straight`` is made at
one go. ``FOLDER/killed`` by attempts of which each but the last is killed with SIGKILL from outside at one of PLACES;
what the last one printed stands in ``FOLDER/NAME.out``.
"""

import json
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

warnings.simplefilter("ignore")

import scipy.stats  # noqa: F401  what scores import on first use, once for all attempts
import sklearn.metrics  # noqa: F401
import torch

torch.set_num_threads(1)

from rank_lab import pictures
from rank_lab.demo.demo_plan import DemoPlan
from rank_lab.demo.run import run_demo
from rank_lab.demo.task_files import texts_sha256

PLAN = DemoPlan(steps=6, checkpoints=3, pieces=6, documents=8, blocks=8)
_AMPLE = 2900.0  # against hanging only


def _in_analysis(study: Path) -> bool:
    """Matrices of the first run, which is trained, are being measured; it is not scored yet."""
    trained = any(study.glob("full-1e-4/checkpoint-6/*.safetensors"))
    return trained and len(list(study.glob(".spectra/*.npz"))) > 40 and not (study / "scores.parquet").exists()


def _in_training(study: Path) -> bool:
    """Between two checkpoints of LoRA's."""
    run = study / "lora-5e-4"
    return any(run.glob("checkpoint-*/*.safetensors")) and not (run / "checkpoint-6").exists()


def _in_sweep(study: Path) -> bool:
    """Beyond the dense stage, before the last."""
    curve = study / "curve.jsonl"
    return curve.is_file() and 1 < curve.read_bytes().count(b"\n") < 5


PLACES: dict[str, Callable[[Path], bool]] = {
    "analysis": _in_analysis, "training": _in_training, "sweep": _in_sweep,
}  # fmt: skip


def attempt(study: Path, place: Callable[[Path], bool] | None) -> int:
    """How the process ended, whose place is where it is killed."""
    child = os.fork()
    if not child:
        os.dup2(os.open(study.with_suffix(".out"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        try:
            run_demo(study, PLAN)
            sys.stdout.flush()
        except BaseException as error:  # noqa: BLE001  the parent must not go on in this process's place
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    deadline = time.monotonic() + _AMPLE
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if (place is not None and place(study)) or time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)


def main(folder: str) -> None:
    """Make both, and say how each attempt ended."""
    pictures.find_browser = lambda: None  # pictures are tested by themselves
    texts_sha256()
    root = Path(folder)
    ends = {"straight": attempt(root / "straight", None)}
    ends |= {name: attempt(root / "killed", place) for name, place in PLACES.items()}
    ends["killed"] = attempt(root / "killed", None)
    print(json.dumps(ends))


if __name__ == "__main__":
    main(*sys.argv[1:])
