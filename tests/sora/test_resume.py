"""A schedule that is killed, extended or changed: the same curve, more of it, or a refusal by name."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rank_lab.curve import Curve
from rank_lab.durable import append_line
from rank_lab.errors import RankLabError
from rank_lab.sora import StopRule, study_lock
from rank_lab.sora.schedule_record import keep_record
from rank_lab.sora.stage_checkpoints import last_whole
from tests.sora.schedules import adapter, arguments, maker, plan, rows, run, timeless

ROOT = Path(__file__).resolve().parents[2]
SHORT = {"thresholds": (0.0, 1.0), "stop": StopRule(min_steps=4, max_steps=4, check_steps=2)}


def assert_equal_studies(one: Path, other: Path) -> None:
    """All rows but for the clock, all adapters bit for bit, all predictions and progress."""
    assert timeless(Curve.load(one)) == timeless(Curve.load(other))
    files = sorted(path.relative_to(one) for path in one.rglob("*") if "training" not in path.parts)
    assert files == sorted(path.relative_to(other) for path in other.rglob("*") if "training" not in path.parts)
    folders = [path.parent for path in files if path.name == "adapter_model.safetensors"]
    assert len(folders) == len(Curve.load(one).records)
    for folder in folders:
        ours, theirs = adapter(one / folder), adapter(other / folder)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    for path in files:
        if path.name in ("predictions.parquet", "progress.jsonl", "start.json", "memorization_subset.json"):
            assert (one / path).read_bytes() == (other / path).read_bytes(), path


def test_killed_anywhere_it_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    cases = ("thresholds", "adam", "targets", "points")
    command = [sys.executable, "-W", "ignore", "-m", "tests.sora.schedule_kills", str(tmp_path), "20261126", *cases]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    attempts = json.loads(done.stdout)
    assert attempts.pop("points") > 50
    assert sum(count - 1 for count in attempts.values()) >= 3
    for case in cases:
        assert_equal_studies(tmp_path / case / "straight", tmp_path / case / "killed")
    stops = {row.stop for case in cases for row in Curve.load(tmp_path / case / "straight").records}
    assert stops >= {"converged", "not_trained"}


def test_more_thresholds_seeds_and_controls_go_on(tmp_path: Path) -> None:
    run(tmp_path / "parts", schedule=plan(**SHORT))
    before = (tmp_path / "parts" / "curve.jsonl").read_bytes()
    longer = SHORT | {"thresholds": (0.0, 1.0, 2.0)}
    run(tmp_path / "parts", schedule=plan(**longer))
    whole = plan(**longer, seeds=(0, 4), controls=("one_shot",))
    parts = run(tmp_path / "parts", schedule=whole)
    assert (tmp_path / "parts" / "curve.jsonl").read_bytes().startswith(before)
    straight = run(tmp_path / "straight", schedule=whole)
    order = lambda row: (row["seed"], row["control"], row["stage"])  # noqa: E731
    assert sorted(timeless(parts), key=order) == sorted(timeless(straight), key=order)
    again = run(tmp_path / "parts", schedule=whole)
    assert again == parts


def other_model() -> Any:
    model = maker()()
    with torch.no_grad():
        model.get_base_model().bert.embeddings.word_embeddings.weight.add_(1e-3)
    return model


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "learning rate": (
        {"arguments": arguments(learning_rate=0.01)},
        r"arguments.learning_rate 0.02 there, 0.01 now; run it as it was begun",
    ),
    "batch": ({"arguments": arguments(per_device_eval_batch_size=8)}, "score.batch_size 16 there, 8 now"),
    "threshold": ({"schedule": plan(**SHORT | {"thresholds": (0.0, 1.5)})}, r"schedule.thresholds \[0.0, 1.0\] there"),
    "fewer": ({"schedule": plan(**SHORT | {"thresholds": (0.0,)})}, r"\[0.0, 1.0\] there, \[0.0\] now"),
    "rule": (
        {"schedule": plan(**SHORT | {"stop": StopRule(min_steps=4, max_steps=6, check_steps=2)})},
        "schedule.stop.max_steps 4 there, 6 now",
    ),
    "adapter": ({"make_model": maker(operator="gapped")}, r'adapter.operator "soft" there, "gapped" now'),
    "data": ({"validation": rows(count=24, seed=10)}, "data.validation.sha256"),
    "task": ({"names": {"model": "tiny", "task": "other"}}, 'names.task "classification" there, "other" now'),
    "weights": ({"make_model": other_model}, "make_model gives other weights than before: frozen_sample"),
}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("begun")
    run(out, schedule=plan(**SHORT))
    return out


@pytest.mark.parametrize("case", CHANGES)
def test_going_on_with_a_change_is_refused(begun: Path, case: str) -> None:
    options, message = CHANGES[case]
    before = {path: path.read_bytes() for path in begun.rglob("*") if path.is_file() and path.name != ".lock"}
    with pytest.raises(RankLabError, match=message):
        run(begun, **{"schedule": plan(**SHORT)} | options)
    assert before == {path: path.read_bytes() for path in begun.rglob("*") if path.is_file() and path.name != ".lock"}


def test_other_threads_are_recorded(tmp_path: Path) -> None:
    run(tmp_path, schedule=plan(**SHORT))
    torch.set_num_threads(2)
    try:
        run(tmp_path, schedule=plan(**SHORT | {"thresholds": (0.0, 1.0, 2.0)}))
    finally:
        torch.set_num_threads(1)
    found = json.loads((tmp_path / "schedule.json").read_text())["environments"]
    assert [each["threads"] for each in found] == [1, 2]


def test_another_device_is_recorded(tmp_path: Path) -> None:
    found = []
    for kind in ("cpu", "cpu", "meta"):
        found = keep_record(tmp_path, plan(**SHORT), {"arguments": {}, "adapter": {}}, torch.device(kind))[
            "environments"
        ]
    assert [each["device_type"] for each in found] == ["cpu", "meta"]


def test_another_rule_of_the_dense_stage_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rest: dict[str, Any] = {"settings": {"arguments": {}, "adapter": {}}, "device": torch.device("cpu")}
    keep_record(tmp_path, plan(**SHORT), **rest)
    keep_record(tmp_path, plan(**SHORT, dense_stop=plan(**SHORT).first_rule), **rest)  # said, it is the same
    monkeypatch.setattr("rank_lab.sora.schedule_plan._LEAST_FALL", 0.1)
    with pytest.raises(RankLabError, match=r"schedule.dense_stop.fall 0.05 there, 0.1 now"):
        keep_record(tmp_path, plan(**SHORT), **rest)
    file = tmp_path / "schedule.json"
    record = json.loads(file.read_text())
    record["schedule"]["dense_stop"] = None  # of a version that did not write it
    file.write_text(json.dumps(record))
    assert keep_record(tmp_path, plan(**SHORT), **rest)["schedule"]["dense_stop"]["fall"] == 0.1


def test_settings_that_other_versions_know_are_no_change(tmp_path: Path) -> None:
    run(tmp_path, schedule=plan(**SHORT))
    file = tmp_path / "schedule.json"
    record = json.loads(file.read_text())
    record["arguments"]["of_another_version"] = 1
    del record["adapter"]["leave_out_zeros"]
    record["environments"][0]["versions"]["peft"] = "0.0"
    file.write_text(json.dumps(record))
    run(tmp_path, schedule=plan(**SHORT))
    now = json.loads(file.read_text())
    assert [each["versions"]["peft"] == "0.0" for each in now["environments"]] == [True, False]


def test_a_torn_last_line_is_cut_off(tmp_path: Path) -> None:
    whole = run(tmp_path, schedule=plan(**SHORT))
    file = tmp_path / "curve.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    assert Curve.load(tmp_path).records == whole.records[:1]
    again = run(tmp_path, schedule=plan(**SHORT))
    assert timeless(again) == timeless(whole)
    assert file.read_bytes().count(b"\n") == 2


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    code = (  # the module alone, without torch and all else of its package
        "import runpy, sys, time; from pathlib import Path; study_lock = runpy.run_path(sys.argv[1])['study_lock']\n"
        "with study_lock(Path(sys.argv[2])): print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, study_lock.__file__, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RankLabError, match=rf"process {other.pid} is at work there"):
            run(tmp_path, schedule=plan(**SHORT))
        other.kill()
    assert len(run(tmp_path, schedule=plan(**SHORT)).records) == 2  # the lock of a dead process is none


def test_a_checkpoint_that_is_not_whole_is_removed(tmp_path: Path) -> None:
    for step in (10, 20):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-10" / "whole.json").write_text('{"seconds": 1.0}')
    assert last_whole(tmp_path) == tmp_path / "checkpoint-10"
    assert not (tmp_path / "checkpoint-20").exists()


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    run(tmp_path, schedule=plan(**SHORT))
    longer = plan(**SHORT | {"thresholds": (0.0, 1.0, 2.0)})
    checkpoint = last_whole(tmp_path / "seed-0" / "stage-01" / "training")
    assert checkpoint is not None
    (checkpoint / "whole.json").unlink()
    with pytest.raises(RankLabError, match="holds no complete checkpoint, whose optimizer state the next stage"):
        run(tmp_path, schedule=longer)
    (tmp_path / "seed-0" / "stage-01" / "adapter_config.json").unlink()
    with pytest.raises(RankLabError, match=r"adapter_config.json is gone, though the curve has a row"):
        run(tmp_path, schedule=longer)
    (tmp_path / "schedule.json").unlink()
    with pytest.raises(RankLabError, match=r"holds a curve.jsonl but no schedule.json"):
        run(tmp_path, schedule=longer)
    append_line(tmp_path / "schedule.json", "{")
    with pytest.raises(RankLabError, match=r"schedule.json: cannot be read"):
        run(tmp_path, schedule=longer)
