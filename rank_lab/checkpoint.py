"""A checkpoint: which tensors it holds and where, from headers alone."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rank_lab import distributed_archive, hub, torch_archive, zero_archive
from rank_lab.errors import CheckpointError
from rank_lab.plain_file import json_object
from rank_lab.plain_text import MAX_NAME, is_plain, plain
from rank_lab.safetensors_header import read_header
from rank_lab.stored_tensor import StoredTensor
from rank_lab.weight_files import WeightFiles, find_weight_files

__all__ = ["Checkpoint"]


@dataclass(frozen=True)
class Checkpoint:
    """Header index of a file, a folder of shards, an adapter folder or a hub repository.

    Opening reads headers only and never unpickles code. Make one with :meth:`open`.

    Parameters
    ----------
    source
        What the user named: a path or a hub id.
    folder
        Where the files lie.
    tensors
        Name to :class:`~rank_lab.stored_tensor.StoredTensor`.
    config
        Content of ``config.json``, empty if there is none.
    adapter_config
        Content of ``adapter_config.json``, or None if this is no PEFT adapter.
    tied
        Names that share their storage with another name in a torch archive.
    set_aside
        Files or tensors that were found and not read, with the reason.
    step
        Optimizer step of a trainer's checkpoint, or None if it does not say.
    revision
        Commit of a hub repository, or None.
    metadata
        Free text entries of the safetensors headers.

    Examples
    --------
    >>> import tempfile, torch
    >>> from safetensors.torch import save_file
    >>> folder = tempfile.mkdtemp()
    >>> save_file({"layers.0.q_proj.weight": torch.ones(2, 3)}, f"{folder}/model.safetensors")
    >>> checkpoint = Checkpoint.open(folder)
    >>> checkpoint["layers.0.q_proj.weight"].shape
    (2, 3)
    """

    source: str
    folder: Path
    tensors: Mapping[str, StoredTensor]
    config: Mapping[str, Any] = field(default_factory=dict)
    adapter_config: Mapping[str, Any] | None = None
    tied: Mapping[str, str] = field(default_factory=dict)
    set_aside: tuple[tuple[str, str], ...] = ()
    step: int | None = None
    revision: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, source: str | Path, *, revision: str | None = None) -> "Checkpoint":
        """Open a path or hub id, reading headers only.

        Parameters
        ----------
        source
            A safetensors or torch file, a folder with weights or an adapter, a
            distributed checkpoint's folder, DeepSpeed's partitions, or a hub id (``org/name``, ``org/name@revision``).
        revision
            Branch, tag or commit of a hub repository.

        Raises
        ------
        CheckpointError
            If nothing readable is there, a shard is missing, cut or damaged,
            or a pickle holds code. The message names the file.
        """
        folder = local_folder(source, revision=revision)
        files = find_weight_files(folder)
        home = _home(folder, files)
        tensors, tied, unlisted, metadata = _index(files)
        if not tensors:
            raise CheckpointError(
                f"{folder}: holds no tensor; was it saved before any weight was gathered? Save it again."
            )
        return cls(
            source=str(source),
            folder=home,
            tensors=tensors,
            config=json_object(home / "config.json") or {},
            adapter_config=json_object(home / "adapter_config.json") if files.adapter else None,
            tied=tied,
            set_aside=files.set_aside + unlisted,
            step=_step(home),
            revision=hub.resolved_revision(home),
            metadata=metadata,
        )

    def __getitem__(self, name: str) -> StoredTensor:
        """Header entry of a tensor; an unknown name raises with the nearest names."""
        try:
            return self.tensors[name]
        except KeyError:
            near = difflib.get_close_matches(name, self.tensors, n=3, cutoff=0.4)
            raise CheckpointError(
                f"tensor {name!r} is not in {self.source} ({len(self.tensors)} tensors). Nearest:"
                f" {', '.join(near) or 'none'}."
            ) from None

    @property
    def model_type(self) -> str | None:
        """The architecture that ``config.json`` names, or None."""
        value = self.config.get("model_type")
        return str(value) if value is not None else None


def local_folder(source: str | Path, *, revision: str | None = None) -> Path:
    """Local path of a source, fetched from the hub if it is not a path here.

    Raises
    ------
    CheckpointError
        If it is neither.
    """
    path = _path(source)
    if path.exists():
        return path.absolute()  # not resolved: the hub cache links files to blobs without endings
    if hub.is_hub_id(str(source)):
        return hub.fetch(str(source), revision=revision)
    raise CheckpointError(f"{source}: no such file or folder, and not the form of a hub id (org/name); check the path.")


def _path(source: str | Path) -> Path:
    if not str(source):
        raise CheckpointError("an empty path or hub id was given; name a checkpoint (is a shell variable unset?).")
    try:
        return Path(source).expanduser()
    except RuntimeError as error:  # ~name of nobody
        raise CheckpointError(f"{source}: no such user's home; check the path.") from error


_Index = tuple[dict[str, StoredTensor], dict[str, str], tuple[tuple[str, str], ...], dict[str, str]]


def _index(files: WeightFiles) -> _Index:
    metadata: dict[str, str] = {}
    tensors: dict[str, StoredTensor] = {}
    tied: dict[str, str] = {}
    unlisted: list[tuple[str, str]] = []
    for file in files.files:
        found, shared, others, about = _read(file)
        tied |= shared
        unlisted += others
        metadata |= about
        for name, entry in found.items():
            _refuse_unprintable(name, file)
            if files.weight_map is not None and files.weight_map.get(name) != file.name:
                unlisted.append((name, f"lies in {file.name}, where the shard index does not look for it"))
            elif name in tensors:
                raise CheckpointError(
                    f"tensor {name!r} is both in {tensors[name].file} and in {file.name}; remove the file that does not"
                    " belong."
                )
            else:
                tensors[name] = entry
    for name, file_name in (files.weight_map or {}).items():
        if name not in tensors:
            raise CheckpointError(
                f"{files.files[0].parent / file_name}: lacks tensor {name!r}, which the shard index places there; copy"
                " the shard again."
            )
    return tensors, tied, tuple(unlisted), metadata


def _read(file: Path) -> _Index:
    if file.suffix == ".safetensors":
        found, about = read_header(file)
        return dict(found), {}, (), dict(about)
    if file.name == distributed_archive.METADATA_FILE:
        return _distributed_entries(file), {}, distributed_archive.other_state(file), {}
    if zero_archive.is_partition(file):
        return _zero_entries(file), dict(zero_archive.aliases(file)), zero_archive.other_state(file), {}
    return _archive_entries(file), torch_archive.aliases(file), (), {}


def _refuse_unprintable(name: str, file: Path) -> None:
    if not is_plain(name):
        raise CheckpointError(
            f"{file}: the tensor name '{plain(name, limit=80)}' of {len(name)} characters holds control characters or"
            f" is longer than {MAX_NAME}; the file is damaged, or made to mislead: get it again from its source."
        )


def _archive_entries(file: Path) -> dict[str, StoredTensor]:
    return {
        name: StoredTensor(name=name, shape=tuple(value.shape), dtype=torch_archive.storage_type(value), file=file)
        for name, value in torch_archive.tensors(file).items()
    }


def _distributed_entries(file: Path) -> dict[str, StoredTensor]:
    return {
        name: StoredTensor(name=name, shape=entry.shape, dtype=entry.dtype, file=file)
        for name, entry in distributed_archive.entries(file).items()
    }


def _zero_entries(file: Path) -> dict[str, StoredTensor]:
    return {
        name: StoredTensor(name=name, shape=entry.shape, dtype=entry.dtype, file=file)
        for name, entry in zero_archive.entries(file).items()
    }


def _home(path: Path, files: WeightFiles) -> Path:
    """Where configs lie: for DeepSpeed's partitions the folder above theirs, even if theirs was named."""
    if files.files and zero_archive.is_partition(files.files[0]):
        return files.files[0].parent.parent
    return path if path.is_dir() else path.parent


def _step(folder: Path) -> int | None:
    state = json_object(folder / "trainer_state.json") or {}
    step = state.get("global_step")
    if step is not None and (type(step) is not int or not 0 <= step < 2**63):
        raise CheckpointError(
            f"{folder / 'trainer_state.json'}: global_step is {plain(repr(step), limit=80)}, expected a number of"
            " steps; restore the file that the trainer saved."
        )
    match = re.fullmatch(r"checkpoint-(\d{1,18})", folder.name)
    return int(match[1]) if step is None and match else step
