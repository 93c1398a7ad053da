"""``rank-lab plan`` and ``rank-lab extract`` on tiny checkpoints, and the tables between report and plan."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from rank_lab import analyze
from rank_lab.budget import budget_curve, plan_ranks
from rank_lab.errors import BudgetError, RankLabError
from rank_lab.extraction import RankChoice, extract
from rank_lab.report_spectra import curve_table, module_spectra, plan_table, tied_modules
from rank_lab.schema import SCHEMA_VERSION
from rank_lab.update import LowRankUpdate
from tests.checkpoints import factors, llama, moved, rank_lab, save, save_adapter

COLUMNS = [
    "run", "step", "module", "layer", "kind", "out_features", "in_features", "rank_bound", "rank", "full_parameters",
    "parameters", "frobenius_norm", "kept_energy", "relative_error", "noise_regime", "capped_by", "reason",
]  # fmt: skip


@pytest.fixture(scope="module")
def analysed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base, tuned and the study of it, made once."""
    folder, generator = tmp_path_factory.mktemp("analysed"), torch.Generator().manual_seed(20261126)
    state = llama(generator, width=16)
    save(folder / "base", state)
    save(folder / "tuned", moved(state, generator))
    assert rank_lab("analyze", folder / "tuned", "--base", folder / "base", "-o", folder / "study").code == 0
    return folder


@pytest.fixture
def study(analysed: Path, tmp_path: Path) -> Path:
    """A study of one full fine-tune, ``tuned``, beside it and its base."""
    shutil.copytree(analysed, tmp_path, dirs_exist_ok=True)
    return tmp_path / "study"


def test_a_table_has_a_row_for_every_module(tmp_path: Path, generator: torch.Generator) -> None:
    state = llama(generator)
    tuned = moved(state, generator)
    tuned["model.layers.0.self_attn.q_proj.weight"] = state["model.layers.0.self_attn.q_proj.weight"]
    tuned["model.layers.1.self_attn.q_proj.weight"][0, 0] = math.nan
    report = analyze(save(tmp_path / "t", tuned), save(tmp_path / "b", state))
    modules = module_spectra(report.updates, report.spectra)
    plan = plan_ranks(modules, energy=0.8)
    table = plan_table(plan)
    assert list(table.columns) == COLUMNS
    assert list(table["module"]) == list(report.updates["module"])
    by_module = table.set_index("module")
    assert by_module.loc["model.layers.0.self_attn.q_proj", "reason"] == "not changed"
    broken = by_module.loc["model.layers.1.self_attn.q_proj"]
    assert "NaN" in broken["reason"]
    assert broken["rank"] == 0
    assert math.isnan(broken["kept_energy"])
    assert table["parameters"].sum() == plan.parameters
    wanted = report.updates.set_index("module")
    assert (by_module["full_parameters"] == wanted["out_features"] * wanted["in_features"]).all()
    assert set(by_module["layer"].dropna()) == {0, 1}
    points = curve_table(budget_curve(modules))
    assert set(points["method"]) == {"greedy", "uniform", "per_layer"}
    assert points.groupby("method")["kept_energy"].is_monotonic_increasing.all()


def test_steps_runs_and_deltas_are_told_apart(tmp_path: Path, generator: torch.Generator) -> None:
    state = llama(generator)
    for number in (5, 10):
        save(tmp_path / "run" / f"checkpoint-{number}", moved(state, generator, by=0.01 * number))
    report = analyze(tmp_path / "run", save(tmp_path / "base", state))
    last, first = (module_spectra(report.updates, report.spectra, step=step) for step in (None, 5))
    assert (last[0].step, first[0].step) == (10, 5)
    assert last[0].frobenius_norm == pytest.approx(2 * first[0].frobenius_norm, rel=0.3)
    between = module_spectra(report.updates, report.spectra, step=10, delta="step")
    assert between[0].frobenius_norm != last[0].frobenius_norm
    two = pd.concat([report.updates, report.updates.assign(run="other")])
    for asked, says in (
        ({"run": "none"}, "which run 'none'"),
        ({"step": 7}, "no step 7; its steps: 5, 10"),
        ({"delta": "odd"}, "no row of delta 'odd'; it has cumulative, step"),
    ):
        with pytest.raises(BudgetError, match=says):
            module_spectra(report.updates, report.spectra, **asked)  # type: ignore[arg-type]
    with pytest.raises(BudgetError, match="There are other, run; name one"):
        module_spectra(two, report.spectra)


def test_tied_embeddings_take_no_part() -> None:
    coverage = pd.DataFrame(
        {
            "tensor": ["lm_head.weight", "a.weight", "wte.weight", "pos.weight"],
            "reason": ["tied: the same bytes as wte, counted there", None, "", ""],
            "module": ["lm_head", "a", "wte", "wpe"],
        }
    )
    assert tied_modules(coverage) == {"wte": "lm_head.weight"}
    assert tied_modules(coverage.iloc[1:]) == {}
    assert tied_modules(coverage.iloc[1:], tie_word_embeddings=True) == {"wte": "the output head"}


def test_plan_then_extract(study: Path, tmp_path: Path) -> None:
    done = rank_lab("plan", study, "--budget", 1500, "--modules")
    assert (done.code, done.err) == (0, "")
    assert "model.layers.1.mlp.down_proj" in done.out
    content = json.loads((study / "tuned.plan.json").read_text())
    assert content["totals"]["parameters"] <= 1500 < content["totals"]["parameters"] + 60
    arguments = ("--base", tmp_path / "base", "--plan", study / "tuned.plan.json", "--json")
    made = rank_lab("extract", tmp_path / "tuned", *arguments, "-o", tmp_path / "lora")
    assert made.code == 0
    told = json.loads(made.out)
    assert {one["module"]: one["rank"] for one in told["modules"]} == {
        row["module"]: row["rank"] for row in content["modules"] if row["rank"]
    }
    assert told["totals"]["parameters"] == content["totals"]["parameters"]
    assert told["totals"]["relative_error"] == pytest.approx(content["totals"]["relative_error"], rel=0.1)
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    for name in ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules"):
        assert config[name] == content["config"][name], name
    again = rank_lab("analyze", tmp_path / "lora", "-o", tmp_path / "again", "--json")
    ranks = {row["module"]: row["numerical_rank"] for row in json.loads(again.out)[0]["updates"]}
    assert ranks == {one["module"]: one["rank"] for one in told["modules"]}


def test_the_kept_energy_of_the_plan_is_that_of_the_adapter(study: Path, tmp_path: Path) -> None:
    plan = json.loads(rank_lab("plan", study, "--energy", 0.75, "--json", "-o", tmp_path / "p.json").out)
    assert plan["written"] == str(tmp_path / "p.json")
    assert 0.75 <= plan["totals"]["kept_energy"] < 0.76
    assert plan["totals"]["parameters"] >= plan["totals"]["parameters_bound"]
    done = rank_lab(
        "extract", tmp_path / "tuned", "--base", tmp_path / "base", "--energy", 0.75, "-o", tmp_path / "lora"
    )
    assert done.code == 0
    assert "read again, they miss" in done.out
    assert "no matrix: a LoRA changes none of its values" in done.out
    made = json.loads((tmp_path / "lora" / "extracted.json").read_text())
    assert 1 - made["totals"]["relative_error"] ** 2 == pytest.approx(plan["totals"]["kept_energy"], abs=1e-6)


def test_where_plans_are_written(study: Path, tmp_path: Path) -> None:
    assert rank_lab("plan", study, "--budget", 1500, "-o", tmp_path / "folder").code == 0
    assert rank_lab("plan", study / "tuned.rank", "--budget", 1500).code == 0
    assert (tmp_path / "folder" / "tuned.plan.json").is_file()
    assert (study / "tuned.plan.json").is_file()


def test_an_energy_out_of_reach_leaves_with_one(tmp_path: Path, generator: torch.Generator) -> None:
    shape, name = (128, 96), "model.layers.0.mlp.up_proj.weight"
    base = {name: (0.02 * torch.randn(shape, generator=generator)).bfloat16()}
    change = 3e-4 * torch.randn(128, 4, generator=generator) @ torch.randn(4, 96, generator=generator)
    tuned = {name: (base[name].float() + change).bfloat16()}
    folders = save(tmp_path / "tuned", tuned), save(tmp_path / "base", base)
    assert rank_lab("analyze", folders[0], "--base", folders[1], "-o", tmp_path / "study").code == 0
    done = rank_lab("plan", tmp_path / "study", "--energy", 0.99999)
    assert done.code == 1
    assert "out of reach" in done.out
    assert "only below the rounding of their files" in done.out
    assert json.loads((tmp_path / "study" / "tuned.plan.json").read_text())["totals"]["reached"] is False
    made = rank_lab("extract", folders[0], "--base", folders[1], "--energy", 0.99999, "-o", tmp_path / "lora")
    assert (made.code, made.out) == (2, "")
    assert "--with-rounding" in made.err
    assert rank_lab("plan", tmp_path / "study", "--energy", 0.99999, "--with-rounding").code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "no budget given"),
        (["--budget", "9", "--energy", "0.9"], "--budget and --energy given"),
        (["--budget", "0"], "a budget of 0"),
        (["--budget", "5"], "5 parameters buys nothing: the cheapest direction costs"),
        (["--energy", "0"], "above 0 and below 1"),
        (["--energy", "1"], "above 0 and below 1"),
        (["--energy", "nan"], "above 0 and below 1"),
        (["--budget", "900", "--method", "best"], "expected one of greedy, uniform, per_layer"),
        (["--budget", "900", "--run", "none"], "run 'none'? Its reports are of tuned"),
        (["--budget", "900", "--step", "3"], "no step 3"),
    ],
)
def test_bad_plans(study: Path, arguments: list[str], says: str) -> None:
    done = rank_lab("plan", study, *arguments)
    assert (done.code, done.out) == (2, "")
    assert says in done.err
    assert done.err.count("\n") == 1
    assert not list(study.glob("*.plan.json"))


def test_studies_that_are_none(study: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = rank_lab("plan", tmp_path / "empty", "--budget", 900)
    assert (done.code, "holds no report" in done.err) == (2, True)
    head = json.loads((study / "tuned.rank" / "report.json").read_text())
    head["schema_version"] = SCHEMA_VERSION + 1
    (study / "tuned.rank" / "report.json").write_text(json.dumps(head))
    done = rank_lab("plan", study, "--budget", 900)
    assert (done.code, f"schema version {SCHEMA_VERSION + 1}" in done.err) == (2, True)


def test_several_runs_must_be_named(study: Path, tmp_path: Path, generator: torch.Generator) -> None:
    adapter = save_adapter(tmp_path / "adapter", factors(generator))
    assert rank_lab("analyze", adapter, "-o", study).code == 0
    done = rank_lab("plan", study, "--budget", 900)
    assert (done.code, "of adapter, tuned; name one with --run" in done.err) == (2, True)
    assert rank_lab("plan", study, "--budget", 900, "--run", "adapter").code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--rank", "0"], "a rank of 0"),
        (["--rank", "1", "--method", "per_layer"], "one rank for all is 'uniform'"),
        (["--plan", "none.json"], "is no plan"),
        (["--rank", "1", "--dtype", "int4"], "dtype 'int4'"),
        ([], "no budget given"),
    ],
)
def test_bad_extractions(study: Path, tmp_path: Path, arguments: list[str], says: str) -> None:
    done = rank_lab("extract", tmp_path / "tuned", "--base", tmp_path / "base", "-o", tmp_path / "lora", *arguments)
    assert (done.code, done.out) == (2, "")
    assert says in done.err
    assert not (tmp_path / "lora").exists()


def test_truncated_spectra_are_planned_as_far_as_they_go(study: Path, tmp_path: Path) -> None:
    base, tuned = tmp_path / "base", tmp_path / "tuned"
    analysed = rank_lab("analyze", tuned, "--base", base, "-o", tmp_path / "top", "--method", "randomized", "--k", 3)
    assert analysed.code == 0
    done = rank_lab("plan", tmp_path / "top", "--budget", 100_000)
    assert done.code == 0
    assert "at the end of a truncated spectrum" in done.out
    content = json.loads((tmp_path / "top" / "tuned.plan.json").read_text())
    assert {row["rank"] for row in content["modules"]} == {3}
    whole = json.loads(rank_lab("plan", study, "--budget", 100_000, "--most", 3, "--json").out)
    assert content["totals"]["relative_error"] == pytest.approx(whole["totals"]["relative_error"], rel=1e-4)


def test_factors_that_were_written_wrong_are_caught(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rank_lab import certified_adapter

    real = certified_adapter.truncated_factors

    def halved(*arguments: Any, **options: Any) -> tuple[LowRankUpdate, str]:
        found, method = real(*arguments, **options)
        return LowRankUpdate(found.B, found.A * 0.9), method

    monkeypatch.setattr(certified_adapter, "truncated_factors", halved)
    with pytest.raises(RankLabError, match="where the spectrum promised"):
        extract(tmp_path / "tuned", tmp_path / "base", tmp_path / "lora", RankChoice(rank=4))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "study", "tuned"]


def test_names_are_text_and_no_markup(tmp_path: Path, generator: torch.Generator) -> None:
    name = "model.layers.0.[red]x[/red].q_proj"
    state = {f"{name}.weight": torch.randn(8, 8, generator=generator)}
    base, tuned = save(tmp_path / "base", state), save(tmp_path / "tuned", moved(state, generator))
    assert rank_lab("analyze", tuned, "--base", base, "-o", tmp_path / "study").code == 0
    assert name in rank_lab("plan", tmp_path / "study", "--budget", 32, "--modules").out
    made = rank_lab("extract", tuned, "--base", base, "--rank", 1, "--modules", "-o", tmp_path / "lora")
    assert made.code == 0
    assert name in made.out
