"""Updates of adapters that are not in PEFT's format; see :mod:`rank_lab.foreign_updates` for what they mean."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from rank_lab.checkpoint import Checkpoint
from rank_lab.coverage import CoverageRow, Plan, VectorChange
from rank_lab.errors import CheckpointError, PairingError, ShapeMismatchError, UnsupportedUpdateError
from rank_lab.expert_stacks import expert_module
from rank_lab.foreign_names import ForeignGroup, Format, grouped
from rank_lab.foreign_scaling import diffusers_scaling, mlx_scaling, refuse_alpha, torchtune_scaling
from rank_lab.foreign_updates import difference_spec, factor_spec, hadamard_spec, kronecker_spec
from rank_lab.key_space import aligned, canonical, nearest_pairs
from rank_lab.names import identify, natural_order
from rank_lab.spec import UpdateSpec
from rank_lab.stored_tensor import StoredTensor

__all__ = ["plan_foreign"]

_COMPONENT = re.compile(
    r"((lora|lycoris)_(unet|te\d?|transformer|prior_unet)_|lycoris_|(unet|text_encoder(_\d)?|transformer|diffusion_model)\.)"
)
_NO_COMPONENT = "the base holds no module of this part of the model: no norms relative to it"
_BIAS = "a change of the bias, not of the weight"


def plan_foreign(tuned: Checkpoint, base: Checkpoint | None, kind: Format, *, lora_alpha: float | None = None) -> Plan:
    """Updates of a foreign adapter.

    Parameters
    ----------
    tuned
        The adapter.
    base
        What it was trained on; needed for norms relative to the weights only.
    kind
        From :func:`rank_lab.foreign_names.foreign_format`.
    lora_alpha
        For torchtune's files, which do not record it.

    Raises
    ------
    CheckpointError
        If the scaling cannot be known.
    UnsupportedUpdateError
        If a module's update is of a kind that is not read; it is named.
    ShapeMismatchError
        If factors do not fit together or do not fit the base.
    PairingError
        If the base has no weight for an adapted module.
    """
    if kind != "torchtune":
        refuse_alpha(tuned.source, lora_alpha, kind)
    groups = grouped(tuned, kind)
    specs: list[UpdateSpec] = []
    rows: list[CoverageRow] = []
    vectors: list[VectorChange] = []
    for group in groups.values():
        found = tuple(_specs(group, kind, tuned, lora_alpha))
        specs += found
        rows += [_row(role, tensor, group.module, found) for role, tensor in group.parts.items()]
        vectors += [VectorChange(t.name, t, None) for role, t in group.parts.items() if role == "diff_b"]
    rows += [CoverageRow(name, "tuned", "skipped", reason) for name, reason in tuned.set_aside]
    if not specs:
        raise CheckpointError(f"{tuned.source}: no update can be read from this adapter; save it again.")
    if base is not None:
        specs = _with_base(specs, base, kind)
        rows = [*_renamed(rows, groups, specs), *_base_rows(base, specs)]
    methods = sorted({spec.update_kind for spec in specs})
    method = methods[0] if len(methods) == 1 else "lycoris"
    ordered = tuple(sorted(specs, key=lambda spec: natural_order(spec.module)))
    return Plan(ordered, tuple(rows), "full" if method == "dense" else method, tuple(vectors))


def _specs(group: ForeignGroup, kind: Format, tuned: Checkpoint, lora_alpha: float | None) -> Iterator[UpdateSpec]:
    roles = set(group.parts)
    if kind == "mlx":
        yield from _mlx(group, mlx_scaling(tuned))
    elif kind == "torchtune":
        yield factor_spec(group, torchtune_scaling(tuned, group.parts["A"].shape[0], lora_alpha))
    elif kind == "diffusers":
        rank = group.parts["A"].shape[0] if "A" in roles and group.parts["A"].shape else 0
        scaling = diffusers_scaling(tuned, group.module, rank)
        yield factor_spec(group, 1.0 if scaling is None and "alpha" not in roles else scaling)
    elif roles & {"A", "B", "mid"}:
        yield factor_spec(group, None)
    elif any(role.startswith("hada_") for role in roles):
        yield hadamard_spec(group)
    elif any(role.startswith("lokr_") for role in roles):
        yield kronecker_spec(group)
    elif "diff" in roles:
        yield difference_spec(group)
    elif roles != {"diff_b"}:
        there = next(iter(group.parts.values()))
        raise UnsupportedUpdateError(
            f"{there.file}: module {group.module!r} has only {', '.join(sorted(roles))}; merge the adapter into its"
            " base and compare with --base."
        )


def _mlx(group: ForeignGroup, scale: float) -> Iterator[UpdateSpec]:
    # What lora_a @ lora_b forms is (in, out) for a linear layer and (rows, width) for an embedding.
    left, right = group.parts.get("A"), group.parts.get("B")
    if left is None or right is None:
        there = next(iter(group.parts.values()))
        raise PairingError(f"{there.file}: module {group.module!r} has not both lora_a and lora_b; save it again.")
    if len(right.shape) == 3:
        yield from _mlx_experts(group.module, left, right, scale)
        return
    swapped = ForeignGroup(group.module, {"B": left, "A": right})
    yield factor_spec(swapped, scale, transposed=identify(group.module).kind != "embed")


def _mlx_experts(module: str, left: StoredTensor, right: StoredTensor, scale: float) -> Iterator[UpdateSpec]:
    """SwitchLinear's: ``lora_b`` ``(experts, out, r)``, ``lora_a`` ``(experts * r, in)``."""
    experts, out, rank = right.shape
    if len(left.shape) != 2 or left.shape[0] != experts * rank:
        raise ShapeMismatchError(
            f"{left.file}: {module!r}: lora_b is {list(right.shape)} and lora_a is {list(left.shape)}; expected"
            " (experts, out, r) and (experts * r, in)."
        )
    for expert in range(experts):
        B = right.view((out, rank), start=expert * out * rank)
        A = left.view((rank, left.shape[1]), start=expert * rank * left.shape[1])
        spec = factor_spec(ForeignGroup(expert_module(module, expert), {"B": B, "A": A}), scale)
        yield replace(spec, identity=replace(identify(spec.module), expert=expert))


def _row(role: str, tensor: StoredTensor, module: str, specs: tuple[UpdateSpec, ...]) -> CoverageRow:
    if role == "diff_b":
        return CoverageRow(tensor.name, "tuned", "vector", _BIAS, tuned=tensor)
    if role == "bias":
        return CoverageRow(tensor.name, "tuned", "skipped", f"bias beside lora_B: {_BIAS}", tuned=tensor)
    parts = tuple(spec.module for spec in specs)
    row = CoverageRow(tensor.name, "tuned", "analysed", module=module, tuned=tensor)
    return replace(row, reason=f"{len(parts)} experts", parts=parts) if len(parts) > 1 else row


def _with_base(specs: list[UpdateSpec], base: Checkpoint, kind: Format) -> list[UpdateSpec]:
    """The specs with the weights that they are added to, under the base's own names."""
    names = canonical(base.tensors, base.source)
    found = _flat(specs, names, base) if kind == "kohya" else _dotted(specs, names)
    parts = {spec.module: _component(spec.module) for spec in specs}
    held = {parts[module] for module in found}
    missing = [module for module, part in parts.items() if module not in found and part in held]
    if missing or not found:
        wanted = missing or list(parts)
        raise PairingError(
            f"{base.source}: has no weight for {len(wanted)} adapted modules; nearest:"
            f" {nearest_pairs(wanted, list(names))}. Is it the model that the adapter was trained on?"
        )
    return [_added(spec, names, found.get(spec.module)) for spec in specs]


def _added(spec: UpdateSpec, names: Mapping[str, StoredTensor], name: str | None) -> UpdateSpec:
    if name is None:
        return replace(spec, note="; ".join(text for text in (spec.note, _NO_COMPONENT) if text))
    weight = names[name]
    stacked = len(weight.shape) == 3 and spec.identity.expert is not None
    rows = weight.shape[1] if stacked else weight.shape[0] if weight.shape else 0
    columns = weight.elements // max(rows * (weight.shape[0] if stacked else 1), 1)
    if (rows, columns) != spec.shape:
        raise ShapeMismatchError(
            f"{weight.file}: {weight.name!r} is {list(weight.shape)}, but the adapter's update of {spec.module!r} is"
            f" {list(spec.shape)}; the base is another model's: give the adapter's own."
        )
    start = (spec.identity.expert or 0) * rows * columns if stacked else 0
    module = spec.module if stacked else name.removesuffix(".weight")
    identity = spec.identity if stacked else replace(identify(module), kind=_kind(spec, module))
    return replace(spec, module=module, identity=identity, weight=weight.view(spec.shape, start=start))


def _kind(spec: UpdateSpec, module: str) -> str:
    return "conv" if spec.identity.kind == "conv" else identify(module).kind


def _flat(specs: list[UpdateSpec], names: Mapping[str, StoredTensor], base: Checkpoint) -> dict[str, str]:
    """Names that kohya wrote with underscores for dots; two that become one are refused, not chosen from."""
    flat: dict[str, str] = {}
    for name in names:
        if name.endswith(".weight"):
            key = name.removesuffix(".weight").replace(".", "_")
            if key in flat:
                raise PairingError(
                    f"{base.source}: {flat[key]!r} and {name!r} are one name in kohya's format; leave out --base."
                )
            flat[key] = name
    wanted = {spec.module: _COMPONENT.sub("", spec.module, count=1).replace(".", "_") for spec in specs}
    return {module: flat[key] for module, key in wanted.items() if key in flat}


def _dotted(specs: list[UpdateSpec], names: Mapping[str, StoredTensor]) -> dict[str, str]:
    wanted = {spec.module: _stored_name(spec) for spec in specs}
    direct = {
        module: name
        for module, key in wanted.items()
        for name in (f"{key}.weight", key, f"{_COMPONENT.sub('', key, count=1)}.weight")
        if name in names
    }
    if direct:
        return direct
    ours, theirs = aligned([f"{key}.weight" for key in wanted.values()], list(names))
    by_key = {key: name for name, key in theirs.items()}
    return {m: by_key[ours[f"{key}.weight"]] for m, key in wanted.items() if ours[f"{key}.weight"] in by_key}


def _stored_name(spec: UpdateSpec) -> str:
    """Path of the base's tensor: the stack's for one expert of it."""
    parts = spec.module.split(".")
    number = str(spec.identity.expert)
    at = next((i for i in reversed(range(len(parts))) if parts[i] == number), None)
    stacked = spec.identity.expert is not None and at is not None
    return ".".join(parts[:at] + parts[at + 1 :]) if stacked and at is not None else spec.module


def _component(module: str) -> str:
    match = _COMPONENT.match(module)
    return match[0] if match else ""


def _renamed(rows: list[CoverageRow], groups: Mapping[str, ForeignGroup], specs: list[UpdateSpec]) -> list[CoverageRow]:
    """Rows of modules that were found under another name in the base."""
    tensors = {tensor.name: spec.module for spec in specs if spec.weight is not None for _, tensor in spec.sources}
    renamed = {
        group.module: module
        for group in groups.values()
        for tensor in group.parts.values()
        if (module := tensors.get(tensor.name)) is not None
    }
    return [replace(row, module=renamed.get(row.module, row.module)) if not row.parts else row for row in rows]


def _base_rows(base: Checkpoint, specs: list[UpdateSpec]) -> list[CoverageRow]:
    adapted = {spec.weight.name for spec in specs if spec.weight is not None}
    rows = [
        CoverageRow(name, "base", "analysed", "its update is the adapter's", base=tensor)
        if name in adapted
        else CoverageRow(name, "base", "identical", "not adapted: frozen", base=tensor)
        for name, tensor in base.tensors.items()
    ]
    return rows + [CoverageRow(name, "base", "skipped", reason) for name, reason in base.set_aside]
