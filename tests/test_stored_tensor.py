"""Parts of a stored tensor: one expert of a stack, a convolution as a matrix, one weight of a fused one."""

import math
from pathlib import Path

import pytest
import torch

from rank_lab import Checkpoint
from rank_lab.errors import ShapeMismatchError
from rank_lab.stored_tensor import StoredTensor
from tests.checkpoints import CONTAINERS, Container, save

Shape = tuple[int, ...]


def stored(tmp_path: Path, container: Container, shape: Shape, dtype: torch.dtype) -> tuple[StoredTensor, torch.Tensor]:
    values = torch.arange(math.prod(shape)).reshape(shape).to(dtype)
    folder = save(tmp_path / "model", {"before": torch.ones(3), "x": values}, container=container)
    return Checkpoint.open(folder)["x"], values


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_a_view_is_a_range_of_elements(tmp_path: Path, container: Container, dtype: torch.dtype) -> None:
    stack, values = stored(tmp_path, container, (3, 4, 5), dtype)
    for expert in range(3):
        part = stack.view((4, 5), start=20 * expert)
        assert torch.equal(part.read(), values[expert])
        assert torch.equal(part.block(slice(1, 3), slice(2, 5)), values[expert, 1:3, 2:5])
        assert torch.equal(torch.cat(list(part.chunks())), values[expert].reshape(-1))
        assert torch.equal(part.view((2, 5), start=10).read(), values[expert, 2:])
    assert torch.equal(stack.view((3, 20)).read(), values.reshape(3, 20))
    assert stack.view((4, 5)).digest() != stack.view((4, 5), start=20).digest()


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("period", "start", "length"), [(12, 4, 4), (6, 2, 2), (12, 0, 3), (3, 2, 1), (12, 0, 12)])
def test_a_selection_is_what_indexing_gives(
    tmp_path: Path, container: Container, axis: int, period: int, start: int, length: int
) -> None:
    fused, values = stored(tmp_path, container, (12, 12), torch.float16)
    index = torch.tensor([i for i in range(12) if start <= i % period < start + length])
    expected = values.index_select(axis, index)
    part = fused.select(axis, period=period, start=start, length=length)  # type: ignore[arg-type]
    assert part.shape == tuple(expected.shape)
    assert part.elements == expected.numel()
    assert torch.equal(part.read(), expected)
    for rows in (slice(0, 1), slice(1, None), slice(0, 0)):
        for columns in (slice(None), slice(0, 2)):
            assert torch.equal(part.block(rows, columns), expected[rows, columns]), (rows, columns)
    assert torch.equal(torch.cat(list(part.chunks())), expected.reshape(-1))


def test_a_selection_of_an_expert(tmp_path: Path) -> None:
    stack, values = stored(tmp_path, "safetensors", (2, 6, 5), torch.float32)
    part = stack.view((6, 5), start=30).select(0, period=2, start=1, length=1)
    assert torch.equal(part.read(), values[1, 1::2])


def test_equal_content_has_equal_digests_however_it_is_stored(tmp_path: Path) -> None:
    digests = set()
    for container in CONTAINERS:
        whole, values = stored(tmp_path / container, container, (12, 4), torch.float32)
        digests.add(whole.select(0, period=4, start=1, length=2).digest())
        alone = save(tmp_path / f"alone {container}", {"x": values.reshape(3, 4, 4)[:, 1:3].reshape(6, 4)})
        digests.add(Checkpoint.open(alone)["x"].digest())
    assert len(digests) == 1


@pytest.mark.parametrize("wrong", [{"period": 5}, {"period": 0}, {"start": 5}, {"length": 0}, {"start": -1}], ids=str)
def test_a_pattern_that_does_not_fit_is_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    fused, _ = stored(tmp_path, "safetensors", (12, 4), torch.float32)
    with pytest.raises(ShapeMismatchError, match="'x'"):
        fused.select(0, **({"period": 6, "start": 2, "length": 2} | wrong))


@pytest.mark.parametrize(("shape", "start"), [((13, 4), 0), ((12, 4), 1), ((1,), -1)], ids=str)
def test_a_view_beyond_the_tensor_is_refused(tmp_path: Path, shape: Shape, start: int) -> None:
    whole, _ = stored(tmp_path, "safetensors", (12, 4), torch.float32)
    with pytest.raises(ShapeMismatchError, match="'x'"):
        whole.view(shape, start=start)
