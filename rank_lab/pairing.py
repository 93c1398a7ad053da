"""Which tensors of base and tuned form which update, and what does not pair and why.

Pairing is by name in the files' own key space. Never by order, never by shape,
never by substring: what does not meet by a stated rule is refused or becomes a
row with a reason.
"""

from rank_lab.checkpoint import Checkpoint
from rank_lab.coverage import CoverageRow, Plan, VectorChange, not_compared, unreadable
from rank_lab.errors import PairingError
from rank_lab.factor_pairing import is_factored, plan_factors
from rank_lab.key_space import aligned, canonical, layer_counts, nearest_pairs
from rank_lab.names import Identity, identify, natural_order
from rank_lab.orientation import stored_transposed
from rank_lab.spec import UpdateSpec, since
from rank_lab.stored_tensor import StoredTensor

__all__ = ["plan_step", "plan_updates"]


def plan_updates(tuned: Checkpoint, base: Checkpoint | None = None, *, lora_alpha: float | None = None) -> Plan:
    """Pair the tensors of two checkpoints into updates, from headers and configs alone.

    Parameters
    ----------
    tuned
        Full checkpoint, PEFT adapter or loralib file.
    base
        What it was tuned from; adapters need none, but then norms relative to
        the weights are missing.
    lora_alpha
        Numerator of LoRA's scaling for files that do not record it (loralib).

    Raises
    ------
    PairingError
        If base and tuned are not two checkpoints of one model, or a base is
        needed and missing.
    UnsupportedUpdateError
        If the adapter's method is not analysed yet; it is named.
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
    if base is not None and (base.adapter_config is not None or is_factored(base)):
        raise PairingError(f"{base.source}: the base is an adapter; give the full model that it was trained on.")
    if base is not None and _same_files(tuned, base):
        raise PairingError(
            f"{base.source}: base and tuned are the same files; give the model as it was before fine-tuning as --base."
        )
    if tuned.adapter_config is not None or is_factored(tuned):
        return plan_factors(tuned, base, lora_alpha=lora_alpha)
    if base is None:
        raise PairingError(
            f"{tuned.source}: a full checkpoint shows no update by itself; give what it was tuned from as --base."
        )
    return _plan_dense(tuned, base)


def plan_step(now: Plan, before: Plan | None) -> tuple[UpdateSpec, ...]:
    """Specs of the change from one checkpoint of a trajectory to the next.

    Parameters
    ----------
    now, before
        Cumulative plans; ``before=None`` at the first checkpoint.

    Raises
    ------
    PairingError
        If the modules of the two differ in kind or shape.
    """
    if before is None:
        return now.specs
    earlier = {spec.module: spec for spec in before.specs}
    return tuple(since(spec, earlier.get(spec.module)) for spec in now.specs)


def _same_files(tuned: Checkpoint, base: Checkpoint) -> bool:
    return {tensor.file.resolve() for tensor in tuned.tensors.values()} == {
        tensor.file.resolve() for tensor in base.tensors.values()
    }


def _plan_dense(tuned: Checkpoint, base: Checkpoint) -> Plan:
    tuned_tensors, base_tensors = _keyed(tuned, base)
    _refuse_other_key_space(tuned_tensors, base_tensors, tuned, base)
    specs: list[UpdateSpec] = []
    vectors: list[VectorChange] = []
    rows: list[CoverageRow] = []
    for key, tensor in tuned_tensors.items():
        partner = base_tensors.get(key)
        if tensor.name in tuned.tied:
            rows.append(
                CoverageRow(
                    tensor.name,
                    "tuned",
                    "skipped",
                    f"tied to {tuned.tied[tensor.name]}, counted there",
                    tuned=tensor,
                    base=partner,
                )
            )
        elif partner is None:
            rows.append(_only_tuned(key, tensor, tuned_tensors, base_tensors, base, specs))
        else:
            rows.append(_both(key, tensor, partner, (tuned, base), specs, vectors))
    used = {row.base.name for row in rows if row.base is not None}
    rows += [_only_base(tensor, base) for tensor in base_tensors.values() if tensor.name not in used]
    rows += [CoverageRow(name, "tuned", "skipped", reason) for name, reason in tuned.set_aside]
    rows += [CoverageRow(name, "base", "skipped", reason) for name, reason in base.set_aside]
    if not specs:
        _refuse_empty(rows, tuned, base)
    return Plan(tuple(sorted(specs, key=lambda spec: natural_order(spec.module))), tuple(rows), "full", tuple(vectors))


def _keyed(tuned: Checkpoint, base: Checkpoint) -> tuple[dict[str, StoredTensor], dict[str, StoredTensor]]:
    tuned_names, base_names = canonical(tuned.tensors, tuned.source), canonical(base.tensors, base.source)
    tuned_keys, base_keys = aligned(list(tuned_names), list(base_names))
    return ({tuned_keys[n]: t for n, t in tuned_names.items()}, {base_keys[n]: t for n, t in base_names.items()})


def _refuse_other_key_space(
    tuned: dict[str, StoredTensor], base: dict[str, StoredTensor], tuned_source: Checkpoint, base_source: Checkpoint
) -> None:
    readable = {
        side: [n for n, t in found.items() if not unreadable(t)] for side, found in (("tuned", tuned), ("base", base))
    }
    tuned_layers, base_layers = layer_counts(readable["tuned"]), layer_counts(readable["base"])
    for stack in sorted(tuned_layers.keys() & base_layers.keys()):
        if tuned_layers[stack] != base_layers[stack]:
            raise PairingError(
                f"{tuned_source.source} has {len(tuned_layers[stack])} layers in {stack!r}, {base_source.source} has"
                f" {len(base_layers[stack])}: layers were inserted or removed, and pairing by number would compare"
                " different layers. Give the base that has the same layers."
            )
    only_tuned = [n for n in readable["tuned"] if n not in base and _layer_matrix(n, tuned[n])]
    only_base = [n for n in readable["base"] if n not in tuned and _layer_matrix(n, base[n])]
    if only_tuned and only_base:
        raise PairingError(
            f"{len(only_tuned)} layer matrices of {tuned_source.source} and {len(only_base)} of {base_source.source}"
            f" have no partner by name; nearest: {nearest_pairs(only_tuned, only_base)}. Save both with the same"
            " version of the same library."
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
) -> CoverageRow:
    row = CoverageRow(tensor.name, "both", "analysed", tuned=tensor, base=partner)
    aside = not_compared(row, tensor, partner)
    if aside is not None:
        return aside
    module = key.removesuffix(".weight")
    identity = identify(module)
    rows = _common_rows(tensor, partner, identity)
    if tensor.shape != partner.shape and rows is None:
        return row.but(
            "skipped",
            f"shape {list(tensor.shape)} against {list(partner.shape)} in the base: not the same module",
            failed=True,
        )
    if len(tensor.shape) != 2 or _is_vector(key):
        vectors.append(VectorChange(tensor.name, tensor, partner))
        return row.but(
            "vector", "" if len(tensor.shape) < 2 or _is_vector(key) else f"{len(tensor.shape)} dimensions: norm only"
        )
    transposed, note = stored_transposed(key, sources)
    specs.append(_dense_spec(module, identity, (tensor, partner), transposed, rows, note))
    return CoverageRow(tensor.name, "both", "analysed", _resized(tensor, partner, rows), module, tensor, partner)


def _is_vector(key: str) -> bool:
    return key.endswith((".bias", "_bias")) and not key.endswith("relative_attention_bias")


def _common_rows(tensor: StoredTensor, partner: StoredTensor, identity: Identity) -> int | None:
    if identity.kind not in {"embed", "head"} or len(tensor.shape) != 2 or len(partner.shape) != 2:
        return None
    if tensor.shape == partner.shape or tensor.shape[1] != partner.shape[1]:
        return None
    return min(tensor.shape[0], partner.shape[0])


def _resized(tensor: StoredTensor, partner: StoredTensor, rows: int | None) -> str:
    if rows is None:
        return ""
    side, count = ("tuned", tensor.shape[0] - rows) if tensor.shape[0] > rows else ("base", partner.shape[0] - rows)
    return f"vocabulary resized: {rows} common rows compared, {count} rows only in the {side} checkpoint"


def _dense_spec(
    module: str,
    identity: Identity,
    pair: tuple[StoredTensor, StoredTensor],
    transposed: bool,
    rows: int | None,
    note: str,
) -> UpdateSpec:
    tensor, partner = pair
    stored = (tensor.shape[0] if rows is None else rows, tensor.shape[1])
    notes = [text for text in (note, _resized(tensor, partner, rows)) if text]
    return UpdateSpec(
        module=module,
        identity=identity,
        update_kind="dense",
        shape=(stored[1], stored[0]) if transposed else stored,
        rank_bound=min(stored),
        sources=(("tuned", tensor), ("base", partner)),
        transposed=transposed,
        rows=rows,
        weight=partner,
        note="; ".join(notes),
    )


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
    identity = identify(key.removesuffix(".weight"))
    if identity.kind != "head" or base.config.get("tie_word_embeddings") is not True:
        return row
    embeddings = [
        k
        for k in base_tensors
        if identify(k.removesuffix(".weight")).kind == "embed" and base_tensors[k].shape == tensor.shape and k in tuned
    ]
    if len(embeddings) != 1:
        return row
    module = key.removesuffix(".weight")
    note = f"the base ties this head to {embeddings[0]}; compared with that"
    specs.append(_dense_spec(module, identity, (tensor, base_tensors[embeddings[0]]), False, None, note))
    return CoverageRow(tensor.name, "tuned", "analysed", note, module, tensor)


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
