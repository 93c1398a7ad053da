"""Inputs that users really have, and bad ones, each a real file through the command line.

The cases are those of the evidence that the project was built on. Where another
file holds a case, it stands there with the test's name:

=============================================  ==========================================================
ZeRO-3's tensors of shape [0]                  test_bad_input: a_model_saved_before_it_was_gathered, shape [0]
base weights inside the adapter                here: base_weights_inside_an_adapter
embeddings saved with a resized vocabulary     here: embeddings_that_peft_saved
tied, and then not                             here: two_tensors_where_the_config_ties_one
other vocabulary                               here: another_vocabulary
types of the pair                              here: types_of_both_sides
packed and quantised                           here: quantised; test_bad_input: packed_weights, a_quantised_model
shards missing, too many, twice                test_bad_input: a_shard_that_is_missing, too_many; here: twice
index with absent keys                         test_bad_input: a_tensor_that_the_index_promises
truncated header, pointer of Git LFS           test_bad_input: a_damaged_safetensors_file
pickle with code, links, pipes                 test_malicious
NaN and infinity                               test_bad_input: a_bad_tensor_costs_its_row
B all zero                                     here: an_adapter_that_was_not_trained
decomposition that does not converge           here: a_decomposition_that_fails_costs_its_row
wrong base, permuted heads                     here: a_wrong_base_is_visible, permuted_heads_are_visible
Conv1D, fused weights, prefixes                test_pairing
layers inserted or removed                     test_bad_input: models_that_do_not_belong_together
several adapters, patterns, embeddings         test_adapters, test_adapter_config
share of biases and norms                      here: norms_have_their_share
=============================================  ==========================================================
"""

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from rank_lab import RankReport
from tests.checkpoints import Tensors, factors, llama, moved, rank_lab, save, save_adapter

QUERY = "model.layers.0.self_attn.q_proj"
TIED = {"model_type": "llama", "tie_word_embeddings": True}


@pytest.fixture
def state(generator: torch.Generator) -> Tensors:
    return llama(generator)


@pytest.fixture
def base(tmp_path: Path, state: Tensors) -> Path:
    return save(tmp_path / "base", state)


def reported(tmp_path: Path, tuned: Path, *arguments: object, code: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Updates by module and coverage by tensor, and that the same can be shown."""
    done = rank_lab("analyze", tuned, *arguments, "-o", tmp_path / "study")
    assert (done.code, done.err) == (code, "")
    assert json.loads(rank_lab("show", tmp_path / "study", "--json").out)
    report = RankReport.load(tmp_path / "study" / f"{tuned.name}.rank")
    return report.updates.set_index("module"), report.coverage.set_index("tensor")


def refused(tmp_path: Path, *arguments: object) -> str:
    done = rank_lab("analyze", *arguments, "-o", tmp_path / "study")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert done.err.startswith("error: ")
    return done.err


def test_base_weights_inside_an_adapter(tmp_path: Path, state: Tensors, base: Path, generator: torch.Generator) -> None:
    inside = {f"base_model.model.{QUERY}.base_layer.weight": state[f"{QUERY}.weight"]}
    inside |= {"base_model.model.lm_head.base_layer.weight": state["lm_head.weight"]}
    adapter = save_adapter(tmp_path / "adapter", factors(generator) | inside)
    updates, coverage = reported(tmp_path, adapter)
    assert set(updates.index) == {QUERY}
    assert coverage.loc[list(inside), "status"].tolist() == ["skipped", "skipped"]
    assert coverage.loc[list(inside), "reason"].str.contains("its change needs --base").all()
    updates, coverage = reported(tmp_path, adapter, "--base", base)
    assert coverage.loc[list(inside), "status"].tolist() == ["identical", "identical"]
    assert updates.loc[QUERY, "change_share"] == pytest.approx(1.0)


@pytest.mark.parametrize("rows", [20, 23])
def test_embeddings_that_peft_saved(
    tmp_path: Path, state: Tensors, base: Path, generator: torch.Generator, rows: int
) -> None:
    saved = {}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        more = torch.randn(rows - 20, 8, generator=generator)
        saved[f"base_model.model.{name}"] = torch.cat([state[name] + 1.0, more])
    adapter = save_adapter(tmp_path / "adapter", factors(generator) | saved)
    updates, coverage = reported(tmp_path, adapter, "--base", base)
    assert set(updates.index) == {QUERY, "model.embed_tokens", "lm_head"}
    assert updates.loc["model.embed_tokens", "numerical_rank"] == 1
    assert updates.loc["lm_head", "frobenius_norm"] == pytest.approx(160**0.5, rel=1e-5)
    told = coverage.loc[list(saved), "reason"].str.contains("20 common rows compared, 3 rows only in the tuned")
    assert told.all() == (rows == 23)


def test_two_tensors_where_the_config_ties_one(tmp_path: Path, state: Tensors, generator: torch.Generator) -> None:
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    tuned = moved(state, generator)  # training has untied them; the file holds both
    folders = save(tmp_path / "tuned", tuned, config=TIED), "--base", save(tmp_path / "base", state, config=TIED)
    updates, coverage = reported(tmp_path, *folders)
    for module in ("lm_head", "model.embed_tokens"):
        change = torch.linalg.norm(tuned[f"{module}.weight"].double() - state[f"{module}.weight"].double())
        assert updates.loc[module, "frobenius_norm"] == pytest.approx(float(change), rel=1e-6)
    assert coverage.loc["lm_head.weight", "status"] == "analysed"


@pytest.mark.parametrize(("rows", "side"), [(24, "tuned"), (18, "base")])
def test_another_vocabulary(tmp_path: Path, state: Tensors, base: Path, rows: int, side: str) -> None:
    changed = {name: value + 1.0 for name, value in state.items()}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        changed[name] = torch.cat([changed[name], torch.full((9, 8), 50.0)])[:rows].contiguous()
        changed[name][20:] = 50.0
    updates, coverage = reported(tmp_path, save(tmp_path / "tuned", changed), "--base", base)
    common = min(rows, 20)
    assert updates.loc["lm_head", "frobenius_norm"] == pytest.approx((common * 8) ** 0.5, rel=1e-5)
    expected = f"resized: {common} common rows compared, {abs(rows - 20)} rows only in the {side} checkpoint"
    assert coverage.loc["lm_head.weight", "reason"] == expected


def test_types_of_both_sides(tmp_path: Path, state: Tensors, generator: torch.Generator) -> None:
    half = save(tmp_path / "base", {name: value.half() for name, value in state.items()})
    tuned = {name: value.bfloat16() for name, value in moved(state, generator).items()}
    updates, _ = reported(tmp_path, save(tmp_path / "tuned", tuned), "--base", half)
    assert updates.loc[QUERY, ["base_dtype", "tuned_dtype"]].tolist() == ["float16", "bfloat16"]
    widened = save(tmp_path / "widened", {name: value.float() for name, value in tuned.items()})
    again, _ = reported(tmp_path, widened, "--base", half)
    assert again.loc[QUERY, ["tuned_dtype", "tuned_grid"]].tolist() == ["float32", "bfloat16"]
    assert again["frobenius_norm"].tolist() == updates["frobenius_norm"].tolist()


def gptq(module: str, value: torch.Tensor) -> Tensors:
    integers = {f"{module}.{name}": torch.ones(8, 1, dtype=torch.int32) for name in ("qweight", "qzeros")}
    return integers | {f"{module}.scales": value[:1].clone(), f"{module}.g_idx": torch.zeros(8, dtype=torch.int32)}


def nf4(module: str, value: torch.Tensor) -> Tensors:
    name = f"{module}.weight"
    state = {f"{name}.absmax": value[0].clone(), f"{name}.quant_map": value[1].clone()}
    packed = torch.ones(value.numel() // 2, 1, dtype=torch.uint8)
    return state | {name: packed, f"{name}.quant_state.bitsandbytes__nf4": torch.ones(9, dtype=torch.uint8)}


def int8(module: str, value: torch.Tensor) -> Tensors:
    return {f"{module}.weight": value.to(torch.int8), f"{module}.SCB": value[:, 0].clone()}


def fp8(module: str, value: torch.Tensor) -> Tensors:
    scale = {f"{module}.weight_scale_inv": value[:1, :1].clone()}
    return scale | {f"{module}.weight": value.to(torch.float8_e4m3fn)}


@pytest.mark.parametrize("pack", [gptq, nf4, int8, fp8])
def test_quantised(
    tmp_path: Path, state: Tensors, generator: torch.Generator, pack: Callable[[str, torch.Tensor], Tensors]
) -> None:
    def packed(tensors: Tensors) -> Tensors:
        found = {}
        for name, value in tensors.items():
            found |= pack(name.removesuffix(".weight"), value) if "_proj" in name else {name: value}
        return found

    base, tuned = packed(state), packed(moved(state, generator, by=1.0))
    folders = save(tmp_path / "tuned", tuned), "--base", save(tmp_path / "base", base)
    updates, coverage = reported(tmp_path, *folders, code=1)
    assert set(updates.index) == {"model.embed_tokens", "lm_head"}  # no scale passes for a weight
    rows = coverage[coverage.index.str.contains("_proj")]
    assert set(rows["status"]) == {"skipped"}
    assert rows["reason"].str.contains("packed or quantised; dequantise|serves to unpack the quantised").all()
    assert rows.loc[rows["failed"], "reason"].str.contains("stored as ").all()
    assert rows["failed"].sum() >= 8
    only = {name: value for name, value in tuned.items() if "_proj" in name}
    assert "packed or quantised; dequantise" in refused(
        tmp_path, save(tmp_path / "only", only), "--base", tmp_path / "base"
    )


def test_a_tensor_in_two_shards(tmp_path: Path, state: Tensors, base: Path) -> None:
    tuned = save(tmp_path / "tuned", state, shards=2)
    (tuned / "model.safetensors.index.json").unlink()
    shutil.copy(tuned / "model-00001-of-00002.safetensors", tuned / "model-00002-of-00002.safetensors")
    line = refused(tmp_path, tuned, "--base", base)
    assert "is both in" in line
    assert "model-00002-of-00002.safetensors; remove the file that does not belong" in line


def test_an_adapter_that_was_not_trained(tmp_path: Path, base: Path, generator: torch.Generator) -> None:
    tensors = {name: value * ("lora_A" in name) for name, value in factors(generator).items()}
    updates, _ = reported(tmp_path, save_adapter(tmp_path / "adapter", tensors), "--base", base)
    assert updates.loc[QUERY, ["frobenius_norm", "numerical_rank", "energy_rank_90"]].tolist() == [0.0, 0, 0]
    assert pd.isna(updates.loc[QUERY, "stable_rank"])


def test_a_decomposition_that_fails_costs_its_row(
    tmp_path: Path, state: Tensors, base: Path, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = torch.linalg.eigvalsh

    def failing(matrix: torch.Tensor, **options: Any) -> torch.Tensor:
        if len(matrix) == 4:  # the short side of k alone
            raise torch.linalg.LinAlgError("linalg.eigh: The algorithm failed to converge")  # type: ignore[attr-defined]
        return real(matrix, **options)

    monkeypatch.setattr(torch.linalg, "eigvalsh", failing)
    tuned = save(tmp_path / "tuned", moved(state, generator))
    updates, coverage = reported(tmp_path, tuned, "--base", base, code=1)
    bad = updates[updates["kind"] == "k"]
    assert bad["warning"].str.contains("failed to converge").all()
    assert bad["stable_rank"].isna().all()
    assert updates.loc[updates["kind"] != "k", "stable_rank"].notna().all()
    assert coverage["failed"].sum() == len(bad) == 2


def test_a_wrong_base_is_visible(tmp_path: Path, base: Path, generator: torch.Generator) -> None:
    updates, _ = reported(tmp_path, save(tmp_path / "tuned", llama(generator)), "--base", base)
    assert (updates["relative_frobenius"] > 1.1).all()  # two unrelated weights are sqrt(2) apart, in terms of one


def test_permuted_heads_are_visible(tmp_path: Path, state: Tensors, base: Path, generator: torch.Generator) -> None:
    tuned = moved(state, generator)
    for name in [name for name in tuned if "q_proj" in name or "k_proj" in name]:
        tuned[name] = tuned[name].view(2, 2, -1, 8).transpose(1, 2).reshape(tuned[name].shape).contiguous()
    updates, _ = reported(tmp_path, save(tmp_path / "tuned", tuned), "--base", base)
    permuted = updates["kind"].isin(["q"])
    assert (updates.loc[permuted, "relative_frobenius"] > 0.5).all()
    assert (updates.loc[~updates["kind"].isin(["q", "k"]), "relative_frobenius"] < 0.1).all()


def test_norms_have_their_share(tmp_path: Path, state: Tensors, base: Path) -> None:
    tuned = state | {"model.norm.weight": state["model.norm.weight"] + 3.0}
    tuned[f"{QUERY}.weight"] = state[f"{QUERY}.weight"] + 1.0
    updates, coverage = reported(tmp_path, save(tmp_path / "tuned", tuned), "--base", base)
    assert coverage.loc["model.norm.weight", "change_share"] == pytest.approx(72 / (72 + 64), rel=1e-5)
    assert updates.loc[QUERY, "change_share"] == pytest.approx(64 / (72 + 64), rel=1e-5)


def test_odd_shapes(tmp_path: Path, state: Tensors) -> None:
    odd = state | {"many.weight": torch.ones([1] * 60), "scale": torch.tensor(1.0), "empty": torch.zeros(3, 0)}
    tuned = odd | {"many.weight": torch.full([1] * 60, 3.0), "scale": torch.tensor(2.0)}
    folders = save(tmp_path / "tuned", tuned), "--base", save(tmp_path / "base", odd)
    _, coverage = reported_unchanged_but(tmp_path, *folders)
    assert coverage.loc["many.weight", ["status", "frobenius_norm"]].tolist() == ["vector", 2.0]
    assert coverage.loc["scale", ["status", "frobenius_norm"]].tolist() == ["vector", 1.0]
    assert "shape [3, 0]" in coverage.loc["empty", "reason"]


def reported_unchanged_but(tmp_path: Path, *arguments: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    return reported(tmp_path, *arguments, code=1)


UNREAD = {
    "model.gguf": (b"GGUF", "GGUF, whose quantisation is larger than most updates"),
    "tf_model.h5": (b"\x89HDF", "TensorFlow's weights are not read"),
    "flax_model.msgpack": (b"\x81", "Flax's weights are not read"),
    "model.onnx": (b"\x08", "ONNX graphs are not read"),
    "weights.npz": (b"PK\3\4", "NumPy archives are not read"),
}


@pytest.mark.parametrize("name", UNREAD)
def test_formats_that_are_not_read_are_named(tmp_path: Path, base: Path, name: str) -> None:
    content, expected = UNREAD[name]
    file = tmp_path / "tuned" / name
    file.parent.mkdir()
    file.write_bytes(content)
    for source in (file, file.parent):
        assert f"error: {file}: {expected}" in refused(tmp_path, source, "--base", base)


def test_wrong_endings_are_told_from_the_first_bytes(tmp_path: Path, state: Tensors, base: Path) -> None:
    torch.save(state, tmp_path / "torch.safetensors")
    save_file(state, tmp_path / "safetensors.bin")
    for name in ("gguf.bin", "gguf.safetensors"):
        (tmp_path / name).write_bytes(b"GGUF" + bytes(60))
    for name, expected in {
        "torch.safetensors": "is a torch or zip archive by its first bytes",
        "safetensors.bin": "is a safetensors file by its first bytes",
        "gguf.bin": "is a GGUF file by its first bytes",
        "gguf.safetensors": "is a GGUF file by its first bytes",
    }.items():
        assert f"{tmp_path / name}: {expected}" in refused(tmp_path, tmp_path / name, "--base", base)


@contextmanager
def _without_privileges() -> Iterator[None]:
    """As a user whom permissions bind, also where tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_folder_that_may_not_be_read(tmp_path: Path, state: Tensors, base: Path) -> None:
    refused(tmp_path, tmp_path / "absent", "--base", base)  # imports, before privileges are given up
    with tempfile.TemporaryDirectory() as place:
        folder = save(Path(place) / "tuned", state)
        folder.chmod(0)
        Path(place).chmod(0o755)
        with _without_privileges():
            done = rank_lab("analyze", folder, "-o", folder / "study")
        folder.chmod(stat.S_IRWXU)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert f"error: {folder}" in done.err
    assert "Permission denied; check the path, its permissions" in done.err
