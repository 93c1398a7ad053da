"""The folder of a model: a local one, or the hub's, fetched with the tokenizer that belongs to it."""

from pathlib import Path

from rank_lab.errors import CheckpointError
from rank_lab.hub import fetch, is_hub_id, resolved_revision

__all__ = ["model_folder"]

_BESIDE = (
    "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "spiece.model",
    "generation_config.json", "training.json", "trainer_state.json",
)  # fmt: skip


def model_folder(source: str | Path) -> Path:
    """Where a model's files are; those of a hub id are downloaded, or found in the cache.

    Parameters
    ----------
    source
        A folder, or a hub id, optionally followed by ``@revision``.

    Raises
    ------
    CheckpointError
        If it is neither, or cannot be fetched.

    Examples
    --------
    >>> from rank_lab.demo import BASE
    >>> model_folder(BASE) == BASE
    True
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    text = str(source)
    if path.exists() or not is_hub_id(text):
        raise CheckpointError(f"{text}: is no folder; give a checkpoint's or an adapter's, or a hub id.")
    folder = fetch(text)
    _fetch_beside(text.partition("@")[0], resolved_revision(folder))
    return folder


def _fetch_beside(name: str, revision: str | None) -> None:
    """What is not there is not missed here: that a tokenizer is needed is said when it is."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    patterns = [*_BESIDE, *(f"checkpoint-*/{name}" for name in _BESIDE)]
    try:
        snapshot_download(name, revision=revision, allow_patterns=patterns)
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, ConnectionError):
        return
