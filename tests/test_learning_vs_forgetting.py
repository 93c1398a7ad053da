"""The study of learning and forgetting runs, is gone on with, and says no more than its runs allow."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analyses import learning_vs_forgetting as study
from analyses.machine import ONE_THREAD
from analyses.trade_off_arms import ARMS, QUICK_ARMS, arm_named, choices_of
from analyses.trade_off_claims import OPEN, OPPOSITE, SEEN, claims
from analyses.trade_off_losses import losses_of, mean_loss
from analyses.trade_off_pairs import compared
from analyses.trade_off_tables import tables
from analyses.trade_off_texts import PROSE, Documents

CODE = "def add(first, second):\n    return first + second\n\n\n"
PROBLEM = ["If one has two apples and buys three, how many are there?\n", "There are 2+3=5 apples.\n#### 5"]
TALE = "It was a dark night, and nobody in the old house could sleep before the storm was over. "


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a finished ``--quick``, on texts that are there already."""
    folder = tmp_path_factory.mktemp("study")
    texts = {
        "training": {"python": [{"text": CODE * 6}] * 4, "maths": [{"question": PROBLEM[0], "answer": PROBLEM[1]}] * 8},
        "choose": {"python": [[CODE * 4]] * 2, "maths": [PROBLEM] * 2},
        "report": {"python": [[CODE * 2], [CODE]], "maths": [PROBLEM] * 2},
        "prose": {name: [[TALE], [TALE * 2]] for name in PROSE},
        "sha256": "0" * 64,
    }  # fmt: skip
    (folder / "quick").mkdir()
    (folder / "quick" / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ONE_THREAD.items():
            patch.setenv(name, value)
        patch.setattr(
            sys,
            "argv",
            ["learning_vs_forgetting.py", "--quick", "--workers", "1", "--no-picture", "--study", str(folder)],
        )
        study.main()
        yield folder / "quick"


def test_a_study_comes_to_tables_of_every_checkpoint(quick: Path) -> None:
    results = quick / "results"
    runs = pd.read_csv(results / "runs.csv")
    assert set(runs["arm"]) == {arm.name for arm in QUICK_ARMS}
    assert runs.groupby(["target", "arm"])["step"].apply(list).tolist() == [[2, 4]] * 6
    ranked = runs[runs["arm"] != "series-64"]
    assert ranked["energy_rank_90"].notna().all()
    assert runs.loc[runs["arm"] == "series-64", "energy_rank_90"].isna().all()  # it changes no weight
    last = ranked[ranked["step"] == 4].set_index(["target", "arm"])["energy_rank_90"].unstack()
    assert (last["lora-r16-all"] <= 16).all()
    assert (last["full"] > last["lora-r16-all"]).all()
    assert (runs.loc[runs["step"] == 4, "learned"] > 0).all()
    ends = pd.read_csv(results / "curves.csv").query("step == 4").set_index(["target", "arm"])
    assert (ends.loc[["python", "maths"]].xs("full", level="arm")["directions"] == 10 * 28).all()
    page = (results / "README.md").read_text(encoding="utf-8")
    assert "with one seed there is no interval" in page
    assert "| LoRA of low rank learns less than full fine-tuning | 2405.09673 | not testable with one seed |" in page


def test_pages_are_told_from_the_kept_tables_alone_and_nothing_is_done_twice(
    quick: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = quick / "results" / "README.md"
    told = page.read_text(encoding="utf-8")
    cells = {file: file.stat().st_mtime_ns for file in (quick / "cells").glob("*.json")}
    options = study.parsed(["--quick"])
    options.study = quick
    study.make(options)
    assert {file: file.stat().st_mtime_ns for file in (quick / "cells").glob("*.json")} == cells
    page.unlink()
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--redraw", "--out", str(quick / "results")])
    monkeypatch.setattr(study, "make", None)
    study.main()
    assert page.read_text(encoding="utf-8") == told


def test_another_base_is_refused(
    quick: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"other")
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--base", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        study.main()
    assert stopped.value.code == 2
    assert "of another configuration (base differ)" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--base", str(tmp_path / "none")])
    with pytest.raises(SystemExit):
        study.main()
    assert "make it with python -m analyses.pretrain_study_base" in capsys.readouterr().err


def test_arms_have_equal_effort_and_sora_shrinks_as_far_in_any_number_of_steps() -> None:
    assert {len(arm.rates) for arm in ARMS} == {4}
    assert {later / earlier for arm in ARMS for earlier, later in zip(arm.rates, arm.rates[1:], strict=False)} == {4.0}
    for steps in (60, 240):
        sora = choices_of(arm_named("sora-r64"), steps)
        assert abs(sora.threshold * (sora.gate_lr or 0) * steps - 1.2) < 0.02


def row(arm: str, seed: int, step: int, learned: float, forgotten: float, part: str = "run") -> dict[str, object]:
    """A checkpoint that learned and forgot so much of a base at 4 nats a token, on each of ten texts of a token."""
    losses = {"report": {"losses": [4.0 - learned] * 10, "tokens": [1] * 10}}
    losses |= {name: {"losses": [4.0 + forgotten] * 10, "tokens": [1] * 10} for name in PROSE}
    found = {"target": "python", "arm": arm, "rate": 0.001 if arm == "full" else 0.004, "seed": seed, "part": part}
    found |= {"step": step, "parameters": 7.0, "losses": losses, "energy_rank_90": 8.0, "null_energy_rank_90": 9.0}
    found |= {"loss_choose": 4.0 - learned, "loss_report": 4.0 - learned, "loss_prose": 4.0 + forgotten}
    return found | {f"loss_{name}": 4.0 + forgotten for name in PROSE}


def study_rows() -> pd.DataFrame:
    """LoRA learns half of what full does, and forgets a quarter of it; seeds differ by a hundredth."""
    rows = [row("base", 0, 0, 0.0, 0.0)]
    for seed in range(3):
        apart = 0.01 * seed
        for arm, learned, forgotten in (("full", 1.0, 0.8), ("lora-r16-all", 0.5, 0.2), ("lora-r256-all", 0.5, 0.2)):
            rows.append(row(arm, seed, 32, learned / 2 + apart, forgotten / 4, part="along"))
            rows.append(row(arm, seed, 64, learned + apart, forgotten + apart))
    return pd.DataFrame(rows)


ARMS_HERE = [arm_named(name) for name in ("full", "lora-r16-all", "lora-r256-all")]


def test_planted_differences_are_found_with_their_intervals() -> None:
    found = tables(study_rows(), ARMS_HERE)
    pairs = found["pairs"].set_index(["first", "second", "what"])
    apart = pairs.loc[("lora-r16-all", "full", "forgotten")]
    assert apart["difference"] == pytest.approx(-0.6)
    assert apart["low"] == pytest.approx(apart["high"]) == pytest.approx(-0.6)  # paired: what seeds share falls out
    ends = found["curves"].query("step == 64").set_index("arm")
    mean, half = 0.81, 4.302653 * 0.01 / np.sqrt(3)  # Student's with two degrees of freedom
    assert ends.loc["full", ["forgotten", "forgotten_low", "forgotten_high"]].tolist() == pytest.approx(
        [mean, mean - half, mean + half], rel=1e-6
    )
    assert set(found["settings"].query("chosen")["rate"]) == {0.001, 0.004}


def test_equal_learning_is_read_off_curves_and_never_beyond_them() -> None:
    found = tables(study_rows(), ARMS_HERE)["equal_learning"].set_index(["arm", "share"])
    most = 1.01
    assert found["at_learned"].loc[("full", 1.0)] == pytest.approx(most)
    at_half = found.loc[("full", 0.5)]
    expected = [np.interp(most / 2, [0, 0.5 + seed, 1 + seed], [0, 0.2, 0.8 + seed]) for seed in (0.0, 0.01, 0.02)]
    assert at_half["forgotten"] == pytest.approx(np.mean(expected))
    assert (found.loc[("lora-r16-all", 1.0), ["reached", "seeds"]] == [0, 3]).all()
    assert np.isnan(found.loc[("lora-r16-all", 1.0), "forgotten"])
    assert found.loc[("lora-r16-all", 0.25), "than_full"] < 0.06


def test_claims_say_what_the_tables_say() -> None:
    def verdicts(rows: pd.DataFrame) -> dict[str, str]:
        maths = rows.assign(target="maths")
        both = tables(pd.concat([rows, maths], ignore_index=True), ARMS_HERE)
        return {claim.text: next(iter(claim.verdicts.values())) for claim in claims(both)}

    found = verdicts(study_rows())
    assert found["LoRA of low rank learns less than full fine-tuning"] == SEEN
    assert found["LoRA of low rank forgets less than full fine-tuning"] == SEEN
    assert found["low rank forgets less than high rank"] == OPEN  # they are equal
    assert found["more training forgets more"] == SEEN
    assert found["HumanEval and GSM8K accuracy of LoRA stay behind"] == "not testable at this size"
    swapped = study_rows().replace({"arm": {"full": "lora-r16-all", "lora-r16-all": "full"}})
    assert verdicts(swapped)["LoRA of low rank learns less than full fine-tuning"] == OPPOSITE


def test_only_what_is_there_is_compared() -> None:
    assert list(compared(["full", "lora-r16-all"])) == [("lora-r16-all", "full")]
    every = list(compared([arm.name for arm in ARMS]))
    assert len(every) == len(set(every))
    assert ("lora-r256-all", "lora-r16-all") in every


def test_of_a_problem_only_the_solution_is_scored() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from rank_lab.demo import BASE

    model, tokenizer = AutoModelForCausalLM.from_pretrained(BASE), AutoTokenizer.from_pretrained(BASE)
    problem = Documents("report", (tuple(PROBLEM),))
    found = losses_of(model, tokenizer, [problem], 128)["report"]
    question, answer = (tokenizer(part)["input_ids"] for part in PROBLEM)
    ids = [*question, *answer, tokenizer.eos_token_id]
    assert found["tokens"] == [len(answer) + 1]
    import torch

    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = -sum(float(logits[place - 1, ids[place]]) for place in range(len(question), len(ids)))
    assert found["losses"][0] == pytest.approx(expected, abs=1e-3)
    assert mean_loss([found]) == pytest.approx(expected / len(found["tokens"]) / (len(answer) + 1), abs=1e-3)
