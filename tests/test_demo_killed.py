"""A demo that was killed with SIGKILL half-way, in a process of its own, ends as an undisturbed one."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from rank_lab import RankReport
from rank_lab.curve import Curve
from rank_lab.demo.run import EXPORT, SUMMARY_FILE
from rank_lab.score_table import SCORES_FILE
from rank_lab.subspace_report import SubspaceReport, subspace_reports_of
from tests.demo_kills import PLACES, PLAN
from tests.hub_server import ROOT
from tests.sora.schedules import timeless

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]
TABLES = ("updates", "spectra", "coverage")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demos")
    command = [sys.executable, "-W", "ignore", "-m", "tests.demo_kills", str(folder)]
    environment = os.environ | {"COLUMNS": "1000"}  # a line of the demo is a line of its output
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    ends = json.loads(done.stdout.splitlines()[-1])
    assert ends == {"straight": 0, **dict.fromkeys(PLACES, -signal.SIGKILL), "killed": 0}
    return folder


def said(folder: Path) -> list[str]:
    """The lines of what was found, without what differs by the folder or by what was there already."""
    text = folder.with_suffix(".out").read_text(encoding="utf-8").replace(str(folder), "STUDY")
    return [line.replace("was trained before; ", "") for line in text.splitlines() if re.match(r"\[ ?\d+/\d+\]", line)]


def test_it_says_the_same(both: Path) -> None:
    assert said(both / "killed") == said(both / "straight")
    assert len(said(both / "straight")) == 3 * len(PLAN.runs) + 3
    assert (both / "killed" / SUMMARY_FILE).read_text() == (both / "straight" / SUMMARY_FILE).read_text()


def test_its_tables_are_the_same(both: Path) -> None:
    for run in PLAN.runs:
        one, other = (RankReport.load(both / name / f"{run.name}.rank") for name in ("straight", "killed"))
        for table in TABLES:
            pd.testing.assert_frame_equal(getattr(one, table), getattr(other, table), check_exact=True)
    pairs = [SubspaceReport.load(*subspace_reports_of(both / name)) for name in ("straight", "killed")]
    pd.testing.assert_frame_equal(pairs[0].angles, pairs[1].angles, check_exact=True)
    assert timeless(Curve.load(both / "straight")) == timeless(Curve.load(both / "killed"))
    scores = [pd.read_parquet(both / name / SCORES_FILE) for name in ("straight", "killed")]
    order = ["run", "step", "task", "metric"]
    measured = [table.sort_values(order).drop(columns="source").reset_index(drop=True) for table in scores]
    pd.testing.assert_frame_equal(*measured, check_exact=True)


def test_its_weights_and_export_are_the_same(both: Path) -> None:
    files = sorted(
        file.relative_to(both / "straight") for file in (both / "straight").glob("*/checkpoint-*/*.safetensors")
    )
    assert len(files) == len(PLAN.runs) * PLAN.checkpoints
    for file in files:
        assert (both / "straight" / file).read_bytes() == (both / "killed" / file).read_bytes(), file
    names = [sorted(file.name for file in (both / name / EXPORT).rglob("*")) for name in ("straight", "killed")]
    assert names[0] == names[1]
