"""Two runs compared: what is planted is found, what cannot be compared is a row with its reason."""

import io
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from rank_lab.errors import PairingError
from rank_lab.module_comparison import ComparisonOptions
from rank_lab.subspace_analysis import compare_runs
from rank_lab.subspace_report import SubspaceReport
from rank_lab.subspace_terminal import render_subspaces
from tests.checkpoints import Outcome, Tensors, factors, gpt2, llama, moved, rank_lab, save, save_adapter
from tests.peft_models import lora as lora_config
from tests.peft_models import trained
from tests.spectra import orthonormal
from tests.training_records import record

Q = "model.layers.0.self_attn.q_proj"
WIDTH = 32


def lora(module: str, B: torch.Tensor, A: torch.Tensor) -> Tensors:
    """PEFT's two tensors; the scaling of ``save_adapter`` is 2."""
    return {
        f"base_model.model.{module}.lora_A.weight": A.contiguous(),
        f"base_model.model.{module}.lora_B.weight": B.contiguous(),
    }


def small(generator: torch.Generator) -> Tensors:
    return {name: 0.1 * value for name, value in llama(generator, width=WIDTH).items()}


def of(table: pd.DataFrame, **chosen: object) -> pd.DataFrame:
    for column, value in chosen.items():
        table = table[table[column] == value]
    return table


@pytest.fixture
def pair(tmp_path: Path, generator: torch.Generator) -> tuple[Path, Path, Path]:
    """Two adapters at 0.3 and 0.8 radians on the left, equal on the right, and their base."""
    axes, right = orthonormal(WIDTH, 4, generator), orthonormal(WIDTH, 2, generator)
    turned = axes[:, :2] * torch.tensor([0.3, 0.8]).cos() + axes[:, 2:] * torch.tensor([0.3, 0.8]).sin()
    sizes = torch.tensor([3.0, 2.0])
    one = save_adapter(tmp_path / "one", lora(Q, axes[:, :2] * sizes, right.T))
    two = save_adapter(tmp_path / "two", lora(Q, turned * sizes, right.T))
    return one, two, save(tmp_path / "base", small(generator))


def test_planted_angles_come_back_from_files(pair: tuple[Path, Path, Path]) -> None:
    report = compare_runs(pair[0], pair[1])
    left, right = (of(report.angles, side=side) for side in ("left", "right"))
    assert left["angle"].tolist() == pytest.approx([0.3, 0.8])
    assert right["angle"].tolist() == pytest.approx([0.0, 0.0], abs=1e-7)
    assert left["cosine"].tolist() == pytest.approx(np.cos([0.3, 0.8]))
    assert (left["null_cosine"] < left["cosine"]).all()
    assert set(left["resolved_a"]) == set(left["k_b"]) == {2}
    assert left["geodesic"].iloc[0] == pytest.approx(math.hypot(0.3, 0.8))
    phi = of(report.phi, side="left").set_index(["i", "j"])["phi"]
    assert phi[(1, 1)] == pytest.approx(np.cos(0.3) ** 2)
    assert phi[(2, 2)] == pytest.approx((np.cos(0.3) ** 2 + np.cos(0.8) ** 2) / 2)
    assert of(report.phi, side="right")["phi"].iloc[-1] == pytest.approx(1.0)
    assert of(report.phi, i=1, j=2)["null"].tolist() == [2 / WIDTH] * 3
    (row,) = report.coverage.itertuples()
    assert (row.status, row.failed, row.module) == ("compared", False, Q)
    assert "no base weight: give --base" in row.reason
    assert not len(report.intruders)
    assert not len(report.amplification)


def test_phi_of_the_paper_is_that_of_the_matrix_a(tmp_path: Path, generator: torch.Generator) -> None:
    """One A, two B: the update's leading right vectors differ, those of A do not."""
    A = torch.diag(torch.tensor([2.0, 1.0])) @ orthonormal(WIDTH, 2, generator).T.float()
    left = orthonormal(WIDTH, 2, generator).float()
    one = save_adapter(tmp_path / "one", lora(Q, left * torch.tensor([3.0, 1.0]), A))
    two = save_adapter(tmp_path / "two", lora(Q, left * torch.tensor([0.1, 3.0]), A))
    report = compare_runs(one, two)
    assert of(report.phi, side="A", i=1, j=1)["phi"].item() == pytest.approx(1.0)
    assert of(report.phi, side="right", i=1, j=1)["phi"].item() == pytest.approx(0.0, abs=1e-9)


def test_an_adapter_and_its_merge_are_the_same_in_every_table(tmp_path: Path, generator: torch.Generator) -> None:
    state = {name: value.double() for name, value in small(generator).items()}
    tensors = {name: 3.0 * value for name, value in factors(generator, Q, shape=(WIDTH, WIDTH)).items()}
    adapter = save_adapter(tmp_path / "adapter", tensors)
    B, A = (tensors[f"base_model.model.{Q}.lora_{part}.weight"].double() for part in "BA")
    merged = save(tmp_path / "merged", state | {f"{Q}.weight": state[f"{Q}.weight"] + 2.0 * B @ A})
    base = save(tmp_path / "base", state)
    report = compare_runs(adapter, merged, base, options=ComparisonOptions(k=2, intruder_ks=(2, 20)))
    assert of(report.angles, module=Q)["angle"].to_numpy() == pytest.approx(np.zeros(4), abs=1e-6)
    for name in ("amplification", "intruders"):
        table = getattr(report, name)
        one, two = (
            of(table, run=run).drop(columns=["run", "resolved"], errors="ignore") for run in ("adapter", "merged")
        )
        assert len(one)
        for column in one.columns.difference(["module", "kind", "side", "other_run", "step", "other_step"]):
            assert one[column].to_numpy(float) == pytest.approx(two[column].to_numpy(float), rel=1e-6, abs=1e-9), column
    assert (of(report.intruders, run="adapter", side="left", k=2, epsilon=0.9)["intruders"] == 2).all()


def test_amplification_and_intruders_of_a_planted_update(tmp_path: Path, generator: torch.Generator) -> None:
    state = small(generator)
    U, S, Vh = torch.linalg.svd(state[f"{Q}.weight"].double())
    known = lora(Q, 0.01 * U[:, [5]], Vh[[5]])
    fresh = lora(Q, 50.0 * orthonormal(WIDTH, 1, generator), orthonormal(WIDTH, 1, generator).T)
    base = save(tmp_path / "base", state)
    one, two = (save_adapter(tmp_path / n, t, r=1, lora_alpha=1) for n, t in (("one", known), ("two", fresh)))
    report = compare_runs(one, two, base)
    assert of(report.amplification, run="one")["amplification"].item() == pytest.approx(0.01 / float(S[5]), rel=1e-5)
    assert of(report.amplification, run="one")["own_projected_norm"].item() == pytest.approx(float(S[0]), rel=1e-5)
    norm = float(S.norm())
    assert of(report.amplification, run="two")["random_projected_norm"].item() == pytest.approx(norm / WIDTH, rel=1e-5)
    counts = of(report.intruders, side="left", k=10, epsilon=0.5).set_index("run")["intruders"]
    assert (counts["one"], counts["two"]) == (0, 1)
    assert of(report.intruders, run="one")["null"].notna().all()
    assert set(report.intruders["other_run"]) == {""}


def test_a_weight_that_lies_transposed_is_turned(tmp_path: Path, generator: torch.Generator) -> None:
    """GPT-2's c_proj is square and stored (in, out): taken the wrong way round its factor would be another."""
    state = gpt2(generator)
    weight = state["transformer.h.0.attn.c_proj.weight"].double().T
    U, S, Vh = torch.linalg.svd(weight)
    module = "transformer.h.0.attn.c_proj"
    one = save_adapter(tmp_path / "one", lora(module, U[:, [2]], Vh[[2]]), r=1, lora_alpha=1, fan_in_fan_out=True)
    two = save_adapter(tmp_path / "two", lora(module, U[:, [3]], Vh[[3]]), r=1, lora_alpha=1, fan_in_fan_out=True)
    base = save(tmp_path / "base", state, config={"model_type": "gpt2"})
    report = compare_runs(one, two, base)
    assert report.amplification["amplification"].tolist() == pytest.approx([1 / float(S[2]), 1 / float(S[3])], rel=1e-5)
    unknown = save(tmp_path / "unknown", state)
    refused = compare_runs(one, two, unknown)
    assert not len(refused.amplification)
    assert "square and nobody says which of its sides is the input" in refused.coverage["reason"].iloc[0]


def test_checkpoints_of_one_run_are_told_by_their_steps(tmp_path: Path, generator: torch.Generator) -> None:
    state = small(generator)
    base, run = save(tmp_path / "base", state), tmp_path / "run"
    for step in (5, 10):
        save(run / f"checkpoint-{step}", moved(state, generator))
    report = compare_runs(run / "checkpoint-5", run, base, options=ComparisonOptions(intruders=False))
    assert set(report.angles["run"]) == set(report.angles["other_run"]) == {"run"}
    assert (set(report.angles["step"]), set(report.angles["other_step"])) == ({5}, {10})
    assert report.provenance["settings"]["name"] == "run@5-run@10"
    assert report.provenance["second"]["steps_in_run"] == [5, 10]
    assert not len(report.intruders)
    assert set(report.amplification["step"]) == {5, 10}


def test_every_module_of_either_run_has_its_row(tmp_path: Path, generator: torch.Generator) -> None:
    other = "model.layers.1.self_attn.q_proj"
    one = (
        factors(generator, Q)
        | factors(generator, other)
        | factors(generator, "model.layers.1.mlp.up_proj", shape=(12, 8))
    )
    two = factors(generator, Q) | factors(generator, "model.layers.0.mlp.up_proj", shape=(12, 8))
    two |= factors(generator, "model.layers.1.mlp.up_proj", shape=(10, 8))
    one[f"base_model.model.{other}.lora_A.weight"] = torch.full((2, 8), torch.nan)
    two |= factors(generator, other)
    report = compare_runs(save_adapter(tmp_path / "one", one), save_adapter(tmp_path / "two", two))
    rows = report.coverage.set_index("module")
    assert rows["status"].to_dict() == {
        Q: "compared",
        other: "refused",
        "model.layers.1.mlp.up_proj": "refused",
        "model.layers.0.mlp.up_proj": "only",
    }
    assert rows["failed"].to_dict() == {module: status == "refused" for module, status in rows["status"].items()}
    assert "shape [12, 8] and [10, 8]" in rows.loc["model.layers.1.mlp.up_proj", "reason"]
    assert "NaN" in rows.loc[other, "reason"]
    assert rows.loc["model.layers.0.mlp.up_proj", "reason"] == "no update of this module in one"
    assert rows.loc["model.layers.0.mlp.up_proj", "run"] == "two"
    assert set(report.angles["module"]) == {Q}


def test_an_adapter_that_was_never_trained_has_no_direction(tmp_path: Path, generator: torch.Generator) -> None:
    start = lora(Q, torch.zeros(8, 2), torch.randn(2, 8, generator=generator))
    report = compare_runs(save_adapter(tmp_path / "start", start), save_adapter(tmp_path / "one", factors(generator)))
    assert report.coverage["status"].tolist() == ["zero"]
    assert report.coverage["reason"].str.startswith("the update of start is zero").all()
    assert not len(report.angles)


def test_rounding_is_told_from_directions(tmp_path: Path, generator: torch.Generator) -> None:
    state = {f"{Q}.weight": 0.02 * torch.randn(128, 128, generator=generator)}
    base = save(tmp_path / "base", {name: value.to(torch.bfloat16) for name, value in state.items()})
    runs = []
    for name in ("one", "two"):
        change = 3e-4 * torch.randn(128, 3, generator=generator) @ torch.randn(3, 128, generator=generator)
        tuned = (state[f"{Q}.weight"].to(torch.bfloat16).float() + change).to(torch.bfloat16)
        runs.append(save(tmp_path / name, {f"{Q}.weight": tuned}))
    report = compare_runs(*runs, base, options=ComparisonOptions(intruders=False))
    assert (set(report.angles["resolved_a"]), set(report.angles["resolved_b"])) == ({3}, {3})
    assert set(report.angles["k_a"]) == {16}
    assert set(report.amplification["resolved"]) == {3}


def test_a_broken_weight_costs_what_needs_it(pair: tuple[Path, Path, Path], tmp_path: Path) -> None:
    weight = torch.ones(WIDTH, WIDTH)
    weight[0, 0] = torch.nan
    report = compare_runs(pair[0], pair[1], save(tmp_path / "broken", {f"{Q}.weight": weight}))
    (row,) = report.coverage.itertuples()
    assert (row.status, row.failed) == ("compared", True)
    assert "one, in its weight: " in row.reason
    assert "NaN" in row.reason
    assert len(report.angles) == 4
    assert not len(report.intruders)


def test_an_embedding_has_its_own_matrix_a(tmp_path: Path, generator: torch.Generator) -> None:
    """PEFT's embedding factors are the other way round: A is (r, vocabulary), the update (vocabulary, width)."""
    name = "base_model.model.model.embed_tokens.lora_embedding_"
    A = torch.randn(2, 20, generator=generator)
    runs = [
        save_adapter(tmp_path / run, {f"{name}A": A, f"{name}B": torch.randn(8, 2, generator=generator)})
        for run in ("one", "two")
    ]
    report = compare_runs(*runs)
    found = of(report.phi, i=2, j=2).set_index("side")
    assert found["dimension"].to_dict() == {"left": 20, "right": 8, "A": 20}
    assert found.loc["A", "phi"] == found.loc["left", "phi"] == pytest.approx(1.0)
    assert found.loc["right", "phi"] < 0.9


def test_a_resized_vocabulary_is_compared_in_its_common_rows(tmp_path: Path, generator: torch.Generator) -> None:
    state, name = small(generator), "model.embed_tokens.weight"
    base, runs = save(tmp_path / "base", state), []
    for run, rows in (("longer", 24), ("same", 20)):
        change = torch.zeros(rows, WIDTH)
        change[3] = 1.0
        longer = torch.cat([state[name], torch.ones(rows - 20, WIDTH)]) + change
        runs.append(save(tmp_path / run, state | {name: longer}))
    report = compare_runs(*runs, base)
    embedding = of(report.coverage, module="model.embed_tokens")
    assert (embedding["status"].item(), embedding["out_features"].item()) == ("compared", 20)
    angles = of(report.angles, module="model.embed_tokens", index=1)
    assert angles["angle"].tolist() == pytest.approx([0.0, 0.0], abs=1e-5)
    assert set(angles["dimension"]) == {20, WIDTH}
    first, second = (of(report.amplification, module="model.embed_tokens", run=run, r=1) for run in ("longer", "same"))
    assert first["amplification"].item() == pytest.approx(second["amplification"].item(), rel=1e-5)
    assert len(of(report.intruders, module="model.embed_tokens", run="longer"))
    others = of(report.coverage, status="zero")
    assert len(others) == len(report.coverage) - 1  # nothing else was trained


def test_names_are_shown_and_not_obeyed(tmp_path: Path, generator: torch.Generator) -> None:
    name = "model.layers.0.[red]attn[/red].q_proj"
    runs = [save_adapter(tmp_path / run, factors(generator, name)) for run in ("o[b]ne", "two")]
    report = compare_runs(*runs, save(tmp_path / "base", {f"{name}.weight": torch.randn(8, 8, generator=generator)}))
    screen = Console(width=200, file=io.StringIO(), record=True)
    screen.print(render_subspaces(report, modules=True))
    shown = screen.export_text()
    assert shown.count(name) >= 4
    assert "o[b]ne" in shown


def test_a_merged_method_stands_beside_a_lora(tmp_path: Path) -> None:
    options = ComparisonOptions(k=2, intruder_ks=(4,))
    before, after = trained(tmp_path / "dora", lora_config(use_dora=True))
    trained(tmp_path / "lora", lora_config())
    report = compare_runs(
        tmp_path / "dora" / "adapter", tmp_path / "lora" / "adapter", tmp_path / "dora" / "base", options=options,
        name="both",
    )  # fmt: skip
    assert set(report.coverage["status"]) == {"compared"}
    assert set(report.coverage["update_kind"]) == {"merged"}
    module = str(report.coverage["module"].iloc[0])
    weight, change = before[f"{module}.weight"], after[f"{module}.weight"] - before[f"{module}.weight"]
    U, _, Vh = torch.linalg.svd(change)
    expected = float(change.norm() / (U[:, :2].T @ weight @ Vh[:2].T).norm())
    row = report.amplification.iloc[[1]]  # of the first module at r = 2, of the first run
    assert (row["module"].item(), row["r"].item(), row["run"].item()) == (module, 2, "adapter")
    assert row["amplification"].item() == pytest.approx(expected, rel=1e-6)
    assert set(report.intruders["k"]) == {4}


def test_two_workers_find_the_same(pair: tuple[Path, Path, Path]) -> None:
    one, two = (compare_runs(*pair, workers=workers) for workers in (1, 2))
    assert one.angles.equals(two.angles)
    assert one.intruders.equals(two.intruders)


def subspace(*arguments: object) -> Outcome:
    return rank_lab("subspace", *arguments)


def test_the_command_saves_and_prints(pair: tuple[Path, Path, Path], tmp_path: Path) -> None:
    one, two, base = pair
    study = tmp_path / "study"
    done = subspace(one, two, "--base", base, "-o", study)
    assert (done.code, done.err) == (0, "")
    for text in ("coverage: 1 compared", "φ / random", "amplification", "intruders / noise", "resolved"):
        assert text in done.out
    report = SubspaceReport.load(study / "one-two.subspace")
    assert len(report.phi) == 3 * 2 * 2
    assert report.provenance["command"][1] == "subspace"
    done = subspace(one, two, "--base", base, "-o", study, "--name", "my pair", "--json", "--intruder-k", 4)
    found = json.loads(done.out)
    assert Path(found["report"]) == study / "my_pair.subspace"
    assert (found["name"], found["coverage"], found["failures"]) == ("my pair", {"compared": 1}, [])
    assert {row["k"] for row in found["intruders"]} == {4}
    assert [row["phi"] for row in found["similarity"] if row["side"] == "right"] == pytest.approx([1.0])
    by_module = subspace(one, two, "-o", study, "--modules")
    assert Q in by_module.out
    assert "amplification:" not in by_module.out


def test_the_command_takes_the_base_that_a_run_names(pair: tuple[Path, Path, Path], tmp_path: Path) -> None:
    one, two, base = pair
    record("lora", base=str(base)).save(two)
    done = subspace(one, two, "-o", tmp_path / "study")
    assert (done.code, done.err) == (0, f"note: the base is {base}, as training.json says\n")
    report = SubspaceReport.load(tmp_path / "study" / "one-two.subspace")
    assert report.provenance["base"]["named_by"] == "training.json"
    assert len(report.amplification)
    record("lora", base=str(save(tmp_path / "other", small(torch.Generator().manual_seed(1))))).save(one)
    done = subspace(one, two, "-o", tmp_path / "study")
    assert done.code == 2
    assert "subspaces of different weights; name the one that both stand on by --base" in done.err


def test_a_failure_is_listed_and_told_by_the_exit_code(tmp_path: Path, generator: torch.Generator) -> None:
    one, two = factors(generator), factors(generator)
    one |= factors(generator, "model.layers.1.self_attn.q_proj")
    two |= factors(generator, "model.layers.1.self_attn.q_proj", shape=(8, 6))
    done = subspace(
        save_adapter(tmp_path / "one", one), save_adapter(tmp_path / "two", two), "-o", tmp_path / "study", "--json"
    )
    assert done.code == 1
    (failure,) = json.loads(done.out)["failures"]
    assert failure["module"] == "model.layers.1.self_attn.q_proj"
    assert "updates of shape [8, 8] and [8, 6]" in failure["reason"]


def test_bad_input_is_one_line(pair: tuple[Path, Path, Path], tmp_path: Path, generator: torch.Generator) -> None:
    one, two, _ = pair
    full = save(tmp_path / "full", small(generator))
    elsewhere = save_adapter(tmp_path / "elsewhere", factors(generator, "h.0.attn.c_attn"))
    file = tmp_path / "file"
    file.write_text("")
    study = tmp_path / "study"
    cases = {
        (full, two): "give what it was tuned from as --base",
        (one, one): "both runs are the same files",
        (
            one,
            elsewhere,
        ): "have no updated module in common; nearest: model.layers.0.self_attn.q_proj ~ h.0.attn.c_attn",
        (one, tmp_path / "nowhere"): "nowhere",
        (one, two, "--base", two): "the base is an adapter",
        (one, two, "--device", "cuda:99"): "torch sees no such device",
    }
    for arguments, message in cases.items():
        done = subspace(*arguments, "-o", study)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), arguments
        assert message in done.err
    assert "is a file; -o names the folder" in subspace(one, two, "-o", file).err
    assert subspace(one, two, "-o", study, "--name", "x").code == 0
    third = save_adapter(tmp_path / "third", factors(generator, Q, shape=(WIDTH, WIDTH)))
    assert "give this comparison another --name" in subspace(one, third, "-o", study, "--name", "x").err
    assert subspace(one, two, "-o", study, "--k", 0).code == 2


def test_a_prefix_has_no_subspace(tmp_path: Path, pair: tuple[Path, Path, Path]) -> None:
    prompt = save_adapter(
        tmp_path / "prompt",
        {"prompt_embeddings": torch.ones(4, WIDTH)},
        peft_type="PROMPT_TUNING",
        num_virtual_tokens=4,
    )
    with pytest.raises(PairingError, match="has no weight update, so that there are no subspaces"):
        compare_runs(pair[0], prompt)
