"""Which weights lie transposed in their file: from knowledge of the architecture, never from shapes."""

from rank_lab.checkpoint import Checkpoint

__all__ = ["stored_transposed"]

# Model types whose linear layers are transformers' Conv1D, which stores (in, out),
# and the leaves that are; read off the modelling files of transformers 5.23.
_CONV1D = {
    "gpt2": ("c_attn", "c_proj", "c_fc", "q_attn"),
    "openai-gpt": ("c_attn", "c_proj", "c_fc"),
    "imagegpt": ("c_attn", "c_proj", "c_fc", "q_attn"),
    "decision_transformer": ("c_attn", "c_proj", "c_fc", "q_attn"),
    "clvp": ("c_fc", "c_proj"),
}
_LEAVES = frozenset(leaf for leaves in _CONV1D.values() for leaf in leaves)


def stored_transposed(key: str, sources: tuple[Checkpoint, ...]) -> tuple[bool, str]:
    """Whether a weight is stored ``(in, out)``, and what to say if nobody knows.

    Parameters
    ----------
    key
        Name of the weight.
    sources
        Checkpoints whose ``config.json`` may name the architecture, best first.

    Returns
    -------
    transposed, note
        The note is empty unless the name is one that Conv1D models use and no
        config says whether this is such a model.
    """
    leaf = key.removesuffix(".weight").rsplit(".", 1)[-1]
    if leaf not in _LEAVES:
        return False, ""
    model_type = next((source.model_type for source in sources if source.model_type is not None), None)
    if model_type is None:
        return (
            False,
            "orientation unknown (no config.json names the architecture): shape given as stored, spectrum unaffected",
        )
    return leaf in _CONV1D.get(model_type, ()), ""
