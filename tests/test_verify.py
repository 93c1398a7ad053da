"""``rank-lab verify``: what holds, what was changed behind the study's back, what cannot be told."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from rank_lab import RankReport, analyze
from rank_lab.curve import Curve, CurveRow
from rank_lab.report_verification import verify_report
from rank_lab.score_row import ScoreRow
from rank_lab.score_table import SCORES_FILE, ScoreTable
from rank_lab.score_verification import verify_curve, verify_scores
from rank_lab.sora.predictions import Predictions, save_predictions
from rank_lab.verification import COMPARED, numbers_differ, row_difference, stratified_sample, values_difference
from tests.checkpoints import factors, llama, moved, rank_lab, save, save_adapter


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A full fine-tune in bfloat16, an adapter and a trajectory, and the study of all."""
    home, generator = tmp_path_factory.mktemp("made"), torch.Generator().manual_seed(7)
    state = llama(generator)
    low = {name: value.bfloat16() for name, value in state.items()}
    base, half = save(home / "base", state), save(home / "half", low)
    tuned = save(home / "tuned", {name: value.bfloat16() for name, value in moved(state, generator, by=0.1).items()})
    adapter = save_adapter(home / "adapter", factors(generator))
    for step in (5, 10):
        save(home / "run" / f"checkpoint-{step}", moved(state, generator))
    for arguments in ((tuned, "--base", half), (adapter, "--base", base), (home / "run", "--base", base)):
        done = rank_lab("analyze", *arguments, "-o", home / "study")
        assert done.code == 0, done.err
    return home


@pytest.fixture
def study(made: Path, tmp_path: Path) -> Path:
    """Its own copy of all that for a test, which the reports name as their inputs."""
    home = tmp_path / "home"
    shutil.copytree(made, home)
    for head in home.glob("study/*.rank/report.json"):
        head.write_text(head.read_text().replace(str(made), str(home)))
    return home / "study"


def checks(*arguments: object, code: int) -> list[dict[str, Any]]:
    done = rank_lab("verify", *arguments, "--json")
    assert done.code == code, done.err + done.out
    found: list[dict[str, Any]] = json.loads(done.out)
    return found


def results(found: list[dict[str, Any]], run: str | None = None) -> set[str]:
    return {check["result"] for check in found if run in (None, check["run"])}


def rewritten(file: Path, column: str, change: Any) -> None:
    """A column of a Parquet file changed behind the report's back."""
    table = pq.read_table(file)
    values = [change(value) for value in table[column].to_pylist()]
    at = table.schema.get_field_index(column)
    pq.write_table(table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type)), file)


def test_a_fresh_study_holds_in_every_row(study: Path) -> None:
    found = checks(study, "--sample", 0, code=0)
    rows = sum(len(RankReport.load(folder).updates) for folder in study.glob("*.rank"))
    assert len(found) == rows > 40
    assert results(found) == {"holds"}
    shown = rank_lab("verify", study, "--sample", 2)
    assert shown.code == 0
    assert "5 holds" in shown.out  # of the adapter there is one matrix
    assert "2 of " in shown.out


def test_the_sample_is_spread_and_the_same_for_a_seed(study: Path) -> None:
    first = checks(study / "run.rank", "--sample", 6, "--seed", 3, code=0)
    assert first == checks(study / "run.rank", "--sample", 6, "--seed", 3, code=0)
    assert first != checks(study / "run.rank", "--sample", 6, "--seed", 4, code=0)
    rows = [check["row"] for check in first]
    assert any("step 5" in row for row in rows)
    assert any("step 10" in row for row in rows)
    assert any("since the step before" in row for row in rows)
    strata = ["q"] * 97 + ["k", "k", "o"]
    assert {strata[at] for at in stratified_sample(strata, 3, 0)} == {"q", "k", "o"}
    assert stratified_sample(strata, 0, 5) == list(range(100))


@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("stable_rank", lambda value: value * 1.001),
        ("frobenius_norm", lambda value: value * (1 + 1e-5)),
        ("energy_rank_90", lambda value: value + 1),
        ("null_effective_rank", lambda value: value + 0.1),
        ("rank_above_rounding", lambda value: None if value is None else value + 1),
        ("noise_regime", lambda value: "exact"),
        ("layer", lambda value: 7),
    ],
)
def test_a_number_that_was_edited_is_named(study: Path, column: str, change: Any) -> None:
    rewritten(study / "tuned.rank" / "updates.parquet", column, change)
    found = checks(study / "tuned.rank", "--sample", 0, code=1)
    wrong = [check for check in found if check["result"] == "differs"]
    assert {check["difference"]["column"] for check in wrong} == {column}
    assert all(check["difference"]["stored"] != check["difference"]["found"] for check in wrong)


def test_an_edited_number_is_shown_with_its_run(study: Path) -> None:
    rewritten(study / "tuned.rank" / "updates.parquet", "stable_rank", lambda value: value * 1.001)
    found = checks(study, code=1)
    assert {check["run"] for check in found if check["result"] == "differs"} == {"tuned"}
    shown = rank_lab("verify", study / "tuned.rank", "--sample", 4)
    assert shown.code == 1
    assert "stable_rank: stored" in " ".join(shown.out.split())


def test_edited_singular_values_are_found(study: Path) -> None:
    rewritten(study / "adapter.rank" / "spectra.parquet", "values", lambda values: [values[0] * 1.01, *values[1:]])
    found = checks(study, code=1)
    wrong = [check for check in found if check["result"] == "differs"]
    assert {check["run"] for check in wrong} == {"adapter"}
    assert {check["difference"]["column"] for check in wrong} == {"singular value 1"}


def test_a_changed_checkpoint_is_no_wrong_number(study: Path) -> None:
    file = study.parent / "tuned" / "model.safetensors"
    state = load_file(file)
    changed = "model.layers.0.self_attn.q_proj.weight"
    save_file(state | {changed: state[changed] * 2}, file)
    found = checks(study / "tuned.rank", "--sample", 0, code=1)
    assert {check["row"] for check in found if check["result"] == "input changed"} == {
        "model.layers.0.self_attn.q_proj"
    }
    assert results(found) == {"input changed", "holds"}
    file.write_bytes(file.read_bytes()[:-10])  # cut: nothing of it can be read
    assert results(checks(study / "tuned.rank", code=1)) == {"input changed"}


def test_a_changed_adapter_and_a_changed_step_are_seen(study: Path) -> None:
    file = study.parent / "adapter" / "adapter_model.safetensors"
    save_file({name: value + 1 for name, value in load_file(file).items()}, file)
    assert results(checks(study / "adapter.rank", code=1)) == {"input changed"}
    before = study.parent / "run" / "checkpoint-5" / "model.safetensors"
    save_file({name: value + 1 for name, value in load_file(before).items()}, before)
    found = checks(study / "run.rank", "--sample", 0, code=1)
    later = {check["row"]: check["result"] for check in found if "step 10" in check["row"]}
    assert {value for row, value in later.items() if "since" in row} == {"input changed"}
    assert {value for row, value in later.items() if "since" not in row} == {"holds"}


def test_a_missing_input_is_named(study: Path) -> None:
    shutil.rmtree(study.parent / "tuned")
    found = checks(study, code=1)
    assert results(found, "tuned") == {"input missing"}
    assert results(found, "run") == {"holds"}
    assert str(study.parent / "tuned") in next(check["reason"] for check in found if check["run"] == "tuned")
    shutil.rmtree(study.parent / "run" / "checkpoint-5")
    found = checks(study / "run.rank", "--sample", 0, code=1)
    by_row = {check["row"]: check["result"] for check in found}
    assert by_row["lm_head, step 10"] == "holds"
    assert by_row["lm_head, step 10, since the step before"] == by_row["lm_head, step 5"] == "input missing"


def test_a_study_that_was_moved_is_verified_where_it_is(study: Path, tmp_path: Path) -> None:
    away = tmp_path / "away"
    shutil.copytree(study, away)
    assert results(checks(away, code=0)) == {"holds"}  # inputs where they were
    shutil.move(study.parent, tmp_path / "new")
    assert results(checks(tmp_path / "new" / "study", code=0)) == {"holds"}  # inputs moved along
    assert results(checks(away, code=1)) == {"input missing"}


def test_settings_of_the_analysis_are_those_that_were_recorded(tmp_path: Path, generator: torch.Generator) -> None:
    state = llama(generator)
    base, tuned = save(tmp_path / "base", state), save(tmp_path / "tuned", moved(state, generator))
    for method in (("--method", "svd"), ("--method", "randomized", "--k", "3"), ("--noise", "off")):
        done = rank_lab("analyze", tuned, "--base", base, "-o", tmp_path / "study", *method)
        assert done.code == 0, done.err
        assert results(checks(tmp_path / "study", "--sample", 0, code=0)) == {"holds"}


def test_what_was_tracked_in_memory_cannot_be_computed_again(tmp_path: Path, generator: torch.Generator) -> None:
    state = llama(generator)
    base, tuned = save(tmp_path / "base", state), save(tmp_path / "tuned", moved(state, generator))
    whole = analyze(tuned, base)
    live = RankReport(
        whole.updates.assign(content=""), whole.spectra, whole.coverage, dict(whole.provenance) | {"tracking": {}}
    )
    found = verify_report(live, tmp_path, sample=3)
    assert {check.result for check in found} == {"not recomputable"}
    assert "in memory" in found[0].reason


def test_scores_are_means_of_their_examples(tmp_path: Path) -> None:
    right = ScoreRow("a", "lora", 5, "rte", "acc", 0.5, 0.5, 2, examples=(0, 1))
    rows = [
        right,
        ScoreRow("b", "lora", 5, "rte", "acc", 0.5, 0.25, 2, examples=(0, 1)),  # s / sqrt(n) is 0.5
        ScoreRow("c", "lora", 5, "rte", "acc", 0.6, 0.5, 2, examples=(0, 1)),
        ScoreRow("d", "lora", 5, "rte", "acc", 0.6),
        ScoreRow("e", "lora", 5, "cola", "matthews_correlation", 0.3, examples=(0, 1)),
    ]
    found = {check.run: check for check in verify_scores(rows, sample=0)}
    assert [found[run].result for run in "abcde"] == [
        "holds", "differs", "differs", "not recomputable", "not recomputable",
    ]  # fmt: skip
    assert [found[run].difference.column for run in "bc"] == ["stderr", "value"]  # type: ignore[union-attr]
    ScoreTable.of([right]).save(tmp_path / SCORES_FILE)
    assert results(checks(tmp_path, code=0)) == {"holds"}
    ScoreTable.of([rows[2]]).save(tmp_path / SCORES_FILE)
    assert results(checks(tmp_path, code=1)) == {"differs"}


def stage(**changes: Any) -> CurveRow:
    row: dict[str, Any] = {
        "model": "m", "task": "rte", "seed": 0, "control": "sora", "stage": 1, "threshold": 0.1, "threshold_mode": "lr",
        "operator": "soft", "target": None, "target_kind": None, "target_reached": None, "steps": 5, "lr_start": None,
        "lr_peak": None, "lr_end": None, "stop": "converged", "converged": True, "hook_calls": 5, "seconds": 1.0,
        "gates": 8, "nonzero_gates": 4, "nonzero_by_module": {"q": 4}, "nonzero_parameters": 64,
        "published_parameters": None, "effective_rank": 2.0, "train_loss": 0.5, "validation_loss": 0.6,
        "score": "accuracy", "train_score": 0.75, "validation_score": 0.5, "train_examples": 4,
        "validation_examples": 2, "memorization": 75.0, "memorization_low": None, "memorization_high": None,
        "generalization": 62.5, "generalization_low": None, "generalization_high": None, "reference": "stage_0",
        "train_reference": 1.0, "validation_reference": 0.8,
    }  # fmt: skip
    return CurveRow(**row | changes)


@pytest.mark.parametrize(
    ("changes", "result", "column"),
    [
        ({}, "holds", None),
        ({"memorization": 76.0}, "differs", "memorization"),
        ({"generalization": None}, "differs", "generalization"),
        ({"train_score": 0.5, "memorization": 50.0}, "differs", "train_score"),
        ({"validation_examples": 3}, "differs", "validation_examples"),
    ],
)
def test_a_curve_is_computed_again_from_its_predictions(
    tmp_path: Path, changes: dict[str, Any], result: str, column: str | None
) -> None:
    curve = Curve(tmp_path / "curve.jsonl").appended(stage(**changes))
    folder = curve.stage_folder(0, 1)
    folder.mkdir(parents=True)
    train = Predictions(np.array([0.0, 1.0, 1.0, 0.0]), np.array([0.0, 1.0, 1.0, 1.0]), 0.5)
    validation = Predictions(np.array([0.0, 1.0]), np.array([0.0, 0.0]), 0.6)
    save_predictions(folder, {"train": (np.arange(4), train), "validation": (np.arange(2), validation)})
    (check,) = verify_curve(curve, sample=0)
    assert check.result == result
    assert (None if check.difference is None else check.difference.column) == column
    shutil.rmtree(folder)
    (check,) = verify_curve(curve, sample=0)
    assert check.result == ("differs" if column in ("memorization", "generalization") else "input missing")


def test_a_tie_is_no_difference_and_rounding_neither() -> None:
    row: dict[str, Any] = dict.fromkeys(COMPARED)
    row |= {"frobenius_norm": 2.0**0.5, "spectrum_floor": 1e-12, "energy_rank_50": 1, "energy_rank_90": 2}
    values = np.array([1.0, 1.0])
    assert row_difference(row, row | {"energy_rank_50": 2}, values) is None  # half of the energy, to the last digit
    assert row_difference(row, row | {"energy_rank_90": 1}, values) is not None
    assert row_difference(row, row | {"frobenius_norm": 2.0**0.5 * (1 + 1e-9)}, values) is None
    assert not numbers_differ(0.0, 1e-13, floor=1e-12)
    assert numbers_differ(0.0, 1e-13)
    assert values_difference([1.0, 0.5], [1.0], 0.0) is not None


@pytest.mark.parametrize("arguments", [["--sample", "-1"], ["--sample", "many"], ["--seed", "-3"]])
def test_wrong_options_are_refused(study: Path, arguments: list[str]) -> None:
    assert rank_lab("verify", study, *arguments).code == 2


def test_wrong_studies_are_refused(study: Path, tmp_path: Path) -> None:
    for folder in (tmp_path / "nowhere", tmp_path):
        done = rank_lab("verify", folder)
        assert (done.code, done.out) == (2, "")
        assert done.err.startswith("error: ")
        assert done.err.count("\n") == 1
    (study / "tuned.rank" / "updates.parquet").write_bytes(b"PAR1")
    assert rank_lab("verify", study).code == 2
