"""Files of torch.save that are damaged, hold code or no weights."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoints import (
    Container,
    Tensors,
    llama,
    save,
)
from tests.test_bad_input import LFS, QUERY, refused


@pytest.fixture
def state(generator: torch.Generator) -> Tensors:
    return llama(generator)


@pytest.fixture
def base(tmp_path: Path, state: Tensors) -> Path:
    return save(tmp_path / "base", state)


class Marker:
    """A pickle of this runs a command when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.file}",)


@pytest.mark.parametrize("container", ["bin", "legacy", "pickle"])
def test_code_in_a_pickle_does_not_run(tmp_path: Path, base: Path, container: Container | str) -> None:
    marker, file = tmp_path / "it_ran", tmp_path / "tuned" / "pytorch_model.bin"
    file.parent.mkdir()
    content = {QUERY.format(0): torch.ones(8, 8), "payload": Marker(marker)}
    if container == "pickle":
        file.write_bytes(pickle.dumps(Marker(marker), protocol=2))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=container == "bin")
    line = refused(tmp_path, file.parent, "--base", base)
    assert f"{file}: its pickle calls for code (posix.system) and is refused unread" in line
    assert not marker.exists()
    assert pickle.loads(pickle.dumps(Marker(marker))) == 0
    assert marker.exists(), "the marker would not have shown code that ran"


def archive(**options: Any) -> bytes:
    import io

    buffer = io.BytesIO()
    torch.save({QUERY.format(0): torch.ones(40, 40)}, buffer, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "not a readable torch file (EOFError)"),
        (b"these are no weights", "not a readable torch file ("),
        (pickle.dumps({"a": 1}), "not a readable torch file (Unsupported operand"),
        (LFS, "is a Git LFS pointer of"),
        (archive()[:3000], "an archive of 3000 bytes without its end"),
        (archive(_use_new_zipfile_serialization=False)[:3000], "its storages claim 6400 bytes, the file holds 3000"),
        (archive().replace(b"data.pkl", b"else.pkl"), "not a readable torch file"),
    ],
    ids=["empty", "garbage", "pickle", "pointer", "cut", "cut legacy", "other archive"],
)
def test_a_damaged_torch_file_is_refused(tmp_path: Path, base: Path, content: bytes, expected: str) -> None:
    file = tmp_path / "tuned" / "pytorch_model.bin"
    file.parent.mkdir()
    file.write_bytes(content)
    line = refused(tmp_path, file.parent, "--base", base)
    assert f"{file}: " in line
    assert expected in line


@pytest.mark.parametrize("content", [[torch.ones(2)], {"epoch": 3}, {"model": {"epoch": 3}}], ids=str)
def test_a_torch_file_without_named_tensors_is_refused(tmp_path: Path, base: Path, content: object) -> None:
    file = tmp_path / "last.pt"
    torch.save(content, file)
    assert f"{file}: holds a {type(content).__name__} without named tensors" in refused(tmp_path, file, "--base", base)
