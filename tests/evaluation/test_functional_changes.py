"""Functional ranks of real models: base and tuned side by side on the same tokens."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rank_lab.errors import DataError, PairingError, RankLabError
from rank_lab.evaluation.activations import forward, layer_names, reading, unwrapped
from rank_lab.evaluation.functional_changes import FunctionalChanges, functional_changes
from rank_lab.evaluation.functional_options import FunctionalOptions
from rank_lab.evaluation.probe import Probe, probe_of
from rank_lab.evaluation.text_sets import TextSet
from rank_lab.functional import weighted_spectrum
from rank_lab.functional_metrics import functional_ranks
from rank_lab.place_change import PlaceChange
from rank_lab.training.method import MethodChoices
from rank_lab.training.methods import METHODS
from tests.evaluation.models import TEXTS, demo_tokenizer, moved
from tests.training.models import WIDTH, fresh

TEXT_COUNT = 30
QUICK = FunctionalOptions(resamples=10, batch_size=16)
MODULES = FunctionalOptions(resamples=0, batch_size=16, scopes=("module",))


def probe(texts: int = TEXT_COUNT, *, longest: int = 14, skip: int = 0) -> Probe:
    rng = np.random.default_rng(4)
    pieces = tuple((text, tuple(rng.integers(2, 60, int(rng.integers(4, longest))).tolist())) for text in range(texts))
    return Probe(TextSet("made", ("words",) * texts, "made up"), pieces, longest, skip=skip)


def adapted(name: str, architecture: str = "llama", kind: str = "causal", *, by: float = 0.02, **choices: Any) -> Any:
    model = METHODS[name].adapt(fresh(architecture, kind), MethodChoices(steps=20, **choices), kind)
    moved(model, by=by)
    return model.eval()


def found_of(tuned: Any, options: FunctionalOptions = QUICK, architecture: str = "llama") -> FunctionalChanges:
    kind = "causal" if architecture != "roberta" else "classification"
    return functional_changes(fresh(architecture, kind), tuned, probe(), options)


def by_name(found: FunctionalChanges, scope: str) -> dict[str, PlaceChange]:
    return {each.name: each for each in found.places if each.scope == scope}


def values(place: PlaceChange) -> dict[str, float]:
    return {name: each.value for name, each in place.ranks.items()}


def test_of_lora_the_local_change_is_the_weight_on_its_inputs() -> None:
    """Beside what is computed directly from the factors and from inputs that are read token by token."""
    tuned = adapted("lora", rank=4, by=0.05)
    found = found_of(tuned)
    base, name = fresh("llama", "causal"), "model.layers.1.mlp.down_proj"
    layer = unwrapped(tuned).get_submodule(name)
    change = (layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight).detach()
    rows = []
    with torch.no_grad(), reading(base, [name], ()) as seen:
        for _, ids in probe().pieces:
            base(torch.tensor([ids]))
            rows.append(seen.inputs.pop(name)[0].double())
    inputs = torch.cat(rows)
    direct = functional_ranks(weighted_spectrum(change, inputs.T @ inputs, len(inputs)))
    local, weighted = by_name(found, "module")[name], by_name(found, "weighted")[name]
    for place in (local, weighted):
        assert place.tokens == len(inputs)
        assert place.form == "affine"
        assert place.linear_share.value == 1.0
        assert values(place) == pytest.approx(direct, rel=1e-4)
        assert place.ranks["numerical_rank"].value == 4
        assert place.spectrum.frobenius_norm == pytest.approx(
            float(((inputs @ change.T.double()) ** 2).sum(1).mean().sqrt()), rel=1e-5
        )
    assert local.weight["numerical_rank"] == 4
    assert 1 < local.null["energy_rank_90"] <= 4


@pytest.mark.parametrize("name", ["prefix", "prompt", "prelayer"])
@pytest.mark.parametrize("architecture", ["llama", "roberta"])
def test_methods_without_a_weight_update_have_a_rank_with_an_interval(name: str, architecture: str) -> None:
    found = found_of(
        adapted(name, architecture, "causal" if architecture == "llama" else "classification"),
        architecture=architecture,
    )
    layers = by_name(found, "layer")
    assert len(layers) == 2
    assert not by_name(found, "module")
    for place in layers.values():
        rank = place.ranks["effective_rank"]
        assert 1 <= rank.low <= rank.value <= rank.high <= WIDTH
        assert place.tokens == probe().tokens
        assert place.linear_share.low is not None
        assert place.linear_share.value < 1
    assert set(found.left_out.values()) >= {"identical"}


@pytest.mark.parametrize("name", ["prompt", "prelayer", "prefix"])
def test_virtual_tokens_are_left_out(name: str) -> None:
    """What is read of the tuned model are the states at the input's own tokens: those that its logits come from."""
    tuned = adapted(name, prompt_tokens=5)
    inner, batch = unwrapped(tuned), next(probe(4).batches(4))
    last = layer_names(fresh("llama", "causal"), tuned)[-1]
    with torch.no_grad(), reading(tuned, (), [last]) as seen:
        states = forward(tuned, batch, seen).outputs[last]
        logits = tuned(input_ids=batch.ids, attention_mask=batch.mask).logits[:, -batch.ids.shape[1] :]
        assert torch.allclose(inner.lm_head(inner.model.norm(states)), logits[batch.counted], atol=1e-5)
    assert len(states) == int(batch.mask.sum())


def test_padding_does_not_count() -> None:
    """One text at a time, without any padding, gives the same numbers."""
    tuned, base = adapted("lora", "roberta", "classification", rank=2), fresh("roberta", "classification")
    alone, together = (
        functional_changes(base, tuned, probe(), FunctionalOptions(resamples=0, batch_size=size)) for size in (1, 16)
    )
    for one, other in zip(alone.places, together.places, strict=True):
        assert one.tokens == other.tokens == probe().tokens
        assert values(one) == pytest.approx(values(other), rel=1e-4)
        assert one.mean_share == pytest.approx(other.mean_share, rel=1e-4)
        assert one.linear_share.value == pytest.approx(other.linear_share.value, abs=1e-4)


def test_little_memory_takes_more_passes_and_gives_the_same() -> None:
    tuned, base = adapted("series", by=0.05), fresh("llama", "causal")
    counts: list[int] = []
    results = []
    for memory in (1 << 30, 400_000):
        steps: list[tuple[int, int]] = []
        options = FunctionalOptions(resamples=5, batch_size=16, memory=memory)
        results.append(
            functional_changes(base, tuned, probe(), options, progress=lambda *step, to=steps: to.append(step[:2]))
        )
        counts.append(len(steps))
    assert counts[1] > 2 * counts[0]
    for one, other in zip(results[0].places, results[1].places, strict=True):
        assert one.ranks == other.ranks
    with pytest.raises(RankLabError, match=r"give --memory \d+ or more"):
        functional_changes(base, tuned, probe(), FunctionalOptions(memory=10_000))


def test_bottlenecks_are_functions_and_a_full_bias_is_one_direction() -> None:
    for name in ("series", "parallel", "compacter"):
        places = by_name(found_of(adapted(name, by=0.3, bottleneck=4), MODULES), "module")
        assert len(places) == 4
        assert {place.form for place in places.values()} == {"function"}
        for place in places.values():
            assert place.ranks["numerical_rank"].value <= 5  # the bottleneck, and a bias
            assert place.linear_share.value < 1
            assert not place.weight
    biases = found_of(adapted("bitfit", "gpt2"), MODULES, "gpt2")
    assert all(values(place)["numerical_rank"] == 1 for place in by_name(biases, "module").values())
    assert not by_name(biases, "weighted")


def test_what_a_parallel_adapter_adds_is_a_function_of_its_sublayers_input() -> None:
    """ReLU opened by a large bias: the adapter is affine."""
    tuned = adapted("parallel", bottleneck=4)
    for module in tuned.modules():
        if hasattr(module, "bottleneck_down"):
            module.bottleneck_down["default"].bias.data.fill_(100.0)
    places = by_name(found_of(tuned, MODULES), "module")
    assert len(places) == 4
    assert all(place.form == "affine" and place.ranks["numerical_rank"].value <= 5 for place in places.values())


def test_a_full_fine_tune_is_what_its_files_differ_by() -> None:
    base, tuned = fresh("gpt2", "causal"), fresh("gpt2", "causal")
    weight = tuned.transformer.h[1].mlp.c_fc.weight  # transposed, as transformers stores it
    weight.data += 0.3 * torch.outer(torch.ones(weight.shape[0]), torch.arange(weight.shape[1]) / 10)
    found = functional_changes(base, tuned, probe(), QUICK)
    (place,) = by_name(found, "module").values()
    assert place.name == "transformer.h.1.mlp.c_fc"
    assert place.shape == (weight.shape[1], weight.shape[0])
    assert values(place)["numerical_rank"] == 1
    assert list(by_name(found, "layer")) == ["transformer.h.1"]  # the one before it does what it did
    assert found.left_out["transformer.h.0.mlp.c_fc"] == "identical"


def test_the_first_tokens_can_be_skipped() -> None:
    tuned, base = adapted("lora", rank=2), fresh("llama", "causal")
    found = functional_changes(base, tuned, probe(skip=1), QUICK)
    assert found.places[0].tokens == probe().tokens - TEXT_COUNT
    assert found.places[0].first_token_share == 0.0
    with pytest.raises(DataError, match="no token is left"):
        probe(longest=6, skip=50)


def test_a_small_probe_set_says_so() -> None:
    tuned, base = adapted("full"), fresh("llama", "causal")
    found = functional_changes(base, tuned, probe(4, longest=6), QUICK)
    place = found.places[0]
    assert place.ranks["numerical_rank"].value <= place.tokens < WIDTH
    assert np.isnan(place.ranks["energy_rank_90"].high)
    told = "; ".join(place.warnings)
    for words in ("no rank can be above", "which need 8 texts or more", "do not determine a linear map"):
        assert words in told
    assert np.isnan(place.linear_share.value)


def test_a_change_within_rounding_is_told() -> None:
    base, tuned = fresh("llama", "causal").bfloat16(), adapted("lora", by=1e-3).bfloat16()
    place = functional_changes(base, tuned, probe(), QUICK).places[0]
    assert any("near the rounding of bfloat16" in each for each in place.warnings)


def test_models_that_do_not_belong_together_are_refused() -> None:
    base, tuned = fresh("llama", "causal"), adapted("lora")
    with pytest.raises(PairingError, match="not tuned from this base"):
        functional_changes(fresh("gpt2", "causal"), tuned, probe(), QUICK)
    with pytest.raises(PairingError, match="one model in memory"):
        functional_changes(unwrapped(tuned), tuned, probe(), QUICK)
    with pytest.raises(PairingError, match="nothing else than the base"):
        functional_changes(base, fresh("llama", "causal"), probe(), QUICK)
    with pytest.raises(PairingError, match="no linear module of the base"):
        functional_changes(base, tuned, probe(), FunctionalOptions(modules=frozenset({"nothing"})))
    large = Probe(TextSet("made", ("word",), "made up"), ((0, (70, 71)),), 5)
    with pytest.raises(DataError, match="60 embeddings"):
        functional_changes(base, tuned, large, QUICK)


def test_a_module_that_sees_no_row_a_token_is_named() -> None:
    class Twice(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return self.inner(rows) + 0 * self.inner(rows)

    base, tuned = fresh("llama", "causal"), fresh("llama", "causal")
    for model in (base, tuned):
        model.model.layers[0].mlp.gate_proj = Twice(model.model.layers[0].mlp.gate_proj)
    tuned.model.layers[0].mlp.gate_proj.inner.weight.data += 0.1
    found = functional_changes(base, tuned, probe(), QUICK)
    assert "called more than once" in found.left_out["model.layers.0.mlp.gate_proj.inner"]


def test_a_causal_probe_cuts_texts_into_inputs_and_a_classifiers_is_cut() -> None:
    texts = TextSet("talk", TEXTS, "made up")
    causal = probe_of(demo_tokenizer(), "causal", texts, context=8)
    assert causal.truncated == 0
    assert {text for text, _ in causal.pieces} == {0, 1, 2}
    assert max(len(ids) for _, ids in causal.pieces) == 8
    whole = probe_of(demo_tokenizer(), "causal", texts, context=400)
    assert whole.tokens == causal.tokens
    assert [token for text, ids in causal.pieces if text == 0 for token in ids] == list(whole.pieces[0][1])
    classified = probe_of(demo_tokenizer(), "classification", texts, context=8)
    assert classified.truncated == len([1 for text in TEXTS if len(demo_tokenizer()(text)["input_ids"]) > 8])
    assert len(classified.pieces) == 3
    assert causal.sha256() != whole.sha256()


def test_centring_takes_the_mean_off_change_and_null() -> None:
    """What is lost of the energy is the share of the mean."""
    tuned = adapted("lora", rank=2)
    plain, centered = (
        by_name(found_of(tuned, FunctionalOptions(resamples=0, batch_size=16, centered=each)), "module")
        for each in (False, True)
    )
    for name, place in plain.items():
        other = centered[name]
        lost = 1 - (other.spectrum.frobenius_norm / place.spectrum.frobenius_norm) ** 2
        assert lost == pytest.approx(place.mean_share, rel=1e-6)
        assert other.null["stable_rank"] != place.null["stable_rank"]
