"""The base that the studies adapt: a Llama of 2.5 M parameters that has read prose, and how well.

``python -m analyses.pretrain_study_base`` makes it in an hour of one thread, in ``studies/base``; it is not kept
with the code. A training that was stopped goes on, and comes to what it would have come to. What it reads: novels and
poems (14 books of Project Gutenberg), Shakespeare, articles of Wikipedia, and the language reference of Python; no
mathematics, and no Python but the examples in that reference.

How well it has learned is said by its losses on held-out prose beside those of n-grams and of a compressor that have
read the same. Tables and picture are in ``results/pretrain_study_base``. ``--full --device cuda`` makes one of twice
the width, four times the parameters, in a minute of an H100, in ``studies/base/full``.
"""

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from analyses.kept_results import keep, write_picture
from analyses.pretrain_demo_base import sha256_of, train_tokenizer
from analyses.pretrain_study_base_report import picture, report
from analyses.study_base_text import SourceText, prose_sources, target_texts, texts_sha256
from analyses.study_cells import open_study
from analyses.study_options import DATA, run_study, study_parser
from analyses.token_ngrams import Ngrams, compressed_bits
from analyses.token_windows import batch_loss, encode
from rank_lab.durable import held, move_into_place, write_whole
from rank_lab.errors import RankLabError

__all__ = ["FULL", "QUICK", "SIZE", "STUDY_BASE", "Size", "study_base", "tell"]

STUDY_BASE = Path("studies", "base")
"""Default of ``--base`` of the studies that use it."""

_NAME = "pretrain_study_base"
_ORDERS = (1, 2, 3, 5)
_MEASURED_WINDOWS = 24  # of each text, along the training
_MEASURED_CHARACTERS = 200_000  # of each held-out text, at the end, about


@dataclass(frozen=True)
class Size:
    """Of the model, and of its training.

    Parameters
    ----------
    hidden, intermediate, layers, heads, vocabulary, context
        Of the Llama; input and output embeddings are one.
    batch, steps, warmup, learning_rate, weight_decay
        Windows a step; AdamW with betas 0.9 and 0.95, a linear rise and a linear fall to 0.
    save_every
        Steps between two states that a stopped training goes on from.
    documents
        Of each text, the first so many; None for all.
    """

    hidden: int = 256
    intermediate: int = 512
    layers: int = 3
    heads: int = 4
    vocabulary: int = 2048
    context: int = 256
    batch: int = 4
    steps: int = 11000
    warmup: int = 100
    learning_rate: float = 3e-3
    weight_decay: float = 0.3
    save_every: int = 150
    documents: int | None = None


SIZE = Size()
QUICK = Size(32, 48, 1, 2, 300, 32, 4, 6, 2, save_every=3, documents=6)
FULL = Size(512, 1024, 4, 8, batch=32, steps=1500, learning_rate=1.5e-3)


def study_base(folder: Path) -> Path:
    """The folder of a base that is there.

    Parameters
    ----------
    folder
        As given with ``--base``.

    Raises
    ------
    RankLabError
        If it was not made, or not yet completely.
    """
    if not (folder / "model.safetensors").is_file():
        raise RankLabError(
            f"{folder}: no base is there, or it is not complete; make it with python -m analyses.pretrain_study_base"
            f" --study {folder}, or give another with --base."
        )
    return folder


def make(options: argparse.Namespace) -> None:
    """Train what is not trained yet.

    Parameters
    ----------
    options
        Of the command line.
    """
    folder, size = options.study, options.size
    if len(options.seeds) > 1:
        raise RankLabError(f"seeds {options.seeds}: a base has one; give another folder with --study for each.")
    sources = _first(prose_sources(options.data), size.documents)
    open_study(folder, _settings(options, sources))
    with held(folder / ".lock"):
        if not (folder / "model.safetensors").is_file():
            _make(options, sources)


def _make(options: argparse.Namespace, sources: SourceText) -> None:
    folder, size = options.study, options.size
    training = [document for source in sources.values() for document in source.training]
    if not (folder / "tokenizer.json").is_file():
        train_tokenizer(training, folder, vocabulary=size.vocabulary, context=size.context)
    tokens = encode(folder / "tokenizer.json", training)
    held_out = {name: encode(folder / "tokenizer.json", each.held_out) for name, each in sources.items()}
    model = _new_model(size, options.seeds[0])
    model.to(torch.device(options.device))
    _train(model, tokens, held_out, options)
    partial = folder / ".whole"
    model.save_pretrained(partial)
    for name in ("config.json", "generation_config.json", "model.safetensors"):  # the last says that all are there
        (partial / name).chmod(0o644)
        move_into_place(partial / name, folder / name)


def _first(sources: SourceText, documents: int | None) -> dict[str, Any]:
    kept = {}
    for name, each in sources.items():
        kept[name] = type(each)(name, each.training[:documents], each.held_out[:documents])
    return kept


def _settings(options: argparse.Namespace, sources: SourceText) -> dict[str, Any]:
    return {"size": asdict(options.size), "seed": options.seeds[0], "texts": texts_sha256(sources.values())}


def _new_model(size: Size, seed: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    end_of_text = 0  # special tokens come first in the vocabulary
    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        max_position_embeddings=size.context,
        tie_word_embeddings=True,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def batch_of(tokens: Tensor, step: int, size: Size, seed: int) -> Tensor:
    """Windows of a step: every epoch has its own order, and its own start.

    Parameters
    ----------
    tokens
        Of all texts, in one sequence.
    step
        From 0.
    size, seed
        Of the training.

    Returns
    -------
    Tensor
        Of shape (batch, context + 1).
    """
    windows = (tokens.numel() - 1) // size.context - 1
    an_epoch = windows // size.batch
    if an_epoch < 1:
        raise RankLabError(f"the text holds {tokens.numel()} tokens, less than a step of {size.batch} windows.")
    epoch, place = divmod(step, an_epoch)
    drawn = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    shift = torch.randint(size.context, (1,), generator=drawn)
    order = torch.randperm(windows, generator=drawn)[place * size.batch : (place + 1) * size.batch]
    return tokens[shift + order[:, None] * size.context + torch.arange(size.context + 1)]


def rate_of(step: int, size: Size) -> float:
    """Learning rate of a step.

    Parameters
    ----------
    step
        From 0.
    size
        Of the training.
    """
    return size.learning_rate * min((step + 1) / size.warmup, (size.steps - step) / max(1, size.steps - size.warmup))


def _train(model: nn.Module, tokens: Tensor, held_out: Mapping[str, Tensor], options: argparse.Namespace) -> None:
    folder, size, seed = options.study, options.size, options.seeds[0]
    optimizer = _optimizer(model, size)
    begun, curve, spent = _gone_on_with(folder / "state.pt", model, optimizer)
    began, recent = time.process_time(), []
    for step in range(begun, size.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate_of(step, size)
        optimizer.zero_grad()
        loss = batch_loss(model, batch_of(tokens, step, size, seed).to(options.device))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        recent.append(loss.item())
        if (step + 1) % size.save_every == 0 or step + 1 == size.steps:
            seconds = spent + time.process_time() - began
            row = {"step": step + 1, "tokens": (step + 1) * size.batch * size.context, "seconds": round(seconds, 1)}
            losses = {name: window_loss(model, each, size, _MEASURED_WINDOWS) for name, each in held_out.items()}
            curve.append({**row, "training": sum(recent) / len(recent), **losses})
            recent.clear()
            print({name: round(value, 3) for name, value in curve[-1].items()}, file=sys.stderr, flush=True)
            _save(folder, model, optimizer, curve)


def _optimizer(model: nn.Module, size: Size) -> torch.optim.Optimizer:
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    vectors = [weight for weight in model.parameters() if weight.ndim < 2]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=size.weight_decay, fused=True)


def _gone_on_with(
    file: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[int, list[dict[str, float]], float]:
    if not file.is_file():
        return 0, [], 0.0
    state = torch.load(file, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    curve = state["curve"]
    return int(curve[-1]["step"]), curve, float(curve[-1]["seconds"])


def _save(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, curve: list[dict[str, float]]) -> None:
    partial = folder / ".state.pt"
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "curve": curve}, partial)
    move_into_place(partial, folder / "state.pt")
    write_whole(folder / "curve.json", json.dumps(curve) + "\n")


def window_loss(model: nn.Module, tokens: Tensor, size: Size, most: int | None = None) -> float:
    """Nats a token over windows that do not overlap.

    Parameters
    ----------
    model
        A causal language model.
    tokens
        One long sequence of ids.
    size
        Of its context.
    most
        So many windows, evenly spread; None for all.
    """
    every = tokens.unfold(0, size.context + 1, size.context)
    if most is not None and most < len(every):
        every = every[torch.linspace(0, len(every) - 1, most).long()]
    device = next(model.parameters()).device
    model.eval()
    with torch.inference_mode():
        parts = every.split(4 * size.batch)
        total = sum(batch_loss(model, part.to(device)).item() * len(part) for part in parts)
    model.train()
    return total / len(every)


def measured(options: argparse.Namespace) -> pd.DataFrame:
    """How well each held-out text is told, by the base and by what else has read the same prose.

    Parameters
    ----------
    options
        Of the command line.

    Returns
    -------
    DataFrame
        ``text``, ``predictor``, ``tokens``, ``bytes``, ``nats_per_token`` (NaN for the compressor), ``bits_per_byte``.
    """
    from transformers import AutoModelForCausalLM

    size, tokenizer = options.size, options.study / "tokenizer.json"
    sources = _first(prose_sources(options.data), size.documents)
    targets = _first(target_texts(options.data), size.documents)
    training = [document for source in sources.values() for document in source.training]
    model = AutoModelForCausalLM.from_pretrained(study_base(options.study)).to(options.device)
    tokens = encode(tokenizer, training).numpy()
    ngrams = {f"{order}-gram": Ngrams(tokens, order, size.vocabulary) for order in _ORDERS}
    rows: list[dict[str, Any]] = []
    for name, each in {**sources, **targets}.items():
        documents = _some(each.held_out)
        ids, text = encode(tokenizer, documents), "".join(documents).encode()
        about = {"text": name, "role": "held out" if name in sources else "target", "tokens": len(ids)}
        nats = {"base": window_loss(model, ids, size)}
        nats |= {order: -float(np.mean(found.log_probabilities(ids.numpy()))) for order, found in ngrams.items()}
        for predictor, value in nats.items():
            bits = value * len(ids) / math.log(2) / len(text)
            rows.append(
                {**about, "bytes": len(text), "predictor": predictor, "nats_per_token": value, "bits_per_byte": bits}
            )
        known = "".join(training).encode()
        bits = compressed_bits(known, text) / len(text)
        rows.append({**about, "bytes": len(text), "predictor": "xz", "nats_per_token": None, "bits_per_byte": bits})
    return pd.DataFrame(rows)


def _some(documents: Sequence[str]) -> Sequence[str]:
    """So many characters of them as are measured on, evenly spread."""
    return documents[:: -(-sum(map(len, documents)) // _MEASURED_CHARACTERS)]


def _keep(options: argparse.Namespace) -> None:
    curve = pd.DataFrame(json.loads((options.study / "curve.json").read_text(encoding="utf-8")))
    settings = json.loads((options.study / "study.json").read_text(encoding="utf-8"))
    model, tokenizer = (options.study / name for name in ("model.safetensors", "tokenizer.json"))
    sources = _first(prose_sources(options.data), options.size.documents)
    tokens = encode(tokenizer, [document for source in sources.values() for document in source.training])
    fact = {
        "parameters": sum(weight.numel() for weight in _new_model(options.size, 0).parameters()),
        "training_tokens": tokens.numel(),
        "model_sha256": sha256_of(model),
        "tokenizer_sha256": sha256_of(tokenizer),
        "python": platform.python_version(),
    }
    tables = {"held_out": measured(options), "curve": curve, "facts": pd.DataFrame([fact])}
    keep(options.out, settings, tables, float(curve["seconds"].iloc[-1]))


def tell(folder: Path, pictures: bool) -> None:
    """The page, and the picture where it is wanted, from what is kept.

    Parameters
    ----------
    folder
        Of the results.
    pictures
        Whether a browser may draw.
    """
    from analyses.kept_results import kept

    found = kept(folder)
    (folder / "README.md").write_text(report(found), encoding="utf-8")
    if pictures:
        write_picture(picture(found), folder, "curve", scale=1)


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """Options of the command line.

    Parameters
    ----------
    arguments
        None for those of the program.
    """
    parser = study_parser(str(__doc__), _NAME)
    parser.set_defaults(study=STUDY_BASE, seeds=[0], workers=1)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the data sets")
    parser.add_argument("--steps", type=int, help="of the training, where more time is at hand; needs its own --study")
    options = parser.parse_args(arguments)
    options.workers = 1
    options.size = QUICK if options.quick else FULL if options.full else SIZE
    if options.steps is not None:
        options.size = replace(options.size, steps=options.steps)
    return options


def main() -> None:
    """Train, measure, tell."""
    run_study(_NAME, parsed(), make, _keep, tell)


if __name__ == "__main__":
    main()
