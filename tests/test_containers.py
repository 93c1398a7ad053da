"""Distributed checkpoints, trainers' own files, and containers that are refused with what to do."""

import os
import pickle
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from torch.distributed.checkpoint.metadata import Metadata

from rank_lab import Checkpoint, analyze, plan_updates, read_update
from rank_lab.errors import CheckpointError, UnsupportedUpdateError
from tests.checkpoints import Tensors, assert_all_accounted_for, llama, moved, rank_lab, save
from tests.two_shards import save_shard


def distributed(folder: Path, state: dict[str, Any]) -> Path:
    """What torch itself writes, from one process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that there is one process only
        dcp.save(state, checkpoint_id=folder, no_dist=True)
    return folder


def training_state(state: Tensors) -> dict[str, Any]:
    return {"model": state, "optimizer": {"state": {"a": torch.ones(3)}}, "step": torch.tensor(7)}


@pytest.mark.parametrize("form", ["flat", "accelerate", "training state"])
def test_a_distributed_checkpoint_is_read_by_name(tmp_path: Path, generator: torch.Generator, form: str) -> None:
    state = llama(generator)
    state["model.layers.0.self_attn.q_proj.weight"] = state["model.layers.0.self_attn.q_proj.weight"].bfloat16()
    tuned = moved(state, generator)
    source = tmp_path / "checkpoint-7"
    if form == "accelerate":
        distributed(source / "pytorch_model_fsdp_0", {"model": tuned})
        distributed(source / "optimizer_0", {"optimizer": {"a": torch.ones(3)}})
    else:
        distributed(source, tuned if form == "flat" else training_state(tuned))
    base = save(tmp_path / "base", state)
    plan = plan_updates(Checkpoint.open(source), Checkpoint.open(base))
    assert_all_accounted_for(plan, source, base)
    assert len(plan.specs) == 10
    for spec in plan.specs:
        name = f"{spec.module}.weight"
        assert read_update(spec).to_dense().equal(tuned[name].double() - state[name].double()), name
        assert spec.required("tuned").digest() == Checkpoint.open(save(tmp_path / "same", tuned))[name].digest()
    aside = {row.tensor: row.reason for row in plan.coverage if row.status == "skipped"}
    expected = {"optimizer", "step"} if form == "training state" else set()
    assert set(aside) == expected
    report = analyze(source, base)
    assert report.updates["frobenius_norm"].notna().all()


def test_shards_of_two_processes_are_put_together(tmp_path: Path, generator: torch.Generator) -> None:
    state = llama(generator, layers=1) | {"model.layers.0.mlp.odd.weight": torch.randn(5, 3, generator=generator)}
    folder = tmp_path / "pytorch_model_fsdp_0"
    mp.spawn(save_shard, args=(str(folder), state), nprocs=2)
    assert len(list(folder.glob("*.distcp"))) == 2
    found = Checkpoint.open(folder)
    assert set(found.tensors) == set(state)
    for name, value in state.items():
        assert torch.equal(found[name].read(), value), name
    name = "model.layers.0.mlp.odd.weight"
    assert torch.equal(found[name].block(slice(2, 4), slice(1, 3)), state[name][2:4, 1:3])


class Code:
    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.made),)


@pytest.mark.parametrize("where", ["metadata", "tensors"])
def test_code_in_a_distributed_checkpoint_is_refused(tmp_path: Path, generator: torch.Generator, where: str) -> None:
    folder = distributed(tmp_path / "tuned", {"h.0.q_proj.weight": torch.ones(4, 4)})
    if where == "metadata":
        (folder / ".metadata").write_bytes(pickle.dumps({"x": Code(tmp_path / "made")}))
        with pytest.raises(CheckpointError, match=r"\.metadata: its pickle calls for posix\.mkdir, .* is refused"):
            Checkpoint.open(folder)
    else:
        shard = next(folder.glob("*.distcp"))
        shard.write_bytes(pickle.dumps(Code(tmp_path / "made")).ljust(shard.stat().st_size, b"\0"))
        with pytest.raises(CheckpointError, match="is no readable archive at byte 0"):
            Checkpoint.open(folder)["h.0.q_proj.weight"].read()
    assert not (tmp_path / "made").exists()


def test_metadata_may_hold_no_other_class_of_torch(tmp_path: Path) -> None:
    folder = distributed(tmp_path / "tuned", {"h.0.q_proj.weight": torch.ones(4, 4)})
    content = Metadata({}, planner_data={"a": torch.nn.Linear(1, 1)})
    (folder / ".metadata").write_bytes(pickle.dumps(content))
    with pytest.raises(CheckpointError, match=r"its pickle calls for torch\.nn\.modules\.linear\.Linear"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("damage", ["cut", "gone", "garbage", "empty"])
def test_a_damaged_distributed_checkpoint_is_one_line(tmp_path: Path, generator: torch.Generator, damage: str) -> None:
    state = llama(generator)
    folder, base = distributed(tmp_path / "tuned", moved(state, generator)), save(tmp_path / "base", state)
    shard = next(folder.glob("*.distcp"))
    if damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-100])
    elif damage == "gone":
        shard.rename(folder / "other.distcp")
    else:
        (folder / ".metadata").write_bytes(b"garbage" if damage == "garbage" else b"")
    done = rank_lab("analyze", folder, "--base", base, "-o", tmp_path / "study")
    assert (done.code, done.err.count("\n")) == (2, 1)
    expected = {"cut": ".distcp: cut", "gone": ".distcp: missing"}.get(damage, "not the metadata of a distributed")
    assert expected in done.err


def test_a_run_of_distributed_checkpoints_is_a_trajectory(tmp_path: Path, generator: torch.Generator) -> None:
    state = llama(generator)
    for step in (5, 10):
        distributed(tmp_path / f"run/checkpoint-{step}/pytorch_model_fsdp_0", {"model": moved(state, generator)})
    report = analyze(tmp_path / "run", save(tmp_path / "base", state))
    assert sorted(report.updates["step"].unique()) == [5, 10]
    assert set(report.updates["delta"]) == {"cumulative", "step"}
    assert report.updates["frobenius_norm"].gt(0).all()


def test_two_distributed_models_are_not_chosen_from(tmp_path: Path) -> None:
    for number in (0, 1):
        distributed(tmp_path / f"pytorch_model_fsdp_{number}", {"model": {"w": torch.ones(2, 2)}})
    with pytest.raises(CheckpointError, match=r"several models \(pytorch_model_fsdp_0, pytorch_model_fsdp_1\)"):
        Checkpoint.open(tmp_path)


def test_the_command_line_reads_a_distributed_checkpoint(tmp_path: Path, generator: torch.Generator) -> None:
    state = llama(generator)
    base = distributed(tmp_path / "base", {"model": state})
    tuned = distributed(tmp_path / "tuned", {"model": moved(state, generator)})
    done = rank_lab("analyze", tuned, "--base", base, "-o", tmp_path / "study")
    assert done.code == 0, done.err


LIGHTNING = {"epoch": 1, "global_step": 7, "optimizer_states": [{"state": {}}], "loops": OrderedDict()}


@pytest.mark.parametrize(
    ("name", "wrapped"),
    [
        ("epoch=1.ckpt", lambda state: LIGHTNING | {"state_dict": state}),  # Lightning
        ("iter_500.pth", lambda state: {"meta": {"epoch": 1}, "state_dict": state}),  # XTuner
        ("lit_model.pth", lambda state: {"model": state}),  # LitGPT
        ("consolidated.00.pth", lambda state: state),
    ],
)
@pytest.mark.parametrize("named", ["file", "folder"])
def test_trainers_own_files(tmp_path: Path, generator: torch.Generator, name: str, wrapped: Any, named: str) -> None:
    state = llama(generator)
    tuned = moved(state, generator)
    (tmp_path / "tuned").mkdir()
    file = tmp_path / "tuned" / name
    torch.save(wrapped(tuned), file)
    torch.save({"step": 3}, file.parent / "optimizer.pt")
    source = file if named == "file" else file.parent
    base = save(tmp_path / "base", state)
    plan = plan_updates(Checkpoint.open(source), Checkpoint.open(base))
    assert_all_accounted_for(plan, source, base)
    for spec in plan.specs:
        change = tuned[f"{spec.module}.weight"].double() - state[f"{spec.module}.weight"].double()
        assert read_update(spec).to_dense().equal(change)


def test_litgpt_lora_is_read_where_it_is_plain(tmp_path: Path, generator: torch.Generator) -> None:
    B, A = torch.randn(6, 2, generator=generator), torch.randn(2, 5, generator=generator)
    file = tmp_path / "lit_model.pth.lora"
    torch.save({"model": {"transformer.h.0.attn.proj.lora_A": A, "transformer.h.0.attn.proj.lora_B": B}}, file)
    plan = plan_updates(Checkpoint.open(file), lora_alpha=8)
    torch.testing.assert_close(read_update(plan.specs[0]).to_dense(), 4 * B.double() @ A.double())
    fused = {"transformer.h.0.attn.qkv.lora_A": torch.ones(4, 5), "transformer.h.0.attn.qkv.lora_B": torch.ones(12, 2)}
    torch.save({"model": fused}, file)
    with pytest.raises(UnsupportedUpdateError, match=r"qkv.* factors of 2 weights side by side"):
        plan_updates(Checkpoint.open(file), lora_alpha=8)


def test_xtuner_s_partitions_are_refused_with_the_command(tmp_path: Path) -> None:
    folder = tmp_path / "iter_500.pth"
    folder.mkdir()
    (folder / "mp_rank_00_model_states.pt").write_bytes(b"never opened")
    with pytest.raises(CheckpointError, match=r"by: xtuner convert pth_to_hf CONFIG .*/iter_500\.pth OUTPUT"):
        Checkpoint.open(folder)


def test_gathered_weights_beside_partitions_are_read(tmp_path: Path, generator: torch.Generator) -> None:
    folder = save(tmp_path / "checkpoint-7", llama(generator))
    (folder / "global_step7").mkdir()
    (folder / "global_step7" / "zero_pp_rank_0_mp_rank_00_model_states.pt").write_bytes(b"never opened")
    assert len(Checkpoint.open(folder).tensors) > 0


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("model.gguf", "GGUF, whose quantisation is larger than most updates"),
        ("__0_0.distcp", "a part of a distributed checkpoint; name its folder"),
    ],
)
def test_other_containers_are_refused_by_name(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=says):
        Checkpoint.open(tmp_path / name)
    if name.endswith("gguf"):
        with pytest.raises(CheckpointError, match=says):
            Checkpoint.open(tmp_path)


@pytest.mark.parametrize("packed", ["qweight", "weight"])
def test_packed_weights_are_refused_by_name(tmp_path: Path, generator: torch.Generator, packed: str) -> None:
    state = llama(generator)
    name = "model.layers.0.self_attn.q_proj"
    tuned = moved(state, generator)
    tuned.pop(f"{name}.weight")
    tuned |= {f"{name}.{packed}": torch.ones(1, 8, dtype=torch.int32), f"{name}.scales": torch.ones(1, 8)}
    base = save(tmp_path / "base", state)
    done = rank_lab("analyze", save(tmp_path / "gptq", tuned), "--base", base, "-o", tmp_path / "study")
    assert "packed or quantised; dequantise both checkpoints to float and save again" in done.err + done.out
    assert done.code in {1, 2}
