"""One process of a shared run: ``accelerate launch -m tests.training.shared_run FOLDER OPTIONS METHOD...``."""

import json
import sys
import warnings
from pathlib import Path

warnings.simplefilter("ignore")

import torch

torch.set_num_threads(1)

from rank_lab.demo import BASE
from rank_lab.training.finetune_choices import Adaptation, DataChoices, TrainingChoices
from rank_lab.training.finetune_command import finetune_and_print
from tests.training.runs import run, sentences, without_dropout


def main(folder: str, options: str, *methods: str) -> None:
    sizes = set()
    for method in methods:
        given = json.loads(options)
        done = run(Path(folder) / method, without_dropout(method), per_device_train_batch_size=2, **given)
        sizes.add(done.record.batch_size)
    verb(Path(folder))
    (size,) = sizes
    print(json.dumps({"process": torch.distributed.get_rank(), "batch_size": size}), flush=True)
    torch.distributed.destroy_process_group()


def verb(folder: Path) -> None:
    """What the command line does, of which one process alone prints."""
    rows = "".join(json.dumps(row) + "\n" for row in sentences(8))
    data = folder / f"data-{torch.distributed.get_rank()}"
    data.mkdir()
    for name in ("train", "validation"):
        (data / f"{name}.jsonl").write_text(rows, encoding="utf-8")
    finetune_and_print(
        DataChoices(str(BASE), data=data, text_columns=("said",)), Adaptation("lora", rank=2),
        TrainingChoices(steps=2, batch_size=2), folder / "verb", track_at="2",
    )  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
