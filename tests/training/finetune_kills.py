"""Runs that are killed at random until one ends: ``python -m tests.training.finetune_kills FOLDER SEED METHOD...``.

This process imports everything once and trains nothing itself; each attempt is a fork of it.
"""

import gc
import json
import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path

warnings.simplefilter("ignore")

import torch

torch.set_num_threads(1)

from rank_lab.base_model import load_base
from rank_lab.demo import BASE
from tests.training.runs import run, text_data

_MOST_KILLS = 5  # the next attempt has all the time it needs, however slow the machine has become
_SAVE_AT = (1, 2, 3, 4, 5, 6, 7, 8, 9)


def attempt(method: str, out: Path, seconds: float | None) -> bool:
    """Whether an attempt came to its end before it was killed."""
    child = os.fork()
    if not child:
        try:
            run(
                out,
                method,
                max_steps=10,
                save_at=_SAVE_AT,
                per_device_train_batch_size=2,
                gradient_accumulation_steps=2,
            )
        except BaseException as error:  # noqa: BLE001  the parent must not go on in this process's place
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    deadline = None if seconds is None else time.monotonic() + seconds
    status = None
    while status is None:
        ended, status_now = os.waitpid(child, os.WNOHANG)
        if ended:
            status = status_now
        elif deadline is not None and time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
        else:
            time.sleep(0.002)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        sys.exit("an attempt failed")
    return os.WIFEXITED(status)


def main(folder: str, seed: str, *methods: str) -> None:
    load_base(BASE, "causal")  # what is compiled once is then shared
    text_data()
    gc.freeze()
    times, result = random.Random(int(seed)), {}
    for method in methods:
        start = time.monotonic()
        attempt(method, Path(folder) / method / "straight", None)
        whole = time.monotonic() - start
        limits = [times.uniform(0.2 * whole, 0.8 * whole) for _ in range(_MOST_KILLS)]
        killed = Path(folder) / method / "killed"
        result[method] = next(count for count, limit in enumerate([*limits, None]) if attempt(method, killed, limit))
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
