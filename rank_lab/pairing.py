"""Which tensors of base and tuned form which update, and what does not pair and why.

Pairing is by name in the files' own key space. Never by order, never by shape,
never by substring: what does not meet by a stated rule is refused or becomes a
row with a reason.
"""

from dataclasses import replace

from rank_lab.adapter_pairing import is_adapter, plan_adapter
from rank_lab.checkpoint import Checkpoint
from rank_lab.conversion import by_stored_tensor, common_keys
from rank_lab.coverage import CoverageRow, Plan, Side, VectorChange, belongs_to_packed, not_compared, unreadable
from rank_lab.errors import PairingError
from rank_lab.factor_pairing import is_factored
from rank_lab.foreign_adapters import plan_foreign
from rank_lab.foreign_names import foreign_format, refuse_merged_factors, saved_in_full
from rank_lab.fused_pairing import pair_fused
from rank_lab.key_space import canonical, layer_counts, nearest_pairs
from rank_lab.matrices import matrix_specs, stored_as
from rank_lab.names import has_vocabulary, identify, may_be_tied, natural_order
from rank_lab.spec import BASE_IS_TIED, UpdateSpec, common_rows, dense_spec, since
from rank_lab.stored_tensor import StoredTensor

__all__ = ["plan_step", "plan_updates", "stores_adapter"]


def plan_updates(
    tuned: Checkpoint,
    base: Checkpoint | None = None,
    *,
    lora_alpha: float | None = None,
    initial: Checkpoint | None = None,
    split_fused: bool = False,
) -> Plan:
    """Pair the tensors of two checkpoints into updates, from headers and configs alone.

    Parameters
    ----------
    tuned
        Full checkpoint, adapter (PEFT's, kohya's and LyCORIS', diffusers',
        MLX's, torchtune's) or loralib file.
    base
        What it was tuned from. Factors that are added to a weight (LoRA's) need
        none, but then norms relative to the weights are missing; adapters of
        methods that depend on the weight (DoRA, IA3, VeRA ...) need it.
    lora_alpha
        Numerator of LoRA's scaling for files that do not record it (loralib,
        torchtune).
    initial
        The adapter as it was saved before the first step of training, for
        initialisations that take something out of the base (PiSSA, CorDA,
        LoRA-GA ...): the update is that against the original base.
    split_fused
        Take fused weights of full checkpoints (q, k and v; gate and up) apart,
        where :mod:`rank_lab.fused_weights` knows how; by default they stay one
        matrix, which is what an adapter sees.

    Raises
    ------
    PairingError
        If base and tuned are not two checkpoints of one model, or a base is
        needed and missing.
    UnsupportedUpdateError
        If the adapter's method is not known, or its files do not determine the update; it is named.
    ShapeMismatchError
        If factors do not fit together or do not fit the base weight.

    Examples
    --------
    >>> import tempfile, torch
    >>> from pathlib import Path
    >>> from safetensors.torch import save_file
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name, value in (("base", 0.0), ("tuned", 1.0)):
    ...     (folder / name).mkdir()
    ...     save_file({"h.0.q_proj.weight": torch.full((4, 3), value)}, folder / name / "model.safetensors")
    >>> plan = plan_updates(Checkpoint.open(folder / "tuned"), Checkpoint.open(folder / "base"))
    >>> plan.specs[0].module, plan.specs[0].shape
    ('h.0.q_proj', (4, 3))
    """
    if base is not None and (is_adapter(base) or foreign_format(base)):
        raise PairingError(f"{base.source}: the base is an adapter; give the full model that it was trained on.")
    if base is not None and _same_files(tuned, base):
        raise PairingError(
            f"{base.source}: base and tuned are the same files; give the model as it was before fine-tuning as --base."
        )
    kind, adapter = foreign_format(tuned), stores_adapter(tuned)
    if adapter and split_fused:
        raise PairingError(f"{tuned.source}: an adapter's updates are not taken apart; leave out --split-fused.")
    if initial is not None and (kind is not None or not adapter):
        what = f"{kind}'s adapter" if kind is not None else "a full checkpoint"
        raise PairingError(f"{tuned.source}: {what} has no initial adapter; leave out --initial-adapter.")
    if kind is not None:
        return plan_foreign(tuned, base, kind, lora_alpha=lora_alpha)
    if adapter:
        if tuned.adapter_config is None:
            refuse_merged_factors(tuned)
        return plan_adapter(tuned, base, lora_alpha=lora_alpha, initial=initial)
    if lora_alpha is not None:
        raise PairingError(f"{tuned.source}: a full checkpoint has no LoRA scaling; leave out --lora-alpha.")
    if base is None:
        raise PairingError(
            f"{tuned.source}: a full checkpoint shows no update by itself; give what it was tuned from as --base."
        )
    return _plan_dense(tuned, base, split_fused=split_fused)


def stores_adapter(checkpoint: Checkpoint) -> bool:
    """Whether the files hold an adapter, and not the weights of a model.

    Parameters
    ----------
    checkpoint
        Any.
    """
    if foreign_format(checkpoint) is not None or is_factored(checkpoint):
        return True
    return checkpoint.adapter_config is not None and not saved_in_full(checkpoint)


def plan_step(now: Plan, before: Plan | None) -> tuple[UpdateSpec, ...]:
    """Specs of the change from one checkpoint of a trajectory to the next.

    Parameters
    ----------
    now, before
        Cumulative plans; ``before=None`` at the first checkpoint.

    Raises
    ------
    PairingError
        If the modules of the two differ in name, kind or shape.
    """
    if before is None:
        return now.specs
    earlier = {spec.module: spec for spec in before.specs}
    for spec in now.specs:
        if spec.module not in earlier:
            tensor = spec.sources[0][1]
            raise PairingError(
                f"{tensor.file}: {tensor.name!r} could not be compared in the checkpoint before, so that its change"
                " since then is not known; a trajectory must be of one training run: analyse the checkpoints apart."
            )
    return tuple(since(spec, earlier[spec.module]) for spec in now.specs)


def _same_files(tuned: Checkpoint, base: Checkpoint) -> bool:
    return {tensor.file.resolve() for tensor in tuned.tensors.values()} == {
        tensor.file.resolve() for tensor in base.tensors.values()
    }


def _plan_dense(tuned: Checkpoint, base: Checkpoint, *, split_fused: bool) -> Plan:
    tuned_tensors, base_tensors = _keyed(tuned, base)
    _refuse_other_layers(tuned_tensors, base_tensors, tuned, base)
    tied = _tied(tuned_tensors, base_tensors, tuned, base)
    fused = pair_fused(tuned_tensors, base_tensors, (tuned, base))
    tuned_tensors = {key: tensor for key, tensor in tuned_tensors.items() if key not in fused.tuned_keys}
    base_tensors = {key: tensor for key, tensor in base_tensors.items() if key not in fused.base_keys}
    _refuse_other_key_space(tuned_tensors, base_tensors, tuned, base)
    specs: list[UpdateSpec] = list(fused.specs)
    vectors: list[VectorChange] = list(fused.vectors)
    rows: list[CoverageRow] = list(fused.rows)
    for key, tensor in tuned_tensors.items():
        partner = base_tensors.get(key)
        if key in tied:
            side: Side = "tuned" if partner is None else "both"
            reason = f"tied to {tuned.tied[tensor.name]}, counted there"
            rows.append(CoverageRow(tensor.name, side, "skipped", reason, tuned=tensor, base=partner))
        elif partner is None:
            rows.append(_only_tuned(key, tensor, tuned_tensors, base_tensors, base, specs))
        else:
            rows.append(_both(key, tensor, partner, (tuned, base), specs, vectors, split_fused=split_fused))
    used = {row.base.name for row in rows if row.base is not None}
    rows += [_only_base(tensor, base) for tensor in base_tensors.values() if tensor.name not in used]
    rows, vectors = by_stored_tensor(rows, vectors, tuned, base)
    rows += [CoverageRow(name, "tuned", "skipped", reason) for name, reason in tuned.set_aside]
    rows += [CoverageRow(name, "base", "skipped", reason) for name, reason in base.set_aside]
    if not specs:
        _refuse_empty(rows, tuned, base)
    return Plan(tuple(sorted(specs, key=lambda spec: natural_order(spec.module))), tuple(rows), "full", tuple(vectors))


def _tied(
    tuned: dict[str, StoredTensor], base: dict[str, StoredTensor], tuned_source: Checkpoint, base_source: Checkpoint
) -> set[str]:
    """Keys whose tensor shares its storage with another key's, on both sides as far as both have it."""
    keys = {tensor.name: key for key, tensor in tuned.items()}
    found = set()
    for name, first in tuned_source.tied.items():
        partner, partner_of_first = base.get(keys[name]), base.get(keys[first])
        storages = {base_source.tied.get(t.name, t.name) for t in (partner, partner_of_first) if t is not None}
        if partner is None or (partner_of_first is not None and len(storages) == 1):
            found.add(keys[name])
    return found


def _keyed(tuned: Checkpoint, base: Checkpoint) -> tuple[dict[str, StoredTensor], dict[str, StoredTensor]]:
    return common_keys(canonical(tuned.tensors, tuned.source), canonical(base.tensors, base.source), (tuned, base))


def _refuse_other_layers(
    tuned: dict[str, StoredTensor], base: dict[str, StoredTensor], tuned_source: Checkpoint, base_source: Checkpoint
) -> None:
    tuned_layers, base_layers = layer_counts(list(tuned)), layer_counts(list(base))
    for stack in sorted(tuned_layers.keys() & base_layers.keys()):
        only_tuned = sorted(tuned_layers[stack] - base_layers[stack])
        only_base = sorted(base_layers[stack] - tuned_layers[stack])
        if only_tuned or only_base:
            raise PairingError(
                f"{tuned_source.source} has {len(tuned_layers[stack])} layers in {stack!r}, {base_source.source} has"
                f" {len(base_layers[stack])} (only the first has {only_tuned[:4]}, only the second {only_base[:4]}):"
                " layers or experts were inserted or removed, and pairing by number would compare different ones."
                " Give the base that has the same."
            )


def _refuse_other_key_space(
    tuned: dict[str, StoredTensor], base: dict[str, StoredTensor], tuned_source: Checkpoint, base_source: Checkpoint
) -> None:
    only_tuned = [t for n, t in tuned.items() if n not in base and _layer_matrix(n, t)]
    only_base = [t for n, t in base.items() if n not in tuned and _layer_matrix(n, t)]
    packed = next((t for t in only_tuned + only_base if unreadable(t)), None)
    if only_tuned and only_base and packed is not None:
        raise PairingError(f"{packed.file}: tensor {packed.name!r} is {unreadable(packed)}.")
    if only_tuned and only_base:
        near = nearest_pairs([t.name for t in only_tuned], [t.name for t in only_base])
        raise PairingError(
            f"{len(only_tuned)} layer matrices of {tuned_source.source} and {len(only_base)} of {base_source.source}"
            f" have no partner by name; nearest: {near}. Save both with the same version of the same library."
        )


def _layer_matrix(name: str, tensor: StoredTensor) -> bool:
    return len(tensor.shape) >= 2 and identify(name).layer is not None


def _both(
    key: str,
    tensor: StoredTensor,
    partner: StoredTensor,
    sources: tuple[Checkpoint, Checkpoint],
    specs: list[UpdateSpec],
    vectors: list[VectorChange],
    *,
    split_fused: bool,
) -> CoverageRow:
    row = CoverageRow(tensor.name, "both", "analysed", tuned=tensor, base=partner)
    aside = not_compared(row, tensor, partner) or belongs_to_packed(row, tensor, sources[0].tensors)
    if aside is not None:
        return aside
    module = key.removesuffix(".weight")
    if tensor.shape != partner.shape and common_rows(tensor, partner, module) is None:
        shapes = f"shape {list(tensor.shape)} against {list(partner.shape)} in the base"
        if len(tensor.shape) == len(partner.shape) == 1 and has_vocabulary(key.removesuffix(".bias")):
            return row.but("skipped", f"{shapes}: one value per token of a resized vocabulary")
        return row.but("skipped", f"{shapes}: not the same module", failed=True)
    vector = len(tensor.shape) < 2 or _is_vector(key)
    found = () if vector else matrix_specs(key, tensor, partner, sources, split_fused=split_fused)
    if not found:
        vectors.append(VectorChange(tensor.name, tensor, partner))
        return row.but("vector", "" if vector else f"{len(tensor.shape)} dimensions: norm only")
    specs += found
    reason = found[0].note if found[0].rows else stored_as(found)
    parts = tuple(spec.module for spec in found) if len(found) > 1 or found[0].module != module else ()
    return replace(row, reason=reason, module=module, parts=parts)


def _is_vector(key: str) -> bool:
    return key.endswith((".bias", "_bias")) and not key.endswith("relative_attention_bias")


def _only_tuned(
    key: str,
    tensor: StoredTensor,
    tuned: dict[str, StoredTensor],
    base_tensors: dict[str, StoredTensor],
    base: Checkpoint,
    specs: list[UpdateSpec],
) -> CoverageRow:
    row = CoverageRow(tensor.name, "tuned", "new", "only in the tuned checkpoint", tuned=tensor)
    aside = not_compared(row, tensor)
    if aside is not None:
        return aside
    module = key.removesuffix(".weight")
    if base.config.get("tie_word_embeddings") is not True:
        return row
    named = {k: t for k, t in base_tensors.items() if may_be_tied(module, k.removesuffix(".weight"))}
    embeddings = [k for k, t in named.items() if _fits_head(t, tuned.get(k), tensor)]
    if len(embeddings) != 1:
        return row
    note = f"{BASE_IS_TIED} to {embeddings[0]}, compared with that"
    specs.append(dense_spec(module, tensor, base_tensors[embeddings[0]], note=note))
    return CoverageRow(tensor.name, "tuned", "analysed", note, module, tensor)


def _fits_head(base: StoredTensor, tuned: StoredTensor | None, head: StoredTensor) -> bool:
    if tuned is None or unreadable(base):
        return False
    return tuned.shape == head.shape and base.shape[1:] == head.shape[1:] and len(head.shape) == 2


def _only_base(tensor: StoredTensor, base: Checkpoint) -> CoverageRow:
    row = CoverageRow(tensor.name, "base", "skipped", "only in the base", base=tensor)
    if tensor.name in base.tied:
        return row.but("skipped", f"tied to {base.tied[tensor.name]} in the base")
    return not_compared(row, tensor) or row


def _refuse_empty(rows: list[CoverageRow], tuned: Checkpoint, base: Checkpoint) -> None:
    failed = next((row for row in rows if row.failed), None)
    if failed is not None:
        raise PairingError(
            f"{tuned.source}: no matrix can be compared with {base.source}; {failed.tensor}: {failed.reason}."
        )
    raise PairingError(
        f"{tuned.source} and {base.source} share no matrix by name; nearest: "
        f"{nearest_pairs(list(tuned.tensors), list(base.tensors))}. Are they of one model?"
    )
