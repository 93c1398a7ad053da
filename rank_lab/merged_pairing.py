"""Adapters whose update only merging shows: which of their tensors change which weight of the base."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from rank_lab.checkpoint import Checkpoint
from rank_lab.coverage import CoverageRow, Plan, VectorChange, unreadable
from rank_lab.errors import PairingError, ShapeMismatchError, UnsupportedUpdateError
from rank_lab.key_space import canonical
from rank_lab.merging import OWN, SHARED, recipe_text
from rank_lab.names import identify, natural_order
from rank_lab.orientation import stored_transposed
from rank_lab.peft_methods import Merging
from rank_lab.saved_whole import base_key, base_rows, base_weights, refuse_empty, saved_whole
from rank_lab.spec import UpdateSpec
from rank_lab.stored_tensor import StoredTensor

__all__ = ["plan_merged"]

Parts = dict[str, StoredTensor]

_IN_FLOAT32 = (
    "PEFT decomposes the base weight in float32: singular values below about 1e-7 of the weight's largest are rounding"
)


@dataclass(frozen=True)
class _Grouped:
    """The adapter's tensors: by module, those of all modules, and what lies beside them."""

    own: dict[str, Parts] = field(default_factory=dict)
    shared: Parts = field(default_factory=dict)
    rest: Parts = field(default_factory=dict)


def plan_merged(
    tuned: Checkpoint, base: Checkpoint | None, method: str, merging: Merging, beside: Mapping[str, StoredTensor]
) -> Plan:
    """Plan one merge per adapted weight.

    Parameters
    ----------
    tuned, base
        The adapter, and the model that it was trained on.
    method
        Its name, for reports and messages.
    merging
        How its tensors are named and merged.
    beside
        Tensors of the adapter's files that are planned elsewhere.

    Raises
    ------
    PairingError
        If the base is missing or another model's.
    """
    file = tuned.folder / "adapter_config.json"
    if base is None:
        raise PairingError(
            f"{file}: {method} changes a weight in a way that depends on the weight, so that its update is what merging"
            " changes; give the model that it was trained on as --base."
        )
    grouped = _grouped(tuned, merging.prefix, beside)
    weights = base_weights(grouped.own, map(base_key, grouped.rest), base)
    shapes = _shapes(grouped, weights, (base, tuned)) if merging.shared else ()
    specs: list[UpdateSpec] = []
    rows: list[CoverageRow] = []
    vectors: list[VectorChange] = []
    for module, parts in grouped.own.items():
        if method == "DORA":
            _refuse_other_shapes(module, parts, weights.get(f"{module}.weight"))
        reason = _unfit(module, parts | grouped.shared, weights)
        spec = None if reason else _spec(module, parts, grouped.shared, weights, merging, shapes, (base, tuned))
        specs += [spec] if spec is not None else []
        rows += [_row(part, module, reason) for part in parts.values()]
    rows += [
        CoverageRow(t.name, "tuned", "analysed", "shared by all adapted modules", tuned=t)
        for t in grouped.shared.values()
    ]
    for key, tensor in grouped.rest.items():
        fate = saved_whole(key, tensor, weights.get(base_key(key)), base, grouped.own)
        rows.append(fate.row)
        specs += [fate.spec] if fate.spec is not None else []
        vectors += [fate.vector] if fate.vector is not None else []
    rows += [CoverageRow(name, "tuned", "skipped", reason) for name, reason in tuned.set_aside]
    rows += base_rows(base, specs, rows, reasons=_biases(grouped, weights, method) if merging.bias else None)
    if not specs and not beside:
        refuse_empty(rows, len(grouped.rest), tuned)
    return Plan(
        tuple(sorted(specs, key=lambda spec: natural_order(spec.module))), tuple(rows), method.lower(), tuple(vectors)
    )


def _grouped(tuned: Checkpoint, prefix: str, beside: Mapping[str, StoredTensor]) -> _Grouped:
    name_of_part = re.compile(rf"(?:(?P<module>.+?)\.)?(?P<part>{prefix}[^.]*(?:\..+)?)")
    found = _Grouped()
    own = {name: tensor for name, tensor in tuned.tensors.items() if name not in beside}
    for name, tensor in canonical(own, tuned.source).items():
        match = name_of_part.fullmatch(name)
        if match is None:
            found.rest[name] = tensor
        elif match["module"] in {None, "base_model"}:
            found.shared[match["part"]] = tensor
        else:
            found.own.setdefault(match["module"], {})[match["part"]] = tensor
    return found


def _unfit(module: str, parts: Parts, weights: Mapping[str, StoredTensor]) -> str:
    """Why this module cannot be merged; empty if it can."""
    for part in parts.values():
        integers = part.dtype in {"int32", "int64"} and 0 not in part.shape  # indices
        if not integers and (text := unreadable(part)):
            return f"{part.name}: {text}"
    weight = weights.get(f"{module}.weight")
    if weight is None:
        return "the base stores no weight of this tied head, without which there is nothing to merge into"
    text = unreadable(weight)
    return f"the base's {weight.name}: {text}" if text else ""


def _refuse_other_shapes(module: str, parts: Parts, weight: StoredTensor | None) -> None:
    """A base whose weight the factors do not fit is another model's, for all modules alike."""
    found = {role: part.shape for role in ("lora_A", "lora_B") for name, part in parts.items() if role in name}
    if weight is None or len(found) < 2 or any(len(shape) != 2 for shape in (*found.values(), weight.shape)):
        return
    across, out = found["lora_A"][1], found["lora_B"][0]
    if weight.shape not in {(out, across), (across, out)}:
        raise ShapeMismatchError(
            f"{weight.file}: {weight.name!r} is {list(weight.shape)}, but the adapter's factors of {module!r} make"
            f" {[out, across]}; the base is another model's: give the adapter's own."
        )


def _row(part: StoredTensor, module: str, reason: str) -> CoverageRow:
    if reason:
        return CoverageRow(part.name, "tuned", "skipped", reason, tuned=part, failed=True)
    return CoverageRow(part.name, "tuned", "analysed", "", module, part)


def _spec(
    module: str,
    parts: Parts,
    shared: Parts,
    weights: Mapping[str, StoredTensor],
    merging: Merging,
    shapes: tuple[tuple[int, int], ...],
    sources: tuple[Checkpoint, Checkpoint],
) -> UpdateSpec:
    weight, bias = weights[f"{module}.weight"], weights.get(f"{module}.bias")
    layer = _layer(module, parts, weight, sources)
    matrix = weight.view((weight.shape[0], weight.elements // weight.shape[0]))
    config = sources[1].adapter_config or {}
    named = [(f"{OWN}{part}", tensor) for part, tensor in parts.items()]
    named += [(f"{SHARED}{part}", tensor) for part, tensor in shared.items()]
    identity = identify(module)
    return UpdateSpec(
        module=module,
        identity=replace(identity, kind="conv") if layer == "conv" else identity,
        update_kind="merged",
        shape=(matrix.shape[1], matrix.shape[0]) if layer == "conv1d" else (matrix.shape[0], matrix.shape[1]),
        rank_bound=min(matrix.shape),
        sources=(("base", weight), *((("bias", bias),) if bias is not None else ()), *named),
        transposed=layer == "conv1d",
        weight=matrix,
        recipe=recipe_text(config, layer=layer, dtype=merging.dtype, shapes=shapes),
        note="" if merging.dtype == "float64" else _IN_FLOAT32,
    )


def _layer(module: str, parts: Parts, weight: StoredTensor, sources: tuple[Checkpoint, Checkpoint]) -> str:
    """Which of torch's layers this is, from names, headers and configs."""
    if len(weight.shape) == 2:
        if any(part.startswith("lora_embedding_") for part in parts):
            return "embedding"
        transposed, unknown = stored_transposed(module, sources)
        if unknown:
            raise UnsupportedUpdateError(f"{weight.file}: {module!r}: {unknown}; merging needs to know it.")
        return "conv1d" if transposed else "linear"
    if 3 <= len(weight.shape) <= 5:
        return "conv"
    raise UnsupportedUpdateError(
        f"{weight.file}: {weight.name!r} has {len(weight.shape)} dimensions; adapters are merged into matrices and"
        " convolutions only. Merge the adapter and compare with --base."
    )


def _shapes(
    grouped: _Grouped, weights: Mapping[str, StoredTensor], sources: tuple[Checkpoint, Checkpoint]
) -> tuple[tuple[int, int], ...]:
    """``(out, in)`` of every adapted weight, of which shared tensors are made to the largest."""
    found = set()
    for module, parts in grouped.own.items():
        weight = weights.get(f"{module}.weight")
        if weight is not None and len(weight.shape) == 2:
            rows, columns = weight.shape
            transposed = _layer(module, parts, weight, sources) == "conv1d"
            found.add((columns, rows) if transposed else (rows, columns))
    return tuple(sorted(found))


def _biases(grouped: _Grouped, weights: Mapping[str, StoredTensor], method: str) -> dict[str, str]:
    names = [weights[key].name for module in grouped.own if (key := f"{module}.bias") in weights]
    return dict.fromkeys(names, f"{method} may change this bias too, which is not measured")
