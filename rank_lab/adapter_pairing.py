"""An adapter in PEFT's format or loralib's: by its method, what there is to analyse."""

import re
from collections.abc import Mapping
from dataclasses import replace

from rank_lab.adapter_config import refuse_other_settings
from rank_lab.checkpoint import Checkpoint
from rank_lab.coverage import CoverageRow, Plan, VectorChange, not_compared
from rank_lab.errors import PairingError, UnsupportedUpdateError
from rank_lab.factor_pairing import is_factored, plan_factors
from rank_lab.key_space import canonical
from rank_lab.merged_pairing import plan_merged
from rank_lab.names import natural_order
from rank_lab.peft_methods import MERGED, REFUSED, VECTORS, WITHOUT_UPDATE, Merging, lora_variant
from rank_lab.saved_whole import Fate, base_key, base_rows, base_weights, saved_whole
from rank_lab.spec import UpdateSpec
from rank_lab.stored_tensor import StoredTensor
from rank_lab.token_rows import is_token_rows, plan_token_rows

__all__ = ["is_adapter", "plan_adapter"]

_STARTS_IN_FLOAT32 = frozenset({"pissa", "olora"})


def is_adapter(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint is an adapter in PEFT's format, or holds LoRA factors."""
    return checkpoint.adapter_config is not None or is_factored(checkpoint)


def plan_adapter(
    tuned: Checkpoint,
    base: Checkpoint | None,
    *,
    lora_alpha: float | None = None,
    initial: Checkpoint | None = None,
) -> Plan:
    """Updates of an adapter; see :func:`rank_lab.pairing.plan_updates`.

    A method that changes no weight gives a plan without updates, whose rows say what it does.

    Parameters
    ----------
    tuned, base, lora_alpha, initial
        As there.

    Raises
    ------
    UnsupportedUpdateError
        If the method is unknown, or its files do not determine the update; it is named.
    """
    config = tuned.adapter_config or {}
    tokens = {name: tensor for name, tensor in tuned.tensors.items() if is_token_rows(name)}
    plan = _without_tokens(tuned, base, tokens, lora_alpha=lora_alpha, initial=initial)
    fates = plan_token_rows(tokens, config, tuned, base)
    found = [fate.spec for fate in fates if fate.spec is not None]
    adapted = {spec.weight.name for spec in found if spec.weight is not None}
    rows = [
        row.but("analysed", "its update is the adapter's") if row.side == "base" and row.tensor in adapted else row
        for row in plan.coverage
    ]
    specs = sorted([*plan.specs, *found], key=lambda spec: natural_order(spec.module))
    return replace(plan, specs=tuple(specs), coverage=(*rows, *(fate.row for fate in fates)))


def _without_tokens(
    tuned: Checkpoint,
    base: Checkpoint | None,
    tokens: Mapping[str, StoredTensor],
    *,
    lora_alpha: float | None,
    initial: Checkpoint | None,
) -> Plan:
    config, file = tuned.adapter_config or {}, tuned.folder / "adapter_config.json"
    method = str(config.get("peft_type", "missing"))
    variant = lora_variant(config) if method == "LORA" else ""
    factored = tuned.adapter_config is None or (method in {"LORA", "LOFTQ", "ADALORA", "SORA"} and not variant)
    if initial is not None and not factored:
        raise PairingError(f"{file}: --initial-adapter is for factors that are added to the weight, not for {method}.")
    if factored:
        return plan_factors(tuned, base, lora_alpha=lora_alpha, initial=initial, beside=tokens)
    if lora_alpha is not None:
        raise PairingError(f"{file}: records what scales {method}; leave out --lora-alpha.")
    if variant == "merged":
        return plan_merged(tuned, base, "DORA", _dora(tuned, str(file)), tokens)
    if method in MERGED:
        return plan_merged(tuned, base, method, MERGED[method], tokens)
    if method in VECTORS or method == "TRAINABLE_TOKENS":
        return _plan_vectors(tuned, base, method, tokens)
    if variant or method in WITHOUT_UPDATE:
        return _plan_without(tuned, base, method, variant or WITHOUT_UPDATE[method])
    if method in REFUSED:
        raise UnsupportedUpdateError(
            f"{file}: peft_type {method} {REFUSED[method]}. Merge the adapter and compare with --base."
        )
    raise UnsupportedUpdateError(
        f"{file}: peft_type {method} is not known here. Merge the adapter into its base and compare the two with"
        " --base."
    )


def _dora(tuned: Checkpoint, file: str) -> Merging:
    config = dict(tuned.adapter_config or {})
    refuse_other_settings({name: value for name, value in config.items() if name != "use_dora"}, file)
    init = config.get("init_lora_weights", True)
    start = init.lower() if isinstance(init, str) else ""
    if start in {"corda", "lora_ga", "loftq"} or start.startswith("pissa_niter"):
        raise UnsupportedUpdateError(
            f"{file}: use_dora with init_lora_weights={init!r}: the base was changed at the start in a way that cannot"
            " be repeated, and a magnitude was trained on it. Merge the adapter and compare with the original base by"
            " --base."
        )
    if config.get("target_parameters") or config.get("kasa_config") or config.get("use_bdlora"):
        raise UnsupportedUpdateError(
            f"{file}: use_dora with target_parameters, kasa_config or use_bdlora is no combination of PEFT's."
        )
    return Merging(
        "lora_", bias=bool(config.get("lora_bias")), dtype="float32" if start in _STARTS_IN_FLOAT32 else "float64"
    )


def _plan_vectors(tuned: Checkpoint, base: Checkpoint | None, method: str, tokens: Mapping[str, StoredTensor]) -> Plan:
    """A method that trains vectors only: norms and biases, compared with the base's or added to them."""
    if base is None and method != "BEFT":
        raise PairingError(
            f"{tuned.folder / 'adapter_config.json'}: {method} stores new values, not changes; give the model that it"
            " was trained on as --base."
        )
    prefix = VECTORS.get(method, "")
    part = re.compile(rf"(?P<module>.+?)\.{prefix}\w*(\.(?P<leaf>weight|bias))?") if prefix else None
    names = canonical({n: t for n, t in tuned.tensors.items() if n not in tokens}, tuned.source)
    matches = {name: part.fullmatch(name) if part else None for name in names}
    keys = {name: _vector_key(match) if match else base_key(name) for name, match in matches.items()}
    weights = base_weights([], [*keys.values(), *map(_tied_bias, keys.values())], base)
    keys = {name: key if key in weights else _tied_bias(key) for name, key in keys.items()}
    rows: list[CoverageRow] = []
    vectors: list[VectorChange] = []
    specs: list[UpdateSpec] = []
    for name, tensor in names.items():
        partner = weights.get(keys[name])
        match = matches[name]
        if match is None:
            fate = saved_whole(keys[name], tensor, partner, base, ())
            rows.append(fate.row)
            specs += [fate.spec] if fate.spec is not None else []
            vectors += [fate.vector] if fate.vector is not None else []
            continue
        row, vector = _vector(tensor, partner, added=match["leaf"] is None)
        rows.append(row)
        vectors += [vector] if vector is not None else []
    rows += [CoverageRow(name, "tuned", "skipped", reason) for name, reason in tuned.set_aside]
    if base is not None:
        adapted = {weights[key].name: "its change stands with the adapter's" for key in keys.values() if key in weights}
        rows += base_rows(base, specs, rows, reasons=adapted)
    return Plan(tuple(specs), tuple(rows), method.lower(), tuple(vectors))


def _tied_bias(key: str) -> str:
    """Where the base keeps the bias of a head for masked tokens, which transformers ties to the head's decoder."""
    return key.removesuffix(".decoder.bias") + ".bias" if key.endswith(".decoder.bias") else key


def _vector_key(match: re.Match[str]) -> str:
    return f"{match['module']}.{match['leaf'] or 'bias'}"


def _vector(
    tensor: StoredTensor, partner: StoredTensor | None, *, added: bool
) -> tuple[CoverageRow, VectorChange | None]:
    row = CoverageRow(tensor.name, "tuned", "vector", "added to the bias" if added else "", tuned=tensor)
    unfit = not_compared(row, tensor)
    if unfit is not None:
        return unfit, None
    if added:
        return row, VectorChange(tensor.name, tensor, None)
    if partner is None or partner.shape != tensor.shape:
        return row.but("skipped", "the base has no such norm or bias: is it the adapter's own?", failed=True), None
    return replace(row, side="both", base=partner), VectorChange(tensor.name, tensor, partner)


def _plan_without(tuned: Checkpoint, base: Checkpoint | None, method: str, reason: str) -> Plan:
    """No update but of the modules that were saved whole, such as a new head."""
    text = f"{method}: {reason}; there is no weight update to analyse"
    names = canonical(tuned.tensors, tuned.source)
    # PEFT puts a model whose input it prompts under "base_model." alone
    whole = {name: name.removeprefix("base_model.") for name in names if _is_saved_whole(name, tuned)}
    weights = base_weights([], whole.values(), base)
    rows: list[CoverageRow] = []
    fates: list[Fate] = []
    for name, tensor in names.items():
        if key := whole.get(name):
            fates.append(saved_whole(key, tensor, weights.get(key), base, ()))
        else:
            rows.append(CoverageRow(tensor.name, "tuned", "new", text, tuned=tensor))
    rows += [fate.row for fate in fates]
    rows += [CoverageRow(name, "tuned", "skipped", aside) for name, aside in tuned.set_aside]
    specs = [fate.spec for fate in fates if fate.spec is not None]
    vectors = [fate.vector for fate in fates if fate.vector is not None]
    if base is not None:
        adapted = {weight.name: "its change stands with the adapter's" for weight in weights.values()}
        rows += base_rows(base, specs, rows, reasons=adapted)
    return Plan(tuple(specs), tuple(rows), method.lower(), tuple(vectors))


def _is_saved_whole(name: str, tuned: Checkpoint) -> bool:
    """Whether the config names the module of a tensor, as PEFT compares them."""
    modules = (tuned.adapter_config or {}).get("modules_to_save") or []
    parts = name.split(".")
    return any(
        isinstance(module, str) and parts[start : start + module.count(".") + 1] == module.split(".")
        for module in modules
        for start in range(len(parts))
    )
