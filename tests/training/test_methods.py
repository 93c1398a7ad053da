"""The contract over the registry: what every method promises, of every kind of model that it takes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

import rank_lab
from rank_lab.errors import RankLabError, UnsupportedUpdateError
from rank_lab.training.method import KINDS, Method, MethodChoices
from rank_lab.training.methods import METHODS, method_named
from tests.checkpoints import assert_all_accounted_for
from tests.training.models import (
    CASES,
    CLASSES,
    INNER,
    LAYERS,
    VALUES,
    WIDTH,
    WORDS,
    Model,
    fresh,
    loaded,
    logits,
    saved_base,
    train,
)

CHOICES: dict[str, dict[str, Any]] = {
    "bitfit": {},
    "full": {},
    "ia3": {},
    "prefix": {"prompt_tokens": 5},
    "prompt": {"prompt_tokens": 5},
    "prelayer": {"prompt_tokens": 5},
    "series": {"bottleneck": 8},
    "parallel": {"bottleneck": 8},
    "parallel_linear": {"bottleneck": 8},
    "compacter": {"bottleneck": 8},
}
REFUSED = {  # what cannot be adapted, and why
    ("bitfit", "llama", "causal"): "has no biases",
    ("bitfit", "llama", "classification"): "has no biases",
    ("prefix", "bert", "masked"): "PEFT puts no prompt",
    ("prompt", "bert", "masked"): "PEFT puts no prompt",
    ("prompt", "llama", "classification"): "last token that is no padding",
}
TAKEN = [(name, *case) for name in METHODS for case in CASES if (name, *case) not in REFUSED]


def choices(name: str) -> MethodChoices:
    return MethodChoices(**CHOICES.get(name, {"rank": 4}), steps=20)


def adapted(name: str, model: Model, kind: str) -> Model:
    torch.manual_seed(5)
    return METHODS[name].adapt(model, choices(name), kind)


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {case: saved_base(folder / "-".join(case), *case) for case in CASES}


@pytest.mark.parametrize(("name", "architecture", "kind"), TAKEN)
def test_a_method_keeps_its_promises(
    name: str, architecture: str, kind: str, bases: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    folder = bases[architecture, kind]
    base = loaded(folder, architecture, kind)
    plain = logits(base)
    given = {id(value): (path, value.detach().clone()) for path, value in base.named_parameters()}
    model = adapted(name, base, kind)
    starts_as_stated(METHODS[name], logits(model), plain)
    before = {path: value.detach().clone() for path, value in model.named_parameters()}
    train(model, kind)
    moved = {path for path, value in model.named_parameters() if not torch.equal(value, before[path])}
    trained = {path for path, value in model.named_parameters() if value.requires_grad}
    assert moved == trained
    if name not in {"full", "pissa", "loftq"}:
        for value in base.parameters():
            if id(value) in given and not value.requires_grad:
                assert torch.equal(value, given[id(value)][1]), given[id(value)][0]
    if kind in {"classification", "regression"}:
        heads = [path for path in trained if "classifier" in path or "score" in path]
        assert heads
        assert name == "full" or all("modules_to_save" in path for path in heads)
    model.save_pretrained(tmp_path / "tuned")
    after = logits(model)
    assert not torch.equal(after, logits(loaded(folder, architecture, kind)))
    again = (
        loaded(tmp_path / "tuned", architecture, kind)
        if name == "full"
        else PeftModel.from_pretrained(loaded(folder, architecture, kind), tmp_path / "tuned")
    )
    kept = dict(again.named_parameters())
    assert all(torch.equal(kept[path], value) for path, value in model.named_parameters() if path in trained)
    torch.testing.assert_close(logits(again), after)  # its last bits depend on where in memory the weights lie
    is_analysed(tmp_path / "tuned", folder, name)


def starts_as_stated(method: Method, outputs: torch.Tensor, plain: torch.Tensor) -> None:
    if not method.at_start:
        assert torch.equal(outputs, plain)
        return
    outputs = outputs[:, -plain.shape[1] :] if outputs.ndim == 3 else outputs  # PEFT gives those of prompts, too
    change = float((outputs - plain).abs().max())
    assert change < 1e-6 if "but for rounding" in method.at_start else change > 1e-5


def is_analysed(tuned: Path, base: Path, name: str) -> None:
    report = rank_lab.analyze(tuned, base)
    assert not report.coverage["failed"].any()
    assert_all_accounted_for(
        rank_lab.plan_updates(rank_lab.Checkpoint.open(tuned), rank_lab.Checkpoint.open(base)), tuned, base
    )
    body = report.updates[~report.updates["module"].str.contains("classifier|score")]
    if name in {"prefix", "prompt", "prelayer", "series", "parallel", "parallel_linear", "compacter", "bitfit"}:
        assert not len(body)
    else:
        assert len(body) >= LAYERS
        assert (body["frobenius_norm"] > 0).all()
    if name == "bitfit":
        vectors = report.coverage[report.coverage["status"] == "vector"]
        assert (vectors["frobenius_norm"] > 0).sum() > 2 * LAYERS


@pytest.mark.parametrize(("name", "architecture", "kind"), REFUSED)
def test_what_a_method_cannot_adapt_is_refused_with_the_reason(name: str, architecture: str, kind: str) -> None:
    with pytest.raises(UnsupportedUpdateError, match=REFUSED[name, architecture, kind]) as caught:
        METHODS[name].adapt(fresh(architecture, kind), choices(name), kind)
    assert str(caught.value).startswith(f"method '{name}'")
    assert "\n" not in str(caught.value)


ATTENTION = [(WIDTH, WIDTH), (VALUES, WIDTH), (VALUES, WIDTH), (WIDTH, WIDTH)]  # q, k, v, o: out and in
MLP = [(INNER, WIDTH), (INNER, WIDTH), (WIDTH, INNER)]  # gate, up, down
ALL = ATTENTION + MLP


def of_factors(rank: int) -> int:
    return LAYERS * sum(rank * (out + into) for out, into in ALL)


COUNTS = {  # of Llama for causal language modelling
    "full": 2 * WORDS * WIDTH + LAYERS * (sum(out * into for out, into in ALL) + 2 * WIDTH) + WIDTH,
    "lora": of_factors(4),
    "rslora": of_factors(4),
    "pissa": of_factors(4),
    "loftq": of_factors(4),
    "dora": of_factors(4) + LAYERS * sum(out for out, _ in ALL),  # and a magnitude per output
    "adalora": of_factors(6) + LAYERS * len(ALL) * 6,  # half as many again, and their singular values
    "sora": of_factors(4) + LAYERS * len(ALL) * 4,  # and a gate per direction
    "vera": LAYERS * sum(out + 4 for out, _ in ALL),
    "ia3": LAYERS * (VALUES + VALUES + INNER),  # outputs of keys and values, input of the down projection
    "prefix": 5 * LAYERS * 2 * VALUES,
    "prompt": 5 * WIDTH,
    "prelayer": 5 * LAYERS * WIDTH,
    "series": 2 * LAYERS * (2 * 8 * WIDTH + 8 + WIDTH),
    "parallel": 2 * LAYERS * (2 * 8 * WIDTH + 8 + WIDTH),
    "parallel_linear": LAYERS * sum(8 * (out + into) + 8 + out for out, into in ALL),
    "compacter": 4**3 + 2 * LAYERS * (2 * (8 + WIDTH) + 8 + WIDTH),  # shared factors; rank one, so each (k + d) twice
}


@pytest.mark.parametrize("name", [*COUNTS])
def test_parameters_are_as_many_as_the_formula_says(name: str) -> None:
    model = adapted(name, fresh("llama", "causal"), "causal")
    assert sum(value.numel() for value in model.parameters() if value.requires_grad) == COUNTS[name]


def test_bitfit_trains_every_bias_and_nothing_else() -> None:
    model = adapted("bitfit", fresh("bert", "masked"), "masked")
    of_layer = 4 * WIDTH + WIDTH + INNER + WIDTH + WIDTH  # q, k, v, o; norm; up, down; norm
    head = WIDTH + WIDTH + WORDS  # dense, norm, decoder
    count = sum(value.numel() for value in model.parameters() if value.requires_grad)
    assert count == WIDTH + LAYERS * of_layer + head
    assert CLASSES == 3  # no new head here


def test_every_method_is_counted_or_refused() -> None:
    assert {*COUNTS, "bitfit"} == {*METHODS}


def test_the_registry_is_complete_and_closed() -> None:
    assert [method.name for method in METHODS.values()] == [*METHODS]
    assert all(method.title and method.reference and 1e-6 < method.learning_rate < 0.1 for method in METHODS.values())
    with pytest.raises(TypeError):
        METHODS["other"] = METHODS["lora"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("asked", "hint"), [("rs-lora", "nearest: rslora"), ("LoRA", "nearest: lora"), ("zzz", "known: full, ")]
)
def test_an_unknown_method_is_refused_with_the_nearest(asked: str, hint: str) -> None:
    with pytest.raises(RankLabError, match="not known") as caught:
        method_named(asked)
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lora", {"rank": 0}, "rank 0: expected 1 or more"),
        ("pissa", {"rank": 17}, "'model.layers.0.self_attn.k_proj' has 16"),
        ("lora", {"rank": 33}, "rank 33: is above the smaller side of every target (32 at most)"),
        ("adalora", {"rank": 33}, "choose 32 or less, or train with the method full"),
        ("sora", {"rank": 33}, "so that nothing is of low rank"),
        ("loftq", {"rank": 33}, "so that nothing is of low rank"),
        ("adalora", {"rank": -1}, "rank -1: expected 1 or more"),
        ("vera", {"rank": 0}, "rank 0: expected 1 or more"),
        ("lora", {"alpha": 0.0}, "alpha 0.0: expected a number above 0"),
        ("lora", {"alpha": float("nan")}, "alpha nan: expected a number above 0"),
        ("lora", {"dropout": 1.5}, "dropout 1.5: expected"),
        ("lora", {"bottleneck": 8}, "has no bottleneck to set to 8"),
        ("lora", {"threshold": 0.1}, "has no threshold to set to 0.1"),
        ("full", {"targets": "mlp"}, "has no targets to set to 'mlp'"),
        ("prompt", {"targets": "mlp"}, "has no targets to set to 'mlp'"),
        ("series", {"bottleneck": 0}, "bottleneck 0: expected 1 or more"),
        ("compacter", {"bottleneck": 6}, "they must divide the bottleneck's width, which is 6"),
        ("parallel", {"place": "middle"}, "place 'middle': expected one of attention, mlp, both"),
        ("parallel_linear", {"place": "mlp"}, "has no place to set to 'mlp'"),
        ("parallel_linear", {"bottleneck": 0}, "bottleneck 0: expected 1 or more"),
        ("prefix", {"prompt_tokens": 0}, "prompt_tokens 0: expected 1 or more"),
        ("prelayer", {"prompt_tokens": 0}, "prompt_tokens 0: expected 1 or more"),
        ("adalora", {"embeddings": True}, "has no embeddings to set to True"),
        ("adalora", {"steps": 0}, "steps 0: expected 1 or more"),
        ("lora", {"targets": "q_prj"}, "nearest: q_proj"),
    ],
)
def test_a_bad_choice_is_refused_in_one_line(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RankLabError) as caught:
        METHODS[name].adapt(fresh("llama", "causal"), MethodChoices(**options), "causal")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_rank_that_is_not_low_for_some_targets_is_told() -> None:
    choices = MethodChoices(rank=VALUES + 1)
    with pytest.warns(UserWarning, match=r"rank 17 is above the smaller side of 4 of 14 targets, the first .*k_proj'"):
        METHODS["lora"].adapt(fresh("llama", "causal"), choices, "causal")


def test_a_kind_that_the_model_is_not_of_is_refused() -> None:
    model = fresh("llama", "causal")
    with pytest.raises(UnsupportedUpdateError, match="kind 'classification' with a LlamaForCausalLM"):
        METHODS["lora"].adapt(model, MethodChoices(), "classification")
    for architecture, kind, asked in (("bert", "masked", "causal"), ("llama", "causal", "masked")):
        with pytest.raises(UnsupportedUpdateError, match=f"kind '{asked}' with a "):
            METHODS["lora"].adapt(fresh(architecture, kind), MethodChoices(), asked)
    with pytest.raises(RankLabError, match=f"kind 'ranking': expected one of {', '.join(KINDS)}"):
        METHODS["lora"].adapt(model, MethodChoices(), "ranking")


def test_a_prefix_is_not_lost_to_checkpointing_in_silence() -> None:
    model = fresh("llama", "causal")
    model.activation_checkpointing_enable()
    with pytest.raises(UnsupportedUpdateError, match="method 'prefix' with gradient checkpointing"):
        METHODS["prefix"].adapt(model, MethodChoices(), "causal")
    adapted_later = METHODS["prefix"].adapt(fresh("llama", "causal"), MethodChoices(), "causal")
    with pytest.raises(ValueError, match="does not support"):
        adapted_later.activation_checkpointing_enable()
