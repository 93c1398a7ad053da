"""What a config says of the update's size, on factors written by hand: used, or refused by name."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rank_lab import Checkpoint, RankReport, Settings, analyze, plan_updates, read_update
from rank_lab.errors import CheckpointError, PairingError, ShapeMismatchError, UnsupportedUpdateError
from tests.checkpoints import Tensors, factors, gpt2, llama, rank_lab, save, save_adapter

ONE = "base_model.model.h.0.q_proj."


def sora(generator: torch.Generator, names: tuple[str, ...], gate: torch.Tensor) -> Tensors:
    A, B = torch.randn(gate.numel(), 10, generator=generator), torch.randn(6, gate.numel(), generator=generator)
    return {ONE + name: tensor for name, tensor in zip(names, (A, B, gate), strict=True)}


SORA_NAMES = {
    "ours": ("lora_A.weight", "lora_B.weight", "lora_gate"),
    "with adapter name": ("lora_A.default.weight", "lora_B.default.weight", "lora_gate.default"),
    "OpenDelta": ("lora.lora_A", "lora.lora_B", "lora.gate"),
}


@pytest.mark.parametrize("config", [{"r": 4, "lora_alpha": 6}, {"r": 4, "lora_alpha": 6, "use_rslora": True}, None])
@pytest.mark.parametrize("names", SORA_NAMES)
def test_sora_is_gated_and_scaled_for_good(
    tmp_path: Path, generator: torch.Generator, names: str, config: dict[str, Any] | None
) -> None:
    gate = torch.tensor([[1.5, 0.0, -0.25, 0.0]])
    tensors = sora(generator, SORA_NAMES[names], gate)
    folder = save_adapter(tmp_path / "adapter", tensors, peft_type="SORA", **(config or {}))
    if config is None:
        (folder / "adapter_config.json").unlink()
    plan = plan_updates(Checkpoint.open(folder), lora_alpha=6 if config is None else None)
    A, B, _ = (tensor.double() for tensor in tensors.values())
    scaling = 6 / 2 if config and config.get("use_rslora") else 6 / 4
    assert plan.method == "sora"
    torch.testing.assert_close(read_update(plan.specs[0]).to_dense(), scaling * B @ torch.diag(gate[0].double()) @ A)
    assert analyze(folder, settings=Settings(lora_alpha=None if config else 6)).updates["numerical_rank"].tolist() == [
        2
    ]


def test_sora_keeps_its_scaling_when_zero_gates_are_cut_out(tmp_path: Path, generator: torch.Generator) -> None:
    tensors = sora(generator, SORA_NAMES["ours"], torch.ones(2))
    folder = save_adapter(tmp_path / "adapter", tensors, peft_type="SORA", r=8, lora_alpha=4)
    assert plan_updates(Checkpoint.open(folder)).specs[0].scaling == 4 / 8


REFUSED_CONFIGS: dict[str, dict[str, Any]] = {
    "init_lora_weights='of tomorrow'": {"init_lora_weights": "of tomorrow"},
    "use_qalora": {"use_qalora": True},
    "layer_replication": {"layer_replication": [[0, 2]]},
    "setting_of_tomorrow": {"setting_of_tomorrow": 1},
    "peft_type OF_TOMORROW": {"peft_type": "OF_TOMORROW"},
    "peft_type missing": {"peft_type": "absent"},
}


@pytest.mark.parametrize("name", REFUSED_CONFIGS)
def test_what_is_more_than_scaled_factors_is_refused_by_name(
    tmp_path: Path, generator: torch.Generator, name: str
) -> None:
    folder = save_adapter(tmp_path, factors(generator), **REFUSED_CONFIGS[name])
    with pytest.raises(UnsupportedUpdateError, match=re.escape(name)) as caught:
        plan_updates(Checkpoint.open(folder))
    assert str(caught.value).startswith(f"{folder / 'adapter_config.json'}: ")
    assert "erge the adapter" in str(caught.value)


PAIR = {"lora_A.weight": (2, 8), "lora_B.weight": (6, 2)}
TWO = {"lora_A.one.weight": (2, 8), "lora_B.one.weight": (6, 2), "lora_A.two.weight": (2, 8)}
# expected text: (error, shapes)
REFUSED_TENSORS: dict[str, tuple[type[Exception], dict[str, tuple[int, ...]]]] = {
    "(lora_magnitude_vector) makes": (UnsupportedUpdateError, PAIR | {"lora_magnitude_vector": (6,)}),
    "(lora_diag) makes": (UnsupportedUpdateError, PAIR | {"lora_diag": (2,)}),
    "a kernel of one": (UnsupportedUpdateError, {"lora_A.weight": (2, 8, 3, 3), "lora_B.weight": (6, 2, 3, 1)}),
    "B is [6, 1] but A is [2, 72]": (
        ShapeMismatchError,
        {"lora_A.weight": (2, 8, 3, 3), "lora_B.weight": (6, 1, 1, 1)},  # of a convolution in groups
    ),
    "several adapters (one, two)": (UnsupportedUpdateError, TWO),
    "not both lora_A and lora_B": (PairingError, {"lora_A.weight": (2, 8)}),
    "B is [2, 6] but A is [8, 2]": (ShapeMismatchError, {"lora_A.weight": (8, 2), "lora_B.weight": (2, 6)}),
    "B is [6, 3] but A is [2, 8]": (ShapeMismatchError, PAIR | {"lora_B.weight": (6, 3)}),
    "its config gives rank 2": (ShapeMismatchError, {"lora_A.weight": (3, 8), "lora_B.weight": (6, 3)}),
    "has a gate, which lora lacks": (PairingError, PAIR | {"lora_gate": (2,)}),
    "expected 2 values, one per row of A": (ShapeMismatchError, PAIR | {"lora_gate": (3,)}),
}


@pytest.mark.parametrize("text", REFUSED_TENSORS)
def test_factors_that_are_none_are_refused(tmp_path: Path, text: str) -> None:
    error, shapes = REFUSED_TENSORS[text]
    folder = save_adapter(tmp_path, {ONE + name: torch.ones(shape) for name, shape in shapes.items()})
    with pytest.raises(error, match=re.escape(text)):
        plan_updates(Checkpoint.open(folder))


def test_an_adapter_of_another_base_is_refused(tmp_path: Path, generator: torch.Generator) -> None:
    base = Checkpoint.open(save(tmp_path / "base", llama(generator)))
    for adapter, error, text in (
        (factors(generator, shape=(8, 10)), ShapeMismatchError, "the base is another model's"),
        (factors(generator, "encoder.layer.0.q_proj"), PairingError, "has no weight for 1 adapted modules; nearest"),
    ):
        with pytest.raises(error, match=text):
            plan_updates(Checkpoint.open(save_adapter(tmp_path / "adapter", adapter)), base)


def test_factors_without_config_need_alpha_and_their_own_rank(tmp_path: Path, generator: torch.Generator) -> None:
    tensors = factors(generator) | factors(generator, "x.model.layers.0.self_attn.q_proj", rank=4)
    folder = save(tmp_path, tensors)
    with pytest.raises(
        CheckpointError, match=r"give it as --lora-alpha \(the scaling is alpha / r, here r = \[2, 4\]\)"
    ):
        plan_updates(Checkpoint.open(folder))
    assert {spec.scaling for spec in plan_updates(Checkpoint.open(folder), lora_alpha=8).specs} == {4.0, 2.0}
    save_file(
        {ONE + "lora_A": torch.ones(2, 8), ONE + "lora_B": torch.ones(6, 2), ONE + "lora_E": torch.ones(2, 1)},
        folder / "model.safetensors",
    )
    with pytest.raises(CheckpointError, match="AdaLoRA factors without adapter_config"):
        plan_updates(Checkpoint.open(folder), lora_alpha=8)


def test_alpha_over_r_is_not_forgotten(tmp_path: Path, generator: torch.Generator) -> None:
    """Golden of a rival's error: without alpha / r = 4 the largest value is 0.2529 where it is 1.0116."""
    tensors = factors(generator)
    A, B = (tensor.double() for tensor in tensors.values())
    plain = np.linalg.svd((B @ A).numpy(), compute_uv=False)[:2]
    for alpha, times in ((2, 1.0), (8, 4.0), (-8, 4.0), (0, 0.0)):
        report = analyze(save_adapter(tmp_path, tensors, lora_alpha=alpha))
        np.testing.assert_allclose(report.values("model.layers.0.self_attn.q_proj"), times * plain, rtol=1e-12)
        assert report.updates["scaling"].tolist() == [alpha / 2]


def test_an_adapter_may_be_a_torch_file(tmp_path: Path, generator: torch.Generator) -> None:
    tensors = factors(generator)
    folder = save_adapter(tmp_path / "adapter", tensors)
    expected = analyze(folder).spectra["values"].tolist()
    (folder / "adapter_model.safetensors").unlink()
    torch.save(tensors, folder / "adapter_model.bin")
    assert analyze(folder).spectra["values"].tolist() == expected


SPOILED = {
    "NaN": lambda t: t.index_put((torch.tensor(0), torch.tensor(0)), torch.tensor(torch.nan)),
    "Inf": lambda t: torch.full_like(t, torch.inf),
    "shape [0]": lambda t: t.new_empty(0),
    "int8": lambda t: t.to(torch.int8),
}


@pytest.mark.parametrize("part", ["lora_A", "lora_B"])
@pytest.mark.parametrize("kind", SPOILED)
def test_a_bad_factor_costs_its_module_and_no_other(
    tmp_path: Path, generator: torch.Generator, kind: str, part: str
) -> None:
    bad = {name: SPOILED[kind](t) if part in name else t for name, t in factors(generator, "h.0.q_proj").items()}
    folder = save_adapter(tmp_path / "adapter", bad | factors(generator, "h.1.q_proj"))
    done = rank_lab("analyze", folder, "-o", tmp_path / "study")
    assert (done.code, done.err) == (1, "")
    report = RankReport.load(tmp_path / "study" / "adapter.rank")
    coverage = report.coverage.set_index("tensor")
    assert coverage["failed"].to_dict() == {name: "h.0" in name for name in coverage.index}
    assert set(coverage["status"]) == {"skipped", "analysed"}
    assert report.updates.set_index("module").loc["h.1.q_proj", "numerical_rank"] == 2


def test_a_bad_base_weight_costs_the_relative_norms_only(tmp_path: Path, generator: torch.Generator) -> None:
    state = llama(generator)
    state["model.layers.0.self_attn.q_proj.weight"][0, 0] = torch.nan
    adapter = save_adapter(tmp_path / "adapter", factors(generator))
    report = analyze(adapter, save(tmp_path / "base", state))
    assert report.updates["numerical_rank"].tolist() == [2]
    assert report.updates["relative_spectral"].isna().all()


def test_the_adapter_of_a_tied_head_needs_no_weight_of_its_own(tmp_path: Path, generator: torch.Generator) -> None:
    adapter = save_adapter(tmp_path / "adapter", factors(generator, "lm_head", shape=(20, 8)))
    base = save(tmp_path / "base", llama(generator, head=False), config={"tie_word_embeddings": True})
    (spec,) = plan_updates(Checkpoint.open(adapter), Checkpoint.open(base)).specs
    assert spec.weight is None
    assert spec.note == "the base stores no weight of this tied head: no norms relative to it"


def test_orientation_that_nobody_tells_does_not_refuse_the_base(tmp_path: Path, generator: torch.Generator) -> None:
    adapter = save_adapter(tmp_path / "adapter", factors(generator, "transformer.h.0.attn.c_attn", shape=(24, 8)))
    for name, config, fits in (
        ("none", None, True),
        ("gpt2", {"model_type": "gpt2"}, True),
        ("llama", {"model_type": "llama"}, False),
    ):
        base = Checkpoint.open(save(tmp_path / name, gpt2(generator), config=config))
        if fits:
            (spec,) = plan_updates(Checkpoint.open(adapter), base).specs
            assert (spec.shape, spec.weight and spec.weight.shape) == ((24, 8), (8, 24))
        else:
            with pytest.raises(ShapeMismatchError, match="in that orientation; the base is another model's"):
                plan_updates(Checkpoint.open(adapter), base)
