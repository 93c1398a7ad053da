"""What torch saves passes the check of its claims, and is then read with the values that torch reads."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rank_lab import Checkpoint
from rank_lab.archive_check import check_archive
from rank_lab.bounded_pattern import refuse_slow
from tests.malicious.archives import archive, called, number, state, tensor


def model_state() -> dict[str, Any]:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 4, dtype=torch.bfloat16))
    found = model.state_dict()
    assert hasattr(found, "_metadata")
    return found


def parameter() -> nn.Parameter:
    """With an attribute of its own, as trainers leave them."""
    made = nn.Parameter(torch.arange(4.0))
    made.tensor_model_parallel = True  # type: ignore[attr-defined]
    return made


whole = torch.arange(24.0).reshape(4, 6)
HARMLESS: dict[str, Any] = {
    "model": model_state(),
    "parameters": {"w": nn.Parameter(torch.ones(2, 2)), "v": parameter()},
    "views": {"row": whole[1], "columns": whole[:, 2:4], "turned": whole.T, "late": whole[3:, 5:]},
    "expanded": {"w": torch.ones(1, 3).expand(5, 3), "m": torch.zeros(1).expand(30, 40)},
    "channels last": {"w": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)},
    "odd": {"scalar": torch.tensor(3.0), "empty": torch.zeros(0, 4), "c": torch.ones(2) * 1j},
    "tied": {"a": whole, "b": whole},
    "trainer": {
        "state_dict": OrderedDict(w=torch.ones(2, 2)), "epoch": 3, "betas": (0.9, 0.999), "name": "x" * 300,
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"params": [0, 1], "lr": 1e-4}]},
        "raw": b"\x00\xff", "set": {1, 2}, "device": torch.device("cpu"),
        "dtype": torch.float16, "size": torch.Size([2]),
    },
}  # fmt: skip


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("kind", HARMLESS)
def test_what_torch_saves_is_read(tmp_path: Path, kind: str, older: bool) -> None:
    file = tmp_path / "pytorch_model.bin"
    torch.save(HARMLESS[kind], file, _use_new_zipfile_serialization=not older)
    check_archive(file)
    expected = torch.load(file, weights_only=True)
    expected = expected.get("state_dict", expected)
    checkpoint = Checkpoint.open(file)
    assert set(checkpoint.tensors) == {name for name, value in expected.items() if isinstance(value, torch.Tensor)}
    for name, stored in checkpoint.tensors.items():
        assert torch.equal(stored.read(), expected[name].detach()), name


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.uint16, torch.float64, torch.int8], ids=str)
def test_every_type_is_as_large_as_it_says(tmp_path: Path, dtype: torch.dtype) -> None:
    file = tmp_path / "pytorch_model.bin"
    torch.save({"w": torch.ones(5, 3).to(dtype)}, file)
    check_archive(file)
    assert Checkpoint.open(file)["w"].read().dtype == dtype


def test_no_sums_over_the_entries_are_needed(tmp_path: Path) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.ones(5, 3)}, tmp_path / "pytorch_model.bin")
    finally:
        torch.serialization.set_crc32_options(before)
    assert Checkpoint.open(tmp_path)["w"].read().sum() == 15


def test_a_pickle_written_by_hand_is_read(tmp_path: Path) -> None:
    archive(state(tensor((2, 2), (2, 1))))(tmp_path / "hand")
    assert Checkpoint.open(tmp_path / "hand")["w"].read().tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_torch_itself_would_have_obeyed(tmp_path: Path) -> None:
    """The check is needed: torch allocates what a pickle asks for (here 40 MB, by two ways that are refused)."""
    for place, program in enumerate(
        (
            state(called("builtins", "bytearray", number(40_000_000) + b"\x85")),
            state(called("torch", "FloatTensor", number(10_000_000) + b"\x85")),
        )
    ):
        archive(program)(tmp_path / str(place))
        made = torch.load(tmp_path / str(place) / "pytorch_model.bin", weights_only=True)["w"]
        assert len(made) >= 10_000_000


@pytest.mark.parametrize(
    "pattern",
    ["q_proj", "model.layers.0.self_attn.q_proj", r".*\.layers\.\d+\.mlp\.experts\.\d+\..*", "(q|k|v)_proj",
     r"^model\.decoder\.layers\.[0-9]+\.fc1", r"layers\.(?:[0-9]|1[0-9])\.q", r"foo[)+]bar", r"a\(b\)+",
     r"(model\.)?layers\.\d+\.(q|k|v|o|gate|up|down)_proj"],
)  # fmt: skip
def test_patterns_that_people_write_pass(pattern: str) -> None:
    refuse_slow(pattern)


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+$", "(a|a)*", "((a+))+", "(.*a){20}", ".*.*.*x", "(a{1,3}){2,9}", r"(a)\1*", "((a|b)c)*", "(a?){50}",
     "a?" * 30, "(a|a)" * 30, r"\d+" * 9, "(?P<n>a+)+", "a" * 1001],
)  # fmt: skip
def test_patterns_that_may_take_for_ever_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="write module names"):
        refuse_slow(pattern)
