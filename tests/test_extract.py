"""Extraction: planted updates come back, errors are certified, and PEFT loads what was written."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rank_lab import Checkpoint, analyze, plan_updates, read_update
from rank_lab.budget import plan_ranks
from rank_lab.errors import BudgetError, CheckpointError, NonFiniteError, RankLabError, SchemaError
from rank_lab.extraction import RankChoice, extract
from rank_lab.plan_file import PLAN_VERSION, Promise, StoredPlan, plan_content, read_plan
from rank_lab.report_spectra import module_spectra
from rank_lab.truncation import residual_norm, truncated_factors
from rank_lab.update import DenseUpdate, LowRankUpdate, MemoryMatrix
from tests.checkpoints import Tensors, factors, llama, moved, save, save_adapter

Q = "model.layers.0.self_attn.q_proj"


def low_rank(generator: torch.Generator, shape: tuple[int, int], rank: int, size: float = 0.01) -> torch.Tensor:
    left, right = (torch.randn(side, generator=generator) for side in ((shape[0], rank), (rank, shape[1])))
    return size * left @ right


def matrices(state: Tensors) -> list[str]:
    return [name for name, value in state.items() if value.ndim == 2]


def deltas(adapter: Path) -> dict[str, torch.Tensor]:
    """By our own reader."""
    plan = plan_updates(Checkpoint.open(adapter))
    return {spec.module: read_update(spec).to_dense() for spec in plan.specs}


@pytest.fixture
def pair(tmp_path: Path, generator: torch.Generator) -> tuple[Path, Path]:
    """A Llama of width 32 and the same with its matrices moved by full-rank noise."""
    state = llama(generator, width=32)
    return save(tmp_path / "base", state), save(tmp_path / "tuned", moved(state, generator))


def test_a_merged_lora_comes_back(tmp_path: Path, generator: torch.Generator) -> None:
    base = llama(generator, layers=1, width=64)
    change = {name: low_rank(generator, tuple(base[name].shape), 8) for name in matrices(base)}
    tuned = {name: value + change[name] if name in change else value for name, value in base.items()}
    made = extract(
        save(tmp_path / "tuned", tuned), save(tmp_path / "base", base), tmp_path / "lora", RankChoice(energy=1 - 1e-7)
    )
    assert {one.rank for one in made.modules} == {8}
    assert made.relative_error < 2e-5  # float32's rounding of weights of 1 beside a change of 0.03
    found = deltas(tmp_path / "lora")
    for name, delta in change.items():
        torch.testing.assert_close(found[name.removesuffix(".weight")].float(), delta, atol=2e-6, rtol=0)
    assert not made.left_out
    assert math.isclose(made.whole_error, made.relative_error)


def test_errors_are_those_of_the_truncated_svd(pair: tuple[Path, Path], tmp_path: Path) -> None:
    base, tuned = pair
    made = extract(tuned, base, tmp_path / "lora", RankChoice(rank=3))
    before, after = (load_file(folder / "model.safetensors") for folder in (base, tuned))
    found = deltas(tmp_path / "lora")
    assert {one.module for one in made.modules} == {name.removesuffix(".weight") for name in matrices(before)}
    for one in made.modules:
        delta = after[f"{one.module}.weight"].double() - before[f"{one.module}.weight"].double()
        values = torch.linalg.svdvals(delta)
        expected = float(values[3:].norm() / values.norm())
        assert one.promised_error == pytest.approx(expected, rel=1e-6)
        assert one.relative_error == pytest.approx(expected, rel=1e-6)
        assert float((delta - found[one.module]).norm() / delta.norm()) == pytest.approx(one.relative_error, rel=1e-6)
        assert 0 < one.rounding_error < 1e-6
    vectors = {one.name: one for one in made.left_out}
    assert set(vectors) == {name for name, value in before.items() if value.ndim == 1}
    total = sum(float((after[name].double() - before[name].double()).square().sum()) for name in before)
    for name, one in vectors.items():
        share = float((after[name].double() - before[name].double()).square().sum()) / total
        assert made.share(one.frobenius_norm) == pytest.approx(share)
    stored = json.loads((tmp_path / "lora" / "extracted.json").read_text())
    assert stored["totals"]["relative_error"] == made.relative_error
    assert stored["provenance"]["base"]["source"] == str(base)


def test_extract_then_analyze(pair: tuple[Path, Path], tmp_path: Path) -> None:
    base, tuned = pair
    extract(tuned, base, tmp_path / "lora", RankChoice(parameters=3000))
    made = json.loads((tmp_path / "lora" / "extracted.json").read_text())
    first, again = analyze(tuned, base), analyze(tmp_path / "lora")
    ranks = {one["module"]: one["rank"] for one in made["modules"]}
    assert dict(zip(again.updates["module"], again.updates["numerical_rank"], strict=True)) == ranks
    assert sum(one["parameters"] for one in made["modules"]) <= 3000
    for module, rank in ranks.items():
        np.testing.assert_allclose(again.values(module)[:rank], first.values(module)[:rank], rtol=1e-5)


def test_rounding_of_bfloat16_files_is_not_bought(tmp_path: Path, generator: torch.Generator) -> None:
    shape = (128, 96)
    base = {f"{Q}.weight": (0.02 * torch.randn(shape, generator=generator)).bfloat16()}
    change = low_rank(generator, shape, 4, size=3e-4)
    tuned = {f"{Q}.weight": (base[f"{Q}.weight"].float() + change).bfloat16()}
    folders = save(tmp_path / "tuned", tuned), save(tmp_path / "base", base)
    made = extract(*folders, tmp_path / "lora", RankChoice(parameters=10**6))
    (one,) = made.modules
    assert one.rank == 4
    assert one.relative_error == pytest.approx(one.promised_error, rel=1e-3)
    assert one.promised_error > 0.01  # what is left is rounding
    error = float((deltas(tmp_path / "lora")[Q] - change).norm() / change.norm())
    assert error < one.relative_error  # the adapter is nearer to what was planted than to the files
    with pytest.raises(BudgetError, match="out of reach"):
        extract(*folders, tmp_path / "all", RankChoice(energy=0.999999))
    bought = extract(*folders, tmp_path / "all", RankChoice(parameters=10**6, above_noise=False))
    assert bought.modules[0].rank > 90


def test_factors_in_bfloat16_say_what_their_rounding_added(pair: tuple[Path, Path], tmp_path: Path) -> None:
    base, tuned = pair
    exact = extract(tuned, base, tmp_path / "exact", RankChoice(rank=20))
    made = extract(tuned, base, tmp_path / "lora", RankChoice(rank=20), dtype="bfloat16")
    assert {value.dtype for value in load_file(tmp_path / "lora" / "adapter_model.safetensors").values()} == {
        torch.bfloat16
    }
    for one, other in zip(made.modules, exact.modules, strict=True):
        assert 5e-4 < one.rounding_error < 5e-3  # 2^-9 of each entry at most
        assert one.relative_error <= other.relative_error + one.rounding_error + 1e-6
        assert one.relative_error > one.promised_error


def test_adapters_of_other_ranks_are_cut(tmp_path: Path, generator: torch.Generator) -> None:
    adapter = save_adapter(tmp_path / "adapter", factors(generator, Q, rank=6), r=6, lora_alpha=24)
    made = extract(adapter, None, tmp_path / "lora", RankChoice(rank=2))
    (one,) = made.modules
    delta = deltas(adapter)[Q]
    values = torch.linalg.svdvals(delta)
    assert one.relative_error == pytest.approx(float(values[2:].norm() / values.norm()), rel=1e-6)
    assert one.method == "factors"
    whole = extract(adapter, None, tmp_path / "whole", RankChoice(rank=6))
    assert whole.relative_error < 1e-6
    torch.testing.assert_close(deltas(tmp_path / "whole")[Q], delta, rtol=1e-5, atol=1e-5)


def test_what_a_lora_cannot_carry_is_listed_with_its_share(tmp_path: Path, generator: torch.Generator) -> None:
    state = llama(generator, layers=1, width=16) | {
        "model.layers.0.conv.weight": torch.randn(8, 4, 3, 3, generator=generator),
        "model.layers.0.mlp.experts.down_proj": torch.randn(2, 16, 12, generator=generator),
        "model.layers.0.self_attn.q_proj.bias": torch.randn(16, generator=generator),
        "model.position": torch.randn(6, 16, generator=generator),
    }
    tuned = moved(state, generator) | {"score.weight": torch.ones(2, 16)}
    tuned["model.embed_tokens.weight"] = torch.cat([tuned["model.embed_tokens.weight"], torch.ones(3, 16)])
    made = extract(save(tmp_path / "t", tuned), save(tmp_path / "b", state), tmp_path / "lora", RankChoice(rank=4))
    reasons = {one.name: one.reason for one in made.left_out}
    expected = {
        "model.layers.0.conv": "convolution",
        "model.layers.0.mlp.experts.0.down_proj": "expert",
        "model.layers.0.mlp.experts.1.down_proj": "expert",
        "model.layers.0.self_attn.q_proj.bias": "no matrix",
        "model.position": "parameter that is no module",
        "model.embed_tokens": "resized",
        "score.weight": "only in the tuned",
    }
    for name, says in expected.items():
        assert says in reasons[name], name
    assert not set(expected) & {one.module for one in made.modules}
    known = [made.share(one.frobenius_norm) for one in made.left_out if not math.isnan(one.frobenius_norm)]
    kept = [made.share(one.frobenius_norm) for one in made.modules]
    assert math.fsum(known + kept) == pytest.approx(1.0)
    assert math.isnan(next(one.frobenius_norm for one in made.left_out if one.name == "score.weight"))


def test_a_head_of_the_same_bytes_as_the_embedding_is_tied(tmp_path: Path, generator: torch.Generator) -> None:
    state = llama(generator, layers=1)
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    tuned = moved(state, generator)
    tuned["lm_head.weight"] = tuned["model.embed_tokens.weight"].clone()
    made = extract(save(tmp_path / "t", tuned), save(tmp_path / "b", state), tmp_path / "lora", RankChoice(rank=4))
    left = {one.name: one.reason for one in made.left_out}
    assert "lm_head is tied to it" in left["model.embed_tokens"]
    assert "lm_head" not in {one.module for one in made.modules}


def test_a_class_of_transformers_says_what_its_layers_are(tmp_path: Path, generator: torch.Generator) -> None:
    state = llama(generator, layers=1, width=8) | {
        "model.layers.0.extra.weight": torch.randn(8, 8, generator=generator)
    }
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8, "intermediate_size": 12,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 20,
        "tie_word_embeddings": False,
    }  # fmt: skip
    tuned = save(tmp_path / "t", moved(state, generator), config=config)
    made = extract(tuned, save(tmp_path / "b", state, config=config), tmp_path / "lora", RankChoice(rank=2))
    reasons = {one.name: one.reason for one in made.left_out}
    assert reasons["model.layers.0.extra"] == "LlamaForCausalLM has no layer at this path"
    assert json.loads((tmp_path / "lora" / "adapter_config.json").read_text())["task_type"] == "CAUSAL_LM"


def stored_plan(tuned: Path, base: Path, file: Path, **asked: Any) -> Path:
    report = analyze(tuned, base)
    plan = plan_ranks(module_spectra(report.updates, report.spectra), **asked)
    file.write_text(json.dumps(plan_content(plan, {}, {}), allow_nan=False))
    return file


def test_a_plan_from_a_file(pair: tuple[Path, Path], tmp_path: Path) -> None:
    base, tuned = pair
    file = stored_plan(tuned, base, tmp_path / "a.plan.json", parameters=3000)
    made = extract(tuned, base, tmp_path / "lora", RankChoice(plan=read_plan(file)))
    at_once = extract(tuned, base, tmp_path / "again", RankChoice(parameters=3000))
    assert [(one.module, one.rank) for one in made.modules] == [(one.module, one.rank) for one in at_once.modules]
    assert made.relative_error == pytest.approx(at_once.relative_error, rel=1e-9)
    assert json.loads(file.read_text())["config"]["r"] > 0


def test_a_plan_of_another_model_or_run(pair: tuple[Path, Path], tmp_path: Path, generator: torch.Generator) -> None:
    base, tuned = pair
    plan = read_plan(stored_plan(tuned, base, tmp_path / "a.json", rank=2))
    other = save(tmp_path / "other", llama(generator, layers=1, width=32))
    moved_other = save(tmp_path / "moved", moved(load_file(other / "model.safetensors"), generator))
    with pytest.raises(BudgetError, match=r"4 modules of the plan are not among.*another model"):
        extract(moved_other, other, tmp_path / "lora", RankChoice(plan=plan))
    again = save(tmp_path / "again", moved(load_file(base / "model.safetensors"), generator))
    with pytest.raises(BudgetError, match="the plan is of another checkpoint"):
        extract(again, base, tmp_path / "lora", RankChoice(plan=plan))
    narrow = save(tmp_path / "narrow", llama(generator, width=16))
    with pytest.raises(BudgetError, match=r"in the plan, the update has shape"):
        extract(
            save(tmp_path / "n", moved(llama(generator, width=16), generator)),
            narrow,
            tmp_path / "l",
            RankChoice(plan=plan),
        )
    assert not list(tmp_path.glob("*lora*"))


def test_an_error_that_was_not_promised_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    base, tuned = pair
    plan = read_plan(stored_plan(tuned, base, tmp_path / "a.json", rank=2))
    for error in (0.5, 0.9999):  # better and worse than can be
        promises = {
            module: Promise(each.rank, each.shape, each.frobenius_norm, error) for module, each in plan.promises.items()
        }
        with pytest.raises(RankLabError, match=r"where the spectrum promised 0\.\d+ and rounding explains"):
            extract(tuned, base, tmp_path / "lora", RankChoice(plan=StoredPlan(promises, {})))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "base", "tuned"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "is no plan of ranks"),
        ("[]", "is no plan of ranks"),
        (json.dumps({"plan_version": PLAN_VERSION + 1}), "a plan of version 2, this rank_lab reads 1"),
        (json.dumps({"plan_version": 1, "modules": [{"module": "q"}], "asked": {}}), "cannot be read"),
        (json.dumps({"plan_version": 1, "modules": [], "asked": {}}), "gives no module a rank"),
        (
            json.dumps(
                {"plan_version": 1, "asked": {}, "modules": [
                    {"module": "q", "rank": 9, "out_features": 4, "in_features": 4, "frobenius_norm": 1.0,
                     "relative_error": 0.1}]}
            ),
            "rank 9 of shape",
        ),
        (
            json.dumps(
                {"plan_version": 1, "asked": {}, "modules": [
                    {"module": "q", "rank": 2, "out_features": 4, "in_features": 4, "frobenius_norm": None,
                     "relative_error": 0.1}]}
            ),
            "rank 2 of an update of norm nan",
        ),
    ],
)  # fmt: skip
def test_plans_that_are_none(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(SchemaError, match=says):
        read_plan(tmp_path / "a.json")
    with pytest.raises(SchemaError, match="is no plan"):
        read_plan(tmp_path / "absent.json")


def test_bad_input(pair: tuple[Path, Path], tmp_path: Path) -> None:
    base, tuned = pair
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept").write_text("mine")
    with pytest.raises(CheckpointError, match="is there already"):
        extract(tuned, base, tmp_path / "full", RankChoice(rank=1))
    with pytest.raises(BudgetError, match="one of a budget"):
        RankChoice()
    with pytest.raises(BudgetError, match="dtype 'int8': expected one of float32"):
        extract(tuned, base, tmp_path / "lora", RankChoice(rank=1), dtype="int8")
    large = {name: value * 1e6 for name, value in load_file(tuned / "model.safetensors").items()}
    huge = save(tmp_path / "huge", {name: value * 1e9 for name, value in large.items()})
    with pytest.raises(NonFiniteError, match="does not fit into float16"):
        extract(huge, base, tmp_path / "lora", RankChoice(rank=1), dtype="float16")
    assert (tmp_path / "full" / "kept").read_text() == "mine"
    assert not [path for path in tmp_path.iterdir() if "lora" in path.name]
    (tmp_path / "empty").mkdir()
    assert extract(tuned, base, tmp_path / "empty", RankChoice(rank=1)).modules


def test_a_nan_costs_its_module_alone(pair: tuple[Path, Path], tmp_path: Path) -> None:
    base, tuned = pair
    state = load_file(tuned / "model.safetensors")
    state[f"{Q}.weight"][0, 0] = math.nan
    save_file(state, tuned / "model.safetensors")
    made = extract(tuned, base, tmp_path / "lora", RankChoice(rank=1))
    left = {one.name: one for one in made.left_out}
    assert "NaN" in left[Q].reason
    assert math.isnan(left[Q].frobenius_norm)
    assert Q not in {one.module for one in made.modules}


@pytest.mark.parametrize(("decay", "method"), [(0.8, "randomized"), (1.0, "gram")])
@pytest.mark.parametrize("transposed", [False, True])
def test_factors_are_certified(generator: torch.Generator, transposed: bool, decay: float, method: str) -> None:
    """Also of a flat bulk, where randomised iteration is not near enough and the Gram route follows."""
    size, rank = (540, 512), 6
    left, right = (torch.linalg.qr(torch.randn(side, 512, generator=generator, dtype=torch.float64)).Q for side in size)
    values = decay ** torch.arange(512, dtype=torch.float64)
    if decay == 1.0:
        values = torch.linspace(1.0, 0.9, 512, dtype=torch.float64)
    update = DenseUpdate(MemoryMatrix(left * values @ right.T), transposed=transposed)
    optimum = float(values[rank:].norm())
    found, used = truncated_factors(update, rank, optimum)
    assert used == method
    assert found.shape == update.shape
    dense = float(torch.linalg.matrix_norm(update.to_dense() - found.to_dense()))
    assert residual_norm(update, found) == pytest.approx(dense, rel=1e-9)
    assert dense == pytest.approx(optimum, rel=2e-4)
    worse = LowRankUpdate(found.B * 0.5, found.A)
    assert residual_norm(update, worse) > dense
