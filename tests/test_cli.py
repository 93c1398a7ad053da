"""The command line: what it loads, what it prints, how it leaves."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from rank_lab import RankReport, __version__
from tests.checkpoints import factors, llama, moved, rank_lab, save, save_adapter
from tests.training_records import record

VERBS = (
    "analyze", "show", "export", "fold", "demo", "schedule", "finetune", "evaluate", "import-scores", "fairness",
    "verify", "dashboard", "subspace", "functional",
    "plan", "extract", "behavioural",
)  # fmt: skip
HEAVY = (
    "torch",
    "transformers",
    "peft",
    "plotly",
    "streamlit",
    "pandas",
    "pyarrow",
    "scipy",
    "numpy",
    "huggingface_hub",
)


def python(code: str) -> list[str]:
    """Run code in a fresh interpreter; which heavy packages it loaded."""
    code += f"\nimport sys; print(*[name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stderr.split()


def parsed(text: str) -> Any:
    """JSON as the standard has it: no NaN, no Infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture
def study(tmp_path: Path, generator: torch.Generator) -> Path:
    """A study of a full fine-tune, an adapter and a trajectory."""
    state = llama(generator)
    base = save(tmp_path / "base", state)
    tuned = save(tmp_path / "tuned", moved(state, generator) | {"score.weight": torch.ones(2, 8)})
    adapter = save_adapter(tmp_path / "adapter", factors(generator))
    for step in (5, 10):
        save(tmp_path / "run" / f"checkpoint-{step}", moved(state, generator))
    for arguments in ((tuned, "--base", base), (adapter,), (tmp_path / "run", "--base", base)):
        assert rank_lab("analyze", *arguments, "-o", tmp_path / "study").code == 0
    return tmp_path / "study"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], [], *[[verb, "--help"] for verb in VERBS]], ids=" ".join
)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    call = f"import sys; sys.argv = ['rank-lab', *{arguments!r}]\nfrom rank_lab.cli import main"
    assert python(f"{call}\ntry: main()\nexcept SystemExit: pass") == []


def test_import_loads_nothing_heavy() -> None:
    assert python("import rank_lab; dir(rank_lab); rank_lab.__version__; import rank_lab.errors") == []


def test_reading_loads_no_model_library() -> None:
    loaded = python("import rank_lab; rank_lab.analyze; rank_lab.RankReport; import rank_lab.commands")
    assert {"torch", "pandas"} <= set(loaded)
    assert not {"transformers", "peft", "plotly", "streamlit"} & set(loaded)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_an_example(verb: str) -> None:
    for switch in ("--help", "-h"):
        done = rank_lab(verb, switch)
        assert done.code == 0
        assert f"Example: rank-lab {verb} " in done.out


def test_the_verbs_are_these() -> None:
    from rank_lab.cli import app

    assert sorted(
        command.name or command.callback.__name__ for command in app.registered_commands if command.callback
    ) == sorted(VERBS)
    done = rank_lab("--help")
    assert all(verb in done.out for verb in VERBS)


@pytest.mark.parametrize(
    "command", [[sys.executable, "-m", "rank_lab"], [str(Path(sys.executable).parent / "rank-lab")]]
)
def test_both_entry_points_answer(command: list[str]) -> None:
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{__version__}\n"


def test_a_refusal_is_one_line_on_standard_error() -> None:
    command = [sys.executable, "-m", "rank_lab", "show", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: nowhere: is no folder; make one with 'rank-lab analyze")


def test_a_missing_report_is_to_be_made_in_its_study() -> None:
    assert "-o study'" in rank_lab("show", "study/nothing.rank").err


def test_an_export_into_a_file_says_that_it_is_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    done = rank_lab("export", str(tmp_path), "-o", str(tmp_path / "file"))
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "is a file; name a folder" in done.err
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("arguments", [["measure"], ["analyze"], ["analyze", "x"], ["show", "x", "--no-such-option"]])
def test_a_wrong_call_shows_the_usage(arguments: list[str]) -> None:
    done = rank_lab(*arguments)
    assert done.code == 2
    assert "Usage: " in done.err


def test_analyze_prints_a_table_and_where_it_wrote(tmp_path: Path, generator: torch.Generator) -> None:
    state = llama(generator)
    tuned, base = save(tmp_path / "tuned", moved(state, generator)), save(tmp_path / "base", state)
    done = rank_lab("analyze", tuned, "--base", base, "-o", tmp_path / "study", "--name", "my run")
    assert (done.code, done.err) == (0, "")
    assert "coverage: 3 vector  10 analysed" in done.out
    assert "written: " in done.out
    assert (tmp_path / "study" / "my_run.rank" / "report.json").is_file()
    assert set(RankReport.load(tmp_path / "study" / "my_run.rank").updates["run"]) == {"my run"}


def test_analyze_takes_the_base_that_the_run_names(tmp_path: Path, generator: torch.Generator) -> None:
    state = llama(generator)
    base, run = save(tmp_path / "base", state), tmp_path / "run"
    save(run / "checkpoint-5", moved(state, generator))
    save_adapter(tmp_path / "adapter" / "checkpoint-5", factors(generator))
    assert rank_lab("analyze", run, "-o", tmp_path / "study").code == 2
    for folder, method in ((run, "full"), (tmp_path / "adapter", "lora")):
        record(method, base=str(base)).save(folder)
        done = rank_lab("analyze", folder, "-o", tmp_path / "study")
        assert (done.code, done.err) == (0, f"note: {folder}: its base is {base}, as its training.json says\n")
        report = RankReport.load(tmp_path / "study" / f"{folder.name}.rank")
        assert (report.provenance["base"]["source"], report.provenance["base"]["named_by"]) == (
            str(base), "training.json",
        )  # fmt: skip
        assert report.updates["relative_frobenius"].notna().all()
    record("lora", base=str(tmp_path / "moved")).save(tmp_path / "adapter")
    done = rank_lab("analyze", tmp_path / "adapter", "-o", tmp_path / "study")
    assert (done.code, done.err) == (0, "")


def test_analyze_as_json(tmp_path: Path, generator: torch.Generator) -> None:
    state = llama(generator)
    state["model.layers.0.mlp.up_proj.weight"][0, 0] = torch.nan
    tuned, base = save(tmp_path / "tuned", moved(state, generator)), save(tmp_path / "base", state)
    adapter = save_adapter(tmp_path / "adapter", factors(generator))
    done = rank_lab("analyze", tuned, adapter, "--base", base, "-o", tmp_path / "study", "--json")
    assert done.code == 1
    full, factored = parsed(done.out)
    assert full["failures"] == [
        {"tensor": "model.layers.0.mlp.up_proj.weight", "reason": full["failures"][0]["reason"]}
    ]
    assert full["coverage"] == {"analysed": 9, "vector": 3, "skipped": 1}
    assert Path(full["report"]) == tmp_path / "study" / "tuned.rank"
    assert [row["numerical_rank"] for row in factored["updates"]] == [2]
    assert parsed(rank_lab("show", tmp_path / "study", "--json").out) == [
        {key: value for key, value in part.items() if key != "report"} for part in (full, factored)
    ]


def test_show_prints_every_report(study: Path) -> None:
    for arguments in ((study,), (study, "--modules")):
        done = rank_lab("show", *arguments)
        assert (done.code, done.err) == (0, "")
        for run in ("adapter", "run", "tuned"):
            assert f"\n{run}  " in done.out
        assert "along training" in done.out
    assert "model.layers.0.self_attn.q_proj" in done.out
    one = rank_lab("show", study / "adapter.rank")
    assert "from its factors alone" in one.out
    assert "along training" not in one.out
    assert [part["run"] for part in parsed(rank_lab("show", study, "--json").out)] == ["adapter", "run", "tuned"]


@pytest.mark.parametrize("formats", [[], ["csv"], ["json", "parquet"]])
def test_export_writes_what_the_reports_hold(study: Path, tmp_path: Path, formats: list[str]) -> None:
    chosen = [part for kind in formats or ["csv", "json", "parquet", "latex"] for part in ("-f", kind)]  # no figures
    done = rank_lab("export", study, "-o", tmp_path / "out", *chosen)
    assert (done.code, done.err) == (0, "")
    files = {Path(line) for line in done.out.split()}
    assert files == set((tmp_path / "out").iterdir())
    expected = {f".{kind}" for kind in formats or ["csv", "json", "parquet", "tex", "bib"]} | {".json", ".md"}
    assert {file.suffix for file in files} == expected
    rows = sum(len(RankReport.load(folder).updates) for folder in study.glob("*.rank"))
    for file in files:
        if file.stem != "updates":
            continue
        if file.suffix == ".csv":
            with file.open(newline="") as handle:
                assert len(list(csv.DictReader(handle))) == rows
        else:
            found = parsed(file.read_text()) if file.suffix == ".json" else pd.read_parquet(file)
            assert len(found) == rows
    again = rank_lab("export", study, "-o", tmp_path / "out", *chosen, "--json")
    assert {Path(name) for name in parsed(again.out)} >= files


KINDS = "csv, json, parquet, latex, html, svg, pdf, png"


def test_export_refuses_what_it_cannot_write(study: Path, tmp_path: Path) -> None:
    done = rank_lab("export", study, "-o", tmp_path / "out", "-f", "xlsx")
    assert (done.code, done.err) == (2, f"error: --format xlsx: expected one of {KINDS}.\n")
    (tmp_path / "file").write_text("mine")
    done = rank_lab("export", study, "-o", tmp_path / "file")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert str(tmp_path / "file") in done.err


def test_another_run_of_that_name_is_not_overwritten(study: Path, tmp_path: Path, generator: torch.Generator) -> None:
    before = {file: file.read_bytes() for file in study.glob("*.rank/*")}
    other = save_adapter(tmp_path / "elsewhere" / "adapter", factors(generator))
    done = rank_lab("analyze", other, "-o", study)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "give this run another name with --name" in done.err
    assert {file: file.read_bytes() for file in study.glob("*.rank/*")} == before


def test_an_adapter_beside_unchanged_tensors_is_analysed(tmp_path: Path, generator: torch.Generator) -> None:
    state, name = llama(generator), "model.embed_tokens.weight"
    base = save(tmp_path / "base", state)
    adapter = save_adapter(tmp_path / "adapter", factors(generator) | {f"base_model.model.{name}": state[name]})
    done = rank_lab("analyze", adapter, "--base", base, "-o", tmp_path / "study")
    assert (done.code, done.err) == (0, "")


def test_a_copy_with_tied_weights_is_told(tmp_path: Path, generator: torch.Generator) -> None:
    state = llama(generator)
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    tuned, base = save(tmp_path / "tuned", state), save(tmp_path / "base", state, shards=2)
    done = rank_lab("analyze", tuned, "--base", base, "-o", tmp_path / "study")
    assert done.code == 2
    assert "is --base the tuned model itself" in done.err


def test_a_damaged_report_is_made_again(study: Path, tmp_path: Path) -> None:
    (study / "adapter.rank" / "spectra.parquet").write_bytes(b"PAR1 and no more")
    assert rank_lab("show", study).code == 2
    assert rank_lab("analyze", tmp_path / "adapter", "-o", study).code == 0
    assert rank_lab("show", study).code == 0


def test_what_is_stopped_says_how_to_go_on(tmp_path: Path, generator: torch.Generator) -> None:
    state = {f"model.layers.{i}.self_attn.q_proj.weight": torch.randn(600, 700, generator=generator) for i in range(60)}
    tuned, base = save(tmp_path / "tuned", moved(state, generator)), save(tmp_path / "base", state)
    command = [sys.executable, "-m", "rank_lab", "analyze", str(tuned), "--base", str(base)]
    command += ["-o", str(tmp_path / "study"), "--workers", "1", "--noise", "full"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "study" / ".spectra").glob("*.npz")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "stopped; what was finished is kept: run the same command to go on.\n"
    assert out == ""
    assert not (tmp_path / "study" / "tuned.rank").exists()
    assert os.listdir(tmp_path / "study" / ".spectra")  # noqa: PTH208 - names alone
