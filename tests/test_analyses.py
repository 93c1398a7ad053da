"""The scripts that measure run and write what they found."""

import contextlib
import io
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from analyses import machine, module_names, noise_cost, rivals, structure, training_steps
from analyses.known_changes import Row
from analyses.rivals_readings import NOT_ASKED, NOT_INSTALLED
from rank_lab.names import identify

ROOT = Path(__file__).parents[1]


def results_of(module: str, *arguments: str, out: Path, alone: bool = False) -> tuple[dict[str, Any], str]:
    """What a script wrote: run in this process, which has loaded torch, or alone, where it measures the process."""
    given = ["--quick", "--out", str(out), *arguments]
    if alone:
        command = [sys.executable, "-m", f"analyses.{module}", *given]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        printed = done.stdout
    else:
        said, verbosity = io.StringIO(), transformers.logging.get_verbosity()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
            patch.setattr(sys, "argv", [module, *given])
            import_module(f"analyses.{module}").main()
        transformers.logging.set_verbosity(verbosity)
        printed = said.getvalue()
    written = (out / f"{module}.md").read_text(encoding="utf-8")
    assert written in printed
    return json.loads((out / f"{module}.json").read_text(encoding="utf-8")), written


@pytest.mark.slow
def test_speed_times_every_method_on_the_same_matrices(tmp_path: Path) -> None:
    results, text = results_of("speed", out=tmp_path / "made", alone=True)
    expected = set(rivals.available())
    assert set(results["seconds"]) == set(results["summary"]) == expected
    assert all(len(rounds) == results["repetitions"] for rounds in results["seconds"].values())
    assert {len(times) for rounds in results["seconds"].values() for times in rounds} == {2}
    assert results["summary"]["rank_lab"]["ratio_of_totals"] == 1.0
    assert results["error"]["rank_lab"] < 1e-12
    assert results["error"]["svdvals64"] == 0.0
    assert 1e-9 < results["error"]["svdvals32"] < 1e-5
    assert set(results["peak_memory"]) == expected - set(rivals.TALL)
    assert results["machine"]["versions"]["torch"] == torch.__version__
    assert len(results["targets"]) == 4
    assert text.count("not judged (--quick)") == 4
    assert set(results["noise"]["seconds"]) == set(noise_cost.COSTS)
    assert all(counts["rounding"] == counts["both"] > 0 for counts in results["noise"]["found"])
    assert "both tests and nulls" in text
    assert ("not installed" in text) == ("weightwatcher" not in expected)


def test_module_names_counts_and_compares_with_what_models_say(tmp_path: Path) -> None:
    results, text = results_of("module_names", out=tmp_path)
    causal = results["tasks"]["causal"]
    assert set(causal["architectures"]) == {"gpt2", "llama", "mamba", "mixtral"}
    assert not causal["failed"]
    mixtral, mamba = causal["architectures"]["mixtral"], causal["architectures"]["mamba"]
    assert mixtral["matrices"] == mixtral["tensors"] + 32 * 2 * 7  # 32 layers, two stacks of 8 experts
    assert mamba["other"]["tensors"] > 0.5
    assert mamba["unclassified"]["tensors"] == 0.0
    for found in results["tasks"].values():
        assert found["total"]["compared"] > 0.9 * found["total"]["tensors"]
        assert found["total"]["contradicted"] == found["total"]["missed"] == 0
    assert "not judged (--quick)" in text
    assert "| mamba | 193 | 0.00 % |" in text


def test_key_spaces_brings_the_two_formats_together(tmp_path: Path) -> None:
    results, text = results_of("key_spaces", out=tmp_path)
    fates = {name: entry["fate"] for name, entry in results["types"].items()}
    assert fates == {"llama": "same names", "mixtral": "all tensors met", "llava": "all tensors met"}
    assert "| mixtral | all tensors met | 995 in the file, 291 in memory |" in text


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model.layers.0.self_attn.q_proj", "down"),
        ("model.layers.0.mlp.down_proj", "up"),
        ("model.layers.0.mlp.up_proj", "o"),
        ("model.embed_tokens", "head"),
        ("lm_head", "embed"),
        ("model.layers.0.self_attn.o_proj", "up"),
    ],
)
def test_models_contradict_wrong_kinds(name: str, kind: str) -> None:
    said = structure.evidence_of(module_names.model_on_meta("llama", "causal"))[f"{name}.weight"]
    assert said.contradicts(kind)
    assert not said.contradicts(identify(name).kind)


@pytest.mark.skipif(sys.platform != "linux", reason="memory of another process is read from /proc")
@pytest.mark.slow
def test_memory_says_what_was_measured_and_against_which_bound(tmp_path: Path) -> None:
    results, text = results_of("memory", "--workers", "1", "--folder", str(tmp_path), out=tmp_path, alone=True)
    (run,) = results["runs"]
    assert 0 < run["peak"] <= results["bound"] < results["pair_bytes"] / 3
    assert f"{run['peak'] / 1e6:.0f} MB" in text
    assert {path.name for path in tmp_path.iterdir()} == {"memory.json", "memory.md"}, "the checkpoints were left there"


@pytest.mark.parametrize("shape", [(40, 70), (70, 40), (50, 50)], ids=str)
@pytest.mark.parametrize("name", rivals.available())
def test_every_method_gives_the_same_values(name: str, shape: tuple[int, int], generator: torch.Generator) -> None:
    pair = rivals.Pair.random(shape, generator)
    exact = torch.linalg.svdvals(pair.difference()).numpy()
    found = rivals.method(name, pair, "cpu")()
    assert found.shape == exact.shape
    assert abs(found - exact).max() < 1e-5 * exact[0]


@pytest.mark.slow
def test_this_tool_says_the_truth_where_others_do_not(tmp_path: Path) -> None:
    """PEFT's and numpy's errors are really there: once PEFT mends one, this fails and the table is to be made again."""
    results, text = results_of("rivals_errors", out=tmp_path, alone=True)
    rows = [(name, row) for name, found in results["cases"].items() for row in found]
    assert {name for name, row in rows if isinstance(row["rank_lab"], str)} == {"inserted"}
    assert {row["rank_lab"] for row in results["cases"]["inserted"]} == {"refused"}
    assert "layers or experts were inserted or removed" in text
    for name, row in rows:
        assert name == "inserted" or abs(row["rank_lab"] - row["truth"]) <= row["tolerance"], row
        assert row["tolerance"] <= max(0.02 * row["truth"], 1e-5), "it would hide an error"
    wrong = {
        tool: [(name, row["quantity"].split("PEFT: ")[-1].split()[0]) for name, row in rows if tool in row["wrong"]]
        for tool in ("rank_lab", "peft", "numpy", "weightwatcher")
    }
    ways = ("of", "get_delta_weight", "save_as_lora")
    assert wrong["rank_lab"] == []
    assert wrong["peft"] == [(n, way) for n in ("dora", "pissa", "olora") for way in ways] + [
        ("bfloat16", "save_as_lora")
    ]
    assert results["cases"]["bfloat16"][0]["peft"] > 8 * results["cases"]["bfloat16"][0]["truth"]
    right = {name for name, row in rows if row["peft"] != NOT_ASKED and "peft" not in row["wrong"]}
    assert right == {"scaling", "rslora", "patterns", "dora", "pissa", "olora", "bfloat16", "energy"}
    assert {name for name, _ in wrong["numpy"]} == {"bfloat16", "recast"}
    asked = {name for name, row in rows if row["weightwatcher"] != NOT_ASKED}
    assert asked == set(results["cases"]) - {"energy"}
    if results["machine"]["versions"]["weightwatcher"] == NOT_INSTALLED:
        assert {row["weightwatcher"] for _, row in rows} == {NOT_ASKED, NOT_INSTALLED}
        assert wrong["weightwatcher"] == []
    else:
        assert {name for name, _ in wrong["weightwatcher"]} == asked


def test_an_answer_is_wrong_outside_its_tolerance_only() -> None:
    row = Row("case", "asked", truth=2.0, rank_lab=2.0, tolerance=0.1)
    assert not row.wrong(2.05)
    assert row.wrong(2.2)
    assert row.wrong(float("nan"))
    assert not row.wrong(NOT_INSTALLED)


def test_tables_are_markdown() -> None:
    assert machine.table(("a", "b"), [("x", 1)]) == "| a | b |\n| --- | ---: |\n| x | 1 |"


def test_memory_of_a_process_that_is_gone_is_empty() -> None:
    assert machine.memory_of(2**30) == {}


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_memory_of_this_process_grows_with_what_it_holds() -> None:
    before = machine.memory_of(os.getpid())
    held = torch.ones(1 << 23)
    after = machine.memory_of()
    assert after["anonymous"] - before["anonymous"] > 0.9 * held.nbytes
    assert after["peak"] >= after["resident"] > after["anonymous"]


def test_noise_tables_are_what_the_tests_say(tmp_path: Path) -> None:
    results, text = results_of("noise_tables", out=tmp_path)
    planted = [row for row in results["sizes"] if row["kind"] == "low" and row["size"] >= 3e-4]
    assert all(row["T1"][0] == 16 for row in planted)
    assert all(row["regime"] == "resolved" for row in planted)
    assert all(row["T2"][0] == 0 for row in results["sizes"] if row["kind"] == "iid")
    assert all(row["T1"] == 0 for row in results["recasts"])
    assert {row["regime"] for row in results["sizes"] if row["size"] == 3e-6} == {"unresolved"}
    assert text.count("refused") >= 4


def test_training_cost_takes_every_method_in_turns(tmp_path: Path) -> None:
    results, text = results_of("training_cost", out=tmp_path, alone=True)
    (found,) = results["measured"]
    assert found["setting"]["model"] == "A small random BERT"
    assert set(found["seconds"]) == set(found["peak_bytes"]) == set(training_steps.METHODS)
    assert all(len(rounds) == found["setting"]["rounds"] == 4 for rounds in found["seconds"].values())
    for rounds in found["seconds"].values():
        for taken in rounds:
            assert min(taken.values()) > 0
            assert sum(taken[part] for part in training_steps.PARTS) <= taken["total"]
    assert found["ratios"]["lora"]["lora"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert {size["modules"] for size in found["sizes"].values()} == {12}
    gates = {name: found["sizes"][name]["nonzero_gates"] for name in training_steps.LEFT_OUT}
    assert list(gates.values()) == [96, 48, 24, 10]
    computed = [found["sizes"][name]["computed_gates"] for name in training_steps.LEFT_OUT]
    assert computed[0] == 96
    assert computed == sorted(computed, reverse=True)
    assert all(10 <= count >= open_gates for count, open_gates in zip(computed, gates.values(), strict=True))
    assert computed[3] < 48
    peaks = found["peak_bytes"]
    activations = 4 * 2 * 8 * 32 * 2  # at least the hidden states that two layers keep for the way back
    assert peaks["lora"] > activations
    assert peaks["sora_left_out_90%"] < peaks["lora"] < peaks["adalora"]
    assert [check["target"] for check in results["targets"]] == [
        "2 x 8: SoRA's step at most 1.05 of LoRA's",
        "2 x 8: SoRA's step below AdaLoRA's",
    ]
    assert text.count("not judged (--quick)") == 2


def test_a_step_of_adalora_allocates_ranks_and_holds_its_orthogonal_term() -> None:
    setting = training_steps.Setting(model="", batch=2, length=8, rounds=4)
    run = training_steps.made("adalora", setting)
    (batch,) = training_steps.batches(setting, 100, 1)
    config = run.model.peft_config["default"]
    run.model.eval()
    losses = []
    for weight in (0.0, config.orth_reg_weight):
        config.orth_reg_weight = weight
        losses.append(float(run.model(**batch).loss.detach()))
    assert losses[1] > losses[0] + 0.1
    for _ in range(3):
        list(run.step(batch))
    left = sum(sum(kept) for kept in config.rank_pattern.values())
    assert 0 < left < 12 * setting.rank


def test_a_step_of_sora_shrinks_gates_and_leaves_out_shut_ones() -> None:
    from rank_lab.sora import gate_parameters

    setting = training_steps.Setting(model="", batch=2, length=8, rounds=4)
    for name in ("sora", "sora_left_out_90%"):
        run = training_steps.made(name, setting)
        gates = list(gate_parameters(run.model).values())
        before = [gate.detach().clone() for gate in gates]
        list(run.step(*training_steps.batches(setting, 100, 1)))
        moved = torch.cat([(old - gate).detach() for old, gate in zip(before, gates, strict=True)])
        shrunk = moved[torch.cat(before) != 0]
        assert float(shrunk.min()) > 0  # B is zero at the start: nothing but the threshold moves a gate
        assert float(shrunk.max()) == pytest.approx(1e-6, rel=0.1)
        open_gates = [int(gate.count_nonzero()) for gate in before]
        computed = training_steps.sizes({name: run})[name]["computed_gates"]
        assert computed == sum(count if count < 2 else len(before[0]) for count in open_gates)


def test_coverage_of_intervals_is_counted(tmp_path: Path) -> None:
    results, text = results_of("interval_coverage", out=tmp_path)
    assert len(results["rows"]) == 3 * 5
    for row in results["rows"]:
        assert 0 <= row["percentile_covered"] <= 1
        assert 0 <= row["covered"] <= 1
        assert 1 <= row["mean_value"] <= results["width"]
    assert "nominal 95 %" in text
