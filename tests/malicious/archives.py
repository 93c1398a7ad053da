"""Makers of harmful torch files: pickles written by hand, and archives that claim what they do not hold."""

import io
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch

Maker = Callable[[Path], object]

NAME = b"X\x01\x00\x00\x00w"
STOP, MARK, REDUCE, EMPTY = b".", b"(", b"R", b")"


class Marker:
    """A pickle of this makes a file when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.file}'",)


def number(value: int) -> bytes:
    """A number of any size."""
    raw = value.to_bytes(9, "little", signed=True)
    return b"\x8a\x09" + raw


def numbers(*values: int) -> bytes:
    """A tuple of numbers."""
    return MARK + b"".join(map(number, values)) + b"t"


def text(value: str) -> bytes:
    """A string."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def called(module: str, name: str, arguments: bytes) -> bytes:
    """A call of a function with a tuple of arguments."""
    return f"c{module}\n{name}\n".encode() + arguments + REDUCE


def storage(elements: int, *, older: bool = False) -> bytes:
    """A storage of floats, by its identity."""
    identity = text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number(elements)
    return MARK + identity + (b"N" if older else b"") + b"tQ"


def tensor(
    size: tuple[int, ...], stride: tuple[int, ...], *, offset: int = 0, elements: int = 4, older: bool = False
) -> bytes:
    """A tensor of a storage, as torch writes it."""
    hooks = called("collections", "OrderedDict", EMPTY)
    place = storage(elements, older=older) + number(offset)
    arguments = MARK + place + numbers(*size) + numbers(*stride) + b"\x89" + hooks + b"t"
    return called("torch._utils", "_rebuild_tensor_v2", arguments)


def state(value: bytes) -> bytes:
    """A state dict of one entry."""
    return b"\x80\x02}" + NAME + value + b"s" + STOP


def archive(
    program: bytes,
    *,
    data: bytes = bytes(16),
    packing: int = zipfile.ZIP_STORED,
    more: dict[str, bytes] | None = None,
    behind: bytes = b"",
) -> Maker:
    """A zip archive with that pickle and one storage."""

    def make(folder: Path) -> None:
        folder.mkdir()
        file = folder / "pytorch_model.bin"
        with zipfile.ZipFile(file, "w", packing) as stored:
            entries = {"data.pkl": program, "byteorder": b"little", "data/0": data, "version": b"3\n"} | (more or {})
            for name, content in entries.items():
                stored.writestr(f"archive/{name}", content)
        file.write_bytes(file.read_bytes() + behind)

    return make


def legacy(program: bytes, keys: bytes = pickle.dumps(["0"], protocol=2)) -> Maker:
    """The format before zip archives."""

    def make(folder: Path) -> None:
        folder.mkdir()
        system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
        start = [torch.serialization.MAGIC_NUMBER, 1001, system]
        parts = [pickle.dumps(part, protocol=2) for part in start]
        (folder / "pytorch_model.bin").write_bytes(b"".join(parts) + program + keys + bytes(24))

    return make


def _bare(content: bytes) -> Maker:
    def make(folder: Path) -> None:
        folder.mkdir()
        (folder / "pytorch_model.bin").write_bytes(content)

    return make


def _twice(folder: Path) -> None:
    archive(state(tensor((2, 2), (2, 1))))(folder)
    with zipfile.ZipFile(folder / "pytorch_model.bin", "a") as stored:
        other = zipfile.ZipInfo("brchive/data.pkl")
        stored.writestr(other, state(called("os", "getpid", EMPTY)))
    file = folder / "pytorch_model.bin"
    file.write_bytes(file.read_bytes().replace(b"brchive", b"archive"))


def _overlapping(folder: Path) -> None:
    """Many entries of the list are the same bytes of the file."""
    folder.mkdir()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as stored:
        stored.writestr("archive/data.pkl", state(tensor((2, 2), (2, 1))))
        stored.writestr("archive/data/0000", bytes(100_000))
    raw = buffer.getvalue()
    start = raw.index(b"PK\1\2", raw.index(b"PK\1\2") + 4)
    end = raw.index(b"PK\5\6")
    entry = raw[start:end]
    extra = b"".join(entry.replace(b"0000", b"%04x" % number) for number in range(1, 2000))
    size = struct.unpack("<I", raw[end + 12 : end + 16])[0] + len(extra)
    tail = raw[end : end + 8] + struct.pack("<HHI", 2001, 2001, size) + raw[end + 16 :]
    (folder / "pytorch_model.bin").write_bytes(raw[:end] + extra + tail)


def _many_entries(folder: Path) -> None:
    """A list of a million entries, which is 50 MB, and a count that says two."""
    folder.mkdir()
    entry = b"PK\1\2" + bytes(24) + struct.pack("<HHH", 1, 0, 0) + bytes(12) + b"a"
    listed = entry * 1_000_000
    tail = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 2, 2, len(listed), 4, 0)
    (folder / "pytorch_model.bin").write_bytes(b"PK\3\4" + listed + tail)


def _scripted(folder: Path) -> None:
    folder.mkdir()
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as stored:
        for name in ("constants.pkl", "data.pkl", "code/__torch__.py"):
            stored.writestr(f"archive/{name}", state(called("os", "getpid", EMPTY)))


def _tar(folder: Path) -> None:
    folder.mkdir()
    with tarfile.open(folder / "pytorch_model.bin", "w") as stored:
        for name in ("storages", "tensors", "pickle"):
            stored.addfile(tarfile.TarInfo(name))


def _laughs(kind: bytes) -> bytes:
    """A value that holds the one before it twice, thirty times over."""
    start = {b"t": b"N", b"l": b"]"}[kind]
    program = b"\x80\x02" + start + b"q\x00"
    for level in range(1, 31):
        two = b"h" + bytes([level - 1])
        program += (two * 2 + b"\x86" if kind == b"t" else b"](" + two * 2 + b"e") + b"q" + bytes([level])
    return program + (b"0}h\x1eNs" if kind == b"t" else b"") + STOP


def code_cases(marker: Path) -> dict[str, tuple[Maker, str]]:
    """Files whose pickle calls for code, by each way that there is to say so."""
    call = Marker(marker)
    shell = text(f"touch '{marker}'")
    two = pickle.dumps({"w": call}, protocol=2)
    return {
        "code in an archive": (archive(two), "calls for code (posix.system)"),
        "code in the older format": (legacy(two), "calls for code (posix.system)"),
        "code in the older format's first part": (_bare(two), "calls for code (posix.system)"),
        "code in the older format's keys": (
            legacy(state(tensor((2, 2), (2, 1), older=True)), two), "calls for code (posix.system)",
        ),
        "code by a later protocol": (archive(pickle.dumps({"w": call}, protocol=4)), "Unsupported operand"),
        "code by an instance": (archive(b"(" + shell + b"ios\nsystem\n."), "Unsupported operand INST"),
        "code by an object": (archive(b"(cos\nsystem\n" + shell + b"o."), "calls for code (os.system)"),
        "code by a new object": (
            archive(state(b"ccollections\nOrderedDict\n)\x81")), "Unsupported operand NEWOBJ",
        ),
        "code by evaluation": (archive(state(called("builtins", "eval", shell + b"\x85"))), "(builtins.eval)"),
        "code by an older name": (archive(state(called("__builtin__", "eval", shell + b"\x85"))), "(builtins.eval)"),
        "code by torch": (archive(state(called("torch.hub", "load", shell + b"\x85"))), "(torch.hub.load)"),
        "code behind a storage": (archive(state(shell + b"Q")), "a storage without type or size"),
        "code in a second pickle": (_twice, "holds two entries of one name"),
        "code as a scripted model": (_scripted, "calls for code (os.getpid)"),
        "code behind the archive": (
            archive(state(tensor((2, 2), (2, 1))), behind=two),
            "text behind the archive's end",
        ),
        "archive in an archive": (
            archive(state(text("w")), more={"inner.zip": two}), "holds a dict without named tensors",
        ),
        "tape archive": (_tar, "not a readable torch file"),
    }  # fmt: skip


ARCHIVES: dict[str, tuple[Maker, str]] = {
    "packed pickle": (
        archive(b"\x80\x02" + b"N0" * 100_000_000 + b"}.", packing=zipfile.ZIP_DEFLATED),
        "'archive/data.pkl' is compressed",
    ),
    "packed storage": (
        archive(state(tensor((2, 2), (2, 1))), more={"data/1": bytes(200_000_000)}, packing=zipfile.ZIP_DEFLATED),
        "is compressed",
    ),
    "entries on the same bytes": (_overlapping, "its entries claim more than its"),
    "a million entries": (_many_entries, "has a list of entries of"),
    "storage of terabytes": (
        archive(state(tensor((2, 2), (2, 1), elements=10**12))),
        "claims 4000000000000 bytes of 16",
    ),
    "storage of terabytes, older": (
        legacy(state(tensor((2, 2), (2, 1), elements=10**12, older=True))),
        "claim 4000000000000 bytes",
    ),
    "storage that is not there": (
        archive(state(tensor((2, 2), (2, 1)).replace(text("0"), text("7")))), "claims 16 bytes of none",
    ),
    "tensor beyond its storage": (archive(state(tensor((100, 100), (100, 1)))), "claims more than the 16 bytes"),
    "tensor beyond its storage, older": (
        legacy(state(tensor((30_000, 30_000), (30_000, 1), older=True))), "claims more than the 16 bytes",
    ),
    "tensor that starts beyond": (
        archive(state(tensor((2, 2), (2, 1), offset=10**12))),
        "claims more than the 16 bytes",
    ),
    "tensor that starts before": (
        archive(state(tensor((2, 2), (2, 1), offset=-4))),
        "without offset, shape and strides",
    ),
    "tensor with a step back": (archive(state(tensor((2, 2), (-2, 1)))), "without offset, shape and strides"),
    "tensor of negative shape": (archive(state(tensor((-2, -2), (2, 1)))), "without offset, shape and strides"),
    "tensor of one number, a million times a million": (
        archive(state(tensor((10**6, 10**6), (0, 0)))), "claims more than the 16 bytes of its storage",
    ),
    "tensor set anew": (
        archive(state(tensor((2, 2), (2, 1)) + MARK + storage(4) + number(0) + numbers(9, 9) + numbers(9, 1) + b"tb")),
        "a tensor is changed after it was made",
    ),
    "three gigabytes of zeros": (
        archive(state(called("builtins", "bytearray", number(3 * 10**9) + b"\x85"))), "(builtins.bytearray)",
    ),
    "three gigabytes by a class": (
        archive(state(called("torch", "FloatTensor", number(10**9) + b"\x85"))), "(torch.FloatTensor)",
    ),
    "three gigabytes by another device": (
        archive(state(called("torch._utils", "_rebuild_device_tensor_from_cpu_tensor", EMPTY))), "_from_cpu_tensor)",
    ),
    "keys that hold each other": (archive(_laughs(b"t")), "nests tuples that stand for more than 10000 values"),
    "lists that hold each other": (archive(_laughs(b"l")), "holds a list without named tensors"),
    "text of gigabytes": (archive(b"\x80\x02X\xff\xff\xff\xff" + b"w" * 9), "not a readable torch file"),
    "number of gigabytes": (archive(b"\x80\x02\x8b\xff\xff\xff\x7f1."), "not a readable torch file"),
    "place in the memo at four billion": (
        archive(b"\x80\x02}r\xff\xff\xff\xff."),
        "holds a dict without named tensors",
    ),
    "millions of lists": (archive(b"\x80\x02(" + b"]" * 12_000_000 + b"l."), "has more than 2000000 operations"),
    "pickle of 20 MB": (archive(b"\x80\x02" + b"N0" * 10_000_000 + b"}."), "data.pkl of 20000004 bytes"),
    "stack that is empty": (archive(b"\x80\x02ttttRRRR."), "not a readable torch file"),
    "memo that is empty": (archive(b"\x80\x02h\x05."), "not a readable torch file"),
}  # fmt: skip
