"""What the README tells a reader to type works."""

import json
import re
import shlex
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
import typer.main
from safetensors.torch import save_file

import rank_lab
from rank_lab.behavioural_schema import BEHAVIOURAL_TABLES
from rank_lab.cli import app
from rank_lab.demo import BASE
from rank_lab.functional_metrics import SCOPES
from rank_lab.functional_schema import FUNCTIONAL_TABLES
from rank_lab.schema import UPDATES
from rank_lab.subspace_schema import SUBSPACE_TABLES

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    return [
        line.split("#")[0].strip()
        for block in blocks("sh")
        for line in block.splitlines()
        if line.startswith("rank-lab ")
    ]


@pytest.mark.parametrize("line", commands())
def test_commands_parse(line: str) -> None:
    _, verb, *arguments = shlex.split(line)
    command = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
    command.make_context(verb, arguments)  # raises on an unknown option or a missing argument


def test_there_are_commands_to_check() -> None:
    assert {shlex.split(line)[1] for line in commands()} == {
        "analyze", "show", "export", "fold", "schedule", "finetune", "evaluate", "import-scores", "fairness",
        "dashboard", "verify", "subspace", "functional",
        "plan", "extract", "behavioural",
    }  # fmt: skip


def test_the_python_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = blocks("python")
    for name, value in (("base", 0.0), ("tuned", 1.0), ("other", 2.0)):
        (tmp_path / name).mkdir()
        save_file(
            {"model.layers.0.self_attn.q_proj.weight": torch.full((4, 3), value)}, tmp_path / name / "model.safetensors"
        )
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), scope)
    assert len(scope["report"].updates) == 1  # type: ignore[attr-defined]
    assert set(scope["pair"].angles["cosine"].round(9)) == {1.0}  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning")  # as for any user on a CPU
def test_the_quick_start_runs_in_under_20_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = blocks("py")
    assert sum(bool(line.strip()) for line in block.splitlines()) < 20
    (tmp_path / "base").symlink_to(BASE)
    (tmp_path / "texts.txt").write_text("".join(f"What is {n} plus {n}? It is {2 * n}.\n" for n in range(40)))
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})
    report = json.loads((tmp_path / "out" / "lora" / "fold.json").read_text())
    assert report["model_difference"] < 1e-4
    assert 0 < sum(report["ranks"].values()) < 8 * 28  # some gates are zero, some are not


def test_columns_that_it_explains_exist() -> None:
    table = README.split("## What each number means")[1].split("## How it is computed")[0]
    names = set(re.findall(r"^\| `(\w+)`", table, flags=re.MULTILINE))
    assert len(names) >= 12
    assert names <= set(UPDATES.names)


def test_tables_of_a_comparison_are_explained() -> None:
    table = README.split("## Two updates side by side")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, flags=re.MULTILINE)) == set(SUBSPACE_TABLES)


def test_what_stands_beside_a_behavioural_rank_is_in_its_table() -> None:
    table = README.split("## How many directions do it")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \|", table, flags=re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert len(named) > 5
    assert named <= set(BEHAVIOURAL_TABLES["ranks"].names)


def test_scopes_of_functional_ranks_are_explained() -> None:
    text = README.split("## Rank of what an update does")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)`", text, flags=re.MULTILINE) == list(SCOPES)
    columns = {name for schema in FUNCTIONAL_TABLES.values() for name in schema.names}
    for name in ("open_above", "linear_share", "linear_share_null", "mean_share", "null", "bound", "first_token_share"):
        assert f"`{name}`" in text
        assert name in columns


def test_every_module_has_its_place_in_the_layout() -> None:
    package = Path(rank_lab.__file__).parent
    told = re.findall(r"`([\w*/.]+)`", README.split("## How it is laid out")[1])
    patterns = [name for name in told if name.endswith(".py") and "/" not in name]
    modules = [file.name for file in package.glob("*.py") if file.name != "__init__.py"]
    assert [name for name in modules if not any(fnmatch(name, pattern) for pattern in patterns)] == []
    assert [pattern for pattern in patterns if not list(package.rglob(pattern))] == []
    folders = {file.parent.name for file in package.glob("*/__init__.py")}
    assert folders <= {name.rstrip("/") for name in told if name.endswith("/")}


def test_every_guide_is_named() -> None:
    guides = (Path(__file__).parents[1] / "app" / "guide").glob("*.md")
    assert [file.name for file in guides if f"(app/guide/{file.name})" not in README] == []
