"""The study of places runs on a small model from its cells to its page, and goes on where it was stopped."""

import argparse
import json
from pathlib import Path

import pandas as pd
import pytest

from analyses import adapter_placement
from analyses.adapter_placement import Sizes, keep, make, tell
from rank_lab.demo import BASE
from rank_lab.demo.task_files import Texts

SMALL = Sizes(("series",), ("mlp",), (2,), (1e-3, 1e-2, 3e-2), 2, 2, 16, None, 4)


def texts(folder: Path, sizes: Sizes) -> Texts:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"text": f"def area_{i}(x, y):\n    return x * y + {i}\n" * 3}) + "\n" for i in range(12)]
    for name in ("train", "validation", "code", "prose"):
        (folder / f"{name}.jsonl").write_text("".join(lines[: sizes.pieces if name != "train" else None]))
    return Texts(folder, folder / "code.jsonl", folder / "prose.jsonl", "0")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_from_cells_to_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter_placement, "_texts", texts)
    monkeypatch.setattr("rank_lab.demo.task_files.texts_sha256", lambda: "0")
    options = argparse.Namespace(
        base=BASE, study=tmp_path, out=tmp_path / "results", sizes=SMALL, seeds=[0, 1], device="cpu"
    )
    kept_run = tmp_path / "work" / "series-mlp-2" / "lr0.03-seed0.json"
    kept_run.parent.mkdir(parents=True)
    row = {"rate": 3e-2, "seed": 0, "choice_loss": 9.0, "report_loss": 9.0, "train_loss": 9.0, "parameters": 1}
    kept_run.write_text(json.dumps(row))  # of a cell that was stopped: not trained again
    stopped = kept_run.parent / "lr0.01-seed0" / "checkpoint-2"  # after its training, before it was measured
    stopped.mkdir(parents=True)
    (stopped.parent / "training.json").write_text("{}")
    make(options)
    keep(options)
    runs = pd.read_csv(options.out / "runs.csv")
    first = runs[runs["seed"] == 0].set_index("rate")
    assert first.index.tolist() == [1e-3, 1e-2, 3e-2]
    assert first.loc[3e-2, "report_loss"] == 9.0
    best = first["choice_loss"].idxmin()
    assert runs[runs["chosen"]]["rate"].tolist() == [best, best]
    assert runs[runs["chosen"]]["seed"].tolist() == [0, 1]
    assert first.loc[best, "parameters"] == 4 * (2 * 2 * 128 + 2 + 128)  # layers x (down and up, with biases)
    base = pd.read_csv(options.out / "base.csv").iloc[0]
    assert first.loc[best, "choice_loss"] < base["choice_loss"]  # it has learned
    assert base["choice_loss"] != base["report_loss"]  # two halves
    assert not list(tmp_path.glob("work/*/lr*-seed?/checkpoint-*"))
    tell(options.out, False)
    page = (options.out / "README.md").read_text(encoding="utf-8")
    assert f"the base's is {base['report_loss']:.3f}" in page
    assert "2 steps of 2 x 16 tokens (64 in all)" in page
