"""DeepSpeed's ZeRO partitions: files that DeepSpeed wrote, against its own converter, and what is refused."""

import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rank_lab import Checkpoint, analyze, plan_updates, read_update
from rank_lab.errors import CheckpointError
from rank_lab.zero_layout import cut_groups, cut_parameters
from tests import deepspeed_run
from tests.checkpoints import Tensors, assert_all_accounted_for, moved, rank_lab, save

GOLDEN = Path(__file__).parent / "golden" / "zero"
RUNS = sorted(deepspeed_run.RUNS)
CONVERTED = [run for run in RUNS if run != "bf16_optimizer"]
FROZEN = "layers.0.q_proj.weight"
needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed; it is no dependency of the tests"
)


def copied(tmp_path: Path, run: str, name: str = "tuned") -> Path:
    """A copy of a golden save, to be changed."""
    return Path(shutil.copytree(GOLDEN / run, tmp_path / name))


def model_file(folder: Path) -> Path:
    return min(folder.glob("global_step2/*_model_states.pt"))


def rewritten(file: Path, **changes: Any) -> None:
    """Other values under some keys of a model's states, None to take a key out."""
    content = torch.load(file, weights_only=True) | changes
    torch.save({key: value for key, value in content.items() if value != "absent"}, file)


def assert_as_converted(folder: Path, expected: Tensors) -> None:
    checkpoint = Checkpoint.open(folder)
    extra = set(checkpoint.tensors) - set(expected)
    assert extra <= {FROZEN}  # which the converter forgets in stage 1
    for name, value in expected.items():
        read = checkpoint[name].read()
        assert read.shape == value.shape == checkpoint[name].shape, name
        assert read.to(value.dtype).equal(value), name
        trained = name != FROZEN and not name.endswith((".mean", ".seen"))
        assert not trained or checkpoint[name].dtype == "float32"


@pytest.mark.parametrize("run", CONVERTED)
def test_partitions_are_what_deepspeed_s_converter_makes_of_them(run: str) -> None:
    assert_as_converted(GOLDEN / run, load_file(GOLDEN / f"{run}.safetensors"))


@needs_deepspeed
@pytest.mark.parametrize("run", CONVERTED)
def test_partitions_that_deepspeed_writes_now(tmp_path: Path, run: str) -> None:
    script = Path(deepspeed_run.__file__)
    command = [sys.executable, str(script), str(tmp_path / "tuned"), run]
    subprocess.run(command, check=True, capture_output=True, timeout=200, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert_as_converted(tmp_path / "tuned", load_file(tmp_path / "tuned.safetensors"))


@pytest.mark.parametrize("run", [run for run in RUNS if not run.startswith("stage3")])
def test_every_weight_rounds_to_the_16_bit_copy_that_the_model_trained_with(run: str) -> None:
    checkpoint = Checkpoint.open(GOLDEN / run)
    copies = torch.load(model_file(GOLDEN / run), weights_only=True)["module"]
    assert set(copies) == set(checkpoint.tensors)
    for name, value in copies.items():
        assert checkpoint[name].read().to(value.dtype).equal(value), name


@pytest.mark.parametrize("run", RUNS)
def test_frozen_and_tied_weights_and_buffers_are_all_there(run: str) -> None:
    checkpoint = Checkpoint.open(GOLDEN / run)
    assert set(deepspeed_run.Model().state_dict()) == set(checkpoint.tensors)
    assert checkpoint.tied == {"lm_head.weight": "embed_tokens.weight"}
    assert checkpoint["lm_head.weight"].read().equal(checkpoint["embed_tokens.weight"].read())
    assert checkpoint[FROZEN].dtype == ("float32" if run == "stage3_alone" else "bfloat16")
    assert checkpoint["layers.0.seen"].read().tolist() == [3]
    assert [name for name, _ in checkpoint.set_aside] == ["optimizer_state_dict"]


@pytest.mark.parametrize("run", RUNS)
def test_parts_and_digests(tmp_path: Path, run: str) -> None:
    checkpoint = Checkpoint.open(GOLDEN / run)
    whole = {name: tensor.read() for name, tensor in checkpoint.tensors.items()}
    same = Checkpoint.open(save(tmp_path / "same", {name: value.clone() for name, value in whole.items()}))
    for name, tensor in checkpoint.tensors.items():
        assert tensor.digest() == same[name].digest(), name
        if len(tensor.shape) == 2:
            value = whole[name]
            assert tensor.block(slice(1, 4), slice(2, 5)).equal(value[1:4, 2:5])
            assert tensor.view((2, 3), start=5).read().equal(value.reshape(-1)[5:11].reshape(2, 3))
            assert tensor.select(1, period=value.shape[1], start=1, length=2).read().equal(value[:, 1:3])


@pytest.mark.parametrize("run", RUNS)
def test_updates_of_partitions(tmp_path: Path, generator: torch.Generator, run: str) -> None:
    tuned = Checkpoint.open(GOLDEN / run)
    state = {name: tensor.read().clone() for name, tensor in tuned.tensors.items() if tensor.dtype != "int64"}
    state["layers.0.seen"], state["layers.1.seen"] = torch.tensor([3]), torch.tensor([3])
    floats = moved({name: value for name, value in state.items() if value.is_floating_point()}, generator)
    base = save(tmp_path / "base", {name: value.clone() for name, value in (state | floats).items()})
    plan = plan_updates(tuned, Checkpoint.open(base))
    assert_all_accounted_for(plan, GOLDEN / run, base)
    assert {"layers.1.q_proj", "layers.0.up_proj"} <= {spec.module for spec in plan.specs}
    for spec in plan.specs:
        name = f"{spec.module}.weight"
        change = state[name].double() - floats[name].to(torch.float64)
        assert read_update(spec).to_dense().equal(change), name


def test_a_run_of_the_trainer_is_a_trajectory(tmp_path: Path, generator: torch.Generator) -> None:
    for step, run in ((2, "stage3"), (4, "stage3_alone")):
        folder = copied(tmp_path, run, f"run/checkpoint-{step}")
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
        (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
        torch.save({}, folder / "rng_state_0.pth")
    base = save(tmp_path / "base", moved(deepspeed_run.Model().state_dict(), generator, by=0))
    report = analyze(tmp_path / "run", base)
    assert sorted(report.updates["step"].unique()) == [2, 4]
    assert set(report.updates["delta"]) == {"cumulative", "step"}
    assert report.updates["frobenius_norm"].notna().all()


def test_a_step_s_folder_may_be_named_itself(tmp_path: Path) -> None:
    folder = copied(tmp_path, "stage3", "checkpoint-2")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    inner, outer = Checkpoint.open(folder / "global_step2"), Checkpoint.open(folder)
    assert dict(inner.tensors) == dict(outer.tensors)
    assert (inner.model_type, inner.step) == (outer.model_type, outer.step) == ("llama", 2)


def test_of_several_saves_the_one_that_latest_names_is_read(tmp_path: Path) -> None:
    folder = copied(tmp_path, "stage2")
    shutil.copytree(GOLDEN / "stage3" / "global_step2", folder / "global_step1")
    checkpoint = Checkpoint.open(folder)
    assert checkpoint["gate"].file.parent.name == "global_step2"
    assert ("global_step1", "another save by DeepSpeed") in checkpoint.set_aside
    (folder / "latest").write_text("global_step9")
    with pytest.raises(CheckpointError, match=r"latest: names 'global_step9', which is none of .*global_step1, glob"):
        Checkpoint.open(folder)
    (folder / "latest").unlink()
    with pytest.raises(CheckpointError, match=r"several saves by DeepSpeed .* and no file 'latest'"):
        Checkpoint.open(folder)


def test_gathered_weights_are_preferred_and_the_partitions_named(tmp_path: Path) -> None:
    folder = save(copied(tmp_path, "stage2"), {"w.weight": torch.ones(2, 2)})
    checkpoint = Checkpoint.open(folder)
    assert list(checkpoint.tensors) == ["w.weight"]
    assert [name for name, reason in checkpoint.set_aside if "DeepSpeed's partitions beside" in reason] == [
        "global_step2"
    ]


class Code:
    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.made),)


@pytest.mark.parametrize("run", ["stage2", "stage3"])
@pytest.mark.parametrize("where", ["*_rank_1_*optim_states.pt", "*_0*_model_states.pt"])
def test_code_in_partitions_is_refused(tmp_path: Path, run: str, where: str) -> None:
    folder = copied(tmp_path, run)
    file = next((folder / "global_step2").glob(where))
    torch.save({"module": {"w": torch.ones(2)}, "optimizer_state_dict": {"loss_scaler": Code(tmp_path / "made")}}, file)
    with pytest.raises(CheckpointError, match=r"its pickle calls for code \(posix\.mkdir\) and is refused unread"):
        Checkpoint.open(folder)
    assert not (tmp_path / "made").exists()


def test_no_other_class_of_deepspeed_is_accepted(tmp_path: Path) -> None:
    folder = copied(tmp_path, "stage2")
    file = next(folder.glob("global_step2/*_rank_0_*optim_states.pt"))
    name, other = b"deepspeed.runtime.zero.config", b"deepspeed.runtime.zero.confyg"
    file.write_bytes(file.read_bytes().replace(name, other))
    with pytest.raises(CheckpointError, match=r"calls for code \(deepspeed\.runtime\.zero\.confyg\.ZeroStageEnum\)"):
        Checkpoint.open(folder)


def test_records_do_nothing_outside_of_partitions(tmp_path: Path) -> None:
    shutil.copy(next((GOLDEN / "stage2/global_step2").glob("*_rank_0_*")), tmp_path / "model.pt")
    Checkpoint.open(GOLDEN / "stage2")
    with pytest.raises(CheckpointError, match=r"calls for code \(deepspeed\.runtime\.fp16\.loss_scaler\.LossScaler\)"):
        Checkpoint.open(tmp_path / "model.pt")


@pytest.mark.parametrize("run", ["stage1", "stage3"])
@pytest.mark.parametrize("damage", ["gone", "cut", "of another run", "model gone", "model of another run", "step"])
def test_incomplete_or_mixed_partitions_are_one_line(tmp_path: Path, run: str, damage: str) -> None:
    folder = copied(tmp_path, run)
    last = next(folder.glob("global_step2/*_rank_1_*optim_states.pt"))
    if damage == "gone":
        last.unlink()
    elif damage == "cut":
        last.write_bytes(last.read_bytes()[:-100])
    elif damage == "of another run":
        other = "stage2_aligned" if run == "stage1" else "stage2"
        shutil.copy(next((GOLDEN / other / "global_step2").glob("*_rank_1_*optim_states.pt")), last)
    elif damage == "model gone":
        model_file(folder).unlink()
    elif damage == "step":
        last = max(folder.glob("global_step2/*_model_states.pt"))
        rewritten(last, **({"param_shapes": []} if run == "stage1" else {"global_steps": 7}))
    else:
        rewritten(model_file(folder), param_shapes=[{"w.weight": torch.Size([3, 3])}])
    done = rank_lab("analyze", folder, "--base", save(tmp_path / "base", {"w": torch.ones(2, 2)}), "-o", tmp_path / "s")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "copy" in done.err


def test_a_part_that_another_list_places_elsewhere_is_refused(tmp_path: Path) -> None:
    folder = copied(tmp_path, "stage1")
    shapes = torch.load(model_file(folder), weights_only=True)["param_shapes"]
    swapped = dict(sorted(shapes[0].items(), reverse=True))  # the same sizes in another order
    rewritten(model_file(folder), param_shapes=[swapped, *shapes[1:]])
    with pytest.raises(CheckpointError, match="the list of fragments of process 0 does not fit the shapes"):
        Checkpoint.open(folder)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"mp_world_size": 2}, "with weights cut by tensor or expert parallelism"),
        ({"ds_autoep_layers": [{}]}, "with weights cut by tensor or expert parallelism"),
        ({"shared_params": "absent"}, "of a DeepSpeed that did not yet save which parameters are tied"),
    ],
)
def test_other_layouts_are_refused_with_the_command(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    folder = copied(tmp_path, "stage2", "my run")
    rewritten(model_file(folder), **changes)
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(folder)
    assert says in str(caught.value)
    command = (
        f"python '{folder}'/zero_to_fp32.py '{folder}' '{folder}'/gathered --safe_serialization --tag global_step2"
    )
    assert command in str(caught.value)


@pytest.mark.parametrize(
    "name", ["layer_0_expert_1_mp_rank_00_model_states.pt", "expp_rank_0_mp_rank_00_optim_states.pt"]
)
def test_experts_parts_are_refused(tmp_path: Path, name: str) -> None:
    folder = copied(tmp_path, "stage2")
    torch.save({}, folder / "global_step2" / name)
    with pytest.raises(CheckpointError, match=f"with {name} of expert, pipeline or tensor parallelism"):
        Checkpoint.open(folder)


def test_the_model_s_file_alone_says_what_is_missing_and_may_be_named(tmp_path: Path) -> None:
    folder = copied(tmp_path, "stage2")
    for file in folder.glob("global_step2/*optim_states.pt"):
        file.unlink()
    with pytest.raises(CheckpointError, match=r"lacks \*zero_pp_rank_\*_optim_states\.pt.*name that file"):
        Checkpoint.open(folder)
    assert Checkpoint.open(model_file(folder))["layers.1.q_proj.weight"].dtype == "bfloat16"


def test_a_part_is_not_the_whole() -> None:
    part = next((GOLDEN / "stage2/global_step2").glob("*_rank_0_*"))
    with pytest.raises(CheckpointError, match=r"a part of DeepSpeed's partitions; name its folder, .*global_step2"):
        Checkpoint.open(part)


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_layouts_cover_every_value_once(processes: int) -> None:
    shapes = [{"a": (5, 3), "b": (1,), "empty": (0, 4)}, {"c": (11,), "scalar": ()}]
    sizes = {name: math.prod(shape) for group in shapes for name, shape in group.items()}
    parts = [[-(-sum(map(math.prod, group.values())) // processes) for group in shapes] for _ in range(processes)]
    padded = [[-(-part // 2) * 2 for part in process] for process in parts]
    dealt = [[sum(-(-math.prod(shape) // processes) for shape in group.values()) for group in shapes]] * processes
    for spans in (cut_groups(shapes, padded, None), cut_parameters(shapes, dealt)):
        assert {name: sum(span.length for span in found) for name, found in spans.items()} == sizes
        places = [
            (span.rank, span.group, at)
            for found in spans.values()
            for span in found
            for at in range(span.start, span.start + span.length)
        ]
        assert len(places) == len(set(places)) == sum(sizes.values())


def test_layouts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="group 0 of 3 values, though its parameters are 4"):
        cut_groups([{"a": (2, 2)}], [[2], [1]], None)
    with pytest.raises(ValueError, match="group 0 of 40 values"):
        cut_groups([{"a": (2, 2)}], [[20], [20]], None)
    with pytest.raises(ValueError, match="3 values of process 1, though its part of the parameters is 2"):
        cut_parameters([{"a": (2, 2)}], [[2], [3]])
