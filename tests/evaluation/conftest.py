"""A run of two checkpoints, and a text."""

import json
from pathlib import Path

import pytest

from tests.evaluation.evaluated import LORA
from tests.evaluation.models import TEXTS, adapter


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for step in (5, 10):
        adapter(tmp_path / "lora" / f"checkpoint-{step}", LORA, seed=step)
    return tmp_path / "lora"


@pytest.fixture
def texts(tmp_path: Path) -> str:
    file = tmp_path / "talk.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return f"talk={file}"
