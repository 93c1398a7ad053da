"""Runs in processes of their own: killed at any time, and two that share one run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rank_lab import RankReport
from rank_lab.training.loss_rows import read_losses
from tests.hub_server import ROOT
from tests.training.runs import assert_same, run, tensors, timeless, without_dropout

STEPS = 3


def test_a_run_that_is_killed_at_any_time_comes_to_the_same_bits(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.training.finetune_kills", str(tmp_path), "20261126", "adalora", "full"]
    told = subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert told.returncode == 0, told.stderr
    kills = json.loads(told.stdout.splitlines()[-1])
    assert min(kills.values()) >= 1, kills
    for method in kills:
        straight, killed = tmp_path / method / "straight", tmp_path / method / "killed"
        names = sorted(path.name for path in straight.glob("checkpoint-*"))
        assert len(names) == 10
        assert names == sorted(path.name for path in killed.glob("checkpoint-*"))
        for name in names:
            assert_same(straight / name, killed / name)
        assert timeless(read_losses(killed)) == timeless(read_losses(straight))


def test_two_processes_train_as_one_of_twice_the_batch(tmp_path: Path) -> None:
    options = {"max_steps": STEPS, "save_at": [], "optim": "sgd", "learning_rate": 0.1}
    methods = ("full", "adalora", "sora")
    launch = [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines",
        "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
    ]  # fmt: skip
    script = ["-m", "tests.training.shared_run", str(tmp_path), json.dumps(options), *methods]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    told = subprocess.run([*launch, *script], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr[-3000:]
    lines = [json.loads(line) for line in told.stdout.splitlines() if line.startswith("{")]
    assert sorted((line["process"], line["batch_size"]) for line in lines) == [(0, 4), (1, 4)]
    assert told.stdout.count("written: ") == told.stdout.count("validation loss") == 1
    assert told.stderr.count("step 2 of 2: training loss") == 1
    assert 2 in set(RankReport.load(tmp_path / "verb.rank").updates["step"])
    assert json.loads((tmp_path / "verb" / "training.json").read_text())["batch_size"] == 4
    for method in methods:
        one = run(tmp_path / f"{method}-one", without_dropout(method), per_device_train_batch_size=4, **options)
        rows = read_losses(tmp_path / method)
        assert [row.tokens for row in rows] == [row.tokens for row in one.losses]
        assert rows[-1].train_loss == pytest.approx(one.losses[-1].train_loss, rel=1e-5)
        for mine, theirs in zip(rows, one.losses, strict=True):
            assert mine.validation_loss == pytest.approx(theirs.validation_loss, rel=1e-5)
        first, second = (tensors(tmp_path / name / f"checkpoint-{STEPS}") for name in (f"{method}-one", method))
        assert first.keys() == second.keys()
        for name, value in first.items():
            assert torch.allclose(value.float(), second[name].float(), rtol=1e-4, atol=1e-6), name
        assert list((tmp_path / method).glob(f"checkpoint-{STEPS}/rng_state_*.pth"))
