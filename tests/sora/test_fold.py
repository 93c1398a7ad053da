"""Folding: the same outputs from an ordinary LoRA adapter, where rank_lab is not there."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from rank_lab import analyze
from rank_lab.errors import CheckpointError, NonFiniteError, RankLabError, UnsupportedUpdateError
from rank_lab.sora import fold, folding
from tests.checkpoints import rank_lab
from tests.sora.adapters import (
    KINDS,
    TASKS,
    adapted,
    as_trained,
    base_model,
    fresh_process,
    logits,
    patterns,
    settings,
    tokens,
)

SHUT = {"llama": ["layers.0.self_attn.v_proj"], "gpt2": ["h.0.mlp.c_proj"], "bert": ["layer.0.attention.self.value"]}
WITHOUT_US = """
import sys, torch, peft, transformers
root = sys.argv[1]
for name, task in (case.split('=') for case in sys.argv[2:]):
    kind = {'CAUSAL_LM': 'AutoModelForCausalLM', 'SEQ_CLS': 'AutoModelForSequenceClassification'}[task]
    base = getattr(transformers, kind).from_pretrained(f'{root}/{name}/base')
    ids, expected = torch.load(f'{root}/{name}/io.pt')
    model = peft.PeftModel.from_pretrained(base, f'{root}/{name}/folded').eval()
    ranks = sorted({value.shape[0] for key, value in model.named_parameters() if 'lora_A' in key})
    with torch.no_grad():
        difference = float((model(input_ids=ids).logits - expected).abs().max())
        merged = float((model.merge_and_unload()(input_ids=ids).logits - expected).abs().max())
    print(name, difference < 2e-5, merged < 2e-5, *ranks)
assert 'rank_lab' not in sys.modules
"""


def saved(folder: Path, kind: str, **options: Any) -> Any:
    base = base_model(kind)
    base.save_pretrained(folder / "base")
    base = type(base).from_pretrained(folder / "base")
    model = as_trained(get_peft_model(base, settings(kind, **patterns(kind) | options)), shut=SHUT[kind])
    if kind == "bert":  # a trained classifier travels along
        torch.nn.init.normal_(model.base_model.model.classifier.modules_to_save["default"].weight)
    model.save_pretrained(folder / "sora")
    return model


def test_folded_adapters_load_without_rank_lab(tmp_path: Path) -> None:
    for kind in KINDS:
        model = saved(tmp_path / kind, kind, alpha_pattern={SHUT[kind][0].rsplit(".", 1)[-1]: 5})
        torch.save((tokens(), logits(model)), tmp_path / kind / "io.pt")
        report = fold(tmp_path / kind / "sora", tmp_path / kind / "folded", model=tmp_path / kind / "base")
        assert set(report.ranks.values()) == {3, 2}
        assert len(report.left_out) == 1
        assert SHUT[kind][0] in report.left_out[0]
        assert report.relative_difference < 1e-6
        assert report.model_difference is not None
        assert report.model_difference < 2e-5
        assert json.loads((tmp_path / kind / "folded" / "fold.json").read_text())["ranks"] == report.ranks
    printed = fresh_process(WITHOUT_US, tmp_path, *(f"{kind}={TASKS[kind]}" for kind in KINDS)).splitlines()
    assert printed == [f"{kind} True True 2 3" for kind in KINDS]


def test_both_have_the_same_spectra(tmp_path: Path) -> None:
    saved(tmp_path, "llama")
    fold(tmp_path / "sora", tmp_path / "folded")
    before, after = (analyze(tmp_path / name).updates.set_index("module") for name in ("sora", "folded"))
    assert set(before.index) - set(after.index) == {f"model.{SHUT['llama'][0]}"}
    for module, row in after.iterrows():
        assert row["numerical_rank"] == row["rank_bound"] == before.loc[module, "numerical_rank"]
        assert row["nuclear_norm"] == pytest.approx(before.loc[module, "nuclear_norm"], rel=1e-6)


def test_the_command(tmp_path: Path) -> None:
    saved(tmp_path, "llama")
    done = rank_lab("fold", tmp_path / "sora", "-o", tmp_path / "folded", "--model", tmp_path / "base")
    assert done.code == 0, done.err
    assert "5 modules of rank 2 to 3, 1 left out" in done.out
    assert "outputs of the model on a batch" in done.out
    again = rank_lab("fold", tmp_path / "sora", "-o", tmp_path / "folded")
    assert again.code == 2
    assert "new or empty folder" in again.err
    as_json = rank_lab("fold", tmp_path / "sora", "-o", tmp_path / "more", "--json")
    assert json.loads(as_json.out)["model_difference"] is None


def test_another_base_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, "llama")
    base_model("gpt2").save_pretrained(tmp_path / "gpt2")
    done = rank_lab("fold", tmp_path / "sora", "-o", tmp_path / "folded", "--model", tmp_path / "gpt2")
    assert done.code == 2
    assert "does not fit GPT2LMHeadModel" in done.err
    assert not (tmp_path / "folded").exists()
    absent = rank_lab("fold", tmp_path / "sora", "-o", tmp_path / "folded", "--model", tmp_path / "absent")
    assert absent.code == 2
    assert "cannot be loaded as the base model" in absent.err
    with pytest.raises(RankLabError, match="no vocabulary"):
        fold(tmp_path / "sora", tmp_path / "folded", model=torch.nn.Linear(2, 2))


def test_another_methods_adapter_is_refused(tmp_path: Path) -> None:
    config = LoraConfig(r=2, target_modules=["q_proj"])
    get_peft_model(base_model("llama"), config).save_pretrained(tmp_path / "lora")
    done = rank_lab("fold", tmp_path / "lora", "-o", tmp_path / "folded")
    assert done.code == 2
    assert "peft_type 'LORA'" in done.err
    with pytest.raises(CheckpointError, match="expects a SoRA adapter"):
        fold(tmp_path / "lora", tmp_path / "folded")


def test_all_gates_zero_is_refused(tmp_path: Path) -> None:
    as_trained(adapted("llama"), shut=[""]).save_pretrained(tmp_path / "sora")
    with pytest.raises(UnsupportedUpdateError, match="all gates of all 6 modules are zero"):
        fold(tmp_path / "sora", tmp_path / "folded")
    assert not (tmp_path / "folded").exists()


def test_a_damaged_adapter_is_refused(tmp_path: Path) -> None:
    as_trained(adapted("llama")).save_pretrained(tmp_path / "sora")
    file = tmp_path / "sora" / "adapter_model.safetensors"
    tensors = load_file(file)
    next(value for name, value in tensors.items() if "lora_gate" in name)[0] = float("nan")
    save_file(tensors, file)
    with pytest.raises(NonFiniteError, match="lora_gate"):
        fold(tmp_path / "sora", tmp_path / "folded")


def test_trained_biases_are_refused(tmp_path: Path) -> None:
    as_trained(adapted("llama", bias="lora_only")).save_pretrained(tmp_path / "sora")
    with pytest.raises(UnsupportedUpdateError, match="bias='lora_only'"):
        fold(tmp_path / "sora", tmp_path / "folded")


def test_a_fold_that_changes_outputs_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The naive fold, which keeps lora_alpha while ranks fall, is found out by the batch."""
    saved(tmp_path, "llama")
    right = folding._plain_config
    monkeypatch.setattr(
        folding, "_plain_config", lambda *given: right(*given) | {"lora_alpha": 12, "alpha_pattern": {}}
    )
    with pytest.raises(RankLabError, match="outputs differ"):
        fold(tmp_path / "sora", tmp_path / "folded", model=tmp_path / "base")
    assert not (tmp_path / "folded").exists()
