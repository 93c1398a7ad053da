"""Behavioural ranks of real models: cut in memory and put back, a planted rank found, everything else refused."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from peft import AdaLoraConfig, IA3Config, LoraConfig, PrefixTuningConfig
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rank_lab.behavioural_report import BehaviouralReport, load_behavioural
from rank_lab.behavioural_schema import BEHAVIOURAL_TABLES
from rank_lab.demo import BASE
from rank_lab.errors import DataError, PairingError, RankLabError, SchemaError, UnsupportedUpdateError
from rank_lab.evaluation import behavioural_search
from rank_lab.evaluation.behavioural_analysis import behavioural_report
from rank_lab.evaluation.behavioural_matrices import common_energy_rank
from rank_lab.evaluation.behavioural_search import BehaviouralOptions
from rank_lab.evaluation.text_scores import TextOptions
from rank_lab.evaluation.text_sets import TextSet
from rank_lab.evaluation.truncated_models import truncated_model, values_of
from rank_lab.sora import SoraConfig
from rank_lab.update import LowRankUpdate
from tests.checkpoints import rank_lab
from tests.evaluation.behavioural_studies import KNOWN, LEARNT, SETS, TASK, padded, text_files, trained
from tests.evaluation.models import adapter, demo_base, logits_of

PLANTED = 3
OPTIONS = BehaviouralOptions(share=0.97, texts=TextOptions(batch_size=32), controls=())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA of rank 3, and the same folded into a checkpoint with noise of full rank that is rounded to bfloat16."""
    home = tmp_path_factory.mktemp("runs")
    model = trained(PLANTED)
    model.save_pretrained(home / "lora")
    whole = model.merge_and_unload()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in whole.named_parameters():
            if value.ndim == 2 and "proj" in name:
                value.add_(2e-4 * torch.randn(value.shape, generator=generator))
            value.copy_(value.to(torch.bfloat16).to(torch.float32))
    whole.save_pretrained(home / "full")
    padded().save_pretrained(home / "full")
    return home


@pytest.fixture(scope="module")
def full(runs: Path) -> BehaviouralReport:
    return behavioural_report(runs / "full", SETS, str(BASE), options=OPTIONS)


# -- a planted rank ---------------------------------------------------------------------------------------------------


def test_the_planted_rank_of_a_noisy_rounded_checkpoint_is_found(full: BehaviouralReport) -> None:
    (found,) = full.ranks.to_dict("records")
    assert found["rank"] == PLANTED
    assert found["rank_low"] <= PLANTED <= found["rank_high"]
    assert found["tried_below"] == PLANTED - 1
    assert found["rank_bound"] == 128
    assert found["learned"] > 0.5
    # What the noise adds to the spectrum is no direction of what was learned.
    truncated = full.matrices[full.matrices["status"] == "truncated"]
    assert (truncated["rank_bound"] == 128).all()
    assert (truncated["noise_regime"] != "exact").any()


def test_all_directions_give_the_tuned_model_and_none_the_base(full: BehaviouralReport) -> None:
    points = full.points[(full.points["how"] == "leading") & full.points["vectors"]].set_index(["role", "k"])
    for role in ("target", "source"):
        assert points.loc[(role, 128), ["share", "share_low", "share_high"]].tolist() == [1.0, 1.0, 1.0]
    scores = full.scores.set_index(["how", "task"])
    assert scores.loc[("tuned", "items"), "value"] < scores.loc[("base", "items"), "value"]


def test_a_lora_of_that_rank_has_no_more(runs: Path) -> None:
    report = behavioural_report(runs / "lora", SETS, str(BASE), options=OPTIONS)
    (found,) = report.ranks.to_dict("records")
    assert (found["rank"], found["rank_bound"], found["lasting_rank"]) == (PLANTED, PLANTED, PLANTED)
    truncated = report.matrices[report.matrices["status"] == "truncated"]
    assert set(truncated["update_kind"]) == {"factors"}
    assert truncated["null_energy_rank_90"].max() <= PLANTED
    assert report.matrices["rank_above_rounding"].isna().all()  # merged in memory, and so never rounded


def test_controls_are_beside_the_rank(runs: Path) -> None:
    options = BehaviouralOptions(share=0.5, texts=TextOptions(batch_size=32))
    report = behavioural_report(runs / "lora", SETS, str(BASE), options=options)
    (found,) = report.ranks.to_dict("records")
    assert found["random_rank"] >= found["rank"]
    for name in ("share_at_rank", "shrunk_at_rank", "tail_at_rank"):
        assert found[f"{name}_low"] <= found[name] <= found[f"{name}_high"]
    assert found["share_at_rank"] >= 0.5
    points = report.points[report.points["role"] == "target"].set_index(["how", "k"])
    assert points.loc[("tail", PLANTED), "share"] == 0.0
    assert points.loc[("random", PLANTED), "share"] == points.loc[("shrunk", PLANTED), "share"] == 1.0


# -- cutting in memory ------------------------------------------------------------------------------------------------

ADAPTERS: dict[str, Callable[[], Any]] = {
    "lora": lambda: LoraConfig(r=4, **TASK),
    "dora": lambda: LoraConfig(r=4, use_dora=True, **TASK),
    "pissa": lambda: LoraConfig(r=4, init_lora_weights="pissa", **TASK),
    "adalora": lambda: AdaLoraConfig(init_r=4, target_r=2, total_step=10, **TASK),
    "sora": lambda: SoraConfig(r=4, **TASK),
    "ia3": lambda: IA3Config(
        target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"
    ),
}


@pytest.mark.parametrize("method", ADAPTERS)
def test_adapters_are_cut_between_base_and_tuned(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = logits_of(adapter(tmp_path / method, ADAPTERS[method]()))
    found: list[Tensor] = []
    bounds: list[int] = []

    def looked(search: Any) -> None:
        bounds.append(search.cut.bound)
        for k in (0, 1, search.cut.bound):
            with search.cut.truncated(k) as model:
                found.append(logits_of(model))
        found.append(logits_of(search.cut.model))
        raise RankLabError("seen")

    monkeypatch.setattr(behavioural_search.Search, "found", looked)
    monkeypatch.setattr(behavioural_search.Measuring, "_refuse_nothing_learned", lambda *_: None)
    monkeypatch.setattr(behavioural_search.Measuring, "rows", lambda *_: ())
    with pytest.raises(RankLabError, match="seen"):
        behavioural_report(tmp_path / method, SETS, str(BASE))
    none, one, whole, after = found
    assert torch.allclose(none, logits_of(demo_base()), atol=1e-5)
    assert torch.allclose(whole, expected, atol=5e-4)
    assert torch.equal(whole, after)
    assert not torch.allclose(one, none, atol=1e-4)
    expected_bound = {"dora": 128, "ia3": 128, "pissa": 8}
    assert bounds == [expected_bound.get(method, 4)]


class Tiny(nn.Module):
    """One of everything: a matrix, a stack of matrices, a convolution, a bias, a norm, tied tables."""

    def __init__(self, seed: int, *, tied: bool = True) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.table = nn.Embedding(10, 6)
        self.up = nn.Linear(6, 9)
        self.experts = nn.Parameter(torch.randn(2, 4, 5))
        self.mixer = nn.Conv1d(3, 4, 2)
        self.turned = Conv1D(7, 6)  # of transformers, whose weight lies (in, out)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 10, bias=False)
        if tied:
            self.head.weight = self.table.weight
        self.register_buffer("count", torch.zeros(1))


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("k", [0, 1, 3, 5, 9, 100])
@pytest.mark.parametrize("vectors", [True, False])
def test_every_matrix_is_cut_and_the_model_is_what_it_was_afterwards(k: int, vectors: bool) -> None:
    base, tuned = Tiny(0), Tiny(1)
    before, after = values(base), values(tuned)
    found = truncated_model(tuned, values_of(base))
    assert [each.module for each in found.changed] == ["experts.0", "experts.1", "table", "up", "mixer", "turned"]
    assert {each.module: each.shape for each in found.changed}["turned"] == (7, 6)
    assert set(found.vectors) == {"up.bias", "mixer.bias"}  # the norm starts as it is in both
    with found.truncated(k, vectors=vectors) as model:
        now = values(model)
        for name in ("table.weight", "up.weight", "experts", "mixer.weight", "turned.weight"):
            parts = [(after[name], before[name], now[name])]
            if name == "experts":
                parts = list(zip(after[name], before[name], now[name], strict=True))
            for one, other, cut in parts:
                shape = (len(one), -1)
                left, sizes, right = torch.linalg.svd((one - other).reshape(shape).double(), full_matrices=False)
                best = other + ((left[:, :k] * sizes[:k]) @ right[:k]).float().reshape(other.shape)
                torch.testing.assert_close(cut, best, atol=2e-5, rtol=2e-5)
        assert torch.equal(now["head.weight"], now["table.weight"])
        assert torch.equal(now["up.bias"], (after if vectors else before)["up.bias"])
    assert all(torch.equal(value, after[name]) for name, value in values(tuned).items())
    with pytest.raises(ZeroDivisionError), found.truncated(k):
        raise ZeroDivisionError
    assert all(torch.equal(value, after[name]) for name, value in values(tuned).items())


def test_sizes_are_those_of_all_matrices_together() -> None:
    found = truncated_model(Tiny(1), values_of(Tiny(0)))
    assert found.bound == 6
    assert [found.directions(k) for k in (0, 1, 4, 6, 50)] == [0, 6, 24, 30, 30]
    energies = [found.energy(k) for k in range(7)]
    assert energies[0] == 0.0
    assert energies[-1] == pytest.approx(1.0)
    assert energies == sorted(energies)
    rank = common_energy_rank(found)
    assert found.energy(rank) >= 0.9 > found.energy(rank - 1)


def test_factors_stand_for_the_difference_only_where_they_are_it(generator: torch.Generator) -> None:
    base = Tiny(0)
    tuned = copy.deepcopy(base)
    B, A = torch.randn(9, 2, generator=generator), torch.randn(2, 6, generator=generator)
    with torch.no_grad():
        tuned.up.weight += B @ A
    right, wrong = {"up": LowRankUpdate(B, A)}, {"up": LowRankUpdate(B, A, 0.5)}
    assert truncated_model(tuned, values_of(base), factors=right).bound == 2
    assert truncated_model(tuned, values_of(base), factors=wrong).bound == 6


def test_models_that_do_not_belong_together_are_refused() -> None:
    base = values_of(Tiny(0))
    with pytest.raises(PairingError, match="was nothing trained"):
        truncated_model(Tiny(0), base)
    wider = Tiny(1)
    wider.up = nn.Linear(6, 12)
    with pytest.raises(PairingError, match=r"up\.weight: \[12, 6\] in the tuned model and \[9, 6\] in the base"):
        truncated_model(wider, base)
    more = Tiny(1)
    more.classifier = nn.Linear(6, 2)
    with pytest.raises(PairingError, match="a new head has no base"):
        truncated_model(more, base)
    with pytest.raises(PairingError, match="the base has 1 parameters that the other has not"):
        truncated_model(Tiny(1), values_of(Tiny(0, tied=False)))
    counted = Tiny(1)
    counted.count += 1
    with pytest.raises(UnsupportedUpdateError, match="count: a buffer"):
        truncated_model(counted, base)
    norms = Tiny(0)
    with torch.no_grad():
        norms.norm.weight += 1
    with pytest.raises(PairingError, match="norms and biases alone"):
        truncated_model(norms, base)


# -- the run ----------------------------------------------------------------------------------------------------------


def test_a_run_that_was_stopped_goes_on(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep, measured = tmp_path / "kept", []
    options = BehaviouralOptions(share=0.9, ranks=(1, 2), texts=TextOptions(batch_size=32), controls=())
    rows = behavioural_search.text_rows

    def counted(*arguments: Any, **more: Any) -> Any:
        measured.append(arguments[1].name)
        if len(measured) == 9:
            raise KeyboardInterrupt
        return rows(*arguments, **more)

    monkeypatch.setattr(behavioural_search, "text_rows", counted)
    with pytest.raises(KeyboardInterrupt):
        behavioural_report(runs / "lora", SETS, str(BASE), options=options, keep=keep)
    assert len(keep.read_text().splitlines()) == 4  # base, tuned, full rank, rank 1
    first = len(measured)
    behavioural_report(runs / "lora", SETS, str(BASE), options=options, keep=keep)
    assert len(measured) - first == 2  # rank 2, both sets
    assert not keep.exists()


def test_norms_are_kept_or_left_out_and_both_is_told(runs: Path, tmp_path: Path) -> None:
    state = load_file(runs / "full" / "model.safetensors")
    for name in state:
        if name.endswith("norm.weight"):
            state[name] = state[name] * 1.1
    folder = tmp_path / "normed"
    folder.mkdir()
    for file in (runs / "full").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    found = {}
    for vectors in (True, False):
        options = BehaviouralOptions(
            share=0.9, vectors=vectors, ranks=(1, 128), texts=TextOptions(batch_size=32), controls=()
        )
        report = behavioural_report(folder, SETS, str(BASE), options=options)
        (found[vectors],) = report.ranks.to_dict("records")
        points = report.points[(report.points["role"] == "target") & (report.points["k"] == 128)]
        whole = points.set_index("vectors")["share"]
        assert whole[True] == 1.0
        assert whole[False] == pytest.approx(found[vectors]["share_without_vectors"])
        statuses = report.matrices["status"].value_counts()
        assert statuses["vector kept" if vectors else "vector left out"] == 9
    assert found[True]["share_of_vectors"] == pytest.approx(found[False]["share_of_vectors"])
    assert found[True]["share_without_vectors"] != 1.0


def test_the_verb_saves_prints_and_refuses(runs: Path, tmp_path: Path) -> None:
    files, study = text_files(tmp_path), tmp_path / "study"
    command = (
        "behavioural", runs / "lora", "--base", BASE, "--target", f"items={files['items']}", "--source",
        f"prose={files['prose']}", "--batch-size", 32, "--ranks", "1,3", "--no-controls", "-o", study,
    )  # fmt: skip
    done = rank_lab(*command, "--modules")
    assert done.code == 0, done.err
    assert "behavioural rank of lora" in done.out
    assert "items" in done.out
    (report,) = load_behavioural(study).values()
    assert BehaviouralReport.load(study / "lora.behavioural") == report
    assert set(BEHAVIOURAL_TABLES) == {"ranks", "points", "matrices", "scores"}
    assert json.loads(rank_lab(*command, "--json").out)["run"] == "lora"
    assert [path.name for path in study.iterdir()] == ["lora.behavioural"]
    again = [*command, "--name", "lora"]
    again[1] = runs / "full"
    refused = rank_lab(*again)
    assert refused.code == 2
    assert "is the report of" in refused.err
    beyond = rank_lab(*command[:-5], "--ranks", "1,4", "-o", tmp_path / "other")
    assert (beyond.code, "rank 4: the update has rank 3 at most" in beyond.err) == (2, True)


# -- refused ----------------------------------------------------------------------------------------------------------


def test_what_has_no_weight_update_points_to_the_verb_that_fits(tmp_path: Path) -> None:
    adapter(tmp_path / "prefix", PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"))
    with pytest.raises(UnsupportedUpdateError, match="'rank-lab functional'") as error:
        behavioural_report(tmp_path / "prefix", SETS, str(BASE))
    assert "\n" not in str(error.value)


def test_nothing_learned_is_refused_in_words(runs: Path) -> None:
    other = (TextSet("prose", KNOWN, "made up", "target"),)
    with pytest.raises(DataError, match="prose: nothing was learned"):
        behavioural_report(runs / "lora", other, str(BASE), options=OPTIONS)


def test_texts_must_be_there_and_told_apart(runs: Path) -> None:
    with pytest.raises(DataError, match="no target texts"):
        behavioural_report(runs / "lora", SETS[1:], str(BASE))
    with pytest.raises(DataError, match="two sets of texts are called 'items'"):
        behavioural_report(runs / "lora", (SETS[0], SETS[0]), str(BASE))
    with pytest.raises(DataError, match="3 examples of items are too few"):
        behavioural_report(runs / "lora", (TextSet("items", LEARNT[:3], "made up", "target"),), str(BASE))
    empty = rank_lab("behavioural", runs / "lora", "--target", "items", "-o", runs / "study")
    assert (empty.code, "expected NAME=FILE" in empty.err) == (2, True)


def test_another_base_is_refused(runs: Path, tmp_path: Path) -> None:
    config = json.loads((BASE / "config.json").read_text()) | {"num_hidden_layers": 3}
    state = {name: value for name, value in load_file(BASE / "model.safetensors").items() if ".3." not in name}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    save_file(state, tmp_path / "other" / "model.safetensors", metadata={"format": "pt"})
    padded().save_pretrained(tmp_path / "other")
    with pytest.raises(RankLabError):
        behavioural_report(runs / "full", SETS, str(tmp_path / "other"), options=OPTIONS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"share": 1.5}, "above 0 and at most 1"),
        ({"ranks": (0, 1)}, "rank 0"),
        ({"seed": -1}, "seed -1: expected 0 or more"),
        ({"controls": ("leading",)}, "control 'leading'"),
    ],
)
def test_options_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RankLabError, match=message):
        BehaviouralOptions(**changes)


# -- the kept report --------------------------------------------------------------------------------------------------


def test_a_report_survives_and_a_damaged_one_is_refused(full: BehaviouralReport, tmp_path: Path) -> None:
    folder = full.save(tmp_path / "full.behavioural")
    assert BehaviouralReport.load(folder) == full
    head = json.loads((folder / "behavioural.json").read_text())
    (folder / "behavioural.json").write_text(json.dumps(head | {"schema_version": 99}))
    with pytest.raises(SchemaError, match="schema version 99"):
        BehaviouralReport.load(folder)
    (folder / "behavioural.json").write_text(json.dumps(head | {"provenance": {"tuned": []}}))
    with pytest.raises(SchemaError, match="does not say what was measured"):
        BehaviouralReport.load(folder)
    (folder / "behavioural.json").write_text(json.dumps(head))
    (folder / "points.parquet").write_bytes(b"no table")
    with pytest.raises(SchemaError, match=r"points\.parquet"):
        BehaviouralReport.load(folder)


def test_the_points_are_what_the_scores_say(full: BehaviouralReport) -> None:
    scores = full.scores[(full.scores["task"] == "items")].set_index(["how", "k", "vectors"])["value"]
    base, tuned = scores.loc["base"].iloc[0], scores.loc["tuned"].iloc[0]
    points = full.points[(full.points["role"] == "target") & (full.points["how"] == "leading")]
    assert len(points) > 5
    for point in points.to_dict("records"):
        value = scores.loc[("leading", point["k"], point["vectors"])]
        assert point["value"] == value
        assert point["share"] == pytest.approx((base - value) / (base - tuned), abs=1e-9)
    assert pd.notna(points["share_low"]).all()
