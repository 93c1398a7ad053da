"""Updates of an adapter: which factors belong together, from names, headers and config."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace

from rank_lab.adapter_config import AdapterRecipe, read_recipe
from rank_lab.checkpoint import Checkpoint
from rank_lab.coverage import CoverageRow, Plan, unreadable
from rank_lab.errors import CheckpointError, PairingError, ShapeMismatchError, UnsupportedUpdateError
from rank_lab.factor_stacks import plan_stacks, split_stacks
from rank_lab.factor_start import against_start, without_start
from rank_lab.key_space import canonical
from rank_lab.names import has_vocabulary, identify, natural_order
from rank_lab.orientation import stored_transposed
from rank_lab.saved_whole import (
    Fate,
    base_key,
    base_rows,
    base_weights,
    bias_of_factor,
    of_training,
    readable_weight,
    refuse_empty,
    saved_whole,
)
from rank_lab.spec import UpdateSpec
from rank_lab.stored_tensor import StoredTensor

__all__ = ["is_factored", "plan_factors"]

_ROLES = {
    "lora_A": "A", "lora_B": "B", "lora_E": "gate", "lora_gate": "gate", "gate": "gate",
    "lora_embedding_A": "A", "lora_embedding_B": "B", "lora_diag": "gate",
}  # fmt: skip
_PART = re.compile(
    r"(?P<module>.+?)\.(?:lora\.)?(?P<part>lora_\w+|gate)(?:\.(?P<adapter>(?!weight$|bias$)\w+))?(?:\.(?P<leaf>weight|bias))?"
)
_EMBEDDING = "lora_embedding_"
_FACTOR = re.compile(r"\.lora_(embedding_)?[AB](\.|$)")

Parts = dict[str, StoredTensor]


def is_factored(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint holds LoRA factors, beside base names as loralib saves them or in PEFT's layout."""
    return any(_FACTOR.search(name) for name in checkpoint.tensors)


def plan_factors(
    tuned: Checkpoint,
    base: Checkpoint | None,
    *,
    lora_alpha: float | None = None,
    initial: Checkpoint | None = None,
    beside: Mapping[str, StoredTensor] | None = None,
) -> Plan:
    """Pair the factors of an adapter; see :func:`rank_lab.pairing.plan_updates`.

    Parameters
    ----------
    tuned, base, lora_alpha, initial
        As there.
    beside
        Tensors of the adapter's files that are planned elsewhere.
    """
    configured = _configured(tuned, lora_alpha)  # first: a config names what is refused better than tensors do
    own = {name: tensor for name, tensor in tuned.tensors.items() if name not in (beside or {})}
    stacks, plain = split_stacks(own, configured)
    groups, rest = _grouped(canonical(plain, tuned.source), tuned, configured)
    recipe = _unconfigured(tuned, groups, lora_alpha) if configured is None else configured
    if recipe.start and recipe.blocks > 1:
        raise UnsupportedUpdateError(f"{tuned.source}: use_bdlora with {recipe.start} is no combination that is read.")
    parameters = [f"{module}.{name}" for module, stack in stacks.items() for name in stack.parameters]
    weights = base_weights(groups, map(base_key, rest), base, optional=parameters)
    sources = (tuned,) if base is None else (base, tuned)
    specs: list[UpdateSpec] = []
    rows: list[CoverageRow] = []
    for module, parts in groups.items():
        reason = _unusable(module, parts, recipe)
        if not reason:
            specs.append(_spec(module, parts, recipe, weights.get(f"{module}.weight"), sources))
        rows += _factor_rows(module, parts, reason, tuned)
    in_stacks, stack_rows, other_reasons = plan_stacks(stacks, recipe, weights, base)
    specs = specs + in_stacks
    if initial is not None:
        specs = against_start(specs, _initial_specs(initial, tuned, base, lora_alpha), initial)
    elif recipe.start:
        config = tuned.adapter_config or {}
        specs = [without_start(spec, recipe.start, config, layer=_layer(spec, sources)) for spec in specs]

    def fate_of(key: str, tensor: StoredTensor) -> Fate:
        partner = weights.get(base_key(key))
        scaled = bias_of_factor(key, tensor, partner, lambda module: _scaling(module, groups.get(module), recipe))
        return scaled or saved_whole(key, tensor, partner, base, groups)

    fates = [fate_of(key, tensor) for key, tensor in rest.items()]
    specs += [fate.spec for fate in fates if fate.spec is not None]
    rows += [*stack_rows, *(fate.row for fate in fates)]
    rows += [CoverageRow(name, "tuned", "skipped", reason) for name, reason in tuned.set_aside]
    if base is not None:
        rows += base_rows(base, specs, rows, reasons=other_reasons)
    if not specs and not beside:
        refuse_empty(rows, len(rest), tuned)
    vectors = tuple(fate.vector for fate in fates if fate.vector is not None)
    in_order = sorted(specs, key=lambda spec: natural_order(spec.module))
    return Plan(tuple(in_order), tuple(rows), recipe.method, vectors)


def _layer(spec: UpdateSpec, sources: tuple[Checkpoint, ...]) -> str:
    transposed, unknown = stored_transposed(spec.module, sources)
    if unknown or spec.identity.kind == "conv" or spec.identity.expert is not None:
        return ""
    return "conv1d" if transposed else "linear"


def _initial_specs(
    initial: Checkpoint, tuned: Checkpoint, base: Checkpoint | None, lora_alpha: float | None
) -> tuple[UpdateSpec, ...]:
    if {tensor.file.resolve() for tensor in initial.tensors.values()} & {
        tensor.file.resolve() for tensor in tuned.tensors.values()
    }:
        raise PairingError(
            f"{initial.source}: is the adapter itself; give it as it was saved before the first step of training."
        )
    if initial.adapter_config is None and not is_factored(initial):
        raise PairingError(
            f"{initial.source}: no adapter; give the adapter as it was saved before the first step of training."
        )
    found = plan_factors(initial, base, lora_alpha=lora_alpha)
    return tuple(spec for spec in found.specs if spec.update_kind != "dense")


def _unusable(module: str, parts: Parts, recipe: AdapterRecipe) -> str:
    """Why no update can be formed of these factors; AdaLoRA's modules that were pruned to rank 0 are no such case."""
    if recipe.pruned.get(module) == 0 and all(len(tensor.shape) == 2 for tensor in parts.values()):
        return ""
    return next((f"{role}: {reason}" for role, part in parts.items() if (reason := unreadable(part))), "")


def _factor_rows(module: str, parts: Parts, reason: str, tuned: Checkpoint) -> list[CoverageRow]:
    rows = [CoverageRow(part.name, "tuned", "analysed", "", module, tuned[part.name]) for part in parts.values()]
    return [replace(row.but("skipped", reason, failed=True), module="") for row in rows] if reason else rows


def _grouped(
    names: Mapping[str, StoredTensor], tuned: Checkpoint, recipe: AdapterRecipe | None
) -> tuple[dict[str, Parts], dict[str, StoredTensor]]:
    groups: dict[str, Parts] = {}
    rest: dict[str, StoredTensor] = {}
    adapters: set[str] = set()
    for name, tensor in names.items():
        match = _PART.fullmatch(name)
        if match is None or (match["part"] == "gate" and ".lora." not in name):
            rest[name] = tensor
            continue
        part, module = match["part"], match["module"]
        if (match["leaf"] == "bias" and part == "lora_B") or (of_training(name) and recipe is not None):
            rest[name] = tensor
            continue
        if part not in _ROLES or (part == "lora_diag" and (recipe is None or recipe.start != "kasa")):
            raise UnsupportedUpdateError(
                f"{tuned.source}: tensor {tensor.name!r} ({part}) makes the update more than scaled factors; not"
                " analysed yet. Merge the adapter and compare with --base."
            )
        adapters.add(match["adapter"] or "")
        if len(adapters) > 1:
            raise UnsupportedUpdateError(
                f"{tuned.source}: holds several adapters ({', '.join(sorted(adapters))}); save the one that is meant by"
                " itself."
            )
        role = _ROLES[part] + ("_embedding" if part.startswith(_EMBEDDING) else "")
        groups.setdefault(module, {})[role] = _as_matrix(tensor, _ROLES[part])
    return groups, rest


def _as_matrix(tensor: StoredTensor, role: str) -> StoredTensor:
    """A convolution's factor as the matrix that it is: A looks at patches, B mixes their values at one place."""
    if len(tensor.shape) <= 2 or role == "gate":
        return tensor
    if len(tensor.shape) > 5 or (role == "B" and math.prod(tensor.shape[2:]) != 1) or 0 in tensor.shape:
        raise UnsupportedUpdateError(
            f"{tensor.file}: {tensor.name!r} of shape {list(tensor.shape)} is not a convolution's factor as PEFT makes"
            " it (A with the kernel, B with a kernel of one). Merge the adapter and compare with --base."
        )
    return tensor.view((tensor.shape[0], math.prod(tensor.shape[1:])))


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
    blocks = recipe.block_counts(module)
    _check_shapes(module, A, B, gate, blocks)
    _check_rank(module, A, recipe)
    if (gate is not None) != (recipe.method in {"adalora", "sora"} or recipe.start == "kasa"):
        raise PairingError(
            f"{A.file}: module {module!r} {'has' if gate else 'lacks'} a gate, which {recipe.method}"
            f" {'lacks' if gate else 'has'}; config and weights are of different adapters."
        )
    shape = (A.shape[1], B.shape[0]) if embedding else (B.shape[0], A.shape[1] * blocks[0])
    rank = A.shape[0]
    kernel = weight is not None and len(weight.shape) > 2
    if weight is not None and kernel:
        weight = readable_weight(weight).view((weight.shape[0], math.prod(weight.shape[1:])))
    flat = "convolution: the first dimension against all others" if len(_stored(A, sources).shape) > 2 else ""
    notes = (flat, recipe.doubt(module), "" if len(sources) == 1 else _fit_to_base(module, shape, weight, sources))
    identity = identify(module)
    return UpdateSpec(
        module=module,
        identity=replace(identity, kind="conv") if flat else identity,
        update_kind=recipe.method,
        shape=shape,
        rank_bound=min(rank, *shape),
        sources=(("B", B), ("A", A)) + (() if gate is None else (("gate", gate),)),
        scaling=_scaling(module, parts, recipe),
        transposed=embedding,
        weight=weight,
        recipe="" if blocks == (1, 1) else json.dumps({"blocks": blocks}),
        note="; ".join(text for text in notes if text),
    )


def _scaling(module: str, parts: Parts | None, recipe: AdapterRecipe) -> float:
    """The factor of the update: of plain LoRA by the rank that is stored, since nothing was cut out of it."""
    A = next((part for role, part in (parts or {}).items() if role.startswith("A")), None)
    return recipe.scaling(module, A.shape[0] if A is not None and recipe.method == "lora" else None)


def _check_shapes(
    module: str, A: StoredTensor, B: StoredTensor, gate: StoredTensor | None, blocks: tuple[int, int]
) -> None:
    if max(blocks) > 1 and (A.shape[0] % blocks[0] or B.shape[0] % blocks[1] or gate is not None):
        raise ShapeMismatchError(
            f"{A.file}: {module!r}: B is {list(B.shape)} and A is {list(A.shape)}, which do not fall into the"
            f" {max(blocks)} blocks of use_bdlora; is the file a mix of two adapters?"
        )
    if len(A.shape) != 2 or len(B.shape) != 2 or A.shape[0] != B.shape[1] * blocks[1]:
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
    readable_weight(weight)
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


def _stored(part: StoredTensor, sources: tuple[Checkpoint, ...]) -> StoredTensor:
    return sources[-1][part.name]
