"""A real pre-trained encoder, fine-tuned on real text in two ways, analysed and held against LAPACK."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from analyses.storage_formats import compare, encoder_folder, fine_tuned, pairs, resaved
from rank_lab import RankReport, analyze

SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
STEPS = 6


@pytest.fixture(scope="module")
def encoder() -> Path:
    """The MiniLM encoder that the development environment carries, by its checksum."""
    folder = encoder_folder()
    assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() == SHA256
    return folder


@pytest.fixture(scope="module")
def batches(encoder: Path, shared_data: Path) -> list[dict[str, torch.Tensor]]:
    """The first pairs of MRPC."""
    return pairs(shared_data, encoder, STEPS)


def classifier(encoder: Path) -> torch.nn.Module:
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(0)  # the head is new
    model = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=2, local_files_only=True)
    return model.train()


def train(model: torch.nn.Module, batches: list[dict[str, torch.Tensor]], lr: float) -> list[float]:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr, weight_decay=0.0)
    losses = []
    for batch in batches:
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.fixture(scope="module")
def full(encoder: Path, batches: list[dict[str, torch.Tensor]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = classifier(encoder)
    assert all(np.isfinite(train(model, batches, lr=5e-5)))
    folder = tmp_path_factory.mktemp("full")
    model.save_pretrained(folder)  # type: ignore[operator]
    return folder


@pytest.fixture(scope="module")
def report(full: Path, encoder: Path) -> RankReport:
    return analyze(full, encoder)


def test_every_tensor_is_accounted_for(report: RankReport, full: Path, encoder: Path) -> None:
    from safetensors import safe_open

    with safe_open(full / "model.safetensors", "pt") as tuned, safe_open(encoder / "model.safetensors", "pt") as base:
        names = list(tuned.keys()), list(base.keys())
    rows = report.coverage
    assert sorted(rows.loc[rows["side"] != "base", "tensor"]) == sorted(names[0])
    assert (rows["side"] != "tuned").sum() == len(names[1])
    assert set(rows.loc[rows["status"] == "new", "tensor"]) == {"classifier.weight", "classifier.bias"}
    assert not rows["failed"].any()


def test_body_prefix_is_stripped_and_kinds_are_named(report: RankReport) -> None:
    counts = report.updates.groupby("kind")["module"].count().to_dict()
    assert {kind: counts[kind] for kind in ("q", "k", "v", "o", "up", "down")} == dict.fromkeys(
        ("q", "k", "v", "o", "up", "down"), 6
    )
    assert "other" not in counts


@pytest.mark.parametrize(
    "module",
    ["encoder.layer.0.attention.self.query", "encoder.layer.5.intermediate.dense", "encoder.layer.3.output.dense"],
)
def test_spectra_equal_lapack(report: RankReport, full: Path, encoder: Path, module: str) -> None:
    from safetensors.torch import load_file

    tuned, base = load_file(full / "model.safetensors"), load_file(encoder / "model.safetensors")
    change = tuned[f"bert.{module}.weight"].double() - base[f"{module}.weight"].double()
    expected = torch.linalg.svdvals(change).numpy()
    values = np.asarray(report.values(module))
    assert np.abs(values - expected).max() <= 1e-8 * expected[0]
    row = report.updates.set_index("module").loc[module]
    energy = np.cumsum(expected**2) / (expected**2).sum()
    assert row["energy_rank_90"] == int(np.searchsorted(energy, 0.9)) + 1
    assert row["relative_spectral"] == pytest.approx(
        expected[0] / float(torch.linalg.matrix_norm(base[f"{module}.weight"].double(), 2)), rel=1e-4
    )


def test_unused_rows_of_the_embedding_are_identical(report: RankReport) -> None:
    row = report.updates.set_index("module").loc["embeddings.word_embeddings"]
    # Without weight decay Adam leaves the rows of words that did not occur as they are.
    assert 0.5 < row["identical_fraction"] < 1.0


def test_lora_of_the_same_task_has_its_rank(
    encoder: Path, batches: list[dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    from peft import LoraConfig, TaskType, get_peft_model

    config = LoraConfig(task_type=TaskType.SEQ_CLS, r=4, lora_alpha=8, target_modules=["query", "value"])
    model = get_peft_model(classifier(encoder), config)
    train(model, batches[:3], lr=1e-3)
    model.save_pretrained(tmp_path / "lora")
    report = analyze(tmp_path / "lora", encoder)
    assert report.updates["rank_bound"].tolist() == [4] * 12
    assert report.updates["numerical_rank"].max() <= 4
    assert (report.updates["relative_frobenius"] > 0).all()
    merged = model.merge_and_unload()
    query = merged.bert.encoder.layer[2].attention.self.query.weight.detach().double()
    original = classifier(encoder).bert.encoder.layer[2].attention.self.query.weight.detach().double()
    expected = torch.linalg.svdvals(query - original)[:4].numpy()
    values = report.values("bert.encoder.layer.2.attention.self.query")
    np.testing.assert_allclose(values, expected, atol=1e-5 * expected[0])  # the merge is rounded to float32


@pytest.fixture(scope="module")
def coarse_base(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return resaved(encoder, tmp_path_factory.mktemp("base") / "bfloat16")


@pytest.mark.parametrize(
    ("lora", "lr"),
    [pytest.param(0, 5e-5, id="full", marks=pytest.mark.slow), pytest.param(8, 1e-3, id="LoRA, merged")],
)
def test_three_storage_types_of_one_update_agree(
    coarse_base: Path, batches: list[dict[str, torch.Tensor]], tmp_path: Path, lora: int, lr: float
) -> None:
    """The float32 file holds the update to seven digits; the intervals of the others hold what it says."""
    found = compare(fine_tuned(coarse_base, batches, lora=lora, lr=lr), coarse_base, tmp_path)
    assert (found["float32"]["noise_regime"] == "resolved").all()
    truth = found["float32"]["energy_rank_90"].astype(float)
    for name in ("bfloat16", "float16"):
        updates = found[name]
        told = updates["energy_rank_90_denoised_low"].notna()
        assert told.mean() > 0.6, name
        low, high = (updates.loc[told, f"energy_rank_90_denoised_{end}"] for end in ("low", "high"))
        held = (low <= truth[told]) & (truth[told] <= high)
        assert held.mean() >= 0.9, name
        assert (updates["noise_regime"] != "exact").all()
    if lora:
        assert (found["bfloat16"]["rank_above_rounding"] == lora).mean() > 0.9
        assert (found["float32"]["rank_above_rounding"] == lora).all()
    raw = found["bfloat16"]["energy_rank_90"].astype(float)
    assert (raw >= truth).mean() > 0.9, "rounding inflates the raw rank"
