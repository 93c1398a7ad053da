"""The command: what it writes, that it goes on, and what it says of what it cannot do."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from rank_lab.demo import BASE
from rank_lab.errors import RankLabError
from rank_lab.evaluation import evaluate_choices, text_scores, tuned_models
from rank_lab.evaluation.evaluate_choices import Choices, Job, jobs_of
from rank_lab.evaluation.evaluate_command import evaluate_and_print
from rank_lab.evaluation.evaluated import Evaluated
from rank_lab.evaluation.tuned_models import LoadOptions, base_tuned
from rank_lab.score_table import ScoreRow, ScoreTable
from tests.evaluation.evaluated import LORA, evaluate, table
from tests.evaluation.models import adapter


def test_base_and_every_step_are_measured(
    run: Path, texts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    choices = Choices(source_texts=(texts,), kl=True)
    assert not evaluate([run], tmp_path / "study", choices)
    rows = table(tmp_path / "study").rows
    assert [(row.run, row.method, row.step) for row in rows if row.metric == "kl_from_base"] == [
        ("base", "base", 0), ("lora", "lora", 5), ("lora", "lora", 10),
    ]  # fmt: skip
    distance = [row.value for row in rows if row.metric == "kl_from_base"]
    assert distance[0] == 0.0
    assert min(distance[1:]) > 0
    assert {row.role for row in rows} == {"source"}
    printed = capsys.readouterr()
    assert "written:" in printed.out
    assert printed.err == ""


def test_the_same_command_goes_on_where_it_stopped(
    run: Path, texts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[Any] = []
    losses = text_scores.token_sums

    def counted(model: Any, *given: Any, **named: Any) -> Any:
        if len(measured) == 2 and not monkeypatched:
            raise KeyboardInterrupt
        measured.append(model)
        return losses(model, *given, **named)

    monkeypatched: list[bool] = []
    monkeypatch.setattr(text_scores, "token_sums", counted)
    choices, study = Choices(source_texts=(texts,)), tmp_path / "study"
    with pytest.raises(KeyboardInterrupt):
        evaluate([run], study, choices)
    assert {row.step for row in table(study).rows} == {0, 5}
    monkeypatched.append(True)
    evaluate([run], study, choices)
    assert len(measured) == 3
    whole = table(study)
    assert {row.step for row in whole.rows} == {0, 5, 10}
    evaluate([run], study, choices)
    assert len(measured) == 3
    assert table(study) == whole
    with pytest.raises(RankLabError, match=r"run 'base' has scores of it with another stride \(None, now 64\)"):
        evaluate([run], study, replace(choices, stride=64))  # what other runs may be compared with is not lost
    assert table(study) == whole
    evaluate([run], study, replace(choices, stride=64, again=True))
    assert len(measured) == 6
    evaluate([run], study, replace(choices, stride=64, kl=True))  # which adds to what is there
    assert len(measured) == 9
    choices = replace(choices, kl=True)
    adapter(run / "checkpoint-10", LORA, seed=77)  # another model of the same name, too
    evaluate([run], study, replace(choices, stride=64))
    assert len(measured) == 10


def other_base(folder: Path) -> Path:
    other = shutil.copytree(BASE, folder)
    weights = load_file(BASE / "model.safetensors")
    save_file({name: value * 1.01 for name, value in weights.items()}, other / "model.safetensors", {"format": "pt"})
    return other


def test_another_type_of_number_is_another_measurement(run: Path, texts: str, tmp_path: Path) -> None:
    study, choices = tmp_path / "study", Choices(source_texts=(texts,), kl=True)
    adapters = [run / "checkpoint-5"]

    def distance(dtype: str) -> float:
        evaluate_and_print([*map(str, adapters)], study, LoadOptions(str(BASE), dtype=dtype), choices)
        (row,) = (row for row in table(study).rows if row.metric == "kl_from_base" and row.step == 5)
        return row.value

    assert len({distance("auto"), distance("bfloat16")}) == 2


def test_a_study_has_one_base(run: Path, texts: str, tmp_path: Path) -> None:
    """Earlier runs' forgetting would be measured against a base that they were not tuned from."""
    study, choices = tmp_path / "study", Choices(source_texts=(texts,))
    evaluate([run / "checkpoint-5"], study, choices)
    before, other = table(study), other_base(tmp_path / "other")
    for skip in (False, True):
        with pytest.raises(RankLabError, match=r"other: is another base than that of the scores in .*study.*with -o"):
            evaluate([run / "checkpoint-10"], study, choices, base=str(other), skip_base=skip)
    assert table(study) == before
    evaluate([run / "checkpoint-10"], study, choices, base=str(shutil.copytree(BASE, tmp_path / "copy")))
    assert {row.step for row in table(study).rows} == {0, 5, 10}
    first = Evaluated(tmp_path / "at-once", LoadOptions(base=str(BASE)))
    second = Evaluated(tmp_path / "at-once", LoadOptions(base=str(other)))  # looked before the first one wrote
    second.refuse_others([])
    first.add(base_tuned(str(BASE)), Job("set", {}, lambda *_: ()), [])
    with pytest.raises(RankLabError, match="is another base"):
        second.add(base_tuned(str(other)), Job("set", {}, lambda *_: ()), [])


def test_a_checkpoint_alone_is_named_after_its_run(
    run: Path, texts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other" / "run"
    adapter(other / "checkpoint-5", LORA, seed=9)
    study, choices = tmp_path / "study", Choices(source_texts=(texts,))
    for folder in (run, other):
        evaluate([folder / "checkpoint-5"], study, choices)
    monkeypatch.chdir(run / "checkpoint-10")
    evaluate([Path()], study, choices)
    rows = [row for row in table(study).rows if row.metric == "cross_entropy"]
    assert {(row.run, row.step) for row in rows} == {("base", 0), ("lora", 5), ("run", 5), ("lora", 10)}
    assert len({row.value for row in rows}) == 4


def test_scores_of_another_model_are_not_replaced(run: Path, texts: str, tmp_path: Path) -> None:
    same = tmp_path / "other" / "lora"
    adapter(same / "checkpoint-5", LORA, seed=9)
    study, choices = tmp_path / "study", Choices(source_texts=(texts,))
    evaluate([run], study, choices)
    before = table(study)
    for source in (same, same / "checkpoint-5"):
        for again in (False, True):
            with pytest.raises(
                RankLabError, match=r"'lora' at step 5 are there of another model, .*/lora/checkpoint-5; .*--name"
            ):
                evaluate([source], study, replace(choices, again=again))
    assert table(study) == before
    evaluate([same], study, choices, name="second")
    evaluate([shutil.move(run, tmp_path / "moved" / "lora")], study, choices)  # the same, elsewhere
    assert {(row.run, row.step) for row in table(study).rows} == {
        ("base", 0), ("lora", 5), ("lora", 10), ("second", 5),
    }  # fmt: skip


def test_a_record_of_an_earlier_rank_lab_is_read(run: Path, texts: str, tmp_path: Path) -> None:
    study, choices = tmp_path / "study", Choices(source_texts=(texts,))
    evaluate([run], study, choices)
    file = study / "evaluated.json"
    there = {key: each["fingerprint"] for key, each in json.loads(file.read_text()).items() if key != "base"}
    file.write_text(json.dumps(there))
    evaluated = Evaluated(study, LoadOptions(base=str(BASE), kind="causal"))
    (job,) = jobs_of(choices, "causal")
    assert evaluated.rows(base_tuned(str(BASE)), job)


def test_full_checkpoints_and_the_divergence_need_one_base_in_memory(
    run: Path, texts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adapter is put into the base, which is then loaded again; beside a full checkpoint it is there already."""
    loads: list[str] = []
    load = tuned_models.load_base
    monkeypatch.setattr(tuned_models, "load_base", lambda *given, **named: loads.append("") or load(*given, **named))
    full = shutil.copytree(BASE, tmp_path / "full")
    choices = Choices(source_texts=(texts,), kl=True)
    evaluate([full], tmp_path / "study", choices)
    assert len(loads) == 1
    evaluate([run / "checkpoint-5", full], tmp_path / "other", choices)
    assert len(loads) == 3
    distances = {row.run: row.value for row in table(tmp_path / "other").rows if row.metric == "kl_from_base"}
    assert distances["full"] == 0.0 < distances["lora"]


def test_scores_of_a_killed_process_do_not_pass_for_those_of_other_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the scores and their record, which is still that of the settings before."""
    first, second = (Job("set", {"stride": stride}, lambda *_: ()) for stride in (1, 2))
    evaluated, tuned = Evaluated(tmp_path, LoadOptions()), base_tuned(str(BASE))
    evaluated.add(tuned, first, [ScoreRow("base", "base", 0, "set", "acc", 0.5)])
    assert evaluated.rows(tuned, first)
    save = ScoreTable.save

    def killed(*given: Any) -> Any:
        save(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(ScoreTable, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluated.add(tuned, second, [ScoreRow("base", "base", 0, "set", "acc", 0.25)])
    assert not evaluated.rows(tuned, first)
    assert not evaluated.rows(tuned, second)


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    """Each reads the table, adds to it and writes it; without a turn of its own it would undo what others added."""
    jobs = [Job(f"set{number}", {}, lambda *_: ()) for number in range(24)]
    tuned = base_tuned(str(BASE))

    def add(job: Job) -> None:
        Evaluated(tmp_path, LoadOptions()).add(tuned, job, [ScoreRow("base", "base", 0, job.name, "acc", 0.5)])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, jobs))
    evaluated = Evaluated(tmp_path, LoadOptions())
    assert {row.task for row in evaluated.table().rows} == {job.name for job in jobs}
    assert all(evaluated.rows(tuned, job) for job in jobs)


def test_scores_of_others_stay(run: Path, texts: str, tmp_path: Path) -> None:
    study = tmp_path / "study"
    evaluate([], study, Choices(source_texts=(texts,)))
    evaluate([run / "checkpoint-5"], study, Choices(source_texts=(texts,)), skip_base=True)
    assert {(row.run, row.step) for row in table(study).rows} == {("base", 0), ("lora", 5)}


def test_without_a_base_it_says_what_is_missing(texts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full = shutil.copytree(BASE, tmp_path / "full")
    evaluate([full], tmp_path / "study", Choices(source_texts=(texts,)), base="")
    assert "the base is not known (give --base): there is no forgetting" in capsys.readouterr().err
    with pytest.raises(RankLabError, match="--kl is the divergence from the base, which is not known"):
        evaluate([full], tmp_path / "study", Choices(source_texts=(texts,), kl=True), base="")


def test_out_of_memory_keeps_what_is_done_and_names_the_setting(
    run: Path, texts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    losses = text_scores.token_sums

    def fails_at_ten(model: Any, *given: Any, **named: Any) -> Any:
        if current[-1].endswith("checkpoint-10"):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return losses(model, *given, **named)

    current: list[str] = []
    rows_of = evaluate_choices.text_rows

    def remembering(model: Any, *given: Any, **named: Any) -> Any:
        current.append(model.tuned.source)
        return rows_of(model, *given, **named)

    monkeypatch.setattr(text_scores, "token_sums", fails_at_ten)
    monkeypatch.setattr(evaluate_choices, "text_rows", remembering)
    assert evaluate([run], tmp_path / "study", Choices(source_texts=(texts,), batch_size=4))
    assert {row.step for row in table(tmp_path / "study").rows} == {0, 5}
    said = capsys.readouterr().err
    assert "failed: talk of lora at step 10: out of memory" in said
    assert "lower --batch-size (now 4) and run the command again" in said
    monkeypatch.undo()
    finished = table(tmp_path / "study").rows
    assert not evaluate([run], tmp_path / "study", Choices(source_texts=(texts,), batch_size=1))
    assert table(tmp_path / "study").rows[: len(finished)] == finished  # a smaller batch is no other measurement
    assert {row.step for row in table(tmp_path / "study").rows} == {0, 5, 10}


def test_an_error_that_is_none_of_ours_is_not_hidden(
    run: Path, texts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a shape is wrong")

    monkeypatch.setattr(text_scores, "token_sums", broken)
    with pytest.raises(RuntimeError, match="a shape is wrong"):
        evaluate([run], tmp_path / "study", Choices(source_texts=(texts,)))


def test_one_model_that_cannot_be_loaded_does_not_stop_the_others(
    run: Path, texts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "checkpoint-5" / "adapter_model.safetensors").write_bytes(b"none")
    assert evaluate([run], tmp_path / "study", Choices(source_texts=(texts,)))
    assert {row.step for row in table(tmp_path / "study").rows} == {0, 10}
    assert "failed: lora at step 5:" in capsys.readouterr().err


def test_all_kinds_of_tasks_of_a_causal_model(
    run: Path, shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    choices = Choices(
        tasks=("winogrande", "gsm8k", "humaneval"), data=shared_data, limit=2, new_tokens=8, allow_code=True,
        roles=("winogrande=",),
    )  # fmt: skip
    evaluate([run / "checkpoint-5"], tmp_path / "study", choices, as_json=True)
    printed = json.loads(capsys.readouterr().out)
    rows = table(tmp_path / "study").rows
    assert len(printed) == len(rows)
    assert {(row.task, row.role) for row in rows} == {
        ("winogrande", ""), ("gsm8k", "target"), ("humaneval", "target"),
    }  # fmt: skip
    assert {row.metric for row in rows if row.task == "humaneval"} == {"pass@1"}
    assert {row.few_shot for row in rows if row.task == "gsm8k"} == {5}


def test_a_classifier_is_measured_and_its_base_has_no_head(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rank_lab.base_model import load_base

    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="SEQ_CLS")
    adapter(tmp_path / "rte", config, base=load_base(BASE, "classification", classes=2))
    evaluate([tmp_path / "rte"], tmp_path / "study", Choices(tasks=("rte",), data=shared_data, limit=8))
    assert [(row.run, row.task, row.metric) for row in table(tmp_path / "study").rows] == [("rte", "rte", "accuracy")]
    assert "the base has no trained head" in capsys.readouterr().err


def test_models_of_the_hub_are_measured_by_their_ids(run: Path, texts: str, tmp_path: Path) -> None:
    import subprocess
    import sys

    from tests.hub_server import Client, HubServer

    files = {name: (BASE / name).read_bytes() for name in ("config.json", "model.safetensors")}
    tokenizer = {name: (BASE / name).read_bytes() for name in ("tokenizer.json", "tokenizer_config.json")}
    tuned = {name: (run / "checkpoint-5" / name).read_bytes() for name in ("adapter_model.safetensors",)}
    config = json.loads((run / "checkpoint-5" / "adapter_config.json").read_text())
    tuned["adapter_config.json"] = json.dumps(config | {"base_model_name_or_path": "org/prose"}).encode()
    code = (
        "import sys; from pathlib import Path\n"
        "from rank_lab.evaluation.evaluate_choices import Choices\n"
        "from rank_lab.evaluation.evaluate_command import evaluate_and_print\n"
        "from rank_lab.evaluation.tuned_models import LoadOptions\n"
        "evaluate_and_print(['org/lora'], Path(sys.argv[1]), LoadOptions(), Choices(source_texts=(sys.argv[2],)))\n"
        "assert 'lm_eval' not in sys.modules\n"  # of no use for texts, and slow to import
    )
    with HubServer() as hub:
        hub.add("org/prose", files | tokenizer)
        hub.add("org/lora", tuned)
        client = Client(home=tmp_path / "home", endpoint=hub.url)
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "hub"), texts], env=client.environment(), text=True,
            capture_output=True, check=False, timeout=120,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    evaluate([run / "checkpoint-5"], tmp_path / "local", Choices(source_texts=(texts,)), name="lora")
    found, local = (
        {(row.run, row.metric): row.value for row in table(tmp_path / name).rows} for name in ("hub", "local")
    )
    assert found == local
