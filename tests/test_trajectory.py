"""A trainer's folder is read in the order of its steps, and each step is told from the one before."""

import json
from pathlib import Path

import pytest
import torch

from rank_lab import Checkpoint, open_run, plan_updates, read_update
from rank_lab.errors import CheckpointError, PairingError
from rank_lab.pairing import plan_step
from tests.checkpoints import Tensors, factors, llama, moved, rank_lab, save, save_adapter


def trainer_folder(root: Path, states: dict[int, Tensors], *, told: bool = True) -> Path:
    for step, state in states.items():
        folder = save(root / f"checkpoint-{step}", state)
        (folder / "optimizer.pt").write_bytes(b"never opened")
        if told:
            (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": []}))
    return root


@pytest.mark.parametrize("told", [True, False])
def test_steps_are_in_numeric_order(tmp_path: Path, generator: torch.Generator, told: bool) -> None:
    run = trainer_folder(
        tmp_path / "run", {step: llama(generator, layers=1) for step in (1000, 5, 20, 0, 100)}, told=told
    )
    (run / "checkpoint-best").mkdir()
    (run / "runs").mkdir()
    (run / "checkpoint-7").write_text("a file of that name")
    save(run, llama(generator, layers=1))  # the trainer's last weights, once more
    opened = open_run(run)
    assert [checkpoint.step for checkpoint in opened] == [0, 5, 20, 100, 1000]
    assert [checkpoint.folder.name for checkpoint in opened] == [f"checkpoint-{n}" for n in (0, 5, 20, 100, 1000)]


def test_one_checkpoint_is_a_run_of_one(tmp_path: Path, generator: torch.Generator) -> None:
    run = trainer_folder(tmp_path / "run", {7: llama(generator), 9: llama(generator)})
    assert [checkpoint.step for checkpoint in open_run(run / "checkpoint-9")] == [9]
    assert [checkpoint.step for checkpoint in open_run(run / "checkpoint-9" / "model.safetensors")] == [9]
    assert [checkpoint.step for checkpoint in open_run(save(tmp_path / "final", llama(generator)))] == [None]


def test_a_renamed_checkpoint_is_refused(tmp_path: Path, generator: torch.Generator) -> None:
    run = trainer_folder(tmp_path / "run", {5: llama(generator), 10: llama(generator)})
    (run / "checkpoint-10").rename(run / "checkpoint-15")
    with pytest.raises(CheckpointError, match=r"checkpoint-15: its trainer_state\.json says step 10; the folder was"):
        open_run(run)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_broken_trainer_state_is_named(tmp_path: Path, generator: torch.Generator, content: str) -> None:
    run = trainer_folder(tmp_path / "run", {5: llama(generator)})
    (run / "checkpoint-5" / "trainer_state.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"checkpoint-5/trainer_state\.json: "):
        open_run(run)


def test_an_unfinished_checkpoint_is_named(tmp_path: Path, generator: torch.Generator) -> None:
    run = trainer_folder(tmp_path / "run", {5: llama(generator), 10: llama(generator)})
    (run / "checkpoint-10" / "model.safetensors").unlink()
    done = rank_lab("analyze", run, "--base", save(tmp_path / "base", llama(generator)), "-o", tmp_path / "study")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert f"{run / 'checkpoint-10'}: no weights among 2 entries" in done.err


def test_the_change_of_a_step_is_from_the_step_before(tmp_path: Path, generator: torch.Generator) -> None:
    states = [llama(generator)]
    for _ in range(2):
        states.append(moved(states[-1], generator))
    base = Checkpoint.open(save(tmp_path / "base", states[0]))
    run = open_run(trainer_folder(tmp_path / "run", {1: states[1], 2: states[2]}))
    first, second = (plan_updates(checkpoint, base) for checkpoint in run)
    assert plan_step(first, None) == first.specs
    for spec in plan_step(second, first):
        name = f"{spec.module}.weight"
        assert read_update(spec).to_dense().equal(states[2][name].double() - states[1][name].double())
        assert spec.weight is base[name]


def test_notes_hold_for_the_change_that_they_stand_at(tmp_path: Path, generator: torch.Generator) -> None:
    state = llama(generator, head=False)
    config = {"tie_word_embeddings": True}
    base = Checkpoint.open(save(tmp_path / "base", state, config=config))
    grown = state | {"model.embed_tokens.weight": torch.zeros(23, 8), "lm_head.weight": torch.ones(23, 8)}
    first, second = (
        plan_updates(checkpoint, base)
        for checkpoint in open_run(trainer_folder(tmp_path / "run", {1: grown, 2: moved(grown, generator)}))
    )
    notes = {spec.module: spec.note for spec in plan_step(second, first) if spec.note}
    resized = "resized: 20 common rows compared, 3 rows only in the tuned checkpoint"
    assert notes == {"model.embed_tokens": resized, "lm_head": resized}
    assert next(spec.note for spec in second.specs if spec.module == "lm_head").startswith("the base ties this head")


def test_a_step_of_an_adapter_subtracts_factors(tmp_path: Path, generator: torch.Generator) -> None:
    plans, products = [], []
    for step, rank in ((1, 2), (2, 3)):
        tensors = factors(generator, rank=rank)
        A, B = (tensor.double() for tensor in tensors.values())
        products.append(4.0 / rank * B @ A)
        folder = save_adapter(tmp_path / f"checkpoint-{step}", tensors, r=rank)
        plans.append(plan_updates(Checkpoint.open(folder)))
    (spec,) = plan_step(plans[1], plans[0])
    assert spec.rank_bound == 5
    torch.testing.assert_close(read_update(spec).to_dense(), products[1] - products[0], rtol=1e-12, atol=1e-12)


def test_a_module_pruned_to_nothing_has_a_step(tmp_path: Path, generator: torch.Generator) -> None:
    def adalora(step: int, rank: int) -> Path:
        module = "base_model.model.h.0.q_proj."
        tensors = {"lora_A": torch.ones(rank, 4), "lora_B": torch.ones(6, rank), "lora_E": torch.ones(rank, 1)}
        mask = {"h.0.q_proj.lora_E": [index < rank for index in range(3)]}
        named = {module + name: value for name, value in tensors.items()}
        other = factors(generator, "h.1.q_proj")
        named |= {name.removesuffix(".weight"): value for name, value in other.items()}
        named["base_model.model.h.1.q_proj.lora_E"] = torch.ones(2, 1)
        mask["h.1.q_proj.lora_E"] = [True, True, False]
        folder = tmp_path / "run" / f"checkpoint-{step}"
        return save_adapter(folder, named, peft_type="ADALORA", init_r=3, lora_alpha=3, rank_pattern=mask)

    plans = [plan_updates(Checkpoint.open(adalora(step, rank))) for step, rank in ((1, 2), (2, 0), (3, 1))]
    for now, before, expected in ((1, 0, -2.0), (2, 1, 1.0)):
        spec = next(spec for spec in plan_step(plans[now], plans[before]) if spec.module == "h.0.q_proj")
        dense = read_update(spec).to_dense()
        torch.testing.assert_close(dense, torch.full((6, 4), expected * 3 / (3 + 1e-5), dtype=torch.float64))
    assert rank_lab("analyze", tmp_path / "run", "-o", tmp_path / "study").code == 0


@pytest.mark.parametrize("change", ["kind", "shape", "missing"])
def test_checkpoints_of_two_runs_are_no_trajectory(tmp_path: Path, generator: torch.Generator, change: str) -> None:
    state = llama(generator)
    base = Checkpoint.open(save(tmp_path / "base", state))
    now = plan_updates(Checkpoint.open(save(tmp_path / "now", moved(state, generator))), base)
    if change == "kind":
        tensors: Tensors = {}
        for spec in now.specs:
            tensors |= factors(generator, spec.module, shape=spec.shape)
        before = plan_updates(Checkpoint.open(save_adapter(tmp_path / "before", tensors)), base)
    elif change == "shape":
        wider = llama(generator, width=12)
        before = plan_updates(
            Checkpoint.open(save(tmp_path / "wide", moved(wider, generator))),
            Checkpoint.open(save(tmp_path / "wide_base", wider)),
        )
    else:
        less = {name: value for name, value in moved(state, generator).items() if name != "lm_head.weight"}
        before = plan_updates(Checkpoint.open(save(tmp_path / "less", less)), base)
    with pytest.raises(PairingError, match="a trajectory must be of one training run"):
        plan_step(now, before)
