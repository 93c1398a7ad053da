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
_UNKNOWN = "orientation unknown ({why}): shape given as stored, spectrum unaffected"


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
    config = next((source.config for source in sources if source.model_type is not None), None)
    if config is None:
        return False, _UNKNOWN.format(why="no config.json names the architecture")
    known = _CONV1D.get(str(config["model_type"]))
    if known is not None:
        return leaf in known, ""
    part = next((name for name, value in config.items() if _is_conv1d_config(value)), None)
    if part is not None:  # an encoder and a decoder in one: which of them a name belongs to, the config does not say
        return False, _UNKNOWN.format(
            why=f"{part} of the {config['model_type']} model is a {config[part]['model_type']}"
        )
    return False, ""


def _is_conv1d_config(value: object) -> bool:
    return isinstance(value, dict) and value.get("model_type") in _CONV1D
