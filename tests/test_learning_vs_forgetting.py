"""The study of learning and forgetting runs, is gone on with, and says no more than its runs allow."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd

from analyses.trade_off_arms import arms

ROOT = Path(__file__).parents[1]


def study(folder: Path, *further: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "analyses.learning_vs_forgetting", "--quick", "--no-picture"]
    return subprocess.run(
        [*command, "--study", str(folder), *further], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_the_study_runs_and_is_gone_on_with(tmp_path: Path) -> None:
    done = study(tmp_path)
    assert done.returncode == 0, done.stderr
    results = tmp_path / "quick" / "results"
    outcomes = pd.read_csv(results / "outcomes.csv")
    runs = {"full_lr0.0004_seed0", "lora-r4_lr0.002_seed0"}
    assert set(outcomes["run"]) == runs
    assert outcomes["reason"].isna().all()  # every checkpoint has both ranks and scores
    assert (outcomes["step"].max(), len(outcomes)) == (4, 2 * 4)
    last = outcomes[outcomes["step"] == 4].set_index("run")
    assert last.loc["lora-r4_lr0.002_seed0", "energy_rank_90"] <= 4 < last.loc["full_lr0.0004_seed0", "energy_rank_90"]
    assert last["cross_entropy_increase"].notna().all()
    learning = pd.read_csv(results / "learning.csv").set_index(["run", "step"])["learning"]
    assert (learning.xs(4, level="step") > 0).all()
    page = (results / "README.md").read_text(encoding="utf-8")
    assert "Nothing: with one seed there is no interval" in page
    made = json.loads((tmp_path / "quick" / "about.json").read_text(encoding="utf-8"))
    again = study(tmp_path)
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "quick" / "about.json").read_text(encoding="utf-8")) == made  # nothing was made anew
    assert (results / "README.md").read_text(encoding="utf-8") == page


def test_a_study_of_other_settings_is_not_mixed(tmp_path: Path) -> None:
    folder = tmp_path / "quick"
    folder.mkdir()
    (folder / "study.json").write_text(json.dumps({"base": "the demo's base", "steps": 99}), encoding="utf-8")
    done = study(tmp_path)
    assert done.returncode == 1
    assert "holds a study with other texts, arms, steps" in done.stderr


def test_arms_are_three_rates_each_and_sora_shrinks_as_far_in_any_number_of_steps() -> None:
    for steps in (60, 240):
        found = {arm.name: arm for arm in arms(steps)}
        assert {arm.method for arm in found.values()} == {"full", "lora", "sora"}
        assert {len(arm.learning_rates) for arm in found.values()} == {3}
        sora = found["sora-r32"].choices
        assert abs(sora.threshold * (sora.gate_lr or 0) * steps - 1.2) < 0.02
