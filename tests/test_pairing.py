"""Tensors meet by name and never otherwise, and every tensor of either side is accounted for."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rank_lab import Checkpoint, RankReport, analyze, plan_updates, read_update
from rank_lab.coverage import Plan
from rank_lab.errors import PairingError
from tests.checkpoints import (
    CONTAINERS,
    Container,
    Tensors,
    assert_all_accounted_for,
    factors,
    gpt2,
    llama,
    moved,
    renamed,
    save,
    save_adapter,
)


def planned(tuned: Path, base: Path | None) -> Plan:
    plan = plan_updates(Checkpoint.open(tuned), None if base is None else Checkpoint.open(base))
    assert_all_accounted_for(plan, tuned, base)
    return plan


def status(plan: Plan) -> dict[str, str]:
    return {row.tensor: row.status for row in plan.coverage}


def changes(plan: Plan) -> dict[str, torch.Tensor]:
    return {spec.module: read_update(spec).to_dense() for spec in plan.specs}


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "base_model.model.", "module._orig_mod.", "model."])
@pytest.mark.parametrize("side", ["tuned", "base"])
def test_prefixes_do_not_matter(tmp_path: Path, generator: torch.Generator, prefix: str, side: str) -> None:
    state = llama(generator)
    sides = {"base": state, "tuned": moved(state, generator)}
    expected = {n.removesuffix(".weight"): sides["tuned"][n].double() - state[n].double() for n in state}
    sides[side] = renamed(sides[side], prefix)
    plan = planned(save(tmp_path / "tuned", sides["tuned"]), save(tmp_path / "base", sides["base"]))
    assert set(status(plan).values()) == {"analysed", "vector"}
    assert len(plan.specs) == 10
    for module, change in changes(plan).items():
        assert change.equal(expected[module.removeprefix("model.model.")]), module


def test_a_body_meets_the_model_with_a_head(tmp_path: Path, generator: torch.Generator) -> None:
    body: Tensors = {"embeddings.weight": torch.randn(9, 4, generator=generator)}
    body |= {f"encoder.layer.{i}.attention.self.query.weight": torch.randn(4, 4, generator=generator) for i in range(2)}
    tuned = renamed(moved(body, generator), "bert.") | {
        "classifier.weight": torch.ones(2, 4),
        "classifier.bias": torch.ones(2),
    }
    plan = planned(save(tmp_path / "tuned", tuned), save(tmp_path / "base", body))
    assert [spec.module for spec in plan.specs] == [name.removesuffix(".weight") for name in body]
    assert status(plan)["classifier.weight"] == status(plan)["classifier.bias"] == "new"
    back = planned(save(tmp_path / "body", moved(body, generator)), tmp_path / "tuned")
    assert status(back)["classifier.weight"] == "skipped"


@pytest.mark.parametrize("shards", [1, 4])
def test_order_does_not_matter(tmp_path: Path, generator: torch.Generator, shards: int) -> None:
    state = llama(generator, layers=12)
    tuned = moved(state, generator)
    names = [list(tuned)[i] for i in torch.randperm(len(tuned), generator=generator).tolist()]
    shuffled = save(tmp_path / "tuned", {name: tuned[name] for name in names}, container="bin", shards=shards)
    plan = planned(shuffled, save(tmp_path / "base", state))
    for module, change in changes(plan).items():
        assert change.equal(tuned[f"{module}.weight"].double() - state[f"{module}.weight"].double()), module
    layers = [spec.identity.layer for spec in plan.specs if spec.identity.kind == "q"]
    assert layers == sorted(layers)


def with_layers(generator: torch.Generator, numbers: list[int]) -> Tensors:
    return {f"model.layers.{i}.self_attn.q_proj.weight": torch.randn(4, 4, generator=generator) for i in numbers}


@pytest.mark.parametrize("numbers", [[0, 1, 2, 3], [0, 1], [0, 1, 3], [1, 2, 3]])
def test_inserted_removed_and_renumbered_layers_are_refused(
    tmp_path: Path, generator: torch.Generator, numbers: list[int]
) -> None:
    base = save(tmp_path / "base", with_layers(generator, [0, 1, 2]))
    tuned = save(tmp_path / "tuned", with_layers(generator, numbers))
    with pytest.raises(PairingError, match=rf"has {len(numbers)} layers in 'model\.layers', .*/base has 3"):
        planned(tuned, base)


def test_an_inserted_expert_is_refused(tmp_path: Path, generator: torch.Generator) -> None:
    def experts(count: int) -> Tensors:
        name = "model.layers.0.mlp.experts.{}.up_proj.weight"
        return {name.format(i): torch.randn(4, 4, generator=generator) for i in range(count)}

    with pytest.raises(PairingError, match=r"only the first has \[2\], only the second \[\]\): layers or experts"):
        planned(save(tmp_path / "tuned", experts(3)), save(tmp_path / "base", experts(2)))


def test_fused_and_split_projections_are_not_paired(tmp_path: Path, generator: torch.Generator) -> None:
    split = llama(generator)
    fused = {name: value for name, value in split.items() if "q_proj" not in name and "k_proj" not in name}
    fused |= {f"model.layers.{i}.self_attn.qkv_proj.weight": torch.ones(12, 8) for i in range(2)}
    with pytest.raises(PairingError, match=r"2 layer matrices .* and 4 of .* have no partner by name") as caught:
        planned(save(tmp_path / "tuned", fused), save(tmp_path / "base", split))
    assert "self_attn.qkv_proj.weight ~ model.layers.0.self_attn." in str(caught.value)


def test_models_without_a_common_name_are_refused(tmp_path: Path) -> None:
    tuned, base = (
        save(tmp_path / "tuned", {"a.weight": torch.ones(2, 2)}),
        save(tmp_path / "base", {"b.weight": torch.ones(2, 2)}),
    )
    with pytest.raises(PairingError, match=r"share no matrix by name; nearest: a\.weight ~ b\.weight"):
        planned(tuned, base)


@pytest.mark.parametrize(("tuned_rows", "base_rows"), [(26, 20), (20, 26)])
def test_a_resized_vocabulary_compares_the_common_rows(
    tmp_path: Path, generator: torch.Generator, tuned_rows: int, base_rows: int
) -> None:
    state = llama(generator, vocabulary=26) | {"lm_head.bias": torch.zeros(26)}
    resized = ("model.embed_tokens.weight", "lm_head.weight", "lm_head.bias")

    def cut(tensors: Tensors, rows: int) -> Tensors:
        return tensors | {name: tensors[name][:rows].contiguous() for name in resized}

    tuned, base = cut(moved(state, generator), tuned_rows), cut(state, base_rows)
    report = analyze(save(tmp_path / "tuned", tuned), save(tmp_path / "base", base))
    planned(tmp_path / "tuned", tmp_path / "base")
    side = "tuned" if tuned_rows > base_rows else "base"
    row = report.updates.set_index("module").loc["model.embed_tokens"]
    assert row["warning"] == f"resized: 20 common rows compared, 6 rows only in the {side} checkpoint"
    assert (row["out_features"], row["in_features"]) == (20, 8)
    expected = tuned["model.embed_tokens.weight"][:20].double() - base["model.embed_tokens.weight"][:20].double()
    np.testing.assert_allclose(
        report.values("model.embed_tokens"), np.linalg.svd(expected.numpy(), compute_uv=False), rtol=1e-7
    )
    coverage = report.coverage.set_index("tensor")
    assert coverage.loc["lm_head.weight", "reason"] == row["warning"]
    assert coverage.loc["lm_head.bias", ["status", "failed"]].tolist() == ["skipped", False]


def test_a_classifier_of_other_labels_is_not_compared(tmp_path: Path, generator: torch.Generator) -> None:
    state = llama(generator, head=False)
    tuned = save(tmp_path / "tuned", moved(state, generator) | {"score.weight": torch.ones(2, 8)})
    plan = planned(tuned, save(tmp_path / "base", state | {"score.weight": torch.ones(3, 8)}))
    row = next(row for row in plan.coverage if row.tensor == "score.weight")
    assert (row.status, row.failed) == ("skipped", True)
    assert row.reason == "shape [2, 8] against [3, 8] in the base: not the same module"


@pytest.mark.parametrize("where", ["tuned", "base"])
def test_conv1d_is_transposed_because_the_config_says_so(
    tmp_path: Path, generator: torch.Generator, where: str
) -> None:
    state = gpt2(generator)
    tuned = moved(state, generator)
    configs = {"tuned": None, "base": None} | {where: {"model_type": "gpt2"}}
    plan = planned(
        save(tmp_path / "tuned", tuned, config=configs["tuned"]), save(tmp_path / "base", state, config=configs["base"])
    )
    shapes = {spec.module: spec.shape for spec in plan.specs}
    assert shapes["transformer.h.0.attn.c_attn"] == (24, 8)  # fused, and one matrix
    assert shapes["transformer.h.0.mlp.c_fc"] == (32, 8)
    assert shapes["transformer.wte"] == (20, 8)
    for module, change in changes(plan).items():
        stored = tuned[f"{module}.weight"].double() - state[f"{module}.weight"].double()
        assert change.equal(stored.T if ".h." in module else stored), module  # attn.c_proj is square
    assert not any(spec.note for spec in plan.specs)


@pytest.mark.parametrize(
    ("config", "transposed", "note"),
    [
        (None, False, "orientation unknown (no config.json names the architecture)"),
        ({"architectures": ["GPT2LMHeadModel"]}, False, "orientation unknown (no config.json names the architecture)"),
        ({"model_type": "gpt_bigcode"}, False, ""),
        ({"model_type": "openai-gpt"}, True, ""),
        (
            {"model_type": "vision-encoder-decoder", "decoder": {"model_type": "gpt2"}},
            False,
            "orientation unknown (decoder of the vision-encoder-decoder model is a gpt2)",
        ),
    ],
    ids=["none", "no type", "linear", "conv1d", "composite"],
)
def test_orientation_is_known_or_noted(
    tmp_path: Path, generator: torch.Generator, config: dict[str, Any] | None, transposed: bool, note: str
) -> None:
    state = gpt2(generator)
    tuned = save(tmp_path / "tuned", moved(state, generator), config=config)
    plan = planned(tuned, save(tmp_path / "base", state))
    spec = next(spec for spec in plan.specs if spec.module.endswith("c_attn"))
    assert spec.transposed == transposed
    assert spec.shape == ((24, 8) if transposed else (8, 24))
    assert spec.note.startswith(note)
    assert bool(spec.note) == bool(note)


@pytest.mark.parametrize("tuned_container", CONTAINERS)
@pytest.mark.parametrize("base_container", CONTAINERS)
def test_a_tied_head_is_counted_once(
    tmp_path: Path, generator: torch.Generator, tuned_container: Container, base_container: Container
) -> None:
    state = llama(generator)
    tuned = moved(state, generator)
    folders = []
    for name, tensors, container in (("tuned", tuned, tuned_container), ("base", state, base_container)):
        embedding = tensors["model.embed_tokens.weight"]
        tensors["lm_head.weight"] = embedding.clone() if container == "safetensors" else embedding
        folders.append(save(tmp_path / name, tensors, container=container))
    planned(*folders)
    report = analyze(*folders)
    assert "lm_head" not in set(report.updates["module"])
    row = report.coverage.set_index("tensor").loc["lm_head.weight"]
    assert (row["status"], row["side"], row["failed"]) == ("skipped", "both", False)
    assert "tied" in row["reason"]
    assert_shares_sum_to_one(report)


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_head_that_was_tied_by_training_is_a_change(
    tmp_path: Path, generator: torch.Generator, container: Container
) -> None:
    state = llama(generator)
    tuned = moved(state, generator)
    embedding = tuned["model.embed_tokens.weight"]
    tuned["lm_head.weight"] = embedding.clone() if container == "safetensors" else embedding
    plan = planned(save(tmp_path / "tuned", tuned, container=container), save(tmp_path / "base", state))
    assert changes(plan)["lm_head"].equal(embedding.double() - state["lm_head.weight"].double())


@pytest.mark.parametrize("rows", [20, 23])
def test_a_head_of_its_own_is_compared_with_what_the_base_tied_it_to(
    tmp_path: Path, generator: torch.Generator, rows: int
) -> None:
    state = llama(generator, head=False)
    tuned = moved(state, generator)
    tuned["model.embed_tokens.weight"] = torch.randn(rows, 8, generator=generator)
    tuned["lm_head.weight"] = torch.randn(rows, 8, generator=generator)
    base = save(tmp_path / "base", state, config={"model_type": "llama", "tie_word_embeddings": True})
    plan = planned(save(tmp_path / "tuned", tuned), base)
    spec = next(spec for spec in plan.specs if spec.module == "lm_head")
    assert spec.note.startswith("the base ties this head to model.embed_tokens.weight, compared with that")
    expected = tuned["lm_head.weight"][:20].double() - state["model.embed_tokens.weight"].double()
    assert read_update(spec).to_dense().equal(expected)
    (base / "config.json").unlink()
    assert status(planned(tmp_path / "tuned", base))["lm_head.weight"] == "new"


def test_a_tied_head_is_not_compared_with_positions(tmp_path: Path, generator: torch.Generator) -> None:
    state = gpt2(generator)
    tuned = moved(state, generator) | {"lm_head.weight": torch.ones(20, 8)}
    base = save(tmp_path / "base", state, config={"model_type": "gpt2", "tie_word_embeddings": True})
    change = changes(planned(save(tmp_path / "tuned", tuned), base))["lm_head"]
    assert change.equal(1.0 - state["transformer.wte.weight"].double())


def assert_shares_sum_to_one(report: RankReport) -> None:
    vectors = report.coverage[
        report.coverage["status"].isin(["vector", "identical"]) & (report.coverage["module"] == "")
    ]
    assert report.updates["change_share"].sum() + vectors["change_share"].sum() == pytest.approx(1.0, abs=1e-12)


def test_vectors_have_a_norm_and_a_share(tmp_path: Path, generator: torch.Generator) -> None:
    state = llama(generator) | {
        "bilinear.weight": torch.zeros(2, 3, 4),
        "h.experts_bias": torch.zeros(2, 8),
        "scale": torch.tensor(1.0),
        "untouched.bias": torch.ones(5),
    }
    tuned = moved(state, generator, by=0.5) | {"untouched.bias": torch.ones(5)}
    report = analyze(save(tmp_path / "tuned", tuned), save(tmp_path / "base", state))
    planned(tmp_path / "tuned", tmp_path / "base")
    coverage = report.coverage.set_index("tensor")
    for name in ("model.norm.weight", "bilinear.weight", "h.experts_bias", "scale"):
        norm = float(torch.linalg.vector_norm(tuned[name].double() - state[name].double()))
        assert coverage.loc[name, "status"] == "vector"
        assert coverage.loc[name, "frobenius_norm"] == pytest.approx(norm, rel=1e-12)
    assert coverage.loc["bilinear.weight", "reason"] == "3 dimensions: norm only"
    assert coverage.loc["untouched.bias", "status"] == "identical"
    assert_shares_sum_to_one(report)


def test_integer_buffers_are_no_failure(tmp_path: Path, generator: torch.Generator) -> None:
    buffers = {
        "embeddings.position_ids": torch.arange(4)[None],
        "bn.num_batches_tracked": torch.tensor(3),
        "h.0.attn.bias": torch.ones(1, 1, 4, 4, dtype=torch.uint8),
        "mask": torch.ones(4, dtype=torch.bool),
    }
    state = llama(generator)
    whole, bare = save(tmp_path / "whole", moved(state, generator) | buffers), save(tmp_path / "bare", state)
    for tuned, base in ((whole, bare), (bare, whole), (whole, save(tmp_path / "both", state | buffers))):
        plan = planned(tuned, base)
        assert {status(plan)[name] for name in buffers} == {"skipped"}
        assert not any(row.failed for row in plan.coverage)


def test_tensors_of_one_side_and_files_set_aside_have_rows(tmp_path: Path, generator: torch.Generator) -> None:
    state = llama(generator)
    tuned = save(tmp_path / "tuned", moved(state, generator) | {"value_head.weight": torch.ones(1, 8)})
    (tuned / "pytorch_model.bin").write_bytes(b"never opened")
    plan = planned(tuned, save(tmp_path / "base", state | {"pooler.weight": torch.ones(8, 8)}))
    found = status(plan)
    assert (found["value_head.weight"], found["pooler.weight"]) == ("new", "skipped")
    assert found["pytorch_model.bin"] == "skipped"


def test_the_same_files_are_refused(tmp_path: Path, generator: torch.Generator) -> None:
    folder = save(tmp_path / "model", llama(generator))
    (tmp_path / "link").symlink_to(folder)
    for other in (folder, folder / "model.safetensors", tmp_path / "link"):
        with pytest.raises(PairingError, match="base and tuned are the same files"):
            planned(folder, other)


def test_a_bare_stack_of_numbered_layers_is_paired(tmp_path: Path, generator: torch.Generator) -> None:
    state = {f"{i}.weight": torch.randn(4, 4, generator=generator) for i in (0, 2, 10)}
    plan = planned(save(tmp_path / "tuned", moved(state, generator)), save(tmp_path / "base", state))
    assert [(spec.module, spec.identity.layer, spec.identity.kind) for spec in plan.specs] == [
        ("0", 0, "other"),
        ("2", 2, "other"),
        ("10", 10, "other"),
    ]


def test_an_adapter_accounts_for_every_tensor_of_both_sides(tmp_path: Path, generator: torch.Generator) -> None:
    state = llama(generator)
    adapter = factors(generator) | factors(generator, "model.layers.1.mlp.up_proj", shape=(12, 8))
    adapter |= {"base_model.model.lm_head.weight": torch.randn(20, 8, generator=generator)}
    folder, base = save_adapter(tmp_path / "adapter", adapter), save(tmp_path / "base", state)
    planned(folder, None)
    plan = planned(folder, base)
    assert {row.status for row in plan.coverage if row.side == "tuned"} == {"analysed"}
    found = status(plan)
    assert found["model.layers.0.self_attn.q_proj.weight"] == "analysed"
    assert found["model.layers.1.self_attn.q_proj.weight"] == "identical"
    assert_shares_sum_to_one(analyze(folder, base))
