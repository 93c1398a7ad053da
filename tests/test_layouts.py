"""Stacks of experts, convolutions and fused weights: every matrix by itself, every tensor with one row."""

from pathlib import Path
from typing import Any

import pytest
import torch

from rank_lab import Checkpoint, analyze, plan_updates, read_update
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
    rank_lab,
    save,
    save_adapter,
)

EXPERTS = "model.layers.0.mlp.experts"


def planned(tuned: Path, base: Path, **options: Any) -> Plan:
    plan = plan_updates(Checkpoint.open(tuned), Checkpoint.open(base), **options)
    assert_all_accounted_for(plan, tuned, base)
    return plan


def changes(plan: Plan) -> dict[str, torch.Tensor]:
    return {spec.module: read_update(spec).to_dense() for spec in plan.specs}


def mixture(generator: torch.Generator, *, transposed: bool = False) -> Tensors:
    """Three experts as transformers keeps them in memory, and a router."""
    gate_up, down = (3, 8, 12) if transposed else (3, 12, 8), (3, 6, 8) if transposed else (3, 8, 6)
    return {
        f"{EXPERTS}.gate_up_proj": torch.randn(gate_up, generator=generator),
        f"{EXPERTS}.gate_up_proj_bias": torch.randn(3, 12, generator=generator),
        f"{EXPERTS}.down_proj": torch.randn(down, generator=generator),
        "model.layers.0.mlp.router.weight": torch.randn(3, 8, generator=generator),
    }


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize(("model_type", "transposed"), [("mixtral", False), ("gpt_oss", True), ("llama4", True)])
def test_every_expert_of_a_stack_is_a_matrix(
    tmp_path: Path, generator: torch.Generator, container: Container, model_type: str, transposed: bool
) -> None:
    state = mixture(generator, transposed=transposed)
    tuned = moved(state, generator)
    base = save(tmp_path / "base", state, config={"model_type": model_type})
    plan = planned(save(tmp_path / "tuned", tuned, container=container), base)
    found = changes(plan)
    assert len(found) == 7
    for leaf, shape in (("gate_up_proj", (12, 8)), ("down_proj", (8, 6))):
        stored = tuned[f"{EXPERTS}.{leaf}"].double() - state[f"{EXPERTS}.{leaf}"].double()
        for expert in range(3):
            spec = next(spec for spec in plan.specs if spec.module == f"{EXPERTS}.{expert}.{leaf}")
            assert (spec.identity.expert, spec.identity.layer, spec.shape, spec.note) == (expert, 0, shape, "")
            assert found[spec.module].equal(stored[expert].T if transposed else stored[expert])
    rows = {row.tensor: row for row in plan.coverage}
    assert rows[f"{EXPERTS}.gate_up_proj_bias"].status == "vector"
    row = rows[f"{EXPERTS}.down_proj"]
    assert (row.status, row.reason, row.module) == ("analysed", "3 experts: 3 matrices", f"{EXPERTS}.down_proj")


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (None, "no config.json names the architecture"),
        ({"model_type": "of_tomorrow"}, "no table entry for the expert stacks of of_tomorrow"),
        ({"model_type": "qwen3_vl_moe"}, "hub files of qwen3_vl_moe are transposed, saved ones are not"),
    ],
)
def test_an_unknown_orientation_of_a_stack_is_noted(
    tmp_path: Path, generator: torch.Generator, config: dict[str, Any] | None, why: str
) -> None:
    state = mixture(generator)
    plan = planned(save(tmp_path / "tuned", moved(state, generator)), save(tmp_path / "base", state, config=config))
    spec = next(spec for spec in plan.specs if spec.module == f"{EXPERTS}.1.gate_up_proj")
    assert (spec.shape, spec.note) == (
        (12, 8),
        f"orientation unknown ({why}): shape given as stored, spectrum unaffected",
    )


def test_experts_one_below_the_other_are_matrices_of_their_own(tmp_path: Path, generator: torch.Generator) -> None:
    start = "transformer.blocks.0.ffn.experts"
    state = {f"{start}.mlp.{leaf}": torch.randn(12, 8, generator=generator) for leaf in ("w1", "v1", "w2")}
    tuned = moved(state, generator)
    config = {"model_type": "dbrx", "ffn_config": {"moe_num_experts": 3, "ffn_hidden_size": 4}}
    base = save(tmp_path / "base", state, config=config)
    plan = planned(save(tmp_path / "tuned", tuned), base)
    found = changes(plan)
    for leaf in ("w1", "v1", "w2"):
        whole = tuned[f"{start}.mlp.{leaf}"].double() - state[f"{start}.mlp.{leaf}"].double()
        for expert, change in enumerate(whole.view(3, 4, 8)):
            assert found[f"{start}.{expert}.mlp.{leaf}"].equal(change.T if leaf == "w2" else change)
    assert {spec.identity.expert for spec in plan.specs} == {0, 1, 2}
    assert {row.reason for row in plan.coverage} == {"3 experts: 3 matrices"}
    (base / "config.json").unlink()
    assert len(planned(tmp_path / "tuned", base).specs) == 3


@pytest.mark.parametrize("transposed", [False, True])
def test_a_model_type_of_both_orientations_goes_by_its_config(
    tmp_path: Path, generator: torch.Generator, transposed: bool
) -> None:
    state = mixture(generator, transposed=transposed)
    config = {"model_type": "qwen3_vl_moe", "text_config": {"hidden_size": 8, "moe_intermediate_size": 6}}
    base = save(tmp_path / "base", state, config=config)
    plan = planned(save(tmp_path / "tuned", moved(state, generator)), base)
    shapes = {spec.module.rsplit(".", 1)[-1]: (spec.shape, spec.note) for spec in plan.specs}
    assert (shapes["gate_up_proj"], shapes["down_proj"]) == (((12, 8), ""), ((8, 6), ""))


def test_the_row_of_a_stack_speaks_for_all_its_experts(tmp_path: Path, generator: torch.Generator) -> None:
    state = mixture(generator) | {f"{EXPERTS}.up_proj": torch.ones(2, 4, 4), "layers.0.experts.w1": torch.ones(2, 3, 3)}
    tuned = moved(state, generator) | {f"{EXPERTS}.up_proj": torch.ones(2, 4, 4)}
    tuned["layers.0.experts.w1"][1, 0, 0] = torch.nan
    report = analyze(save(tmp_path / "tuned", tuned), save(tmp_path / "base", state))
    coverage = report.coverage.set_index("tensor")
    row = coverage.loc[f"{EXPERTS}.gate_up_proj"]
    change = tuned[f"{EXPERTS}.gate_up_proj"].double() - state[f"{EXPERTS}.gate_up_proj"].double()
    assert row["status"] == "analysed"
    assert row["frobenius_norm"] == pytest.approx(float(change.norm()), rel=1e-12)
    shares = report.updates[report.updates["module"].str.contains(r"experts\.\d\.gate_up")]["change_share"]
    assert row["change_share"] == pytest.approx(shares.sum(), rel=1e-12)
    assert len(row["tuned_digest"]) == 32
    assert coverage.loc[f"{EXPERTS}.up_proj", "status"] == "identical"
    broken = coverage.loc["layers.0.experts.w1"]
    assert (broken["status"], bool(broken["failed"])) == ("skipped", True)
    assert broken["reason"].startswith("1 of 2 matrices failed: 1 NaN or infinite values in the tuned tensor")


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_convolution_is_its_output_against_the_rest(
    tmp_path: Path, generator: torch.Generator, container: Container
) -> None:
    shapes = {
        "conv1.weight": (6, 2, 3),
        "patch_embeddings.projection.weight": (6, 3, 4, 4),
        "stem.weight": (4, 2, 2, 2, 2),
    }
    state = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    tuned = moved(state, generator)
    plan = planned(save(tmp_path / "tuned", tuned, container=container), save(tmp_path / "base", state))
    for spec in plan.specs:
        name = f"{spec.module}.weight"
        change = (tuned[name].double() - state[name].double()).flatten(1)
        assert (spec.shape, spec.identity.kind) == (tuple(change.shape), "conv")
        assert read_update(spec).to_dense().equal(change)
        assert spec.note == f"convolution {list(shapes[name])}: the first dimension against all others, as stored"
    assert {row.status for row in plan.coverage} == {"analysed"}
    assert len(plan.specs) == 3


def test_gpt2_is_taken_apart_on_request_only(tmp_path: Path, generator: torch.Generator) -> None:
    state = gpt2(generator)
    tuned = moved(state, generator)
    base = save(tmp_path / "base", state, config={"model_type": "gpt2"})
    save(tmp_path / "tuned", tuned)
    fused = "transformer.h.0.attn.c_attn"
    assert fused in changes(planned(tmp_path / "tuned", base))
    plan = planned(tmp_path / "tuned", base, split_fused=True)
    whole = (tuned[f"{fused}.weight"].double() - state[f"{fused}.weight"].double()).T
    found = changes(plan)
    for name, change in zip(("q_proj", "k_proj", "v_proj"), whole.split(8), strict=True):
        assert found[f"{fused}.{name}"].equal(change)
    assert [spec.identity.kind for spec in plan.specs if fused in spec.module] == ["k", "q", "v"]
    row = next(row for row in plan.coverage if row.tensor == f"{fused}.weight")
    assert (row.module, row.reason) == (fused, "fused: 3 matrices")
    assert row.parts == tuple(f"{fused}.{name}" for name in ("q_proj", "k_proj", "v_proj"))


@pytest.mark.parametrize("model_type", ["mixtral", "gpt_oss"])
def test_experts_are_taken_apart_on_request(tmp_path: Path, generator: torch.Generator, model_type: str) -> None:
    state = mixture(generator, transposed=model_type == "gpt_oss")
    tuned = moved(state, generator)
    base = save(tmp_path / "base", state, config={"model_type": model_type})
    found = changes(planned(save(tmp_path / "tuned", tuned), base, split_fused=True))
    whole = tuned[f"{EXPERTS}.gate_up_proj"].double() - state[f"{EXPERTS}.gate_up_proj"].double()
    for expert in range(3):
        gate, up = whole[expert].chunk(2) if model_type == "mixtral" else (whole[expert].T[::2], whole[expert].T[1::2])
        assert found[f"{EXPERTS}.{expert}.gate_up_proj.gate_proj"].equal(gate)
        assert found[f"{EXPERTS}.{expert}.gate_up_proj.up_proj"].equal(up)
    assert len(found) == 3 * 2 + 3 + 1


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (None, "orientation unknown (no config.json names the architecture)"),
        ({"model_type": "of_tomorrow"}, "kept fused: no table entry says how of_tomorrow takes c_attn apart"),
        (
            {"model_type": "gpt_bigcode"},
            "kept fused: config.json of the gpt_bigcode model does not settle it (no multi_query)",
        ),
        (
            {"model_type": "gpt_bigcode", "multi_query": True, "n_head": 7},
            "kept fused: config.json of the gpt_bigcode model does not settle it (24 outputs for 7 heads and twice 1)",
        ),
    ],
)
def test_what_nobody_knows_stays_fused(
    tmp_path: Path, generator: torch.Generator, config: dict[str, Any] | None, reason: str
) -> None:
    state = {"h.0.attn.c_attn.weight": torch.randn(24, 8, generator=generator)}
    base = save(tmp_path / "base", state, config=config)
    plan = planned(save(tmp_path / "tuned", moved(state, generator)), base, split_fused=True)
    assert [spec.module for spec in plan.specs] == ["h.0.attn.c_attn"]
    assert plan.specs[0].note.startswith(reason)


def test_an_adapter_is_not_taken_apart(tmp_path: Path, generator: torch.Generator) -> None:
    folder = save_adapter(tmp_path / "adapter", factors(generator))
    with pytest.raises(PairingError, match="an adapter's updates are not taken apart; leave out --split-fused"):
        plan_updates(Checkpoint.open(folder), split_fused=True)


def test_the_command_line_takes_fused_weights_apart(tmp_path: Path, generator: torch.Generator) -> None:
    state = gpt2(generator)
    base = save(tmp_path / "base", state, config={"model_type": "gpt2"})
    tuned = save(tmp_path / "tuned", moved(state, generator))
    done = rank_lab("analyze", tuned, "--base", base, "-o", tmp_path / "study", "--split-fused")
    assert done.code == 0, done.err
    shown = rank_lab("show", tmp_path / "study", "--modules")
    assert "c_attn.q_proj" in shown.out
    assert "c_attn.v_proj" in shown.out


def phi3(generator: torch.Generator) -> tuple[Tensors, Tensors, dict[str, Any]]:
    """A Phi-3 with fused weights, the same with split ones, and its config."""
    split = {name: value for name, value in llama(generator, layers=1).items() if ".mlp." not in name}
    start = "model.layers.0"
    split |= {
        f"{start}.self_attn.v_proj.weight": torch.randn(4, 8, generator=generator),
        f"{start}.mlp.gate_proj.weight": torch.randn(12, 8, generator=generator),
        f"{start}.mlp.up_proj.weight": torch.randn(12, 8, generator=generator),
    }
    taken = {
        part: split[f"{start}.{part}_proj.weight"]
        for part in ("self_attn.q", "self_attn.k", "self_attn.v", "mlp.gate", "mlp.up")
    }
    fused = {name: value for name, value in split.items() if not any(f".{part}_proj." in name for part in taken)}
    fused[f"{start}.self_attn.qkv_proj.weight"] = torch.cat([taken[f"self_attn.{part}"] for part in "qkv"])
    fused[f"{start}.mlp.gate_up_proj.weight"] = torch.cat([taken["mlp.gate"], taken["mlp.up"]])
    return fused, split, {"model_type": "phi3", "num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.mark.parametrize("fused_side", ["tuned", "base"])
def test_a_fused_file_meets_a_split_one(tmp_path: Path, generator: torch.Generator, fused_side: str) -> None:
    fused, split, config = phi3(generator)
    other = moved(split, generator)
    base = save(tmp_path / "fused", fused, config=config)
    split_folder = save(tmp_path / "split", other)
    sides = (base, split_folder) if fused_side == "tuned" else (split_folder, base)
    plan = planned(*sides)
    sign = -1 if fused_side == "tuned" else 1
    found = changes(plan)
    assert set(found) == {name.removesuffix(".weight") for name in split if split[name].ndim == 2}
    for module, change in found.items():
        assert change.equal(sign * (other[f"{module}.weight"].double() - split[f"{module}.weight"].double())), module
    report = analyze(*sides)
    coverage = report.coverage.set_index("tensor")
    name = "model.layers.0.self_attn.qkv_proj.weight"
    assert set(coverage["status"]) == {"analysed", "vector"}
    total = report.updates["change_share"].sum() + coverage.loc[coverage["status"] == "vector", "change_share"].sum()
    assert total == pytest.approx(1.0, abs=1e-12)
    assert (
        coverage.loc[name, "reason"]
        == f"fused here, split in the {'base' if fused_side == 'tuned' else 'tuned checkpoint'}"
    )
    assert not coverage["failed"].any()


@pytest.mark.parametrize("fused_side", ["tuned", "base"])
def test_the_biases_of_fused_and_split_weights_meet(
    tmp_path: Path, generator: torch.Generator, fused_side: str
) -> None:
    # GPT-NeoX: of each head first the query, then the key, then the value
    weight, bias = torch.randn(24, 8, generator=generator), torch.randn(24, generator=generator)
    start = "gpt_neox.layers.0.attention"
    fused = {f"{start}.query_key_value.weight": weight, f"{start}.query_key_value.bias": bias}
    split: Tensors = {}
    for at, name in enumerate(("q_proj", "k_proj", "v_proj")):
        split[f"{start}.{name}.weight"] = weight.view(2, 3, 4, 8)[:, at].reshape(8, 8)
        split[f"{start}.{name}.bias"] = bias.view(2, 3, 4)[:, at].reshape(8)
    other = moved(split, generator)
    config = {"model_type": "gpt_neox", "num_attention_heads": 2}
    folders = (save(tmp_path / "fused", fused, config=config), save(tmp_path / "split", other))
    sides = folders if fused_side == "tuned" else folders[::-1]
    for module, change in changes(planned(*sides)).items():
        expected = other[f"{module}.weight"].double() - split[f"{module}.weight"].double()
        assert change.equal(-expected if fused_side == "tuned" else expected)
    coverage = analyze(*sides).coverage.set_index("tensor")
    for name in ("q_proj", "k_proj", "v_proj"):
        change = other[f"{start}.{name}.bias"].double() - split[f"{start}.{name}.bias"].double()
        row = coverage.loc[f"{start}.{name}.bias"]
        assert (row["status"], row["frobenius_norm"]) == ("vector", pytest.approx(float(change.norm()), rel=1e-12))
    assert coverage.loc[f"{start}.query_key_value.bias", "status"] == "skipped"
    assert not coverage["failed"].any()


def test_a_fused_file_of_no_known_arrangement_is_refused(tmp_path: Path, generator: torch.Generator) -> None:
    fused, split, config = phi3(generator)
    base = save(tmp_path / "base", split, config=config | {"model_type": "of_tomorrow"})
    with pytest.raises(PairingError, match=r"have no partner by name; nearest: .*qkv_proj"):
        planned(save(tmp_path / "tuned", fused), base)
