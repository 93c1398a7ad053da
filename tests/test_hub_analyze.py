"""The main job on repositories of a hub: by id, by revision, offline from the cache."""

import json
from pathlib import Path

import torch
from safetensors.torch import save

from rank_lab import RankReport
from tests.hub_server import Client, HubServer
from tests.malicious.guarded import command_lines

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


def test_hub_ids_are_analysed_with_their_commits(tmp_path: Path, generator: torch.Generator) -> None:
    base = torch.randint(-4, 5, (8, 6), generator=generator).float()  # sums are then exact in float32
    with HubServer() as hub:
        client = Client(home=tmp_path / "home", endpoint=hub.url)
        first = hub.add("org/base", model(base)).refs["main"]
        repository = hub.add("org/tuned", model(base + 1.0))
        old = repository.refs["main"]
        repository.commit(model(base + torch.diag(torch.arange(8.0))[:, :6]))
        hub.add("org/adapter", adapter(base))

        study, earlier = str(tmp_path / "study"), str(tmp_path / "old")
        with command_lines(client.environment()) as run:
            now, then, *verified = run([
                ["analyze", "org/tuned", "org/adapter", "--base", "org/base", "-o", study],
                ["analyze", f"org/tuned@{old}", "--base", "org/base", "-o", earlier],
                *(["verify", made, "--json"] for made in (study, earlier)),  # each at its own commit
            ])  # fmt: skip
        assert now["code"] == then["code"] == 0, now["err"] + then["err"]
        report = RankReport.load(tmp_path / "study" / "tuned.rank")
        assert report.provenance["base"]["revision"] == first
        assert report.provenance["tuned"][0]["revision"] == repository.refs["main"] != old
        assert report.updates["numerical_rank"].tolist() == [5]
        assert RankReport.load(tmp_path / "study" / "adapter.rank").updates["rank_bound"].tolist() == [2]
        assert RankReport.load(tmp_path / "old" / "tuned.rank").updates["numerical_rank"].tolist() == [1]
        for done in verified:
            assert {check["result"] for check in json.loads(done["out"])} == {"holds"}, done["err"]

    with command_lines(client.environment(HF_HUB_OFFLINE="1")) as run:
        (done,) = run([["analyze", "org/tuned", "--base", "org/base", "-o", str(tmp_path / "off")]])
    assert done["code"] == 0, done["err"]
    assert RankReport.load(tmp_path / "off" / "tuned.rank").updates["numerical_rank"].tolist() == [5]


def test_what_is_nowhere_is_one_line(tmp_path: Path) -> None:
    sources = ("org/absent", "not a name", "./nowhere")
    with (
        HubServer() as hub,
        command_lines(Client(home=tmp_path / "home", endpoint=hub.url).environment()) as run,
    ):
        answers = run([["analyze", source, "-o", str(tmp_path / "study")] for source in sources])
    for source, done in zip(sources, answers, strict=True):
        assert done["code"] == 2
        assert done["err"].startswith("error: ")
        assert source in done["err"]
        assert done["err"].count("\n") == 1
