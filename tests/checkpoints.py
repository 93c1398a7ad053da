"""Tiny real checkpoints on disk, and the command line in this process."""

import contextlib
import io
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors.torch import save_file

from rank_lab import Checkpoint
from rank_lab.coverage import Plan

Tensors = dict[str, torch.Tensor]
Container = Literal["safetensors", "bin", "legacy"]
CONTAINERS: tuple[Container, ...] = ("safetensors", "bin", "legacy")

WIDTH = 8


def llama(
    generator: torch.Generator, *, layers: int = 2, width: int = WIDTH, vocabulary: int = 20, head: bool = True
) -> Tensors:
    """Names of a Llama with grouped attention; every weight rectangular or square as in the real one."""
    shapes = {"model.embed_tokens.weight": (vocabulary, width), "model.norm.weight": (width,)}
    if head:
        shapes["lm_head.weight"] = (vocabulary, width)
    for layer in range(layers):
        start = f"model.layers.{layer}"
        shapes |= {
            f"{start}.input_layernorm.weight": (width,),
            f"{start}.self_attn.q_proj.weight": (width, width),
            f"{start}.self_attn.k_proj.weight": (width // 2, width),
            f"{start}.mlp.up_proj.weight": (3 * width // 2, width),
            f"{start}.mlp.down_proj.weight": (width, 3 * width // 2),
        }
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def gpt2(generator: torch.Generator, *, width: int = WIDTH) -> Tensors:
    """A GPT-2 of one layer, whose linear weights lie ``(in, out)``; ``attn.c_proj`` is square."""
    shapes = {
        "wte.weight": (20, width),
        "wpe.weight": (6, width),
        "h.0.attn.c_attn.weight": (width, 3 * width),
        "h.0.attn.c_attn.bias": (3 * width,),
        "h.0.attn.c_proj.weight": (width, width),
        "h.0.mlp.c_fc.weight": (width, 4 * width),
        "h.0.mlp.c_proj.weight": (4 * width, width),
        "ln_f.weight": (width,),
    }
    return {f"transformer.{name}": torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def moved(tensors: Mapping[str, torch.Tensor], generator: torch.Generator, *, by: float = 0.01) -> Tensors:
    """Every tensor changed by noise."""
    return {name: value + by * torch.randn(value.shape, generator=generator) for name, value in tensors.items()}


def renamed(tensors: Mapping[str, torch.Tensor], prefix: str) -> Tensors:
    """Every name behind a prefix."""
    return {prefix + name: value for name, value in tensors.items()}


def save(
    folder: Path,
    tensors: Mapping[str, torch.Tensor],
    *,
    container: Container = "safetensors",
    shards: int = 1,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """Write a model folder as transformers does, in one file or in shards with their index."""
    folder.mkdir(parents=True, exist_ok=True)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    stem, suffix = ("model", "safetensors") if container == "safetensors" else ("pytorch_model", "bin")
    if shards == 1:
        _write(folder / f"{stem}.{suffix}", tensors, container)
        return folder
    weight_map = {}
    for number, names in enumerate(_dealt(list(tensors), shards), start=1):
        file = f"{stem}-{number:05d}-of-{shards:05d}.{suffix}"
        _write(folder / file, {name: tensors[name] for name in names}, container)
        weight_map |= dict.fromkeys(names, file)
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def save_adapter(folder: Path, tensors: Mapping[str, torch.Tensor], **config: Any) -> Path:
    """Write an adapter folder; ``config`` goes over a plain LoRA's."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "adapter_model.safetensors")
    content = {"peft_type": "LORA", "r": 2, "lora_alpha": 4} | config
    (folder / "adapter_config.json").write_text(
        json.dumps({name: value for name, value in content.items() if value != "absent"})
    )
    return folder


def factors(
    generator: torch.Generator,
    module: str = "model.layers.0.self_attn.q_proj",
    *,
    rank: int = 2,
    shape: tuple[int, int] = (WIDTH, WIDTH),
) -> Tensors:
    """PEFT's two tensors of one module."""
    return {
        f"base_model.model.{module}.lora_A.weight": torch.randn(rank, shape[1], generator=generator),
        f"base_model.model.{module}.lora_B.weight": torch.randn(shape[0], rank, generator=generator),
    }


def raw_safetensors(header: Any, data: bytes = b"", *, announced: int | None = None) -> bytes:
    """Bytes of a safetensors file whose header may say anything."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if announced is None else announced).to_bytes(8, "little") + text + data


def assert_all_accounted_for(plan: Plan, tuned: Path, base: Path | None) -> None:
    """Every tensor of either checkpoint is in the coverage exactly once."""
    for side, source in (("tuned", tuned), ("base", base)):
        held = set() if source is None else set(Checkpoint.open(source).tensors)
        rows = Counter(
            tensor.name
            for row in plan.coverage
            if (tensor := getattr(row, side)) is not None and row.side in {side, "both"}
        )
        assert rows == dict.fromkeys(held, 1)
    modules = [spec.module for spec in plan.specs]
    assert len(set(modules)) == len(modules)
    assert set(modules) == {module for row in plan.coverage for module in row.modules}


class Outcome(NamedTuple):
    """What the command line left."""

    code: int
    out: str
    err: str


def rank_lab(*arguments: object) -> Outcome:
    """Run the command line in this process, through its own entry point."""
    from rank_lab.cli import main

    out, err = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["rank-lab", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
        return Outcome(0 if leaving.code is None else code, out.getvalue(), err.getvalue())
    finally:
        sys.argv = before
    return Outcome(0, out.getvalue(), err.getvalue())


def _write(file: Path, tensors: Mapping[str, torch.Tensor], container: Container) -> None:
    if container == "safetensors":
        save_file({name: value.contiguous() for name, value in tensors.items()}, file, metadata={"format": "pt"})
    else:
        torch.save(dict(tensors), file, _use_new_zipfile_serialization=container == "bin")


def _dealt(names: Sequence[str], hands: int) -> list[list[str]]:
    return [list(names[start::hands]) for start in range(hands)]
