"""One process of a shared run: ``accelerate launch -m tests.training.shared_run FOLDER OPTIONS METHOD...``."""

import json
import sys
import warnings
from pathlib import Path

warnings.simplefilter("ignore")

import torch

torch.set_num_threads(1)

from tests.training.runs import run, without_dropout


def main(folder: str, options: str, *methods: str) -> None:
    sizes = set()
    for method in methods:
        given = json.loads(options)
        done = run(Path(folder) / method, without_dropout(method), per_device_train_batch_size=2, **given)
        sizes.add(done.record.batch_size)
    (size,) = sizes
    print(json.dumps({"process": torch.distributed.get_rank(), "batch_size": size}), flush=True)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
