"""What a torch file claims, checked before torch reads it: it would inflate what is compressed and believe sizes."""

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from rank_lab.pickle_check import MAX_PICKLE_BYTES, PickleReader, StorageCheck, claim
from rank_lab.plain_file import size_of
from rank_lab.plain_text import plain

__all__ = ["check_archive", "is_zip"]

_MAX_LIST_BYTES = 8_000_000  # some 80 000 entries as torch writes them


def check_archive(file: Path, records: frozenset[str] = frozenset()) -> None:
    """Refuse a torch file that claims more than it holds.

    Parameters
    ----------
    file
        Zip archive (torch >= 1.6) or the older format.
    records
        Names of classes that the caller replaces by records without behaviour.

    Raises
    ------
    CheckpointError
        If an entry is compressed, entries overlap or are too many, or a tensor
        claims more than its storage, or a storage more than the file, has.
    pickle.UnpicklingError
        If the pickle calls for anything but tensors and plain containers.
    ValueError, EOFError
        If it is no pickle that torch writes.
    """
    size = size_of(file)
    if not size:
        raise EOFError
    with file.open("rb") as handle:
        if handle.read(4) == b"PK\3\4" and is_zip(file):
            _check_zip(handle, file, size, records)
        else:
            handle.seek(0)
            _check_legacy(handle, file, size, records)


def is_zip(file: Path) -> bool:
    """Whether the file has the end of a zip archive, at which torch looks too."""
    try:
        return zipfile.is_zipfile(file)
    except zipfile.BadZipFile:  # an end that contradicts itself
        return False


def _check_zip(handle: BinaryIO, file: Path, size: int, records: frozenset[str]) -> None:
    handle.seek(max(size - 98, 0))
    end = handle.read(98)
    if end[-22:-18] != b"PK\5\6" or end[-2:] != b"\0\0":
        raise claim(file, "has text behind the archive's end, as none that torch writes")
    large = end[-42:-38] == b"PK\6\7"  # the form for many entries and bytes, which lies before the short one
    listed = struct.unpack("<Q", end[-58:-50])[0] if large else struct.unpack("<I", end[-10:-6])[0]
    if listed > _MAX_LIST_BYTES:
        raise claim(file, f"has a list of entries of {listed} bytes, more than {_MAX_LIST_BYTES}")
    with zipfile.ZipFile(handle) as archive:
        entries = archive.infolist()
    by_name = {entry.filename: entry for entry in entries}
    if len(by_name) < len(entries):
        raise claim(file, "holds two entries of one name")
    packed = next((entry for entry in entries if entry.compress_type != zipfile.ZIP_STORED), None)
    if packed is not None:
        raise claim(
            file, f"entry {plain(packed.filename, limit=80)!r} is compressed ({packed.file_size} bytes when inflated)"
        )
    if sum(entry.file_size for entry in entries) > size or any(e.file_size != e.compress_size for e in entries):
        raise claim(file, f"its entries claim more than its {size} bytes")
    pickles = [name for name in by_name if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError("no data.pkl in the archive")
    folder = pickles[0].removesuffix("data.pkl")
    storages = {
        name.removeprefix(f"{folder}data/"): entry.file_size
        for name, entry in by_name.items()
        if name.startswith(f"{folder}data/")
    }
    PickleReader(_entry(handle, by_name[pickles[0]]), file, size, _in_storages(storages, file), records).follow()


def _entry(handle: BinaryIO, entry: zipfile.ZipInfo) -> bytes:
    """Bytes of a stored entry; not by zipfile, whose check sums torch may leave out."""
    if entry.file_size > MAX_PICKLE_BYTES:
        raise ValueError(f"data.pkl of {entry.file_size} bytes, more than {MAX_PICKLE_BYTES}")
    handle.seek(entry.header_offset)
    header = handle.read(30)
    name, extra = struct.unpack("<HH", header[26:30])
    handle.seek(entry.header_offset + 30 + name + extra)
    return handle.read(entry.file_size)


def _in_storages(storages: Mapping[str, int], file: Path) -> StorageCheck:
    def check(key: str, claimed: int) -> None:
        if claimed > storages.get(key, -1):
            raise claim(file, f"storage {plain(key, limit=40)!r} claims {claimed} bytes of {storages.get(key, 'none')}")

    return check


def _check_legacy(handle: BinaryIO, file: Path, size: int, records: frozenset[str]) -> None:
    storages: dict[str, int] = {}

    def note(key: str, claimed: int) -> None:
        storages[key] = max(claimed, storages.get(key, 0))

    reader = PickleReader(handle.read(MAX_PICKLE_BYTES), file, size, note, records)
    for _ in range(5):  # magic number, protocol, system, state dict, and the keys of the storages behind them
        reader.follow()
    if sum(storages.values()) > size:
        raise claim(file, f"its storages claim {sum(storages.values())} bytes, the file holds {size}")
