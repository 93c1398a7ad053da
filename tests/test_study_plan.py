"""A plan over a study that is open is the plan of the command line, and its files are taken by what they are for."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rank_lab.budget import RankAllocator, plan_ranks
from rank_lab.budget_command import RankOptions, plan_and_print
from rank_lab.directions import ModuleSpectrum
from rank_lab.errors import BudgetError
from rank_lab.plan_file import read_plan
from rank_lab.study import Study
from rank_lab.study_plan import ENERGIES, budgets_of, first_budget, plan_basis, ranks_of, study_modules
from tests.app.complete import report


@pytest.fixture
def study(tmp_path: Path) -> Path:
    for run in ("full", "lora"):
        report(run, source=str(tmp_path)).save(tmp_path / f"{run}.rank")
    return tmp_path


def command_plan(study: Path, out: Path, **options: Any) -> dict[str, Any]:
    plan_and_print(study, RankOptions(**options), run="full", step=20, out=out, modules=False, as_json=True)
    return dict(json.loads(out.read_text()))


def test_it_is_the_plan_of_the_command_line(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    basis = plan_basis(study_modules(Study(study), "full", step=20))
    plan = basis.allocator.plan(parameters=60)
    stored = basis.modules.plan_file(plan, most=None, above_noise=True, command="made up")
    theirs = command_plan(study, tmp_path / "cli.plan.json", budget=60)
    capsys.readouterr()
    for part in ("asked", "totals", "config", "modules"):
        assert json.loads(json.dumps(stored))[part] == theirs[part], part


def test_the_file_is_read_by_extract(study: Path, tmp_path: Path) -> None:
    basis = plan_basis(study_modules(Study(study), "full", step=20), most=2, above_noise=False)
    plan = basis.allocator.plan(energy=0.8)
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(basis.modules.plan_file(plan, most=2, above_noise=False, command="made up")))
    promises = read_plan(file).promises
    assert {name: promise.rank for name, promise in promises.items() if promise.rank} == plan.ranks


def test_the_config_is_taken_by_peft(study: Path) -> None:
    import peft

    basis = plan_basis(study_modules(Study(study), "full", step=20))
    plan = basis.allocator.plan(parameters=60)
    config = basis.modules.peft_config(plan)
    made = peft.LoraConfig(**config)
    assert made.base_model_name_or_path == f"{study}/base"
    assert set(made.target_modules) == set(plan.ranks)


def tied(study: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"tie_word_embeddings": true, "architectures": ["LlamaForCausalLM"]}')


def test_a_config_is_read_in_the_study_alone(study: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    tied(study, study / "full" / "checkpoint-20")
    found = study_modules(Study(study), "full", step=20)
    assert found.config["tie_word_embeddings"] is True
    assert found.task == "CAUSAL_LM"
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    tied(study, elsewhere / "full" / "checkpoint-20")
    report("full", source=str(elsewhere)).save(study / "full.rank")
    assert study_modules(Study(study), "full", step=20).config == {}


def test_a_link_out_of_the_study_is_not_followed(study: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("secrets")
    tied(study, elsewhere / "model")
    (study / "full").symlink_to(elsewhere)
    (elsewhere / "checkpoint-20").symlink_to(elsewhere / "model")
    assert study_modules(Study(study), "full", step=20).config == {}


def test_what_is_not_there_is_refused(study: Path) -> None:
    with pytest.raises(BudgetError, match="no step 7"):
        study_modules(Study(study), "full", step=7)


def modules() -> list[ModuleSpectrum]:
    return [
        ModuleSpectrum("q", 400, 600, np.geomspace(10, 0.1, 200)), ModuleSpectrum("v", 90, 20, np.array([3.0, 1.0])),
    ]  # fmt: skip


def test_budgets_go_from_the_first_direction_to_all_of_them() -> None:
    allocator = RankAllocator(modules())
    budgets = budgets_of(allocator)
    assert (budgets[0], budgets[-1]) == (110, 200 * 1000 + 2 * 110)
    assert list(budgets) == sorted(set(budgets))
    assert 60 < len(budgets) <= 100
    assert all(isinstance(each, int) and allocator.plan(parameters=each).parameters <= each for each in budgets)


def test_a_slider_begins_where_most_of_the_energy_is_kept() -> None:
    allocator = RankAllocator(modules())
    budgets = budgets_of(allocator)
    first = first_budget(allocator, budgets)
    assert allocator.plan(parameters=first).kept_energy >= 0.9
    assert allocator.plan(parameters=budgets[budgets.index(first) - 1]).kept_energy < 0.9


def test_ranks_end_at_the_largest_that_makes_a_difference() -> None:
    found = ranks_of(modules())
    assert found[:32] == tuple(range(1, 33))
    assert found[-1] == 200
    assert ranks_of(modules(), most=5) == (1, 2, 3, 4, 5)
    assert plan_ranks(modules(), rank=found[-1]).kept_energy == pytest.approx(1.0)


def test_every_energy_on_offer_may_be_asked_for() -> None:
    allocator = RankAllocator(modules())
    kept = [allocator.plan(energy=each).kept_energy for each in ENERGIES]
    assert list(ENERGIES) == sorted(set(ENERGIES))
    assert all(found >= asked - 1e-9 for found, asked in zip(kept, ENERGIES, strict=True))
