"""``rank-lab functional``: the report of a run, shown, exported and verified."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from peft import LoraConfig, PrefixTuningConfig

from rank_lab.commands import show_study
from rank_lab.demo import BASE
from rank_lab.errors import CheckpointError, DataError, RankLabError, SchemaError
from rank_lab.evaluation.functional_command import FunctionalChoices, functional_and_print
from rank_lab.evaluation.functional_options import FunctionalOptions
from rank_lab.evaluation.functional_verification import verify_functional
from rank_lab.evaluation.tuned_models import LoadOptions
from rank_lab.export_command import write_export
from rank_lab.functional_report import FunctionalReport, load_functional
from rank_lab.functional_summaries import by_kind
from rank_lab.latex_functional import functional_tables_tex
from rank_lab.study import Study
from tests.evaluation.models import adapter

LOADING = LoadOptions(base=str(BASE), dtype="float32")
OPTIONS = FunctionalOptions(resamples=6, batch_size=16)
LINES = ("the cat sat on the mat and", "to be or not to be,", "a man of words and not of", "deeds is like a garden")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two adapters, a probe set, and the reports of both."""
    folder = tmp_path_factory.mktemp("study")
    rows = [{"text": f"{LINES[number % 4]} {number} {LINES[(number * 7 + 1) % 4]}"} for number in range(12)]
    (folder / "probe.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    modules = ["q_proj", "down_proj"]
    adapter(folder / "lora", LoraConfig(r=4, target_modules=modules, task_type="CAUSAL_LM"))
    adapter(folder / "prefix", PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"))
    for name in ("lora", "prefix"):
        measure(folder, name)
    return folder


def measure(folder: Path, run: str, **choices: object) -> None:
    texts = {"texts": str(folder / "probe.jsonl")} | choices
    functional_and_print(str(folder / run), folder, LOADING, FunctionalChoices(**texts), OPTIONS, as_json=True)  # type: ignore[arg-type]


def test_a_report_is_what_was_saved(study: Path) -> None:
    found = load_functional(study)
    assert list(found) == ["lora", "prefix"]
    lora, prefix = found.values()
    assert set(lora.changes["scope"]) == {"layer", "module", "weighted"}
    assert set(prefix.changes["scope"]) == {"layer"}
    layers = prefix.changes["layer"]
    assert layers.tolist() == list(range(len(layers)))
    assert lora.provenance["texts"]["texts"] == 12
    assert lora.provenance["texts"]["tokens"] == int(lora.changes["tokens"].iloc[0])
    ranks = lora.ranks[(lora.ranks["scope"] == "module") & (lora.ranks["metric"] == "numerical_rank")]
    assert (ranks["value"] == 4).all()
    assert (ranks["weight"] == 4).all()
    assert ranks["bound"].eq(4).all()
    assert (lora.coverage["status"].value_counts()[["measured", "identical"]] > 0).all()
    assert lora.save(study / "again.functional")
    assert FunctionalReport.load(study / "again.functional") == lora
    shutil.rmtree(study / "again.functional")


def test_all_methods_stand_on_one_axis(study: Path) -> None:
    found = load_functional(study)
    rows = pd.concat([by_kind(each.ranks, each.changes) for each in found.values()])
    layer = rows[rows["scope"] == "layer"].set_index("run")
    assert set(layer["method"]) == {"lora", "prefix_tuning"}
    assert (layer["value"] >= 1).all()
    assert layer["null"].notna().all()
    assert layer["low"].notna().all()


def test_show_names_every_report(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show_study(study, modules=False, as_json=False)
    text = capsys.readouterr().out
    assert "lora on 12 texts" in text.replace("\n", " ")
    assert "prefix on 12 texts" in text.replace("\n", " ")
    assert "do not determine a linear map" in text.replace("\n", " ")
    show_study(study, modules=True, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert [each["run"] for each in told] == ["lora", "prefix"]
    assert {row["scope"] for row in told[0]["kinds"]} == {"layer", "module", "weighted"}


def test_export_has_the_tables_and_their_source(study: Path, tmp_path: Path) -> None:
    written = {file.name for file in write_export(study, tmp_path / "out", ["csv", "latex"])}
    assert {
        "functional_ranks.csv",
        "functional_changes.csv",
        "functional_spectra.csv",
        "functional_provenance.json",
    } <= written
    assert "table_functional_ranks.tex" in written
    ranks = pd.read_csv(tmp_path / "out" / "functional_ranks.csv")
    assert set(ranks["run"]) == {"lora", "prefix"}
    values = pd.read_csv(tmp_path / "out" / "functional_spectra.csv")
    one = values[(values["run"] == "lora") & (values["scope"] == "module")].groupby("module")["index"].max()
    assert (one == 4).all()
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "probe texts" in readme
    assert "probe.jsonl" in readme
    references = (tmp_path / "out" / "references.bib").read_text()
    assert "biderman2024lora" in references
    assert "@" in references
    (table,) = functional_tables_tex(load_functional(study))
    assert "12 texts" in table.caption
    assert {row[0] for row in table.rows} == {"lora", "prefix"}


def test_a_study_shows_them_and_sees_when_they_change(study: Path) -> None:
    opened = Study(study)
    assert list(opened.functional()) == ["lora", "prefix"]
    assert not opened.problems()
    before = opened.signature()
    head = study / "lora.functional" / "functional.json"
    kept = head.read_text()
    head.write_text(kept.replace('"schema_version": 1', '"schema_version": 99'))
    try:
        assert opened.signature() != before
        assert list(opened.functional()) == ["prefix"]
        assert "schema version 99" in opened.problems()[0].message
        with pytest.raises(SchemaError, match="measure again"):
            FunctionalReport.load(head.parent)
    finally:
        head.write_text(kept)


def test_verify_measures_again_and_tells_what_has_changed(study: Path) -> None:
    report = load_functional(study)["prefix"]
    checks = verify_functional("prefix", report, study, sample=2)
    assert [check.result for check in checks] == ["holds", "holds"]
    lora = load_functional(study)["lora"]
    wrong = lora.ranks.assign(value=lora.ranks["value"] + 2.5)
    false = FunctionalReport(wrong, lora.changes, lora.coverage, lora.provenance)
    assert {check.result for check in verify_functional("lora", false, study, sample=2)} == {"differs"}
    for place, result in ((("texts", "sha256"), "input changed"), (("base", "sha256"), "input changed")):
        about = json.loads(json.dumps(dict(report.provenance)))
        about[place[0]][place[1]] = "0" * 64
        other = FunctionalReport(report.ranks, report.changes, report.coverage, about)
        assert {check.result for check in verify_functional("x", other, study, sample=1)} == {result}
    about = json.loads(json.dumps(dict(report.provenance)))
    about["texts"]["file"] = "/nowhere/probe.jsonl"
    moved = FunctionalReport(report.ranks, report.changes, report.coverage, about)
    assert verify_functional("x", moved, study, sample=1)[0].result == "holds"  # found in the study
    about["texts"]["file"] = "/nowhere/other.jsonl"
    gone = FunctionalReport(report.ranks, report.changes, report.coverage, about)
    assert verify_functional("x", gone, study, sample=1)[0].result == "input missing"


def test_wrong_input_is_refused(study: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match="no text"):
        measure(study, "lora", texts=str(tmp_path / "empty.jsonl"))
    with pytest.raises(DataError, match="is not there"):
        measure(study, "lora", texts=str(tmp_path / "none.jsonl"))
    with pytest.raises(DataError, match="has no column 'words'"):
        measure(study, "lora", column="words")
    with pytest.raises(RankLabError, match="give this run another --name"):
        measure(study, "prefix", name="lora")
    with pytest.raises((CheckpointError, RankLabError), match="nowhere"):
        measure(study, "nowhere")
    with pytest.raises(RankLabError, match="expected layer, module or both"):
        FunctionalOptions(scopes=("rows",))
    with pytest.raises(RankLabError, match="seed -1: expected 0 or more"):
        FunctionalOptions(seed=-1)
    wrong, choices = replace(LOADING, base=str(study)), FunctionalChoices(str(study / "probe.jsonl"))
    with pytest.raises(RankLabError, match=r"has no config\.json, so that it is no model's folder"):
        functional_and_print(str(study / "lora"), study, wrong, choices, OPTIONS)
    with pytest.raises(RankLabError, match="is a file"):
        functional_and_print("x", study / "probe.jsonl", LOADING, FunctionalChoices("x"), OPTIONS)


def test_a_full_model_without_a_record_needs_its_base(study: Path, tmp_path: Path) -> None:
    shutil.copytree(BASE, tmp_path / "tuned")
    choices = FunctionalChoices(str(study / "probe.jsonl"))
    with pytest.raises(RankLabError, match="give it with --base"):
        functional_and_print(str(tmp_path / "tuned"), tmp_path, LoadOptions(dtype="float32"), choices, OPTIONS)
    with pytest.raises(RankLabError, match="nothing else than the base"):
        functional_and_print(str(tmp_path / "tuned"), tmp_path, LOADING, choices, OPTIONS)


@pytest.mark.parametrize("broken", ["ranks.parquet", "functional.json"])
def test_a_damaged_report_says_what_to_do(broken: str, study: Path, tmp_path: Path) -> None:
    shutil.copytree(study / "lora.functional", tmp_path / "lora.functional")
    (tmp_path / "lora.functional" / broken).write_bytes(b"{}")
    with pytest.raises(SchemaError, match="rank-lab functional"):
        FunctionalReport.load(tmp_path / "lora.functional")
