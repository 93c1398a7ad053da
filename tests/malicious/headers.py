"""Makers of harmful safetensors headers, indexes, configurations and links; each writes one folder."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.checkpoints import factors, llama, raw_safetensors, save, save_adapter

Maker = Callable[[Path], object]

STATE = llama(torch.Generator().manual_seed(1))


def _header(
    *, text: bytes | None = None, content: object = None, data: bytes = b"", announced: int | None = None
) -> Maker:
    def make(folder: Path) -> None:
        folder.mkdir()
        raw = raw_safetensors(content if text is None else text, data, announced=announced)
        (folder / "model.safetensors").write_bytes(raw)

    return make


def _tensor(shape: object, begin: object, end: object, *, name: str = "w", dtype: str = "F32") -> dict[str, object]:
    return {name: {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}}


def _many(count: int) -> Maker:
    def make(folder: Path) -> None:
        entries = (f'"{i}":{{"dtype":"U8","shape":[1],"data_offsets":[{i},{i + 1}]}}' for i in range(count))
        _header(text=("{" + ",".join(entries) + "}").encode(), data=bytes(count))(folder)

    return make


def _index(content: object) -> Maker:
    def make(folder: Path) -> None:
        save(folder, STATE, shards=2)
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        (folder / "model.safetensors.index.json").write_bytes(text)

    return make


def _config(text: bytes, name: str = "config.json") -> Maker:
    def make(folder: Path) -> None:
        save(folder, STATE)
        (folder / name).write_bytes(text)

    return make


def _adapter(**config: object) -> Maker:
    def make(folder: Path) -> None:
        modules = ("a" * 400, "model.layers.0.self_attn.q_proj")
        tensors = {k: v for module in modules for k, v in factors(torch.Generator().manual_seed(1), module).items()}
        save_adapter(folder, tensors, **config)

    return make


def _link(name: str, target: str, *, beside: bool = False) -> Maker:
    def make(folder: Path) -> None:
        if beside:
            save(folder, STATE)
        folder.mkdir(exist_ok=True)
        (folder / name).symlink_to(target)

    return make


def _pipe(name: str, *, shards: bool = False) -> Maker:
    def make(folder: Path) -> None:
        if shards:
            save(folder, STATE, shards=2)
            (folder / name).unlink()
        folder.mkdir(exist_ok=True)
        os.mkfifo(folder / name)

    return make


def _linked_to_itself(folder: Path) -> None:
    save(folder, STATE)
    (folder / "checkpoint-1").symlink_to(folder)


def _pipe_among_shards_without_index(folder: Path) -> None:
    save(folder, STATE, shards=2)
    (folder / "model.safetensors.index.json").unlink()
    (folder / "model-00002-of-00002.safetensors").unlink()
    os.mkfifo(folder / "model-00002-of-00002.safetensors")


def _names(name: str) -> Maker:
    return _header(content=_tensor([2, 2], 0, 16, name=name), data=bytes(16))


HEADERS: dict[str, tuple[Maker, str]] = {
    "header of terabytes": (_header(content={}, announced=2**42), "announces a header of 4398046511104"),
    "header of 100 MB of lists": (_header(text=b'{"w":[' + b"[]," * 33_000_000 + b"1]}"), "more than the 25000000"),
    "header of 24 MB of lists": (_header(text=b'{"w":[' + b"[]," * 7_900_000 + b"1]}"), "cannot be parsed as JSON"),
    "header of 24 MB of keys": (
        _header(text=b"{" + b",".join(b'"%x":1' % i for i in range(2_000_000)) + b"}"), "more than any model needs",
    ),
    "header of 24 MB of text": (
        _header(text=b'{"__metadata__":{"a":"' + b"x" * 24_000_000 + b'"}}', data=b"1"),
        "tensors end",
    ),
    "million tensors": (_many(360_000), "save a model of more than 100 000 tensors in shards"),
    "lists in lists": (_header(text=b'{"w":' * 100_000), "nested too deeply"),
    "lists in lists, closed": (_header(text=b"[" * 500 + b"]" * 500), "nested more than 50 deep"),
    "shape that overflows to nothing": (_header(content=_tensor([2**32, 2**32], 0, 0)), "cannot lie in bytes 0 to 0"),
    "shape of 2**63": (_header(content=_tensor([2**63], 0, 4), data=bytes(4)), "cannot lie in bytes 0 to 4"),
    "shape of 4000 digits": (_header(content=_tensor([10**4000], 0, 4), data=bytes(4)), "cannot lie in bytes"),
    "negative shape": (_header(content=_tensor([-2, -2], 0, 16), data=bytes(16)), "lacks a proper dtype, shape"),
    "shape of truth": (_header(content=_tensor([True], 0, 4), data=bytes(4)), "lacks a proper dtype, shape"),
    "broken shape": (_header(content=_tensor([1.5], 0, 6), data=bytes(6)), "lacks a proper dtype, shape"),
    "offsets beyond the file": (_header(content=_tensor([2**40], 0, 2**42)), "before tensor 'w' does"),
    "offsets before the data": (_header(content=_tensor([4], -16, 0), data=bytes(16)), "lacks a proper dtype"),
    "overlapping ranges": (
        _header(content=_tensor([4], 0, 16) | _tensor([4], 0, 16, name="v"), data=bytes(16)), "overlaps the tensor",
    ),
    "a tensor twice": (
        _header(text=b'{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"U8","shape":[1],'
                     b'"data_offsets":[0,1]}}', data=b"1"), "the key 'w' is there twice",
    ),
    "name with an escape": (_names("q\x1b[2J\x1b]0;owned\x07.weight"), r"'q\x1b[2J\x1b]0;owned\x07.weight'"),
    "name of two lines": (_names("q\nerror: all is well\r\n.weight"), r"'q\nerror: all is well\r\n.weight'"),
    "name written backwards": (_names("q\u202ethgiew"), r"'q\u202ethgiew'"),
    "name of 10 kB": (_names("q" * 10_000), "of 10000 characters holds control characters or is longer than 512"),
    "name that is half a character": (_names("q\ud800"), r"'q\ud800'"),
    "type with an escape": (
        _header(content=_tensor([1], 0, 4, dtype="\x1b[2J"), data=bytes(4)),
        "lacks a proper dtype",
    ),
}  # fmt: skip

FOLDERS: dict[str, tuple[Maker, str]] = {
    "index up the tree": (_index({"weight_map": {"w": "../../etc/passwd"}}), "which is not a plain file name"),
    "index to the root": (_index({"weight_map": {"w": "/etc/passwd"}}), "which is not a plain file name"),
    "index with a null byte": (_index({"weight_map": {"w": "a\0b"}}), "shards are missing"),
    "index with an escape": (_index({"weight_map": {"w": "\x1b[2J"}}), "shards are missing"),
    "index of numbers": (_index({"weight_map": {"w": 5}}), "not a shard index"),
    "index of 33 MB": (_index(b'{"weight_map":{"w":"' + b"x" * 33_000_000 + b'"}}'), "more than 32000000"),
    "index of lists": (_index(b'{"weight_map":' + b"[]," * 9_000_000), "more than any model needs"),
    "config of 100 MB": (_config(b'{"a":"' + b"x" * 100_000_000 + b'"}'), "for a configuration"),
    "config of lists": (_config(b'{"a":[' + b"[]," * 9_000_000 + b"1]}"), "more than any model needs"),
    "config in itself": (_config(b'{"a":' * 50_000), "nested too deeply"),
    "config in itself, closed": (_config(b'{"a":' * 400 + b"1" + b"}" * 400), "nested more than 50 deep"),
    "config that is no text": (_config(b"\xff\xfe{\x00}\x00"), "not JSON ("),
    "config with a number without end": (_config(b'{"a":' + b"9" * 100_000 + b"}"), "not JSON ("),
    "trainer's state of lists": (_config(b"[" + b"[]," * 9_000_000, "trainer_state.json"), "more than any model"),
    "trainer's step without end": (
        _config(b'{"global_step":' + b"9" * 4000 + b"}", "trainer_state.json"),
        "global_step is",
    ),
    "pattern without end": (_adapter(rank_pattern={"(a+)+$": 2}), "repeats a group that holds a repeat"),
    "pattern of choices": (_adapter(alpha_pattern={"(a|a)*$": 2}), "repeats a group that holds a repeat or a choice"),
    "pattern of stars": (_adapter(rank_pattern={".*" * 20 + "x": 2}), "too many repeats or choices"),
    "pattern of options": (_adapter(rank_pattern={"a?" * 40 + "a" * 40: 2}), "too many repeats or choices"),
    "pattern of a megabyte": (_adapter(rank_pattern={"a" * 1_000_000: 2}), "of 1000000 characters"),
    "device as weights": (_link("model.safetensors", "/dev/zero"), "is no regular file"),
    "device as configuration": (_link("config.json", "/dev/zero", beside=True), "is no regular file"),
    "text of the system as weights": (_link("model.safetensors", "/etc/passwd"), "announces a header of"),
    "text of the system as configuration": (_link("config.json", "/etc/passwd", beside=True), "not JSON ("),
    "file of the kernel": (_link("model.safetensors", "/proc/self/environ"), "the file is empty"),
    "link to nothing": (_link("model.safetensors", "/nowhere/at/all"), "is a link to /nowhere/at/all, which is not"),
    "link to itself": (_link("model.safetensors", "model.safetensors"), "Too many levels of symbolic links"),
    "folder in itself": (_linked_to_itself, "all 10 matrices are identical to those of"),
    "pipe as weights": (_pipe("model.safetensors"), "is no regular file"),
    "pipe as torch's weights": (_pipe("pytorch_model.bin"), "is no regular file"),
    "pipe as configuration": (_pipe("adapter_config.json"), "has adapter_config.json but neither"),
    "pipe as index": (_pipe("model.safetensors.index.json"), "is no regular file"),
    "pipe as shard": (_pipe("model-00002-of-00002.safetensors", shards=True), "1 of 2 shards are missing"),
    "pipe as shard, no index": (_pipe_among_shards_without_index, "is no regular file"),
}  # fmt: skip


def outside(folder: Path) -> None:
    """Weights behind a link out of the folder: as in the hub's cache, and harmless."""
    elsewhere = folder.parent / f"{folder.name}-elsewhere"
    elsewhere.mkdir()
    save_file({name: value + 0.5 for name, value in STATE.items()}, elsewhere / "blob")
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(elsewhere / "blob")
