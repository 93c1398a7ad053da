"""Which modules a choice of targets means, in models of other names and layouts, and what is refused."""

from collections import Counter
from typing import Any

import pytest
import torch
import transformers as hf

from rank_lab.errors import PairingError, RankLabError, UnsupportedUpdateError
from rank_lab.training.heads import new_heads
from rank_lab.training.method import MethodChoices
from rank_lab.training.methods import METHODS
from rank_lab.training.sublayers import output_projections
from rank_lab.training.targets import chosen_targets
from rank_lab.training.virtual_tokens import layers_of
from tests.peft_models import small
from tests.training.models import LAYERS, Model, fresh, logits

WORDS = {"vocab_size": 60, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 0}


def t5() -> Model:
    config = hf.T5Config(**WORDS, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0)
    return hf.T5ForConditionalGeneration(config)


def deberta() -> Model:
    config = hf.DebertaV2Config(
        vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_labels=3
    )
    return hf.DebertaV2ForSequenceClassification(config)


def kinds(model: Model, targets: str, **options: Any) -> Counter[str]:
    return Counter(target.kind for target in chosen_targets(model, targets, **options))


@pytest.mark.parametrize(
    ("architecture", "attention", "mlp"),
    [
        ("llama", ("q", "k", "v", "o"), ("gate", "up", "down")),
        ("gpt2", ("qkv", "o"), ("up", "down")),
        ("bert", ("q", "k", "v", "o"), ("up", "down")),
        ("roberta", ("q", "k", "v", "o"), ("up", "down")),
    ],
)
def test_places_mean_the_same_in_every_model(
    architecture: str, attention: tuple[str, ...], mlp: tuple[str, ...]
) -> None:
    model = fresh(architecture, "masked" if "bert" in architecture else "causal")
    for place, wanted in (("attention", attention), ("mlp", mlp), ("all", attention + mlp)):
        assert kinds(model, place) == dict.fromkeys(wanted, LAYERS)


def test_encoder_and_decoder_count_with_cross_attention() -> None:
    assert kinds(t5(), "attention") == dict.fromkeys("qkvo", 3 * 2)
    assert kinds(t5(), "mlp") == {"up": 4, "down": 4}


def test_embeddings_and_head_are_an_option() -> None:
    model = fresh("llama", "causal")
    assert kinds(model, "attention", embeddings=True, head=True) == dict.fromkeys("qkvo", LAYERS) | {
        "embed": 1,
        "head": 1,
    }
    adapted = METHODS["lora"].adapt(model, MethodChoices(rank=4, embeddings=True, head=True), "causal")
    paths = {path for path, value in adapted.named_parameters() if value.requires_grad}
    assert any("embed_tokens.lora_embedding_A" in path for path in paths)
    assert any("lm_head.lora_A" in path for path in paths)


@pytest.mark.parametrize("options", [{"embeddings": True}, {"head": True}, {"embeddings": True, "head": True}])
def test_a_tied_embedding_is_not_adapted(options: dict[str, bool]) -> None:
    with pytest.raises(UnsupportedUpdateError, match="ties its input embedding"):
        METHODS["lora"].adapt(fresh("gpt2", "causal"), MethodChoices(**options), "causal")


def test_a_head_for_classes_is_no_head_over_words() -> None:
    with pytest.raises(UnsupportedUpdateError, match="no output head over the vocabulary"):
        METHODS["lora"].adapt(fresh("bert", "regression"), MethodChoices(head=True), "regression")


def test_names_are_whole_paths_or_their_ends() -> None:
    model = fresh("llama", "causal")
    assert kinds(model, "q_proj, mlp.down_proj") == {"q": LAYERS, "down": LAYERS}
    one = chosen_targets(model, "model.layers.1.self_attn.v_proj")
    assert [target.name for target in one] == ["model.layers.1.self_attn.v_proj"]
    for bad in ("", "q_proj,", "proj", "embed_tokens"):
        with pytest.raises(PairingError, match="no linear layer of the model has this name"):
            chosen_targets(model, bad)


def test_explicit_targets_reach_peft_exactly() -> None:
    model = METHODS["lora"].adapt(
        fresh("llama", "causal"), MethodChoices(rank=4, targets="model.layers.1.self_attn.v_proj"), "causal"
    )
    paths = [path for path, value in model.named_parameters() if value.requires_grad]
    assert len(paths) == 2
    assert all("layers.1.self_attn.v_proj" in path for path in paths)


@pytest.mark.parametrize("targets", ["mlp", "all"])
@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss"])
def test_experts_in_one_tensor_are_not_left_out_in_silence(kind: str, targets: str) -> None:
    with pytest.raises(UnsupportedUpdateError, match="holds all experts in one tensor"):
        chosen_targets(small(kind), targets)
    assert kinds(small(kind), "attention") == dict.fromkeys("qkvo", 2)


def test_what_no_name_tells_is_refused_with_what_was_found() -> None:
    class Strange(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList([torch.nn.ModuleDict({"alpha": torch.nn.Linear(2, 2)})])

    with pytest.raises(UnsupportedUpdateError, match=r"1 linear layers of Strange .* the first 'layers.0.alpha'"):
        chosen_targets(Strange(), "all")
    with pytest.raises(UnsupportedUpdateError, match=r"no linear layers of attention or mlp .* has no linear layers"):
        chosen_targets(torch.nn.ModuleDict({"one": torch.nn.LayerNorm(2)}), "all")
    assert kinds(Strange(), "alpha") == {"other": 1}


def test_a_new_part_of_a_head_that_peft_does_not_know_trains_too() -> None:
    model = deberta()
    assert new_heads(model, "classification") == ["pooler"]
    adapted = METHODS["lora"].adapt(model, MethodChoices(rank=4), "classification")
    trained = {path for path, value in adapted.named_parameters() if value.requires_grad and "lora" not in path}
    assert {path.split(".")[2] for path in trained} == {"pooler", "classifier"}


def test_sublayers_that_cannot_be_told_are_refused() -> None:
    with pytest.raises(UnsupportedUpdateError, match=r"no single output projection of mlp .*\(0 in 2 layers\)"):
        output_projections(small("mixtral"), "both")
    assert len(output_projections(small("mixtral"), "attention")) == 2
    with pytest.raises(RankLabError, match="place 'ffn': expected one of attention, mlp, both"):
        output_projections(fresh("llama", "causal"), "ffn")


def test_prelayer_needs_one_stack() -> None:
    with pytest.raises(UnsupportedUpdateError, match="2 stacks of 2 layers"):
        layers_of(t5())
    with pytest.raises(UnsupportedUpdateError, match="kind 'causal' with a T5ForConditionalGeneration"):
        METHODS["prelayer"].adapt(t5(), MethodChoices(), "causal")


@pytest.mark.parametrize("targets", ["attention", "mlp", "h.0.mlp.c_proj"])
def test_bitfit_may_train_the_biases_of_some_layers(targets: str) -> None:
    model = fresh("gpt2", "causal")
    wanted = {target.name for target in chosen_targets(model, targets)}
    plain = logits(model)
    adapted = METHODS["bitfit"].adapt(model, MethodChoices(targets=targets), "causal")
    paths = {path for path, value in adapted.named_parameters() if value.requires_grad}
    assert paths == {f"base_model.model.{name}.bitfit_layers.default.bias" for name in wanted}
    assert torch.equal(logits(adapted), plain)


def test_bitfit_leaves_no_bias_out_in_silence() -> None:
    model = fresh("gpt2", "causal")
    model.transformer.bias = torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(UnsupportedUpdateError, match="bias of 'transformer', a GPT2Model, belongs to no layer"):
        METHODS["bitfit"].adapt(model, MethodChoices(), "causal")
    METHODS["bitfit"].adapt(model, MethodChoices(targets="mlp"), "causal")


def test_ia3_scales_what_the_paper_scales() -> None:
    model = METHODS["ia3"].adapt(fresh("llama", "causal"), MethodChoices(), "causal")
    scaled = {path.split(".")[-3] for path, value in model.named_parameters() if value.requires_grad}
    assert scaled == {"k_proj", "v_proj", "down_proj"}
    assert {name.rpartition(".")[2] for name in model.peft_config["default"].feedforward_modules} == {"down_proj"}
    with pytest.raises(RankLabError, match="has no rank to set to 8"):
        METHODS["ia3"].adapt(fresh("llama", "causal"), MethodChoices(rank=8), "causal")


def opt() -> Model:
    config = hf.OPTConfig(
        vocab_size=60, hidden_size=32, word_embed_proj_dim=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, pad_token_id=1,
    )  # fmt: skip
    return hf.OPTForCausalLM(config).eval()


def mamba() -> Model:
    return hf.MambaForCausalLM(hf.MambaConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2, state_size=4)).eval()


@pytest.mark.filterwarnings("ignore:The fast path is not available")
@pytest.mark.parametrize(("name", "make"), [("prelayer", opt), ("bitfit", mamba)])
def test_a_model_that_goes_past_the_usual_calls_is_adapted_all_the_same(name: str, make: Any) -> None:
    """OPT's head calls the decoder inside its body; Mamba reads the biases of its layers."""
    options = {"prompt_tokens": 3} if name == "prelayer" else {}
    model = METHODS[name].adapt(make(), MethodChoices(**options), "causal")
    words = torch.tensor([[5, 6, 7, 8]])
    before = logits(model, input_ids=words)
    model.train()
    model(input_ids=words, labels=words).loss.backward()
    own = [value for value in model.parameters() if value.requires_grad]
    assert own
    assert all(value.grad is not None and bool(value.grad.any()) for value in own)
    with torch.no_grad():
        for value in own:
            value.add_(0.1)
    assert not torch.equal(logits(model, input_ids=words), before)


@pytest.mark.filterwarnings("ignore:The fast path is not available")
def test_a_model_with_a_state_of_its_own_has_no_virtual_tokens() -> None:
    with pytest.raises(UnsupportedUpdateError, match="keeps no keys and values but a state of its own"):
        METHODS["prelayer"].adapt(mamba(), MethodChoices(), "causal")
    with pytest.raises(UnsupportedUpdateError, match="takes no keys and values from outside"):
        METHODS["prefix"].adapt(mamba(), MethodChoices(), "causal")


def test_what_peft_guesses_wrong_is_refused_before_training() -> None:
    model = hf.MptForCausalLM(hf.MptConfig(d_model=32, n_layers=2, n_heads=4, vocab_size=60, max_seq_len=64))
    with pytest.raises(UnsupportedUpdateError, match=r"method 'prefix' with a MptForCausalLM: PEFT cannot run it"):
        METHODS["prefix"].adapt(model, MethodChoices(), "causal")
