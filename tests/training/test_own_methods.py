"""rank_lab's own methods against their formulas, and everything that PEFT and transformers do with an adapter."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import gelu, linear, relu
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from rank_lab.errors import RankLabError, UnsupportedUpdateError
from rank_lab.training.bottleneck import BottleneckConfig, BottleneckLayer
from rank_lab.training.compacter import CompacterConfig, CompacterLayer
from rank_lab.training.method import MethodChoices
from rank_lab.training.methods import METHODS
from tests.training.models import INNER, LAYERS, WIDTH, WORDS, Model, fresh, loaded, logits, rows, saved_base, train

OWN = ("bitfit", "series", "parallel", "parallel_linear", "compacter", "prelayer")
SIZES: dict[str, dict[str, Any]] = {
    **{name: {"bottleneck": 8} for name in ("series", "parallel", "parallel_linear", "compacter")},
    "bitfit": {}, "prelayer": {"prompt_tokens": 3},
}  # fmt: skip
Change = Callable[[int, Tensor, Tensor], Tensor]


def architecture(name: str) -> str:
    return "gpt2" if name == "bitfit" else "llama"


def adapted(name: str, model: Model, kind: str = "causal", **options: Any) -> Model:
    torch.manual_seed(5)
    return METHODS[name].adapt(model, MethodChoices(**SIZES[name] | options), kind)


def as_trained(model: Model, seed: int = 9) -> Model:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.add_(0.3 * torch.randn(value.shape, generator=generator).to(value.dtype))
    return model.eval()


def own_tensors(model: Model, folder: Path) -> dict[str, Tensor]:
    """What is saved, by its name in the model."""
    model.save_pretrained(folder)
    return {
        name.removeprefix("base_model.model."): value
        for name, value in load_file(folder / "adapter_model.safetensors").items()
    }


def unpadded() -> Tensor:
    return rows()["input_ids"][:1]


def llama_by_hand(base: Model, words: Tensor, attention: Change, feed_forward: Change) -> Tensor:
    """Logits where something is done with each sublayer's input and output."""
    body, hidden = base.model, base.model.embed_tokens(words)
    turns = body.rotary_emb(hidden, position_ids=torch.arange(words.shape[1])[None])
    for place, layer in enumerate(body.layers):
        into = layer.input_layernorm(hidden)
        hidden = hidden + attention(
            place, into, layer.self_attn(into, position_embeddings=turns, attention_mask=None)[0]
        )
        into = layer.post_attention_layernorm(hidden)
        hidden = hidden + feed_forward(place, into, layer.mlp(into))
    return base.lm_head(body.norm(hidden))


def bert_by_hand(base: Model, words: Tensor, attention: Change, feed_forward: Change) -> Tensor:
    """The same of a model that normalises last."""
    hidden = base.bert.embeddings(words)
    for place, layer in enumerate(base.bert.encoder.layer):
        of_heads = layer.attention.self(hidden, attention_mask=None)[0]
        gave = attention(place, hidden, layer.attention.output.dense(of_heads))
        hidden = layer.attention.output.LayerNorm(hidden + gave)
        gave = feed_forward(place, hidden, layer.output.dense(layer.intermediate(hidden)))
        hidden = layer.output.LayerNorm(hidden + gave)
    return base.cls(hidden)


LLAMA = ("llama", "causal", "model.layers.{}.self_attn.o_proj", "model.layers.{}.mlp.down_proj")
BERT = ("bert", "masked", "bert.encoder.layer.{}.attention.output.dense", "bert.encoder.layer.{}.output.dense")


def test_compacters_factors_begin_as_matrices_do() -> None:
    """Glorot's bound is of each product's matrix, as published: torch takes a third dimension for a kernel's."""
    torch.manual_seed(0)
    layer = CompacterLayer(torch.nn.Linear(64, 64), torch.nn.ParameterDict({}))
    config = CompacterConfig(size=16, target_modules=["x"])
    layer.add_parts("default", config)
    n, down = config.products, layer.compacter_down["default"]
    shapes = {(n, n): layer.compacter_rule["default"], (16 // n, 1): down.left, (1, 64 // n): down.right}
    for shape, factors in shapes.items():
        bound = (6 / sum(shape)) ** 0.5
        assert factors.shape == (n, *shape)
        assert 0.7 * bound < float(factors.detach().abs().max()) <= bound


@pytest.mark.parametrize("model_of", [LLAMA, BERT], ids=["llama", "bert"])
@pytest.mark.parametrize("place", ["attention", "mlp", "both"])
@pytest.mark.parametrize("name", ["series", "parallel", "compacter"])
@torch.no_grad()
def test_adapters_compute_what_the_formula_says(
    name: str, place: str, model_of: tuple[str, str, str, str], tmp_path: Path
) -> None:
    kind_of_model, kind, of_attention, of_mlp = model_of
    base = fresh(kind_of_model, kind)
    model = as_trained(adapted(name, copy.deepcopy(base), kind, place=place))
    own = own_tensors(model, tmp_path)
    ends = {"attention": of_attention, "mlp": of_mlp}
    asked = [of_attention, of_mlp] if place == "both" else [ends[place]]
    wrapped = {module for path in asked for module in map(path.format, range(LAYERS))}
    assert {path.rsplit(".", 2 if "rule" not in path else 1)[0] for path in own} == wrapped

    def change(end: str) -> Change:
        def changed(layer: int, into: Tensor, gave: Tensor) -> Tensor:
            path = end.format(layer)
            if path not in wrapped:
                return gave
            part = {key.removeprefix(f"{path}."): value for key, value in own.items() if key.startswith(f"{path}.")}
            return gave + added(name, part, into, gave)

        return changed

    by_hand = llama_by_hand if kind_of_model == "llama" else bert_by_hand
    exact = by_hand(base, unpadded(), change(of_attention), change(of_mlp))
    torch.testing.assert_close(logits(model, input_ids=unpadded()), exact, rtol=1e-5, atol=1e-5)
    assert float((exact - logits(base, input_ids=unpadded())).abs().max()) > 1e-2


def added(name: str, part: dict[str, Tensor], into: Tensor, gave: Tensor) -> Tensor:
    if name == "compacter":
        rule = part["compacter_rule"]
        maps = []
        for which in ("down", "up"):
            left, right = part[f"compacter_{which}.left"], part[f"compacter_{which}.right"]
            weight = sum(torch.kron(rule[i], left[i] @ right[i]) for i in range(len(rule)))
            maps.append((weight, part[f"compacter_{which}.bias"]))
        return linear(gelu(linear(gave, *maps[0])), *maps[1])
    down = part["bottleneck_down.weight"], part["bottleneck_down.bias"]
    up = part["bottleneck_up.weight"], part["bottleneck_up.bias"]
    if name == "series":
        return linear(gelu(linear(gave, *down)), *up)
    return linear(relu(linear(into, *down)), *up)


@torch.no_grad()
def test_prelayer_computes_what_the_formula_says(tmp_path: Path) -> None:
    base = fresh("llama", "causal")
    model = as_trained(adapted("prelayer", copy.deepcopy(base)))
    own = own_tensors(model, tmp_path)
    assert {tuple(value.shape) for value in own.values()} == {(3, WIDTH)}
    words = unpadded()
    hidden = torch.cat((torch.zeros(1, 3, WIDTH), base.model.embed_tokens(words)), dim=1)
    turns = base.model.rotary_emb(hidden, position_ids=torch.arange(hidden.shape[1])[None])
    for place, layer in enumerate(base.model.layers):
        hidden = torch.cat((own[f"model.layers.{place}.prelayer_tokens"][None], hidden[:, 3:]), dim=1)
        hidden = layer(hidden, position_embeddings=turns, attention_mask=None)
    exact = base.lm_head(base.model.norm(hidden))[:, 3:]
    torch.testing.assert_close(logits(model, input_ids=words), exact, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_prelayer_starts_as_the_prompt_that_it_drew() -> None:
    base = fresh("llama", "causal")
    model = adapted("prelayer", copy.deepcopy(base))
    first = model.base_model.model.model.layers[0].prelayer_tokens["default"]
    drawn = torch.cdist(first, base.model.embed_tokens.weight).argmin(dim=1)[None]
    assert torch.equal(first, base.model.embed_tokens.weight[drawn[0]])
    words = unpadded()
    prompted = logits(base, input_ids=torch.cat((drawn, words), dim=1))[:, 3:]
    torch.testing.assert_close(logits(model, input_ids=words), prompted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["causal", "classification"])
def test_prelayer_reads_rows_alike_alone_and_padded(kind: str) -> None:
    model = as_trained(adapted("prelayer", fresh("llama", kind), kind))
    together = logits(model)
    alone = logits(model, input_ids=rows()["input_ids"][1:, :5])
    shown = together[1:, :5] if kind == "causal" else together[1:]
    torch.testing.assert_close(alone, shown, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kind_of_model", ["llama", "gpt2"])
@torch.no_grad()
def test_prelayer_generates_alike_with_and_without_a_cache(kind_of_model: str, padded: bool) -> None:
    model = as_trained(adapted("prelayer", fresh(kind_of_model, "causal")))
    words = rows()["input_ids"].clone()
    mask = torch.ones_like(words)
    words[1] = words[1].clamp(min=2)
    if padded:
        words[1, :3], mask[1, :3] = 1, 0
    options = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 1}
    kept = model.generate(input_ids=words, use_cache=True, **options)
    assert kept.shape == (2, 13)
    assert torch.equal(kept, model.generate(input_ids=words, use_cache=False, **options))
    step = logits(model, input_ids=kept[:1, :-1])[:, -1].argmax(dim=-1)
    assert torch.equal(step, kept[:1, -1])
    alone = model.generate(input_ids=words[1:, 3:], **options | {"attention_mask": mask[1:, 3:]})
    if padded:
        assert torch.equal(alone[:, 4:], kept[1:, 7:])
    beams = model.generate(input_ids=words, num_beams=2, use_cache=True, **options)
    assert torch.equal(beams, model.generate(input_ids=words, num_beams=2, use_cache=False, **options))


def test_prelayer_refuses_what_it_would_get_wrong() -> None:
    model = adapted("prelayer", fresh("llama", "causal"))
    words = rows()["input_ids"]
    with pytest.raises(UnsupportedUpdateError, match="turn packing off"):
        model(input_ids=words, position_ids=torch.tensor([[0, 1, 2, 3, 0, 1, 2]] * 2))
    with pytest.raises(UnsupportedUpdateError, match="attention_mask of shape"):
        model(input_ids=words, attention_mask=torch.ones(2, 1, 7, 7))
    placed = logits(model, input_ids=words, position_ids=torch.arange(7)[None])
    torch.testing.assert_close(placed, logits(model, input_ids=words), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", OWN)
def test_checkpointing_gives_the_same_gradients(name: str) -> None:
    gradients = []
    for reentrant in (None, False, True):
        model = as_trained(adapted(name, fresh(architecture(name), "causal"))).train()
        if reentrant is not None:
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        model(**rows(), labels=rows()["input_ids"]).loss.backward()
        gradients.append([value.grad for value in model.parameters() if value.requires_grad])
    for others in gradients[1:]:
        torch.testing.assert_close(others, gradients[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OWN)
def test_a_model_in_bfloat16_trains_its_adapter_in_float32(name: str) -> None:
    model = adapted(name, fresh(architecture(name), "causal").to(torch.bfloat16))
    assert {value.dtype for value in model.parameters() if value.requires_grad} == {torch.float32}
    train(model, "causal")
    assert logits(model).dtype == torch.bfloat16
    assert torch.isfinite(logits(model)).all()


@pytest.mark.parametrize("name", OWN)
def test_a_copy_is_a_model_of_its_own(name: str) -> None:
    model = as_trained(adapted(name, fresh(architecture(name), "causal")))
    before = logits(model)
    other = copy.deepcopy(model)
    torch.testing.assert_close(logits(other), before)
    train(other, "causal")
    assert torch.equal(logits(model), before)
    assert not torch.equal(logits(other), before)


@pytest.mark.parametrize("name", OWN)
def test_adapters_are_added_switched_off_switched_and_deleted(name: str, tmp_path: Path) -> None:
    base = fresh(architecture(name), "causal")
    plain = logits(base)
    model = as_trained(adapted(name, base))
    first = logits(model)
    with model.disable_adapter():
        assert torch.equal(logits(model), plain)
    assert torch.equal(logits(model), first)
    model.add_adapter("other", copy.deepcopy(model.peft_config["default"]))
    assert torch.equal(logits(model), first)
    model.set_adapter("other")
    trained = [path for path, value in model.named_parameters() if value.requires_grad]
    assert trained
    assert all(".other" in path for path in trained)
    if name != "prelayer":
        assert torch.equal(logits(model), plain)
    as_trained(model, seed=10)
    second = logits(model)
    assert not torch.equal(second, first)
    model.save_pretrained(tmp_path)
    model.set_adapter("default")
    assert torch.equal(logits(model), first)
    with pytest.warns(UserWarning, match="Setting active adapter to other"):
        model.delete_adapter("default")
    assert model.active_adapters == ["other"]
    assert torch.equal(logits(model), second)
    again = PeftModel.from_pretrained(fresh(architecture(name), "causal"), tmp_path / "other")
    torch.testing.assert_close(logits(again), second)
    assert torch.equal(logits(model.unload()), plain)


@pytest.mark.parametrize("name", OWN)
def test_what_no_weight_can_do_is_not_merged(name: str) -> None:
    model = as_trained(adapted(name, fresh(architecture(name), "causal")))
    tuned = logits(model)
    if name == "bitfit":
        model.merge_adapter()
        torch.testing.assert_close(logits(model), tuned)
        model.unmerge_adapter()
        assert torch.equal(logits(model), tuned)
        assert torch.equal(logits(model.merge_and_unload()), tuned)
        return
    for merge in (model.merge_adapter, model.merge_and_unload):
        with pytest.raises(UnsupportedUpdateError, match="which no weight of the model can"):
            merge()
    assert torch.equal(logits(model), tuned)
    with pytest.raises(UnsupportedUpdateError, match="no sum of adapters"):
        model.base_model.add_weighted_adapter(["default"], [1.0], "sum")


@pytest.mark.parametrize("name", OWN)
def test_peft_and_transformers_load_it_in_every_way(name: str, tmp_path: Path) -> None:
    kind_of_model = architecture(name)
    base = saved_base(tmp_path / "base", kind_of_model, "causal")
    model = as_trained(adapted(name, loaded(base, kind_of_model, "causal")))
    tuned = logits(model)
    model.save_pretrained(tmp_path / "adapter")
    for load in (AutoPeftModelForCausalLM.from_pretrained, AutoModelForCausalLM.from_pretrained):
        torch.testing.assert_close(logits(load(tmp_path / "adapter")), tuned)
    native = loaded(base, kind_of_model, "causal")
    native.load_adapter(str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(native), tuned)
    lean = PeftModel.from_pretrained(
        loaded(base, kind_of_model, "causal"), tmp_path / "adapter", low_cpu_mem_usage=True
    )
    torch.testing.assert_close(logits(lean), tuned)
    frozen = PeftModel.from_pretrained(loaded(base, kind_of_model, "causal"), tmp_path / "adapter")
    assert not any(value.requires_grad for value in frozen.parameters())
    further = PeftModel.from_pretrained(loaded(base, kind_of_model, "causal"), tmp_path / "adapter", is_trainable=True)
    wanted = {path for path, value in model.named_parameters() if value.requires_grad}
    assert {path for path, value in further.named_parameters() if value.requires_grad} == wanted


@pytest.mark.parametrize("name", [*OWN, "prefix", "vera", "pissa", "adalora"])
def test_a_trainers_checkpoint_goes_on_where_it_was(name: str, tmp_path: Path) -> None:
    from datasets import Dataset

    words = torch.randint(2, WORDS, (12, 7), generator=torch.Generator().manual_seed(2)).tolist()
    data = Dataset.from_list([{"input_ids": row, "labels": row} for row in words])

    def trainer(folder: Path) -> Trainer:
        torch.manual_seed(5)
        sizes = SIZES.get(name, {"prompt_tokens": 3} if name == "prefix" else {"rank": 4})
        chosen = MethodChoices(**sizes, steps=6)
        model = METHODS[name].adapt(fresh(architecture(name), "causal"), chosen, "causal")
        options = TrainingArguments(
            str(folder), max_steps=6, save_steps=3, per_device_train_batch_size=2, learning_rate=1e-2, report_to=[],
            use_cpu=True, seed=7, disable_tqdm=True, logging_strategy="no",
        )  # fmt: skip
        return Trainer(model, options, train_dataset=data)

    whole = trainer(tmp_path)
    whole.train()
    resumed = trainer(tmp_path / "again")
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    torch.testing.assert_close(logits(resumed.model), logits(whole.model), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("architecture", "kind"), [("llama", "causal"), ("gpt2", "causal"), ("bert", "masked")])
@torch.no_grad()
def test_an_adapter_beside_a_linear_layer_reads_that_layers_input(architecture: str, kind: str, tmp_path: Path) -> None:
    """Hooks on the base's own layers add what the formula says: a widening and a narrowing layer among them."""
    base = fresh(architecture, kind)
    model = as_trained(adapted("parallel_linear", copy.deepcopy(base), kind, targets="mlp"))
    own = own_tensors(model, tmp_path)
    paths = {path.rsplit(".", 2)[0] for path in own}
    widths = {(own[f"{path}.bottleneck_down.weight"].shape[1], own[f"{path}.bottleneck_up.weight"].shape[0])
              for path in paths}  # fmt: skip
    inner = 4 * WIDTH if architecture == "gpt2" else INNER
    assert widths == {(WIDTH, inner), (inner, WIDTH)}
    for path in paths:
        down, up, low, high = (own[f"{path}.bottleneck_{part}"] for part in
                               ("down.weight", "up.weight", "down.bias", "up.bias"))  # fmt: skip

        def beside(_: Any, args: Any, gave: Tensor, parts: Any = (down, up, low, high)) -> Tensor:
            down, up, low, high = parts
            return gave + torch.relu(args[0] @ down.T + low) @ up.T + high

        base.get_submodule(path).register_forward_hook(beside)
    words = {"input_ids": unpadded()}
    torch.testing.assert_close(model(**words).logits, base.eval()(**words).logits, rtol=1e-5, atol=1e-6)
    assert not any(module._forward_pre_hooks for module in model.modules())  # it needs no passage


def test_a_series_adapter_cannot_read_a_layers_input() -> None:
    with pytest.raises(RankLabError, match="each_linear: only a parallel adapter"):
        BottleneckConfig(size=8, each_linear=True, target_modules=["x"])


def test_the_passage_of_a_parallel_adapter_is_empty_between_calls() -> None:
    model = as_trained(adapted("parallel", fresh("llama", "causal")))
    logits(model)
    layers = [module for module in model.modules() if isinstance(module, BottleneckLayer)]
    assert len(layers) == 2 * LAYERS
    assert all(layer.passage.value is None for layer in layers)
    unloaded = model.unload()
    assert not any(module._forward_pre_hooks for module in unloaded.modules())
    with pytest.raises(UnsupportedUpdateError, match="input was not seen"):
        layers[0](torch.ones(1, 2, WIDTH))
