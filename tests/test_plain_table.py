"""Names from files in the terminal: shown as they are, by every renderer and every verb that prints them."""

from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console, RenderableType

from rank_lab import RankReport, analyze
from rank_lab.budget import plan_ranks
from rank_lab.budget_terminal import render_extraction, render_plan
from rank_lab.console import console, progress_bar
from rank_lab.curve_terminal import render_curve
from rank_lab.extraction import RankChoice, extract
from rank_lab.outcomes_terminal import render_outcomes
from rank_lab.plain_table import PlainTable
from rank_lab.report_spectra import module_spectra
from rank_lab.score_row import ScoreRow
from rank_lab.score_table import ScoreTable
from rank_lab.score_terminal import render_scores
from rank_lab.study_outcomes import study_outcomes
from rank_lab.subspace_analysis import compare_runs
from rank_lab.subspace_terminal import render_subspaces
from rank_lab.terminal import render
from tests import curve_rows
from tests.checkpoints import Tensors, rank_lab, save
from tests.outcome_studies import BASE
from tests.outcome_studies import scores as scores_of
from tests.training_records import record

STYLED, CLOSING, EMOJI = "[red]x[/red]", "[/]", ":boom:"
MODULES = tuple(f"h.{index}.{name}.q_proj" for index, name in enumerate((STYLED, CLOSING, EMOJI)))
RUN = f"r{STYLED}{EMOJI}"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, two tuned ones whose modules and names are markup, and a study of one."""
    folder, generator = tmp_path_factory.mktemp("home"), torch.Generator().manual_seed(3)

    def state() -> Tensors:
        return {f"{name}.weight": torch.randn(8, 6, generator=generator) for name in MODULES}

    base = state()
    save(folder / "base", base)
    for name in ("one", "two"):
        change = state()
        save(folder / name, {key: value + 0.1 * change[key] for key, value in base.items()})
    done = rank_lab("analyze", folder / "one", "--base", folder / "base", "--name", RUN, "-o", folder / "study")
    assert done.code == 0, done.err
    assert RUN in done.out
    return folder


def printed(shown: RenderableType) -> str:
    """By a console that obeys markup and emoji codes, as rich's own is."""
    screen = Console(file=StringIO(), width=400)
    screen.print(shown)
    return screen.file.getvalue()  # type: ignore[attr-defined]


def ranks(home: Path, _: Path) -> RenderableType:
    return render(analyze(home / "one", home / "base"), modules=True)


def plan(home: Path, _: Path) -> RenderableType:
    report = RankReport.load(next((home / "study").glob("*.rank")))
    return render_plan(plan_ranks(module_spectra(report.updates, report.spectra), rank=2), modules=True)


def extraction(home: Path, out: Path) -> RenderableType:
    return render_extraction(extract(home / "one", home / "base", out / "lora", RankChoice(rank=2)), modules=True)


def subspaces(home: Path, _: Path) -> RenderableType:
    return render_subspaces(compare_runs(home / "one", home / "two", home / "base"), modules=True)


def scores(_home: Path, _: Path) -> RenderableType:
    return render_scores([ScoreRow(name, "lora", 1, name, "acc", 0.5) for name in MODULES])


def outcomes(_home: Path, out: Path) -> RenderableType:
    rows = [row for name in MODULES for row in scores_of(name, 1, 0.1, 0.1)]
    ScoreTable.of([*BASE, *rows]).save(out / "scores.parquet")
    return render_outcomes(study_outcomes(out))


def curve(_home: Path, out: Path) -> RenderableType:
    rows = [
        curve_rows.row(stage, seed=seed, control=name, model=" ".join(MODULES), task=EMOJI, warning=CLOSING)
        for name in ("sora", "[red]x")  # a control names a folder, too: no slash
        for seed in (0, 1)
        for stage in (0, 1)
    ]
    return render_curve(curve_rows.curve(out, rows))


@pytest.mark.parametrize("view", [ranks, plan, extraction, subspaces, scores, outcomes, curve])
def test_every_renderer_shows_names_as_they_are(
    home: Path, tmp_path: Path, view: Callable[[Path, Path], RenderableType]
) -> None:
    shown = printed(view(home, tmp_path))
    for name in MODULES:
        assert name in shown


def verbs(home: Path, out: Path) -> dict[str, tuple[Any, ...]]:
    scored = {"run": RUN, "method": "lora", "step": 1, "task": CLOSING, "metric": "acc", "value": 0.5}
    file = out / "scores.csv"
    file.write_text(",".join(scored) + "\n" + ",".join(map(str, scored.values())) + "\n")
    return {
        "show": ("show", home / "study", "--modules"),
        "plan": ("plan", home / "study", "--energy", "0.5", "--modules", "-o", out / STYLED),
        "extract": ("extract", home / "one", "--base", home / "base", "--rank", "1", "--modules", "-o", out / STYLED),
        "subspace": ("subspace", home / "one", home / "two", "--base", home / "base", "--modules", "-o", out / STYLED),
        "verify": ("verify", home / "study"),
        "import-scores": ("import-scores", file, "-o", out / STYLED),
        "export": ("export", home / "study", "-o", out / STYLED, "-f", "csv"),
    }


@pytest.mark.parametrize("verb", ["show", "plan", "extract", "subspace", "verify", "import-scores", "export"])
def test_every_verb_prints_names_and_paths_as_they_are(home: Path, tmp_path: Path, verb: str) -> None:
    done = rank_lab(*verbs(home, tmp_path)[verb])
    assert done.code == 0, done.err
    for name in () if verb in ("import-scores", "export") else MODULES:
        assert name in done.out
    assert {"verify": RUN, "show": RUN, "import-scores": CLOSING}.get(verb, STYLED) in done.out


def test_fairness_prints_names_as_they_are(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two")]
    for folder, steps in zip(folders, (10, 20), strict=True):
        folder.mkdir()
        record(f"{STYLED}{EMOJI}", steps=steps).save(folder)
    done = rank_lab("fairness", *folders)
    assert done.code == 0, done.err
    assert f"{STYLED}{EMOJI}" in done.out


def test_bars_and_lines_obey_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar() as bar:
        task = bar.add_task(STYLED, total=1)
        bar.update(task, description=CLOSING)
        assert CLOSING in printed(bar.make_tasks_table(bar.tasks))
    console().print(f"written: {STYLED}{CLOSING}{EMOJI}")
    assert f"written: {STYLED}{CLOSING}{EMOJI}" in capsys.readouterr().out


def test_control_characters_of_a_cell_are_written_out() -> None:
    table = PlainTable("run")
    table.add_row("a\x1b[2J")
    assert "a\\x1b[2J" in printed(table)
