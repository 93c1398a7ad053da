"""Files made to do harm: an error of one line, within a second and 500 MB, and nothing else happens.

Every file is made here and opened by ``rank-lab`` in a process of its own; see
:mod:`tests.malicious.guarded` for what is measured: processor time above
start-up, and the peak of resident memory with all that is imported (some 330 MB).
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rank_lab import RankReport, analyze
from tests.checkpoints import save
from tests.malicious.archives import ARCHIVES, code_cases
from tests.malicious.guarded import Run, command_lines
from tests.malicious.headers import FOLDERS, HEADERS, STATE, outside

CODE = list(code_cases(Path("marker")))

_CPU_SECONDS = 1.0
_PEAK_MEGABYTES = 500.0


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    with command_lines(os.environ | {"OMP_NUM_THREADS": "1"}) as run:
        yield run


Results = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("malicious")
    save(folder / "base", STATE)
    return folder


def opened(run: Run, home: Path, cases: dict[str, tuple[Callable[[Path], object], str]], prefix: str) -> Results:
    commands = []
    for place, (maker, _) in enumerate(cases.values()):
        folder = home / f"{prefix}{place}"
        maker(folder)
        base = [] if (folder / "adapter_config.json").is_file() else ["--base", str(home / "base")]
        commands.append(["analyze", str(folder), *base, "-o", str(home / f"study-{prefix}{place}")])
    return dict(zip(cases, run(commands), strict=True))


@pytest.fixture(scope="module")
def headers(run: Run, home: Path) -> Results:
    return opened(run, home, HEADERS, "header")


@pytest.fixture(scope="module")
def folders(run: Run, home: Path) -> Results:
    return opened(run, home, FOLDERS, "folder")


@pytest.fixture(scope="module")
def archives(run: Run, home: Path) -> Results:
    return opened(run, home, ARCHIVES, "archive")


@pytest.fixture(scope="module")
def code(run: Run, home: Path) -> Results:
    return opened(run, home, code_cases(home / "marker"), "code")


def assert_refused(found: dict[str, Any], expected: str) -> None:
    assert found["code"] == 2, found
    assert found["out"] == ""
    assert found["err"].startswith("error: ")
    assert found["err"].count("\n") == 1
    assert len(found["err"]) < 2000
    assert found["err"][:-1].isprintable()
    assert expected in found["err"]
    assert_bounded(found)


def assert_bounded(found: dict[str, Any]) -> None:
    assert found["cpu"] <= _CPU_SECONDS, found
    assert found["peak"] <= _PEAK_MEGABYTES, found


@pytest.mark.parametrize("name", HEADERS)
def test_a_harmful_header(headers: Results, name: str) -> None:
    assert_refused(headers[name], HEADERS[name][1])


@pytest.mark.parametrize("name", FOLDERS)
def test_a_harmful_folder(folders: Results, name: str) -> None:
    assert_refused(folders[name], FOLDERS[name][1])
    assert "root:" not in folders[name]["err"]  # what /etc/passwd starts with


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_harmful_archive(archives: Results, name: str) -> None:
    assert_refused(archives[name], ARCHIVES[name][1])


@pytest.mark.parametrize("name", CODE)
def test_code_is_not_run(home: Path, code: Results, name: str) -> None:
    assert_refused(code[name], code_cases(home / "marker")[name][1])
    assert not (home / "marker").exists()


def test_a_link_out_of_the_folder_is_read_and_never_written(run: Run, home: Path) -> None:
    folder = home / "linked"
    outside(folder)
    blob = (folder / "model.safetensors").resolve()
    before = blob.read_bytes()
    ((found),) = run([["analyze", str(folder), "--base", str(home / "base"), "-o", str(home / "study-linked")]])
    assert found["code"] == 0, found
    assert blob.read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == ["model.safetensors"]
    assert (RankReport.load(home / "study-linked" / "linked.rank").updates["numerical_rank"] == 1).all()


def _report(home: Path, name: str) -> Path:
    tuned = save(home / f"{name}-tuned", {key: value + 0.5 for key, value in STATE.items()})
    return analyze(tuned, home / "base").save(home / name / "run.rank")


def _told(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def spoil(report: Path) -> None:
        content = json.loads((report / "report.json").read_text())
        changed = change(content)
        (report / "report.json").write_text(json.dumps(content if changed is None else changed))

    return spoil


def _table(change: Callable[[pa.Table], pa.Table | None], name: str = "updates") -> Callable[[Path], None]:
    def spoil(report: Path) -> None:
        file = report / f"{name}.parquet"
        pq.write_table(change(pq.read_table(file)), file, compression="zstd", use_dictionary=False)

    return spoil


def _column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, values)


def _set(content: dict[str, Any], name: str, value: object) -> None:
    content["provenance"][name] = value


REPORTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "head a list": (_told(lambda _: [1]), "not the head of a report"),
    "head a number": (_told(lambda _: 5), "not the head of a report"),
    "head without end": (lambda r: (r / "report.json").write_text("[" * 100_000), "not the head of a report"),
    "head a device": (lambda r: _linked(r / "report.json", "/dev/zero"), "holds no report"),
    "provenance a text": (_told(lambda head: head.update(provenance="x")), "does not say what was analysed"),
    "provenance empty": (_told(lambda head: head.update(provenance={})), "does not say what was analysed"),
    "nothing tuned": (_told(lambda head: _set(head, "tuned", [])), "does not say what was analysed"),
    "tuned a number": (_told(lambda head: _set(head, "tuned", [5])), "does not say what was analysed"),
    "base a list": (_told(lambda head: _set(head, "base", ["x"])), "does not say what was analysed"),
    "settings missing": (_told(lambda head: head["provenance"].pop("settings") and None), "does not say what was"),
    "provenance in itself": (_told(lambda head: _set(head, "more", _nested(400))), "not the head of a report"),
    "table of garbage": (lambda r: (r / "updates.parquet").write_bytes(os.urandom(999)), "updates.parquet: cannot be"),
    "table of another type": (
        _table(lambda t: _column(t, "out_features", pa.array(["x"] * len(t)))), "updates.parquet: cannot be read",
    ),
    "values of another type": (
        _table(lambda t: _column(t, "values", pa.array([["x"]] * len(t))), "spectra"), "spectra.parquet: cannot be",
    ),
    "values that are numbers": (
        _table(lambda t: _column(t, "values", pa.array([1.0] * len(t))), "spectra"), "spectra.parquet: cannot be",
    ),
    "table that unpacks to 120 MB": (
        _table(lambda t: pa.table({"scaling": pa.array(memoryview(bytes(8 * 15_000_000)).cast("d"))})), "once unpacked",
    ),
    "table a device": (lambda r: _linked(r / "updates.parquet", "/dev/zero"), "is no regular file"),
}  # fmt: skip


def _nested(depth: int) -> object:
    found: object = 1
    for _ in range(depth):
        found = [found]
    return found


def _linked(file: Path, target: str) -> None:
    file.unlink()
    file.symlink_to(target)


@pytest.fixture(scope="module")
def reports(run: Run, home: Path) -> Results:
    commands = []
    for place, (spoil, _) in enumerate(REPORTS.values()):
        spoil(_report(home, f"report{place}"))
        commands += [
            ["show", str(home / f"report{place}")],
            ["export", str(home / f"report{place}"), "-o", str(home / "x")],
        ]
    found = run(commands)
    return dict(zip([f"{name}: {verb}" for name in REPORTS for verb in ("show", "export")], found, strict=True))


@pytest.mark.parametrize("verb", ["show", "export"])
@pytest.mark.parametrize("name", REPORTS)
def test_a_harmful_report(reports: Results, name: str, verb: str) -> None:
    assert_refused(reports[f"{name}: {verb}"], REPORTS[name][1])


def test_a_report_does_not_drive_the_terminal(run: Run, home: Path) -> None:
    report = _report(home, "driving")
    _told(lambda head: head["provenance"]["tuned"][0].update(source="\x1b[2J"))(report)
    _table(lambda t: _column(t, "module", pa.array([f"\x1b]0;{i}\x07" for i in range(len(t))])))(report)
    _table(lambda t: _column(t, "status", pa.array(["skipped\x9b"] * len(t))), "coverage")(report)
    shown, as_json = run([["show", str(report), "--modules"], ["show", str(report), "--json"]])
    assert shown["code"] == as_json["code"] == 0, shown
    assert shown["out"].replace("\n", "").isprintable()
    assert r"\x1b]0;3" in shown["out"]
    assert json.loads(as_json["out"])
    assert as_json["out"].replace("\n", "").isprintable()
