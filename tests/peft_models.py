"""Tiny models adapted by PEFT itself, and what merging in float64 makes of them."""

from pathlib import Path
from typing import Any

import torch

from rank_lab import Checkpoint, read_update
from rank_lab.coverage import Plan
from tests.checkpoints import Tensors

Model = Any
WIDTH = 32
TARGETS = ["q_proj", "v_proj", "down_proj"]


def small(kind: str = "llama") -> Model:
    """A random model of two layers, with biases in its attention."""
    import transformers as hf

    torch.manual_seed(3)
    narrow = {"hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    words = {"vocab_size": 60, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    if kind == "gpt2":
        return hf.GPT2LMHeadModel(hf.GPT2Config(n_embd=WIDTH, n_layer=2, n_head=2, n_positions=16, **words))
    if kind == "mixtral":
        config = hf.MixtralConfig(**narrow, **words, num_key_value_heads=2, num_local_experts=3)
        return hf.MixtralForCausalLM(config)
    if kind == "gpt_oss":
        config = hf.GptOssConfig(**narrow, **words, num_key_value_heads=2, head_dim=8, num_local_experts=3)
        return hf.GptOssForCausalLM(config)
    if kind == "resnet":
        config = hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=3)
        return hf.ResNetForImageClassification(config)
    config = hf.LlamaConfig(**narrow, **words, num_key_value_heads=2, attention_bias=True, tie_word_embeddings=False)
    model = hf.LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    return model


def perturbed(adapted: Model, by: float = 0.1) -> None:
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(by * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))


def trained(folder: Path, config: Any, model: Model | None = None) -> tuple[Tensors, Tensors]:
    """Save base and adapter; return the weights before, and merged by PEFT in float64."""
    from peft import get_peft_model

    model = small() if model is None else model
    model.save_pretrained(folder / "base")
    before = {name: value.detach().double() for name, value in model.state_dict().items()}
    adapted = get_peft_model(model, config)
    perturbed(adapted)
    adapted.save_pretrained(folder / "adapter")
    merged = adapted.double().merge_and_unload().state_dict()
    return before, {name: value.double() for name, value in merged.items()}


def opened(folder: Path) -> tuple[Checkpoint, Checkpoint]:
    return Checkpoint.open(folder / "adapter"), Checkpoint.open(folder / "base")


def assert_is_what_merging_changes(
    plan: Plan, before: Tensors, after: Tensors, *, within: float = 1e-12, transposed: bool = False
) -> None:
    """Every weight that merging changed has its update, no other has one, and all are equal."""
    changed = {name for name, value in before.items() if value.ndim >= 2 and not torch.equal(value, after[name])}
    assert {f"{spec.module}.weight" for spec in plan.specs} == changed
    assert changed
    for spec in plan.specs:
        name = f"{spec.module}.weight"
        exact = (after[name] - before[name]).reshape(before[name].shape[0], -1)
        ours = read_update(spec).to_dense()
        assert ours.shape == spec.shape
        exact = exact.T if transposed else exact
        allowed = within * float(exact.norm() + before[name].norm())
        assert float((ours - exact).norm()) <= allowed, (name, float((ours - exact).norm()), allowed)
        assert float(exact.norm()) > 1e3 * allowed, "the tolerance would hide a wrong update"
        assert int(torch.linalg.matrix_rank(ours)) <= spec.rank_bound
    skipped = {row.tensor for row in plan.coverage if row.side == "base" and row.status == "skipped"}
    vectors = {row.base.name for row in plan.coverage if row.status == "vector" and row.base is not None}
    moved = {name for name, value in before.items() if value.ndim == 1 and not torch.equal(value, after[name])}
    assert moved <= skipped | vectors, "a bias that changes must not stand as frozen"


def lora(**options: Any) -> Any:
    from peft import LoraConfig

    return LoraConfig(**{"r": 4, "lora_alpha": 12, "target_modules": TARGETS} | options)


def lora_of(options: dict[str, Any]) -> Any:
    from peft.tuners.lora import config as subconfigs

    return lora(**{n: getattr(subconfigs, v[0])(**v[1]) if isinstance(v, tuple) else v for n, v in options.items()})
