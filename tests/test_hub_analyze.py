"""The main job on repositories of a hub: by id, by revision, offline from the cache."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from rank_lab import RankReport
from tests.hub_server import Client, HubServer

NAME = "model.layers.0.self_attn.q_proj.weight"


def model(value: torch.Tensor) -> dict[str, bytes]:
    return {"config.json": b'{"model_type": "llama"}', "model.safetensors": save({NAME: value.contiguous()})}


def adapter(value: torch.Tensor) -> dict[str, bytes]:
    factor = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
    return {
        "adapter_config.json": json.dumps(config).encode(),
        "adapter_model.safetensors": save(
            {factor.format("A"): value[:2, :].contiguous(), factor.format("B"): value[:, :2].contiguous()}
        ),
    }


def rank_lab(client: Client, *arguments: str, **switches: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rank_lab", *arguments]
    return subprocess.run(command, env=client.environment(**switches), capture_output=True, text=True, check=False)


def test_hub_ids_are_analysed_with_their_commits(tmp_path: Path, generator: torch.Generator) -> None:
    base = torch.randint(-4, 5, (8, 6), generator=generator).float()  # sums are then exact in float32
    with HubServer() as hub:
        client = Client(home=tmp_path / "home", endpoint=hub.url)
        first = hub.add("org/base", model(base)).refs["main"]
        repository = hub.add("org/tuned", model(base + 1.0))
        old = repository.refs["main"]
        repository.commit(model(base + torch.diag(torch.arange(8.0))[:, :6]))
        hub.add("org/adapter", adapter(base))

        study = str(tmp_path / "study")
        done = rank_lab(client, "analyze", "org/tuned", "org/adapter", "--base", "org/base", "-o", study)
        assert done.returncode == 0, done.stderr
        report = RankReport.load(tmp_path / "study" / "tuned.rank")
        assert report.provenance["base"]["revision"] == first
        assert report.provenance["tuned"][0]["revision"] == repository.refs["main"] != old
        assert report.updates["numerical_rank"].tolist() == [5]
        assert RankReport.load(tmp_path / "study" / "adapter.rank").updates["rank_bound"].tolist() == [2]

        done = rank_lab(client, "analyze", f"org/tuned@{old}", "--base", "org/base", "-o", str(tmp_path / "old"))
        assert done.returncode == 0, done.stderr
        assert RankReport.load(tmp_path / "old" / "tuned.rank").updates["numerical_rank"].tolist() == [1]
        for made in (study, str(tmp_path / "old")):  # each at its own commit
            done = rank_lab(client, "verify", made, "--json")
            assert {check["result"] for check in json.loads(done.stdout)} == {"holds"}, done.stderr

    done = rank_lab(
        client, "analyze", "org/tuned", "--base", "org/base", "-o", str(tmp_path / "off"), HF_HUB_OFFLINE="1"
    )
    assert done.returncode == 0, done.stderr
    assert RankReport.load(tmp_path / "off" / "tuned.rank").updates["numerical_rank"].tolist() == [5]


@pytest.mark.parametrize("source", ["org/absent", "not a name", "./nowhere"])
def test_what_is_nowhere_is_one_line(tmp_path: Path, source: str) -> None:
    with HubServer() as hub:
        done = rank_lab(
            Client(home=tmp_path / "home", endpoint=hub.url), "analyze", source, "-o", str(tmp_path / "study")
        )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert source in done.stderr
    assert done.stderr.count("\n") == 1
