"""Costs at a shape: bytes are those of its tensors, and every arm is timed beside full fine-tuning."""

from pathlib import Path

import pytest

from analyses.kept_results import kept
from analyses.llama_step_cost import make, page
from analyses.lora_rank_arms import QUICK
from analyses.study_options import study_parser


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = study_parser("Cost.", "llama_step_cost").parse_args(["--quick"])
    options.out = tmp_path_factory.mktemp("results")
    make(options)
    return Path(options.out)


def test_bytes_are_those_of_the_shape(results: Path) -> None:
    memory = kept(results).tables["memory"].set_index("arm")
    width, mlp, layers, vocabulary, heads = 128, 256, 2, 512, 64
    layer = 2 * width * width + 2 * heads * width + 3 * width * mlp + 2 * width  # one head of keys and values
    whole = vocabulary * width + layers * layer + width  # one matrix for both embeddings
    full = memory.loc["full"]
    assert (full["trained_parameters"], full["frozen_parameters"]) == (whole, 0)
    assert full["gradient_bytes"] == full["weight_bytes"] == 4 * whole
    qv = memory.loc["qv-r8"]
    assert qv["trained_parameters"] == layers * 8 * (2 * width + width + heads)
    assert qv["frozen_parameters"] == whole
    assert qv["gradient_bytes"] == 4 * qv["trained_parameters"]


def test_every_arm_is_timed_and_told(results: Path) -> None:
    found = kept(results)
    arms = [arm.name for arm in QUICK.timed()]
    speed = found.tables["speed"]
    assert speed.groupby("arm").size().to_dict() == dict.fromkeys(arms, found.about["settings"]["rounds"])
    assert (speed.loc[speed["arm"] == "full", "ratio"] == 1).all()
    text = page(found)
    assert all(f"| {arm} |" in text for arm in arms)
    assert "peak of a step" not in text  # a GPU alone knows it
