"""``subspace`` and ``extract`` read files as ``analyze`` does: alpha, fused weights, an adapter's start, rounding."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rank_lab import Checkpoint, Settings, analyze, plan_updates, read_update
from rank_lab.kept_start import INITIAL
from rank_lab.planned import RunSource
from rank_lab.subspace_analysis import compare_runs
from rank_lab.subspace_report import SubspaceReport
from tests.checkpoints import Tensors, factors, gpt2, moved, rank_lab, save, save_adapter
from tests.training_records import record

Q = "model.layers.0.self_attn.q_proj"
LORALIB = "layers.0.q_proj"
WIDTH = 8


def loralib(folder: Path, b: torch.Tensor, a: torch.Tensor) -> Path:
    """A state dict of factors alone, which records no alpha."""
    return save(folder, {f"{LORALIB}.lora_A": a, f"{LORALIB}.lora_B": b})


def change(adapter: Path) -> dict[str, torch.Tensor]:
    return {spec.module: read_update(spec).to_dense() for spec in plan_updates(Checkpoint.open(adapter)).specs}


def extracted(*arguments: object, out: Path) -> dict[str, Any]:
    done = rank_lab("extract", *arguments, "-o", out)
    assert done.code == 0, done.err
    content: dict[str, Any] = json.loads((out / "extracted.json").read_text())
    return content


def compared(*arguments: object, out: Path) -> SubspaceReport:
    done = rank_lab("subspace", *arguments, "-o", out, "--name", "both")
    assert done.code == 0, done.err
    return SubspaceReport.load(out / "both.subspace")


def test_alpha_of_files_that_do_not_record_it(tmp_path: Path, generator: torch.Generator) -> None:
    b, a = torch.randn(6, 2, generator=generator), torch.randn(2, 5, generator=generator)
    one, two = loralib(tmp_path / "one", b, a), loralib(tmp_path / "two", b, -a)
    base = save(tmp_path / "base", {f"{LORALIB}.weight": torch.randn(6, 5, generator=generator)})
    for arguments in (("extract", one, "--rank", 2), ("subspace", one, two)):
        refused = rank_lab(*arguments, "-o", tmp_path / "none")
        assert refused.code == 2
        assert "--lora-alpha" in refused.err
    made = extracted(one, "--rank", 2, "--lora-alpha", 16, out=tmp_path / "lora")
    torch.testing.assert_close(change(tmp_path / "lora")[LORALIB].float(), b @ a * 8, rtol=1e-5, atol=1e-5)
    assert made["provenance"]["settings"]["lora_alpha"] == 16
    report = compared(
        one, two, "--base", base, "--lora-alpha", 16, "--second-lora-alpha", 4, "--no-intruders", out=tmp_path
    )
    norms = report.amplification.drop_duplicates(["run", "module"]).set_index("run")["update_norm"]
    assert norms["one"] == pytest.approx(float((b @ a).norm()) * 8, rel=1e-6)
    assert norms["two"] == pytest.approx(float((b @ a).norm()) * 2, rel=1e-6)
    assert [report.provenance[side]["settings"]["lora_alpha"] for side in ("first", "second")] == [16, 4]


def test_an_alpha_that_is_recorded_is_not_given_again(tmp_path: Path, generator: torch.Generator) -> None:
    adapter = save_adapter(tmp_path / "adapter", factors(generator))
    other = save_adapter(tmp_path / "other", factors(generator))
    for arguments in (("extract", adapter, "--rank", 1), ("subspace", other, adapter)):
        option = "--lora-alpha" if arguments[0] == "extract" else "--second-lora-alpha"
        refused = rank_lab(*arguments, "-o", tmp_path / "none", option, 8)
        assert (refused.code, "records lora_alpha" in refused.err) == (2, True)


def test_fused_weights_are_taken_apart_on_request(tmp_path: Path, generator: torch.Generator) -> None:
    state, name = gpt2(generator), "transformer.h.0.attn.c_attn"
    base = save(tmp_path / "base", state, config={"model_type": "gpt2"})
    runs = [save(tmp_path / run, moved(state, generator)) for run in ("one", "two")]
    whole = compared(*runs, "--base", base, "--no-intruders", out=tmp_path / "whole")
    assert name in set(whole.angles["module"])
    apart = compared(*runs, "--base", base, "--no-intruders", "--split-fused", out=tmp_path / "apart")
    parts = {f"{name}.{part}" for part in ("q_proj", "k_proj", "v_proj")}
    assert parts <= set(apart.angles["module"])
    assert name not in set(apart.angles["module"])
    assert [apart.provenance[side]["settings"]["split_fused"] for side in ("first", "second")] == [True, True]
    one, two = (load_file(run / "model.safetensors")[f"{name}.weight"] for run in runs)
    left = [(each - state[f"{name}.weight"]).T[:WIDTH].double() for each in (one, two)]  # rows of q
    u, v = (torch.linalg.svd(each)[2][:4] for each in left)
    expected = torch.linalg.svdvals(u @ v.T)
    short = compared(*runs, "--base", base, "--no-intruders", "--split-fused", "--k", 4, out=tmp_path / "short")
    rows = short.angles[(short.angles["module"] == f"{name}.q_proj") & (short.angles["side"] == "right")]
    assert rows.sort_values("index")["cosine"].tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_fused_weights_beside_an_adapter_which_is_not_taken_apart(tmp_path: Path, generator: torch.Generator) -> None:
    state = gpt2(generator)
    base = save(tmp_path / "base", state, config={"model_type": "gpt2"})
    full = save(tmp_path / "full", moved(state, generator))
    name = "transformer.h.0.mlp.c_fc"
    shape = tuple(state[f"{name}.weight"].shape)
    lora = save_adapter(tmp_path / "lora", factors(generator, name, shape=(shape[1], shape[0])), fan_in_fan_out=True)
    report = compared(full, lora, "--base", base, "--no-intruders", "--split-fused", out=tmp_path)
    assert [report.provenance[side]["settings"]["split_fused"] for side in ("first", "second")] == [True, False]
    assert set(report.angles["module"]) == {name}
    refused = rank_lab("subspace", lora, lora, "--split-fused", "-o", tmp_path / "none")
    assert (refused.code, "two adapters" in refused.err) == (2, True)


def test_a_plan_of_parts_is_refused(tmp_path: Path, generator: torch.Generator) -> None:
    state = gpt2(generator)
    base = save(tmp_path / "base", state, config={"model_type": "gpt2"})
    tuned = save(tmp_path / "tuned", moved(state, generator))
    for option, code in (("--split-fused", 2), (None, 0)):
        study = tmp_path / f"study{code}"
        analysed = rank_lab("analyze", tuned, "--base", base, "-o", study, *filter(None, [option]))
        assert analysed.code == 0, analysed.err
        done = rank_lab("plan", study, "--energy", 0.5)
        assert done.code == code, done.err
        assert ("--split-fused" in done.err) == (code == 2)


@pytest.fixture
def pissa(tmp_path: Path, generator: torch.Generator) -> dict[str, Any]:
    """A run whose factors started elsewhere than at zero, as ``finetune`` leaves it, and the same without a record."""
    start = factors(generator)
    trained = {name: value + 0.1 * torch.randn(value.shape, generator=generator) for name, value in start.items()}
    told = {"init_lora_weights": "pissa"}
    run = save_adapter(tmp_path / "run", trained, **told)
    save_adapter(run / INITIAL, start, **told)
    record("pissa").save(run)
    bare = save_adapter(tmp_path / "bare", trained, **told)
    A, B = (f"base_model.model.{Q}.lora_{each}.weight" for each in "AB")
    return {"run": run, "bare": bare, "change": 2 * (trained[B] @ trained[A] - start[B] @ start[A])}


def test_extract_takes_the_start_out(pissa: dict[str, Any], tmp_path: Path) -> None:
    start = pissa["run"] / INITIAL
    for name, arguments, kept in (
        ("kept", (pissa["run"],), True),
        ("given", (pissa["bare"], "--initial-adapter", start), False),
    ):
        made = extracted(*arguments, "--rank", 4, out=tmp_path / name)
        torch.testing.assert_close(change(tmp_path / name)[Q].float(), pissa["change"], rtol=1e-4, atol=1e-5)
        settings = made["provenance"]["settings"]
        assert (settings["initial"], settings["initial_kept_by_training"]) == (str(start), kept)
    spectrum = analyze(pissa["run"]).values(Q)
    assert spectrum[:4] == pytest.approx(torch.linalg.svdvals(pissa["change"].double())[:4].tolist(), rel=1e-5)


def test_subspace_takes_the_start_out(pissa: dict[str, Any], tmp_path: Path, generator: torch.Generator) -> None:
    start, other = pissa["run"] / INITIAL, save_adapter(tmp_path / "other", factors(generator))
    given = compared(other, pissa["bare"], "--second-initial-adapter", start, out=tmp_path / "given")
    kept = compared(other, pissa["run"], out=tmp_path / "kept")
    assert kept.angles["cosine"].tolist() == pytest.approx(given.angles["cosine"].tolist(), abs=1e-9)
    bare = compared(other, pissa["bare"], out=tmp_path / "bare")
    assert abs(kept.angles["cosine"].iloc[0] - bare.angles["cosine"].iloc[0]) > 1e-3
    assert kept.provenance["second"]["settings"]["initial_kept_by_training"] is True
    assert given.provenance["second"]["settings"]["initial"] == str(start)
    assert "initial" not in given.provenance["first"]["settings"]


def test_a_record_of_another_tool_does_not_stop_a_comparison(tmp_path: Path, generator: torch.Generator) -> None:
    runs = [save_adapter(tmp_path / name, factors(generator)) for name in ("one", "two")]
    (runs[0] / "training.json").write_text("{}")
    assert len(compare_runs(*runs).angles)


def test_a_rounded_base_is_told_from_the_change(tmp_path: Path, generator: torch.Generator) -> None:
    parent = 0.02 * torch.randn(96, 96, generator=generator)
    planted = 1e-3 * torch.randn(96, 3, generator=generator) @ torch.randn(3, 96, generator=generator)
    base = save(tmp_path / "base", {f"{Q}.weight": parent.bfloat16()})
    states: list[Tensors] = [{f"{Q}.weight": parent + planted}, {f"{Q}.weight": parent - 2 * planted}]
    one, two = (save(tmp_path / name, state) for name, state in zip(("one", "two"), states, strict=True))
    plain = extracted(one, "--base", base, "--budget", 10**6, out=tmp_path / "plain")
    made = extracted(one, "--base", base, "--budget", 10**6, "--base-rounded", out=tmp_path / "made")
    assert (plain["modules"][0]["rank"] > 90, made["modules"][0]["rank"]) == (True, 3)
    assert made["provenance"]["settings"]["base_rounded"] is True
    report = compared(one, two, "--base", base, "--no-intruders", "--base-rounded", out=tmp_path)
    assert (set(report.angles["resolved_a"]), set(report.angles["resolved_b"])) == ({3}, {3})
    rounded = Settings(base_rounded=True)
    alone = compare_runs(RunSource(one, rounded), RunSource(two), base)
    assert set(alone.angles["resolved_a"]) == {3}
    assert set(alone.angles["resolved_b"]) == {16}  # as many as were looked at
