"""Two files of one model in two key spaces: as transformers saves it for the hub, and as it holds it in memory.

transformers 5 renames, stacks and splits the tensors of many models when it
loads them, and undoes that when it saves them; a plain ``torch.save`` of a
state dict, FSDP, or ``save_original_format=False`` do not undo it. Which name
becomes which is transformers' own knowledge, and is asked of it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from typing import Any

import torch

from rank_lab.checkpoint import Checkpoint
from rank_lab.coverage import CoverageRow, Side, VectorChange, unreadable
from rank_lab.errors import PairingError
from rank_lab.key_space import aligned
from rank_lab.names import natural_order
from rank_lab.stored_tensor import StoredTensor

__all__ = ["by_stored_tensor", "common_keys", "in_one_format", "names_in_memory"]

Tensors = dict[str, StoredTensor]

# Chains of transformers' operations that place whole tensors one after the other in memory order.
_MERGES = frozenset({("MergeModulelist 0",), ("MergeModulelist 0", "Concatenate 1"), ("Concatenate 0",)})
_SPLITS = frozenset({("Chunk 0",), ("Split 0",)})

_META_LAYOUT = re.compile(r"(.+\.)?layers\.\d+\.attention\.w[qk]\.weight")
_HF_LAYOUT = re.compile(r"(.+\.)?layers\.\d+\.self_attn\.[qk]_proj\.weight")


@dataclass(frozen=True)
class _Conversion:
    """What transformers does with one tensor of a file in hub format when it loads it."""

    source: str
    renamed: str
    target: str
    pattern: str
    converter: Any

    @property
    def operations(self) -> tuple[str, ...]:
        return tuple(f"{type(step).__name__} {getattr(step, 'dim', '')}".strip() for step in self.converter.operations)

    @property
    def targets(self) -> list[str]:
        first, *others = self.converter.target_patterns
        return [self.target, *(self.target.replace(first, other) for other in others)]


def common_keys(
    tuned: Mapping[str, StoredTensor], base: Mapping[str, StoredTensor], sources: tuple[Checkpoint, Checkpoint]
) -> tuple[Tensors, Tensors]:
    """Bring two sets of tensors into one key space: by their body prefixes, else by transformers' own conversion.

    Tensors that one file holds stacked or fused and the other one by one are
    taken apart into what the finer file holds, as parts of the stored ones.

    Parameters
    ----------
    tuned, base
        Name without wrappers to tensor.
    sources
        Their checkpoints, for ``config.json``.

    Returns
    -------
    tuned, base
        By common key. Names that do not meet stay as they are, if no config
        names the model, or transformers is not installed or does not know it.

    Raises
    ------
    PairingError
        If transformers rearranges a tensor in a way that no part of a file
        shows, or the sizes of the two files do not fit its conversion.

    Examples
    --------
    >>> import tempfile
    >>> from safetensors.torch import save_file
    >>> folder = tempfile.mkdtemp()
    >>> save_file({"h.0.q.weight": torch.ones(2, 3)}, f"{folder}/model.safetensors")
    >>> checkpoint = Checkpoint.open(folder)
    >>> list(common_keys(checkpoint.tensors, checkpoint.tensors, (checkpoint, checkpoint))[0])
    ['h.0.q.weight']
    """
    met = _aligned(tuned, base)
    if not (_unmet(met[0], met[1]) and _unmet(met[1], met[0])):
        return met
    _refuse_rotary_layouts(*met)
    model = _model(*sources)
    if model is None:
        return met
    return max(met, in_one_format(tuned, base, model), key=lambda sides: len(sides[0].keys() & sides[1].keys()))


def names_in_memory(tensors: Mapping[str, StoredTensor], source: Checkpoint) -> Tensors:
    """Tensors by the names that their model has in memory, where adapters are trained.

    What is stacked or split on loading stays as stored, under a name of its own.

    Parameters
    ----------
    tensors
        Name without wrappers to tensor.
    source
        Their checkpoint; without a config that transformers knows, names stay as they are.
    """
    model = _model(source)
    return dict(tensors) if model is None else _loaded(tensors, model)[0]


def in_one_format(
    tuned: Mapping[str, StoredTensor], base: Mapping[str, StoredTensor], model: Any
) -> tuple[Tensors, Tensors]:
    """Bring the tensors of two files of one model into one key space; see :func:`common_keys`.

    Parameters
    ----------
    tuned, base
        Name without wrappers to tensor.
    model
        A transformers model of that architecture and size, on any device.

    Raises
    ------
    PairingError
        As :func:`common_keys`.
    """
    (tuned_names, tuned_converted), (base_names, base_converted) = _loaded(tuned, model), _loaded(base, model)
    return _aligned(*_in_parts(tuned_names, base_names, tuned_converted, base_converted))


def by_stored_tensor(
    rows: Sequence[CoverageRow], vectors: Sequence[VectorChange], tuned: Checkpoint, base: Checkpoint
) -> tuple[list[CoverageRow], list[VectorChange]]:
    """One row per stored tensor again, where a tensor of one file was compared in parts with several of the other.

    A row that compares a part belongs to the tensor that is compared whole;
    the one that was taken apart gets a row of its own.

    Parameters
    ----------
    rows, vectors
        Of a plan, one per comparison.
    tuned, base
        The checkpoints, which know the tensors as stored.
    """
    found: list[CoverageRow] = []
    parts: dict[tuple[Side, str], list[str]] = {}
    renamed: dict[tuple[StoredTensor, StoredTensor | None], str] = {}
    for row in rows:
        side = _taken_apart(row, tuned, base)
        part, whole = (row.tuned, row.base) if side == "tuned" else (row.base, row.tuned)
        if side == "both" or part is None or whole is None:
            found.append(row)
            continue
        parts.setdefault((side, part.name), []).append(row.module)
        found.append(replace(row, tensor=whole.name, side="base" if side == "tuned" else "tuned"))
        if row.tuned is not None:
            renamed[row.tuned, row.base] = whole.name
    for (side, name), modules in parts.items():
        reason = f"in {len(modules)} parts, each compared with a tensor of its own in the other checkpoint: see there"
        row = CoverageRow(name, side, "analysed", reason)
        whole = (tuned if side == "tuned" else base).tensors[name]
        found.append(replace(row, tuned=whole) if side == "tuned" else replace(row, base=whole))
    return found, [replace(v, tensor=renamed.get((v.tuned, v.base), v.tensor)) for v in vectors]


def _taken_apart(row: CoverageRow, tuned: Checkpoint, base: Checkpoint) -> Side:
    """The side whose tensor this row compares a part of; ``"both"`` if neither's."""
    of_tuned = row.tuned is not None and tuned.tensors[row.tuned.name] != row.tuned
    of_base = row.base is not None and base.tensors[row.base.name] != row.base
    if of_tuned == of_base:
        return "both"
    return "tuned" if of_tuned else "base"


def _aligned(tuned: Mapping[str, StoredTensor], base: Mapping[str, StoredTensor]) -> tuple[Tensors, Tensors]:
    tuned_keys, base_keys = aligned(list(tuned), list(base))
    return {tuned_keys[n]: t for n, t in tuned.items()}, {base_keys[n]: t for n, t in base.items()}


def _unmet(one: Mapping[str, StoredTensor], other: Mapping[str, StoredTensor]) -> bool:
    return any(key not in other and len(tensor.shape) >= 2 and not unreadable(tensor) for key, tensor in one.items())


def _refuse_rotary_layouts(tuned: Tensors, base: Tensors) -> None:
    for one, other in ((tuned, base), (base, tuned)):
        meta = next((t for key, t in one.items() if _META_LAYOUT.fullmatch(key)), None)
        hugging_face = next((t for key, t in other.items() if _HF_LAYOUT.fullmatch(key)), None)
        if meta is not None and hugging_face is not None:
            raise PairingError(
                f"{meta.file}: {meta.name!r} is in Meta's layout, where the two halves of each head's rotary rows"
                f" interleave; {hugging_face.name!r} of {hugging_face.file} is in transformers', so that a difference"
                " would compare different rows. Convert the former with transformers' convert_llama_weights_to_hf.py."
            )


def _model(*sources: Checkpoint) -> Any:
    """The model on the meta device, or None if transformers cannot say what it is."""
    types = {source.model_type for source in sources} - {None}
    config = next((source.config for source in sources if source.model_type is not None), None)
    if config is None or len(types) != 1:
        return None
    try:
        import transformers
        from transformers.conversion_mapping import get_model_conversion_mapping  # noqa: F401 - not in transformers 4
    except ImportError:
        return None
    from huggingface_hub.errors import StrictDataclassError

    try:
        settings = transformers.CONFIG_MAPPING[str(config["model_type"])].from_dict(dict(config))
        named = getattr(transformers, str(next(iter(config.get("architectures") or ()), "")), None)
        with torch.device("meta"):
            return transformers.AutoModelForCausalLM.from_config(settings) if named is None else named(settings)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, AssertionError, StrictDataclassError):
        return None


def _loaded(tensors: Mapping[str, StoredTensor], model: Any) -> tuple[Tensors, dict[str, _Conversion]]:
    """Tensors by the names that they have once loaded, before anything is stacked or split; and what is."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming

    steps = get_model_conversion_mapping(model)
    renamings = [step for step in steps if isinstance(step, WeightRenaming)]
    converters = [step for step in steps if isinstance(step, WeightConverter)]
    known = model.state_dict()
    found = [_conversion(key, model.base_model_prefix, known, renamings, converters) for key in sorted(tensors)]
    as_stored = sum(_prefixed(key, model.base_model_prefix, known) in known for key in tensors)
    if as_stored >= sum(conversion.target in known for conversion in found):
        return {_prefixed(key, model.base_model_prefix, known): tensor for key, tensor in tensors.items()}, {}
    names = {conversion.renamed: tensors[conversion.source] for conversion in found}
    if len(names) != len(found):
        return dict(tensors), {}
    return names, {c.renamed: c for c in found if c.converter is not None}


def _conversion(
    key: str, prefix: str, known: Mapping[str, Any], renamings: Sequence[Any], converters: Sequence[Any]
) -> _Conversion:
    renamed = key
    for renaming in renamings:
        renamed, _ = renaming.rename_source_key(renamed)
    for converter in converters:  # at most one applies
        target, pattern = converter.rename_source_key(renamed)
        if pattern is not None:
            whole = _prefixed(target, prefix, known)
            return _Conversion(key, _with_the_prefix_of(renamed, target, whole), whole, pattern, converter)
    renamed = _prefixed(renamed, prefix, known)
    return _Conversion(key, renamed, renamed, "", None)


def _prefixed(key: str, prefix: str, known: Mapping[str, Any]) -> str:
    """The key with or without the body's prefix, as the model knows it."""
    for candidate in (key, f"{prefix}.{key}", key.removeprefix(f"{prefix}.")):
        if candidate in known:
            return candidate
    return key


def _with_the_prefix_of(renamed: str, target: str, prefixed: str) -> str:
    if len(prefixed) > len(target):
        return prefixed.removesuffix(target) + renamed
    return renamed.removeprefix(target.removesuffix(prefixed))


def _in_parts(
    tuned: Tensors, base: Tensors, tuned_converted: dict[str, _Conversion], base_converted: dict[str, _Conversion]
) -> tuple[Tensors, Tensors]:
    """Take apart what the other side holds in pieces."""
    tuned, base = dict(tuned), dict(base)
    for hub, memory, conversions, others in (
        (tuned, base, tuned_converted, base_converted),
        (base, tuned, base_converted, tuned_converted),
    ):
        groups: dict[str, list[_Conversion]] = {}
        for conversion in conversions.values():
            groups.setdefault(conversion.target, []).append(conversion)
        for target, group in groups.items():
            first = group[0]
            if first.renamed in others or not any(name in memory for name in first.targets):
                continue  # the other side is in hub format too, or lacks it
            if first.operations in _MERGES and target in memory:
                memory.update(_merged_from(memory.pop(target), group, hub))
            elif first.operations in _SPLITS and len(group) == 1:
                hub.update(_split_into(hub.pop(first.renamed), first, memory))
            else:
                raise _inexpressible(hub[first.renamed], first)
    return tuned, base


def _merged_from(whole: StoredTensor, group: list[_Conversion], fine: Tensors) -> Tensors:
    """Parts of a stacked or concatenated tensor, by the name of what each was made from."""
    columns = [
        sorted((c.renamed for c in group if c.pattern == pattern), key=natural_order)
        for pattern in group[0].converter.source_patterns
    ]
    columns = [names for names in columns if names]
    stacked = group[0].operations[0].startswith("MergeModulelist")
    order = [name for turn in zip_longest(*columns) for name in turn if name] if stacked else list(chain(*columns))
    first = fine[order[0]]
    height = sum(fine[name].shape[0] for name in order)
    shape = (len(columns[0]), height // len(columns[0]), *first.shape[1:]) if stacked else (height, *first.shape[1:])
    ragged = {fine[name].shape[1:] for name in order} != {first.shape[1:]} or any(
        {fine[name].shape for name in names} != {fine[names[0]].shape} or len(names) != len(columns[0])
        for names in columns
    )
    if whole.shape != shape or (ragged and stacked):
        raise PairingError(
            f"{whole.file}: {whole.name!r} of shape {list(whole.shape)} is made of {len(order)} tensors like"
            f" {first.name!r} of shape {list(first.shape)} in {first.file}, which together are {list(shape)}; expected"
            " equal shapes: are both of one model?"
        )
    pieces, start = {}, 0
    for name in order:
        pieces[name] = whole.view(fine[name].shape, start=start)
        start += fine[name].elements
    return pieces


def _split_into(whole: StoredTensor, conversion: _Conversion, coarse: Tensors) -> Tensors:
    """Parts of a fused tensor, by the name of what each becomes."""
    targets = conversion.targets
    held = [coarse[name] for name in targets if name in coarse]
    rows = sum(tensor.shape[0] for tensor in held)
    equal = len({tensor.shape[0] for tensor in held}) == 1 or conversion.operations == ("Split 0",)
    if len(held) != len(targets) or (rows, *held[0].shape[1:]) != whole.shape or not equal:
        raise PairingError(
            f"{whole.file}: {whole.name!r} of shape {list(whole.shape)} becomes {', '.join(targets)} in this model, of"
            f" which the other file holds {[list(tensor.shape) for tensor in held]}; expected parts that add up to it:"
            " are both of one model?"
        )
    pieces, start = {}, 0
    for name, tensor in zip(targets, held, strict=True):
        pieces[name] = whole.view(tensor.shape, start=start)
        start += tensor.elements
    return pieces


def _inexpressible(tensor: StoredTensor, conversion: _Conversion) -> PairingError:
    return PairingError(
        f"{tensor.file}: transformers makes {conversion.target!r} of {tensor.name!r} by"
        f" {' and '.join(conversion.operations)}, which cannot be undone in parts; save both checkpoints in one format,"
        " with save_pretrained()."
    )
