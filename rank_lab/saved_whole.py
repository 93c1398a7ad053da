"""What an adapter's files hold beside the adapter, and what of the base it leaves alone."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from rank_lab.checkpoint import Checkpoint
from rank_lab.conversion import names_in_memory
from rank_lab.coverage import CoverageRow, Side, VectorChange, not_compared, unreadable
from rank_lab.errors import CheckpointError, PairingError
from rank_lab.key_space import aligned, canonical, nearest_pairs
from rank_lab.names import identify, may_be_tied
from rank_lab.orientation import stored_transposed
from rank_lab.spec import BASE_IS_TIED, UpdateSpec, common_rows, dense_spec
from rank_lab.stored_tensor import StoredTensor

__all__ = [
    "Fate",
    "base_key",
    "base_rows",
    "base_weights",
    "bias_of_factor",
    "of_training",
    "readable_weight",
    "refuse_empty",
    "saved_whole",
]

_BIAS_OF_FACTOR = re.compile(r"(?P<module>.+?)\.lora_B(\.(?!bias$)\w+)?\.bias")
_OF_TRAINING = {
    "lora_velora_": "what VeLoRA compresses activations with while it trains, no part of the update",
    "lora_monteclora_": "what Monte-CLoRA samples factors with while it trains; the update is that of their mean",
}


@dataclass(frozen=True)
class Fate:
    """What became of one tensor: its row, and the update or vector that it is."""

    row: CoverageRow
    spec: UpdateSpec | None = None
    vector: VectorChange | None = None


def base_weights(
    modules: Iterable[str], others: Iterable[str], base: Checkpoint | None, *, optional: Iterable[str] = ()
) -> dict[str, StoredTensor]:
    """The base's tensors by the adapter's names for them.

    Parameters
    ----------
    modules
        Those whose ``.weight`` the base must have, but for a tied head's.
    others
        Names of tensors that the base may have.
    base
        None gives nothing.
    optional
        Further names, of the parameters in stacks.

    Raises
    ------
    PairingError
        If the base lacks a weight: it is another model's.
    """
    if base is None:
        return {}
    needed = {f"{module}.weight": module for module in modules}
    found = canonical(base.tensors, base.source)
    biases = [f"{module}.bias" for module in needed.values()]
    wanted = list(dict.fromkeys([*needed, *biases, *others, *optional]))
    weights = _by_name(wanted, found)
    if any(name not in weights for name in needed):  # adapters go by the names in memory
        weights = max(weights, _by_name(wanted, names_in_memory(found, base)), key=len)
    missing = [name for name, module in needed.items() if name not in weights and identify(module).kind != "head"]
    if missing:  # a tied head is not stored
        raise PairingError(
            f"{base.source}: has no weight for {len(missing)} adapted modules; nearest:"
            f" {nearest_pairs(missing, list(found))}. Is it the model that the adapter was trained on?"
        )
    return weights


def _by_name(wanted: list[str], found: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    wanted_keys, base_keys = aligned(wanted, list(found))
    by_key = {base_keys[name]: tensor for name, tensor in found.items()}
    return {name: by_key[key] for name, key in wanted_keys.items() if key in by_key}


def readable_weight(weight: StoredTensor) -> StoredTensor:
    """The weight itself.

    Raises
    ------
    CheckpointError
        If its values are packed or quantised.
    """
    if text := unreadable(weight):
        raise CheckpointError(
            f"{weight.file}: tensor {weight.name!r} of the base is {text}, or leave out --base: an adapter needs none."
        )
    return weight


def saved_whole(
    key: str, tensor: StoredTensor, partner: StoredTensor | None, base: Checkpoint | None, adapted: Iterable[str]
) -> Fate:
    """What becomes of a tensor beside the adapter's own.

    Parameters
    ----------
    key, tensor
        Name without wrappers, and the tensor.
    partner
        The base's tensor of that name.
    base
        The base, or None.
    adapted
        Modules that have an adapter of their own.
    """
    row = CoverageRow(tensor.name, "tuned" if partner is None else "both", "skipped", tuned=tensor, base=partner)
    if reason := _aside(key):
        return Fate(row.but("skipped", reason))
    unfit = not_compared(row, tensor, *(() if partner is None else (partner,)))
    if unfit is not None:
        return Fate(unfit)
    if reason := _broken(key, tensor, partner):
        return Fate(row.but("skipped", reason, failed=True))
    if base is None:
        reason = "saved whole beside the adapter (modules_to_save, bias or an embedding): its change needs --base"
        return Fate(row.but("skipped", reason))
    if partner is None:
        return _beside_a_tied_embedding(row, key, tensor, base)
    if len(tensor.shape) != 2:
        return Fate(row.but("vector", ""), vector=VectorChange(tensor.name, tensor, partner))
    module = key.removesuffix(".weight")
    transposed, note = stored_transposed(key, (base,))
    spec = dense_spec(module, tensor, partner, transposed=transposed, note=note)
    if module in adapted:  # PEFT saves an adapted embedding's own weight too, which may have been resized
        spec = replace(spec, module=f"{module}.base_layer")
    reason = "; ".join(text for text in ("saved whole beside the adapter", spec.note if spec.rows else "") if text)
    return Fate(replace(row, status="analysed", reason=reason, module=spec.module), spec)


def _beside_a_tied_embedding(row: CoverageRow, key: str, tensor: StoredTensor, base: Checkpoint) -> Fate:
    """A head of its own where the base ties it to its embedding is compared with that; all else is new."""
    module = key.removesuffix(".weight")
    alike = {
        name: found
        for name, found in canonical(base.tensors, base.source).items()
        if may_be_tied(module, name.removesuffix(".weight")) and found.shape == tensor.shape
    }
    tied = base.config.get("tie_word_embeddings") is True
    if not tied or len(alike) != 1 or len(tensor.shape) != 2 or unreadable(next(iter(alike.values()))):
        return Fate(row.but("new", "saved whole beside the adapter and not in the base"))
    ((name, embedding),) = alike.items()
    note = f"{BASE_IS_TIED} to {name}, compared with that"
    spec = dense_spec(module, tensor, embedding, note=note)
    return Fate(replace(row, status="analysed", reason=note, module=module), spec)


def bias_of_factor(
    key: str, tensor: StoredTensor, partner: StoredTensor | None, scaling: Callable[[str], float]
) -> Fate | None:
    """What becomes of a bias beside ``lora_B``: a change of the bias; None if this is no such tensor.

    Parameters
    ----------
    key, tensor, partner
        As for :func:`saved_whole`.
    scaling
        Of a module's update, and of this change.
    """
    match = _BIAS_OF_FACTOR.fullmatch(key)
    if match is None:
        return None
    side: Side = "tuned" if partner is None else "both"
    reason = "bias beside lora_B: a change of the bias, not of the weight"
    row = CoverageRow(tensor.name, side, "vector", reason, tuned=tensor, base=partner)
    unfit = not_compared(row, tensor)
    if unfit is not None:
        return Fate(unfit)
    return Fate(row, vector=VectorChange(tensor.name, tensor, None, scaling(match["module"])))


def base_rows(
    base: Checkpoint,
    specs: Iterable[UpdateSpec],
    rows: Iterable[CoverageRow],
    *,
    reasons: Mapping[str, str] | None = None,
) -> list[CoverageRow]:
    """Rows of the base's tensors that no row names yet.

    Parameters
    ----------
    base
        All its tensors get a row.
    specs, rows
        What was found so far.
    reasons
        Tensors that neither were adapted nor stayed as they were, and why they are skipped.
    """
    paired = {row.base.name for row in rows if row.base is not None}
    adapted = {spec.weight.name for spec in specs if spec.weight is not None}
    found = []
    for tensor in base.tensors.values():
        if tensor.name in paired:
            continue
        row = CoverageRow(tensor.name, "base", "identical", "not adapted: frozen", base=tensor)
        if tensor.name in adapted:
            row = row.but("analysed", "its update is the adapter's")
        elif reasons and tensor.name in reasons:
            row = row.but("skipped", reasons[tensor.name])
        found.append(row)
    return found + [CoverageRow(name, "base", "skipped", reason) for name, reason in base.set_aside]


def refuse_empty(rows: list[CoverageRow], others: int, tuned: Checkpoint) -> None:
    """Refuse an adapter without any update.

    Raises
    ------
    CheckpointError
        Always; with the first failure, if any.
    """
    failed = next((row for row in rows if row.failed), None)
    if failed is not None:
        detail = f"{failed.tensor}: {failed.reason}"
    else:
        detail = f"{others} tensors, none of them the adapter's own (lora_A, lora_B ...); save the adapter again"
    raise CheckpointError(f"{tuned.source}: no update can be read from this adapter; {detail}.")


def base_key(key: str) -> str:
    """Key of the base tensor that a tensor beside the factors changes."""
    match = _BIAS_OF_FACTOR.fullmatch(key)
    return f"{match['module']}.bias" if match is not None else key


def of_training(key: str) -> str:
    """What a tensor is that a LoRA needs while it trains and that its update does not; empty if it is none.

    Examples
    --------
    >>> of_training("layers.0.q_proj.lora_velora_embed"), of_training("layers.0.q_proj.lora_A.weight")
    ('what VeLoRA compresses activations with while it trains, no part of the update', '')
    """
    return next((text for part, text in _OF_TRAINING.items() if f".{part}" in key), "")


def _aside(key: str) -> str:
    if text := of_training(key):
        return text
    if ".original_module." in key:
        return "the frozen original of a module that was saved whole"
    return ""


def _broken(key: str, tensor: StoredTensor, partner: StoredTensor | None) -> str:
    if partner is None or tensor.shape == partner.shape:
        return ""
    if common_rows(tensor, partner, key.removesuffix(".weight")) is not None:
        return ""
    return f"shape {list(tensor.shape)} against {list(partner.shape)} in the base: not the same module"
