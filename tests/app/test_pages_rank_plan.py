"""The page Rank plan: its table is the plan of the study, a slider changes it, and it says what capped it."""

from pathlib import Path

import pytest

from rank_lab.budget import plan_ranks
from rank_lab.study import Study
from rank_lab.study_plan import study_modules
from tests.app.complete import report
from tests.app.conftest import Shown
from tests.app.studies import HOSTILE_MODULE, HOSTILE_RUN, renamed
from tests.app.texts import calm, figures, is_literal, said, table


def ranks(test: object) -> dict[str, int]:
    found = table(test, "rank", "capped_by")  # type: ignore[arg-type]
    return dict(zip(found["module"], found["rank"], strict=True))


def test_the_table_is_the_plan_and_the_slider_changes_it(shown: Shown, whole: Path) -> None:
    test = shown(whole, "rank_plan", run="full", step="20")
    calm(test)
    assert len(figures(test)) == 2
    slider = test.select_slider(key="budget")
    modules = study_modules(Study(whole), "full", step=20).spectra
    seen = []
    for budget in (int(slider.options[0]), int(slider.options[-1])):
        slider.set_value(budget).run()
        plan = plan_ranks(modules, parameters=budget)
        assert {name: rank for name, rank in ranks(test).items() if rank} == plan.ranks
        assert {each.label: each.value for each in test.metric}["Parameters"] == f"{plan.parameters:,}"
        seen.append(sum(plan.ranks.values()))
    assert seen[0] == 1
    assert seen[1] == 10  # all four of both q, one of both up: the rest is rounding


def test_rounding_caps_and_may_be_taken_in(shown: Shown, whole: Path) -> None:
    test = shown(whole, "rank_plan", goal="one rank for all", one_rank="4")
    assert ranks(test) == {"layers.0.q_proj": 4, "layers.0.up_proj": 1, "layers.1.q_proj": 4, "layers.1.up_proj": 1}
    assert "2 modules hold more only below the rounding of their files" in said(test)
    test.toggle(key="rounding").set_value(True).run()
    assert set(ranks(test).values()) == {4}
    assert "--with-rounding" in said(test)
    test.number_input(key="most").set_value(2).run()
    assert set(ranks(test).values()) == {2}
    calm(test)


def test_choices_come_back_from_the_address(shown: Shown, whole: Path) -> None:
    test = shown(whole, "rank_plan", run="lora", step="10", goal="a share of the energy", energy="95.0%", most="3")
    assert test.selectbox(key="run").value == "lora"
    assert test.select_slider(key="energy").value == 0.95
    assert test.number_input(key="most").value == 3
    text = said(test)
    assert "--run lora --step 10 --energy 0.95 --method greedy --most 3" in text
    assert "rank-lab extract /nowhere/lora/checkpoint-10 --base /nowhere/base --plan plan.json" in text


def test_an_energy_that_caps_keep_out_of_reach_is_said(shown: Shown, whole: Path) -> None:
    test = shown(whole, "rank_plan", goal="a share of the energy", energy="99.9%")
    assert any("out of reach" in each.value for each in test.warning)


def test_a_file_that_changes_is_read_again(shown: Shown, tmp_path: Path) -> None:
    report("full", grown=(10,)).save(tmp_path / "full.rank")
    test = shown(tmp_path, "rank_plan", goal="one rank for all", one_rank="2")
    before = table(test, "rank", "frobenius_norm")["frobenius_norm"].iloc[0]
    report("full", grown=(10, 20)).save(tmp_path / "full.rank")
    test.run()
    assert table(test, "rank", "frobenius_norm")["frobenius_norm"].iloc[0] == pytest.approx(before)
    test.selectbox(key="step").set_value(20).run()
    assert table(test, "rank", "frobenius_norm")["frobenius_norm"].iloc[0] == pytest.approx(2 * before)


def test_an_empty_study_and_broken_spectra_say_what_to_do(shown: Shown, tmp_path: Path) -> None:
    assert "rank-lab analyze" in said(shown(tmp_path, "rank_plan"))
    report("full").save(tmp_path / "full.rank")
    (tmp_path / "full.rank" / "spectra.parquet").write_bytes(b"PAR1")
    test = shown(tmp_path, "rank_plan")
    assert "cannot be read" in test.error[0].value


def test_hostile_names_are_text(shown: Shown, tmp_path: Path) -> None:
    renamed(report("full"), HOSTILE_RUN, {"layers.0.q_proj": HOSTILE_MODULE}).save(tmp_path / "a.rank")
    test = shown(tmp_path, "rank_plan")
    calm(test)
    assert is_literal(test, HOSTILE_RUN)
    assert HOSTILE_MODULE in ranks(test)
