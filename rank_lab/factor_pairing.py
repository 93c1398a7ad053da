"""Updates of an adapter: which factors belong together, from names, headers and config."""

import re
from collections.abc import Mapping
from typing import Literal

from rank_lab.adapter_config import AdapterRecipe, read_recipe
from rank_lab.checkpoint import Checkpoint
from rank_lab.coverage import CoverageRow, Plan, VectorChange, unreadable
from rank_lab.errors import CheckpointError, PairingError, ShapeMismatchError, UnsupportedUpdateError
from rank_lab.key_space import aligned, canonical, nearest_pairs
from rank_lab.names import identify, natural_order, strip_wrappers
from rank_lab.orientation import stored_transposed
from rank_lab.spec import UpdateSpec
from rank_lab.stored_tensor import StoredTensor

__all__ = ["is_factored", "plan_factors"]

_ROLES = {
    "lora_A": "A", "lora_B": "B", "lora_E": "gate", "lora_gate": "gate", "gate": "gate",
    "lora_embedding_A": "A", "lora_embedding_B": "B",
}  # fmt: skip
_PART = re.compile(
    r"(?P<module>.+?)\.(?:lora\.)?(?P<part>lora_\w+|gate)(?:\.(?P<adapter>(?!weight$|bias$)\w+))?(?:\.(?P<leaf>weight|bias))?"
)
_EMBEDDING = "lora_embedding_"

Parts = dict[str, StoredTensor]


def is_factored(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint without adapter config holds LoRA factors beside base names, as loralib saves them."""
    return any(name.endswith((".lora_A", ".lora_B")) for name in checkpoint.tensors)


def plan_factors(tuned: Checkpoint, base: Checkpoint | None, *, lora_alpha: float | None = None) -> Plan:
    """Pair the factors of an adapter; see :func:`rank_lab.pairing.plan_updates`."""
    groups, rest = _grouped(tuned)
    recipe = _recipe(tuned, groups, lora_alpha)
    weights = _base_weights(groups, rest, base)
    specs: list[UpdateSpec] = []
    rows: list[CoverageRow] = []
    vectors: list[VectorChange] = []
    for module, parts in groups.items():
        reason = next((f"{role}: {text}" for role, tensor in parts.items() if (text := unreadable(tensor))), "")
        if not reason:
            specs.append(
                _spec(
                    module, parts, recipe, weights.get(f"{module}.weight"), (tuned,) if base is None else (base, tuned)
                )
            )
        status: Literal["analysed", "skipped"] = "skipped" if reason else "analysed"
        rows += [
            CoverageRow(t.name, "tuned", status, reason, "" if reason else module, tuned=t, failed=bool(reason))
            for t in parts.values()
        ]
    for key, tensor in rest.items():
        rows.append(_saved_whole(key, tensor, weights.get(key), base, specs, vectors))
    rows += [CoverageRow(name, "tuned", "skipped", reason) for name, reason in tuned.set_aside]
    if base is not None:
        touched = {spec.weight.name for spec in specs if spec.weight is not None} | {
            row.base.name for row in rows if row.base is not None
        }
        rows += [
            _base_row(tensor, tensor.name in touched)
            for tensor in base.tensors.values()
            if not any(row.base is tensor for row in rows)
        ]
        rows += [CoverageRow(name, "base", "skipped", reason) for name, reason in base.set_aside]
    if not specs:
        failed = next((row for row in rows if row.failed), None)
        detail = (
            f"{failed.tensor}: {failed.reason}" if failed else f"{len(rest)} tensors, none of them lora_A or lora_B"
        )
        raise CheckpointError(f"{tuned.source}: no update can be read from this adapter; {detail}.")
    return Plan(
        tuple(sorted(specs, key=lambda spec: natural_order(spec.module))), tuple(rows), recipe.method, tuple(vectors)
    )


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
                " stack's factor); not analysed yet."
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


def _recipe(tuned: Checkpoint, groups: Mapping[str, Parts], lora_alpha: float | None) -> AdapterRecipe:
    if tuned.adapter_config is not None:
        if lora_alpha is not None:
            raise CheckpointError(f"{tuned.source}: adapter_config.json records lora_alpha; leave out --lora-alpha.")
        return read_recipe(tuned.adapter_config, tuned.source)
    ranks = {parts["A"].shape[0] for parts in groups.values() if "A" in parts and parts["A"].shape}
    if lora_alpha is None:
        raise CheckpointError(
            f"{tuned.source}: LoRA factors without adapter_config.json: the file does not record alpha; give it as"
            f" --lora-alpha (the scaling is alpha / r, here r = {sorted(ranks)})."
        )
    if any("gate" in parts for parts in groups.values()):
        return AdapterRecipe("sora", lora_alpha, max(ranks, default=1), rank_pattern=_own_ranks(groups))
    return AdapterRecipe("lora", lora_alpha, max(ranks, default=1), rank_pattern=_own_ranks(groups))


def _own_ranks(groups: Mapping[str, Parts]) -> dict[str, int]:
    return {
        re.escape(module): parts["A"].shape[0]
        for module, parts in groups.items()
        if "A" in parts and parts["A"].shape[0] > 0
    }


def _base_weights(
    groups: Mapping[str, Parts], rest: Mapping[str, StoredTensor], base: Checkpoint | None
) -> dict[str, StoredTensor]:
    if base is None:
        return {}
    wanted = [f"{module}.weight" for module in groups] + list(rest)
    found = canonical(base.tensors, base.source)
    wanted_keys, base_keys = aligned(wanted, list(found))
    by_key = {base_keys[name]: tensor for name, tensor in found.items()}
    weights = {name: by_key[key] for name, key in wanted_keys.items() if key in by_key}
    missing = [f"{module}.weight" for module in groups if f"{module}.weight" not in weights]
    if missing:
        raise PairingError(
            f"{base.source}: has no weight for {len(missing)} adapted modules; nearest:"
            f" {nearest_pairs(missing, list(found))}. Is it the model that the adapter was trained on?"
        )
    return weights


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
    _check_weight(module, shape, weight, sources)
    rank = A.shape[0]
    return UpdateSpec(
        module=module,
        identity=identify(module),
        update_kind=recipe.method,
        shape=shape,
        rank_bound=min(rank, *shape),
        sources=(("B", B), ("A", A)) + (() if gate is None else (("gate", gate),)),
        scaling=recipe.scaling(module),
        transposed=embedding,
        weight=weight,
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
    stored = A.shape[0]
    if recipe.method == "adalora":
        expected = recipe.pruned.get(module, recipe.r) if recipe.pruned else stored
    else:
        expected = recipe.rank(module)
    if stored != expected:
        raise ShapeMismatchError(
            f"{A.file}: {module!r} holds {stored} rows of A but its config gives rank {expected}; the scaling cannot be"
            " known: restore the adapter_config.json that was saved with it."
        )


def _check_weight(
    module: str, shape: tuple[int, int], weight: StoredTensor | None, sources: tuple[Checkpoint, ...]
) -> None:
    if weight is None:
        return
    stored = (shape[1], shape[0]) if stored_transposed(module, sources)[0] else shape
    if weight.shape != stored:
        raise ShapeMismatchError(
            f"{weight.file}: {weight.name!r} is {list(weight.shape)}, but the adapter's update of {module!r} is"
            f" {list(stored)} in that orientation; the base is another model's."
        )


def _saved_whole(
    key: str,
    tensor: StoredTensor,
    partner: StoredTensor | None,
    base: Checkpoint | None,
    specs: list[UpdateSpec],
    vectors: list[VectorChange],
) -> CoverageRow:
    row = CoverageRow(tensor.name, "tuned", "skipped", tuned=tensor, base=partner)
    match = _PART.fullmatch(key)
    if match is not None and match["leaf"] == "bias":
        return row.but("skipped", "bias beside lora_B: a change of the bias, not of the weight")
    if "trainable_tokens" in key or "token_adapter" in key:
        return row.but("skipped", "trainable tokens are not analysed yet", failed=True)
    if base is None:
        return row.but(
            "skipped",
            "saved whole beside the adapter (modules_to_save, bias or a resized embedding): its change needs --base",
        )
    if partner is None:
        return row.but("new", "saved whole beside the adapter and not in the base")
    reason = unreadable(tensor) or unreadable(partner)
    if reason or tensor.shape != partner.shape:
        return row.but(
            "skipped", reason or f"shape {list(tensor.shape)} against {list(partner.shape)} in the base", failed=True
        )
    if len(tensor.shape) != 2:
        vectors.append(VectorChange(tensor.name, tensor, partner))
        return CoverageRow(tensor.name, "both", "vector", tuned=tensor, base=partner)
    module = strip_wrappers(key).removesuffix(".weight")
    transposed, note = stored_transposed(key, (base,))
    shape = (tensor.shape[1], tensor.shape[0]) if transposed else (tensor.shape[0], tensor.shape[1])
    specs.append(
        UpdateSpec(
            module,
            identify(module),
            "dense",
            shape,
            min(shape),
            (("tuned", tensor), ("base", partner)),
            transposed=transposed,
            weight=partner,
            note=note,
        )
    )
    return CoverageRow(tensor.name, "both", "analysed", "saved whole beside the adapter", module, tensor, partner)


def _base_row(tensor: StoredTensor, adapted: bool) -> CoverageRow:
    reason = "its update is the adapter's" if adapted else "not adapted: frozen"
    return CoverageRow(tensor.name, "base", "analysed" if adapted else "identical", reason, base=tensor)
