"""Opening reads headers only, reading gives exactly the stored values, whatever the container."""

import json
import math
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rank_lab import Checkpoint
from rank_lab.errors import CheckpointError
from rank_lab.safetensors_header import read_header
from rank_lab.stored_tensor import StoredTensor
from tests.checkpoints import CONTAINERS, Container, llama, save

DTYPES = {
    "float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16,
    "float8_e4m3fn": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2, "int64": torch.int64, "int8": torch.int8,
    "uint8": torch.uint8, "bool": torch.bool, "complex64": torch.complex64,
}  # fmt: skip
# torch itself cannot load its old format with float8 tensors
STORED = [
    (container, dtype) for container in CONTAINERS for dtype in DTYPES if (container, dtype[:6]) != ("legacy", "float8")
]
BLOCKS = [
    (slice(0, 7), slice(0, 5)),
    (slice(2, 5), slice(0, 5)),
    (slice(0, 7), slice(1, 4)),
    (slice(6, 7), slice(4, 5)),
    (slice(3, 3), slice(0, 5)),
    (slice(5, 99), slice(3, 99)),
    (slice(None), slice(None)),
]


def values(dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    noise = 4 * torch.randn(7, 5, generator=generator)
    return noise > 0 if dtype is torch.bool else noise.abs().to(dtype)


def same_bytes(left: torch.Tensor, right: torch.Tensor) -> bool:
    assert (left.dtype, left.shape) == (right.dtype, right.shape)
    if not left.numel():
        return True
    return left.contiguous().view(-1).view(torch.uint8).equal(right.contiguous().view(-1).view(torch.uint8))


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("container", CONTAINERS)
def test_every_tensor_is_found_and_read(
    tmp_path: Path, generator: torch.Generator, container: Container, shards: int
) -> None:
    tensors = llama(generator)
    folder = save(tmp_path / "model", tensors, container=container, shards=shards, config={"model_type": "llama"})
    checkpoint = Checkpoint.open(folder)
    assert set(checkpoint.tensors) == set(tensors)
    assert len({tensor.file for tensor in checkpoint.tensors.values()}) == shards
    assert checkpoint.model_type == "llama"
    for name, tensor in tensors.items():
        stored = checkpoint[name]
        assert (stored.shape, stored.dtype) == (tuple(tensor.shape), "float32")
        assert stored.read().equal(tensor)


@pytest.mark.parametrize(("container", "dtype"), STORED)
def test_blocks_equal_slices(tmp_path: Path, generator: torch.Generator, container: Container, dtype: str) -> None:
    tensor = values(DTYPES[dtype], generator)
    stored = Checkpoint.open(save(tmp_path, {"a.weight": tensor.clone(), "b.weight": tensor}, container=container))[
        "b.weight"
    ]
    assert stored.dtype == dtype
    assert same_bytes(stored.read(), tensor)
    for rows, columns in BLOCKS:
        assert same_bytes(stored.block(rows, columns), tensor[rows, columns]), (rows, columns)


@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (3, 0), (2, 3, 4)])
@pytest.mark.parametrize("container", CONTAINERS)
def test_any_number_of_dimensions_is_read(tmp_path: Path, container: Container, shape: tuple[int, ...]) -> None:
    tensor = torch.arange(float(math.prod(shape))).reshape(shape)
    stored = Checkpoint.open(save(tmp_path, {"a": tensor, "b": torch.ones(2)}, container=container))["a"]
    assert stored.read().equal(tensor)
    assert len(stored.digest()) == 32


@pytest.mark.parametrize("container", ["bin", "legacy"])
def test_a_transposed_view_is_read_in_row_major_order(
    tmp_path: Path, generator: torch.Generator, container: Container
) -> None:
    tensor = torch.randn(5, 7, generator=generator).T
    stored = Checkpoint.open(save(tmp_path / "view", {"a.weight": tensor}, container=container))["a.weight"]
    for part in (stored.read(), stored.block(slice(1, 4), slice(0, 5))):
        assert part.is_contiguous()
    assert stored.read().equal(tensor)
    plain = Checkpoint.open(save(tmp_path / "plain", {"a.weight": tensor}))["a.weight"]
    assert stored.digest() == plain.digest()


def test_bytes_of_a_tiny_file(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(
        b'\x90\x00\x00\x00\x00\x00\x00\x00{"__metadata__":{"format":"pt"},'
        b'"w":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]},'
        b'"b":{"dtype":"F32","shape":[],"data_offsets":[8,12]}}   '
        b"\x80\x3f\x00\xc0\x20\x41\x00\x00\x00\x00\x28\x42"
    )
    tensors, metadata = read_header(file)
    assert metadata == {"format": "pt"}
    assert tensors["w"] == StoredTensor("w", (2, 2), "bfloat16", file, offset=152)
    assert tensors["w"].read().equal(torch.tensor([[1.0, -2.0], [10.0, 0.0]], dtype=torch.bfloat16))
    assert tensors["w"].block(slice(0, 2), slice(1, 2)).tolist() == [[-2.0], [0.0]]
    assert tensors["b"].read().item() == 42.0
    assert tensors["w"].digest() == "230356e011fdd0ae8fe87fad1d35bdc8"


def test_a_digest_is_of_the_content(tmp_path: Path, generator: torch.Generator) -> None:
    tensors = {name: values(dtype, generator) for name, dtype in DTYPES.items()}
    folders = {
        container: save(tmp_path / container, {d: tensors[d] for c, d in STORED if c == container}, container=container)
        for container in CONTAINERS
    }
    folders["shards"] = save(tmp_path / "shards", tensors, shards=4)
    found = [{n: t.digest() for n, t in Checkpoint.open(folder).tensors.items()} for folder in folders.values()]
    assert found[0] == found[1] == found[3]
    assert found[0] == found[0] | found[2]
    assert len(set(found[0].values())) == len(tensors)


@pytest.mark.parametrize(
    "other",
    [
        torch.tensor([[1.0, 2.0, 3.0, 4.5]]),
        torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64),
        torch.tensor([[1.0, 2.0, 3.0, 4.0]]).view(torch.int32),
    ],
    ids=["value", "shape", "width", "type"],
)
def test_a_digest_tells_values_shapes_and_types_apart(tmp_path: Path, other: torch.Tensor) -> None:
    one = Checkpoint.open(save(tmp_path / "one", {"a": torch.tensor([[1.0, 2.0, 3.0, 4.0]])}))["a"]
    assert one.digest() != Checkpoint.open(save(tmp_path / "other", {"a": other}))["a"].digest()


def test_opening_reads_headers_only(tmp_path: Path) -> None:
    rows, columns = 1 << 20, 1 << 13
    size = 4 * rows * columns
    header = json.dumps(
        {
            f"w.{i}": {"dtype": "F32", "shape": [rows, columns], "data_offsets": [i * size, (i + 1) * size]}
            for i in (0, 1)
        }
    ).encode()
    file = tmp_path / "model.safetensors"
    with file.open("wb") as handle:
        handle.write(len(header).to_bytes(8, "little") + header)
        handle.truncate(8 + len(header) + 2 * size)  # 64 GiB of holes
    start = time.monotonic()
    checkpoint = Checkpoint.open(tmp_path)
    last = checkpoint["w.1"].block(slice(rows - 1, rows), slice(0, columns))
    assert time.monotonic() - start < 2.0
    assert last.shape == (1, columns)
    assert not last.any()


def test_an_unknown_name_comes_with_its_nearest(tmp_path: Path, generator: torch.Generator) -> None:
    folder = save(tmp_path / "model", llama(generator))
    with pytest.raises(CheckpointError, match=r"'model\.layers\.0\.self_attn\.q_prj\.weight' is not in") as caught:
        _ = Checkpoint.open(folder)["model.layers.0.self_attn.q_prj.weight"]
    assert "(13 tensors)" in str(caught.value)
    assert "model.layers.0.self_attn.q_proj.weight" in str(caught.value)


@pytest.mark.parametrize("container", ["bin", "legacy"])
def test_tied_tensors_of_an_archive_are_told(tmp_path: Path, generator: torch.Generator, container: Container) -> None:
    tensors = llama(generator)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    tensors["model.layers.1.mlp.up_proj.weight"] = tensors["model.layers.0.mlp.up_proj.weight"].clone()
    tensors["rows.weight"] = tensors["model.embed_tokens.weight"][:3]
    tensors["transposed.weight"] = tensors["model.layers.0.self_attn.q_proj.weight"].T
    checkpoint = Checkpoint.open(save(tmp_path, tensors, container=container))
    assert checkpoint.tied == {"lm_head.weight": "model.embed_tokens.weight"}


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    for number in (1, 2):
        save_file({"a": torch.ones(2)}, tmp_path / f"model-0000{number}-of-00002.safetensors")
    with pytest.raises(
        CheckpointError, match=r"tensor 'a' is both in .*00001-of-00002\.safetensors and in model-00002"
    ):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize("container", CONTAINERS)
def test_what_is_damaged_anywhere_is_read_or_refused(tmp_path: Path, container: Container) -> None:
    file = next(save(tmp_path, {"a": torch.ones(4, 4), "b": torch.zeros(3)}, container=container).iterdir())
    whole, outcomes = file.read_bytes(), set()
    generator = torch.Generator().manual_seed(3)
    for _ in range(150):
        at, byte, cut = (int(torch.randint(n, (1,), generator=generator)) for n in (min(len(whole), 600), 256, 3))
        damaged = whole[:at] + bytes([byte]) + whole[at + 1 :]
        file.write_bytes(damaged[: len(whole) - at] if cut == 0 else damaged)
        try:
            for stored in Checkpoint.open(file).tensors.values():
                if stored.dtype == "float32":
                    stored.read()
            outcomes.add("read")
        except CheckpointError as error:
            assert str(file) in str(error)  # noqa: PT017 - either outcome is right, any other error is not
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "module"])
def test_a_state_dict_may_lie_in_a_wrapper(tmp_path: Path, wrapper: str) -> None:
    file = tmp_path / "last.pt"
    torch.save({wrapper: {"a.weight": torch.ones(2, 3)}, "epoch": 3, "optimizer": {}}, file)
    assert Checkpoint.open(file)["a.weight"].shape == (2, 3)


def test_a_file_takes_its_config_from_its_folder(tmp_path: Path, generator: torch.Generator) -> None:
    folder = save(tmp_path, llama(generator), config={"model_type": "llama"})
    checkpoint = Checkpoint.open(folder / "model.safetensors")
    assert checkpoint.model_type == "llama"
    assert checkpoint.step is None
    assert checkpoint.adapter_config is None


def test_a_cut_while_reading_names_the_tensor(tmp_path: Path, generator: torch.Generator) -> None:
    folder = save(tmp_path, llama(generator))
    stored = Checkpoint.open(folder)["model.norm.weight"]
    stored.file.write_bytes(stored.file.read_bytes()[: (stored.offset or 0) + 8])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: the file ends inside tensor 'model\.norm\.weight'"):
        stored.read()


def test_a_type_that_torch_does_not_know_is_listed_and_not_read(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(4)}, file)
    file.write_bytes(file.read_bytes().replace(b'"F32"', b'"Q99"'))
    stored = Checkpoint.open(file)["a"]
    assert stored.dtype == "Q99"
    with pytest.raises(CheckpointError, match="tensor 'a' has type 'Q99', which torch does not know"):
        stored.read()


@pytest.mark.parametrize(
    ("tensor", "dtype"),
    [(torch.eye(3).to_sparse(), "sparse_coo float32"), (torch.empty(3, 3, device="meta"), "meta float32")],
    ids=["sparse", "meta"],
)
def test_what_has_no_plain_values_is_listed_and_not_read(tmp_path: Path, tensor: torch.Tensor, dtype: str) -> None:
    torch.save({"a": tensor, "b": tensor, "c": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    checkpoint = Checkpoint.open(tmp_path)
    assert checkpoint["a"].dtype == dtype
    assert checkpoint.tied == {}
    with pytest.raises(CheckpointError, match=f"tensor 'a' has type '{dtype}'"):
        checkpoint["a"].digest()
