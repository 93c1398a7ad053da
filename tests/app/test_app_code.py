"""What the pages may do: show. They neither compute, nor open files, nor run or unpickle anything."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

APP = Path(__file__).parents[2] / "app"
FILES = sorted(APP.glob("*.py"))
ARITHMETIC = (ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.MatMult)
COMPUTING = {"numpy", "scipy", "torch", "math", "statistics", "sklearn"}
EXECUTING = {"pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle", "subprocess", "code"}
CALLS = {"eval", "exec", "compile", "open", "__import__"}


def faults(code: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.BinOp | ast.AugAssign) and not is_text_or_list(node):
            found.append(f"line {node.lineno}: arithmetic")
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            bad = {name.split(".")[0] for name in names} & (COMPUTING | EXECUTING)
            found += [f"line {node.lineno}: imports {name}" for name in bad]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLS:
            found.append(f"line {node.lineno}: calls {node.func.id}")
        if isinstance(node, ast.keyword) and node.arg == "unsafe_allow_html":
            found.append(f"line {node.value.lineno}: unsafe_allow_html")
    return found


def is_text_or_list(node: ast.BinOp | ast.AugAssign) -> bool:
    """Paths by ``/``, and ``+`` of lists and texts, where one side is written out; ``|`` and ``&`` count nothing."""
    if isinstance(node.op, ast.BitOr | ast.BitAnd):
        return True
    operands = [node.left, node.right] if isinstance(node, ast.BinOp) else [node.target, node.value]
    if isinstance(node.op, ast.Add):
        return any(isinstance(each, ast.List | ast.ListComp | ast.JoinedStr) or is_text(each) for each in operands)
    if isinstance(node.op, ast.Div):
        return any(isinstance(each, ast.JoinedStr) or is_text(each) for each in operands)
    return not isinstance(node.op, ARITHMETIC)


def is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_page_only_shows(file: Path) -> None:
    assert faults(file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("x = a - b", "arithmetic"), ("x += 1", "arithmetic"), ("x = 2 ** n", "arithmetic"),
        ("x = a + b", "arithmetic"), ("x = a % b", "arithmetic"),
        ("x = a / b", "arithmetic"), ("import numpy as np", "imports numpy"),
        ("from torch.linalg import svd", "imports torch"), ("import pickle", "imports pickle"),
        ("eval(x)", "calls eval"),
        ("open(x)", "calls open"), ("st.markdown(x, unsafe_allow_html=True)", "unsafe_allow_html"),
    ],
)  # fmt: skip
def test_each_fault_would_be_seen(code: str, fault: str) -> None:
    assert [fault in each for each in faults(code)] == [True]


def test_the_pages_are_loaded_without_torch() -> None:
    code = "import sys, app.navigation; sys.exit('torch' in sys.modules)"
    command = [sys.executable, "-W", "ignore", "-c", code]
    assert subprocess.run(command, check=False, cwd=APP.parent, capture_output=True, timeout=120).returncode == 0
