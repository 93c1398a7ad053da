"""Bad input through the command line: one line that names the file and says what to do, or one bad row."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from rank_lab import RankReport
from tests.checkpoints import (
    Container,
    Tensors,
    factors,
    llama,
    moved,
    rank_lab,
    raw_safetensors,
    save,
    save_adapter,
)

QUERY = "model.layers.{}.self_attn.q_proj.weight"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32\nsize 12345\n"


@pytest.fixture
def state(generator: torch.Generator) -> Tensors:
    return llama(generator)


@pytest.fixture
def base(tmp_path: Path, state: Tensors) -> Path:
    return save(tmp_path / "base", state)


@pytest.fixture
def tuned(tmp_path: Path, state: Tensors, generator: torch.Generator) -> Path:
    return save(tmp_path / "tuned", moved(state, generator), shards=2)


def refused(tmp_path: Path, *arguments: object) -> str:
    """Run ``analyze``, check that it refuses in one line and writes no report; return the line."""
    done = rank_lab("analyze", *arguments, "-o", tmp_path / "study")
    assert done.code == 2, done
    assert done.out == ""
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert done.err.endswith((".\n", "?\n"))
    assert not list((tmp_path / "study").glob("*.rank"))
    return done.err


def entry(begin: object, end: object, *, shape: object = (2, 2), dtype: object = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


DAMAGED = {
    "empty file": (b"", "the file is empty"),
    "three bytes": (b"abc", "the file was cut or is no safetensors file"),
    "header longer than the file": (raw_safetensors({"w": entry(0, 16)}, b"", announced=10**9), "announces a header"),
    "header longer than any": (raw_safetensors({}, b"", announced=2**63), "announces a header"),
    "header cut": (raw_safetensors({"w": entry(0, 16)}, b"")[:20], "announces a header"),
    "header not JSON": (raw_safetensors(b"{'w': 1}"), "its header cannot be parsed as JSON"),
    "header not text": (raw_safetensors(b"\xff\xfe\x00\x01"), "its header cannot be parsed as JSON"),
    "header of nested lists": (raw_safetensors(b"[" * 200_000), "its header cannot be parsed as JSON"),
    "header with an endless number": (
        raw_safetensors(b'{"w": ' + b"9" * 5000 + b"}"),
        "its header cannot be parsed as JSON",
    ),
    "header a list": (raw_safetensors([1, 2]), "its header is a JSON list"),
    "entry a number": (raw_safetensors({"w": 5}), "lacks a proper dtype, shape or data_offsets"),
    "entry without type": (raw_safetensors({"w": {"shape": [1]}}), "lacks a proper dtype"),
    "entry with three offsets": (
        raw_safetensors({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]}}, b"1234"),
        "lacks a proper",
    ),
    "negative offset": (raw_safetensors({"w": entry(-16, 0)}, bytes(16)), "lacks a proper"),
    "negative shape": (raw_safetensors({"w": entry(0, 16, shape=(-2, -2))}, bytes(16)), "lacks a proper"),
    "broken shape": (raw_safetensors({"w": entry(0, 16, shape=(2.5, 2))}, bytes(16)), "lacks a proper"),
    "infinite shape": (
        raw_safetensors({"w": entry(0, 16, shape=(float("inf"),))}, bytes(16)),
        "Infinity is no number of JSON",
    ),
    "shape of words": (raw_safetensors({"w": entry(0, 16, shape=("2", "2"))}, bytes(16)), "lacks a proper"),
    "range too short": (raw_safetensors({"w": entry(0, 12)}, bytes(12)), "cannot lie in bytes 0 to 12"),
    "range reversed": (raw_safetensors({"w": entry(16, 0)}, bytes(16)), "cannot lie in bytes 16 to 0"),
    "ranges overlap": (raw_safetensors({"v": entry(0, 16), "w": entry(8, 24)}, bytes(24)), "'w' starts at byte 8"),
    "ranges leave a gap": (raw_safetensors({"v": entry(0, 16), "w": entry(24, 40)}, bytes(40)), "leaves a gap"),
    "one range twice": (raw_safetensors({"v": entry(0, 16), "w": entry(0, 16)}, bytes(16)), "overlaps"),
    "bytes behind the last": (raw_safetensors({"w": entry(0, 16)}, bytes(20)), "its tensors end at byte"),
    "data cut": (raw_safetensors({"w": entry(0, 16)}, bytes(10)), "before tensor 'w' does"),
    "Git LFS pointer": (LFS, "is a Git LFS pointer of"),
    "no tensor": (raw_safetensors({"__metadata__": {"format": "pt"}}), "holds no tensor"),
}


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_safetensors_file_is_refused(tmp_path: Path, base: Path, content: str) -> None:
    data, expected = DAMAGED[content]
    file = tmp_path / "tuned" / "model.safetensors"
    file.parent.mkdir()
    file.write_bytes(data)
    line = refused(tmp_path, file.parent, "--base", base)
    assert str(file) in line or content == "no tensor"
    assert expected in line
    if content != "no tensor":  # we refuse no file that the format's own library reads
        with pytest.raises(SafetensorError), safe_open(file, "pt"):
            pass


def test_a_shard_that_is_missing_is_named(tmp_path: Path, base: Path, tuned: Path) -> None:
    (tuned / "model-00002-of-00002.safetensors").unlink()
    line = refused(tmp_path, tuned, "--base", base)
    assert f"{tuned}: 1 of 2 shards are missing (model-00002-of-00002.safetensors)" in line


def test_a_shard_too_many_is_named(tmp_path: Path, base: Path, tuned: Path) -> None:
    save_file({"x": torch.ones(2)}, tuned / "model-00003-of-00003.safetensors")
    line = refused(tmp_path, tuned, "--base", base)
    assert "shard model-00003-of-00003.safetensors is not listed in model.safetensors.index.json" in line


def test_a_tensor_that_the_index_promises_is_named(tmp_path: Path, base: Path, tuned: Path) -> None:
    file = tuned / "model.safetensors.index.json"
    content = json.loads(file.read_text())
    content["weight_map"]["model.layers.9.mlp.up_proj.weight"] = "model-00001-of-00002.safetensors"
    file.write_text(json.dumps(content))
    line = refused(tmp_path, tuned, "--base", base)
    assert "model-00001-of-00002.safetensors: lacks tensor 'model.layers.9.mlp.up_proj.weight'" in line


def test_an_index_that_leads_elsewhere_is_refused(tmp_path: Path, base: Path, tuned: Path) -> None:
    file = tuned / "model.safetensors.index.json"
    file.write_text(json.dumps({"weight_map": {"a": "../base/model.safetensors"}}))
    assert "names the shard '../base/model.safetensors', which is not a plain file name" in refused(
        tmp_path, tuned, "--base", base
    )


def test_paths_without_weights_are_named(tmp_path: Path, base: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "readme.txt").write_text("nothing")
    (tmp_path / "table.csv").write_text("a,b")
    for source, expected in {
        tmp_path / "empty": "the folder is empty; expected model.safetensors",
        tmp_path / "notes": "no weights among 1 entries (readme.txt)",
        tmp_path / "table.csv": ".csv file ending; expected .safetensors",
        tmp_path / "nowhere": "no such file or folder",
        "~nobody_of_that_name/model": "no such user's home",
    }.items():
        assert f"error: {source}: {expected}" in refused(tmp_path, source, "--base", base)
        assert f"error: {source}: {expected}" in refused(tmp_path, base, "--base", source)
    assert "an empty path" in refused(tmp_path, base, "--base", "")


def test_an_over_long_path_is_one_line(tmp_path: Path, base: Path) -> None:
    assert "File name too long" in refused(tmp_path, tmp_path / ("x" * 300), "--base", base)


@pytest.mark.parametrize("content", ["{", "[1, 2]", '"text"', "\ufeff", '{"a": NaN'])
def test_a_broken_config_is_named(tmp_path: Path, base: Path, tuned: Path, content: str) -> None:
    (tuned / "config.json").write_text(content)
    line = refused(tmp_path, tuned, "--base", base)
    assert f"{tuned / 'config.json'}: " in line
    assert "restore the file that the model was saved with" in line


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"r": 0}, "r is 0, expected a rank of at least 1"),
        ({"r": -4}, "r is -4"),
        ({"r": 2.5}, "r is 2.5"),
        ({"r": "2"}, "r is '2', expected a number"),
        ({"r": True}, "r is True"),
        ({"r": "absent"}, "r is missing"),
        ({"lora_alpha": "absent"}, "lora_alpha is missing"),
        ({"lora_alpha": "sixteen"}, "lora_alpha is 'sixteen'"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
        ({"lora_alpha": float("inf")}, "lora_alpha is inf"),
        ({"alpha_pattern": {"q_proj": None}}, "q_proj is missing"),
        ({"rank_pattern": {"q_proj": 0}}, "q_proj is 0"),
        ({"rank_pattern": ["q_proj"]}, "its ranks and alphas cannot be read"),
        ({"rank_pattern": {"q_proj(": 2}}, "pattern 'q_proj(' is no regular expression"),
        ({"peft_type": "ADALORA", "init_r": 2, "rank_pattern": {"q.lora_E": 2}}, "expected AdaLoRA's list"),
        ({"peft_type": "ADALORA"}, "init_r is missing"),
        ({"peft_type": "absent"}, "peft_type missing is not known here"),
    ],
    ids=str,
)
def test_a_broken_adapter_config_is_named(
    tmp_path: Path, generator: torch.Generator, config: dict[str, Any], expected: str
) -> None:
    folder = save_adapter(tmp_path / "adapter", factors(generator), **config)
    line = refused(tmp_path, folder)
    assert f"{folder / 'adapter_config.json'}: " in line
    assert expected in line


def test_models_that_do_not_belong_together_are_refused(
    tmp_path: Path, base: Path, tuned: Path, state: Tensors, generator: torch.Generator
) -> None:
    deeper = save(tmp_path / "deeper", llama(generator, layers=3))
    other = save(tmp_path / "other", {name.replace("_proj", "_lin"): value for name, value in state.items()})
    adapter = save_adapter(tmp_path / "adapter", factors(generator))
    assert "2 layers in 'model.layers'" in refused(tmp_path, tuned, "--base", deeper)
    assert "layers or experts were inserted or removed" in refused(tmp_path, deeper, "--base", base)
    assert "have no partner by name; nearest: model.layers.0" in refused(tmp_path, other, "--base", base)
    assert f"{adapter}: the base is an adapter" in refused(tmp_path, tuned, "--base", adapter)
    assert f"{base}: base and tuned are the same files" in refused(tmp_path, base, "--base", base)
    assert f"{tuned}: a full checkpoint shows no update by itself" in refused(tmp_path, tuned)


@pytest.mark.parametrize("container", ["safetensors", "bin"])
def test_a_copy_of_the_tuned_model_as_base_is_told(tmp_path: Path, base: Path, container: Container) -> None:
    copy = save(tmp_path / "copy", load_file(base / "model.safetensors"), container=container, shards=2)
    line = refused(tmp_path, copy, "--base", base)
    assert f"{copy}: all 10 matrices are identical to those of {base}; is --base the tuned model itself" in line


def test_options_that_make_no_sense_are_refused(
    tmp_path: Path, base: Path, tuned: Path, generator: torch.Generator
) -> None:
    adapter = save_adapter(tmp_path / "adapter", factors(generator))
    assert "--method magic: expected one of auto" in refused(tmp_path, tuned, "--base", base, "--method", "magic")
    assert "--device tpu: torch sees no such device" in refused(tmp_path, tuned, "--base", base, "--device", "tpu")
    assert "--name x with 2 runs" in refused(tmp_path, tuned, base, "--base", base, "--name", "x")
    assert "records lora_alpha; leave out --lora-alpha" in refused(tmp_path, adapter, "--lora-alpha", "4")
    (adapter / "adapter_config.json").unlink()
    assert "the file does not record alpha; give it as --lora-alpha" in refused(tmp_path, adapter)
    assert "--lora-alpha nan: expected a number" in refused(tmp_path, adapter, "--lora-alpha", "nan")


@pytest.mark.parametrize("place", ["file", "file/study"])
def test_a_file_cannot_hold_a_study(tmp_path: Path, base: Path, tuned: Path, place: str) -> None:
    (tmp_path / "file").write_text("mine")
    done = rank_lab("analyze", tuned, "--base", base, "-o", tmp_path / place)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert str(tmp_path / "file") in done.err
    assert (tmp_path / "file").read_text() == "mine"


BAD_TENSORS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = {
    "NaN": (lambda t: t.index_put((torch.tensor(1), torch.tensor(2)), torch.tensor(torch.nan)), "1 NaN or infinite"),
    "Inf": (lambda t: t.index_put((torch.tensor([0, 1]),), torch.tensor(torch.inf)), "16 NaN or infinite values"),
    "shape [0]": (lambda t: t.new_empty(0), "saved before the partitions were gathered (ZeRO-3)"),
    "shape [0, 8]": (lambda t: t.new_empty(0, 8), "saved before the partitions were gathered (ZeRO-3)"),
    "other shape": (lambda t: t[:6].contiguous(), "not the same module"),
    "transposed": (lambda t: torch.zeros(8, 9), "not the same module"),
    "int8": (lambda t: t.to(torch.int8), "stored as int8: packed or quantised"),
    "uint8": (lambda t: t.to(torch.uint8), "stored as uint8: packed or quantised"),
    "int32": (lambda t: t.to(torch.int32), "stored as int32: packed or quantised"),
    "fp8": (lambda t: t.to(torch.float8_e4m3fn), "stored as float8_e4m3fn: packed or quantised"),
}


@pytest.mark.parametrize("side", ["tuned", "base"])
@pytest.mark.parametrize("kind", BAD_TENSORS)
def test_a_bad_tensor_costs_its_row_and_no_other(
    tmp_path: Path, state: Tensors, generator: torch.Generator, kind: str, side: str
) -> None:
    spoil, reason = BAD_TENSORS[kind]
    name, changed = QUERY.format(1), moved(state, generator)
    sides = {"base": state, "tuned": changed}
    sides[side] = sides[side] | {name: spoil(sides[side][name])}
    base, tuned = save(tmp_path / "base", sides["base"]), save(tmp_path / "tuned", sides["tuned"])
    done = rank_lab("analyze", tuned, "--base", base, "-o", tmp_path / "study")
    assert (done.code, done.err) == (1, "")
    assert reason in " ".join(done.out.split())
    coverage = RankReport.load(tmp_path / "study" / "tuned.rank").coverage.set_index("tensor")
    assert coverage.loc[coverage["failed"], "status"].to_dict() == {name: "skipped"}
    assert reason in coverage.loc[name, "reason"]
    assert set(coverage["status"].drop(name)) == {"analysed", "vector"}
    failures = json.loads(rank_lab("show", tmp_path / "study", "--json").out)[0]["failures"]
    assert [failure["tensor"] for failure in failures] == [name]


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn], ids=str)
def test_a_quantised_model_is_refused(tmp_path: Path, state: Tensors, base: Path, dtype: torch.dtype) -> None:
    tuned = save(tmp_path / "tuned", {name: value.to(dtype) for name, value in state.items() if value.ndim == 2})
    line = refused(tmp_path, tuned, "--base", base)
    assert f"stored as {str(dtype).removeprefix('torch.')}: packed or quantised; dequantise" in line
    adapted = save_adapter(tmp_path / "adapter", factors(torch.Generator().manual_seed(1)))
    line = refused(tmp_path, adapted, "--base", tuned)
    assert f"{tuned / 'model.safetensors'}: tensor '{QUERY.format(0)}' of the base is stored as" in line
    assert "leave out --base" in line


def test_packed_weights_of_other_names_are_named(tmp_path: Path, state: Tensors, base: Path) -> None:
    packed: Tensors = {}
    for name, value in state.items():
        if value.ndim == 2 and "layers" in name:
            module = name.removesuffix(".weight")
            packed |= {f"{module}.qweight": torch.ones(1, 8, dtype=torch.int32), f"{module}.scales": torch.ones(1, 8)}
        else:
            packed[name] = value
    line = refused(tmp_path, save(tmp_path / "gptq", packed), "--base", base)
    assert "qweight' is stored as int32: packed or quantised; dequantise" in line


def test_a_model_saved_before_it_was_gathered_is_refused(tmp_path: Path, state: Tensors, base: Path) -> None:
    tuned = save(tmp_path / "tuned", {name: value.new_empty(0) for name, value in state.items()})
    line = refused(tmp_path, tuned, "--base", base)
    assert "saved before the partitions were gathered (ZeRO-3); gather the weights and save again" in line
    adapter = save_adapter(
        tmp_path / "adapter", {name: value.new_empty(0) for name, value in factors(torch.Generator()).items()}
    )
    assert "(ZeRO-3)" in refused(tmp_path, adapter)


def test_a_run_that_fails_leaves_the_others(tmp_path: Path, base: Path, tuned: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = rank_lab("analyze", tuned, tmp_path / "empty", "--base", base, "-o", tmp_path / "study")
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert RankReport.load(tmp_path / "study" / "tuned.rank").updates["stable_rank"].notna().all()


def test_a_report_that_was_interrupted_is_no_report(tmp_path: Path, base: Path, tuned: Path) -> None:
    study = tmp_path / "study"
    (study / "tuned.rank").mkdir(parents=True)
    (study / "tuned.rank" / "updates.parquet").write_bytes(b"PAR1 and no more")
    shown = rank_lab("show", study)
    assert (shown.code, shown.err.count("\n")) == (2, 1)
    assert f"{study}: holds no report" in shown.err
    assert rank_lab("analyze", tuned, "--base", base, "-o", study).code == 0
    assert rank_lab("show", study).code == 0
    (study / "tuned.rank" / "spectra.parquet").write_bytes(b"PAR1 and no more")
    shown = rank_lab("show", study)
    assert (shown.code, shown.err.count("\n")) == (2, 1)
    assert "spectra.parquet: cannot be read" in shown.err
