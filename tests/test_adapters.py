"""Updates of adapters, against PEFT itself and against files written by hand."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rank_lab import Checkpoint, RankReport, analyze, plan_updates, read_update
from rank_lab.adapter_config import AdapterRecipe
from rank_lab.spec import UpdateSpec
from tests.checkpoints import Tensors, assert_all_accounted_for, factors, llama, rank_lab, save, save_adapter

# PEFT's and transformers' own remarks
pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("UserWarning", "RuntimeWarning")]

SMALL = {"vocab_size": 40, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
Model = Any


def tiny(kind: str) -> Model:
    """A random model of a real architecture, made from its config alone."""
    import transformers as hf

    torch.manual_seed(11)
    narrow = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4} | SMALL
    if kind == "llama":
        return hf.LlamaForCausalLM(hf.LlamaConfig(**narrow, num_key_value_heads=2, tie_word_embeddings=False))
    if kind == "gpt2":
        return hf.GPT2LMHeadModel(hf.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=32, **SMALL))
    return hf.BertForSequenceClassification(hf.BertConfig(**narrow, max_position_embeddings=32, num_labels=3))


def trained(
    model: Model, config: Any, folder: Path, prepare: Callable[[Model], None] | None = None
) -> tuple[Tensors, Tensors]:
    """Save base and adapter with perturbed weights; return the base's weights before and after merging."""
    from peft import get_peft_model

    model.save_pretrained(folder / "base")
    before = {name: value.detach().clone() for name, value in model.state_dict().items()}
    adapted = get_peft_model(model, config)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    if prepare is not None:
        prepare(adapted)
    adapted.save_pretrained(folder / "adapter")
    return before, dict(adapted.merge_and_unload().state_dict())


def rounding(spec: UpdateSpec, before: torch.Tensor, after: torch.Tensor) -> float:
    """How far PEFT's merge, and by Weyl its singular values, may lie from the exact ones.

    Half a unit in the last place of each merged float32 weight and of the r + 4
    float32 operations of each entry of ``scaling * B diag(g) A``.
    """
    unit = 2.0**-24
    A, B, gate = (
        torch.ones(1) if (t := spec.source(role)) is None else t.read().double() for role in ("A", "B", "gate")
    )
    product = abs(spec.scaling) * float(A.norm() * B.norm() * gate.abs().max()) if A.numel() else 0.0
    return unit * (float(before.double().norm() + after.double().norm()) + (A.shape[0] + 4) * product)


def assert_equal_to_merge(folder: Path, before: Tensors, after: Tensors, *, count: int) -> list[UpdateSpec]:
    """Our updates are what merging changed, with and without the base at hand."""
    base = Checkpoint.open(folder / "base")
    alone, plan = (
        plan_updates(Checkpoint.open(folder / "adapter")),
        plan_updates(Checkpoint.open(folder / "adapter"), base),
    )
    found = [spec for spec in plan.specs if spec.update_kind != "dense"]
    assert [spec.module for spec in alone.specs] == [spec.module for spec in found]
    assert len(found) == count
    assert_all_accounted_for(alone, folder / "adapter", None)
    assert_all_accounted_for(plan, folder / "adapter", folder / "base")
    for spec, lone in zip(found, alone.specs, strict=True):
        name = f"{spec.module}.weight"
        assert (lone.shape, lone.scaling, lone.sources) == (spec.shape, spec.scaling, spec.sources)
        assert spec.weight is not None
        merged, ours = after[name].double() - before[name].double(), read_update(spec).to_dense()
        allowed = rounding(spec, before[name], after[name])
        assert float((ours - (merged.T if ".c_" in name else merged)).norm()) <= allowed, name  # Conv1D lies (in, out)
        exact = np.linalg.svd(merged.numpy(), compute_uv=False)
        values = np.linalg.svd(ours.numpy(), compute_uv=False)
        np.testing.assert_allclose(values, exact, rtol=0, atol=allowed, err_msg=name)
        assert allowed < 1e-3 * max(exact[0], 1e-2), "the tolerance would hide a wrong scaling"
    touched = {f"{spec.module}.weight" for spec in found}
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    accounted = touched | {row.base.name for row in plan.coverage if row.side == "both" and row.base is not None}
    assert changed <= accounted
    return found


@contextmanager
def one_thread() -> Iterator[None]:
    """LAPACK on two busy cores is slower than on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def lora(**options: Any) -> Any:
    from peft import LoraConfig

    return LoraConfig(**{"r": 4, "lora_alpha": 12} | options)


# id: (model, number of updates, options)
LORA_CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "plain": ("llama", 6, {"target_modules": ["q_proj", "v_proj", "down_proj"]}),
    "rslora": ("llama", 4, {"target_modules": ["q_proj", "down_proj"], "use_rslora": True}),
    "all linear": ("llama", 14, {"target_modules": "all-linear"}),
    "patterns": ("llama", 8, {
        "target_modules": ["q_proj", "k_proj", "v_proj", "down_proj"],
        "rank_pattern": {"model.layers.0.self_attn.q_proj": 3, "q_proj": 2, r".*\.1\..*_proj": 5, "^v_proj": 7},
        "alpha_pattern": {"^model.layers.1.*down_proj": 5, "_proj": 100, "down_proj": 1, "v_proj": 3},
    }),
    "patterns under rslora": ("llama", 4, {
        "target_modules": ["q_proj", "v_proj"], "use_rslora": True,
        "rank_pattern": {"v_proj": 9}, "alpha_pattern": {"q_proj": 2},
    }),
    "embeddings": ("llama", 3, {"target_modules": ["embed_tokens", "q_proj"]}),
    "head": ("llama", 3, {"target_modules": ["lm_head", "q_proj"]}),
    "gaussian": ("llama", 2, {"target_modules": ["q_proj"], "init_lora_weights": "gaussian"}),
    "orthogonal": ("llama", 2, {"target_modules": ["q_proj"], "init_lora_weights": "orthogonal"}),
    "eva": ("llama", 2, {"target_modules": ["q_proj"], "init_lora_weights": "eva"}),
    "mica": ("llama", 2, {"target_modules": ["q_proj"], "init_lora_weights": "mica"}),
    "random": ("llama", 2, {"target_modules": ["q_proj"], "init_lora_weights": False}),
    "one layer": ("llama", 1, {"target_modules": ["q_proj"], "layers_to_transform": [1]}),
    "conv1d": ("gpt2", 8, {"target_modules": ["c_attn", "c_proj", "c_fc"]}),
    "conv1d, biases": ("gpt2", 2, {"target_modules": ["c_attn"], "bias": "lora_only", "use_rslora": True}),
    "wte and wpe": ("gpt2", 2, {"target_modules": ["wte", "wpe"]}),
    "bert": ("bert", 4, {"target_modules": ["query", "value"], "task_type": "SEQ_CLS"}),
    "bert, all biases": ("bert", 9, {"target_modules": ["query", "dense"], "bias": "all", "task_type": "SEQ_CLS"}),
    "bert, bias of B": ("bert", 2, {"target_modules": ["query"], "lora_bias": True}),
    "saved whole": ("llama", 2, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]}),
}  # fmt: skip


@pytest.mark.parametrize("case", LORA_CASES)
def test_lora_is_what_peft_merges(tmp_path: Path, case: str) -> None:
    kind, count, options = LORA_CASES[case]
    before, after = trained(tiny(kind), lora(**options), tmp_path)
    # GPT-2's head is its embedding: merging changes both names, the adapter one module
    before, after = (
        {n: v for n, v in state.items() if (kind, n) != ("gpt2", "lm_head.weight")} for state in (before, after)
    )
    assert_equal_to_merge(tmp_path, before, after, count=count)


def test_patterns_that_peft_reorders_on_saving(tmp_path: Path) -> None:
    from peft import PeftModel

    patterns = {"layers.1.*down_proj": 5, "down_proj": 1}  # saved in the order of the alphabet
    before, _ = trained(tiny("llama"), lora(target_modules=["down_proj"], alpha_pattern=patterns), tmp_path)
    loaded = PeftModel.from_pretrained(tiny("llama"), str(tmp_path / "adapter")).merge_and_unload().state_dict()
    found = assert_equal_to_merge(tmp_path, before, dict(loaded), count=2)
    assert [spec.scaling for spec in found] == [0.25, 0.25]
    assert [spec.note.split(":")[0] for spec in found] == ["", "alpha_pattern gives 1, 5"]


def test_patterns_resolve_as_in_peft() -> None:
    from peft.utils.other import get_pattern_key

    patterns: dict[str, int] = {"layers.0.q": 2, "q": 3, "^k": 5, r"v|o": 7, r"layers\.1\d\..*": 11, "_x": 13, "": 17}
    recipe = AdapterRecipe("lora", 1.0, 8, rank_pattern=patterns)
    modules = [
        "q",
        "k",
        "v",
        "o",
        "h.layers.0.q",
        "layers.0.qq",
        "layers.10.z",
        "h.k",
        "k",
        "long_x",
        "a._x",
        "a.v",
        "ov",
        "vx",
        "a.",
    ]
    for module in modules:
        assert recipe.ranks(module)[0] == patterns.get(get_pattern_key(patterns.keys(), module), 8), module


def prune(adapted: Model) -> None:
    """Cut AdaLoRA's modules as its own allocator does: some of the rows, all of one module's."""
    tuner, config = adapted.base_model, adapted.peft_config["default"]
    names = [name for name, _ in tuner.model.named_parameters() if "lora_E" in name]
    config.rank_pattern = {name: [row % 3 != 0 and number > 0 for row in range(6)] for number, name in enumerate(names)}
    tuner.resize_modules_by_rank_pattern(config.rank_pattern, "default")


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("alpha", [12, -1])
def test_adalora_is_what_peft_merges(tmp_path: Path, pruned: bool, alpha: int) -> None:
    from peft import AdaLoraConfig, PeftModel

    config = AdaLoraConfig(
        init_r=6, target_r=2, total_step=10, lora_alpha=alpha, target_modules=["q_proj", "down_proj"]
    )
    before, after = trained(tiny("llama"), config, tmp_path, prune if pruned else None)
    found = assert_equal_to_merge(tmp_path, before, after, count=4)
    assert [spec.scaling for spec in found] == [
        (alpha if alpha > 0 else spec.rank_bound) / (6 + 1e-5) for spec in found
    ]
    assert [spec.rank_bound for spec in found] == ([4, 0, 4, 4] if pruned else [6] * 4)
    loaded = PeftModel.from_pretrained(tiny("llama"), str(tmp_path / "adapter")).merge_and_unload().state_dict()
    assert_equal_to_merge(tmp_path, before, dict(loaded), count=4)
    report = analyze(tmp_path / "adapter", tmp_path / "base")
    assert not report.coverage["failed"].any()
    assert report.updates["numerical_rank"].tolist() == [spec.rank_bound for spec in found]


def test_adalora_by_its_own_allocator(tmp_path: Path) -> None:
    from peft import AdaLoraConfig

    config = AdaLoraConfig(
        init_r=6, target_r=2, total_step=5, tinit=0, tfinal=2, lora_alpha=4, target_modules=["q_proj", "v_proj"]
    )

    def train(adapted: Model) -> None:
        optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.1)
        tokens = torch.arange(12)[None]
        for step in range(5):
            adapted(input_ids=tokens, labels=tokens).loss.backward()
            optimizer.step()
            adapted.base_model.update_and_allocate(step)
            optimizer.zero_grad()

    before, after = trained(tiny("llama"), config, tmp_path, train)
    found = assert_equal_to_merge(tmp_path, before, after, count=4)
    assert sum(spec.rank_bound for spec in found) == 2 * 4 < 6 * 4


def test_an_adapter_of_a_resized_vocabulary_meets_its_base(tmp_path: Path) -> None:
    model = tiny("llama")
    model.save_pretrained(tmp_path / "small")
    model.resize_token_embeddings(43)
    trained(model, lora(target_modules=["embed_tokens", "lm_head", "q_proj"]), tmp_path)
    report = analyze(tmp_path / "adapter", tmp_path / "small")
    assert not report.coverage["failed"].any()
    updates = report.updates.set_index("module")
    assert updates.loc["model.embed_tokens", ["out_features", "rank_bound"]].tolist() == [43, 4]
    assert updates.loc["lm_head", "warning"] == "resized: norms relative to the base are to its 40 rows, of 43 adapted"
    own = updates.loc["model.embed_tokens.base_layer"]
    assert own[["kind", "out_features", "identical_fraction"]].tolist() == ["embed", 40, 1.0]


def test_a_whole_state_dict_of_a_peft_model_is_read(tmp_path: Path) -> None:
    """As a trainer under FSDP may leave it: wrapped names, adapter names, frozen weights and originals."""
    config = lora(target_modules=["query"], task_type="SEQ_CLS")
    whole = tmp_path / "pytorch_model.bin"

    def keep(adapted: Model) -> None:
        torch.save({f"module.{name}": value for name, value in adapted.state_dict().items()}, whole)

    before, after = trained(tiny("bert"), config, tmp_path, keep)
    expected = plan_updates(Checkpoint.open(tmp_path / "adapter"))
    plan = plan_updates(Checkpoint.open(whole), Checkpoint.open(tmp_path / "base"), lora_alpha=12)
    assert_all_accounted_for(plan, whole, tmp_path / "base")
    dense = {spec.module: spec for spec in plan.specs if spec.update_kind == "dense"}
    assert (
        read_update(dense["classifier"])
        .to_dense()
        .equal(after["classifier.weight"].double() - before["classifier.weight"].double())
    )
    factored = [spec for spec in plan.specs if spec.update_kind == "lora"]
    for spec, same in zip(factored, expected.specs, strict=True):
        assert read_update(spec).to_dense().equal(read_update(same).to_dense())
        assert not read_update(dense[f"{spec.module}.base_layer"]).to_dense().any()


def test_the_real_adapter_in_both_formats(tmp_path: Path, shared_data: Path) -> None:
    file = shared_data / "adapters/roberta_base_mnli_loralib/roberta_base_lora_mnli.bin"
    refused = rank_lab("analyze", file, "-o", tmp_path)
    assert refused.code == 2
    assert f"{file}: LoRA factors without adapter_config.json: the file does not record alpha" in refused.err
    folder = shared_data / "adapters/roberta_base_mnli_peft"
    assert rank_lab("analyze", folder, "-o", tmp_path, "--name", "peft").code == 0
    assert rank_lab("analyze", file, "--lora-alpha", "16", "-o", tmp_path, "--name", "loralib").code == 0
    peft, loralib = (RankReport.load(tmp_path / f"{name}.rank") for name in ("peft", "loralib"))
    state = torch.load(file, map_location="cpu", weights_only=True)
    assert len(peft.updates) == 24
    assert loralib.updates["module"].tolist() == peft.updates["module"].tolist()
    assert set(loralib.updates["scaling"]) == set(peft.updates["scaling"]) == {2.0}
    for module in peft.updates["module"]:
        np.testing.assert_array_equal(peft.values(module), loralib.values(module))
    for module in peft.updates["module"][::6]:  # a full decomposition is the dear part
        dense = 2.0 * state[f"{module}.lora_B"].double() @ state[f"{module}.lora_A"].double()
        with one_thread():
            exact = torch.linalg.svdvals(dense).numpy()
        np.testing.assert_allclose(peft.values(module), exact[:8], rtol=0, atol=1e-10 * exact[0])


def test_a_head_of_its_own_over_a_tied_base_is_compared_with_the_embedding(
    tmp_path: Path, generator: torch.Generator
) -> None:
    state = llama(generator, head=False)
    base = save(tmp_path / "base", state, config={"model_type": "llama", "tie_word_embeddings": True})
    change = 0.1 * torch.randn(20, 8, generator=generator)
    head = {"base_model.model.lm_head.weight": state["model.embed_tokens.weight"] + change}
    adapter = save_adapter(tmp_path / "adapter", factors(generator) | head, modules_to_save=["lm_head"])
    plan = plan_updates(Checkpoint.open(adapter), Checkpoint.open(base))
    (spec,) = (spec for spec in plan.specs if spec.module == "lm_head")
    assert torch.allclose(read_update(spec).to_dense(), change.double(), atol=1e-6)
    assert "ties this head" in spec.note
    assert_all_accounted_for(plan, adapter, base)
