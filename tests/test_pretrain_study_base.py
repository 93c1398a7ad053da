"""The studies' base: a training that was stopped comes to the same, and baselines are what they are called."""

import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from analyses import pretrain_study_base as base
from analyses.machine import ONE_THREAD
from analyses.study_base_text import Source, texts_sha256
from analyses.token_ngrams import Ngrams, compressed_bits
from rank_lab.errors import RankLabError

PROSE = tuple(f"The {one} saw the {other} in the dark, and said nothing of it to the {one}.\n" * 4
              for one in ("king", "fox", "miller") for other in ("crow", "queen", "thief", "river"))  # fmt: skip


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few texts, on one thread."""
    sources = {"tales": Source("tales", PROSE[:9], PROSE[9:])}
    monkeypatch.setattr(base, "prose_sources", lambda data: sources)
    monkeypatch.setattr(
        base, "target_texts", lambda data: {"python": Source("python", (), ("def f(x):\n    return x\n" * 9,))}
    )
    for name, value in ONE_THREAD.items():
        monkeypatch.setenv(name, value)


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *further: str) -> None:
    monkeypatch.setattr(
        sys, "argv", ["pretrain_study_base.py", "--quick", "--no-picture", "--study", str(folder), *further]
    )
    base.main()


def test_a_training_that_was_stopped_comes_to_the_same(
    texts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(monkeypatch, tmp_path / "whole")
    loss, steps = base.batch_loss, []

    def stopped(model: Any, batch: torch.Tensor) -> torch.Tensor:
        steps.append(len(steps))
        if len(steps) == 7:  # three measurements are among these
            raise KeyboardInterrupt
        return loss(model, batch)

    monkeypatch.setattr(base, "batch_loss", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, tmp_path / "stopped")
    folder = tmp_path / "stopped" / "quick"
    assert (folder / "state.pt").is_file()
    with pytest.raises(RankLabError, match="no base is there, or it is not complete; make it with"):
        base.study_base(folder)
    monkeypatch.setattr(base, "batch_loss", loss)
    run(monkeypatch, tmp_path / "stopped")
    assert base.study_base(folder) == folder
    one, other = ((tmp_path / name / "quick" / "model.safetensors").read_bytes() for name in ("whole", "stopped"))
    assert one == other
    results = tmp_path / "stopped" / "quick" / "results"
    held_out = pd.read_csv(results / "held_out.csv").set_index(["text", "predictor"])
    assert set(held_out.index.get_level_values("predictor")) == {"base", "1-gram", "2-gram", "3-gram", "5-gram", "xz"}
    row = held_out.loc[("tales", "base")]
    assert row["bits_per_byte"] == pytest.approx(
        row["nats_per_token"] * row["tokens"] / np.log(2) / row["bytes"], rel=1e-4
    )
    page = (results / "README.md").read_text(encoding="utf-8")
    assert "better than none; worse than" in page  # after six steps it has learned little
    (results / "README.md").unlink()
    run(monkeypatch, tmp_path / "stopped", "--redraw")
    assert (results / "README.md").read_text(encoding="utf-8") == page


def test_another_seed_needs_another_folder(
    texts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path, "--seeds", "0", "1")
    assert "a base has one" in capsys.readouterr().err


def test_an_epoch_shows_every_window_once() -> None:
    size = base.Size(context=4, batch=3)
    tokens = torch.arange(4 * 20)
    windows = (len(tokens) - 1) // 4 - 1
    seen = torch.cat([base.batch_of(tokens, step, size, seed=1) for step in range(windows // 3)])
    starts = seen[:, 0]
    assert len(set(starts.tolist())) == len(starts) == windows // 3 * 3
    assert len(set((starts % 4).tolist())) == 1  # the epoch's own shift
    assert (seen.diff(dim=1) == 1).all()
    assert not torch.equal(base.batch_of(tokens, 0, size, seed=1), base.batch_of(tokens, windows // 3, size, seed=1))


def test_the_rate_rises_and_falls_to_nothing() -> None:
    size = base.Size(steps=100, warmup=10, learning_rate=1.0)
    assert [base.rate_of(step, size) for step in (0, 9, 10, 55, 99)] == pytest.approx([0.1, 1.0, 1.0, 0.5, 1 / 90])


@pytest.mark.parametrize("order", [1, 2, 3])
def test_ngrams_are_distributions(order: int) -> None:
    tokens = np.random.default_rng(0).zipf(1.5, 400) % 6
    model = Ngrams(tokens, order, 6)
    for context in ([0] * (order - 1), [5] * (order - 1), tokens[: order - 1].tolist()):
        shares = [np.exp(model.log_probabilities(np.array([*context, token])))[0] for token in range(6)]
        assert sum(shares) == pytest.approx(1.0)
        assert min(shares) > 0


def test_bigrams_are_those_of_kneser_and_ney() -> None:
    text = [0, 1, 0, 2, 0, 1, 3, 1, 0, 1]
    found = np.exp(Ngrams(np.array(text), 2, 4).log_probabilities(np.array([0, 1])))[0]
    counts = Counter(pairwise(text))
    once, twice = (sum(count == times for count in counts.values()) for times in (1, 2))
    discount = once / (once + 2 * twice)
    before = Counter(second for _, second in counts)  # how many different tokens come before each
    ones, twos = (sum(count == times for count in before.values()) for times in (1, 2))
    below = ones / (ones + 2 * twos)
    unigram = (before[1] - below) / len(counts) + below * len(before) / len(counts) / 4
    total = sum(count for (first, _), count in counts.items() if first == 0)
    types = sum(first == 0 for first, _ in counts)
    assert found == pytest.approx((counts[0, 1] - discount + discount * types * unigram) / total)


def test_a_text_that_is_known_costs_few_bits() -> None:
    known = bytes(np.random.default_rng(0).integers(0, 256, 4000, dtype=np.uint8))
    new = bytes(np.random.default_rng(1).integers(0, 256, 4000, dtype=np.uint8))
    assert compressed_bits(known, known) < 0.05 * 8 * 4000 < 0.99 * 8 * 4000 < compressed_bits(known, new)


def test_the_hash_of_texts_tells_training_from_held_out() -> None:
    one, other = Source("a", ("x", "y"), ()), Source("a", ("x",), ("y",))
    assert texts_sha256([one]) != texts_sha256([other])
