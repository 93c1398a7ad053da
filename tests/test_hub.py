"""Downloads from the hub: what is fetched, what is cached, and what each failure says."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rank_lab.errors import CheckpointError
from rank_lab.hub import fetch, is_hub_id, resolved_revision
from rank_lab.hub_files import files_to_fetch
from tests.hub_server import Client, HubServer

TOKEN = "hf_" + "a" * 34
OTHER_TOKEN = "hf_" + "b" * 34
SHARDED = {
    "config.json": b'{"model_type": "llama"}',
    "model-00001-of-00002.safetensors": b"first shard",
    "model-00002-of-00002.safetensors": b"second shard",
    "model.safetensors.index.json": b'{"weight_map": {}}',
    "pytorch_model-00001-of-00001.bin": b"pickle",
    "pytorch_model.bin.index.json": b"{}",
    "optimizer.pt": b"moments",
    "optimizer.bin": b"moments",
    "scheduler.pt": b"schedule",
    "training_args.bin": b"pickle",
    "modeling_custom.py": b"import os",
    "state.pkl": b"pickle",
    "README.md": b"# model",
    "checkpoint-5/model.safetensors": b"earlier",
}
SHARDED_WEIGHTS = sorted(name for name in SHARDED if name.startswith(("config", "model-", "model.")))


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """Serve a hub on which `TOKEN` may read everything closed, `OTHER_TOKEN` nothing."""
    with HubServer(tokens={TOKEN: {"org/gated", "org/private"}, OTHER_TOKEN: set()}) as server:
        yield server


@pytest.fixture
def client(hub: HubServer, tmp_path: Path) -> Client:
    """Return a client of that hub with an empty cache."""
    return Client(home=tmp_path / "home", endpoint=hub.url)


def test_sharded_repository_is_downloaded_then_cached_then_offline(hub: HubServer, client: Client) -> None:
    commit = hub.add("org/sharded", SHARDED).refs["main"]
    (first,) = client.calls(("org/sharded", None))
    assert sorted(first["files"]) == SHARDED_WEIGHTS
    assert first["files"]["model-00002-of-00002.safetensors"] == "second shard"
    assert first["commit"] == commit
    assert sorted(hub.bodies()) == SHARDED_WEIGHTS

    hub.requests.clear()
    (second,) = client.calls(("org/sharded", None))
    assert second == first
    assert hub.requests, "an online call asks the hub what the branch points at"
    assert hub.bodies() == []
    assert not any(request.cdn for request in hub.requests)

    hub.requests.clear()
    calls = [("org/sharded", None), ("org/sharded", commit), (f"org/sharded@{commit}", None)]
    assert client.calls(*calls, HF_HUB_OFFLINE="1") == [first] * 3
    assert hub.requests == []

    hub.stop()
    assert client.calls(*calls, HF_HUB_OFFLINE="1") == [first] * 3
    assert client.calls(*calls) == [first] * 3, "the cache serves where the hub cannot be reached"


def test_offline_without_cache_says_so(hub: HubServer, client: Client) -> None:
    hub.add("org/sharded", SHARDED)
    message = client.error("org/sharded", HF_HUB_OFFLINE="1")
    assert message.startswith("'org/sharded' is neither a local path nor in the local cache")
    assert "HF_HUB_OFFLINE=0" in message
    assert str(client.home) in message
    assert hub.requests == []


def test_unreachable_hub_without_cache_names_it(hub: HubServer, client: Client) -> None:
    hub.stop()
    message = client.error("org/sharded")
    assert f"the hub at {hub.url} cannot be reached (ConnectError" in message
    assert "HF_ENDPOINT" in message


def test_failing_hub_is_reported_then_bridged_by_the_cache(hub: HubServer, client: Client) -> None:
    hub.add("org/sharded", SHARDED)
    hub.failing = 503
    assert "answered 503 (Repairs They go on for an hour)" in client.error("org/sharded")
    hub.failing = None
    expected = client.files("org/sharded")
    hub.failing = 503
    assert client.files("org/sharded") == expected


def test_incomplete_cache_is_refused_offline_and_completed_online(hub: HubServer, client: Client) -> None:
    hub.add("org/sharded", SHARDED)
    (first,) = client.calls(("org/sharded", None))
    (Path(first["folder"]) / "model-00002-of-00002.safetensors").unlink()
    message = client.error("org/sharded", HF_HUB_OFFLINE="1")
    assert "is incomplete in the local cache" in message
    assert "'model-00002-of-00002.safetensors'" in message
    assert client.files("org/sharded") == SHARDED_WEIGHTS


def test_cache_filled_by_another_program_is_used_offline(hub: HubServer, client: Client) -> None:
    both = {"model.safetensors": b"w", "pytorch_model.bin": b"w", "config.json": b"{}"}
    hub.add("org/both", both)
    script = "from huggingface_hub import hf_hub_download as get; get('org/both', '{}')"
    for name in ("config.json", "pytorch_model.bin"):
        command = [sys.executable, "-c", script.format(name)]
        subprocess.run(command, env=client.environment(), check=True, timeout=60)
        if name == "config.json":
            assert "no weights in the local cache" in client.error("org/both", HF_HUB_OFFLINE="1")
    expected = ["config.json", "pytorch_model.bin"]
    assert client.files("org/both", HF_HUB_OFFLINE="1") == expected


@pytest.mark.parametrize(
    ("token", "status", "advice"),
    [(None, 401, "no token was sent"), (OTHER_TOKEN, 403, "the token sent was refused")],
)
def test_gated_repository_needs_a_token_with_access(
    hub: HubServer, client: Client, token: str | None, status: int, advice: str
) -> None:
    hub.add("org/gated", SHARDED, gated=True)
    switches = {} if token is None else {"HF_TOKEN": token}
    message = client.error("org/gated", **switches)
    assert f"answered {status}, and {advice}" in message
    assert f"{hub.url}/org/gated" in message
    assert "HF_TOKEN" in message
    assert hub.bodies() == []


def test_gated_repository_is_downloaded_with_its_token(hub: HubServer, client: Client) -> None:
    hub.add("org/gated", SHARDED, gated=True)
    assert client.files("org/gated", HF_TOKEN=TOKEN) == SHARDED_WEIGHTS
    assert all(request.authorized for request in hub.requests if not request.cdn)
    assert not any(request.authorized for request in hub.requests if request.cdn)
    assert any(request.cdn for request in hub.requests)


def test_stored_token_opens_a_private_repository(hub: HubServer, client: Client) -> None:
    hub.add("org/private", SHARDED, private=True)
    message = client.error("org/private")
    assert "if it is private, set HF_TOKEN" in message
    client.home.mkdir(exist_ok=True)
    (client.home / "token").write_text(TOKEN)
    assert client.files("org/private") == SHARDED_WEIGHTS


def test_rejected_token_is_named_as_the_cause(hub: HubServer, client: Client) -> None:
    hub.add("org/sharded", SHARDED)
    message = client.error("org/sharded", HF_TOKEN="hf_expired")
    assert "answered 401, and the token sent was refused" in message


def test_refusal_of_the_files_alone_is_named_as_the_cause(hub: HubServer, client: Client) -> None:
    hub.add("org/sharded", SHARDED)
    hub.failing_files = 403
    message = client.error("org/sharded", HF_TOKEN=TOKEN)
    assert "answered 403, and the token sent was refused" in message


def test_file_of_another_size_than_announced_is_refused(hub: HubServer, client: Client) -> None:
    hub.add("org/sharded", SHARDED)
    hub.extra_size = 1
    message = client.error("org/sharded")
    assert "'org/sharded' could not be downloaded (OSError: Consistency check failed" in message
    message = client.error("org/sharded", HF_HUB_OFFLINE="1")
    assert "is incomplete in the local cache" in message, "what failed must not be left as a file"


def test_unknown_repository_may_also_be_a_misspelt_path(hub: HubServer, client: Client) -> None:
    for switches in ({}, {"HF_TOKEN": TOKEN}):
        message = client.error("org/unknown", **switches)
        start = f"'org/unknown' is neither a local path nor a repository of the hub at {hub.url}"
        assert message.startswith(start)
        assert "Check the spelling" in message


def test_revision_by_branch_and_by_commit(hub: HubServer, client: Client) -> None:
    repository = hub.add("org/name", {"model.safetensors": b"old"})
    old = repository.refs["main"]
    new = repository.commit({"model.safetensors": b"new", "config.json": b"{}"})
    side = repository.commit({"model.safetensors": b"side"}, branch="refs/pr/1")
    calls = [("org/name", None), ("org/name", old), ("org/name@refs/pr/1", None)]
    results = client.calls(*calls, ("org/name", "main"), (f"org/name@{old}", old))
    assert [result["commit"] for result in results] == [new, old, side, new, old]
    texts = [result["files"]["model.safetensors"] for result in results]
    assert texts == ["new", "old", "side", "new", "old"]

    unknown = client.calls(("org/name@v9", None), ("org/name", "f" * 40))
    for result, revision in zip(unknown, ("v9", "f" * 40), strict=True):
        assert result["error"].startswith(f"'org/name' has no revision '{revision}' on the hub")
        assert f"{hub.url}/org/name/tree/main" in result["error"]


def test_a_moved_branch_is_followed(hub: HubServer, client: Client) -> None:
    repository = hub.add("org/name", {"model.safetensors": b"old"})
    client.files("org/name")
    commit = repository.commit({"model.safetensors": b"new"})
    (result,) = client.calls(("org/name", None))
    assert result["commit"] == commit
    assert result["files"] == {"model.safetensors": "new"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param(
            ["config.json", "pytorch_model.bin", "training_args.bin", "run.py", "a.pkl"],
            ["config.json", "pytorch_model.bin"],
            id="torch weights alone",
        ),
        pytest.param(
            ["adapter_config.json", "adapter_model.bin", "optimizer.pt", "checkpoint-1/a.bin"],
            ["adapter_config.json", "adapter_model.bin"],
            id="torch adapter",
        ),
        pytest.param(
            [
                "README.md",
                "config.json",
                "runs/x/model.safetensors",
                "checkpoint-10/adapter_model.safetensors",
                "checkpoint-10/adapter_model.bin",
                "checkpoint-10/adapter_config.json",
                "checkpoint-10/optimizer.pt",
                "checkpoint-10/rng_state.pth",
                "checkpoint-20/pytorch_model.bin",
                "checkpoint-20/global_step20/model.safetensors",
            ],
            [
                "checkpoint-10/adapter_config.json",
                "checkpoint-10/adapter_model.safetensors",
                "checkpoint-20/pytorch_model.bin",
                "config.json",
            ],
            id="trainer repository",
        ),
    ],
)
def test_only_weights_and_configurations_are_downloaded(
    hub: HubServer, client: Client, files: list[str], expected: list[str]
) -> None:
    hub.add("name", {name: name.encode() for name in files})
    assert client.files("name") == expected
    assert sorted(hub.bodies()) == expected


def test_a_repository_without_weights_says_what_it_has(hub: HubServer, client: Client) -> None:
    hub.add("org/other", {"config.json": b"{}", "model.Q4.gguf": b"g", "unet/w.safetensors": b"w"})
    message = client.error("org/other")
    assert "'org/other' holds no weights that can be read" in message
    assert "'model.Q4.gguf', 'unet/w.safetensors'" in message
    assert "*.safetensors, pytorch_model*.bin, adapter_model.bin" in message
    assert hub.bodies() == []


def test_an_endpoint_that_is_no_hub_is_one_line(hub: HubServer, client: Client) -> None:
    message = client.error("org/name", HF_ENDPOINT=f"{hub.url}/elsewhere")
    assert "answered 404" in message
    assert "cannot be reached (UnsupportedProtocol" in client.error("org/name", HF_ENDPOINT="hub")


def test_files_to_fetch_leave_out_second_copies_and_states() -> None:
    both = ["consolidated.safetensors", "model-00001-of-00001.safetensors"]
    assert files_to_fetch(both) == both[1:]
    assert files_to_fetch(both[:1]) == both[:1]
    assert files_to_fetch(["optimizer.safetensors", "config.json"]) == []
    assert files_to_fetch(["sub/model.safetensors", "checkpoint-1/sub/model.safetensors"]) == []
    assert files_to_fetch([]) == []


@pytest.mark.parametrize(
    "source",
    ["gpt2", "org/name", "org/name@main", "gpt2@refs/pr/1", "meta-llama/Llama-3.1-8B", "a_b/c.d"],
)
def test_hub_ids(source: str) -> None:
    assert is_hub_id(source)


@pytest.mark.parametrize(
    "source",
    [
        *("", ".", "./name", "../name", "/org/name", "~/name", "a/b/c", "name/"),
        *("org\\name", "C:\\runs", "model.safetensors", "run/adapter_model.BIN", "org/name.json"),
        *("org/na me", "org/name\n", "org/näme", "org--name", "x" * 97),
        *("org/name@", "org/name@../x", "org/name@a b", "@main"),
    ],
)
def test_paths_and_malformed_ids(source: str) -> None:
    assert not is_hub_id(source)
    with pytest.raises(CheckpointError, match="neither an existing local path nor a hub id"):
        fetch(source)


@pytest.mark.parametrize(
    ("source", "revision", "message"),
    [
        ("org/name@v1", "v2", "names revision 'v1', and the revision option says 'v2'"),
        ("org/name", "../../x", "cannot be a revision of 'org/name'"),
        ("org/name", "", "cannot be a revision of 'org/name'"),
    ],
)
def test_contradictory_and_malformed_revisions(source: str, revision: str, message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        fetch(source, revision=revision)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda cache, commit: cache / commit, True),
        (lambda cache, commit: cache / commit / "checkpoint-5", True),
        (lambda cache, commit: cache / "main", False),
        (lambda cache, commit: cache, False),
        (lambda cache, commit: Path("snapshots") / commit, False),
    ],
)
def test_resolved_revision(build: Callable[[Path, str], Path], expected: bool) -> None:
    commit = "0123456789abcdef" * 2 + "01234567"
    folder = build(Path("/cache/models--org--name/snapshots"), commit)
    assert resolved_revision(folder) == (commit if expected else None)
