"""LoRA on parameters that hold a stack of experts (PEFT's ``target_parameters``): one update per expert."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import permutations

from rank_lab.adapter_config import AdapterRecipe
from rank_lab.checkpoint import Checkpoint
from rank_lab.coverage import CoverageRow, unreadable
from rank_lab.errors import PairingError, ShapeMismatchError, UnsupportedUpdateError
from rank_lab.expert_stacks import expert_module
from rank_lab.names import identify, strip_wrappers
from rank_lab.saved_whole import readable_weight
from rank_lab.spec import UpdateSpec
from rank_lab.stored_tensor import StoredTensor

__all__ = ["Stack", "plan_stacks", "split_stacks"]

_NESTED = ".base_layer"
_FACTORS = {".lora_A.weight": "A", ".lora_B.weight": "B"}
_ELSEWHERE = "adapted as a stack of experts, which this base stores under other names; no norms relative to it"


@dataclass(frozen=True)
class Level:
    """The two factors of one parameter, for all experts: A is ``(E r, in)``, B ``(out, r E)``."""

    A: StoredTensor
    B: StoredTensor


@dataclass(frozen=True)
class Stack:
    """The adapted parameters of one module.

    Parameters
    ----------
    parameters
        Their names, by the config.
    levels
        Their factors, outermost wrapper first: which is whose, the names do not say.
    """

    parameters: tuple[str, ...]
    levels: tuple[Level, ...]


def split_stacks(
    tensors: Mapping[str, StoredTensor], recipe: AdapterRecipe | None
) -> tuple[dict[str, Stack], dict[str, StoredTensor]]:
    """Factors of parameters, by module, and all other tensors.

    Raises
    ------
    UnsupportedUpdateError
        If the config names parameters without their module.
    PairingError
        If factors are missing.
    """
    if recipe is None or not recipe.parameters:
        return {}, dict(tensors)
    bare = [name for name in recipe.parameters if "." not in name]
    if bare:
        raise UnsupportedUpdateError(
            f"target_parameters={bare[0]!r} names a parameter without its module, so that its factors cannot be told"
            " from a module's. Merge the adapter and compare with --base."
        )
    found: dict[str, dict[int, dict[str, StoredTensor]]] = {}
    plain: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        ending = next((end for end in _FACTORS if name.endswith(end)), "")
        module = strip_wrappers(name.removesuffix(ending))
        if not ending or not _parameters_of(module, recipe):
            plain[name] = tensor
            continue
        depth = name.count(_NESTED)
        found.setdefault(module, {}).setdefault(depth, {})[_FACTORS[ending]] = tensor
    return {module: _stack(module, levels, recipe) for module, levels in found.items()}, plain


def plan_stacks(
    stacks: Mapping[str, Stack],
    recipe: AdapterRecipe,
    weights: Mapping[str, StoredTensor],
    base: Checkpoint | None,
) -> tuple[list[UpdateSpec], list[CoverageRow], dict[str, str]]:
    """One update per expert of every stack.

    Parameters
    ----------
    stacks, recipe
        From :func:`split_stacks` and the config.
    weights
        The base's stacks by ``module.parameter``; a base may store its experts one by one.
    base
        For the rows of such experts.

    Returns
    -------
    specs, rows, reasons
        The reasons are those why rows of the base are skipped.
    """
    specs: list[UpdateSpec] = []
    rows: list[CoverageRow] = []
    reasons: dict[str, str] = {}
    for module, stack in stacks.items():
        for parameter, level in _assigned(module, stack, weights).items():
            path = f"{module}.{parameter}"
            unfit = next((text for part in (level.A, level.B) if (text := unreadable(part))), "")
            found = [] if unfit else list(_experts(path, level, recipe, weights.get(path)))
            elsewhere = base is not None and path not in weights
            specs += [replace(spec, note=_joined(spec.note, _ELSEWHERE)) if elsewhere else spec for spec in found]
            parts = tuple(spec.module for spec in found)
            rows += [_row(tensor, path, parts, unfit) for tensor in (level.A, level.B)]
            if base is not None and elsewhere:
                reasons |= dict.fromkeys(_experts_of_layer(module, base), _ELSEWHERE)
    return specs, rows, reasons


def _row(tensor: StoredTensor, path: str, parts: tuple[str, ...], unfit: str) -> CoverageRow:
    row = CoverageRow(tensor.name, "tuned", "analysed", tuned=tensor)
    if unfit:
        return row.but("skipped", unfit, failed=True)
    if parts == (path,):
        return replace(row, module=path)
    return replace(row, module=path, parts=parts, reason=f"{len(parts)} experts: {len(parts)} updates")


def _experts_of_layer(module: str, base: Checkpoint) -> list[str]:
    """The base's experts, one by one, of the layer that a stack belongs to."""
    place = identify(module)
    by_name = {name: identify(strip_wrappers(name)) for name in base.tensors}
    return [n for n, found in by_name.items() if found.expert is not None and found.layer == place.layer]


def _parameters_of(module: str, recipe: AdapterRecipe) -> tuple[str, ...]:
    split = (name.rpartition(".") for name in recipe.parameters)
    return tuple(leaf for parent, _, leaf in split if f".{module}".endswith(f".{parent}"))


def _stack(module: str, levels: Mapping[int, Mapping[str, StoredTensor]], recipe: AdapterRecipe) -> Stack:
    names = _parameters_of(module, recipe)
    for parts in levels.values():
        if len(parts) != 2 or any(len(tensor.shape) != 2 for tensor in parts.values()):
            tensor = next(iter(parts.values()))
            raise PairingError(
                f"{tensor.file}: module {module!r} has {tensor.name!r} but not both lora_A and lora_B as matrices; the"
                " file is incomplete: save the adapter again."
            )
    if len(levels) != len(names):
        tensor = next(iter(next(iter(levels.values())).values()))
        raise PairingError(
            f"{tensor.file}: module {module!r} holds the factors of {len(levels)} parameters, but target_parameters"
            f" names {len(names)} of it ({', '.join(names)}); config and weights are of different adapters."
        )
    return Stack(names, tuple(Level(**levels[depth]) for depth in sorted(levels)))


def _assigned(module: str, stack: Stack, weights: Mapping[str, StoredTensor]) -> dict[str, Level]:
    """Which factors are whose: by the base's shapes, or because one expert's output is the other's input."""
    choices = [dict(zip(order, stack.levels, strict=True)) for order in permutations(stack.parameters)]
    fitting = [c for c in choices if all(_fits(level, weights.get(f"{module}.{name}")) for name, level in c.items())]
    if len(fitting) > 1 and set(stack.parameters) == {"gate_up_proj", "down_proj"}:
        fitting = [choice for choice in fitting if _gated(choice["gate_up_proj"], choice["down_proj"])]
    if len(fitting) == 1:
        return fitting[0]
    tensor = stack.levels[0].A
    what = "several ways" if fitting else "no way"
    raise UnsupportedUpdateError(
        f"{tensor.file}: the factors of {module!r} fit its parameters ({', '.join(stack.parameters)}) in {what}, and"
        " their names do not say whose they are; give the base that stores these stacks, or merge the adapter and"
        " compare with --base."
    )


def _fits(level: Level, weight: StoredTensor | None) -> bool:
    sides = (level.B.shape[0], level.A.shape[1])
    return weight is None or (len(weight.shape) in {2, 3} and weight.shape[-2:] in {sides, sides[::-1]})


def _gated(gate_up: Level, down: Level) -> bool:
    """Whether the halves of the first, multiplied, are what the second takes, and both see the model's width."""
    return gate_up.B.shape[0] == 2 * down.A.shape[1] and gate_up.A.shape[1] == down.B.shape[0]


def _experts(path: str, level: Level, recipe: AdapterRecipe, weight: StoredTensor | None) -> Iterator[UpdateSpec]:
    rank = _rank(path, level, recipe)
    count, out, across = level.A.shape[0] // rank, level.B.shape[0], level.A.shape[1]
    if weight is not None and len(readable_weight(weight).shape) == 3 and weight.shape[0] != count:
        raise ShapeMismatchError(
            f"{weight.file}: {weight.name!r} holds {weight.shape[0]} experts, but the adapter {count}; the base is"
            " another model's: give the adapter's own."
        )
    for expert in range(count):
        stacked = weight is not None and len(weight.shape) == 3
        module = expert_module(path, expert) if stacked or count > 1 else path
        identity = identify(module)
        yield UpdateSpec(
            module=module,
            identity=replace(identity, expert=expert) if module != path else identity,
            update_kind="lora",
            shape=(out, across),
            rank_bound=min(rank, out, across),
            sources=(
                # PEFT counts experts slowest along A's rows and fastest along B's columns.
                ("B", level.B.select(1, period=count, start=expert, length=1)),
                ("A", level.A.view((rank, across), start=expert * rank * across)),
            ),
            scaling=recipe.scaling(path, rank),
            weight=weight and weight.view(weight.shape[-2:], start=expert * weight.shape[-2] * weight.shape[-1]),
            note=recipe.doubt(path),
        )


def _joined(note: str, text: str) -> str:
    return f"{note}; {text}" if note else text


def _rank(path: str, level: Level, recipe: AdapterRecipe) -> int:
    """The rank of one expert, which the config alone tells: the file has it times the number of experts."""
    ranks = sorted(set(recipe.ranks(path)))
    if len(ranks) == 1 and level.A.shape[0] % ranks[0] == 0 and level.B.shape[1] == level.A.shape[0]:
        return ranks[0]
    raise ShapeMismatchError(
        f"{level.A.file}: {path!r}: A is {list(level.A.shape)} and B {list(level.B.shape)}, of which the config's rank"
        f" {' or '.join(map(str, ranks))} makes no number of experts; restore the adapter_config.json that was saved"
        " with it."
    )
