"""What extract writes, loaded by PEFT: the outputs and weights are those of the tuned model."""

from pathlib import Path
from typing import Any

import pytest
import torch

from rank_lab.extraction import RankChoice, extract
from rank_lab.extraction_report import Extraction
from tests.peft_models import lora, small, trained
from tests.test_extract import deltas, low_rank


def test_peft_loads_a_llama_and_gives_its_outputs(tmp_path: Path, generator: torch.Generator) -> None:
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    made = _round_trip(transformers.LlamaForCausalLM(config), tmp_path, generator)
    assert {one.kind for one in made.modules} == {"linear", "embedding"}
    assert {one.name for one in made.left_out} == set()
    _assert_same_outputs(peft, transformers.AutoModelForCausalLM, tmp_path)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to True but the target module is:UserWarning")
def test_peft_loads_a_gpt2_whose_weights_lie_transposed(tmp_path: Path, generator: torch.Generator) -> None:
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    config = transformers.GPT2Config(
        vocab_size=50, n_positions=16, n_embd=24, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    made = _round_trip(transformers.GPT2LMHeadModel(config), tmp_path, generator)
    assert {one.kind for one in made.modules} == {"conv1d", "embedding"}
    reasons = {one.name: one.reason for one in made.left_out}
    assert "output head is tied to it" in reasons["transformer.wte"]
    _assert_same_outputs(peft, transformers.AutoModelForCausalLM, tmp_path)


def _round_trip(model: Any, folder: Path, generator: torch.Generator) -> Extraction:
    """A base, and it with a change of rank 3 in every matrix but a tied embedding; the LoRA of that change."""
    model.save_pretrained(folder / "base")
    tied = model.config.tie_word_embeddings
    with torch.no_grad():
        for name, value in model.named_parameters():
            if tied and "wte" in name:
                value.add_(1e-6)
            elif value.ndim == 2:
                value.add_(low_rank(generator, tuple(value.shape), 3, size=0.05))
    model.save_pretrained(folder / "tuned")
    return extract(folder / "tuned", folder / "base", folder / "lora", RankChoice(rank=3))


def _assert_same_outputs(peft: Any, loader: Any, folder: Path) -> None:
    tokens = torch.arange(24).reshape(2, 12)
    base, tuned = (loader.from_pretrained(folder / name).eval() for name in ("base", "tuned"))
    with torch.no_grad():
        before = base(tokens).logits
        adapted = peft.PeftModel.from_pretrained(base, folder / "lora").eval()
        wanted, found = tuned(tokens).logits, adapted(tokens).logits
    ranks = {layer.r["default"] for layer in adapted.modules() if hasattr(layer, "lora_A")}
    assert ranks == {3}
    assert float((wanted - before).abs().max()) > 0.05
    torch.testing.assert_close(found, wanted, atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    ("options", "model", "rank"),
    [
        ({"use_dora": True}, "llama", 32),  # the magnitudes make it full rank
        ({"use_rslora": True, "rank_pattern": {"v_proj": 2}}, "llama", 4),
        ({"target_modules": ["embed_tokens", "q_proj"]}, "llama", 4),
        ({"target_modules": ["c_attn", "wte"], "fan_in_fan_out": True}, "gpt2", 4),
    ],
    ids=["dora", "rslora", "embedding", "conv1d"],
)
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
@pytest.mark.filterwarnings("ignore:Model with `tie_word_embeddings=True`:UserWarning")
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
def test_any_adapter_becomes_a_plain_lora_that_peft_merges_to_the_same_weights(
    tmp_path: Path, options: dict[str, Any], model: str, rank: int
) -> None:
    from peft import PeftModel

    base = small(model)
    before, after = trained(tmp_path, lora(**options), base)
    made = extract(tmp_path / "adapter", tmp_path / "base", tmp_path / "lora", RankChoice(rank=rank))
    assert made.relative_error < 1e-5
    with torch.no_grad():
        fresh = small(model).double()
        fresh.load_state_dict(before)
        adapted = PeftModel.from_pretrained(fresh, tmp_path / "lora").double()
    found = deltas(tmp_path / "lora")
    layers = {n.removeprefix("base_model.model."): m for n, m in adapted.named_modules() if hasattr(m, "lora_A")}
    assert set(layers) == set(found) == {one.path for one in made.modules}
    for path, layer in layers.items():
        wanted = after[f"{path}.weight"] - before[f"{path}.weight"]
        delta = layer.get_delta_weight("default")
        assert float((delta - wanted).norm() / wanted.norm()) < 2e-5
