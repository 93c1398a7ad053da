"""Updates of an adapter: which factors belong together, from names, headers and config."""

import math
import re
from collections.abc import Mapping
from dataclasses import replace

from rank_lab.adapter_config import AdapterRecipe, read_recipe
from rank_lab.checkpoint import Checkpoint
from rank_lab.conversion import names_in_memory
from rank_lab.coverage import CoverageRow, Plan, VectorChange, not_compared, unreadable
from rank_lab.errors import CheckpointError, PairingError, ShapeMismatchError, UnsupportedUpdateError
from rank_lab.key_space import aligned, canonical, nearest_pairs
from rank_lab.names import identify, natural_order
from rank_lab.orientation import stored_transposed
from rank_lab.spec import UpdateSpec, common_rows, dense_spec, has_vocabulary
from rank_lab.stored_tensor import StoredTensor

__all__ = ["is_factored", "plan_factors", "refuse_other_adapters"]

_ROLES = {
    "lora_A": "A", "lora_B": "B", "lora_E": "gate", "lora_gate": "gate", "gate": "gate",
    "lora_embedding_A": "A", "lora_embedding_B": "B",
}  # fmt: skip
_PART = re.compile(
    r"(?P<module>.+?)\.(?:lora\.)?(?P<part>lora_\w+|gate)(?:\.(?P<adapter>(?!weight$|bias$)\w+))?(?:\.(?P<leaf>weight|bias))?"
)
_EMBEDDING = "lora_embedding_"
_FACTOR = re.compile(r"\.lora_(embedding_)?[AB](\.|$)")
_OTHER_FORMATS = {
    re.compile(r"\.lora_(down|up|mid)\."): "kohya's",
    re.compile(r"\.lora\.(down|up)\."): "diffusers'",
    re.compile(r"\.lora_[ab]$"): "MLX's",
    re.compile(r"\.(hada|lokr)_w\w+$"): "LyCORIS'",
}

Parts = dict[str, StoredTensor]


def is_factored(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint holds LoRA factors, beside base names as loralib saves them or in PEFT's layout."""
    return any(_FACTOR.search(name) for name in checkpoint.tensors)


def refuse_other_adapters(checkpoint: Checkpoint) -> None:
    """Refuse by name the adapter formats that are recognised and not read.

    Raises
    ------
    UnsupportedUpdateError
        If a tensor is named as in one of them.
    """
    for name, tensor in checkpoint.tensors.items():
        for pattern, owner in _OTHER_FORMATS.items():
            if pattern.search(name):
                raise UnsupportedUpdateError(
                    f"{tensor.file}: tensor {name!r} is of {owner} adapter format, which is not read yet; convert it"
                    " to PEFT's, or merge it into its base and compare with --base."
                )


def plan_factors(tuned: Checkpoint, base: Checkpoint | None, *, lora_alpha: float | None = None) -> Plan:
    """Pair the factors of an adapter; see :func:`rank_lab.pairing.plan_updates`."""
    configured = _configured(tuned, lora_alpha)  # first: a config names what is refused better than tensors do
    groups, rest = _grouped(tuned)
    recipe = _unconfigured(tuned, groups, lora_alpha) if configured is None else configured
    weights = _base_weights(groups, rest, base)
    sources = (tuned,) if base is None else (base, tuned)
    specs: list[UpdateSpec] = []
    rows: list[CoverageRow] = []
    vectors: list[VectorChange] = []
    for module, parts in groups.items():
        reason = _unusable(module, parts, recipe)
        if not reason:
            specs.append(_spec(module, parts, recipe, weights.get(f"{module}.weight"), sources))
        rows += _factor_rows(module, parts, reason)
    for key, tensor in rest.items():
        row, spec, vector = _saved_whole(key, tensor, weights.get(_base_key(key)), base, groups)
        rows.append(row)
        specs += [spec] if spec is not None else []
        vectors += [vector] if vector is not None else []
    rows += [CoverageRow(name, "tuned", "skipped", reason) for name, reason in tuned.set_aside]
    if base is not None:
        rows += _base_rows(base, specs, rows)
    if not specs:
        _refuse_empty(rows, len(rest), tuned)
    return Plan(
        tuple(sorted(specs, key=lambda spec: natural_order(spec.module))), tuple(rows), recipe.method, tuple(vectors)
    )


def _unusable(module: str, parts: Parts, recipe: AdapterRecipe) -> str:
    """Why no update can be formed of these factors; AdaLoRA's modules that were pruned to rank 0 are no such case."""
    if recipe.pruned.get(module) == 0 and all(len(tensor.shape) == 2 for tensor in parts.values()):
        return ""
    return next((f"{role}: {reason}" for role, part in parts.items() if (reason := unreadable(part))), "")


def _factor_rows(module: str, parts: Parts, reason: str) -> list[CoverageRow]:
    if reason:
        return [CoverageRow(t.name, "tuned", "skipped", reason, tuned=t, failed=True) for t in parts.values()]
    return [CoverageRow(t.name, "tuned", "analysed", module=module, tuned=t) for t in parts.values()]


def _base_rows(base: Checkpoint, specs: list[UpdateSpec], rows: list[CoverageRow]) -> list[CoverageRow]:
    paired = {row.base.name for row in rows if row.base is not None}
    adapted = {spec.weight.name for spec in specs if spec.weight is not None}
    found = [_base_row(tensor, tensor.name in adapted) for tensor in base.tensors.values() if tensor.name not in paired]
    return found + [CoverageRow(name, "base", "skipped", reason) for name, reason in base.set_aside]


def _refuse_empty(rows: list[CoverageRow], others: int, tuned: Checkpoint) -> None:
    failed = next((row for row in rows if row.failed), None)
    if failed is not None:
        detail = f"{failed.tensor}: {failed.reason}"
    else:
        detail = f"{others} tensors, none of them lora_A or lora_B; save the adapter again"
    raise CheckpointError(f"{tuned.source}: no update can be read from this adapter; {detail}.")


def _grouped(tuned: Checkpoint) -> tuple[dict[str, Parts], dict[str, StoredTensor]]:
    groups: dict[str, Parts] = {}
    rest: dict[str, StoredTensor] = {}
    adapters: set[str] = set()
    for name, tensor in canonical(tuned.tensors, tuned.source).items():
        match = _PART.fullmatch(name)
        if match is None or (match["part"] == "gate" and ".lora." not in name):
            rest[name] = tensor
            continue
        part, module = match["part"], match["module"]
        if match["leaf"] == "bias" and part == "lora_B":
            rest[name] = tensor
            continue
        if part not in _ROLES:
            raise UnsupportedUpdateError(
                f"{tuned.source}: tensor {tensor.name!r} ({part}) makes the update more than scaled factors; not"
                " analysed yet. Merge the adapter and compare with --base."
            )
        if len(tensor.shape) > 2:
            raise UnsupportedUpdateError(
                f"{tuned.source}: {tensor.name!r} has {len(tensor.shape)} dimensions (a convolution's or an expert"
                " stack's factor); not analysed yet. Merge the adapter and compare with --base."
            )
        adapters.add(match["adapter"] or "")
        if len(adapters) > 1:
            raise UnsupportedUpdateError(
                f"{tuned.source}: holds several adapters ({', '.join(sorted(adapters))}); save the one that is meant by"
                " itself."
            )
        role = _ROLES[part] + ("_embedding" if part.startswith(_EMBEDDING) else "")
        groups.setdefault(module, {})[role] = tensor
    return groups, rest


def _configured(tuned: Checkpoint, lora_alpha: float | None) -> AdapterRecipe | None:
    if tuned.adapter_config is None:
        return None
    file = tuned.folder / "adapter_config.json"
    if lora_alpha is not None:
        raise CheckpointError(f"{file}: records lora_alpha; leave out --lora-alpha.")
    return read_recipe(tuned.adapter_config, str(file))


def _unconfigured(tuned: Checkpoint, groups: Mapping[str, Parts], lora_alpha: float | None) -> AdapterRecipe:
    stored = {module: parts["A"].shape[0] for module, parts in groups.items() if "A" in parts and parts["A"].shape}
    ranks = sorted(set(stored.values()))
    gates = [parts["gate"] for parts in groups.values() if "gate" in parts]
    if any("lora_E" in gate.name for gate in gates):
        raise CheckpointError(
            f"{tuned.source}: AdaLoRA factors without adapter_config.json: their scaling is alpha / init_r, which only"
            " the config records; restore it."
        )
    if lora_alpha is None:
        raise CheckpointError(
            f"{tuned.source}: LoRA factors without adapter_config.json: the file does not record alpha; give it as"
            f" --lora-alpha (the scaling is alpha / r, here r = {ranks})."
        )
    if not math.isfinite(lora_alpha):
        raise CheckpointError(
            f"--lora-alpha {lora_alpha}: expected a number; it is in the script that trained the file."
        )
    if gates and len(ranks) > 1:
        raise CheckpointError(
            f"{tuned.source}: gated factors of ranks {ranks} without adapter_config.json: SoRA's scaling is alpha / r"
            " before pruning, which the file does not record; restore the config."
        )
    return AdapterRecipe("sora" if gates else "lora", lora_alpha, max(ranks, default=1), stored=stored)


def _base_weights(
    groups: Mapping[str, Parts], rest: Mapping[str, StoredTensor], base: Checkpoint | None
) -> dict[str, StoredTensor]:
    if base is None:
        return {}
    wanted = [f"{module}.weight" for module in groups] + [_base_key(key) for key in rest]
    found = canonical(base.tensors, base.source)
    weights = _by_name(wanted, found)
    if any(f"{module}.weight" not in weights for module in groups):  # adapters go by the names in memory
        weights = max(weights, _by_name(wanted, names_in_memory(found, base)), key=len)
    missing = [
        f"{module}.weight"
        for module in groups
        if f"{module}.weight" not in weights and identify(module).kind != "head"  # a tied head is not stored
    ]
    if missing:
        raise PairingError(
            f"{base.source}: has no weight for {len(missing)} adapted modules; nearest:"
            f" {nearest_pairs(missing, list(found))}. Is it the model that the adapter was trained on?"
        )
    return weights


def _by_name(wanted: list[str], found: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    wanted_keys, base_keys = aligned(wanted, list(found))
    by_key = {base_keys[name]: tensor for name, tensor in found.items()}
    return {name: by_key[key] for name, key in wanted_keys.items() if key in by_key}


def _spec(
    module: str, parts: Parts, recipe: AdapterRecipe, weight: StoredTensor | None, sources: tuple[Checkpoint, ...]
) -> UpdateSpec:
    embedding = "A_embedding" in parts or "B_embedding" in parts
    named = {role.removesuffix("_embedding"): tensor for role, tensor in parts.items()}
    if "A" not in named or "B" not in named:
        there = next(iter(named.values()))
        raise PairingError(
            f"{there.file}: module {module!r} has {there.name!r} but not both lora_A and lora_B; the file is"
            " incomplete: save the adapter again."
        )
    A, B, gate = named["A"], named["B"], named.get("gate")
    _check_shapes(module, A, B, gate)
    _check_rank(module, A, recipe)
    if (gate is not None) != (recipe.method in {"adalora", "sora"}):
        raise PairingError(
            f"{A.file}: module {module!r} {'has' if gate else 'lacks'} a gate, which {recipe.method}"
            f" {'lacks' if gate else 'has'}; config and weights are of different adapters."
        )
    shape = (A.shape[1], B.shape[0]) if embedding else (B.shape[0], A.shape[1])
    rank = A.shape[0]
    notes = (recipe.doubt(module), "" if len(sources) == 1 else _fit_to_base(module, shape, weight, sources))
    return UpdateSpec(
        module=module,
        identity=identify(module),
        update_kind=recipe.method,
        shape=shape,
        rank_bound=min(rank, *shape),
        sources=(("B", B), ("A", A)) + (() if gate is None else (("gate", gate),)),
        scaling=recipe.scaling(module, rank if recipe.method == "lora" else None),
        transposed=embedding,
        weight=weight,
        note="; ".join(text for text in notes if text),
    )


def _check_shapes(module: str, A: StoredTensor, B: StoredTensor, gate: StoredTensor | None) -> None:
    if len(A.shape) != 2 or len(B.shape) != 2 or A.shape[0] != B.shape[1]:
        raise ShapeMismatchError(
            f"{A.file}: {module!r}: B is {list(B.shape)} but A is {list(A.shape)}; expected (out, r) and (r, in). Is"
            " the file a mix of two adapters?"
        )
    if gate is not None and gate.elements != A.shape[0]:
        raise ShapeMismatchError(
            f"{A.file}: {module!r}: {gate.name!r} has shape {list(gate.shape)}; expected {A.shape[0]} values, one per"
            " row of A."
        )


def _check_rank(module: str, A: StoredTensor, recipe: AdapterRecipe) -> None:
    stored, expected = A.shape[0], recipe.ranks(module)
    if recipe.method == "adalora":
        expected = (recipe.pruned.get(module, recipe.r),) if recipe.pruned else (stored,)
    if recipe.method == "sora" and 0 < stored <= expected[0]:
        return  # zero gates cut out; the scaling is that of the full rank for good
    if stored not in expected:
        raise ShapeMismatchError(
            f"{A.file}: {module!r} holds {stored} rows of A but its config gives rank {expected[0]}; the scaling cannot"
            " be known: restore the adapter_config.json that was saved with it."
        )


def _fit_to_base(
    module: str, shape: tuple[int, int], weight: StoredTensor | None, sources: tuple[Checkpoint, ...]
) -> str:
    """Check that an update fits the base's weight; what a reader must know of it, empty if nothing."""
    if weight is None:
        return "the base stores no weight of this tied head: no norms relative to it"
    if text := unreadable(weight):
        raise CheckpointError(
            f"{weight.file}: tensor {weight.name!r} of the base is {text}, or leave out --base: an adapter needs none."
        )
    transposed, unknown = stored_transposed(module, sources)
    stored = (shape[1], shape[0]) if transposed else shape
    if weight.shape == stored or (unknown and weight.shape == (shape[1], shape[0])):
        return ""
    if has_vocabulary(module) and weight.shape[1:] == shape[1:]:
        return f"resized: norms relative to the base are to its {weight.shape[0]} rows, of {shape[0]} adapted"
    raise ShapeMismatchError(
        f"{weight.file}: {weight.name!r} is {list(weight.shape)}, but the adapter's update of {module!r} is"
        f" {list(stored)} in that orientation; the base is another model's: give the adapter's own."
    )


def _base_key(key: str) -> str:
    """Key of the base tensor that a tensor beside the factors changes."""
    match = _PART.fullmatch(key)
    return f"{match['module']}.bias" if match is not None and match["leaf"] == "bias" else key


def _saved_whole(
    key: str, tensor: StoredTensor, partner: StoredTensor | None, base: Checkpoint | None, groups: Mapping[str, Parts]
) -> tuple[CoverageRow, UpdateSpec | None, VectorChange | None]:
    """What becomes of a tensor beside the factors: a row, and an update or a vector if it can be compared."""
    row = CoverageRow(tensor.name, "tuned" if partner is None else "both", "skipped", tuned=tensor, base=partner)
    if reason := _aside(key):
        return row.but("skipped", reason), None, None
    unfit = not_compared(row, tensor, *(() if partner is None else (partner,)))
    if unfit is not None:
        return unfit, None, None
    if reason := _broken(key, tensor, partner):
        return row.but("skipped", reason, failed=True), None, None
    if base is None:
        reason = "saved whole beside the adapter (modules_to_save, bias or an embedding): its change needs --base"
        return row.but("skipped", reason), None, None
    if partner is None:
        return row.but("new", "saved whole beside the adapter and not in the base"), None, None
    if len(tensor.shape) != 2:
        return row.but("vector", ""), None, VectorChange(tensor.name, tensor, partner)
    module = key.removesuffix(".weight")
    transposed, note = stored_transposed(key, (base,))
    spec = dense_spec(module, tensor, partner, transposed=transposed, note=note)
    if module in groups:  # PEFT saves an adapted embedding's own weight too, which may have been resized
        spec = replace(spec, module=f"{module}.base_layer")
    reason = "; ".join(text for text in ("saved whole beside the adapter", spec.note if spec.rows else "") if text)
    return replace(row, status="analysed", reason=reason, module=spec.module), spec, None


def _aside(key: str) -> str:
    if _base_key(key) != key:
        return "bias beside lora_B: a change of the bias, not of the weight"
    if ".original_module." in key:
        return "the frozen original of a module that was saved whole"
    return ""


def _broken(key: str, tensor: StoredTensor, partner: StoredTensor | None) -> str:
    if "trainable_tokens" in key or "token_adapter" in key:
        return "trainable tokens are not analysed yet; merge the adapter and compare with --base"
    if partner is None or tensor.shape == partner.shape:
        return ""
    if common_rows(tensor, partner, key.removesuffix(".weight")) is not None:
        return ""
    return f"shape {list(tensor.shape)} against {list(partner.shape)} in the base: not the same module"


def _base_row(tensor: StoredTensor, adapted: bool) -> CoverageRow:
    reason = "its update is the adapter's" if adapted else "not adapted: frozen"
    return CoverageRow(tensor.name, "base", "analysed" if adapted else "identical", reason, base=tensor)
