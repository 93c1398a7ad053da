"""Weights from the Hugging Face Hub, through its own library.

Only what is needed to read weights is downloaded: the two configurations and
the weight files, chosen from the repository's file list before anything is
fetched. The cache, tokens, the endpoint, retries and offline mode are those of
`huggingface_hub` (``HF_HOME``, ``HF_HUB_CACHE``, ``HF_TOKEN``, ``HF_ENDPOINT``,
``HF_HUB_OFFLINE``); its progress bars go to stderr and
``HF_HUB_DISABLE_PROGRESS_BARS=1`` silences them.
"""

import glob
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from rank_lab.errors import CheckpointError
from rank_lab.hub_files import WEIGHT_PATTERNS, files_to_fetch

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

__all__ = ["fetch", "is_hub_id", "resolved_revision"]

_SEGMENT = r"\w(?:[\w.-]{0,94}\w)?"
_NAME = re.compile(rf"(?:{_SEGMENT}/)?{_SEGMENT}", re.ASCII)
_REVISION = re.compile(r"[^\s\\~^:?*\[@/.-](?:(?!\.\.)[^\s\\~^:?*\[])*")
_COMMIT = re.compile(r"[0-9a-f]{40}")

_FILE_EXTENSIONS = frozenset(
    [
        ".bin",
        ".ckpt",
        ".csv",
        ".git",
        ".gguf",
        ".gz",
        ".h5",
        ".json",
        ".jsonl",
        ".msgpack",
        ".npy",
        ".npz",
        ".onnx",
        ".parquet",
        ".pickle",
        ".pkl",
        ".pt",
        ".pth",
        ".py",
        ".safetensors",
        ".tar",
        ".toml",
        ".txt",
        ".yaml",
        ".yml",
        ".zip",
    ]
)
_WEIGHTS = frozenset([".bin", ".ckpt", ".gguf", ".h5", ".msgpack", ".npz", ".onnx", ".pt", ".pth", ".safetensors"])


@dataclass(frozen=True)
class _Repository:
    """What a hub id names: a repository, and perhaps one of its revisions."""

    name: str
    revision: str | None

    def __str__(self) -> str:
        return repr(self.name if self.revision is None else f"{self.name}@{self.revision}")


def is_hub_id(source: str) -> bool:
    """Tell whether a text has the form of a hub id rather than of a local path.

    Only the form is looked at: neither the disk nor the network is asked, so a
    caller tries an existing local path of the same name first.

    Parameters
    ----------
    source
        ``name``, ``org/name``, or either followed by ``@revision``.

    Returns
    -------
    bool
        False for what looks like a path: a start with ``.``, ``/`` or ``~``,
        more than one slash, a backslash, or the extension of a known file type.

    Examples
    --------
    >>> [is_hub_id(text) for text in ("gpt2", "org/name", "org/name@refs/pr/1")]
    [True, True, True]
    >>> [is_hub_id(text) for text in ("./gpt2", "runs/a/final", "model.safetensors")]
    [False, False, False]
    """
    name, at, revision = source.partition("@")
    if at and not _REVISION.fullmatch(revision):
        return False
    if not _NAME.fullmatch(name) or "--" in name or ".." in name:
        return False
    return PurePosixPath(name).suffix.lower() not in _FILE_EXTENSIONS


def fetch(source: str, *, revision: str | None = None) -> Path:
    """Download the weights of a hub repository, or find them in the local cache.

    Parameters
    ----------
    source
        ``name`` or ``org/name``, optionally followed by ``@revision``.
    revision
        Branch, tag or commit hash; the default branch unless given here or in
        `source`.

    Returns
    -------
    Path
        The snapshot folder in the cache; `resolved_revision` tells its commit.
        Other programs may have put more files of that commit there.

    Raises
    ------
    CheckpointError
        Where the id is malformed, the repository, the revision or its weights
        are not there, access is refused, or the hub cannot be reached and the
        cache does not hold all that is needed.

    Notes
    -----
    In offline mode no request is made. Where the hub cannot be reached or fails
    on its side, the cached state of the revision is used, as `huggingface_hub`
    itself does: pin a commit where that matters.
    """
    from huggingface_hub import HfApi, constants

    repository = _parse(source, revision)
    try:
        info = HfApi().model_info(repository.name, revision=repository.revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception as error:  # the library's many kinds, each put in one line
        if _is_unreachable(error):
            return _fetch_from_cache(repository, error)
        raise _failure(repository, error) from error
    names = [sibling.rfilename for sibling in info.siblings or ()]
    wanted = files_to_fetch(names)
    if not wanted:
        raise _no_weights(repository, names)
    try:
        folder = _snapshot(repository, wanted)
    except Exception as error:  # as above
        raise _failure(repository, error) from error
    _require_complete(repository, folder, wanted)
    return folder


def resolved_revision(folder: Path) -> str | None:
    """Tell the commit of a snapshot folder of the hub's cache.

    Parameters
    ----------
    folder
        A folder returned by `fetch`, or a path inside one.

    Returns
    -------
    str or None
        The full commit hash, which the cache uses as the folder's name under
        ``snapshots/``; None for a path outside of such a cache.

    Examples
    --------
    >>> resolved_revision(Path("models--org--name/snapshots") / ("0" * 40)) == "0" * 40
    True
    >>> resolved_revision(Path("runs/final")) is None
    True
    """
    path = folder.absolute()
    for candidate in (path, *path.parents):
        snapshots = candidate.parent
        in_cache = snapshots.name == "snapshots" and snapshots.parent.name.startswith("models--")
        if in_cache and _COMMIT.fullmatch(candidate.name):
            return candidate.name
    return None


def _parse(source: str, revision: str | None) -> _Repository:
    """Split a hub id, and settle its revision."""
    if not is_hub_id(source):
        raise CheckpointError(
            f"{source!r} is neither an existing local path nor a hub id. Expected a path of a file"
            " or folder, or 'name', 'org/name' or 'org/name@revision'. Check the path's spelling."
        )
    name, _, own = source.partition("@")
    if own and revision is not None and own != revision:
        raise CheckpointError(
            f"{source!r} names revision {own!r}, and the revision option says {revision!r}."
            " Expected one revision for a repository. Remove one of the two."
        )
    chosen = own or revision
    if chosen is not None and not _REVISION.fullmatch(chosen):
        raise CheckpointError(
            f"{chosen!r} cannot be a revision of {name!r}. Expected a branch, a tag or a commit"
            " hash in the revision option. Leave it out for the default branch."
        )
    return _Repository(name=name, revision=chosen)


def _snapshot(repository: _Repository, wanted: Sequence[str], *, cached: bool = False) -> Path:
    """Have the library download exactly the files wanted, or find its cached folder."""
    from huggingface_hub import snapshot_download

    folder = snapshot_download(
        repository.name,
        revision=repository.revision,
        allow_patterns=[glob.escape(name) for name in wanted],
        local_files_only=cached,
    )
    return Path(folder)


def _fetch_from_cache(repository: _Repository, reason: Exception) -> Path:
    """Find the weights in the cache, where the hub could not be asked."""
    try:
        folder = _snapshot(repository, [], cached=True)
    except (OSError, ValueError) as error:  # the library's kinds: not cached, or a malformed name
        kind = reason if isinstance(error, FileNotFoundError) else error
        raise _failure(repository, kind) from reason
    wanted = files_to_fetch(_known_names(repository, folder))
    if not wanted:
        raise CheckpointError(
            f"{repository} has no weights in the local cache {folder}. Expected them there, as the"
            f" hub was not reached ({_brief(reason)}). Run once with HF_HUB_OFFLINE=0."
        )
    _require_complete(repository, folder, wanted)
    return folder


def _known_names(repository: _Repository, folder: Path) -> list[str]:
    """List the repository's files as last seen; failing that, those in the cache."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        tree = get_cached_repo_tree(repository.name, revision=folder.name)
    except CachedRepoTreeNotFoundError:  # put there file by file, by another program
        return _names_in(folder)
    return [file.path for file in tree]


def _names_in(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def _require_complete(repository: _Repository, folder: Path, wanted: Iterable[str]) -> None:
    """Refuse a snapshot folder that lacks a file that was chosen."""
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{repository} is incomplete in the local cache {folder}: {missing[0]!r} is missing"
            f" ({len(missing)} in all). Expected every weight file of the repository's own list."
            " Run again with network access (HF_HUB_OFFLINE=0)."
        )


def _is_unreachable(error: Exception) -> bool:
    """Tell whether the hub gave no usable answer: offline, no network, or down."""
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code == 429 or error.response.status_code >= 500
    return _is_network(error)


def _is_network(error: Exception) -> bool:
    """Tell an error of the connection; whose HTTP client it is depends on the version."""
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    return isinstance(error, (HTTPError, ConnectionError, TimeoutError))


def _brief(error: Exception) -> str:
    """Put an error of the library in one short line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300]


def _no_weights(repository: _Repository, names: Sequence[str]) -> CheckpointError:
    weights = [name for name in names if PurePosixPath(name).suffix in _WEIGHTS]
    found = ", ".join(map(repr, weights[:3])) or "no file of a known weight format"
    return CheckpointError(
        f"{repository} holds no weights that can be read (its {len(names)} files include {found})."
        f" Expected {', '.join(WEIGHT_PATTERNS)} in its root or in checkpoint-*/ folders."
        " Choose another repository or revision, or download the folder and pass its path."
    )


def _failure(repository: _Repository, error: Exception) -> CheckpointError:
    """Say in one line why the library could not deliver a repository."""
    from huggingface_hub import constants, errors

    cause = error.__cause__
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(cause, Exception):
        error = cause  # a file of the download was refused: the cause is the news
    if isinstance(error, errors.OfflineModeIsEnabled):
        return CheckpointError(
            f"{repository} is neither a local path nor in the local cache {constants.HF_HUB_CACHE}."
            " Expected it there, as offline mode (HF_HUB_OFFLINE) forbids downloading."
            " Run once with HF_HUB_OFFLINE=0, or set HF_HOME to the cache that holds it."
        )
    if isinstance(error, errors.HfHubHTTPError):
        return _refusal(repository, error)
    if _is_network(error):
        return CheckpointError(
            f"{repository} cannot be downloaded: the hub at {constants.ENDPOINT} cannot be reached"
            f" ({_brief(error)}). Expected the hub, as the cache {constants.HF_HUB_CACHE} lacks it."
            " Check the network, the proxy and HF_ENDPOINT, or pass the path of a local folder."
        )
    return CheckpointError(
        f"{repository} could not be downloaded ({_brief(error)}). Expected model files from the hub"
        f" at {constants.ENDPOINT} and a writable cache {constants.HF_HUB_CACHE}."
        " Check HF_ENDPOINT, HF_HOME and the free disk space, then run again."
    )


def _refusal(repository: _Repository, error: "HfHubHTTPError") -> CheckpointError:
    """Say in one line what the hub's refusal of a request means."""
    from huggingface_hub import constants, errors, get_token

    status, page = error.response.status_code, f"{constants.ENDPOINT}/{repository.name}"
    not_there = isinstance(error, errors.RepositoryNotFoundError)
    if not_there and not isinstance(error, errors.GatedRepoError):
        return CheckpointError(
            f"{repository} is neither a local path nor a repository of the hub at"
            f" {constants.ENDPOINT}, as far as this token may see. Expected an existing path or"
            " a hub id such as 'org/name'. Check the spelling; if it is private, set HF_TOKEN."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return CheckpointError(
            f"{repository.name!r} has no revision {repository.revision or 'main'!r} on the hub."
            " Expected a branch, a tag or a full commit hash, after '@' or in the revision option."
            f" Look it up at {page}/tree/main, or leave it out for the default branch."
        )
    if status in (401, 403):
        token = "no token was sent" if get_token() is None else "the token sent was refused"
        return CheckpointError(
            f"{repository} is closed to this user: the hub answered {status}, and {token}."
            " Expected a valid token that may read it, from HF_TOKEN or 'hf auth login'."
            f" Renew the token, or ask for access to a gated repository at {page}."
        )
    reason = " ".join((error.server_message or "no reason given").split())[:200]
    return CheckpointError(
        f"{repository} could not be downloaded: the hub at {constants.ENDPOINT} answered {status}"
        f" ({reason}). Expected its files. Check HF_ENDPOINT, run again later, or pass a folder."
    )
