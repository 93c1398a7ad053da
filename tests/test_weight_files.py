"""Which files of a folder are its weights: the order of preference, and what is set aside or refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rank_lab import Checkpoint
from rank_lab.errors import CheckpointError
from rank_lab.weight_files import find_weight_files
from tests.checkpoints import factors, llama, save, save_adapter


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


def index(folder: Path, weight_map: object, *, suffix: str = "safetensors") -> Path:
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["model.safetensors", "pytorch_model.bin", "optimizer.pt"], ["model.safetensors"]),
        (["pytorch_model.bin", "training_args.bin", "optimizer.bin", "scheduler.bin"], ["pytorch_model.bin"]),
        (["training_args.bin", "only.bin"], ["only.bin"]),
        (["demo.safetensors", "readme.md"], ["demo.safetensors"]),
        (
            ["model-00002-of-00002.safetensors", "model-00001-of-00002.safetensors"],
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        ),
        (["pytorch_model-00001-of-00001.bin", "rng_state.pth"], ["pytorch_model-00001-of-00001.bin"]),
        (["adapter_config.json", "adapter_model.safetensors", "model.safetensors"], ["adapter_model.safetensors"]),
        (["adapter_config.json", "adapter_model.bin"], ["adapter_model.bin"]),
    ],
)
def test_order_of_preference(tmp_path: Path, names: list[str], chosen: list[str]) -> None:
    found = find_weight_files(touch(tmp_path, *names))
    assert [file.name for file in found.files] == chosen
    assert found.adapter == ("adapter_config.json" in names)


def test_other_weights_are_set_aside_with_a_reason(tmp_path: Path) -> None:
    touch(tmp_path, "model.safetensors", "pytorch_model.bin", "ema.pt", "optimizer.pt", "rng_state_0.pth", "notes.txt")
    aside = find_weight_files(tmp_path).set_aside
    assert [name for name, _ in aside] == ["ema.pt", "pytorch_model.bin"]
    assert {reason for _, reason in aside} == {"weight file beside the one that was read (model.safetensors)"}


def test_an_index_says_where_tensors_are(tmp_path: Path, generator: torch.Generator) -> None:
    tensors = llama(generator)
    found = find_weight_files(save(tmp_path, tensors, shards=3))
    assert found.weight_map is not None
    assert set(found.weight_map) == set(tensors)
    assert [file.name for file in found.files] == sorted(set(found.weight_map.values()))


def test_a_tensor_that_the_index_does_not_list_is_set_aside(tmp_path: Path, generator: torch.Generator) -> None:
    folder = save(tmp_path, llama(generator), shards=2)
    file = folder / "model.safetensors.index.json"
    content = json.loads(file.read_text())
    shard = content["weight_map"].pop("model.norm.weight")
    file.write_text(json.dumps(content))
    checkpoint = Checkpoint.open(folder)
    assert "model.norm.weight" not in checkpoint.tensors
    assert checkpoint.set_aside == (
        ("model.norm.weight", f"lies in {shard}, where the shard index does not look for it"),
    )


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "renamed.safetensors"])
def test_an_adapter_may_be_named_by_its_file(tmp_path: Path, generator: torch.Generator, name: str) -> None:
    folder = save_adapter(tmp_path, factors(generator))
    (folder / "adapter_model.safetensors").rename(folder / name)
    assert find_weight_files(folder / name).adapter == (name == "adapter_model.safetensors")


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_shards_without_index_must_be_complete(tmp_path: Path, ending: str) -> None:
    touch(tmp_path, f"model-00001-of-00003.{ending}", f"model-00003-of-00003.{ending}")
    with pytest.raises(CheckpointError, match=r"2 of 3 shards are there, number \[2\] missing; download them"):
        find_weight_files(tmp_path)


def test_shards_of_two_saves_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "model-00001-of-00001.safetensors", "model-00001-of-00002.safetensors")
    with pytest.raises(CheckpointError, match="shards of several saves"):
        find_weight_files(tmp_path)


def test_several_loose_files_are_not_chosen_between(tmp_path: Path) -> None:
    touch(tmp_path, "a.safetensors", "b.safetensors")
    with pytest.raises(CheckpointError, match=r"several weight files \(a\.safetensors, b\.safetensors\) and no index"):
        find_weight_files(tmp_path)


def test_an_adapter_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has adapter_config\.json but neither"):
        find_weight_files(touch(tmp_path, "adapter_config.json", "model.safetensors"))


@pytest.mark.parametrize(
    "shard", ["../secret.safetensors", "/etc/passwd", "sub/model.safetensors", "./model.safetensors", "..", "."]
)
def test_an_index_does_not_lead_out_of_its_folder(tmp_path: Path, generator: torch.Generator, shard: str) -> None:
    save(tmp_path / "secret", llama(generator))
    (tmp_path / "secret" / "model.safetensors").rename(tmp_path / "secret.safetensors")
    folder = touch(tmp_path / "model", "model-00001-of-00001.safetensors")
    index(folder, {"a": shard})
    with pytest.raises(CheckpointError, match=r"not a plain file name of this folder|shards are missing"):
        find_weight_files(folder)


@pytest.mark.parametrize("weight_map", [None, 5, ["model.safetensors"], "model.safetensors"])
def test_an_index_without_a_map_is_refused(tmp_path: Path, weight_map: object) -> None:
    index(tmp_path, weight_map)
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json: not a shard index"):
        find_weight_files(tmp_path)


def test_a_single_file_beside_an_index_is_two_saves(tmp_path: Path, generator: torch.Generator) -> None:
    folder = save(tmp_path / "mixed", {"a": torch.ones(2, 2), "b": torch.ones(2, 2)}, shards=2)
    save_file({"a": torch.zeros(2, 2)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: lies beside .*: two saves are mixed"):
        Checkpoint.open(folder)
