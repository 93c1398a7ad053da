"""Bringing the names of two files into one key space, by stated rules only."""

import difflib
from collections.abc import Mapping, Sequence

from rank_lab.errors import PairingError
from rank_lab.names import strip_wrappers
from rank_lab.stored_tensor import StoredTensor

__all__ = ["aligned", "canonical", "layer_counts", "nearest_pairs"]

# transformers' base_model_prefix values: the name under which a model with a head keeps its body.
BODY_PREFIXES = (
    "model", "transformer", "bert", "roberta", "distilbert", "electra", "deberta", "albert", "gpt_neox", "mpnet",
    "camembert", "xlm_roberta", "ernie", "biogpt", "gte", "nomic_bert", "language_model",
)  # fmt: skip
_PREFIXES = (*((f"{prefix}.", "") for prefix in BODY_PREFIXES), ("model.language_model.", "model."))


_MOST_COMPARED = 5000  # names, for an error message: each takes some ten microseconds


def canonical(tensors: Mapping[str, StoredTensor], source: str) -> dict[str, StoredTensor]:
    """Tensors by name without wrappers (``module.``, ``_orig_mod.``, ``base_model.model.`` ...).

    Raises
    ------
    PairingError
        If two names become one.
    """
    found: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        short = strip_wrappers(name)
        if short in found:
            raise PairingError(
                f"{source}: {found[short].name!r} and {name!r} are the same name once wrappers are stripped; the file"
                " mixes two models: save the one that is meant by itself."
            )
        found[short] = tensor
    return found


def aligned(tuned: Sequence[str], base: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Map both sets of names to common keys by stripping one known body prefix from one of them.

    A model saved with its head keeps its body under a prefix (``bert.``,
    ``model.``), one saved without does not; one that also sees images keeps its
    text part under ``language_model.`` or ``model.language_model.``. Of the known prefixes the one that
    makes most names meet is stripped; where none helps, names stay as they are.

    Parameters
    ----------
    tuned, base
        Canonical names.

    Returns
    -------
    tuned_keys, base_keys
        Name to common key, one to one on each side.

    Examples
    --------
    >>> aligned(["bert.layer.0.q.weight", "classifier.weight"], ["layer.0.q.weight"])[0]["bert.layer.0.q.weight"]
    'layer.0.q.weight'
    """
    identity_tuned, identity_base = {name: name for name in tuned}, {name: name for name in base}
    best = (identity_tuned, identity_base)
    most = len(set(tuned) & set(base))
    for start, instead in _PREFIXES:
        for keys in (
            (_stripped(tuned, start, instead), identity_base),
            (identity_tuned, _stripped(base, start, instead)),
        ):
            if keys[0] is None or keys[1] is None:
                continue
            shared = len(set(keys[0].values()) & set(keys[1].values()))
            if shared > most:
                best, most = (keys[0], keys[1]), shared
    return best


def nearest_pairs(tuned: Sequence[str], base: Sequence[str], *, count: int = 3) -> str:
    """The names of one side, each beside the most similar of the other, for an error message."""
    pairs = []
    for name in tuned[:count]:
        near = difflib.get_close_matches(name, base[:_MOST_COMPARED], n=1, cutoff=0.0)
        pairs.append(f"{name} ~ {near[0] if near else 'nothing'}")
    return "; ".join(pairs)


def layer_counts(names: Sequence[str]) -> dict[str, set[int]]:
    """Numbers of layers and of experts, by the path before the number.

    Examples
    --------
    >>> layer_counts(["h.0.mlp.experts.3.w1.weight", "h.1.attn.c_attn.weight"])
    {'h': {0, 1}, 'h.0.mlp.experts': {3}}
    """
    found: dict[str, set[int]] = {}
    for name in names:
        parts = name.split(".")
        at = [i for i, part in enumerate(parts) if part.isdecimal()]
        for i in at:
            if i == at[0] or "expert" in parts[i - 1]:
                found.setdefault(".".join(parts[:i]), set()).add(int(parts[i]))
    return found


def _stripped(names: Sequence[str], start: str, instead: str) -> dict[str, str] | None:
    keys = {name: instead + name.removeprefix(start) if name.startswith(start) else name for name in names}
    changed = any(name.startswith(start) for name in names)
    return keys if changed and len(set(keys.values())) == len(keys) else None
