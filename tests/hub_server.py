"""A small Hugging Face Hub on 127.0.0.1, for tests that must not use the network.

It answers what `huggingface_hub` asks for when it lists and downloads a model
repository: model info, the file tree, HEAD and GET of files; and what `datasets` asks of a
repository added as ``datasets/org/name``. Large files (weights)
are answered with a redirect to another host, as the Hub does with its CDN, so
that tests can see whether the token stays with the Hub. Status codes and the
``X-Error-*`` headers are those the real Hub sends, as read in `huggingface_hub`.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from types import TracebackType
from typing import Any, ClassVar, Self
from urllib.parse import quote, unquote, urlsplit

ROOT = Path(__file__).parents[1]
Files = Mapping[str, bytes]
LARGE = (".safetensors", ".bin", ".pt", ".gguf")


def git_blob(content: bytes) -> str:
    """Return git's name of a file's content, which is the Hub's ETag of a small file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content: bytes) -> str:
    """Return the name of a large file's content."""
    return hashlib.sha256(content).hexdigest()


@dataclass
class Repository:
    """A model repository: its commits, what its branches point at, and who may read it."""

    name: str
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    private: bool = False

    def commit(self, files: Files, *, branch: str = "main") -> str:
        """Add a commit with exactly these files, move a branch to it, return its hash."""
        summary = json.dumps([self.name, len(self.commits), sorted(files)])
        commit = hashlib.sha1(summary.encode()).hexdigest()
        self.commits[commit] = dict(files)
        self.refs[branch] = commit
        return commit

    def resolve(self, revision: str) -> str | None:
        """Return the commit that a branch, a tag or a hash names."""
        return revision if revision in self.commits else self.refs.get(revision)


@dataclass(frozen=True)
class Request:
    """One request as the server saw it."""

    method: str
    path: str
    authorized: bool
    cdn: bool


class HubServer:
    """The Hub of a test: a context manager that serves repositories and records requests.

    `tokens` maps a valid token to the names of the closed repositories it may read.
    `failing` is a status that every request is then answered with, `failing_files`
    one for files alone; `extra_size` is added to the sizes told of large files.
    """

    def __init__(self, *, tokens: Mapping[str, set[str]] | None = None) -> None:
        self.repositories: dict[str, Repository] = {}
        self.tokens = dict(tokens or {})
        self.failing: int | None = None
        self.failing_files: int | None = None
        self.extra_size = 0
        self.requests: list[Request] = []
        self._lock = Lock()
        self._hub = _listener(self, cdn=False)
        self._cdn = _listener(self, cdn=True)

    @property
    def url(self) -> str:
        """The address for ``HF_ENDPOINT``."""
        return f"http://127.0.0.1:{self._hub.server_port}"

    @property
    def cdn_url(self) -> str:
        """The address that large files are redirected to."""
        return f"http://localhost:{self._cdn.server_port}"

    def add(self, name: str, files: Files, *, gated: bool = False, private: bool = False) -> Repository:
        """Add a repository with one commit on ``main``."""
        repository = Repository(name, gated=gated, private=private)
        repository.commit(files)
        self.repositories[name] = repository
        return repository

    def record(self, request: Request) -> None:
        """Remember a request."""
        with self._lock:
            self.requests.append(request)

    def bodies(self) -> list[str]:
        """Return the names of the files whose content was asked for, in order."""
        paths = [request.path for request in self.requests if request.method == "GET"]
        found = [re.fullmatch(r"/(?:.+/resolve|blob)/[^/]+/(.+)", path) for path in paths]
        return [match.group(1) for match in found if match]

    def blob(self, digest: str) -> bytes | None:
        """Return the large file of this digest, whichever repository it is in."""
        for repository in self.repositories.values():
            for files in repository.commits.values():
                for content in files.values():
                    if sha256(content) == digest:
                        return content
        return None

    def __enter__(self) -> Self:
        """Start to serve."""
        for server in (self._hub, self._cdn):
            Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop to serve; later connections are refused."""
        self.stop()

    def stop(self) -> None:
        """Take the server down; doing so twice does nothing."""
        for server in (self._hub, self._cdn):
            server.shutdown()
            server.server_close()


def _listener(hub: HubServer, *, cdn: bool) -> ThreadingHTTPServer:
    handler = type("Handler", (_Handler,), {"hub": hub, "cdn": cdn})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    return server


class _Handler(BaseHTTPRequestHandler):
    """One connection: decides which of the Hub's answers a request gets."""

    protocol_version = "HTTP/1.1"
    hub: ClassVar[HubServer]
    cdn: ClassVar[bool]

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        authorized = "Authorization" in self.headers
        self.hub.record(Request(self.command, unquote(path), authorized, self.cdn))
        if self.hub.failing is not None:
            self._refuse(self.hub.failing, None, "Repairs", "They go on\nfor an hour")
        elif self.cdn:
            self._content(path)
        elif match := re.fullmatch(r"/api/(datasets/[^/]+/[^/]+)/tree/([^/]+)(?:/(.+))?", path):
            self._folder(match.group(1), match.group(2), unquote(match.group(3) or ""))
        elif match := re.fullmatch(r"/api/(?:models/)?(.+?)(?:/(revision|tree)/(.+))?", path):
            self._listing(match.group(1), match.group(2), unquote(match.group(3) or "main"))
        elif match := re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", path):
            self._file(*map(unquote, match.groups()))
        else:
            self._refuse(404, None, "Sorry, we can't find the page you are looking for.")

    def _token(self) -> str | None:
        return self.headers.get("Authorization", "").removeprefix("Bearer ") or None

    def _repository(self, name: str) -> Repository | None:
        """Return a repository that this request may know of, or refuse as the Hub does."""
        token = self._token()
        if token is not None and token not in self.hub.tokens:
            self._refuse(401, None, "Invalid credentials in Authorization header")
            return None
        repository = self.hub.repositories.get(name)
        hidden = repository is not None and repository.private and not self._may_read(name)
        if repository is None or hidden:
            self._refuse(401 if token is None else 404, "RepoNotFound", "Repository not found")
            return None
        return repository

    def _may_read(self, name: str) -> bool:
        return name in self.hub.tokens.get(self._token() or "", set())

    def _listing(self, name: str, kind: str | None, revision: str) -> None:
        repository = self._repository(name)
        if repository is None:
            return
        commit = repository.resolve(revision)
        if commit is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        if kind == "tree":
            self._json([_entry(*item) for item in repository.commits[commit].items()])
        else:
            self._json(_info(repository, commit))

    def _folder(self, name: str, revision: str, folder: str) -> None:
        """One folder of a data set's repository, not what is below it."""
        repository = self._repository(name)
        commit = None if repository is None else repository.resolve(revision)
        if repository is None or commit is None:
            return
        start = f"{folder}/" if folder else ""
        files = {path: content for path, content in repository.commits[commit].items() if path.startswith(start)}
        below = sorted({start + path.removeprefix(start).split("/")[0] for path in files} - set(files))
        entries = [_entry(path, content) for path, content in files.items() if "/" not in path.removeprefix(start)]
        self._json(entries + [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in below])

    def _file(self, name: str, revision: str, file: str) -> None:
        repository = self._repository(name)
        if repository is None:
            return
        if self.hub.failing_files is not None:
            self._refuse(self.hub.failing_files, None, "Your token lacks a permission")
            return
        if repository.gated and not self._may_read(name):
            status = 401 if self._token() is None else 403
            self._refuse(status, "GatedRepo", f"Access to model {name} is restricted.")
            return
        commit = repository.resolve(revision)
        content = None if commit is None else repository.commits[commit].get(file)
        if commit is None or content is None:
            self._refuse(404, "RevisionNotFound" if commit is None else "EntryNotFound", file)
            return
        headers = {"X-Repo-Commit": commit, "ETag": f'"{git_blob(content)}"'}
        if not file.endswith(LARGE):
            self._send(200, content, headers)
            return
        size = len(content) + self.hub.extra_size
        headers |= {"X-Linked-Size": str(size), "X-Linked-ETag": f'"{sha256(content)}"'}
        headers["Location"] = f"{self.hub.cdn_url}/blob/{sha256(content)}/{quote(file)}"
        self._send(302, b"Found", headers)

    def _content(self, path: str) -> None:
        match = re.fullmatch(r"/blob/([^/]+)/.+", path)
        content = self.hub.blob(match.group(1)) if match else None
        if content is None:
            self._refuse(404, None, "no such object")
        else:
            self._send(200, content, {"ETag": f'"{sha256(content)}"'})

    def _refuse(self, status: int, code: str | None, message: str, *more: str) -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self._json({"error": [message, *more]}, status=status, headers=headers)

    def _json(self, data: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        kind = {"Content-Type": "application/json; charset=utf-8"}
        self._send(status, json.dumps(data).encode(), {**kind, **(headers or {})})

    def _send(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _info(repository: Repository, commit: str) -> dict[str, object]:
    return {
        "_id": "0" * 24,
        "id": repository.name,
        "modelId": repository.name,
        "sha": commit,
        "private": repository.private,
        "gated": "manual" if repository.gated else False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "lastModified": "2025-01-01T00:00:00.000Z",
        "siblings": [{"rfilename": name} for name in repository.commits[commit]],
    }


def _entry(path: str, content: bytes) -> dict[str, object]:
    entry: dict[str, object] = {
        "type": "file",
        "path": path,
        "size": len(content),
        "oid": git_blob(content),
    }
    if path.endswith(LARGE):
        entry["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 134}
    return entry


# huggingface_hub reads its switches when imported, so every client is a process of its own.
CLIENT = """
import json, sys
from pathlib import Path
from rank_lab.errors import CheckpointError
from rank_lab.hub import fetch, resolved_revision

for source, revision in json.loads(sys.argv[1]):
    try:
        folder = fetch(source, revision=revision)
    except CheckpointError as error:
        print(json.dumps({"error": str(error)}))
    else:
        files = {p.relative_to(folder).as_posix(): p.read_text()
                 for p in folder.rglob("*") if p.is_file()}
        print(json.dumps({"folder": str(folder), "files": files,
                          "commit": resolved_revision(folder)}))
"""


@dataclass(frozen=True)
class Client:
    """Calls `fetch` in fresh processes that share one cache."""

    home: Path
    endpoint: str

    def environment(self, **switches: str) -> dict[str, str]:
        """Return this process's environment without its hub and proxy settings."""
        foreign = ("HF_", "HUGGING", "TRANSFORMERS_")
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(foreign) and not name.lower().endswith("_proxy")
        }
        own = {
            "HF_HOME": str(self.home),
            "HF_ENDPOINT": self.endpoint,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "PYTHONPATH": str(ROOT),
        }
        return kept | own | switches

    def calls(self, *calls: tuple[str, str | None], **switches: str) -> list[dict[str, Any]]:
        """Fetch one after the other in one process."""
        done = subprocess.run(
            [sys.executable, "-c", CLIENT, json.dumps(calls)],
            env=self.environment(**switches),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def files(self, source: str, revision: str | None = None, **switches: str) -> list[str]:
        """Fetch once and return the names of the files in the snapshot."""
        (result,) = self.calls((source, revision), **switches)
        assert "error" not in result, result
        return sorted(result["files"])

    def error(self, source: str, revision: str | None = None, **switches: str) -> str:
        """Fetch once, which must fail, and return the message."""
        (result,) = self.calls((source, revision), **switches)
        assert "error" in result, result
        message = str(result["error"])
        assert "\n" not in message
        assert "hf_" not in message, "a token must not be shown"
        return message
