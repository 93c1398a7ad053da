"""What is meant follows from the schedule; what is there, from the rows."""

import json
import os
from pathlib import Path

import pytest

from rank_lab.curve import PROGRESS_FILE, SCHEDULE_FILE, Curve
from rank_lab.curve_progress import begun, curve_progress, running_stage
from rank_lab.errors import SchemaError
from rank_lab.stage_table import controls_of, seeds_of, stage_table, stages_of
from tests.curve_rows import curve, row


def meant(folder: Path, **changes: object) -> None:
    plan = {"thresholds": [], "target_ranks": [], "target_parameters": [], "controls": ["svd"], "seeds": [0, 1]}
    (folder / SCHEDULE_FILE).write_text(json.dumps({"schedule": plan | changes}))


@pytest.mark.parametrize(
    ("changes", "stages", "controls"),
    [
        ({"thresholds": [0.0, 1.0, 2.0]}, 6, 4),  # a control stands beside every stage but the first
        ({"target_ranks": [4, 2]}, 6, 4),  # a dense stage goes before them
        ({"target_parameters": [400], "controls": None}, 4, 0),
    ],
)
def test_rows_that_are_meant(tmp_path: Path, changes: dict[str, object], stages: int, controls: int) -> None:
    meant(tmp_path, **changes)
    found = curve_progress(begun(tmp_path))
    assert (found.stages_meant, found.controls_meant) == (stages, controls)
    assert found.stages_text == f"0 of {stages}"
    assert not found.done


def test_rows_of_another_schedule_do_not_count(tmp_path: Path) -> None:
    meant(tmp_path, thresholds=[0.0, 1.0], controls=[], seeds=[0])
    found = curve_progress(curve(tmp_path, [row(0), row(1), row(7), row(0, seed=3)]))
    assert (found.stages, found.stages_meant) == (2, 2)
    assert found.done


def test_a_control_that_is_no_name_leads_to_no_folder(tmp_path: Path) -> None:
    meant(tmp_path, thresholds=[0.0, 1.0], controls=["../../elsewhere"], seeds=[0])
    assert running_stage(begun(tmp_path)) is None
    assert curve_progress(begun(tmp_path)).stages_meant is None
    with pytest.raises(SchemaError, match="a name that a folder may have"):
        row(1, control="../../elsewhere")


def progress(made: Curve, seed: int, stage: int, text: str, control: str = "sora") -> Path:
    file = made.stage_folder(seed, stage, control) / PROGRESS_FILE
    file.parent.mkdir(parents=True)
    file.write_text(text)
    os.utime(file, (0, 1_000_000))
    return file


def test_the_first_stage_without_a_row_is_under_way(tmp_path: Path) -> None:
    meant(tmp_path, thresholds=[0.0, 1.0])
    made = curve(tmp_path, [row(0)])
    assert running_stage(made) is None
    progress(made, 0, 0, '{"step": 1}\n')  # has its row
    progress(made, 0, 1, '{"step": 20, "loss": 0.5, "note": "x", "flag": true}\n{"step": 4')
    found = running_stage(made)
    assert found is not None
    assert (found.seed, found.control, found.stage, dict(found.check)) == (0, "sora", 1, {"step": 20.0, "loss": 0.5})
    assert found.written.timestamp() == 1_000_000


@pytest.mark.parametrize("text", ["", "{", "[1]\n", "not json\n", '{"step": 1' + " " * 10_000 + "}\n"])
def test_progress_that_says_nothing_is_begun(tmp_path: Path, text: str) -> None:
    meant(tmp_path, thresholds=[0.0, 1.0])
    progress(begun(tmp_path), 0, 0, text)
    found = running_stage(begun(tmp_path))
    assert found is not None
    assert "begun" in found.sentence()


def test_the_table_has_stages_before_controls_and_targets_where_there_are(tmp_path: Path) -> None:
    rows = [row(1, control="svd"), row(1), row(0), row(0, seed=1)]
    made = curve(tmp_path, rows)
    table = stage_table(made)
    assert list(zip(table["seed"], table["control"], table["stage"], strict=True)) == [
        (0, "sora", 0), (0, "sora", 1), (0, "svd", 1), (1, "sora", 0),
    ]  # fmt: skip
    assert "target" not in table
    assert len(stage_table(made, seed=1)) == 1
    driven = stage_table(curve(tmp_path, [row(0), row(1, target=4.0, target_kind="rank", target_reached=True)]))
    assert driven["target"].tolist()[1] == 4.0
    assert (seeds_of(made), controls_of(made), stages_of(made)) == ((0, 1), ("sora", "svd"), (1, 0))
