"""What a pickle asks for, followed on paper.

``torch.load(weights_only=True)`` runs no code, but it believes: it allocates
what a tensor says it holds and hashes keys that would take years. Here every
operation is followed without making any object, with names in the place of
functions and sizes in the place of tensors, and what is asked for is held
against the bytes that are there.
"""

import math
import pickle
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from rank_lab.errors import CheckpointError

__all__ = ["MAX_PICKLE_BYTES", "PickleReader", "StorageCheck", "claim"]

MAX_PICKLE_BYTES = 16_000_000
"""Bytes of a pickle that are followed at most."""

_MAX_OPERATIONS = 2_000_000  # a tensor takes 32
_MAX_LEAVES = 10_000  # of a tuple, each counted as often as it is reached: they are hashed as keys
_EXPANDED_BYTES = 64_000_000  # a tensor of stride 0 may stand for more than its file holds, up to this
_REBUILD = "torch._utils._rebuild_"
_FROM_STORAGE = frozenset({f"{_REBUILD}tensor", f"{_REBUILD}tensor_v2", f"{_REBUILD}tensor_v3", f"{_REBUILD}qtensor"})
# Functions that make no more of their arguments than is there. What is on neither list is refused by name.
_HARMLESS = frozenset(
    {
        "collections.OrderedDict", "collections.Counter", "torch.Size", "torch.device", "builtins.set",
        "builtins.complex", "torch.serialization._get_layout", f"{_REBUILD}parameter",
        f"{_REBUILD}parameter_with_state", f"{_REBUILD}sparse_tensor", f"{_REBUILD}meta_tensor_no_storage",
    }
)  # fmt: skip
_TYPED = "torch._tensor._rebuild_from_type_v2"
_CHECKED = frozenset({"_codecs.encode", "builtins.bytearray", _TYPED})
_NAMED = "torch.Tensor"  # the type that _TYPED is told; calling it would allocate and stays refused
_LATIN = frozenset({"latin1", "latin-1"})  # how pickles of protocol 2 hold bytes
_STORAGE_TYPES = {
    "Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1, "Bool": 1,
    "ComplexDouble": 16, "ComplexFloat": 8, "QInt8": 1, "QUInt8": 1, "QInt32": 4, "QUInt4x2": 1, "QUInt2x4": 1,
    "Untyped": 1,
}  # fmt: skip
_MARK = object()
_STORAGE = re.compile(r"torch\.(storage\.)?(\w+)Storage")

StorageCheck = Callable[[str, int], None]
"""Called with a storage's key and the bytes that it claims; raises if they are not there."""


@dataclass(frozen=True)
class _Global:
    name: str


@dataclass(frozen=True)
class _Storage:
    itemsize: int
    elements: int


@dataclass(frozen=True)
class _Tuple:
    items: tuple[Any, ...]
    leaves: int


class _Other:
    """Anything whose content does not matter: a list, a dictionary."""


class _Tensor(_Other):
    """What a rebuilding function returns."""


class PickleReader:
    """Follows pickles with names in the place of functions and sizes in the place of tensors.

    ``records`` are names of classes for which the caller puts records without behaviour.
    """

    def __init__(
        self, data: bytes, file: Path, size: int, check_storage: StorageCheck, records: frozenset[str] = frozenset()
    ) -> None:
        self._stream = BytesIO(data)
        self._file = file
        self._size = size
        self._check_storage = check_storage
        self._records = records
        self._left = _MAX_OPERATIONS

    def follow(self) -> None:
        """Follow one pickle to its end."""
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        argument: Any
        for opcode, argument, _ in pickletools.genops(self._stream):
            self._left -= 1
            if self._left < 0:
                raise ValueError(f"its pickle has more than {_MAX_OPERATIONS} operations")
            name = opcode.name
            if name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name])
            elif name in _WITH_ARGUMENT:
                self._stack.append(argument)
            elif name in ("BINPUT", "LONG_BINPUT"):
                self._memo[argument] = self._stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                self._stack.append(self._memo[argument])
            elif name == "GLOBAL":
                self._stack.append(self._global(argument))
            elif name not in ("PROTO", "STOP"):
                self._act(name)

    def _act(self, name: str) -> None:
        stack = self._stack
        if name in _TUPLES:
            stack.append(self._tuple(_taken(stack, _TUPLES[name])))
        elif name == "TUPLE":
            stack.append(self._tuple(self._marked()))
        elif name in ("APPENDS", "SETITEMS"):
            self._marked()
        elif name in ("APPEND", "SETITEM"):
            _taken(stack, 1 if name == "APPEND" else 2)
        elif name == "BINPERSID":
            stack.append(self._storage(stack.pop()))
        elif name in ("REDUCE", "NEWOBJ"):
            function, arguments = _taken(stack, 2)
            stack.append(self._call(function, arguments) if name == "REDUCE" else self._new(function))
        elif name == "BUILD":
            stack.pop()
            if isinstance(stack[-1], _Tensor):
                raise ValueError("a tensor is changed after it was made")
        else:
            raise ValueError(f"Unsupported operand {name}")

    def _marked(self) -> list[Any]:
        at = len(self._stack) - 1 - self._stack[::-1].index(_MARK)
        items = self._stack[at + 1 :]
        del self._stack[at:]
        return items

    def _tuple(self, items: list[Any]) -> _Tuple:
        leaves = sum(item.leaves if isinstance(item, _Tuple) else 1 for item in items)
        if leaves > _MAX_LEAVES:
            raise claim(self._file, f"its pickle nests tuples that stand for more than {_MAX_LEAVES} values")
        return _Tuple(tuple(items), leaves + 1)

    def _global(self, argument: str) -> _Global:
        name = argument.replace(" ", ".").replace("__builtin__.", "builtins.")
        known = name in _HARMLESS | _FROM_STORAGE or name in _CHECKED or _itemsize(name) is not None
        if not known and name != _NAMED and name not in self._records:
            raise pickle.UnpicklingError(f"GLOBAL {name}")
        return _Global(name)

    def _storage(self, identity: Any) -> _Storage:
        match identity:
            case _Tuple(items=("storage", _Global(name=kind), str(key), _, int(elements), *view)):
                itemsize = _itemsize(kind)
            case _:
                itemsize = None
        if itemsize is None or elements < 0:
            raise ValueError("a storage without type or size")
        self._check_storage(key, itemsize * elements)
        match view:
            case [_Tuple(items=(_, _, int(part)))]:
                return _Storage(itemsize, min(part, elements))
        return _Storage(itemsize, elements)

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, _Global) or not isinstance(arguments, _Tuple):
            raise ValueError("a call of what is no function")
        name, items = function.name, arguments.items
        if name in _FROM_STORAGE:
            self._check_extent(items)
        elif name == _TYPED and len(items) > 2:
            self._call(items[0], items[2])
        elif name == "torch.Size" and len(items) == 1:
            return items[0]
        elif name in self._records:
            return _Other()
        elif name not in _HARMLESS and not (name in _CHECKED and _is_bytes(name, items)):
            raise pickle.UnpicklingError(f"GLOBAL {name}")
        return _Tensor() if "_rebuild_" in name else _Other()

    def _new(self, kind: Any) -> _Other:
        if not isinstance(kind, _Global) or kind.name not in self._records:
            raise ValueError("Unsupported operand NEWOBJ")
        return _Other()

    def _check_extent(self, items: tuple[Any, ...]) -> None:
        match items:
            case (_Storage() as storage, int(offset), _Tuple(items=size), _Tuple(items=stride), *rest):
                numbers = [offset, *size, *stride]
            case _:
                numbers = [-1]
        if len(size) != len(stride) or not all(type(number) is int and number >= 0 for number in numbers):
            raise ValueError("a tensor without offset, shape and strides")
        itemsize = next(
            (n for item in rest if isinstance(item, _Global) and (n := _itemsize(item.name))), storage.itemsize
        )
        held = storage.elements * storage.itemsize
        reached = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1 if 0 not in size else 0
        claimed = math.prod(size) * itemsize
        if reached * itemsize > held or claimed > max(self._size, _EXPANDED_BYTES):
            raise claim(self._file, f"a tensor of shape {list(size)} claims more than the {held} bytes of its storage")


_CONSTANTS: dict[str, Any] = {
    "NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": _Tuple((), 1), "EMPTY_LIST": _Other(),
    "EMPTY_DICT": _Other(), "EMPTY_SET": _Other(), "MARK": _MARK,
}  # fmt: skip
_WITH_ARGUMENT = frozenset({"BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "LONG1"})
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _taken(stack: list[Any], count: int) -> list[Any]:
    items = stack[-count:]
    if len(items) < count:
        raise ValueError("its pickle takes more than it has")
    del stack[-count:]
    return items


def _is_bytes(name: str, items: tuple[Any, ...]) -> bool:
    if name == "_codecs.encode":
        return len(items) == 2 and items[1] in _LATIN
    return len(items) == 1 and isinstance(items[0], _Other)


@lru_cache(maxsize=256)
def _itemsize(name: str) -> int | None:
    """Bytes of an element of a storage class or type; None if the name is neither."""
    if match := _STORAGE.fullmatch(name):
        return _STORAGE_TYPES.get(match[2])
    dtype = getattr(torch, name.removeprefix("torch."), None) if name.startswith("torch.") else None
    return dtype.itemsize if isinstance(dtype, torch.dtype) else None


def claim(file: Path, what: str) -> CheckpointError:
    """The error for a file that claims what it does not hold."""
    return CheckpointError(
        f"{file}: {what}; refused unread: the file was cut, or is made to mislead. Get it again from its source, or as"
        " safetensors."
    )
