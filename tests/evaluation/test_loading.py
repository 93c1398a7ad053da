"""A model that was saved and loaded gives the outputs that it gave in memory."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, IA3Config, LoraConfig, PrefixTuningConfig, PromptTuningConfig, VeraConfig

from rank_lab.demo import BASE
from rank_lab.errors import CheckpointError, DataError, RankLabError, UnsupportedUpdateError
from rank_lab.evaluation.sources import refuse_twice, tuned_of
from rank_lab.evaluation.text_scores import TextOptions, text_rows
from rank_lab.evaluation.text_sets import TextSet
from rank_lab.evaluation.tuned_models import LoadOptions, Shelf, base_tuned
from rank_lab.sora import SoraConfig
from tests.evaluation.models import TEXTS, adapter, demo_base, demo_tokenizer, logits_of, moved

TASK = {"task_type": "CAUSAL_LM"}
TARGETS = {"target_modules": ["q_proj", "down_proj"]}

ADAPTERS: dict[str, Callable[[], Any]] = {
    "lora": lambda: LoraConfig(r=4, **TARGETS, **TASK),
    "dora": lambda: LoraConfig(r=4, use_dora=True, **TARGETS, **TASK),
    "pissa": lambda: LoraConfig(r=4, init_lora_weights="pissa", **TARGETS, **TASK),
    "olora": lambda: LoraConfig(r=4, init_lora_weights="olora", **TARGETS, **TASK),
    "adalora": lambda: AdaLoraConfig(init_r=4, target_r=2, total_step=10, **TARGETS, **TASK),
    "sora": lambda: SoraConfig(r=4, **TARGETS, **TASK),
    "vera": lambda: VeraConfig(r=4, **TARGETS, **TASK),
    "ia3": lambda: IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], **TASK),
    "prefix": lambda: PrefixTuningConfig(num_virtual_tokens=3, **TASK),
    "prompt": lambda: PromptTuningConfig(num_virtual_tokens=3, **TASK),
}


@pytest.mark.parametrize("method", ADAPTERS)
def test_an_adapter_on_the_original_base_gives_what_it_gave_in_memory(method: str, tmp_path: Path) -> None:
    expected = logits_of(adapter(tmp_path / method, ADAPTERS[method]()))
    assert not torch.allclose(expected, logits_of(demo_base()), atol=1e-3)
    (tuned,) = tuned_of(tmp_path / method)
    with Shelf(LoadOptions(base=str(BASE))).loaded(tuned) as found:
        assert torch.allclose(logits_of(found.model), expected, atol=2e-4)
        assert found.kind == "causal"
        assert found.tokenizer.pad_token is not None


@pytest.mark.parametrize("method", ["lora", "pissa", "adalora", "sora", "ia3", "prompt"])
def test_adapters_that_share_a_base_do_not_touch_each_other(method: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    expected = [
        (step, logits_of(adapter(run / f"checkpoint-{step}", ADAPTERS[method](), seed=step))) for step in (10, 20, 5)
    ]
    shelf, base = Shelf(LoadOptions(base=str(BASE))), base_tuned(str(BASE))
    for (step, outputs), tuned in zip(sorted(expected, key=lambda each: each[0]), tuned_of(run), strict=True):
        assert (tuned.run, tuned.step) == ("run", step)
        with shelf.loaded(tuned) as found:
            assert torch.allclose(logits_of(found.model), outputs, atol=2e-4)
    with shelf.loaded(base) as found:
        torch.testing.assert_close(logits_of(found.model), logits_of(demo_base()))


def test_a_base_is_loaded_once_for_plain_adapters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rank_lab.evaluation import tuned_models

    loaded: list[str] = []
    load = tuned_models.load_base
    monkeypatch.setattr(
        tuned_models, "load_base", lambda source, *a, **k: loaded.append(source) or load(source, *a, **k)
    )
    for method, times in (("lora", 1), ("pissa", 3)):
        for step in (1, 2):
            adapter(tmp_path / method / f"checkpoint-{step}", ADAPTERS[method](), seed=step)
        shelf = Shelf(LoadOptions(base=str(BASE)))
        loaded.clear()
        for tuned in (base_tuned(str(BASE)), *tuned_of(tmp_path / method), base_tuned(str(BASE))):
            with shelf.loaded(tuned):
                pass
        assert len(loaded) == times, method


def test_a_full_checkpoint_brings_its_own_weights_and_tokenizer(tmp_path: Path) -> None:
    model = demo_base()
    moved(model)
    model.save_pretrained(tmp_path / "full")
    (tuned,) = tuned_of(tmp_path / "full")
    with pytest.raises(DataError, match="no tokenizer could be loaded"), Shelf(LoadOptions()).loaded(tuned):
        pass
    with Shelf(LoadOptions(base=str(BASE))).loaded(tuned) as found:
        assert found.tokenizer("a cat") == demo_tokenizer()("a cat")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(BASE / name, tmp_path / "full")
    with Shelf(LoadOptions()).loaded(tuned) as found:
        torch.testing.assert_close(logits_of(found.model), logits_of(model))
        assert (tuned.method, found.kind) == ("full", "causal")


@pytest.mark.parametrize("start", ["pissa_niter_4", "corda", "lora_ga"])
def test_a_start_that_cannot_be_repeated_is_refused(start: str, tmp_path: Path) -> None:
    adapter(tmp_path / "run", LoraConfig(r=4, **TARGETS, **TASK))
    file = tmp_path / "run" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"init_lora_weights": start}))
    (tuned,) = tuned_of(tmp_path / "run")
    with pytest.raises(UnsupportedUpdateError, match=start), Shelf(LoadOptions(base=str(BASE))).loaded(tuned):
        pass


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    from tests.peft_models import small

    adapter(tmp_path / "run", LoraConfig(r=4, **TARGETS, **TASK), base=small())
    (tuned,) = tuned_of(tmp_path / "run")
    with pytest.raises(CheckpointError, match="does not fit"), Shelf(LoadOptions(base=str(BASE))).loaded(tuned):
        pass


def test_an_adapter_that_lacks_values_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    adapter(tmp_path / "run", LoraConfig(r=4, **TARGETS, **TASK))
    file = tmp_path / "run" / "adapter_model.safetensors"
    values = load_file(file)
    values.pop(min(values))
    save_file(values, file)
    (tuned,) = tuned_of(tmp_path / "run")
    with pytest.raises(CheckpointError, match="lacks values"), Shelf(LoadOptions(base=str(BASE))).loaded(tuned):
        pass


def test_an_adapter_whose_base_is_not_there_asks_for_it(tmp_path: Path) -> None:
    adapter(tmp_path / "run", LoraConfig(r=4, **TARGETS, **TASK))
    file = tmp_path / "run" / "adapter_config.json"
    for base, message in (("/gone/base", "is not there; give the base"), (None, "give it with --base")):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": base}))
        (tuned,) = tuned_of(tmp_path / "run")
        with pytest.raises(RankLabError, match=message), Shelf(LoadOptions()).loaded(tuned):
            pass


def test_weights_that_are_missing_are_not_made_up(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(BASE, tmp_path / "full")
    values = load_file(BASE / "model.safetensors")
    values.pop("model.layers.2.mlp.up_proj.weight")
    save_file(values, tmp_path / "full" / "model.safetensors", metadata={"format": "pt"})
    (tuned,) = tuned_of(tmp_path / "full")
    with pytest.raises(CheckpointError, match="files lack 1 weights"), Shelf(LoadOptions()).loaded(tuned):
        pass


def test_a_prompt_takes_room_of_the_context(tmp_path: Path) -> None:
    adapter(tmp_path / "run", ADAPTERS["prompt"]())
    (tuned,) = tuned_of(tmp_path / "run")
    with Shelf(LoadOptions(base=str(BASE))).loaded(tuned) as found:
        rows = text_rows(found, TextSet("talk", (" ".join(TEXTS * 6),), "memory"), TextOptions())
    assert rows[0].source == "memory; context 125, stride 125"


def test_sources_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is no folder"):
        tuned_of(tmp_path / "gone")
    (tmp_path / "weights").write_text("")
    with pytest.raises(CheckpointError, match="is no folder"):
        tuned_of(tmp_path / "weights")
    (tmp_path / "other").mkdir()
    with pytest.raises(CheckpointError, match=r"neither config\.json nor adapter_config\.json"):
        tuned_of(tmp_path / "other")
    twice = (*tuned_of(BASE, name="same"), *tuned_of(shutil.copytree(BASE, tmp_path / "copy"), name="same"))
    with pytest.raises(RankLabError, match="with another --name"):
        refuse_twice(twice)


def test_a_renamed_checkpoint_is_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(BASE, tmp_path / "run" / "checkpoint-10")
    (folder / "trainer_state.json").write_text('{"global_step": 20}')
    with pytest.raises(CheckpointError, match="says step 20"):
        tuned_of(tmp_path / "run")


def test_a_record_of_the_training_names_method_and_base(tmp_path: Path) -> None:
    from rank_lab.training_record import TrainingRecord

    adapter(tmp_path / "run" / "checkpoint-10", ADAPTERS["lora"]())
    TrainingRecord(
        "rslora", "causal", str(BASE), None, {}, "adamw_torch", 1e-3, "linear", 0.0, 0.0, 1.0, 8, 10, 0, 10, 100,
        "float32", {},
    ).save(tmp_path / "run")  # fmt: skip
    (tuned,) = tuned_of(tmp_path / "run")
    assert (tuned.run, tuned.method, tuned.step, tuned.kind, tuned.base) == ("run", "rslora", 10, "causal", str(BASE))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float"}, "dtype float|float"),
        ({"device": "cuda"}, "no such device"),
        ({"kind": "chat"}, "--kind chat"),
    ],
)
def test_loading_options_that_are_none_are_refused(options: dict[str, str], message: str) -> None:
    if options.get("device") == "cuda" and torch.cuda.is_available():
        options, message = {"device": "gpu"}, "--device gpu"
    if options.get("dtype"):
        options, message = {"dtype": "float33"}, "--dtype float33"
    with pytest.raises(RankLabError, match=message):
        LoadOptions(**options)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:.*LoRA tensor.* have invalid shape")  # PEFT's, of a module pruned to rank 0
def test_an_adalora_that_was_pruned_is_loaded_in_its_own_ranks(tmp_path: Path) -> None:
    from peft import get_peft_model

    config = AdaLoraConfig(init_r=6, target_r=2, tinit=1, tfinal=1, deltaT=1, total_step=8, **TARGETS, **TASK)
    model = get_peft_model(demo_base(), config).train()
    moved(model)
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.01)
    for step in range(8):
        ids = torch.arange(step, step + 20)[None]
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        model.base_model.update_and_allocate(step)
        optimizer.zero_grad()
    expected = logits_of(model)
    model.save_pretrained(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "adapter_config.json").read_text())["rank_pattern"]
    (tuned,) = tuned_of(tmp_path / "run")
    with Shelf(LoadOptions(base=str(BASE))).loaded(tuned) as found:
        difference = float((logits_of(found.model) - expected).abs().max())
    assert difference < 1e-4
