"""Which updates an extracted LoRA can carry, under which path, and why the others cannot."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from rank_lab.checkpoint import Checkpoint
from rank_lab.coverage import Plan
from rank_lab.model_layers import model_layers
from rank_lab.names import may_be_tied, strip_wrappers
from rank_lab.spec import UpdateSpec
from rank_lab.ties import tied_to

__all__ = ["Part", "parts_of"]

LayerKind = Literal["linear", "conv1d", "embedding"]


@dataclass(frozen=True)
class Part:
    """One update and where it goes.

    Parameters
    ----------
    spec
        The update.
    path
        Of the module in the model that the adapter will be put on.
    kind
        Of its layer.
    refusal
        Why a LoRA cannot carry it; empty if it can.
    """

    spec: UpdateSpec
    path: str
    kind: LayerKind = "linear"
    refusal: str = ""


def parts_of(plan: Plan, tuned: Checkpoint, base: Checkpoint | None) -> tuple[Part, ...]:
    """Every update of a plan, with its path or the reason why it has none.

    Parameters
    ----------
    plan
        From :func:`rank_lab.pairing.plan_updates`.
    tuned, base
        What it was made of. Where a ``config.json`` names a class of transformers, paths and layers are those of
        that class; else they are taken from the names in the files.
    """
    config = next((each.config for each in (tuned, base) if each is not None and each.model_type is not None), {})
    layers = model_layers(config) if config else None
    tied = _tied(plan, config.get("tie_word_embeddings") is True)
    of = str((config.get("architectures") or [""])[0])
    return tuple(_part(spec, tuned, base, tied, layers, of) for spec in plan.specs)


def _part(
    spec: UpdateSpec,
    tuned: Checkpoint,
    base: Checkpoint | None,
    tied: Mapping[str, str],
    layers: Mapping[str, str] | None,
    of: str,
) -> Part:
    stored = spec.source("tuned") if spec.update_kind == "dense" else None
    path = spec.module if stored is None else strip_wrappers(stored.name).removesuffix(".weight")
    refusal = _of_file(spec, tuned, base)
    if not refusal and spec.update_kind == "dense" and spec.module in tied:  # an adapter's own change is there alone
        refusal = f"{tied[spec.module]} is tied to it: a LoRA here would not reach that"
    embedding = spec.transposed if spec.factored else spec.identity.kind == "embed"
    kind: LayerKind = "embedding" if embedding else "conv1d" if spec.transposed and not spec.factored else "linear"
    if refusal or layers is None:
        return Part(spec, path, kind, refusal)
    path = next((name for name in (path, spec.module) if name in layers), path)
    there = layers.get(path)
    if there is None:
        return Part(spec, path, kind, f"{of} has no layer at this path")
    if there not in {"linear", "conv1d", "embedding"}:
        return Part(spec, path, kind, f"a layer of {of} that is {there}: no LoRA of PEFT's fits it")
    return Part(spec, path, there)  # type: ignore[arg-type]


def _of_file(spec: UpdateSpec, tuned: Checkpoint, base: Checkpoint | None) -> str:
    if spec.identity.kind == "conv":
        return "a convolution: not extracted"
    if spec.identity.expert is not None:
        return "an expert: models hold them as a stack in memory, which is no module of its own"
    if spec.rows is not None:
        return f"{spec.note}: a LoRA changes all rows or none"
    if "orientation unknown" in spec.note:
        return spec.note
    for source, role in ((tuned, "tuned"), (base, "base")):
        tensor = spec.source(role) if spec.update_kind == "dense" else None
        if tensor is None or source is None:
            continue
        if source.tensors[tensor.name].shape != tensor.shape:
            return "a part of a stored tensor: no module of its own"
        if role == "tuned" and not tensor.name.endswith(".weight"):
            return "a parameter that is no module's weight"
    return ""


def _tied(plan: Plan, tie_word_embeddings: bool) -> dict[str, str]:
    found = dict(tied_to((row.tensor, row.reason) for row in plan.coverage))
    heads = [spec for spec in plan.specs if spec.identity.kind == "head" and spec.update_kind == "dense"]
    words = [spec for spec in plan.specs if may_be_tied("lm_head", spec.module)]
    if tie_word_embeddings:
        return found | {spec.module: "the output head" for spec in words}
    for head in heads:
        for embedding in words:
            if _same_bytes(head, embedding):
                found |= {embedding.module: head.module, head.module: embedding.module}
    return found


def _same_bytes(one: UpdateSpec, other: UpdateSpec) -> bool:
    pairs = [(one.source(role), other.source(role)) for role in ("tuned", "base")]
    if one.shape != other.shape or one.update_kind != other.update_kind:
        return False
    return all(a is not None and b is not None and a.digest() == b.digest() for a, b in pairs)
